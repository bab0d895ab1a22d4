"""Figure of one ambiguous identifier: its items side by side, and what each policy would do to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.collisions import inside, policy_effects
from genrec_lab.viz.layout import counted, seeded
from genrec_lab.viz.tables import table_figure

_MOST_ROWS = 14
_SHOWN = {
    "nearest_free": "nearest free",
    "optimal": "optimal",
    "sinkhorn": "Sinkhorn",
    "extra_level": "extra level",
}


def collision_group(
    catalogue: CodedCatalogue, items: npt.ArrayLike, *, rank: int | None = None, seed: int | None = None
) -> go.Figure:
    """The items of one ambiguous identifier as a table: how alike they are, their codes under each policy.

    items: all of one identifier and domain. rank: the group's place by size, from 1, for the note. Codes in
    bold differ from what the item has now; the note has the cost of each policy.
    """
    measured = inside(catalogue, items)
    shown = measured.items[:_MOST_ROWS]
    cards, effects = catalogue.cards(shown), policy_effects(catalogue, measured.items, seed)
    n = len(measured.shown)
    away = [""] * len(shown)
    if measured.distances is not None and n > 1:
        mean = measured.distances.sum(axis=1) / (n - 1)
        away = [f"{value:.2f}" for value in mean[: len(shown)]]
    columns: list[list[str]] = [
        cards["title"].to_list(),
        [f"{count:,}" for count in cards["interactions"]],
        away,
    ]
    bold = [[False] * len(shown) for _ in columns]
    for policy in _SHOWN:
        of_policy = effects.filter(pl.col("policy") == policy).head(len(shown))
        columns.append([text or "not known" for text in of_policy["after"].to_list()])
        changed = of_policy["after"] != of_policy["before"]
        bold.append(changed.fill_null(False).to_list())
    title = f"{counted(len(measured.items), 'item')} of {cards['domain'][0]} are all {cards['codes'][0]}"
    if np.isfinite(measured.mean_distance):
        title += f", {measured.mean_distance:.2f} apart on average"
    return table_figure(
        title,
        seeded(_note(effects, measured.measure, len(shown), len(measured.items), rank), seed),
        ["title", "interactions", "mean distance", *_SHOWN.values()],
        columns,
        widths=[2.8, 1.65, 1.1, 1.5, 1.5, 1.5, 1.9],
        emphasis=bold,
    )


def _note(effects: pl.DataFrame, measure: str | None, shown: int, total: int, rank: int | None) -> str:
    note = f"{shown} of {counted(total, 'item')}"
    note += f", number {rank} of the groups by size" if rank is not None else ""
    note += f"; distance: {measure}" if measure else ""
    costs = effects.filter(pl.col("policy_cost") > 0).unique("policy", maintain_order=True)
    if costs.height:
        told = [
            f"{_SHOWN[row['policy']]} {row['policy_cost']:.3g} ({counted(row['policy_moved'], 'item')} moved)"
            for row in costs.iter_rows(named=True)
        ]
        note += f"; added distance to the last codewords: {', '.join(told)}"
    return note + "; in bold: another identifier than now"
