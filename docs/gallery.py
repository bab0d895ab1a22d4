"""Makes docs/gallery.md and its pictures from a run: `make gallery`, or `python -m docs.gallery [RUN]`.

The run, by default "gallery" of papermill_runs/gallery.yaml, must have gone through the whole chain; its data
should have pictures. Chromium draws the saved figures and the explorer as JupyterLab shows it. Pictures are
stored with a palette of 256 colours. Raises RuntimeError where the folder would pass 2 MB.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import plotly.io as pio
from PIL import Image
from playwright.sync_api import Browser, Locator, sync_playwright

from docs.crawl import FLAGS
from genrec_lab.lab import Run, existing_run
from tests.browser.lab import NotebookPage, served

FOLDER = Path(__file__).parent
PICTURES = FOLDER / "gallery"
MOST_BYTES = 2_000_000
WIDTH = 900

EXPLORER = {
    "screen": "**One screen.** All codes of a level, a map of every item, and the page of the selected code: "
    "words, coherence compared with chance, and examples at all distances.",
    "everywhere": "**A code under all its prefixes, in the dark theme.** Search for `* 4`; the grid shows "
    "the prefixes side by side.",
    "recommender": "**Recommender.** Where targets are lost, which codes are confused, and the beam of one "
    "user. Click a user to select the target.",
    "collisions": "**Collisions.** Items with the same codes, by group size and cause, and the "
    "codes that each conflict policy would give them.",
    "compare": "**Compare.** Two tokenizers of the same items: which codes are kept, merged, split or moved.",
}
"""Pictures of the explorer, in this order, and what to see in each."""

FIGURES = {
    "pictures": "**Items as a shopper sees them** (notebook 01). The generated data come with pictures.",
    "atlas_tsne": "**Residual atlas** (03). Colours are separate at level 1 and mix at later levels.",
    "residual_stepper": "**Residual stepper** (03). What each level subtracts; move the slider through the "
    "levels.",
    "code_usage": "**Code usage** (03). A bar with one colour belongs to one domain, a bar with several "
    "colours is shared.",
    "code_health": "**Code health** (02). Utilisation, perplexity and evenness of each level, by method.",
    "neighbour_overlap": "**Codes of nearby items** (03). Falling lines mean that nearby items share "
    "more codes.",
    "exposure_by_popularity": "**Exposure** (07). Which items are recommended: the head or the tail of the "
    "catalogue.",
}
"""Figures that the notebooks save in the run folder, and what to see in each."""


def main(name: str = "gallery") -> None:
    """Write the page and its pictures."""
    run = existing_run(name)
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        shoot_figures(browser, run)
        shoot_explorer(browser, run)
        browser.close()
    size = sum(file.stat().st_size for file in PICTURES.iterdir())
    if size > MOST_BYTES:
        raise RuntimeError(f"{PICTURES}: {size:,} bytes of pictures, at most {MOST_BYTES:,} are allowed")
    (FOLDER / "gallery.md").write_text(page(run), encoding="utf-8")
    print(f"{len(list(PICTURES.iterdir()))} pictures of {size / 1e6:.2f} MB in {PICTURES}")


def page(run: Run) -> str:
    """The gallery as markdown."""
    data = run.parameters["dataset"]
    lines = [
        "# Gallery",
        "",
        f"Pictures of a small run: {data['items']:,} items of the generated data, preset "
        f"`{run.parameters['preset']}`, seed {run.seed}. They show what the views look like; the results "
        "mean nothing. `make gallery` rebuilds this page.",
        "",
        "## The codebook explorer",
        "",
        "Open notebook 04, or call `explore(run)` in any cell. All views share one selection. `genrec "
        "explore` writes the explorer to a file that needs no kernel.",
        "",
    ]
    for name, text in EXPLORER.items():
        lines += [text, "", f"![{name}](gallery/explorer_{name}.png)", ""]
    lines += ["## Figures of the notebooks", ""]
    for name, text in FIGURES.items():
        lines += [text, "", f"![{name}](gallery/{name}.png)", ""]
    return "\n".join(lines)


def shoot_figures(browser: Browser, run: Run) -> None:
    """Draw the saved figures, each as wide as it is made for."""
    for name in FIGURES:
        figure = pio.from_json((run.folder / "figures" / f"{name}.json").read_text(encoding="utf-8"))
        opened = browser.new_page(viewport={"width": WIDTH + 40, "height": 900})
        options = {"displayModeBar": False}
        opened.set_content(figure.to_html(config=options, default_width=f"{WIDTH}px"))
        opened.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached", timeout=30_000)
        opened.wait_for_timeout(500)
        keep(opened.locator(".js-plotly-plot"), name)
        opened.close()


def shoot_explorer(browser: Browser, run: Run) -> None:
    """Open the explorer in JupyterLab, on the run and on two of its tokenizers, and walk through its tabs."""
    cell = (
        "from genrec_lab import existing_run, explore\n"
        f"explore(existing_run({run.name!r}), other_method='tiger')"
    )
    with tempfile.TemporaryDirectory() as folder:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        (Path(folder) / "notebooks").mkdir()
        nbformat.write(notebook, Path(folder) / "notebooks" / "gallery.ipynb")
        with served(Path(folder), run.folder.parent) as lab:
            opened = NotebookPage(browser, lab, "gallery.ipynb", width=1920, height=1000)
            opened.run_all()
            walk(opened)
            opened.close()


def walk(notebook: NotebookPage) -> None:
    """Take a picture of each tab, with something selected in it."""
    explorer = notebook.explorer()

    def shoot(name: str, width: int = 1280, height: int = 800) -> None:
        notebook.shoot(explorer, PICTURES / f"explorer_{name}.png", width, height)
        compress(PICTURES / f"explorer_{name}.png")

    notebook.settle()
    notebook.click_row(explorer)
    shoot("screen", 1920, 1080)
    for tab in ("Compare", "Collisions"):
        notebook.open_tab(explorer, tab)
        shoot(tab.lower())
    # Of all items: below one code there may be no test user.
    notebook.start_over(explorer)
    notebook.open_tab(explorer, "Recommender")
    users = explorer.locator(".genrec-tabpart").filter(has_text="Users by what they took next")
    users.locator(".genrec-tall .genrec-row").first.click()
    explorer.locator(".js-plotly-plot").wait_for()
    notebook.settle()
    shoot("recommender", 1920, 1080)
    notebook.start_over(explorer)
    explorer.get_by_label("search titles, attributes or codes").fill("* 4")
    explorer.locator(".genrec-hit").first.click()
    explorer.get_by_role("button", name="dark or light").click()
    notebook.settle()
    shoot("everywhere", 1280)


def keep(shown: Locator, name: str) -> None:
    """Store the picture of a figure."""
    file = PICTURES / f"{name}.png"
    shown.screenshot(path=file)
    compress(file)


def compress(file: Path) -> None:
    """Store a picture again with a palette of 256 colours, which drawings do not miss."""
    stored = io.BytesIO()
    with Image.open(file) as opened:
        opened.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(stored, "PNG", optimize=True)
    file.write_bytes(stored.getvalue())


if __name__ == "__main__":
    main(*sys.argv[1:])
