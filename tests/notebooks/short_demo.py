"""Plugin of pytest with which nbval runs the notebooks on a short demo, in kernels forked from one process.

The run that they open has fewer items, users and epochs than the demo's: as many as each step needs to have
something to show.
"""

from genrec_lab.lab.chain import _kernel_server
from genrec_lab.lab.kernel import ForkedKernel
from genrec_lab.lab.store import DEMO, open_run

DATASET = DEMO["dataset"] | {"items": 450, "users": 900}
FEW_EPOCHS = {
    "tokenizer.epochs": 20,
    "training.epochs": 2,
    "training.least_steps": 0,
    "adaptation.training.epochs": 1,
    "rows.sasrec.training.epochs": 3,
    "rows.sasrec.training.least_steps": 0,
}


def pytest_configure() -> None:
    open_run("demo", dataset=DATASET, overrides=FEW_EPOCHS)
    import nbval.kernel  # after genrec_lab, which spares it the seconds of an import

    ForkedKernel.server = _kernel_server()
    nbval.kernel.KernelManager = ForkedKernel


def pytest_unconfigure() -> None:
    if ForkedKernel.server is not None:
        ForkedKernel.server.close()
