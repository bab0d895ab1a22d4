"""What a panel can hand over: its numbers as CSV, and the Python that makes them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from genrec_lab.viz.explorer.collisions import inside, policy_effects

if TYPE_CHECKING:
    from genrec_lab.viz.explorer.state import ExplorerState

NO_RECOMMENDER = "No recommendations yet: run 05_recommender_training and 07_evaluation."
NO_OTHER = "Only one tokenizer is open: open two to compare them."
NO_COMMON = "The two tokenizers have no item in common, so nothing can be compared."
NO_EPOCHS = "This tokenizer recorded no epochs."
NO_VECTORS = "The similarity of items cannot be measured: no content vectors are known, or there is one item."
NO_NEIGHBOURS = "The codes of nearest items were not compared yet: run 03_residual_atlas."
NO_BEAM = "No beam was watched: choose a test user of a run with a recommender."
NO_PAGE = "No code is selected: click one, or search for a title."
NOTHING_BELOW = "A whole identifier is selected: no code follows it."
NOBODY = "No item has this prefix."
NO_COLLISIONS = "No two items of a domain have the same codes here."

Made = tuple[pl.DataFrame, str]


@dataclass(frozen=True, eq=False)
class Panel:
    """A panel's frame and the Python that makes it again; `note` says why a frame is empty, or nothing."""

    name: str
    frame: pl.DataFrame
    python: str
    note: str = ""

    def csv(self) -> str:
        """The frame as CSV: a header, then a row each; texts are quoted, missing values are empty."""
        return self.frame.write_csv(quote_style="non_numeric") if self.frame.width else ""

    def write_csv(self, file: str | Path) -> Path:
        """Write the CSV in UTF-8; returns the file."""
        path = Path(file)
        path.write_text(self.csv(), encoding="utf-8", newline="")
        return path


def make_panel(state: ExplorerState, name: str, options: Mapping[str, Any]) -> Panel:
    """A state's panel by name; raises ValueError naming the known ones."""
    if name not in PANELS:
        raise ValueError(f"panel: {name!r}, expected one of {sorted(PANELS)}")
    frame, note = PANELS[name](state, **options)
    selected = state.selection
    # Names are written as Python literals, so that nothing in them can be read as code.
    chosen = f"prefix={selected.prefix!r}, level={selected.level!r}"
    chosen += f", domain={selected.domain!r}, item={selected.item!r}"
    given = "".join(f", {key}={value!r}" for key, value in options.items())
    lines = [state.source, f"state.select({chosen})", f"frame = state.panel({name!r}{given}).frame"]
    if name == "beam" and state.beam_source:
        lines.insert(1, state.beam_source)
    return Panel(name, frame, "\n".join(lines) + "\n", note)


def _children(state: ExplorerState) -> Made:
    children = state.children()
    if children is None:
        return pl.DataFrame(), NOTHING_BELOW
    labels = state.labels()
    frame = children.frame()
    words = pl.Series("words", [", ".join(labels.get(code, [])) for code in frame["code"].to_list()])
    return frame.insert_column(1, words), "" if children.sizes.any() else NOBODY


def _items(state: ExplorerState, items: Sequence[int] | None = None) -> Made:
    chosen = state.items() if items is None else np.asarray(items, dtype=np.int64)
    return state.catalogue.cards(chosen), "" if chosen.size else NOBODY


def _page(state: ExplorerState, level: int | None = None, code: int | None = None) -> Made:
    page = state.page(level, code)
    if page is None:
        return pl.DataFrame(), NO_PAGE
    placed = page.frame()
    cards = state.catalogue.cards(placed["item"].to_numpy())
    return pl.concat([placed, cards.drop("item")], how="horizontal"), "" if page.support else NOBODY


def _words(state: ExplorerState, level: int | None = None, code: int | None = None) -> Made:
    page = state.page(level, code)
    if page is None:
        return pl.DataFrame(), NO_PAGE
    schema = {"word": pl.String, "titles": pl.Int64, "score": pl.Float64}
    return pl.DataFrame([word._asdict() for word in page.words], schema=schema), ""


def _pairs(state: ExplorerState) -> Made:
    pairs = state.pairs()
    return (pl.DataFrame(), NO_VECTORS) if pairs is None else (pairs.frame, "")


def _neighbours(state: ExplorerState) -> Made:
    found = state.records.neighbours
    return (pl.DataFrame(), NO_NEIGHBOURS) if found is None else (found, "")


def _collisions(state: ExplorerState) -> Made:
    frame = state.collisions().frame()
    return frame, NO_COLLISIONS if frame.is_empty() else ""


def _distances(state: ExplorerState, group: int = 0) -> Made:
    found = state.collisions()
    if not found.sizes.size:
        return pl.DataFrame(), NO_COLLISIONS
    measured = inside(state.catalogue, found.group(group))
    cards = state.catalogue.cards(measured.shown)
    if measured.distances is None:
        return cards, NO_VECTORS
    columns = {f"to {item}": measured.distances[:, place] for place, item in enumerate(measured.shown)}
    return cards.hstack(pl.DataFrame(columns)), ""


def _policies(state: ExplorerState, group: int = 0) -> Made:
    found = state.collisions()
    if not found.sizes.size:
        return pl.DataFrame(), NO_COLLISIONS
    return policy_effects(state.catalogue, found.group(group)), ""


def _training(state: ExplorerState) -> Made:
    frame = state.training()
    return frame, NO_EPOCHS if frame.is_empty() else ""


def _matching(state: ExplorerState, level: int = 0) -> Made:
    if state.two is None:
        return pl.DataFrame(), NO_OTHER
    match = state.two.level(level)
    return (pl.DataFrame(), NO_COMMON) if match is None else (match.pairs, "; ".join(state.two.left_out))


def _changes(state: ExplorerState, length: int = 1, top: int = 20) -> Made:
    if state.two is None:
        return pl.DataFrame(), NO_OTHER
    if not state.two.n_items:
        return pl.DataFrame(), NO_COMMON
    return state.two.changes(length, top), "; ".join(state.two.left_out)


def _beam(state: ExplorerState) -> Made:
    return (pl.DataFrame(), NO_BEAM) if state.beam is None else (state.beam.nodes, "")


def _exposure(state: ExplorerState, method: str | None = None) -> Made:
    if not state.records.recommended:
        return pl.DataFrame(), NO_RECOMMENDER
    return state.exposure(method or next(iter(state.records.recommended))).by_code, ""


def _popularity(state: ExplorerState, method: str | None = None) -> Made:
    if not state.records.recommended:
        return pl.DataFrame(), NO_RECOMMENDER
    return state.exposure(method or next(iter(state.records.recommended))).groups, ""


PANELS: dict[str, Callable[..., Made]] = {
    "children": _children,
    "items": _items,
    "page": _page,
    "words": _words,
    "sharing": lambda state: (state.sharing().frame(), ""),
    "pairs": _pairs,
    "neighbours": _neighbours,
    "collisions": _collisions,
    "distances": _distances,
    "policies": _policies,
    "training": _training,
    "matching": _matching,
    "changes": _changes,
    "beam": _beam,
    "exposure": _exposure,
    "popularity": _popularity,
}
"""What can be exported, by name; each answers with a frame and, where there is nothing, why."""
