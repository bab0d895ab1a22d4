"""The explorer's widgets without a browser: clicks and controls move the selection, text stays text."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comm
import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from genrec_lab.codes import ItemCodes
from genrec_lab.viz import theme
from genrec_lab.viz.explorer import (
    EXPLORER_VIEWS,
    CodedCatalogue,
    ExplorerState,
    RunRecords,
    Told,
    beam_tree,
)
from genrec_lab.viz.explorer.widget import Explorer
from genrec_lab.viz.projection import Projection

Make = Callable[..., CodedCatalogue]
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def view(make_catalogue: Make, tmp_path: Path) -> Explorer:
    lists = np.random.default_rng(0).integers(0, 60, (40, 5))
    epochs = {"all": [{"epoch": 1, "utilisation": [0.5] * 3}]}
    records = RunRecords(epochs, (4, 3, 5), None, {"gmc": lists}, tmp_path)
    state = ExplorerState(make_catalogue(1, 60), make_catalogue(2, 60), records=records)
    tree = beam_tree([[(1,)], [(1, 0)]], [[-1.0], [-2.0]], (1, 2))
    return Explorer(state, watch=lambda method, row: (tree, "again()"), methods=["gmc"])


def parts_of(view: Explorer) -> list[dict[str, Any]]:
    """What the page is told to show."""
    return json.loads(view.canvas.parts)


def figures_of(view: Explorer) -> list[dict[str, Any]]:
    return [part["figure"] for part in parts_of(view) if "figure" in part]


def written_in(view: Explorer) -> str:
    return "".join(part.get("html", "") for part in parts_of(view))


def told(view: Explorer, widget: str, **content: Any) -> None:
    """A message of the page to one of the widgets, as it arrives."""
    getattr(view, widget)._handle_custom_msg(content, [])


def click(view: Explorer, bar: int) -> None:
    """A click on a bar of the first figure, as the page reports it."""
    told(view, "canvas", kind="click", ids=[figures_of(view)[0]["data"][0]["ids"][bar]])


def test_a_click_on_a_bar_goes_down_and_the_path_comes_back(view: Explorer) -> None:
    children = view.state.children()
    assert children is not None
    largest = int(np.argsort(-children.sizes, kind="stable")[0])
    click(view, 0)
    assert view.state.selection.prefix == (largest,)
    click(view, 0)
    assert len(view.state.selection.prefix) == 2
    assert [button.description for button in view.path.children][:2] == ["All", str(largest)]
    view.path.children[1].click()
    assert view.state.selection.prefix == (largest,)
    view.back.click()
    assert len(view.state.selection.prefix) == 2
    view.back.click(), view.back.click()
    assert view.state.selection.prefix == () and view.back.disabled and not view.forward.disabled


def test_controls_and_state_follow_each_other(view: Explorer) -> None:
    view.domain.value = "Kitchen"
    view.level.value = 2
    assert (view.state.selection.domain, view.state.selection.level) == ("Kitchen", 2)
    view.state.select(prefix=(1,), domain=None)
    assert (view.domain.label, view.level.value) == ("all domains", 1)


def test_search_lists_titles_and_opens_codes(view: Explorer) -> None:
    view.search.value = "oak"
    assert "titles hold “oak”" in view.message.value
    label, item = view.hits.options[0]
    assert "oak" in label
    view.hits.value = item
    assert view.state.selection.item == item
    prefix = tuple(view.state.catalogue.codes.codes[3, :2].tolist())
    view.search.value = f"{prefix[0]} › {prefix[1]} › *"
    assert view.state.selection.prefix == prefix
    view.search.value = EVIL
    assert "&lt;script" in view.message.value and "<script" not in view.message.value


@pytest.mark.parametrize("tab", list(EXPLORER_VIEWS))
@pytest.mark.parametrize("prefix", [(), (1,), (1, 2, 3)])
def test_every_tab_shows_figures_or_says_why_not(view: Explorer, tab: str, prefix: tuple[int, ...]) -> None:
    view.state.select(prefix=prefix)
    view.tab.value = tab
    assert parts_of(view)
    if tab in ("Map", "Beam"):
        assert not figures_of(view)
    view.csv.click()
    if link := re.search(r"base64,([^\"]+)", view.export.value):
        panel = view.state.panel(view.shown.panel)
        assert base64.b64decode(link[1]).decode() == panel.csv()
    else:
        assert view.message.value
    view.python.click()
    assert f"state.panel(&#39;{view.shown.panel}&#39;" in view.export.value


def test_a_beam_is_watched_and_slices_are_kept(view: Explorer) -> None:
    view.tab.value = "Beam"
    view.go.click()
    assert "again()" in view.state.panel("beam").python
    assert "target leaves the beam at level 2" in written_in(view)
    view.state.select(prefix=(1,))
    view.slice_name.value = EVIL
    view.keep.click()
    assert view.state.slice_names() == [EVIL]
    assert "<script" not in view.export.value
    view.slice_name.value = " "
    view.keep.click()
    assert "expected 1 to 200" in view.message.value


def test_beside_the_beam_stand_the_history_the_target_and_the_results_as_cards(make_catalogue: Make) -> None:
    tree = beam_tree([[(1,), (2,)], [(1, 0), (2, 3)]], [[-1.0, -1.5], [-2.0, -3.0]], (2, 3))
    user = replace(tree, history=tuple(range(20, 32)), target_item=7, results=(4, 7))
    view = Explorer(ExplorerState(make_catalogue(1, 60)), watch=lambda *_: (user, ""), methods=["gmc"])
    view.tab.value = "Beam"
    assert view.cards.heading == "All items"
    view.go.click()
    shown = [(card["part"], card["item"]) for card in view.cards.cards]
    assert shown[:8] == [("History, oldest first", item) for item in range(24, 32)]
    assert shown[8:] == [
        ("What they took next", 7),
        ("What the beam recommends", 4),
        ("What the beam recommends", 7),
    ]
    assert (
        "12 items, the last 8 shown. The target stays in the beam and ends at place 2." in view.cards.lines[0]
    )
    assert view.cards.cards[0]["note"].startswith("5 of 12 · ")
    assert view.cards.cards[-1]["note"].startswith("place 2, what they took · -3.00")
    titles = view.state.catalogue.cards([item for _, item in shown])
    for part in ("title", "codes"):
        assert [card[part] for card in view.cards.cards] == titles[part].to_list()
    told(view, "cards", item=4)
    assert view.state.selection.item == 4 and [card["chosen"] for card in view.cards.cards].count(True) == 1
    view.tab.value = "Codes"
    assert all("part" not in card for card in view.cards.cards)


def test_dark_and_light(view: Explorer) -> None:
    view.dark.value = True
    dark = theme.template("dark").layout.paper_bgcolor
    assert figures_of(view)[0]["layout"]["template"]["layout"]["paper_bgcolor"] == dark
    view.dark.value = False
    assert figures_of(view)[0]["layout"]["template"]["layout"]["paper_bgcolor"] != dark


def test_tables_are_html_of_their_cells(view: Explorer) -> None:
    view.state.select(prefix=(1,))
    view.tab.value = "Page"
    page, table = view.state.page(), parts_of(view)[-1]["html"]
    assert page is not None
    shown = page.frame().drop_nulls("part")
    assert table.count("<tr>") == shown.height + 1
    assert re.findall(r"<td[^>]*>(nearest|median|farthest)</td>", table) == shown["part"].to_list()


def test_the_theme_follows_the_page_unless_one_is_named(view: Explorer) -> None:
    view.cards.page_is_dark = True
    assert view.mode == "dark" and view._dom_classes[-1] == "genrec-dark"
    view.cards.page_is_dark = False
    assert view.mode == "light" and "genrec-dark" not in view._dom_classes
    fixed = Explorer(view.state, mode="light")
    fixed.cards.page_is_dark = True
    assert fixed.mode == "light"


def test_the_list_of_codes_below_is_a_way_down(view: Explorer) -> None:
    children = view.state.children()
    assert children is not None
    order = [code for _, code in view.down.options[1:]]
    assert order == [str(code) for code in np.argsort(-children.sizes, kind="stable") if children.sizes[code]]
    view.down.value = order[1]
    assert view.state.selection.prefix == (int(order[1]),)
    assert view.down.value == ""
    view.state.select(prefix=(1, 2, 3))
    assert view.down.disabled


def test_a_lasso_gathers_items_for_the_cards_the_csv_and_a_slice(view: Explorer) -> None:
    points = np.random.default_rng(0).normal(size=(60, 3, 2)).astype(np.float32)
    view.state.maps = {"t-SNE": Projection(points, np.arange(60), "tsne", 0, 60)}
    view.tab.value = "Map"
    traces = figures_of(view)[0]["data"]
    assert {trace["meta"] for trace in traces} == {"items"}
    sent = [base64.b64decode(trace["customdata"]["bdata"]) for trace in traces]
    kinds = [trace["customdata"]["dtype"] for trace in traces]
    items = np.concatenate([np.frombuffer(part, kind) for part, kind in zip(sent, kinds, strict=True)])
    assert sorted(items.tolist()) == list(range(60))
    told(view, "canvas", kind="lasso", ids=["7", "3", "41"])
    assert view.cards.heading == "In the lasso" and view.cards.lines[0].startswith("3 items")
    assert {card["item"] for card in view.cards.cards} == {3, 7, 41}
    view.csv.click()
    content = base64.b64decode(re.search(r"base64,([^\"]+)", view.export.value)[1]).decode()  # type: ignore[index]
    assert [line.split(",")[0] for line in content.splitlines()[1:]] == ["3", "7", "41"]
    view.slice_name.value = "three"
    view.keep.click()
    assert view.state.load_slice("three").items == (3, 7, 41)
    told(view, "canvas", kind="lasso", ids=[])
    assert view.cards.heading == "All items"
    view.slices.value = "three"
    assert view.cards.heading == "Slice “three”" and len(view.cards.cards) == 3
    told(view, "canvas", kind="click", ids=["41"])
    assert view.state.selection.item == 41 and view.state.selection.level == 0
    for nonsense in (
        None,
        {"kind": "lasso", "ids": ["x"]},
        {"kind": "lasso"},
        {"kind": "lasso", "ids": ["99"]},
    ):
        view.canvas._handle_custom_msg(nonsense, [])
    assert view.cards.heading.startswith("Prefix")


def test_cards_are_the_items_of_the_page_and_a_click_selects_one(view: Explorer) -> None:
    view.state.select(prefix=(1,))
    page = view.state.page(top=4)
    assert page is not None
    shown = [card["item"] for card in view.cards.cards]
    assert shown == [*page.nearest.tolist(), *page.median.tolist(), *page.farthest[::-1].tolist()]
    told(view, "cards", item=shown[2])
    assert view.state.selection.item == shown[2]
    assert [card["chosen"] for card in view.cards.cards] == [True] + [False] * (len(view.cards.cards) - 1)
    before = view.state.selection
    for nonsense in ({"item": "1"}, {"item": True}, {"item": 10**9}, [], "x"):
        view.cards._handle_custom_msg(nonsense, [])
    assert view.state.selection == before
    assert "expected 0..59" in view.message.value


def test_without_distances_the_most_visited_items_are_shown(make_catalogue: Make) -> None:
    codes = ItemCodes([[0, i % 3] for i in range(40)], (2, 3))
    traffic = np.random.default_rng(3).integers(0, 9, 40)
    view = Explorer(ExplorerState(CodedCatalogue("plain", codes, ["t"] * 40, traffic=traffic)))
    best = sorted(range(40), key=lambda item: (-traffic[item], item))
    assert [card["item"] for card in view.cards.cards] == best[:12]
    view.state.select(prefix=(0, 1))
    assert [card["item"] for card in view.cards.cards] == [item for item in best if item % 3 == 1][:12]
    view.state.select(prefix=(1,))
    assert view.cards.cards == [] and "no item has it here" in view.cards.lines[0]


def test_pictures_are_small_and_one_that_is_gone_is_left_out(tmp_path: Path) -> None:
    Image.new("RGBA", (900, 300), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [str(tmp_path / "clear.png"), str(tmp_path / "broken.png"), str(tmp_path / "gone.png"), None]
    codes = ItemCodes([[i] for i in range(4)], (4,))
    view = Explorer(ExplorerState(CodedCatalogue("pictures", codes, ["t"] * 4, images=files)))
    uris = [card["picture"] for card in view.cards.cards]
    assert uris[1:] == [None, None, None] and view.cards.pictured
    small = Image.open(io.BytesIO(base64.b64decode(uris[0].split(",")[1])))
    assert small.size == (112, 37)
    assert min(small.getpixel((50, 20))) > 250  # what was clear is white


def test_what_decoders_tell_stands_beside_the_code(make_catalogue: Make) -> None:
    asked: list[tuple[int, ...]] = []

    def decode(prefix: tuple[int, ...]) -> Told:
        asked.append(prefix)
        return Told(("oak", EVIL), np.zeros((8, 8, 3), dtype=np.float32))

    view = Explorer(ExplorerState(make_catalogue(1, 60), records=RunRecords(decode=decode)))
    assert view.cards.told == {} and asked == []
    view.state.select(prefix=(1,))
    view.tab.value = "Page"
    assert view.cards.told["words"] == f"Its decoder tells: oak, {EVIL}" and asked == [(1,)]
    drawn = Image.open(io.BytesIO(base64.b64decode(view.cards.told["picture"].split(",")[1])))
    assert drawn.size == (112, 112) and max(drawn.getpixel((9, 9))) < 6


def test_after_the_first_view_the_script_is_not_sent_again(
    make_catalogue: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    class Counted(comm.DummyComm):
        def publish_msg(self, msg_type: str, data: Any = None, *_: Any, **__: Any) -> None:
            sent.append(len(json.dumps(data)))

    monkeypatch.setattr(comm, "create_comm", lambda *given, **named: Counted(*given, **named))
    view = Explorer(ExplorerState(make_catalogue(1, 60)))
    assert sum(sent) < 6_000_000
    for tab in EXPLORER_VIEWS:
        sent.clear()
        view.tab.value = tab
        assert sum(sent) < 100_000


def test_where_no_kernel_is_the_first_view_is_a_table(view: Explorer) -> None:
    bundle = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    children = view.state.children()
    assert children is not None
    table = bundle["text/html"]
    assert table.count("<tr>") == 1 + int((children.sizes > 0).sum())
    assert "Run this cell" in table
    view.state.select(prefix=(1, 2, 3))
    assert "no code follows it" in view._repr_mimebundle_()["text/html"]


def test_names_are_escaped_wherever_they_stand() -> None:
    catalogue = CodedCatalogue(EVIL, ItemCodes([[0], [1]], (2,), [EVIL, "b"]), [EVIL, "b"])
    view = Explorer(ExplorerState(catalogue))
    for tab in EXPLORER_VIEWS:
        view.tab.value = tab
        shown = [view.name.value, view.message.value]
        shown += [written_in(view), view.cards.heading, *view.cards.lines]
        assert not any("<script" in text for text in shown)
    view.watch("x", 0)
    assert "no recommender" in view.message.value


def test_the_figures_of_a_tab_become_pictures_in_the_run(view: Explorer, tmp_path: Path, monkeypatch) -> None:
    drawn: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "to_image", lambda figure, **how: drawn.append(figure) or b"\x89PNG")
    view.tab.value = "Sharing"
    view.png.click()
    files = sorted((tmp_path / "exports").iterdir())
    assert [file.name for file in files] == [f"sharing_{n}.png" for n in range(1, len(drawn) + 1)] and drawn
    assert {file.read_bytes() for file in files} == {b"\x89PNG"}
    assert all(str(file) in view.export.value for file in files)
    assert drawn[0].layout.title.text  # a picture stands alone, so its title is in it


@pytest.mark.parametrize("error", [ValueError("kaleido"), RuntimeError("no Chrome\nsecond line"), OSError()])
def test_without_a_browser_it_says_what_a_picture_needs(
    view: Explorer, tmp_path: Path, monkeypatch, error: Exception
) -> None:
    def fail(figure: go.Figure, **how: Any) -> bytes:
        raise error

    monkeypatch.setattr(go.Figure, "to_image", fail)
    view.png.click()
    assert "pip install kaleido" in view.message.value and "BROWSER_PATH" in view.message.value
    assert "second line" not in view.message.value
    assert not list((tmp_path / "exports").iterdir())


def test_no_run_folder_no_picture(make_catalogue: Make) -> None:
    view = Explorer(ExplorerState(make_catalogue(1, 60)))
    view.png.click()
    assert "no run folder" in view.message.value
