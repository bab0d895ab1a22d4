"""Figures of the data: lengths of sequences, popularity of items, and the table of statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike

from genrec_lab.viz import IntArray
from genrec_lab.viz.layout import one_panel, panels, require_columns
from genrec_lab.viz.sentences import lengths_title, popularity_title, statistics_title
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.text import counted, noted, of_domains

_MOST_BARS = 24
_CURVE_POINTS = 300
_WIDTHS = {"domain": 2.3, "interactions": 1.3, "items_without_interactions": 1.3}
_SIZES = ("users", "items", "interactions")
_FORMATS: dict[str, Callable[..., str]] = {
    "domain": str,
    **dict.fromkeys((*_SIZES, "items_without_interactions"), "{:,}".format),
    "sparsity": lambda share: f"{100 * share:.2f} %",
    "mean_length": "{:.2f}".format,
}


def sequence_lengths(sequences: pl.DataFrame, *, seed: int | None = None) -> go.Figure:
    """Draw histograms of the number of interactions per user, one panel per domain, as shares of its users.

    sequences: frame with `domain` and `items` (lists), one row per user. Every user is counted. If lengths
    span more than 24 values, bars cover ranges of geometrically increasing width, equal in every domain.
    """
    require_columns(sequences, ("domain", "items"))
    frame = sequences.select("domain", length=pl.col("items").list.len().cast(pl.Int64))
    names = frame["domain"].unique(maintain_order=True).to_list()
    edges = length_bins(frame["length"].to_numpy())
    ranges = bin_names(edges)
    lengths = {name: frame.filter(pl.col("domain") == name)["length"].to_numpy() for name in names}
    medians = {name: int(np.sort(values)[(len(values) - 1) // 2]) for name, values in lengths.items()}
    titles = [f"{name}: {counted(len(lengths[name]), 'user')}, median {medians[name]}" for name in names]
    made = panels(titles, row_height=230, row_gap=48, shared_x=True, shared_y=True)
    ticks = list(range(0, len(ranges), max(1, math.ceil(len(ranges) / 5))))
    for panel, name in enumerate(names):
        counts = np.histogram(lengths[name], bins=edges)[0]
        hover = "%{customdata[0]} interactions: %{customdata[1]} users (%{y:.1f} %)"
        custom = np.column_stack([np.array(ranges, dtype=object), counts])
        look: dict[str, Any] = {"marker_color": made.style(name).colour, "customdata": custom}
        made.bars(panel, 100 * counts / counts.sum(), hover, name, showlegend=False, **look)
        made.outer(panel, "interactions per user", "share of users")
    # Labels of full ranges would overlap; the hover text shows the range.
    made.x(tickvals=ticks, ticktext=[ranges[place].split("–")[0] for place in ticks], tickangle=0)
    made.y(ticksuffix=" %")
    note = f"All {of_domains(frame.height, names, 'user')}"
    return made.finish(lengths_title(medians), note, seed=seed, bargap=0.08)


def length_bins(lengths: ArrayLike) -> IntArray:
    """Return integer edges of at most 24 bins [e_i, e_i+1) that cover every length; ValueError for none.

    Bins have width 1 if 24 suffice; otherwise widths increase geometrically.
    """
    values = np.asarray(lengths, dtype=np.int64)
    if values.size == 0:
        raise ValueError("lengths: no values; expected at least one sequence")
    low, high = int(values.min()), int(values.max()) + 1
    if high - low <= _MOST_BARS:
        return np.arange(low, high + 1, dtype=np.int64)
    edges = np.unique(np.round(np.geomspace(max(low, 1), high, _MOST_BARS + 1)).astype(np.int64))
    edges[0] = low
    return edges


def bin_names(edges: IntArray) -> list[str]:
    """Return the label of each integer bin: "3" or "4–7"."""
    return [f"{low}" if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(edges.tolist())]


def popularity_curve(
    sequences: pl.DataFrame, items: pl.DataFrame | None = None, *, seed: int | None = None
) -> go.Figure:
    """Draw the share of interactions of each domain's r-th most popular item over r, on logarithmic axes.

    sequences: frame with `domain` and `items`. items: optional frame with `item` and `domain`; with it, items
    without interactions, which a logarithmic axis cannot show, count in the top 1 % and in the note. The
    curve has at most 300 ranks of a domain, evenly spaced on the logarithmic axis.
    """
    require_columns(sequences, ("domain", "items"))
    chosen = sequences.select("domain", item=pl.col("items")).explode("item").drop_nulls("item")
    names = sequences["domain"].unique(maintain_order=True).to_list()
    made = one_panel()
    tops: dict[str, tuple[int, int, float]] = {}
    unseen = 0
    for name in names:
        in_domain = chosen.filter(pl.col("domain") == name)["item"].value_counts()["count"]
        counts = in_domain.sort(descending=True).to_numpy()
        if counts.size == 0:
            raise ValueError(f"sequences: domain {name!r} has no interactions; leave it out")
        catalogue = items.filter(pl.col("domain") == name).height if items is not None else counts.size
        unseen += catalogue - counts.size
        top = math.ceil(catalogue / 100)
        tops[name] = (top, catalogue, float(counts[:top].sum() / counts.sum()))
        ranks = np.arange(1, counts.size + 1)
        if counts.size > _CURVE_POINTS:
            ranks = np.unique(np.round(np.geomspace(1, counts.size, _CURVE_POINTS)).astype(np.int64))
        hover = "rank %{x}: %{customdata} interactions (%{y:.3f} %)"
        shares = 100 * counts[ranks - 1] / counts.sum()
        made.line(0, ranks, shares, name, hover, mode="lines", customdata=counts[ranks - 1])
    made.x(type="log", dtick=1, title="rank of the item by popularity (log)")
    made.y(type="log", dtick=1, ticksuffix=" %", title="share of interactions (log)")
    note = f"{counted(chosen.height, 'interaction')} of {counted(sequences.height, 'user')}"
    hidden = f"{counted(unseen, 'item')} without an interaction are not on the curve" if unseen else ""
    return made.finish(popularity_title(tops), note, hidden, seed=seed, showlegend=len(names) > 1)


def statistics_table(statistics: pl.DataFrame, *, seed: int | None = None) -> go.Figure:
    """Draw `Dataset.statistics()` as a table: one row per domain (GMC Table 2), and the total of several.

    statistics: frame with `domain`, `users`, `items`, `interactions`; shares and means get two decimals.
    """
    require_columns(statistics, ("domain", *_SIZES))
    names = [name for name in statistics.columns if name in _FORMATS]
    totals = {name: int(statistics[name].sum()) for name in _SIZES}
    rows = statistics.select(names).to_dicts()
    if statistics.height > 1:
        # Users only choose items of their own domain, so pairs are counted per domain.
        pairs = (statistics["users"].cast(pl.Float64) * statistics["items"].cast(pl.Float64)).sum()
        rows.append({"domain": "all"} | totals)
        rows[-1]["sparsity"] = 1 - totals["interactions"] / pairs if pairs else None
        rows[-1]["mean_length"] = totals["interactions"] / totals["users"] if totals["users"] else None
        if (unseen := "items_without_interactions") in names:
            rows[-1][unseen] = int(statistics[unseen].sum())
    cells = {
        name.replace("_", " "): ["n/a" if row[name] is None else _FORMATS[name](row[name]) for row in rows]
        for name in names
    }
    sparsity, mean = "share of user-item pairs without an interaction", "interactions per user"
    return table_figure(
        statistics_title(**totals, domains=statistics.height),
        noted(f"Sparsity: {sparsity}", f"mean length: {mean}", seed=seed),
        cells,
        widths=[_WIDTHS.get(name, 1.0) for name in names],
    )
