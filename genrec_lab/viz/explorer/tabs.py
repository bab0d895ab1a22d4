"""What each tab of the explorer shows: twins of the selection, words where there is nothing, and clicks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz import figures
from genrec_lab.viz.explorer import panels
from genrec_lab.viz.explorer.state import ExplorerState
from genrec_lab.viz.layout import counted
from genrec_lab.viz.projection import Projection

Pick = dict[str, Any]
"""Fields of the selection that a click changes."""


@dataclass(frozen=True)
class Shown:
    """What a tab shows. said: lines of plain text. click: from a bar's id to what it selects, or None.

    lasso: whether the ids are items, which a lasso may gather. beside: items to show as cards instead of
    those of the selection, with their name.
    """

    figures: list[go.Figure] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    click: Callable[[str], Pick] | None = None
    lasso: bool = False
    beside: tuple[str, npt.NDArray[np.int64]] | None = None


@dataclass(frozen=True)
class Tab:
    """A tab: how it is drawn, from state, maps and the number of a group, and the panel it exports."""

    draw: Callable[[ExplorerState, Mapping[str, Projection], int], Shown]
    panel: str


def _codes(state: ExplorerState, _: Mapping[str, Projection], __: int) -> Shown:
    children = state.children()
    if children is None:
        page = state.page()
        shown = [] if page is None else [figures.code_items(page, state.catalogue)]
        return Shown(shown, [panels.NOTHING_BELOW])
    prefix = state.selection.prefix
    bars = figures.prefix_bars(children, state.labels(), seed=state.catalogue.seed)
    return Shown([bars], click=lambda code: {"prefix": (*prefix, int(code))})


def _page(state: ExplorerState, _: Mapping[str, Projection], __: int) -> Shown:
    page = state.page()
    if page is None:
        return Shown(said=[panels.NO_PAGE])
    return Shown([figures.code_profile(page), figures.code_items(page, state.catalogue)])


def _map(state: ExplorerState, maps: Mapping[str, Projection], _: int) -> Shown:
    if not maps:
        return Shown(said=["There is no map yet: run 03_residual_atlas."])
    selected = state.selection
    drawn = [
        figures.prefix_map(state.catalogue, one, selected.prefix, level=selected.level)
        for one in maps.values()
        if selected.level < one.coordinates.shape[1]
    ]
    if not drawn:
        return Shown(said=["This level has no map."])
    said = "Draw around points to gather items, click one to select it, click twice to let go."
    # The level stays: a whole identifier is selected, and the map must not jump to its last code.
    return Shown(drawn, [said], lambda item: {"item": int(item), "level": selected.level}, lasso=True)


def _sharing(state: ExplorerState, _: Mapping[str, Projection], __: int) -> Shown:
    seed, found, pairs = state.catalogue.seed, state.records.neighbours, state.pairs()
    drawn, said = [figures.domain_lift(state.sharing(), seed=seed)], []
    if pairs is None:
        said.append(panels.NO_VECTORS)
    else:
        drawn.append(figures.similarity_by_prefix(pairs, state.catalogue.levels))
    if found is None:
        said.append(panels.NO_NEIGHBOURS)
    else:
        drawn.append(figures.neighbour_overlap(found, seed=seed))
    return Shown(drawn, said)


def _collisions(state: ExplorerState, _: Mapping[str, Projection], group: int) -> Shown:
    found = state.collisions()
    if not found.sizes.size:
        return Shown(said=[panels.NO_COLLISIONS])
    place = min(group, found.sizes.size - 1)
    said = f"{counted(found.sizes.size, 'ambiguous identifier')}, largest group first; shown: group {place}."
    items = found.group(place)
    table = figures.collision_group(state.catalogue, items, rank=place + 1)
    return Shown([table], [said], beside=(f"Group {place}", items))


def _training(state: ExplorerState, _: Mapping[str, Projection], __: int) -> Shown:
    epochs, n_items = state.training(), state.catalogue.n_items
    known = epochs.drop_nulls("utilisation")
    if known.is_empty():
        return Shown(said=[panels.NO_EPOCHS])
    scopes = known["scope"].unique(maintain_order=True).to_list()
    whole = n_items if len(scopes) == 1 else None
    return Shown([figures.codebook_by_epoch(epochs, scope=scope, n_items=whole) for scope in scopes])


def _compare(state: ExplorerState, _: Mapping[str, Projection], __: int) -> Shown:
    if state.two is None:
        return Shown(said=[panels.NO_OTHER])
    level = min(state.selection.level, state.two.levels - 1)
    said = (
        [] if level == state.selection.level else [f"Both have {state.two.levels} levels: the last is shown."]
    )
    match = figures.tokenizer_match(state.two, level=level)
    return Shown([match, figures.changed_company(state.two, length=level + 1)], said)


def _beam(state: ExplorerState, _: Mapping[str, Projection], __: int) -> Shown:
    return Shown(said=[panels.NO_BEAM]) if state.beam is None else Shown([figures.beam_way(state.beam)])


def _exposure(state: ExplorerState, _: Mapping[str, Projection], __: int) -> Shown:
    found = {method: state.exposure(method) for method in state.records.recommended}
    if not found:
        return Shown(said=[panels.NO_RECOMMENDER])
    # One method code by code, the run's own, beside all of them by popularity: five figures would be slow.
    method = next(iter(found))
    by_code = figures.exposure_by_code(found[method], state.labels(), method=method)
    return Shown([figures.exposure_by_popularity(found), by_code])


TABS: dict[str, Tab] = {
    "Codes": Tab(_codes, "children"),
    "Page": Tab(_page, "page"),
    "Map": Tab(_map, "items"),
    "Sharing": Tab(_sharing, "sharing"),
    "Collisions": Tab(_collisions, "policies"),
    "Training": Tab(_training, "training"),
    "Compare": Tab(_compare, "matching"),
    "Beam": Tab(_beam, "beam"),
    "Exposure": Tab(_exposure, "exposure"),
}
