"""What the tests of runs share: runs of a small real preset, and processes that work on them too."""

import subprocess
import sys

import pytest

from genrec_lab import registry
from genrec_lab.lab import chain, making, store
from tests.pipeline.wheel import installed_wheel


@pytest.fixture(scope="session")
def genrec(tmp_path_factory):
    """The command of the wheel, installed once for all tests into an environment of its own."""
    return installed_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def kernel_server():
    """The process from which all chains fork their kernels, so that torch is imported once."""
    server = chain._kernel_server()
    yield server
    if server is not None:
        server.close()


@pytest.fixture(scope="module", autouse=True)
def _one_kernel_server(kernel_server):
    with pytest.MonkeyPatch.context() as patch:
        if kernel_server is not None:
            patch.setattr(chain, "_kernel_server", lambda: kernel_server)
            patch.setattr(kernel_server, "close", lambda: None)  # chains close it at their end
        yield


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens the run "demo" with some parameters changed."""
    monkeypatch.setattr(making, "_LOCK_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(registry, "_base", None)
    small = {"name": "bazaar", "domains": ["Garden"], "items": 300, "users": 450}

    def open_with(**changes):
        parameters = {"dataset": small, "preset": "gmc_tiny", "overrides": {}, "seed": 0, **changes}
        return store.open_run(parameters.pop("run", "demo"), root=tmp_path, change=True, **parameters)

    return open_with


@pytest.fixture
def run_in_process():
    """Start `python -c code`; what still runs at the end of the test is killed."""
    started = []

    def start(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
