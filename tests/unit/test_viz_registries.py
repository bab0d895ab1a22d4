"""Figures and explorer views are open: what a stranger registers is found and shown as ours are."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest

from genrec_lab.registry import RegistryError
from genrec_lab.viz import figures, theme
from genrec_lab.viz.explorer import (
    EXPLORER_VIEWS,
    PANELS,
    CodedCatalogue,
    ExplorerState,
    Shown,
    register_explorer_view,
    register_panel,
)
from genrec_lab.viz.explorer.widget import Explorer

Make = Callable[..., CodedCatalogue]
OURS = ("Codes", "Page", "Map", "Sharing", "Collisions", "Training", "Compare", "Beam", "Exposure")


@pytest.fixture(autouse=True)
def _registries_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (EXPLORER_VIEWS, PANELS, figures.FIGURES):
        monkeypatch.setattr(registry, "_components", dict(registry._components))


@pytest.mark.parametrize("registry", [EXPLORER_VIEWS, PANELS, figures.FIGURES], ids=lambda one: one.noun)
def test_every_declared_name_is_found(registry) -> None:
    assert all(callable(registry.find(name)) for name in registry.names())


def test_a_figure_of_ones_own_is_found_by_its_name_and_no_name_is_taken_twice() -> None:
    @figures.register_figure("mine")
    def mine(values: list[float]) -> go.Figure:
        return go.Figure(go.Scatter(y=values))

    assert figures.FIGURES.find("mine") is mine
    assert list(figures.mine([1.0, 2.0]).data[0].y) == [1.0, 2.0]
    with pytest.raises(RegistryError, match="the figure 'code_usage' exists twice"):
        figures.register_figure("code_usage")(mine)
    with pytest.raises(AttributeError, match="no attribute 'code_usge'"):
        _ = figures.code_usge


def parts_of(explorer: Explorer) -> list[dict[str, object]]:
    return json.loads(explorer.canvas.parts)


def test_a_view_of_ones_own_is_a_further_tab_that_follows_the_selection(make_catalogue: Make) -> None:
    @register_panel("lengths")
    def lengths(state: ExplorerState) -> tuple[pl.DataFrame, str]:
        titles = state.catalogue.titles.gather(state.items())
        return pl.DataFrame({"length": titles.str.len_chars()}), ""

    @register_explorer_view("Lengths")
    def show_lengths(state: ExplorerState) -> Shown:
        frame = state.panel("lengths").frame
        bar = go.Bar(x=frame["length"].to_numpy(), ids=["0", "1"])
        return Shown([go.Figure(bar)], ["<b>lengths"], "lengths", click=lambda code: {"prefix": (int(code),)})

    explorer = Explorer(ExplorerState(make_catalogue(1, 60)))
    assert tuple(explorer.tab.options) == (*OURS, "Lengths")
    explorer.tab.value = "Lengths"
    words, finding, drawn = parts_of(explorer)
    assert "&lt;b&gt;lengths" in str(words["html"]) and "genrec-finding" in str(finding["html"])
    figure = drawn["figure"]
    dark = theme.template("dark").layout.paper_bgcolor
    assert isinstance(figure, dict) and drawn["click"] and not drawn["lasso"]
    explorer.dark.value = True
    assert parts_of(explorer)[2]["figure"]["layout"]["template"]["layout"]["paper_bgcolor"] == dark  # type: ignore[index]
    explorer.canvas._handle_custom_msg({"kind": "click", "ids": ["1"]}, [])
    assert explorer.state.selection.prefix == (1,)
    explorer.csv.click()
    content = base64.b64decode(explorer.export.value.split("base64,")[1].split('"')[0]).decode()
    items = np.flatnonzero(explorer.state.catalogue.codes.codes[:, 0] == 1)
    assert len(content.splitlines()) == 1 + items.size
    explorer.python.click()
    assert "state.panel(&#39;lengths&#39;)" in explorer.export.value


def test_a_view_that_fails_says_so_in_its_place(make_catalogue: Make) -> None:
    @register_explorer_view("Broken")
    def broken(state: ExplorerState) -> Shown:
        raise ZeroDivisionError("no <items>")

    explorer = Explorer(ExplorerState(make_catalogue(1, 60)))
    explorer.tab.value = "Broken"
    said = "The view &#39;Broken&#39; failed: ZeroDivisionError: no &lt;items&gt;"
    assert said in explorer.message.value and said in str(parts_of(explorer)[0]["html"])
    explorer.csv.click()
    assert "has no numbers to export" in explorer.message.value
    explorer.tab.value = "Codes"
    assert not explorer.message.value and "figure" in parts_of(explorer)[1]


def test_no_page_offers_to_upload_a_figure(make_catalogue: Make) -> None:
    for mode in ("light", "dark"):
        assert theme.CLOUD_BUTTON in theme.template(mode).layout.modebar.remove
    assert (
        figures.levels_leave(
            np.ones(1), np.ones((2, 1)), ["a"] * 2, together=True
        ).layout.template.layout.modebar.remove[-1]
        == theme.CLOUD_BUTTON
    )
    assert Explorer(ExplorerState(make_catalogue(1, 60))).canvas.config["showSendToCloud"] is False
