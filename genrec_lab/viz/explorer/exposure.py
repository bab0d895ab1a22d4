"""Who is shown: share of recommendations against share of the catalogue, by code and by popularity.

Shapes: N items, U users with K recommended items each, C codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.viz.explorer.catalogue import CodedCatalogue

IntArray = npt.NDArray[np.int64]

# Where the groups of popularity end, as shares of the items from the most to the least popular.
_BORDERS = (0.05, 0.2, 0.5, 1.0)
_NAMES = ("head: first 5 %", "5 to 20 %", "20 to 50 %", "tail: last 50 %")


@dataclass(frozen=True, eq=False)
class Exposure:
    """How recommendations spread over the items of a prefix, or of the whole catalogue.

    shown: (N,) how often each item is recommended. by_code: frame `code, items, catalogue_share, shown,
    recommendation_share, traffic_share, ratio` of the codes of the next level that items of the prefix have;
    ratio is recommendation over catalogue share. groups: frame `group, items, catalogue_share,
    traffic_share, recommendation_share`, items by popularity. gini: of the recommendations over the items, 0
    where all are shown alike. traffic_gini: of the interactions. coverage: share of items shown at all.
    """

    level: int
    prefix: tuple[int, ...]
    shown: IntArray
    by_code: pl.DataFrame
    groups: pl.DataFrame
    gini: float
    traffic_gini: float
    coverage: float
    recommendations: int


def shown_counts(recommended: npt.ArrayLike, n_items: int) -> IntArray:
    """(N,) how often each item is in the lists (U, K), -1 being none; ValueError for an unknown item."""
    items = np.asarray(recommended, dtype=np.int64).reshape(-1)
    items = items[items >= 0]
    if items.size and items.max() >= n_items:
        raise ValueError(f"recommended: item {items.max()}, the catalogue has items 0..{n_items - 1}")
    return np.bincount(items, minlength=n_items)


def exposure(
    catalogue: CodedCatalogue, shown: npt.ArrayLike, prefix: tuple[int, ...] = (), domain: str | None = None
) -> Exposure:
    """Compare recommendations with the catalogue below a prefix, and in one domain where named.

    shown: (N,) as `shown_counts` gives it. Shares are of what lies below the prefix. For a whole identifier
    the one code that is compared is its own last.
    """
    counts = np.asarray(shown, dtype=np.int64)
    if counts.shape != (catalogue.n_items,):
        raise ValueError(f"shown: shape {counts.shape}, expected ({catalogue.n_items},), one count an item")
    order, number = catalogue.order, catalogue.domain_number(domain)
    low, high = order.span(prefix)
    places = np.arange(low, high)
    if number is not None:
        places = places[order.domain_index[low:high] == number]
    items = order.items[places]
    level = min(len(prefix), catalogue.levels - 1)
    recommended, traffic = counts[items], catalogue.traffic[items]
    return Exposure(
        level,
        tuple(prefix),
        counts,
        _by_code(order.columns[level][places], recommended, traffic, catalogue.codes.sizes[level]),
        _by_popularity(catalogue, items, counts),
        gini(recommended),
        gini(traffic),
        float((recommended > 0).mean()) if items.size else 0.0,
        int(recommended.sum()),
    )


def gini(counts: npt.ArrayLike) -> float:
    """The Gini coefficient of counts: 0 where all are equal (or none), near 1 where one has all."""
    values = np.asarray(counts, dtype=np.int64)
    total, size = int(values.sum()), values.size
    if total == 0:
        return 0.0
    # Counting sorts faster than comparing, where the counts are not much larger than they are many.
    if values.max() < 4 * size + 1_000:
        times = np.bincount(values)
        levels = np.arange(times.size)
    else:
        levels, times = np.unique(values, return_counts=True)
    # Of the items in ascending order, the i-th weighs 2 i - size - 1; equal counts are summed as one stretch.
    before = np.cumsum(times) - times
    weights = times * (2 * before + times - size).astype(np.float64)
    return float((weights * levels).sum() / (size * total))


def _by_code(codes: npt.NDArray[np.int32], shown: IntArray, traffic: IntArray, size: int) -> pl.DataFrame:
    items = np.bincount(codes, minlength=size)
    recommended = np.bincount(codes, weights=shown, minlength=size)
    interactions = np.bincount(codes, weights=traffic, minlength=size)
    used = np.flatnonzero(items)
    share = items / max(int(items.sum()), 1)
    of_shown, of_traffic = _shares(recommended), _shares(interactions)
    return pl.DataFrame(
        {
            "code": used,
            "items": items[used],
            "catalogue_share": share[used],
            "shown": recommended[used].astype(np.int64),
            "recommendation_share": of_shown[used],
            "traffic_share": of_traffic[used],
            "ratio": of_shown[used] / share[used],
        }
    )


def _by_popularity(catalogue: CodedCatalogue, items: IntArray, counts: IntArray) -> pl.DataFrame:
    """Groups of the items from the most popular on, equal ones by index; groups of few items may be empty."""
    chosen = np.zeros(catalogue.n_items, dtype=bool)
    chosen[items] = True
    order = catalogue.by_popularity[chosen[catalogue.by_popularity]]
    ends = [round(border * items.size) for border in _BORDERS]
    starts = [0, *ends[:-1]]
    sums = [np.concatenate([[0], np.cumsum(values[order])]) for values in (counts, catalogue.traffic)]
    groups: dict[str, object] = {"group": list(_NAMES)}
    groups["items"] = [end - start for start, end in zip(starts, ends, strict=True)]
    groups["catalogue_share"] = _shares(np.array(groups["items"], dtype=float))
    for name, running in (("traffic_share", sums[1]), ("recommendation_share", sums[0])):
        parts = [float(running[end] - running[start]) for start, end in zip(starts, ends, strict=True)]
        groups[name] = _shares(np.array(parts))
    return pl.DataFrame(groups)


def _shares(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    total = float(values.sum())
    return values / total if total > 0 else np.zeros(len(values))
