"""The explorer as a researcher uses it: notebook 04 in JupyterLab, driven by mouse, keyboard and lasso."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import Locator, expect

from genrec_lab.lab import existing_run, explorer_state
from genrec_lab.viz.explorer import EXPLORER_VIEWS, ExplorerState
from tests.browser.conftest import EVIL
from tests.browser.lab import NotebookPage, fact, heading
from tests.browser.layout import beyond_the_edge, cut_texts, overlaps


@pytest.fixture(scope="module")
def state(runs: Path) -> ExplorerState:
    """The same run, asked in Python."""
    return explorer_state(existing_run("shown", runs))


def rows(explorer: Locator, part: str = "grid") -> Locator:
    return explorer.locator(f"[data-part={part}] .genrec-tall .genrec-row")


def test_the_notebook_runs_without_a_complaint(notebook: NotebookPage) -> None:
    expect(notebook.page.locator(".genrec-explorer .genrec-tall .genrec-row:first-child")).not_to_have_count(
        0
    )
    expect(notebook.page.locator(".genrec-explorer")).to_have_count(4)
    assert notebook.complaints == []
    assert notebook.page.get_by_text("Error displaying widget").count() == 0


def test_drilling_down_two_levels_and_back(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    codes = state.catalogue.codes.codes
    first, size = Counter(codes[:, 0].tolist()).most_common(1)[0]
    notebook.click_row(explorer)
    expect(heading(explorer)).to_have_text(f"Prefix {first}")
    expect(fact(explorer, "items")).to_have_text(str(size))
    below = Counter(codes[codes[:, 0] == first, 1].tolist())
    assert rows(explorer).first.locator(".genrec-number").nth(1).inner_text() == str(max(below.values()))
    notebook.shoot(explorer, screenshots / "code_1280_light.png")
    notebook.click_row(explorer)
    expect(heading(explorer)).to_contain_text(f"Prefix {first} › ")
    explorer.get_by_role("button", name="back", exact=True).click()
    expect(heading(explorer)).to_have_text(f"Prefix {first}")
    explorer.get_by_role("button", name="forward", exact=True).click()
    expect(heading(explorer)).to_contain_text(f"Prefix {first} › ")


def test_dead_and_rare_codes_are_found_by_a_filter(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState
) -> None:
    sizes = np.bincount(state.catalogue.codes.codes[:, 0], minlength=state.catalogue.codes.sizes[0])
    explorer.get_by_label("filter codes").fill("items < 20")
    expect(explorer.locator("[data-part=grid] .genrec-count")).to_have_text(
        f"{(sizes < 20).sum()} of {sizes.size}"
    )
    explorer.locator(".genrec-head").get_by_role("button", name="items").first.click()
    shown = [int(row.locator(".genrec-number").nth(1).inner_text()) for row in rows(explorer).all()]
    assert shown == sorted(shown) and shown == sorted(sizes[sizes < 20].tolist())[: len(shown)]
    explorer.get_by_label("filter codes").fill("")


def test_the_keyboard_alone_walks_the_codes(notebook: NotebookPage, explorer: Locator) -> None:
    explorer.get_by_role("grid", name="codes").focus()
    notebook.page.keyboard.press("ArrowDown")
    notebook.page.keyboard.press("Enter")
    notebook.settle()
    expect(heading(explorer)).to_contain_text("Prefix ")
    card = explorer.locator(".genrec-card").first
    title = card.locator(".genrec-title").inner_text()
    card.focus()
    notebook.page.keyboard.press("Enter")
    expect(explorer.locator(".genrec-page .genrec-chosen .genrec-title")).to_have_text(title)
    notebook.page.keyboard.press("Alt+ArrowLeft")
    expect(explorer.locator(".genrec-page .genrec-chosen")).to_have_count(0)


def test_a_search_opens_titles_and_a_code_under_all_prefixes(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    word = state.catalogue.titles[7].split()[-1]
    found = state.search(word)
    field = explorer.get_by_label("search titles, attributes or codes")
    field.fill(word)
    expect(explorer.locator("[data-part=hits] > div").first).to_have_text(str(found))
    notebook.page.keyboard.press("ArrowDown")
    notebook.page.keyboard.press("Enter")
    chosen = explorer.locator(".genrec-page .genrec-chosen .genrec-title")
    expect(chosen).to_have_text(state.catalogue.titles[int(found.items[0])])
    code = int(state.catalogue.codes.codes[7, 1])
    field.fill(f"* {code}")
    explorer.locator(".genrec-hit").filter(has_text="under any prefix").click()
    expect(heading(explorer)).to_have_text(f"Code {code} of level 2, under any prefix")
    members = np.flatnonzero(state.catalogue.codes.codes[:, 1] == code)
    expect(fact(explorer, "items")).to_have_text(str(members.size))
    prefixes = len({tuple(row) for row in state.catalogue.codes.codes[members, :2].tolist()})
    expect(explorer.locator("[data-part=grid] .genrec-count")).to_have_text(str(prefixes))
    notebook.shoot(explorer, screenshots / "everywhere_1280_light.png")


def test_a_point_of_the_map_is_an_item_and_a_lasso_gathers_some(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    assert explorer.locator(".genrec-mapnote").inner_text() == ""
    x, y = explorer.evaluate("(root, item) => root.genrecMap.where(item)", 7)
    notebook.page.mouse.move(x, y)
    expect(explorer.locator(".genrec-tip")).to_be_visible()
    told = explorer.locator(".genrec-tip .genrec-title").inner_text()
    notebook.page.mouse.click(x, y)
    notebook.settle()
    expect(explorer.locator(".genrec-page .genrec-chosen .genrec-title")).to_have_text(told)
    notebook.start_over(explorer)
    notebook.lasso(explorer, 0.25)
    expect(heading(explorer)).to_have_text("In the lasso")
    gathered = int(fact(explorer, "items").inner_text())
    assert 0 < gathered < state.catalogue.n_items
    notebook.open_tab(explorer, "Collisions")
    expect(fact(explorer, "items")).to_have_text(str(gathered))
    notebook.shoot(explorer, screenshots / "lasso_1920_light.png", 1920, 1080)
    explorer.get_by_role("button", name="slice", exact=True).click()
    explorer.get_by_label("name of the slice").fill("middle <b>")
    notebook.page.keyboard.press("Enter")
    expect(explorer.locator("[data-part=said]")).to_contain_text(f"{gathered} items kept as “middle <b>”")
    assert len(state.load_slice("middle <b>").items) == gathered


def test_colours_and_kinds_of_map_are_switched(notebook: NotebookPage, explorer: Locator) -> None:
    colour, kind = explorer.get_by_label("colour by"), explorer.get_by_label("kind of map")
    for by in ("domain", "popularity", "distance"):
        colour.select_option(by)
        notebook.settle()
        assert explorer.locator(".genrec-legend .genrec-chip").count() >= 3
    for method in ("UMAP", "by codes", "t-SNE"):
        kind.select_option(method)
        notebook.settle()
    assert explorer.locator("[data-part=said]").inner_text() == ""


def test_a_code_page_has_pictures_and_examples_by_distance(notebook: NotebookPage, explorer: Locator) -> None:
    notebook.click_row(explorer)
    pictures = explorer.locator(".genrec-page img.genrec-picture")
    assert 0 < pictures.count() <= 16
    pictures.first.scroll_into_view_if_needed()
    expect(pictures.first).to_have_js_property("complete", True)
    assert pictures.first.evaluate("e => e.naturalWidth > 40")
    names = explorer.locator(".genrec-section h4").all_inner_texts()
    assert [name for name in names if name.startswith("By distance")] and "Coherence" in names


def test_a_missed_user_leads_to_the_target_and_its_beam(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    notebook.open_tab(explorer, "Recommender")
    explorer.locator("[data-part=tab] select").nth(1).select_option("missed")
    notebook.settle()
    users = explorer.locator(".genrec-tabpart").filter(has_text="Users by what they took next")
    row = users.locator(".genrec-tall .genrec-row").first
    user = int(row.locator(".genrec-number").first.inner_text())
    row.click()
    notebook.settle()
    users_frame = state.records.users
    assert users_frame is not None
    title = state.catalogue.titles[int(users_frame["target"][user])]
    expect(explorer.locator(".genrec-page .genrec-chosen .genrec-title")).to_have_text(title)
    expect(explorer.locator("[data-part=tab] .js-plotly-plot")).to_have_count(1)
    notebook.shoot(explorer, screenshots / "recommender_1280_light.png")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_every_view_fits_both_sizes_and_themes(
    notebook: NotebookPage, explorer: Locator, screenshots: Path, width: int, height: int
) -> None:
    notebook.click_row(explorer)
    for mode in ("light", "dark"):
        expect(explorer).to_have_class(re.compile(f"genrec-{mode}"))
        for tab in EXPLORER_VIEWS:
            notebook.open_tab(explorer, tab)
            notebook.shoot(explorer, screenshots / f"{tab.lower()}_{width}_{mode}.png", width, height)
            assert overlaps(explorer) == [], tab
            assert cut_texts(explorer) == [], tab
            assert beyond_the_edge(explorer) == [], tab
            box = explorer.bounding_box()
            assert box is not None and box["height"] <= height - 100
            if width == 1920:
                codes = explorer.locator("[data-part=grid] .genrec-body")
                assert codes.evaluate("e => e.scrollWidth - e.clientWidth") <= 0, tab
        explorer.get_by_role("button", name="dark or light").click()
    assert notebook.complaints == []


def test_a_slow_machine_walks_down_and_back(notebook: NotebookPage, explorer: Locator) -> None:
    devtools = notebook.page.context.new_cdp_session(notebook.page)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": 8})
    try:
        notebook.click_row(explorer)
        first = heading(explorer).inner_text()
        notebook.click_row(explorer)
        expect(heading(explorer)).to_contain_text(f"{first} › ")
        notebook.open_tab(explorer, "Exposure")
        expect(explorer.locator("[data-part=tab] .js-plotly-plot")).to_have_count(1)
        assert overlaps(explorer) == [] and cut_texts(explorer) == [] and beyond_the_edge(explorer) == []
        explorer.get_by_role("button", name="back", exact=True).click()
        expect(heading(explorer)).to_have_text(first)
    finally:
        devtools.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    assert notebook.complaints == []


def test_the_scrubber_shows_the_codes_of_an_epoch_everywhere(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, screenshots: Path
) -> None:
    notebook.open_tab(explorer, "Training")
    scrubber, name = explorer.get_by_role("slider"), explorer.locator("[data-part=name]")
    scrubber.focus()
    notebook.page.keyboard.press("Home")
    first = min(state.codes_by_epoch)
    expect(name).to_contain_text(f"epoch {first}")
    notebook.settle()
    expect(scrubber).to_be_focused()
    counts = Counter(state.codes_by_epoch[first].codes[:, 0].tolist()).most_common(1)
    assert rows(explorer).first.locator(".genrec-number").nth(1).inner_text() == str(counts[0][1])
    assert cut_texts(explorer) == [] and overlaps(explorer) == []
    notebook.shoot(explorer, screenshots / "epoch_1280_light.png")
    table = explorer.locator(".genrec-tabpart").filter(has_text="that have their final code")
    table.locator(".genrec-tall .genrec-row").last.click()
    expect(name).not_to_contain_text("epoch")
    notebook.settle()
    final = Counter(state.final.codes.codes[:, 0].tolist()).most_common(1)
    assert rows(explorer).first.locator(".genrec-number").nth(1).inner_text() == str(final[0][1])
    assert explorer.locator("[data-part=said]").inner_text() == ""


def test_the_csv_is_downloaded(
    notebook: NotebookPage, explorer: Locator, state: ExplorerState, tmp_path: Path
) -> None:
    with notebook.page.expect_download() as download:
        explorer.get_by_role("button", name="CSV").click()
    download.value.save_as(tmp_path / "codes.csv")
    state.select(prefix=(), domain=None, item=None)
    written = state.numbers().write_csv(quote_style="non_numeric")
    assert (tmp_path / "codes.csv").read_text(encoding="utf-8") == written
    assert pl.read_csv(tmp_path / "codes.csv")["items"].sum() == state.catalogue.n_items


def test_two_runs_are_compared_and_a_split_code_is_opened(notebook: NotebookPage, screenshots: Path) -> None:
    compared = notebook.explorer(2)
    compared.scroll_into_view_if_needed()
    notebook.open_tab(compared, "Compare")
    part = compared.locator(".genrec-tabpart").filter(has_text="What became of the codes")
    row = part.locator(".genrec-tall .genrec-row").first
    code = row.locator(".genrec-number").first.inner_text()
    row.click()
    notebook.settle()
    expect(heading(compared)).to_have_text(f"Prefix {code}")
    notebook.shoot(compared, screenshots / "compare_1280_light.png")


def test_titles_full_of_markup_stay_text(notebook: NotebookPage, screenshots: Path) -> None:
    evil = notebook.explorer(3)
    evil.scroll_into_view_if_needed()
    expect(evil.locator(".genrec-page .genrec-title").first).to_contain_text(EVIL[:40])
    for tab in EXPLORER_VIEWS:
        notebook.open_tab(evil, tab)
    evil.locator(".genrec-card").first.click()
    notebook.settle()
    expect(heading(evil)).to_have_text("Prefix 0 › 0")
    notebook.shoot(evil, screenshots / "markup_1280_light.png")
    assert evil.locator("img").count() == 0
    assert notebook.page.locator('img[src="x"]').count() == 0
    assert notebook.complaints == []
    assert evil.evaluate("e => e.scrollWidth - e.clientWidth") <= 0
