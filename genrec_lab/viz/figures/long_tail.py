"""The long tail: what each row finds by how popular the target is, beside another row (UTGRec Figure 4)."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz.layout import counted, escape, finish, listed, numbered_axis, require_columns
from genrec_lab.viz.theme import LEAN

_COLUMNS = ("group", "low", "users", "row", "value")
_MOST = 100  # percent; beyond, the colour stays
_DARK = -65  # percent; below, the colour is too dark for dark letters


def long_tail(by_group: pl.DataFrame, reference: str, *, metric: str = "NDCG@10") -> go.Figure:
    """Rows against groups of popularity: the metric as a number, its change from a reference row as colour.

    by_group: `group, low, users, row, value`, as of `metric_by_popularity`. The best of a group is bold.
    Where the reference finds nothing there is no colour. Raises ValueError for a reference that is no row.
    """
    require_columns(by_group, _COLUMNS)
    wide = by_group.sort("low").pivot(on="group", index="row", values="value", maintain_order=True)
    groups = by_group.sort("low").unique("group", maintain_order=True)
    if reference not in wide["row"]:
        raise ValueError(f"reference is {reference!r}; expected one of {sorted(wide['row'])}")
    values = wide.drop("row").to_numpy()
    order = np.argsort(-(values @ groups["users"].to_numpy()), kind="stable")
    values, names = values[order], [wide["row"][int(place)] for place in order]
    base = values[names.index(reference)]
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.where(base > 0, 100 * (values / base - 1), np.nan)
    best = (values == values.max(axis=0, keepdims=True)) & (values > 0)
    figure = go.Figure(
        go.Heatmap(
            z=change,
            zmin=-_MOST,
            zmax=_MOST,
            colorscale=LEAN,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            hovertemplate="%{z:+.0f} %<extra></extra>",
            colorbar={
                "tickvals": [-100, -50, 0, 50, 100],
                "ticktext": ["−100 %", "−50 %", "0", "+50 %", "≥ +100 %"],
                "thickness": 14,
                "len": 1.0,
            },
        )
    )
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.4f}".removeprefix("0") if value < 1 else "1"
        figure.add_annotation(
            x=column,
            y=row,
            text=f"<b>{text}</b>" if best[row, column] else text,
            showarrow=False,
            font={"color": _letters(float(change[row, column]))},
        )
    users = groups["users"].to_list()
    named = zip(groups["group"], users, strict=True)
    ticks = [f"{escape(name)}<br>{counted(number, 'user')}" for name, number in named]
    figure.update_xaxes(
        tickvals=list(range(len(ticks))),
        ticktext=ticks,
        title="interactions of the target in the training part",
        showgrid=False,
    )
    figure.update_yaxes(**numbered_axis(names, 24), autorange="reversed", showgrid=False)
    note = (
        f"{metric} of {counted(sum(users), 'test user')}; colour: change from {reference} in the same group; "
    )
    note += "rows by their mean over all users; bold: the best of a group"
    height = 30 * len(names) + 40
    return finish(figure, _title(names, values, groups, reference), note, plot_height=max(height, 170))


def _letters(change: float) -> str | None:
    """The colour of a number on its cell, in either mode; that of all text where there is no cell."""
    if not np.isfinite(change):
        return None
    return "#FFFFFF" if change < _DARK else "#14181D"


def _title(names: list[str], values: np.ndarray, groups: pl.DataFrame, reference: str) -> str:
    """Who is best where targets are rarest, and where they are most popular."""
    if len(names) == 1 or groups.height == 1:
        return f"What {listed([reference])} finds by the popularity of the target"
    found = np.flatnonzero(values.max(axis=0))
    if not len(found):
        return "No row finds any target"
    never = groups["low"][0] == 0 and found[0] > 0
    rarest, most = (names[int(values[:, column].argmax())] for column in (int(found[0]), -1))
    start = "No row finds what training never had; of the rest " if never else ""
    if rarest == most:
        return f"{start}{listed([rarest])} finds both the rarest and the most popular targets best"
    return f"{start}{listed([rarest])} finds the rarest targets best, {listed([most])} the most popular"
