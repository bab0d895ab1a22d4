"""Bars of results: methods by metric and domain, and the share of the best possible that each reaches.

The records frame is that of `genrec_lab.viz.figures.results`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.evaluation.ranking import AVERAGE
from genrec_lab.viz import theme
from genrec_lab.viz.figures.results import (
    BEST_POSSIBLE,
    domain_order,
    records_note,
    summarise,
    winner_title,
)
from genrec_lab.viz.figures.training import metric_name
from genrec_lab.viz.layout import (
    Panels,
    finish_panels,
    label,
    listed,
    numbered_axis,
    panels,
    percent,
    shorten,
)

# Pixels for the methods' names at the left.
_LABELS = 170


def metric_bars(
    records: pl.DataFrame, metric: str = "ndcg", k: int = 10, *, highlight: Sequence[str] | None = None
) -> go.Figure:
    """One metric by method and domain: a panel a domain and one for the average, a bar a method.

    Error bars: one standard deviation over seeds. Methods are ranked by the average, best on top, in every
    panel. highlight: the methods in full colour; by default the best. The best possible, where it is among
    the methods, is a dotted line. Raises ValueError for an unknown method in `highlight`.
    """
    table = summarise(records, metric, k)
    methods = _rivals(table)
    strong = methods[:1] if highlight is None else list(highlight)
    if unknown := [name for name in strong if name not in methods]:
        raise ValueError(f"highlight: {unknown} not among the methods {methods}")
    domains = domain_order(table)
    titles = ["Average, weighted by users" if name == AVERAGE else name for name in domains]
    made = _method_panels(titles, methods, row=26)
    for panel, domain in enumerate(domains):
        places, rows = _rows(table, domain, methods)
        means = rows["mean"].to_numpy()
        spreads = rows["sd"].fill_null(0.0).to_numpy()
        made.figure.add_bar(
            y=places,
            x=means,
            orientation="h",
            showlegend=False,
            marker_color=[theme.ACCENT if name in strong else theme.MUTED for name in rows["method"]],
            error_x=_error_bars(spreads),
            customdata=np.column_stack([_labels(rows), spreads, rows["seeds"].to_numpy()]),
            hovertemplate="%{customdata[0]}: %{x:.4f} ± %{customdata[1]:.4f}, seeds: %{customdata[2]}"
            "<extra></extra>",
            **made.place(panel),
        )
        # The number stands behind the error bar, so that neither covers the other.
        _write(made, panel, places, means + spreads, [f" {value:.4f}" for value in means], size=10)
        bound = _bound(table, domain)
        if bound is not None:
            made.figure.add_vline(x=bound, line_dash="dot", line_color=theme.REFERENCE, **made.place(panel))
        reach = max(float((means + spreads).max(initial=0.0)), (bound or 0.0) / 1.3) or 1.0
        title = metric_name(metric, k) if made.is_bottom(panel) else None
        made.figure.update_xaxes(range=[0, 1.42 * reach], nticks=4, title=title, **made.place(panel))
    clauses = []
    if any(seeds > 1 for seeds in table["seeds"]):
        clauses.append("error bars: one standard deviation over seeds")
    if BEST_POSSIBLE in table["method"]:
        clauses.append("dotted: the best possible")
    return finish_panels(made, winner_title(table, metric_name(metric, k)), records_note(records, *clauses))


def share_of_best(records: pl.DataFrame, metric: str = "ndcg", k: int = 10) -> go.Figure:
    """How much of the best possible each method reaches, as bullet bars, a panel a domain.

    records must have the method "best possible"; its value in a domain is the end of that domain's track.
    Domains for which it has no value above 0 are left out. Raises ValueError where it or any other method is
    missing.
    """
    table = summarise(records, metric, k)
    methods = _rivals(table)
    bounds = {name: _bound(table, name) or 0.0 for name in domain_order(table)}
    domains = [name for name, bound in bounds.items() if bound > 0]
    if not domains:
        raise ValueError(
            f"records: no value above 0 of the method {BEST_POSSIBLE!r} among {methods}; only Bazaar knows it"
        )
    titles = [
        f"{'Average' if name == AVERAGE else shorten(name, 36)}: {bounds[name]:.4f}" for name in domains
    ]
    made = _method_panels(titles, methods, row=28)
    for panel, domain in enumerate(domains):
        places, rows = _rows(table, domain, methods)
        shares = 100 * rows["mean"].to_numpy() / bounds[domain]
        made.figure.add_bar(
            y=places,
            x=np.full(len(places), 100.0),
            orientation="h",
            width=0.74,
            marker_color=theme.TRACK,
            hoverinfo="skip",
            showlegend=False,
            **made.place(panel),
        )
        made.figure.add_bar(
            y=places,
            x=shares,
            orientation="h",
            width=0.4,
            marker_color=theme.ACCENT,
            showlegend=False,
            customdata=np.column_stack([_labels(rows), rows["mean"].to_numpy()]),
            hovertemplate="%{customdata[0]}: %{x:.1f} % (%{customdata[1]:.4f})<extra></extra>",
            **made.place(panel),
        )
        _write(
            made, panel, places, np.maximum(shares, 100.0), [f" {share:.0f} %" for share in shares], size=11
        )
        made.figure.update_xaxes(
            range=[0, 1.3 * max(100.0, float(shares.max(initial=0.0)))],
            tickvals=[0, 50, 100],
            ticktext=["0 %", "50 %", "100 %"],
            tickangle=0,
            title="share of the best" if made.is_bottom(panel) else None,
            **made.place(panel),
        )
    made.figure.update_layout(barmode="overlay")
    return finish_panels(
        made,
        _share_title(table, domains[-1], bounds[domains[-1]], metric_name(metric, k)),
        records_note(
            records, "means over seeds; grey and above each panel: the best that any model could reach"
        ),
    )


def _rivals(table: pl.DataFrame) -> list[str]:
    """The methods by rank, without the bound."""
    methods = [str(name) for name in table["method"].unique(maintain_order=True) if name != BEST_POSSIBLE]
    if not methods:
        raise ValueError(
            f"records: no method but {BEST_POSSIBLE!r}; expected at least one to compare with it"
        )
    return methods


def _method_panels(titles: Sequence[str], methods: Sequence[str], row: int) -> Panels:
    """Panels with a line of `row` pixels a method, the methods' names at the left of the first column."""
    made = panels(
        titles,
        columns=4 if len(titles) <= 4 else 3,
        row_height=row * len(methods) + 12,
        left_labels=_LABELS,
        column_gap=0.035,
        row_gap=46,
    )
    for panel in range(made.count):
        made.figure.update_yaxes(
            **numbered_axis(methods, 26),
            range=[len(methods) - 0.4, -0.6],
            showticklabels=made.is_left(panel),
            showgrid=False,
            **made.place(panel),
        )
    return made


