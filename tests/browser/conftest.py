"""A small run with pictures and maps, and notebook 04 of it in a real browser, run once for all tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import pytest
from joblib import parallel_config
from playwright.sync_api import Browser, Locator, sync_playwright

from docs.crawl import FLAGS
from genrec_lab.lab import (
    Run,
    adapt_to_domains,
    map_residuals,
    open_run,
    prepare_data,
    rank_test_users,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.viz.projection import Projection, project_residuals
from tests.browser.lab import REPOSITORY, Lab, NotebookPage, served

NOTEBOOK = "04_codebook_explorer.ipynb"
SCREENSHOTS = REPOSITORY / "build" / "screenshots"
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script> 🪑 كرسي " + "long " * 2_000

COMPARED = """from genrec_lab.lab import existing_run
explore(lab, existing_run("again"))"""
UNTRUSTED = f"""from genrec_lab.codes import ItemCodes
from genrec_lab.viz.explorer import CodedCatalogue, ExplorerState
from genrec_lab.viz.explorer.widget import Explorer
evil = {EVIL!r}
codes = ItemCodes([[0, 0], [0, 1], [1, 0]], (2, 2), [evil, evil, evil + "b"])
Explorer(ExplorerState(CodedCatalogue(evil, codes, [evil, "plain", ""])))"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here, and run it in the order of the file: the page is shared."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two runs of the same items: "shown", with everything, and "again", of fewer codes."""
    root = tmp_path_factory.mktemp("browser_runs")
    shown, again = small_run(root, "shown"), small_run(root, "again", {"tokenizer.codebook_size": 8})
    for run in (shown, again):
        prepare_data(run)
        train_tokenizers(run)
    map_quickly(shown)
    for stage in (train_recommenders, adapt_to_domains, rank_test_users):
        stage(shown)
    return root


def small_run(root: Path, name: str, overrides: dict[str, object] | None = None) -> Run:
    """A run of 300 items with pictures, of the tiny preset alone."""
    dataset = {"name": "bazaar", "items": 300, "users": 300, "images": str(root / "pictures")}
    chosen = {"compare": [], "tokenizer.epochs": 8, **(overrides or {})}
    return open_run(name, dataset=dataset, preset="gmc_tiny", overrides=chosen, root=root)


def map_quickly(run: Run) -> None:
    """What stage 03 writes, without the half minute of UMAP's compiler: t-SNE stands in for it."""

    def quick(*given: Any, **named: Any) -> Projection:
        return project_residuals(*given, **{**named, "method": "tsne", "size": 240})

    with mock.patch("genrec_lab.lab.explore.project_residuals", quick), parallel_config(backend="sequential"):
        map_residuals(run)


@pytest.fixture(scope="module")
def lab(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on a copy of notebook 04 that opens the small run, two runs, and titles full of markup."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.read(REPOSITORY / "notebooks" / NOTEBOOK, as_version=4)
    run = small_run(runs, "shown")
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = "\n".join(
        f"{name} = {value!r}" for name, value in {"run": run.name, **run.parameters}.items()
    )
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in (COMPARED, UNTRUSTED)]
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / NOTEBOOK)
    with served(folder, runs) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def notebook(lab: Lab, browser: Browser) -> Iterator[NotebookPage]:
    """Notebook 04 with all its cells run."""
    page = NotebookPage(browser, lab, NOTEBOOK)
    page.run_all()
    yield page
    page.close()


@pytest.fixture
def explorer(notebook: NotebookPage) -> Locator:
    """The explorer of the run, light, no view open, with nothing selected."""
    notebook.wide(1280, 800)
    opened = notebook.explorer()
    opened.scroll_into_view_if_needed()
    notebook.start_over(opened)
    return opened


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Folder, out of git, in which every test leaves what it saw."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS
