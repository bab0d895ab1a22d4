"""The explorer's widgets without a browser: clicks and controls move the selection, text stays text."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import plotly.graph_objects as go
import pytest

from genrec_lab.codes import ItemCodes
from genrec_lab.viz import theme
from genrec_lab.viz.explorer import CodedCatalogue, ExplorerState, RunRecords, beam_tree
from genrec_lab.viz.explorer.tabs import TABS
from genrec_lab.viz.explorer.view import ExplorerView

Make = Callable[..., CodedCatalogue]
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def view(make_catalogue: Make, tmp_path: Path) -> ExplorerView:
    lists = np.random.default_rng(0).integers(0, 60, (40, 5))
    epochs = {"all": [{"epoch": 1, "utilisation": [0.5] * 3}]}
    records = RunRecords(epochs, (4, 3, 5), None, {"gmc": lists}, tmp_path)
    state = ExplorerState(make_catalogue(1, 60), make_catalogue(2, 60), records=records)
    tree = beam_tree([[(1,)], [(1, 0)]], [[-1.0], [-2.0]], (1, 2))
    return ExplorerView(state, watch=lambda method, row: (tree, "again()"), methods=["gmc"])


def figures_of(view: ExplorerView) -> list[go.FigureWidget]:
    return [child for child in view.body.children if isinstance(child, go.FigureWidget)]


def click(view: ExplorerView, bar: int) -> None:
    """A click on a bar of the first figure, as plotly reports it."""
    trace = figures_of(view)[0].data[0]
    trace._dispatch_on_click(SimpleNamespace(point_inds=[bar]), None)


def test_a_click_on_a_bar_goes_down_and_the_path_comes_back(view: ExplorerView) -> None:
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


def test_controls_and_state_follow_each_other(view: ExplorerView) -> None:
    view.domain.value = "Kitchen"
    view.level.value = 2
    assert (view.state.selection.domain, view.state.selection.level) == ("Kitchen", 2)
    view.state.select(prefix=(1,), domain=None)
    assert (view.domain.label, view.level.value) == ("all domains", 1)


def test_search_lists_titles_and_opens_codes(view: ExplorerView) -> None:
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


@pytest.mark.parametrize("tab", list(TABS))
@pytest.mark.parametrize("prefix", [(), (1,), (1, 2, 3)])
def test_every_tab_shows_figures_or_says_why_not(
    view: ExplorerView, tab: str, prefix: tuple[int, ...]
) -> None:
    view.state.select(prefix=prefix)
    view.tab.value = tab
    assert view.body.children
    if tab in ("Map", "Beam"):
        assert not figures_of(view)
    view.csv.click()
    if link := re.search(r"base64,([^\"]+)", view.export.value):
        panel = view.state.panel(TABS[tab].panel)
        assert base64.b64decode(link[1]).decode() == panel.csv()
    else:
        assert view.message.value
    view.python.click()
    assert f"state.panel(&#x27;{TABS[tab].panel}&#x27;" in view.export.value


def test_a_beam_is_watched_and_slices_are_kept(view: ExplorerView) -> None:
    view.tab.value = "Beam"
    view.go.click()
    assert "again()" in view.state.panel("beam").python
    assert "target leaves the beam at level 2" in view.body.children[0].value
    view.state.select(prefix=(1,))
    view.slice_name.value = EVIL
    view.keep.click()
    assert view.state.slice_names() == [EVIL]
    assert "<script" not in view.export.value
    view.slice_name.value = " "
    view.keep.click()
    assert "expected 1 to 200" in view.message.value


def test_dark_and_light(view: ExplorerView) -> None:
    view.dark.value = True
    dark = theme.template("dark").layout.paper_bgcolor
    assert figures_of(view)[0].layout.template.layout.paper_bgcolor == dark
    view.dark.value = False
    assert figures_of(view)[0].layout.template.layout.paper_bgcolor != dark


def test_tables_are_html_of_their_cells(view: ExplorerView) -> None:
    view.state.select(prefix=(1,))
    view.tab.value = "Page"
    page, table = view.state.page(), view.body.children[-1].value
    assert page is not None
    shown = page.frame().drop_nulls("part")
    assert table.count("<tr>") == shown.height + 1
    assert re.findall(r"<td[^>]*>(nearest|median|farthest)</td>", table) == shown["part"].to_list()


def test_names_are_escaped_wherever_they_stand() -> None:
    catalogue = CodedCatalogue(EVIL, ItemCodes([[0], [1]], (2,), [EVIL, "b"]), [EVIL, "b"])
    view = ExplorerView(ExplorerState(catalogue))
    for tab in TABS:
        view.tab.value = tab
        shown = [view.name.value, view.message.value]
        shown += [child.value for child in view.body.children if hasattr(child, "value")]
        assert not any("<script" in text for text in shown)
    view.watch("x", 0)
    assert "no recommender" in view.message.value