def _rows(table: pl.DataFrame, domain: str, methods: Sequence[str]) -> tuple[list[int], pl.DataFrame]:
    """The methods that have a value in a domain: their places from the top, and their rows in that order."""
    rows = table.filter((pl.col("domain") == domain) & (pl.col("method") != BEST_POSSIBLE))
    return [methods.index(name) for name in rows["method"]], rows


def _bound(table: pl.DataFrame, domain: str) -> float | None:
    rows = table.filter((pl.col("domain") == domain) & (pl.col("method") == BEST_POSSIBLE))
    return float(rows["mean"][0]) if rows.height else None


def _labels(rows: pl.DataFrame) -> npt.NDArray[np.object_]:
    return np.array([label(name, 60) for name in rows["method"]], dtype=object)


def _error_bars(spreads: npt.NDArray[np.float64]) -> dict[str, object]:
    return {"type": "data", "array": spreads, "visible": bool(spreads.any()), "thickness": 1.2, "width": 3}


def _write(
    made: Panels,
    panel: int,
    places: Sequence[int],
    x: npt.NDArray[np.float64],
    texts: Sequence[str],
    size: int,
) -> None:
    """Write a text a line, to the right of x."""
    made.figure.add_scatter(
        y=places,
        x=x,
        mode="text",
        text=texts,
        textposition="middle right",
        textfont_size=size,
        showlegend=False,
        hoverinfo="skip",
        cliponaxis=False,
        **made.place(panel),
    )


def _share_title(table: pl.DataFrame, domain: str, bound: float, shown: str) -> str:
    rows = table.filter((pl.col("domain") == domain) & (pl.col("method") != BEST_POSSIBLE))
    where = "on average" if domain == AVERAGE else f"in {listed([domain])}"
    if rows.height == 0:
        return f"The best possible {shown} {where} is {bound:.4f}"
    best = rows.sort("mean", descending=True).row(0, named=True)
    share = percent(best["mean"] / bound)
    return f"{listed([best['method']])} reaches {share} of the best possible {shown} {where}"
