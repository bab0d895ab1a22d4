"""Figures of codes and identifiers: use, sharing and health of each level, collisions, cost of uniqueness.

Shapes: N items, L levels, K codes per level, T domains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike

from genrec_lab.codes import row_ids
from genrec_lab.evaluation import domain_sharing
from genrec_lab.viz import FloatArray, IntArray, theme
from genrec_lab.viz import sentences as said
from genrec_lab.viz.figures.data import bin_names
from genrec_lab.viz.layout import domains_of, numbered_axis, one_panel, panels, require_columns
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.text import counted, label, listed, of_domains, percent
from genrec_lab.viz.theme import ordered_styles

# For `tokenizers_compared`: a panel's title, its field, unit and axis title.
_LINES = (
    ("Codes in use", "utilisation", " %", "share of codes"),
    ("Perplexity over codes", "evenness", " %", "share of codes"),
    ("Gini of the codes", "gini", "", "0: even, 1: a single code"),
    ("Dead codes", "dead_share", " %", "share of codes"),
    ("Entropy of the prefix", "prefix_entropy", "", "bits"),
)
_ENTROPY, _COLLISIONS = 4, 5  # panels


def code_usage(
    codes: ArrayLike, sizes: Sequence[int], domains: ArrayLike, *, top: int = 100, seed: int | None = None
) -> go.Figure:
    """Draw the `top` most frequent codes of each level as bars, stacked by domain: GMC Figure 3, right.

    codes: (N, L). sizes: (L,). domains: (N,) names. The titles count all codes, including those not drawn.
    """
    names, counts = _counts(codes, sizes, domains)
    titles = [said.level_title(level, table) for level, table in enumerate(counts)]
    made = panels(titles, columns=3 if len(titles) == 3 else 2, row_height=190, column_gap=0.08, row_gap=44)
    for panel, table in enumerate(counts):
        # Ties in frequency are ordered by code, so that the same codes always give the same figure.
        order = np.argsort(-table.sum(axis=1), kind="stable")[:top]
        order = order[table[order].sum(axis=1) > 0]
        for domain, name in enumerate(names):
            hover = "code %{customdata[0]}: %{y} of its %{customdata[1]} items"
            custom, places = np.column_stack([order, table[order].sum(axis=1)]), np.arange(1, order.size + 1)
            made.bars(panel, table[order, domain], hover, name, at=places, customdata=custom)
        made.outer(panel, "code, most frequent first", "items")
    made.y(rangemode="tozero")
    whole = all(int((table.sum(axis=1) > 0).sum()) <= top for table in counts)
    drawn = "all codes in use" if whole else f"the {top} most frequent codes of each level"
    note = (of_domains(int(counts[0].sum()), names), f"{drawn} are drawn")
    layout: dict[str, Any] = {"barmode": "stack", "bargap": 0, "showlegend": len(names) > 1}
    return made.finish(said.sharing_title(counts), *note, seed=seed, **layout)


def code_sharing(
    codes: ArrayLike, sizes: Sequence[int], domains: ArrayLike, *, seed: int | None = None
) -> go.Figure:
    """Draw how many domains use a code, by level: as a share of the codes, and of the items with these codes.

    codes: (N, L). sizes: (L,). domains: (N,) names.
    """
    names, counts = _counts(codes, sizes, domains)
    made = panels(["Share of the codes", "Share of the items"], columns=2, row_height=44 * len(counts) + 24)
    colours = [theme.TRACK, *(style.colour for style in ordered_styles(len(names)))]
    inside = {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0}
    for used_by, colour in enumerate(colours):
        name = "dead" if used_by == 0 else f"used by {counted(used_by, 'domain')}"
        for panel, what in enumerate(("codes", "items")):
            shares, numbers = _shares_used_by(counts, used_by, of_items=what == "items")
            texts = [percent(share) if share >= 0.09 else "" for share in shares]
            look: dict[str, Any] = inside | {"marker": {"color": colour}, "customdata": numbers}
            hover = f"%{{customdata:,}} {what}, %{{x:.1f}} %"
            made.bars(panel, 100 * shares, hover, name, flat=True, text=texts, **look)
    for panel in range(2):
        made.x(panel, range=[0, 100], ticksuffix=" %")
        made.rows(panel, [f"level {level + 1}" for level in range(len(counts))])
    note = (of_domains(int(counts[0].sum()), names), "all codes")
    return made.finish(said.sharing_title(counts), *note, seed=seed, barmode="stack", showlegend=True)


def tokenizers_compared(health: pl.DataFrame, *, seed: int | None = None) -> go.Figure:
    """Draw the use of each level, one line per tokenizer, and the share of items with ambiguous identifiers.

    health: frame of `health_table`. The grey line is the entropy if all identifiers are distinct.
    """
    require_columns(health, ("tokenizer", "level", "items", "collision_rate", "largest_collision"))
    # Shares make codebooks of different sizes comparable: a perplexity of 60 is high for 64 codes and low for
    # 256. If the number of possible codes is unknown, there are no shares.
    size = pl.when(pl.col("dead").is_not_null()).then("codes")
    health = health.with_columns(evenness=pl.col("perplexity") / size, dead_share=pl.col("dead") / size)
    names = health["tokenizer"].unique(maintain_order=True).to_list()
    titles = [*(title for title, *_ in _LINES), "Ambiguous items"]
    made = panels(titles, columns=3, row_height=200, column_gap=0.09, row_gap=54)
    ends = [0.8, health["level"].to_numpy().max() + 0.2]
    for name in names:
        of_one = health.filter(pl.col("tokenizer") == name).sort("level")
        for panel, (_, field, unit, _) in enumerate(_LINES):
            y = (100 if unit else 1) * of_one[field].to_numpy()
            made.line(panel, of_one["level"].to_numpy(), y, name, "level %{x}: %{y:.3~g}" + unit)
    for panel, (_, field, unit, axis) in enumerate(_LINES):
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
        hover = f"at most {row['largest_collision']} items per identifier"
        made.bars(_COLLISIONS, [100 * rate], hover, name, at=[place], text=[percent(rate)], textangle=0)
    highest = float(one_each["collision_rate"].to_numpy().max())
    made.x(_COLLISIONS, showticklabels=False, title="one bar per tokenizer")
    made.y(_COLLISIONS, ticksuffix=" %", title="share of items", range=[0, 118 * highest or 1.0])
    largest = one_each.sort("largest_collision", descending=True).row(0, named=True)
    most = f"most items of one identifier: {largest['largest_collision']} ({listed([largest['tokenizer']])})"
    note = (f"The same {counted(max(items), 'item')}", most)
    return made.finish(said.tokenizers_title(health), *note, seed=seed, showlegend=True, bargap=0.35)


def _counts(
    codes: ArrayLike, sizes: Sequence[int], domains: ArrayLike
) -> tuple[tuple[str, ...], list[IntArray]]:
    """Return the domains, and for each level the number of items by code and domain, (K, T)."""
    sharing = domain_sharing(codes, np.asarray(domains).reshape(-1).tolist(), sizes)
    return sharing.domains, [table.T for table in sharing.counts]


def _shares_used_by(counts: Sequence[IntArray], used_by: int, of_items: bool) -> tuple[FloatArray, IntArray]:
    """Return by level the share and number of codes that exactly `used_by` domains use, or of their items."""
    weights = [table.sum(axis=1) if of_items else np.ones(len(table), dtype=np.int64) for table in counts]
    pairs = zip(counts, weights, strict=True)
    numbers = np.array([weight[(table > 0).sum(axis=1) == used_by].sum() for table, weight in pairs])
    return numbers / np.array([weight.sum() for weight in weights]), numbers


def neighbour_overlap(
    overlap: pl.DataFrame, *, n_items: int | None = None, seed: int | None = None
) -> go.Figure:
    """Draw the share of codes that items have in common with their K nearest items, over K: GMC Figure 4.

    overlap: frame `tokenizer, domain, k, overlap`; overlap is a share of the identifier's levels in 0..1.
    """
    require_columns(overlap, ("tokenizer", "domain", "k", "overlap"))
    domains = overlap["domain"].unique(maintain_order=True).to_list()
    tokenizers = overlap["tokenizer"].unique(maintain_order=True).to_list()
    made = panels(domains, row_height=240, shared_x=True, shared_y=True)
    # Values of K roughly double from one to the next; equal spacing keeps the small ones readable.
    ks = sorted(overlap["k"].unique().to_list())
    for panel, domain in enumerate(domains):
        for tokenizer in tokenizers:
            line = overlap.filter((pl.col("domain") == domain) & (pl.col("tokenizer") == tokenizer)).sort("k")
            x, y = [ks.index(k) for k in line["k"].to_list()], 100 * line["overlap"].to_numpy()
            custom = line["k"].to_numpy()
            made.line(panel, x, y, tokenizer, "K = %{customdata}: %{y:.1f} %", customdata=custom)
        made.outer(panel, "K nearest items", "codes in common")
    made.x(**numbered_axis([str(k) for k in ks]), tickangle=0)
    made.y(ticksuffix=" %")
    note = "Mean share of the levels at which an item and its K nearest items have the same code"
    items = "" if n_items is None else counted(n_items, "item")
    return made.finish(said.overlap_title(overlap), note, items, seed=seed, showlegend=True)


def collision_groups(codes: ArrayLike, domains: ArrayLike, *, seed: int | None = None) -> go.Figure:
    """Draw the items that share their identifier with items of the same domain, by group size and domain.

    codes: (N, L). domains: (N,) names.
    """
    table = np.asarray(codes, dtype=np.int64)
    names, domain_index = domains_of(domains, expected=len(table))
    ids = row_ids(np.column_stack([domain_index, table]))
    sizes = np.bincount(ids)[ids]
    any_ambiguous = bool((sizes > 1).any())
    edges = list(range(2, min(max(int(sizes.max(initial=1)), 2), 9) + 2))
    while edges[-1] <= sizes.max(initial=1):
        edges.append(2 * edges[-1])
    ranges = bin_names(np.array(edges))
    made = one_panel()
    for domain, name in enumerate(names):
        # Items with an identifier of their own are below the first edge.
        counts = np.histogram(sizes[domain_index == domain], bins=edges)[0]
        made.bars(0, counts, "%{y} items in groups of %{customdata}", name, customdata=ranges)
    made.x(**numbered_axis(ranges), title="items with the same identifier (group size)")
    made.y(title="items", rangemode="tozero")
    if not any_ambiguous:
        made.say(0, "No two items of a domain have the same codes.", width=60)
    note = (of_domains(len(table), names), "groups are within a domain")
    shown = len(names) > 1 and any_ambiguous
    title = said.collisions_title(sizes, domain_index, names)
    return made.finish(title, *note, seed=seed, barmode="stack", showlegend=shown, bargap=0.3)


def policy_costs(costs: pl.DataFrame, *, n_items: int | None = None, seed: int | None = None) -> go.Figure:
    """Draw the effect of each conflict policy: items whose codes it changed, and the distance this added.

    costs: frame `policy, moved, cost`, one row per policy, with the cost of `Resolution.cost`.
    """
    require_columns(costs, ("policy", "moved", "cost"))
    policies = [str(name) for name in costs["policy"].to_list()]
    moved, cost = costs["moved"].to_numpy(), costs["cost"].to_numpy().astype(float)
    titles = ["Items with changed codes", "Added distance to the last codeword"]
    made = panels(titles, columns=2, row_height=38 * len(policies) + 20, left_labels=90)
    changed = [f"{count:,}" + (f" ({percent(count / n_items)})" if n_items else "") for count in moved]
    distances = [f"{value:,.4g}" for value in cost]
    shown = (("items", moved, changed), ("distance, summed over items", cost, distances))
    for panel, (axis, values, texts) in enumerate(shown):
        names, hover = [label(policy) for policy in policies], "%{customdata}: %{text}<extra></extra>"
        made.bars(panel, values, hover, flat=True, text=texts, customdata=names)
        # Room for the number next to the longest bar.
        largest = float(np.max(values, initial=0.0))
        made.x(panel, range=[0, 1.45 * largest or 1], title=axis, nticks=5)
        made.rows(panel, policies)
    note = "An appended level changes no code but lengthens every identifier"
    if n_items is not None:
        note = f"{counted(n_items, 'item')}; {note[0].lower()}{note[1:]}"
    return made.finish(said.policies_title(policies, moved.tolist(), cost.tolist()), note, seed=seed)


def identifier_examples(
    codes: ArrayLike,
    titles: Sequence[str],
    domains: ArrayLike,
    *,
    items: ArrayLike | None = None,
    rows: int = 12,
    seed: int = 0,
) -> go.Figure:
    """Draw a table of items and their identifiers, sorted by codes; prefixes equal to the row above are bold.

    codes: (N, L). titles, domains: (N,). items: the items to show; by default a seeded choice of `rows` items
    from all domains, which prefers items with equal first codes.
    """
    table = np.asarray(codes, dtype=np.int64)
    names, domain_index = domains_of(domains, expected=len(table))
    if len(titles) != len(table):
        raise ValueError(f"titles: {len(titles)} values for {len(table)} items, expected one per item")
    chosen = (
        _examples(table, domain_index, rows, seed) if items is None else np.asarray(items, dtype=np.int64)
    )
    order = chosen[np.lexsort([*table[chosen].T[::-1], domain_index[chosen]])]
    shown = table[order]
    same = np.zeros(shown.shape, dtype=bool)
    if len(order) > 1:
        equal = (shown[1:] == shown[:-1]) & (domain_index[order][1:] == domain_index[order][:-1])[:, None]
        same[1:] = np.logical_and.accumulate(equal, axis=1)
    levels, plain = table.shape[1], [False] * len(order)
    columns: dict[str, list[Any]] = {"title": [titles[item] for item in order]}
    columns |= {"domain": [names[domain_index[item]] for item in order]}
    columns |= {f"level {level}": codes.tolist() for level, codes in enumerate(shown.T, 1)}
    return table_figure(
        said.examples_title(len(order), len(table), levels),
        f"Sorted by codes; bold: prefix shared with the row above; seed {seed}",
        columns,
        widths=[4.2, 2.2, *([0.8] * levels)],
        left=2,
        emphasis=[plain, plain, *same.T.tolist()],
    )


def _examples(codes: IntArray, domain_index: IntArray, rows: int, seed: int) -> IntArray:
    """Return at most `rows` items: from each domain, consecutive items in code order at a seeded position."""
    generator = np.random.default_rng(seed)
    parts = []
    for domain, part in enumerate(np.array_split(np.arange(min(rows, len(codes))), domain_index.max() + 1)):
        members = np.flatnonzero(domain_index == domain)
        ordered = members[np.lexsort(codes[members].T[::-1])]
        # Draw several ranges and take the one whose neighbours have the most first codes in common, because
        # items without a shared prefix are poor examples.
        starts = generator.integers(0, max(len(ordered) - len(part), 0) + 1, size=8)
        stretches = [ordered[start : start + len(part)] for start in starts]
        equal = [codes[one[1:], :2] == codes[one[:-1], :2] for one in stretches]
        alike = [np.logical_and.accumulate(one, axis=1).sum() for one in equal]
        parts.append(stretches[int(np.argmax(alike))])
    return np.concatenate(parts)
