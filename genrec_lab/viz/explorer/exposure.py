"""Who is shown: share of recommendations against share of the catalogue, by code and by popularity.

Shapes: N items, U users with K recommended items each, C codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.sentences import tail_exposure_title
from genrec_lab.viz.layout import numbered_axis, panels
from genrec_lab.viz.text import counted, listed, noted, percent

IntArray = npt.NDArray[np.int64]

# Where the groups of popularity end, as shares of the items from the most to the least popular.
_BORDERS = (0.05, 0.2, 0.5, 1.0)
_NAMES = ("head: first 5 %", "5 to 20 %", "20 to 50 %", "tail: last 50 %")


@dataclass(frozen=True, eq=False)
class Exposure:
    """How recommendations spread over some items, or over the whole catalogue.

    shown: (N,) how often each item is recommended. by_code: frame `code, items, catalogue_share, shown,
    recommendation_share, traffic_share, ratio` of the codes of a level that these items have;
    ratio is recommendation over catalogue share. groups: frame `group, items, catalogue_share,
    traffic_share, recommendation_share`, items by popularity. gini: of the recommendations over the items, 0
    where all are shown alike. traffic_gini: of the interactions. coverage: share of items shown at all.
    """

    level: int
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
    catalogue: CodedCatalogue, shown: npt.ArrayLike, items: IntArray | None = None, level: int = 0
) -> Exposure:
    """Compare recommendations with the catalogue by the codes of a level (0-based), among some items or all.

    shown: (N,) as `shown_counts` gives it. Shares are of what falls on these items.
    """
    counts = np.asarray(shown, dtype=np.int64)
    if counts.shape != (catalogue.n_items,):
        raise ValueError(f"shown: shape {counts.shape}, expected ({catalogue.n_items},), one count an item")
    items = catalogue.order.items if items is None else items
    recommended, traffic = counts[items], catalogue.traffic[items]
    return Exposure(
        level,
        counts,
        _by_code(catalogue.codes.codes[items, level], recommended, traffic, catalogue.codes.sizes[level]),
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


def _by_code(codes: IntArray, shown: IntArray, traffic: IntArray, size: int) -> pl.DataFrame:
    items = np.bincount(codes, minlength=size)
    recommended = np.bincount(codes, weights=shown, minlength=size)
    interactions = np.bincount(codes, weights=traffic, minlength=size)
    used = np.flatnonzero(items)
    share = items[used] / max(int(items.sum()), 1)
    of_shown, of_traffic = _shares(recommended)[used], _shares(interactions)[used]
    columns = {
        "code": used,
        "items": items[used],
        "catalogue_share": share,
        "shown": recommended[used].astype(np.int64),
        "recommendation_share": of_shown,
        "traffic_share": of_traffic,
        "ratio": of_shown / share,
    }
    return pl.DataFrame(columns)


def _by_popularity(catalogue: CodedCatalogue, items: IntArray, counts: IntArray) -> pl.DataFrame:
    """Groups of the items from the most popular on, equal ones by index; groups of few items may be empty."""
    chosen = np.zeros(catalogue.n_items, dtype=bool)
    chosen[items] = True
    order = catalogue.by_popularity[chosen[catalogue.by_popularity]]
    borders = [0, *(round(border * items.size) for border in _BORDERS)]
    sizes = np.diff(borders)
    groups: dict[str, object] = {"group": list(_NAMES), "items": sizes, "catalogue_share": _shares(sizes)}
    for name, values in (("traffic_share", catalogue.traffic), ("recommendation_share", counts)):
        groups[name] = _shares(np.diff(np.concatenate([[0], np.cumsum(values[order])])[borders]))
    return pl.DataFrame(groups)


def _shares(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    total = float(values.sum())
    return values / total if total > 0 else np.zeros(len(values))


def exposure_by_popularity(found: Mapping[str, Exposure], *, seed: int | None = None) -> go.Figure:
    """What the items of each group of popularity get: of the interactions and of each method's lists.

    found: by method, the exposure of the same items. The right panel has the Gini coefficient of each.
    """
    if not found:
        raise ValueError("found: no methods; expected at least one")
    first = next(iter(found.values()))
    groups = first.groups["group"].to_list()
    titles = ["Share by popularity of the items", "Gini coefficient over items"]
    # The wide gap leaves room for the names of methods.
    made = panels(titles, columns=2, row_height=270, column_gap=0.16)
    bars: list[tuple[str, pl.Series, dict[str, Any]]] = [
        ("share of items", first.groups["catalogue_share"], {"color": theme.TRACK}),
        ("share of interactions", first.groups["traffic_share"], {"color": theme.MUTED}),
        *((name, one.groups["recommendation_share"], made.style(name).bar) for name, one in found.items()),
    ]
    for name, shares, marker in bars:
        made.bars(0, 100 * shares.to_numpy(), "%{y:.1f} %", name, marker=marker)
    made.x(0, **numbered_axis(groups))
    made.y(0, ticksuffix=" %", rangemode="tozero", title="share")
    ginis = {"interactions": first.traffic_gini} | {name: one.gini for name, one in found.items()}
    colours = [theme.MUTED, *(made.style(name).colour for name in found)]
    texts = [f"{value:.2f}" for value in ginis.values()]
    made.bars(1, list(ginis.values()), "%{x:.3f}<extra></extra>", flat=True, text=texts, marker_color=colours)
    made.rows(1, list(ginis), 16, showticklabels=True)
    made.x(1, range=[0, 1.12], tickvals=[0, 0.5, 1], title="0: even, 1: one has all")
    note = noted(
        f"{counted(int(first.groups['items'].sum()), 'item')} by their interactions",
        *(f"{listed([name])} shows {percent(one.coverage)} of them at all" for name, one in found.items()),
        seed=seed,
    )
    sizes = first.groups["items"]
    tails = {name: float(one.groups["recommendation_share"][-1]) for name, one in found.items()}
    title = tail_exposure_title(tails, int(sizes[-1]), int(sizes.sum()))
    layout = {"barmode": "group", "showlegend": True, "bargap": 0.2}
    return made.finish(title, note, **layout)
