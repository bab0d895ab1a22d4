"""The explorer as a researcher uses it: notebook 04 in JupyterLab, driven by mouse, keyboard and lasso."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from genrec_lab.lab import existing_run, explorer_state
from genrec_lab.lab.evaluate import ranked_users
from genrec_lab.viz.explorer import ExplorerState
from genrec_lab.viz.explorer.markup import script
from tests.browser.conftest import EVIL
from tests.browser.lab import NotebookPage

# The canvas with a script in place of plotly's that fails, and one figure to draw.
_BROKEN = """async script => {
  const {default: view} = await import(URL.createObjectURL(new Blob([script], {type: 'text/javascript'})));
  const loaded = globalThis.genrecPlotly;
  delete globalThis.genrecPlotly;
  const el = document.body.appendChild(document.createElement('div'));
  const parts = JSON.stringify([{figure: {data: [], layout: {}}, click: false, lasso: false}]);
  const values = {parts, config: {}, plotly: "throw new Error('no WebGL');"};
  const close = view.render({model: {get: name => values[name], on() {}, off() {}}, el});
  await new Promise(done => setTimeout(done, 500));
  const said = el.textContent;
  close();
  el.remove();
  globalThis.genrecPlotly = loaded;
  return said;
}"""


@pytest.fixture(scope="module")
def state(runs: Path) -> ExplorerState:
    """The same run, asked in Python."""
    return explorer_state(existing_run("shown", runs))


def heading(explorer: Locator) -> Locator:
    return explorer.locator(".genrec-head h4")


def finding(explorer: Locator) -> Locator:
    return explorer.locator(".genrec-finding b").first


def test_the_notebook_runs_without_a_complaint(notebook: NotebookPage) -> None:
    assert notebook.complaints == []
    assert notebook.page.locator(".genrec-explorer").count() == 3
    assert notebook.page.get_by_text("Error displaying widget").count() == 0


def test_no_figure_offers_to_be_uploaded_and_the_static_ones_do_not_either(
    notebook: NotebookPage, explorer: Locator
) -> None:
    explorer.locator(".js-plotly-plot").first.hover()
    expect(explorer.locator('.modebar-btn[data-title^="Download"]').first).to_be_attached()
    buttons = notebook.page.locator(".modebar-btn")
    titles = buttons.evaluate_all("all => all.map(one => one.dataset.title)")
    assert titles and not [title for title in titles if "Share" in title or "cloud" in title.lower()]


def test_a_figure_that_cannot_be_drawn_says_so_in_its_place(
    notebook: NotebookPage, explorer: Locator
) -> None:
    said = notebook.page.evaluate(_BROKEN, script("canvas.js"))
    assert said == "This figure cannot be drawn here: no WebGL"


def test_drilling_down_two_levels_and_back(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    state.select(prefix=(), domain=None, item=None)
    first = int(np.argsort(-state.children().sizes, kind="stable")[0])
    state.select(prefix=(first,))
    second = int(np.argsort(-state.children().sizes, kind="stable")[0])
    notebook.click_bar(explorer)
    expect(heading(explorer)).to_have_text(f"Prefix {first}")
    expect(finding(explorer)).to_contain_text(f"Below {first},")
    notebook.shoot(explorer, screenshots / "codes_below_1280_light.png")
    notebook.wide(1280, 1000)
    explorer.scroll_into_view_if_needed()
    notebook.click_bar(explorer)
    expect(heading(explorer)).to_have_text(f"Prefix {first} › {second}")
    explorer.get_by_title("back", exact=True).click()
    expect(heading(explorer)).to_have_text(f"Prefix {first}")
    explorer.get_by_title("forward", exact=True).click()
    expect(heading(explorer)).to_have_text(f"Prefix {first} › {second}")


def test_going_down_by_keyboard_alone(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState
) -> None:
    state.select(prefix=(), domain=None, item=None)
    largest = int(np.argsort(-state.children().sizes, kind="stable")[0])
    below = explorer.locator("select").filter(has_text="go down to")
    below.focus()
    notebook.page.keyboard.press("ArrowDown")
    expect(heading(explorer)).to_have_text(f"Prefix {largest}")
    card = explorer.locator(".genrec-card").first
    title = card.locator(".genrec-title").inner_text()
    card.focus()
    notebook.page.keyboard.press("Enter")
    expect(explorer.locator(".genrec-chosen .genrec-title")).to_have_text(title)


def test_searching_a_title_and_opening_a_hit(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    word = state.catalogue.titles[7].split()[-1]
    found = state.search(word)
    field = explorer.get_by_placeholder("a part of a title")
    field.fill(word)
    field.press("Enter")
    expect(explorer.locator(".genrec-said")).to_have_text(str(found))
    item = int(found.items[0])
    hits = explorer.locator("select").filter(has_text=state.catalogue.cards([item])["codes"][0]).last
    hits.select_option(index=0)
    prefix = " › ".join(map(str, state.catalogue.codes.codes[item].tolist()))
    expect(heading(explorer)).to_have_text(f"Prefix {prefix}")
    expect(explorer.locator(".genrec-chosen .genrec-title")).to_have_text(state.catalogue.titles[item])
    notebook.shoot(explorer, screenshots / "search_1280_light.png")


def test_switching_the_level_moves_the_map(
    notebook: NotebookPage, explorer: Locator, screenshots: Path
) -> None:
    notebook.open_tab(explorer, "Map")
    expect(finding(explorer)).to_have_text("Residuals of level 1, all items by domain")
    explorer.locator("select").filter(has_text="level 3").select_option("level 3")
    expect(finding(explorer)).to_have_text("Residuals of level 3, all items by domain")
    notebook.shoot(explorer, screenshots / "map_1920_light.png", 1920)


def test_a_lasso_gathers_items_that_are_kept_as_a_slice(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    notebook.open_tab(explorer, "Map")
    notebook.lasso(explorer, 0.25)
    expect(heading(explorer)).to_have_text("In the lasso")
    said = explorer.locator(".genrec-head p").first.inner_text()
    gathered = int(re.match(r"(\d+) items?", said).group(1))  # type: ignore[union-attr]
    assert 0 < gathered < state.catalogue.n_items
    explorer.get_by_placeholder("name of a slice").fill("middle <b>")
    explorer.get_by_placeholder("name of a slice").press("Tab")
    explorer.get_by_role("button", name="save slice").click()
    expect(explorer.get_by_text(f"{gathered} items kept as “middle <b>”.")).to_be_visible()
    notebook.shoot(explorer, screenshots / "lasso_1280_light.png")
    kept = np.array(state.load_slice("middle <b>").items)
    assert kept.size == gathered
    explorer.get_by_role("button", name="code", exact=True).click()
    python = explorer.locator("pre").inner_text()
    assert f"state.panel('items', items={tuple(kept.tolist())!r})" in python
    explorer.locator("select").filter(has_text="open a slice").select_option("middle <b>")
    expect(heading(explorer)).to_have_text("Slice “middle <b>”")


def test_a_code_page_with_pictures(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    notebook.click_bar(explorer, 1)
    expect(heading(explorer)).not_to_have_text("All items")
    notebook.open_tab(explorer, "Page")
    code = int(heading(explorer).inner_text().removeprefix("Prefix "))
    page = state.page(0, code, top=5)
    assert page is not None
    expect(finding(explorer)).to_contain_text(f"Prefix {code} has {page.support} items")
    expect(explorer.locator("table tr")).to_have_count(1 + page.frame().drop_nulls("part").height)
    pictures = explorer.locator("img.genrec-picture")
    assert pictures.count() == explorer.locator(".genrec-card").count() <= 12
    assert pictures.first.evaluate("e => e.complete && e.naturalWidth > 40")
    notebook.shoot(explorer, screenshots / "page_1920_light.png", 1920)


def test_the_dark_is_dark_throughout(notebook: NotebookPage, explorer: Locator, screenshots: Path) -> None:
    notebook.click_bar(explorer)
    explorer.get_by_title("dark or light").click()
    expect(explorer).to_have_class(re.compile("genrec-dark"))
    background = explorer.evaluate("e => getComputedStyle(e).backgroundColor")
    assert background == "rgb(20, 24, 29)"
    for tab, width in {"Codes": 1920, "Page": 1280, "Sharing": 1280, "Exposure": 1920}.items():
        notebook.open_tab(explorer, tab)
        expect(explorer.locator(".js-plotly-plot, table").first).to_be_visible()
        papers = explorer.locator(".js-plotly-plot .main-svg:first-child").evaluate_all(
            "all => all.map(e => e.style.backgroundColor || e.style.background)"
        )
        assert set(papers) <= {background}
        notebook.shoot(explorer, screenshots / f"{tab.lower()}_{width}_dark.png", width)
    explorer.get_by_title("dark or light").click()
    expect(explorer).to_have_class(re.compile("genrec-light"))


def test_a_beam_is_watched(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, runs: Path, screenshots: Path
) -> None:
    notebook.open_tab(explorer, "Beam")
    expect(explorer.get_by_text("No beam was watched")).to_be_visible()
    explorer.get_by_role("button", name="watch").click()
    expect(explorer.locator(".js-plotly-plot")).to_have_count(1)
    user = ranked_users(existing_run("shown", runs)).row(0, named=True)
    parts = explorer.locator(".genrec-side h5")
    expect(parts).to_have_text(["History, oldest first", "What they took next", "What the beam recommends"])
    titles = state.catalogue.titles
    history = explorer.locator(".genrec-grid").nth(0).locator(".genrec-title")
    expect(history).to_have_text([titles[item] for item in user["history"][-8:]])
    expect(explorer.locator(".genrec-grid").nth(1).locator(".genrec-title")).to_have_text(
        titles[user["target"]]
    )
    assert explorer.locator(".genrec-grid").nth(2).locator("img.genrec-picture").count() >= 5
    notebook.shoot(explorer, screenshots / "beam_1280_light.png")
    notebook.shoot(explorer, screenshots / "beam_1920_light.png", 1920)


def test_all_items_are_written_for_embedding_atlas(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, runs: Path
) -> None:
    explorer.get_by_role("button", name="atlas", exact=True).click()
    expect(explorer.get_by_text(f"{state.catalogue.n_items} items written")).to_be_visible()
    expect(explorer.locator("pre")).to_contain_text("--text title --x x --y y")
    frame = pl.read_parquet(runs / "shown" / "exports" / "embedding_atlas.parquet")
    assert frame["title"].to_list() == state.catalogue.titles.to_list()
    assert all(Path(picture).is_file() for picture in frame["picture"])


def test_figures_of_a_tab_are_saved_as_pictures(
    notebook: NotebookPage, explorer: Locator, runs: Path
) -> None:
    notebook.open_tab(explorer, "Codes")
    explorer.get_by_role("button", name="PNG", exact=True).click()
    expect(explorer.get_by_text("Written: ")).to_be_visible(timeout=120_000)
    with Image.open(runs / "shown" / "exports" / "codes_1.png") as picture:
        assert picture.format == "PNG" and min(picture.size) >= 600


def test_the_training_tab_shows_how_many_codes_changed(
    notebook: NotebookPage, explorer: Locator, screenshots: Path
) -> None:
    notebook.open_tab(explorer, "Training")
    expect(explorer.locator(".js-plotly-plot").first).to_contain_text("Items whose code changed")
    notebook.shoot(explorer, screenshots / "training_1280_light.png")


def test_the_csv_is_downloaded(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, tmp_path: Path
) -> None:
    state.select(prefix=(), domain=None, item=None)
    explorer.get_by_role("button", name="CSV").click()
    with notebook.page.expect_download() as download:
        explorer.get_by_role("link", name="children.csv").click()
    download.value.save_as(tmp_path / "children.csv")
    assert (tmp_path / "children.csv").read_text(encoding="utf-8") == state.panel("children").csv()
    assert pl.read_csv(tmp_path / "children.csv")["items"].sum() == state.catalogue.n_items


def test_two_runs_are_compared(notebook: NotebookPage, screenshots: Path) -> None:
    compared = notebook.explorer(1)
    compared.scroll_into_view_if_needed()
    notebook.open_tab(compared, "Compare")
    expect(finding(compared)).to_contain_text("agree most at level")
    expect(compared.locator(".js-plotly-plot, table").first).to_be_visible()
    notebook.shoot(compared, screenshots / "compare_1280_light.png")


def test_titles_full_of_markup_stay_text(notebook: NotebookPage, screenshots: Path) -> None:
    evil = notebook.explorer(2)
    evil.scroll_into_view_if_needed()
    expect(evil.locator(".genrec-title").first).to_contain_text(EVIL[:40])
    for tab in ("Codes", "Page", "Map", "Sharing", "Collisions", "Training", "Compare", "Exposure"):
        notebook.open_tab(evil, tab)
    notebook.open_tab(evil, "Codes")
    evil.locator(".genrec-card").first.click()
    expect(heading(evil)).to_have_text("Prefix 0 › 0")
    notebook.open_tab(evil, "Page")
    notebook.shoot(evil, screenshots / "markup_1280_light.png")
    assert evil.locator("img").count() == 0
    assert notebook.page.locator('img[src="x"]').count() == 0
    assert notebook.complaints == []
    inside = evil.bounding_box()
    assert inside is not None and inside["width"] <= 1280
    assert evil.evaluate("e => e.scrollWidth - e.clientWidth") <= 0
