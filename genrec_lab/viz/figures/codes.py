"""Figures of codes: which are used and by whom, how domains share them, and how healthy each level is.

Shapes: N items, L levels, K codes a level, T domains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.evaluation import domain_sharing
from genrec_lab.viz import theme
from genrec_lab.viz.layout import panels, require_columns
from genrec_lab.viz.sentences import level_title, sharing_title, tokenizers_title
from genrec_lab.viz.text import counted, listed, noted, percent
from genrec_lab.viz.theme import ordered_styles

IntArray = npt.NDArray[np.int64]

# Of `tokenizers_compared`: a panel's title, the field, its scale, unit and what its axis counts.
_LINES = (
    ("Codes in use", "utilisation", 100.0, " %", "share of codes"),
    ("Perplexity over codes", "evenness", 100.0, " %", "share of codes"),
    ("Gini of the codes", "gini", 1.0, "", "0 even, 1 one code"),
    ("Dead codes", "dead_share", 100.0, " %", "share of codes"),
    ("Entropy of the prefix", "prefix_entropy", 1.0, "", "bits"),
)
_ENTROPY, _COLLISIONS = 4, 5  # panels


def code_usage(
    codes: npt.ArrayLike,
    sizes: Sequence[int],
    domains: npt.ArrayLike,
    *,
    top: int = 100,
    seed: int | None = None,
) -> go.Figure:
    """The `top` most frequent codes of each level as bars, stacked by domain: GMC Figure 3, right.

    codes: (N, L). sizes: (L,). domains: (N,) names. The titles count all codes, the dead ones too, not only
    those drawn. A code is shared if items of two or more domains have it.
    """
    names, counts = _counts(codes, sizes, domains)
    titles = [level_title(level, table) for level, table in enumerate(counts)]
    made = panels(titles, columns=3 if len(titles) == 3 else 2, row_height=190, column_gap=0.08, row_gap=44)
    for panel, table in enumerate(counts):
        # Ties in frequency go to the lower code, so that the same codes always give the same figure.
        order = np.argsort(-table.sum(axis=1), kind="stable")[:top]
        order = order[table[order].sum(axis=1) > 0]
        for domain, name in enumerate(names):
            hover = "code %{customdata[0]}: %{y} of its %{customdata[1]} items"
            custom, places = np.column_stack([order, table[order].sum(axis=1)]), np.arange(1, order.size + 1)
            made.bars(panel, table[order, domain], hover, name, at=places, customdata=custom)
        made.outer(panel, "code, most frequent first", "items")
    made.y(rangemode="tozero")
    note = f"{counted(int(counts[0].sum()), 'item')} of {counted(len(names), 'domain')}"
    whole = all(int((table.sum(axis=1) > 0).sum()) <= top for table in counts)
    drawn = (
        "all codes in use are drawn" if whole else f"the {top} most frequent codes of each level are drawn"
    )
    layout = {"barmode": "stack", "bargap": 0, "showlegend": len(names) > 1}
    return made.finish(sharing_title(counts), noted(note, drawn, seed=seed), **layout)


def code_sharing(
    codes: npt.ArrayLike, sizes: Sequence[int], domains: npt.ArrayLike, *, seed: int | None = None
) -> go.Figure:
    """How many domains use a code, by level: as a share of the codes, and of the items that have them.

    codes: (N, L). sizes: (L,). domains: (N,) names. Dead codes have no items, so they are in the left panel
    only.
    """
    names, counts = _counts(codes, sizes, domains)
    n_domains = len(names)
    made = panels(["Share of the codes", "Share of the items"], columns=2, row_height=44 * len(counts) + 24)
    colours = [theme.TRACK, *(style.colour for style in ordered_styles(n_domains))]
    for used_by, colour in enumerate(colours):
        name = "dead" if used_by == 0 else f"used by {counted(used_by, 'domain')}"
        for panel, what in enumerate(("codes", "items")):
            shares, numbers = _shares_used_by(counts, used_by, of_items=what == "items")
            made.bars(
                panel,
                100 * shares,
                f"%{{customdata:,}} {what}, %{{x:.1f}} %",
                name,
                flat=True,
                marker={"color": colour},
                text=[percent(share) if share >= 0.09 else "" for share in shares],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                customdata=numbers,
            )
    for panel in range(2):
        made.x(panel, range=[0, 100], ticksuffix=" %")
        made.rows(panel, [f"level {level + 1}" for level in range(len(counts))])
    note = f"{counted(int(counts[0].sum()), 'item')} of {counted(n_domains, 'domain')}"
    note = noted(note, "all codes", seed=seed)
    return made.finish(sharing_title(counts), note, barmode="stack", showlegend=True)


def tokenizers_compared(health: pl.DataFrame, *, seed: int | None = None) -> go.Figure:
    """The use of each level as a line a tokenizer, and the share of items whose identifier another has too.

    health: frame of `health_table`. The grey line over the entropies is that of identifiers that are all
    distinct, log2 of the number of items. Raises ValueError for an empty frame.
    """
    require_columns(health, ("tokenizer", "level", "items", "collision_rate", "largest_collision"))
    # Books of different sizes are compared by shares: a perplexity of 60 is much of 64 and little of 256.
    # Where nobody knows how many codes are possible, there are none.
    size = pl.when(pl.col("dead").is_not_null()).then("codes")
    health = health.with_columns(evenness=pl.col("perplexity") / size, dead_share=pl.col("dead") / size)
    names = health["tokenizer"].unique(maintain_order=True).to_list()
    titles = [*(title for title, *_ in _LINES), "Ambiguous items"]
    made = panels(titles, columns=3, row_height=200, column_gap=0.09, row_gap=54)
    ends = [0.8, health["level"].to_numpy().max() + 0.2]
    for name in names:
        of_one = health.filter(pl.col("tokenizer") == name).sort("level")
        for panel, (_, field, scale, unit, _) in enumerate(_LINES):
            hover = "level %{x}: %{y:.3~g}" + unit
            x, y = of_one["level"].to_numpy(), scale * of_one[field].to_numpy()
            made.line(panel, x, y, name, hover)
    for panel, (_, field, _, unit, axis) in enumerate(_LINES):
        even = {"range": [0, 1.03]} if field == "gini" else {}
        made.y(panel, ticksuffix=unit, title=axis, rangemode="tozero", **even)
        made.x(panel, title="level", dtick=1, range=ends, tickangle=0)
    items = health["items"].unique().to_list()
    if len(items) == 1 and items[0] > 1:
        dotted = {"color": theme.REFERENCE, "width": 1, "dash": "dot"}
        hover = "all identifiers distinct: %{y:.2f} bits<extra></extra>"
        bits = [math.log2(items[0])] * 2
        trace = go.Scatter(x=ends, y=bits, mode="lines", line=dotted, showlegend=False, hovertemplate=hover)
        made.add(_ENTROPY, trace)
    one_each = health.unique("tokenizer", keep="first", maintain_order=True)
    for place, row in enumerate(one_each.iter_rows(named=True)):
        name, rate = row["tokenizer"], row["collision_rate"]
        hover = f"at most {row['largest_collision']} items a row of codes"
        made.bars(_COLLISIONS, [100 * rate], hover, name, at=[place], text=[percent(rate)], textangle=0)
    highest = float(one_each["collision_rate"].to_numpy().max())
    made.x(_COLLISIONS, showticklabels=False, title="one bar per tokenizer")
    made.y(_COLLISIONS, ticksuffix=" %", title="share of items", range=[0, 118 * highest or 1.0])
    largest = one_each.sort("largest_collision", descending=True).row(0, named=True)
    most = f"most items of one identifier: {largest['largest_collision']} ({listed([largest['tokenizer']])})"
    note = noted(f"The same {counted(max(items), 'item')}", most, seed=seed)
    return made.finish(tokenizers_title(health), note, showlegend=True, bargap=0.35)


def _counts(
    codes: npt.ArrayLike, sizes: Sequence[int], domains: npt.ArrayLike
) -> tuple[tuple[str, ...], list[IntArray]]:
    """The domains, and for each level the (K, T) number of items that have a code, by domain."""
    sharing = domain_sharing(codes, np.asarray(domains).reshape(-1).tolist(), sizes)
    return sharing.domains, [table.T for table in sharing.counts]


def _shares_used_by(
    counts: Sequence[IntArray], used_by: int, of_items: bool
) -> tuple[npt.NDArray[np.float64], IntArray]:
    """By level, the share and the number of codes (or of items) whose code exactly `used_by` domains use."""
    weights = [table.sum(axis=1) if of_items else np.ones(len(table), dtype=np.int64) for table in counts]
    pairs = zip(counts, weights, strict=True)
    numbers = np.array([weight[(table > 0).sum(axis=1) == used_by].sum() for table, weight in pairs])
    return numbers / np.array([weight.sum() for weight in weights]), numbers
