"""What the explorer's panels hand over: the numbers behind each view, and why there are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from genrec_lab.viz.explorer.collisions import inside, policy_effects
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


def _made(frame: pl.DataFrame | None, why: str, lacking: bool = False) -> Made:
    """A frame with the reason where it is lacking, or nothing but the reason."""
    return (pl.DataFrame(), why) if frame is None else (frame, why if lacking else "")


def children(state: ExplorerState) -> Made:
    """Return the codes that may follow the selected prefix, with their words."""
    found = state.children()
    if found is None:
        return _made(None, NOTHING_BELOW)
    labels = state.labels()
    frame = found.frame()
    words = pl.Series("words", [", ".join(labels.get(code, [])) for code in frame["code"].to_list()])
    return _made(frame.insert_column(1, words), NOBODY, not found.sizes.any())


def items(state: ExplorerState, items: Sequence[int] | None = None) -> Made:
    """Return the selected items, or those given."""
    chosen = state.items() if items is None else np.asarray(items, dtype=np.int64)
    return _made(state.catalogue.cards(chosen), NOBODY, not chosen.size)


def page(state: ExplorerState, level: int | None = None, code: int | None = None) -> Made:
    """Return the items of a code by distance."""
    found = state.page(level, code)
    if found is None:
        return _made(None, NO_PAGE)
    cards = state.catalogue.cards(found.ranked).drop("item")
    return _made(pl.concat([found.frame(), cards], how="horizontal"), NOBODY, not found.support)


def words(state: ExplorerState, level: int | None = None, code: int | None = None) -> Made:
    """Return the words of a code's titles."""
    found = state.page(level, code)
    if found is None:
        return _made(None, NO_PAGE)
    schema = {"word": pl.String, "titles": pl.Int64, "score": pl.Float64}
    return _made(pl.DataFrame([word._asdict() for word in found.words], schema=schema), "")


def sharing(state: ExplorerState) -> Made:
    """Return who uses the codes of the selected level."""
    return _made(state.sharing().frame(), "")


def pairs(state: ExplorerState) -> Made:
    """Return the similarity of pairs of items by the number of common codes."""
    found = state.pairs()
    return _made(None if found is None else found.frame, NO_VECTORS)


def neighbours(state: ExplorerState) -> Made:
    """Return how many codes near items share."""
    return _made(state.records.neighbours, NO_NEIGHBOURS)


def collisions(state: ExplorerState) -> Made:
    """Return the ambiguous identifiers below the selected prefix."""
    found = state.collisions()
    return _made(found.frame(), NO_COLLISIONS, not found.sizes.size)


def distances(state: ExplorerState, group: int = 0) -> Made:
    """Return how far the items of one ambiguous identifier are from each other."""
    found = state.collisions()
    if not found.sizes.size:
        return _made(None, NO_COLLISIONS)
    measured = inside(state.catalogue, found.group(group))
    cards = state.catalogue.cards(measured.shown)
    if measured.distances is None:
        return _made(cards, NO_VECTORS, lacking=True)
    columns = {f"to {item}": measured.distances[:, place] for place, item in enumerate(measured.shown)}
    return _made(cards.hstack(pl.DataFrame(columns)), "")


def policies(state: ExplorerState, group: int = 0) -> Made:
    """Return what each conflict policy would do to one ambiguous identifier."""
    found = state.collisions()
    effects = policy_effects(state.catalogue, found.group(group)) if found.sizes.size else None
    return _made(effects, NO_COLLISIONS)


def training(state: ExplorerState) -> Made:
    """Return the tokenizer's epochs."""
    frame = state.training()
    return _made(frame, NO_EPOCHS, frame.is_empty())


def matching(state: ExplorerState, level: int = 0) -> Made:
    """Return the matched codes of a level of two tokenizers."""
    match = None if state.two is None else state.two.level(level)
    if state.two is None or match is None:
        return _made(None, NO_OTHER if state.two is None else NO_COMMON)
    return match.pairs, "; ".join(state.two.left_out)


def changes(state: ExplorerState, length: int = 1, top: int = 20) -> Made:
    """Return the items whose company changed most between two tokenizers."""
    if state.two is None or not state.two.n_items:
        return _made(None, NO_OTHER if state.two is None else NO_COMMON)
    return state.two.changes(length, top), "; ".join(state.two.left_out)


def beam(state: ExplorerState) -> Made:
    """Return the prefixes of the watched beam."""
    return _made(None if state.beam is None else state.beam.nodes, NO_BEAM)


def exposure(state: ExplorerState, method: str | None = None) -> Made:
    """Return a method's recommendations by code."""
    known = method or next(iter(state.records.recommended), None)
    return _made(None if known is None else state.exposure(known).by_code, NO_RECOMMENDER)


def popularity(state: ExplorerState, method: str | None = None) -> Made:
    """Return a method's recommendations by the popularity of the items."""
    known = method or next(iter(state.records.recommended), None)
    return _made(None if known is None else state.exposure(known).groups, NO_RECOMMENDER)
