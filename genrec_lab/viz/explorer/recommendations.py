"""A recommender's behaviour in terms of codes: where it loses targets, confused codes, and exposure of items.

Shapes: U users with K recommended items, N items, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike, NDArray

from genrec_lab.codes import ItemCodes
from genrec_lab.viz import FloatArray, IntArray, theme
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.compare import flows
from genrec_lab.viz.layout import numbered_axis, panels
from genrec_lab.viz.sentences import ends, leaders, sentence
from genrec_lab.viz.text import counted, listed, percent

# The ends of the popularity groups, as shares of the items from the most to the least popular.
_BORDERS = (0.05, 0.2, 0.5, 1.0)
_NAMES = ("head: first 5 %", "5 to 20 %", "20 to 50 %", "tail: last 50 %")


def outcomes(codes: ItemCodes, recommended: ArrayLike, targets: ArrayLike) -> pl.DataFrame:
    """Return the outcome of each user's list, one row per user.

    recommended: (U, K) items, best first, -1 past the end. targets: (U,). Frame `row, target, rank` (from 1,
    null for a miss), `hit`, `lost` (the first level, from 1, at which no recommended item has the target's
    codes so far; null if one has all of them), `twins` (other items of the domain with its identifier).
    """
    lists, wanted = np.asarray(recommended, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    hits = lists == wanted[:, None]
    # The length of the longest prefix of the target that a recommended item has.
    alike, deepest = lists >= 0, np.zeros(len(lists), dtype=np.int64)
    for column in codes.codes.T:
        alike = alike & (column[lists] == column[wanted][:, None])
        deepest += alike.any(axis=1)
    ids = codes.identifier_ids
    frame = pl.DataFrame({"target": wanted, "rank": hits.argmax(axis=1) + 1, "hit": hits.any(axis=1)})
    frame = frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64), lost=deepest + 1)
    return frame.with_columns(
        rank=pl.when("hit").then("rank"),
        lost=pl.when(pl.col("lost") <= codes.levels).then("lost"),
        twins=np.bincount(ids)[ids[wanted]] - 1,
    )


def lost_levels(found: pl.DataFrame, levels: int) -> pl.DataFrame:
    """Count the users who lose the target at each level; found: frame of `outcomes`.

    Frame `level` (from 1), `reached` (users whose lists have the target's prefix before this level), `lost`,
    `share` (of the users who reached it, null without any).
    """
    counts = np.bincount(found["lost"].drop_nulls().to_numpy(), minlength=levels + 1)[1:]
    reached = found.height - np.cumsum(counts) + counts
    frame = pl.DataFrame({"level": np.arange(1, levels + 1), "reached": reached, "lost": counts})
    return frame.with_columns(share=pl.when(pl.col("reached") > 0).then(pl.col("lost") / pl.col("reached")))


def confusions(codes: ItemCodes, recommended: ArrayLike, targets: ArrayLike, level: int) -> pl.DataFrame:
    """Count the pairs of the target's code and the first recommendation's code at a level (0-based).

    Only users whose first recommendation has the target's codes before this level are counted. Frame `target,
    predicted, users, share` (of the users with the target's code), `expected` (users if predictions were
    independent of the target), `lift`, most users first.
    """
    lists, wanted = np.asarray(recommended, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    first = lists[:, 0] if lists.shape[1] else np.full(len(lists), -1)
    rows = np.flatnonzero(first >= 0)
    rows = rows[(codes.codes[first[rows], :level] == codes.codes[wanted[rows], :level]).all(axis=1)]
    found = flows(codes.codes[wanted[rows], level], codes.codes[first[rows], level])
    names = {"code_a": "target", "code_b": "predicted", "items": "users", "share_a": "share"}
    return found.drop("share_b").rename(names)


@dataclass(frozen=True, eq=False)
class Exposure:
    """The distribution of recommendations over some items, or over the whole catalogue.

    shown: (N,) how often each item is recommended. by_code: frame `code, items, catalogue_share, shown,
    recommendation_share, traffic_share, ratio` (of the recommendation and catalogue shares) for the codes of
    these items at one level. groups: frame `group, items, catalogue_share, traffic_share,
    recommendation_share` by popularity of the items. gini, traffic_gini: Gini coefficients of recommendations
    and interactions over items. coverage: share of items that are recommended at least once.
    """

    level: int
    shown: IntArray
    by_code: pl.DataFrame
    groups: pl.DataFrame
    gini: float
    traffic_gini: float
    coverage: float
    recommendations: int


def shown_counts(recommended: ArrayLike, n_items: int) -> IntArray:
    """Count how often each item is in the lists (U, K), -1 for none; raises ValueError for unknown items."""
    items = np.asarray(recommended, dtype=np.int64).reshape(-1)
    items = items[items >= 0]
    if items.size and items.max() >= n_items:
        raise ValueError(f"recommended: item {items.max()}, the catalogue has items 0..{n_items - 1}")
    return np.bincount(items, minlength=n_items)


def exposure(
    catalogue: CodedCatalogue, shown: ArrayLike, items: IntArray | None = None, level: int = 0
) -> Exposure:
    """Compare recommendations with the catalogue by the codes of a level (0-based), for some items or all.

    shown: (N,) from `shown_counts`. Shares are relative to the totals of these items.
    """
    counts = np.asarray(shown, dtype=np.int64)
    items = catalogue.order.items if items is None else items
    recommended, traffic = counts[items], catalogue.traffic[items]
    codes, size = catalogue.codes.codes[items, level], catalogue.codes.sizes[level]
    of_items, of_lists, of_traffic = (
        np.bincount(codes, weights, size) for weights in (np.ones(items.size), recommended, traffic)
    )
    columns: dict[str, NDArray[Any]] = {"code": np.arange(size), "items": of_items.astype(np.int64)}
    columns |= {"catalogue_share": _shares(of_items), "shown": of_lists.astype(np.int64)}
    columns |= {"recommendation_share": _shares(of_lists)}
    used = pl.DataFrame(columns | {"traffic_share": _shares(of_traffic)}).filter(pl.col("items") > 0)
    by_code = used.with_columns(ratio=pl.col("recommendation_share") / pl.col("catalogue_share"))
    groups = _by_popularity(catalogue, items, counts)
    coverage, total = float((recommended > 0).mean()) if items.size else 0.0, int(recommended.sum())
    return Exposure(level, counts, by_code, groups, gini(recommended), gini(traffic), coverage, total)


def gini(counts: ArrayLike) -> float:
    """Return the Gini coefficient of counts: 0 if all are equal (or none exist), near 1 if one has all."""
    values = np.sort(np.asarray(counts, dtype=np.int64))
    weights = 2.0 * np.arange(1, values.size + 1) - values.size - 1
    return float((weights * values).sum() / (values.size * values.sum())) if values.any() else 0.0


def _by_popularity(catalogue: CodedCatalogue, items: IntArray, counts: IntArray) -> pl.DataFrame:
    """Group the items by descending popularity, ties by index; with few items, groups may be empty."""
    chosen = np.zeros(catalogue.n_items, dtype=bool)
    chosen[items] = True
    order = catalogue.by_popularity[chosen[catalogue.by_popularity]]
    borders = [0, *(round(border * items.size) for border in _BORDERS)]
    sizes = np.diff(borders)
    groups: dict[str, object] = {"group": list(_NAMES), "items": sizes, "catalogue_share": _shares(sizes)}
    for name, values in (("traffic_share", catalogue.traffic), ("recommendation_share", counts)):
        groups[name] = _shares(np.diff(np.concatenate([[0], np.cumsum(values[order])])[borders]))
    return pl.DataFrame(groups)


def _shares(values: NDArray[Any]) -> FloatArray:
    total = float(values.sum())
    return values / total if total > 0 else np.zeros(len(values))


@sentence
def exposure_title(found: Exposure) -> str:
    """State the code that recommendations favour most, in percentage points, and how many codes get none."""
    if found.recommendations == 0:
        return "Nothing of this part of the catalogue is recommended"
    table = found.by_code
    gains = (table["recommendation_share"] - table["catalogue_share"]).to_list()
    never = int((table["shown"] == 0).sum())
    most = leaders([str(code) for code in table["code"].to_list()], gains)
    rest = f"; {never} of {counted(table.height, 'used code')} never" if never else ""
    if not most:
        return "Every code is recommended as often as it is large"
    if len(most) > 1:
        return f"{len(most)} codes are recommended most above their size, by the same share{rest}"
    row = table.row(gains.index(max(gains)), named=True)
    shown, share = percent(row["recommendation_share"]), percent(row["catalogue_share"])
    text = f"Code {most[0]} has {shown} of the recommendations and {share} of the items"
    return f"{text}, the largest gain{rest}"


@sentence
def tail_exposure_title(shares: Mapping[str, float], items: int, of: int) -> str:
    """State the share of each method's recommendations for the least popular items; items: their number."""
    text = f"The {items:,} least popular of {counted(of, 'item')} get"
    names = list(shares)
    between = ends(list(shares.values()))
    if between is None:
        who = listed(names) if len(names) == 1 else "every method"
        return f"{text} {percent(shares[names[0]])} of the recommendations of {who}"
    low, high = (names[place] for place in between)
    high_share = f"{percent(shares[high])} of the recommendations of {listed([high])}"
    return f"{text} {high_share}, {percent(shares[low])} of {listed([low])}"


def exposure_by_popularity(found: Mapping[str, Exposure]) -> go.Figure:
    """Draw the shares of interactions and of each method's recommendations by popularity group.

    found: by method, the exposure of the same items. The right panel shows the Gini coefficient of each.
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
    *_, tail = sizes = first.groups["items"].to_list()
    shown = [f"{listed([name])} shows {percent(one.coverage)} of them at all" for name, one in found.items()]
    note = f"{counted(sum(sizes), 'item')} by their interactions"
    tails = {name: float(one.groups["recommendation_share"][-1]) for name, one in found.items()}
    title = tail_exposure_title(tails, tail, sum(sizes))
    return made.finish(title, note, *shown, barmode="group", showlegend=True, bargap=0.2)
