"""Figures of identifiers: codes of similar items, collisions, and what uniqueness costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz.figures.data import bin_names
from genrec_lab.viz.layout import Domains, domains_of, numbered_axis, one_panel, panels, require_columns
from genrec_lab.viz.sentences import collisions_title, examples_title, overlap_title, policies_title
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.text import counted, label, noted, percent

IntArray = npt.NDArray[np.int64]


def neighbour_overlap(
    overlap: pl.DataFrame, *, n_items: int | None = None, seed: int | None = None
) -> go.Figure:
    """Codes that an item shares with its K nearest items, over K, by domain and tokenizer: GMC Figure 4.

    overlap: frame `tokenizer, domain, k, overlap`, the overlap a share of the identifier's levels in 0..1.
    """
    require_columns(overlap, ("tokenizer", "domain", "k", "overlap"))
    domains = overlap["domain"].unique(maintain_order=True).to_list()
    tokenizers = overlap["tokenizer"].unique(maintain_order=True).to_list()
    made = panels(domains, row_height=240, shared_x=True, shared_y=True)
    # Ks are tried in doublings or so; even steps keep the small ones apart.
    ks = sorted(overlap["k"].unique().to_list())
    for panel, domain in enumerate(domains):
        for tokenizer in tokenizers:
            line = overlap.filter((pl.col("domain") == domain) & (pl.col("tokenizer") == tokenizer)).sort("k")
            x, y = [ks.index(k) for k in line["k"].to_list()], 100 * line["overlap"].to_numpy()
            hover = "K = %{customdata}: %{y:.1f} %"
            made.line(panel, x, y, tokenizer, hover, customdata=line["k"].to_numpy())
        made.outer(panel, "K nearest items", "codes in common")
    made.x(**numbered_axis([str(k) for k in ks]), tickangle=0)
    made.y(ticksuffix=" %")
    note = noted(
        "Mean share of the levels at which an item and its K nearest items have the same code",
        "" if n_items is None else counted(n_items, "item"),
        seed=seed,
    )
    return made.finish(overlap_title(overlap), note, showlegend=True)


def collision_groups(codes: npt.ArrayLike, domains: npt.ArrayLike, *, seed: int | None = None) -> go.Figure:
    """Items whose identifier other items of their domain have too, by size of group and by domain.

    codes: (N, L). domains: (N,) names.
    """
    table = np.asarray(codes, dtype=np.int64)
    names = domains_of(domains, expected=len(table))
    sizes = _group_sizes(table, names)
    ambiguous = sizes > 1
    edges = _group_edges(int(sizes.max(initial=1)))
    ranges = bin_names(edges)
    made = one_panel()
    for domain, name in enumerate(names.names):
        counts = np.histogram(sizes[ambiguous & (names.index == domain)], bins=edges)[0]
        hover = "%{y} items in groups of %{customdata}"
        made.bars(0, counts, hover, name, customdata=ranges)
    made.x(**numbered_axis(ranges), title="items with the same identifier (group size)")
    made.y(title="items", rangemode="tozero")
    if not ambiguous.any():
        made.say(0, "No two items of a domain have the same codes.", width=60)
    note = f"{counted(len(table), 'item')} of {counted(len(names), 'domain')}"
    note = noted(note, "groups are inside a domain", seed=seed)
    shown = len(names) > 1 and bool(ambiguous.any())
    title = collisions_title(sizes, names.index, names.names)
    return made.finish(title, note, barmode="stack", showlegend=shown, bargap=0.3)


def policy_costs(costs: pl.DataFrame, *, n_items: int | None = None, seed: int | None = None) -> go.Figure:
    """What each conflict policy did: items whose codes it changed, and the distance that the changes cost.

    costs: frame `policy, moved, cost`, one row a policy, cost as `Resolution.cost` gives it.
    """
    require_columns(costs, ("policy", "moved", "cost"))
    policies = [str(name) for name in costs["policy"].to_list()]
    moved, cost = costs["moved"].to_numpy(), costs["cost"].to_numpy().astype(float)
    titles = ["Items with changed codes", "Added distance to the last codeword"]
    made = panels(titles, columns=2, row_height=38 * len(policies) + 20, left_labels=90)
    shown = (
        ("items", moved, [_moved_text(int(count), n_items) for count in moved]),
        ("distance, summed over items", cost, [f"{value:,.4g}" for value in cost]),
    )
    for panel, (axis, values, texts) in enumerate(shown):
        names, hover = [label(policy) for policy in policies], "%{customdata}: %{text}<extra></extra>"
        made.bars(panel, values, hover, flat=True, text=texts, customdata=names)
        # Room for the number behind the longest bar.
        largest = float(np.max(values, initial=0.0))
        made.x(panel, range=[0, 1.45 * largest or 1], title=axis, nticks=5)
        made.rows(panel, policies)
    note = "An appended level changes no code but lengthens every identifier"
    if n_items is not None:
        note = f"{counted(n_items, 'item')}; {note[0].lower()}{note[1:]}"
    return made.finish(policies_title(policies, moved.tolist(), cost.tolist()), noted(note, seed=seed))


def identifier_examples(
    codes: npt.ArrayLike,
    titles: Sequence[str],
    domains: npt.ArrayLike,
    *,
    items: npt.ArrayLike | None = None,
    rows: int = 12,
    seed: int = 0,
) -> go.Figure:
    """Items and their identifiers as a table, sorted by codes; codes equal to the row above are in bold.

    codes: (N, L). titles, domains: (N,). items: the items to show; by default a seeded choice of `rows` items
    that spreads over the domains and takes items with equal first codes together, so that the table shows
    what a shared prefix means.
    """
    table = np.asarray(codes, dtype=np.int64)
    names = domains_of(domains, expected=len(table))
    if len(titles) != len(table):
        raise ValueError(f"titles: {len(titles)} values for {len(table)} items, expected one an item")
    chosen = _examples(table, names, rows, seed) if items is None else np.asarray(items, dtype=np.int64)
    order = chosen[np.lexsort([*table[chosen].T[::-1], names.index[chosen]])]
    shown = table[order]
    same = np.zeros(shown.shape, dtype=bool)
    if len(order) > 1:
        equal = (shown[1:] == shown[:-1]) & (names.index[order][1:] == names.index[order][:-1])[:, None]
        same[1:] = np.logical_and.accumulate(equal, axis=1)
    levels = table.shape[1]
    plain = [False] * len(order)
    return table_figure(
        examples_title(len(order), len(table), levels),
        f"Sorted by codes; bold: the prefix of the row above; seed {seed}",
        ["title", "domain", *(f"level {level + 1}" for level in range(levels))],
        [
            [titles[item] for item in order],
            [names.names[names.index[item]] for item in order],
            *(shown[:, level].tolist() for level in range(levels)),
        ],
        widths=[4.2, 2.2, *([0.8] * levels)],
        left=2,
        emphasis=[plain, plain, *(same[:, level].tolist() for level in range(levels))],
    )


def _group_sizes(codes: IntArray, names: Domains) -> IntArray:
    """(N,): how many items of its domain have an item's identifier, itself included."""
    _, inverse, counts = np.unique(
        np.column_stack([names.index, codes]), axis=0, return_inverse=True, return_counts=True
    )
    return counts[inverse.reshape(-1)]


