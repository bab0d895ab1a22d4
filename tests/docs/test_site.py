"""The site is built without running anything and works in a browser without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_output

from docs.pages import PLOTLY, WIDGET
from genrec_lab.codes import ItemCodes
from genrec_lab.viz.explorer import CodedCatalogue, ExplorerState
from genrec_lab.viz.explorer.html_file import write_html

REPOSITORY = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("chromium") is None and os.environ.get("GENREC_BROWSER") != "1",
        reason="there is no chromium on the path",
    ),
]
SHOWN = {
    "01_data_preparation": [go.Figure(go.Bar(y=[1, 2])), go.Figure(go.Heatmap(z=[[1, 2], [3, 4]]))],
    "03_residual_atlas": [go.Figure(go.Scattergl(x=[1, 2], y=[1, 2], mode="markers"))],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, with outputs in some of its notebooks and an explorer of random codes."""
    folder = tmp_path_factory.mktemp("site")
    for name, figures in SHOWN.items():
        executed = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
        cells = [cell for cell in executed.cells if cell.cell_type == "code"][2:]
        for cell, figure in zip(cells, figures, strict=False):
            cell.outputs = [new_output("display_data", {PLOTLY: figure.to_plotly_json()})]
        nbformat.write(executed, folder / f"{name}.ipynb")
    executed = nbformat.read(REPOSITORY / "notebooks" / "04_codebook_explorer.ipynb", as_version=4)
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    code[2].outputs = [new_output("display_data", {WIDGET: {}})]
    nbformat.write(executed, folder / "04_codebook_explorer.ipynb")
    random = np.random.default_rng(0).integers(0, 4, (60, 2))
    codes = ItemCodes(random, (4, 4), ["Shop"] * 60)
    state = ExplorerState(CodedCatalogue("small", codes, [f"lamp {place}" for place in range(60)]))
    explorer = write_html(state, folder / "explorer.html")
    out = REPOSITORY / "build" / "tested_site"
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-c", "docs"]
    command += [
        "-d",
        folder / "doctrees",
        "-D",
        f"genrec_notebooks={folder}",
        "-D",
        f"genrec_explorer={explorer}",
    ]
    shutil.rmtree(out, ignore_errors=True)
    built = subprocess.run([*command, ".", out], cwd=REPOSITORY, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out


def crawl(site: Path) -> list[str]:
    """What `python -m docs.crawl` prints; in a process of its own, since other tests have a browser open."""
    command = [sys.executable, "-m", "docs.crawl", site]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    lines = answer.stdout.splitlines()
    assert lines, answer.stderr
    assert answer.returncode == (0 if lines == [f"{site}: nothing is broken."] else 1)
    return lines


def test_no_link_is_dead_no_figure_empty_and_nothing_comes_from_the_web(site: Path) -> None:
    assert crawl(site) == [f"{site}: nothing is broken."]
    page = (site / "notebooks" / "01_data_preparation.html").read_text(encoding="utf-8")
    assert page.count('class="drawing"') == 2
    for name in ("docs/explorer", "notebooks/04_codebook_explorer"):
        assert "<iframe" in (site / f"{name}.html").read_text(encoding="utf-8")


BROKEN = {
    '<a href="nowhere.html">x</a>': "page.html: nowhere.html leads nowhere",
    '<a href="#gone">x</a>': "page.html: #gone names a place that is not on the page",
    '<script src="https://cdn.example/x.js"></script>': "https://cdn.example/x.js is fetched from the web",
    "<script>console.error('bad')</script>": "page.html: console: bad",
    "<script>throw new Error('worse')</script>": "page.html: worse",
    '<div class="drawing" data-figure="one"></div>': "page.html: figure one stays empty",
    '<span class="math">x^2</span>': "page.html: x^2 stays empty",
    '<img src="page.html">': "stays empty",
    '<iframe src="empty.html"></iframe>': "stays empty",
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "empty.html").write_text("<!doctype html><title>empty</title>")
    (folder / "page.html").write_text("<!doctype html><title>page</title>" + "".join(BROKEN))
    return crawl(folder)


@pytest.mark.parametrize("planted", BROKEN)
def test_what_is_broken_is_found(complaints: list[str], planted: str) -> None:
    assert any(BROKEN[planted] in line for line in complaints), complaints
