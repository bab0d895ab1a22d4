"""Figures and explorer views are open: what a stranger registers is found and shown as ours are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest

from genrec_lab.registry import RegistryError
from genrec_lab.viz import figures, theme
from genrec_lab.viz.explorer import (
    EXPLORER_VIEWS,
    CodedCatalogue,
    ExplorerState,
    Shown,
    answers,
    register_explorer_view,
)
from genrec_lab.viz.explorer.widget import Explorer

Make = Callable[..., CodedCatalogue]
OURS = ("Sharing", "Collisions", "Recommender", "Exposure", "Compare", "Training", "Remedies")


@pytest.fixture(autouse=True)
def _registries_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (EXPLORER_VIEWS, figures.FIGURES):
        monkeypatch.setattr(registry, "_components", dict(registry._components))


@pytest.mark.parametrize("registry", [EXPLORER_VIEWS, figures.FIGURES], ids=lambda one: one.noun)
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


def asked(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, act: str, **content: object
) -> dict[str, dict]:
    """What the page is sent when it asks, by kind."""
    sent: dict[str, dict] = {}
    monkeypatch.setattr(explorer, "send", lambda one, buffers=None: sent.update({one["kind"]: one}))
    explorer.handle({"act": act, **content})
    return sent


def test_a_view_of_ones_own_is_a_further_tab_that_follows_the_selection(
    make_catalogue: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    @register_explorer_view("Lengths")
    def show_lengths(state: ExplorerState) -> Shown:
        titles = state.catalogue.titles.gather(state.items())
        frame = pl.DataFrame({"length": titles.str.len_chars()})
        bar = go.Bar(x=frame["length"].to_numpy(), ids=["0", "1"])
        return Shown([go.Figure(bar)], ["<b>lengths"], frame, click=lambda code: {"prefix": (int(code),)})

    explorer = Explorer(ExplorerState(make_catalogue(1, 60)))
    assert tuple(asked(explorer, monkeypatch, "start")["start"]["tabs"]) == (*OURS, "Lengths")
    tab = asked(explorer, monkeypatch, "tab", name="Lengths")["tab"]
    assert tab["said"] == ["<b>lengths"] and tab["parts"][0]["click"]
    tab = asked(explorer, monkeypatch, "theme", dark=True)["tab"]
    dark = theme.template("dark").layout.paper_bgcolor
    assert tab["parts"][0]["figure"]["layout"]["template"]["layout"]["paper_bgcolor"] == dark
    asked(explorer, monkeypatch, "mark", id="1")
    assert explorer.state.selection.prefix == (1,)
    content = asked(explorer, monkeypatch, "csv")["download"]
    items = np.flatnonzero(explorer.state.catalogue.codes.codes[:, 0] == 1)
    assert content["name"] == "lengths.csv" and len(content["text"].splitlines()) == 1 + items.size
    assert "state.numbers('Lengths')" in asked(explorer, monkeypatch, "python")["code"]["text"]


def test_a_view_that_fails_says_so_in_its_place(
    make_catalogue: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    @register_explorer_view("Broken")
    def broken(state: ExplorerState) -> Shown:
        raise ZeroDivisionError("no <items>")

    explorer = Explorer(ExplorerState(make_catalogue(1, 60)))
    tab = asked(explorer, monkeypatch, "tab", name="Broken")["tab"]
    assert tab["said"] == ["The view 'Broken' failed: ZeroDivisionError: no <items>"]
    assert asked(explorer, monkeypatch, "tab", name="Collisions")["tab"]["parts"]


def test_no_page_offers_to_upload_a_figure(make_catalogue: Make) -> None:
    for mode in ("light", "dark"):
        assert theme.CLOUD_BUTTON in theme.template(mode).layout.modebar.remove
    modebar = figures.levels_leave(
        np.ones(1), np.ones((2, 1)), ["a"] * 2, together=True
    ).layout.template.layout.modebar
    assert modebar.remove[-1] == theme.CLOUD_BUTTON
    assert answers.start(ExplorerState(make_catalogue(1, 60)))["config"]["showSendToCloud"] is False
