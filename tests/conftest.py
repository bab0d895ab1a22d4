"""What all tests share: few threads, no network, a runs folder outside the repository, the real data sets."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.nightly import AT_NIGHT

REPOSITORY = Path(__file__).resolve().parents[1]

# Read once, when numpy, torch and polars are first imported, so set before any test module is. One thread
# each: small arrays gain nothing from more, several test processes share the cores, sums stay in one order.
# With one processor joblib starts no processes either, which would import everything once more.
for _variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A test that asked a model hub would pass or fail with the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Takes seconds to import, and nothing here needs it; see genrec_lab.viz.
sys.modules.setdefault("rfc3987_syntax", None)

# A busy machine is slow, not wrong; in CI the same examples are drawn every time.
settings.register_profile("genrec_lab", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("genrec_lab")


def _real_data_folder() -> tuple[Path | None, str]:
    """Return the folder with the real data sets, or None and why there is none."""
    named = os.environ.get("GENREC_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if folder.is_dir():
        return folder, ""
    if named:
        return None, f"GENREC_DATA names {named}, which is not a folder"
    return None, "the real data sets are not here: set GENREC_DATA to their folder"


# The files that take longest begin first, so that no process is left alone with one of them at the end.
_LONGEST = (
    "test_truth", "test_pipeline", "test_scale", "test_strangers", "test_site",
    "test_exercises", "test_demo", "test_universal", "test_command", "test_benchmarks",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every user of the `real_data` fixture; skip what carries the mark where there is no such data."""
    place = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    folder, reason = _real_data_folder()
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)
        if item.get_closest_marker("nightly") and not AT_NIGHT:
            item.add_marker(pytest.mark.skip(reason="it belongs to `make nightly` (GENREC_NIGHTLY=1)"))
        if folder is None and item.get_closest_marker("real_data"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Take what all test modules have loaded out of the search for garbage, which takes a second with it."""
    gc.freeze()


def _why_no_browser() -> str:
    """Why the tests in tests/browser cannot run here, or nothing where they can."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install -e '.[browser]'"
    if importlib.util.find_spec("jupyterlab") is None:
        return "JupyterLab is not installed: pip install -e '.[explore]'"
    if shutil.which("chromium") is None:
        return "there is no chromium on the path: on Debian or Ubuntu, apt install chromium"
    return ""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave tests/browser out where no browser is, unless GENREC_BROWSER=1 says that one must be."""
    browser = collection_path == REPOSITORY / "tests" / "browser"
    return True if browser and _why_no_browser() and os.environ.get("GENREC_BROWSER") != "1" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly at the end that no browser was driven; a skip would drown among the dots."""
    if reason := _why_no_browser():
        terminalreporter.section("NO BROWSER TESTS", sep="!", yellow=True, bold=True)
        terminalreporter.line(f"tests/browser was not run: {reason}", yellow=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data sets: GENREC_DATA, or else ../shared/data beside the repository."""
    folder, reason = _real_data_folder()
    return folder if folder is not None else pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _runs_outside_the_repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep a test that forgets to choose a runs folder from writing into the repository's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture
def runs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folder that GENREC_RUNS names for this test and the processes that it starts."""
    root = tmp_path / "runs"
    root.mkdir()
    monkeypatch.setenv("GENREC_RUNS", str(root))
    return root