def _group_edges(largest: int) -> IntArray:
    edges = list(range(2, min(max(largest, 2), 9) + 2))
    while edges[-1] <= largest:
        edges.append(2 * edges[-1])
    return np.array(edges, dtype=np.int64)


def _moved_text(count: int, n_items: int | None) -> str:
    return f"{count:,}" if not n_items else f"{count:,} ({percent(count / n_items)})"


def _examples(codes: IntArray, names: Domains, rows: int, seed: int) -> IntArray:
    """At most `rows` items: in each domain, neighbours in code order around a seeded item."""
    generator = np.random.default_rng(seed)
    parts = []
    for domain, part in enumerate(np.array_split(np.arange(min(rows, len(codes))), len(names))):
        members = np.flatnonzero(names.index == domain)
        ordered = members[np.lexsort(codes[members].T[::-1])]
        # Of a few stretches drawn, the one whose neighbours have most first codes in common: a lone item
        # teaches little.
        starts = generator.integers(0, max(len(ordered) - len(part), 0) + 1, size=8)
        stretches = [ordered[start : start + len(part)] for start in starts]
        alike = [
            np.logical_and.accumulate(codes[one[1:], :2] == codes[one[:-1], :2], axis=1).sum()
            for one in stretches
        ]
        parts.append(stretches[int(np.argmax(alike))])
    return np.concatenate(parts)
