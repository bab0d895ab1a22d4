"""The map: the position and colour of each of N items, and the names of its largest groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from plotly.colors import hex_to_rgb, sample_colorscale

from genrec_lab.viz import Float32Array, FloatArray, IntArray, kept
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.state import ExplorerState
from genrec_lab.viz.projection import Projection
from genrec_lab.viz.text import counted, shorten
from genrec_lab.viz.theme import BAD, GOOD, PALETTE

BY_CODES = "by codes"
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
_STEPS = 16
_MOST_LABELS, _MOST_PLACED = 60, 50_000
_NEAR, _TINY = 3, 1e-30
_PAIRS_AT_ONCE = 4_000_000
_OTHER = -1


@dataclass(frozen=True, eq=False)
class Coloured:
    """The colours of the items: (N,) indices into `palette`, -1 for none.

    names: the legend entries: `text`, `colour` (an index) and optionally `go`, which a click selects.
    """

    values: NDArray[np.int16]
    palette: list[tuple[int, int, int]]
    names: list[dict[str, Any]]
    said: str = ""
    labels: list[dict[str, Any]] = field(default_factory=list)


def methods(state: ExplorerState) -> list[str]:
    """Return the available kinds of map; the last one, from the codes alone, does not need vectors."""
    return [*state.maps, BY_CODES]


def places(state: ExplorerState, method: str, level: int) -> Float32Array:
    """Return the positions (N, 2) of the items on a map of a level, NaN for items without one.

    The first call of a method computes its maps of all levels. Raises ValueError for an unknown method.
    """
    if method == BY_CODES:
        return laid_by_codes(state.catalogue)
    if method not in state.maps:
        raise ValueError(f"map: {method!r}, expected one of {methods(state)}")
    projection = state.maps[method]
    if not isinstance(projection, Projection):
        projection = state.maps[method] = projection()
    # Of the final codes, so that an item stays at its place while the colours show its code of an epoch.
    placed = _placed(state.final, projection)
    return placed[min(level, len(placed) - 1)]


@kept
def _placed(catalogue: CodedCatalogue, projection: Projection) -> list[Float32Array]:
    """Return by level the positions of the sample of items in a projection, and of the others.

    Each other item is placed among the three nearest sample items with the same code.
    """
    maps = []
    for level in range(projection.coordinates.shape[1]):
        found = np.full((catalogue.n_items, 2), np.nan, dtype=np.float32)
        found[projection.items] = projection.coordinates[:, level]
        maps.append(found)
        seen = catalogue.vectors if catalogue.residuals is None else catalogue.residuals[:, level]
        if seen is None or projection.items.size == catalogue.n_items:
            continue
        # Items with the same code are close, so only the sample's items of that code are searched.
        missing = np.isnan(found[:, 0])
        order, starts = catalogue.order.by_code(level)
        for members in np.split(catalogue.order.items[order], starts[1:-1]):
            items, near = members[missing[members]], members[~missing[members]]
            near = near if near.size >= _NEAR else projection.items
            known, at, step = seen[near], found[near], max(_PAIRS_AT_ONCE // near.size, 1)
            for start in range(0, items.size, step):
                part = items[start : start + step]
                found[part] = _among_nearest(seen[part], known, at)
    return maps


def _among_nearest(vectors: Float32Array, known: Float32Array, at: Float32Array) -> Float32Array:
    """Return the mean position of the three nearest known vectors, weighted by 1 / distance, (n, 2)."""
    squares = (known**2).sum(axis=1) - 2 * vectors @ known.T  # without the squares of `vectors`
    rows, nearest = np.arange(len(vectors)), np.empty((len(vectors), min(_NEAR, len(known))), dtype=np.int64)
    for place in range(nearest.shape[1]):  # for three of a hundred, faster than `argpartition`
        nearest[:, place] = squares.argmin(axis=1)
        squares[rows, nearest[:, place]] = np.inf
    distances = np.linalg.norm(vectors[:, None] - known[nearest], axis=2)
    weights = 1 / np.maximum(distances, _TINY)
    placed: Float32Array = np.einsum("nk,nkd->nd", weights / weights.sum(axis=1, keepdims=True), at[nearest])
    return placed


@kept
def laid_by_codes(catalogue: CodedCatalogue) -> Float32Array:
    """Return a map (N, 2) from the codes alone: one disc per first code, filled in the order of the codes.

    Discs and items are arranged like the seeds of a sunflower, so that a disc's area is proportional to its
    number of items.
    """
    order, starts = catalogue.order, catalogue.order.starts[0]
    sizes = np.diff(starts)
    middle = np.cumsum(sizes) - sizes / 2
    centres = _sunflower(np.arange(sizes.size), 1.25 * np.sqrt(middle))
    rank = np.arange(order.items.size) - np.repeat(starts[:-1], sizes)
    found = np.empty((order.items.size, 2))
    found[order.items] = np.repeat(centres, sizes, axis=0) + _sunflower(rank, 0.8 * np.sqrt(rank + 0.5))
    scale = np.sqrt((found**2).sum(axis=1).mean()) or 1.0
    return (found / scale).astype(np.float32)


def _sunflower(numbers: IntArray, radius: FloatArray) -> FloatArray:
    angle = _GOLDEN_ANGLE * numbers
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


def colourings(state: ExplorerState) -> dict[str, Callable[[], Coloured]]:
    """Return functions that colour the map in all available ways, by name."""
    catalogue, users, distances = state.catalogue, state.records.users, state.catalogue.distances
    found: dict[str, Callable[[], Coloured]] = {"code": partial(_by_code, state)}
    if len(catalogue.domains) > 1:
        found["domain"] = partial(_by_domain, catalogue)
    if catalogue.traffic.any():
        found["popularity"] = lambda: _by_size(np.log1p(catalogue.traffic), "interactions", np.expm1)
    if distances is not None:
        name = "distance to the codeword"
        found["distance"] = lambda: _by_size(distances[:, state.selection.level], name)
    if users is not None:
        for method, lists in state.records.recommended.items():
            hits = partial(_by_hit, catalogue.n_items, users["target"].to_numpy(), lists)
            found[f"hits of {method}"] = hits
    return found


def coloured(state: ExplorerState, by: str, points: Float32Array) -> Coloured:
    """Colour every item, and label the largest codes of the level at their positions on this map (N, 2)."""
    return replace(colourings(state)[by](), labels=_labels(state, state.items(), points))


def _largest_codes(state: ExplorerState, most: int) -> list[tuple[int, int]]:
    counts = np.bincount(state.codes_at(state.selection.level))
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(code), int(counts[code])) for code in order if counts[code]]


def _name(state: ExplorerState, code: int, words: int) -> str:
    prefix = state.selection.prefix
    known = state.catalogue.labels(prefix).get(code, []) if state.selection.level == len(prefix) else []
    return shorten(f"{code} · {', '.join(known[:words])}" if known else str(code), 34)


def _labels(state: ExplorerState, items: IntArray, points: Float32Array) -> list[dict[str, Any]]:
    """Return labels for the largest codes of the level at the median of their points, largest first."""
    level, found = state.selection.level, []
    items = items[:: items.size // _MOST_PLACED + 1]  # of many items, every nth in the order of the codes
    codes = state.catalogue.codes.codes[items, level]
    for code, _ in _largest_codes(state, _MOST_LABELS):
        where = points[items[codes == code]]
        where = where[~np.isnan(where[:, 0])]
        if where.size:
            x, y = np.median(where, axis=0).tolist()
            (go,) = state.goes_to(level, [code])
            found.append({"x": x, "y": y, "text": _name(state, code, 1), "go": go})
    return found


def _by_code(state: ExplorerState) -> Coloured:
    level, catalogue = state.selection.level, state.catalogue
    largest = _largest_codes(state, len(PALETTE) - 1)
    place = np.full(catalogue.codes.sizes[level], _OTHER, dtype=np.int16)
    place[[code for code, _ in largest]] = np.arange(len(largest))
    names: list[dict[str, Any]] = []
    for number, (code, size) in enumerate(largest):
        more = {"go": state.goes_to(level, [code])[0], "says": counted(size, "item")}
        names.append({"text": _name(state, code, 2), "colour": number} | more)
    if sum(size for _, size in largest) < state.items().size:
        names.append({"text": "other codes", "colour": _OTHER})
    return Coloured(place[catalogue.codes.codes[:, level]], _rgb(PALETTE[: len(largest)]), names)


def _by_domain(catalogue: CodedCatalogue) -> Coloured:
    most = len(PALETTE) - 1
    values = catalogue.codes.domain_index.astype(np.int16)
    names: list[dict[str, Any]] = [
        {"text": shorten(name, 30), "colour": place, "go": {"domain": name}}
        for place, name in enumerate(catalogue.domains[:most])
    ]
    if len(catalogue.domains) > most:
        names.append({"text": "other domains", "colour": _OTHER})
    return Coloured(np.where(values < most, values, np.int16(_OTHER)), _rgb(PALETTE[:most]), names)


def _by_size(values: ArrayLike, name: str, back: Callable[[float], float] | None = None) -> Coloured:
    """Colour by a number in 16 steps; the scale ignores a few extreme values."""
    numbers = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(numbers, [0.01, 0.99])
    steps = np.clip((numbers - low) / max(high - low, 1e-12) * _STEPS, 0, _STEPS - 1).astype(np.int16)
    ends = [(low, 0), ((low + high) / 2, _STEPS // 2), (high, _STEPS - 1)]
    names = [{"text": f"{back(at) if back else at:.3g}", "colour": step} for at, step in ends]
    # The ends of viridis are invisible on a dark or a light background.
    scale = sample_colorscale("Viridis", np.linspace(0.3, 0.9, _STEPS).tolist(), colortype="tuple")
    return Coloured(steps, [tuple(round(255 * part) for part in one) for one in scale], names, name)


def _by_hit(n_items: int, targets: IntArray, lists: IntArray) -> Coloured:
    hits = (lists == targets[:, None]).any(axis=1)
    asked, found = (np.bincount(part, minlength=n_items) for part in (targets, targets[hits]))
    values = np.select([asked == 0, found == 0, found == asked], [_OTHER, 0, 2], 1).astype(np.int16)
    texts = {0: "missed", 1: "hit for some users", 2: "hit", _OTHER: "not a target"}
    names = [{"text": text, "colour": place} for place, text in texts.items()]
    return Coloured(values, _rgb((BAD, PALETTE[1], GOOD)), names, "targets of test users")


def _rgb(colours: tuple[str, ...]) -> list[tuple[int, int, int]]:
    return [hex_to_rgb(colour) for colour in colours]
