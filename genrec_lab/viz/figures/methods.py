"""Bars of results by method and domain, the share of the best possible that each reaches, and what is to win.

The records frame is that of `genrec_lab.viz.figures.results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    rivals,
    summarise,
    winner_title,
)
from genrec_lab.viz.figures.training import metric_name
from genrec_lab.viz.layout import Panels, error_bars, panels
from genrec_lab.viz.text import counted, label, listed, noted, percent, shorten

# Pixels for the names at the left: of methods and of domains.
_METHODS, _DOMAINS = 170, 110


def metric_bars(
    records: pl.DataFrame, metric: str = "ndcg", k: int = 10, *, highlight: Sequence[str] | None = None
) -> go.Figure:
    """One metric by method and domain: a panel a domain and one for the average, a bar a method.

    Error bars: one standard deviation over seeds. Methods are ranked by the average, best on top, in every
    panel. highlight: the methods in full colour; by default the best. The best possible, where it is among
    the methods, is a dotted line. Raises ValueError for an unknown method in `highlight`.
    """
    table = summarise(records, metric, k)
    methods = rivals(table)
    strong = methods[:1] if highlight is None else list(highlight)
    if unknown := [name for name in strong if name not in methods]:
        raise ValueError(f"highlight: {unknown} not among the methods {methods}")
    domains, shown = domain_order(table), metric_name(metric, k)
    titles = ["Average, weighted by users" if name == AVERAGE else name for name in domains]
    made = _method_panels(titles, methods, row=26)
    for panel, domain in enumerate(domains):
        places, rows = _rows(table, domain, methods)
        means = rows["mean"].to_numpy()
        spreads = rows["sd"].fill_null(0.0).to_numpy()
        made.bars(
            panel,
            means,
            "%{customdata[0]}: %{x:.4f} ± %{customdata[1]:.4f}, seeds: %{customdata[2]}<extra></extra>",
            at=places,
            flat=True,
            marker_color=[theme.ACCENT if name in strong else theme.MUTED for name in rows["method"]],
            error_x=error_bars(spreads),
            customdata=np.column_stack([_labels(rows), spreads, rows["seeds"].to_numpy()]),
        )
        # The number stands behind the error bar, so that neither covers the other.
        _write(made, panel, places, means + spreads, [f" {value:.4f}" for value in means], size=10)
        bound = _bound(table, domain)
        if bound is not None:
            dotted = {"line_dash": "dot", "line_color": theme.REFERENCE}
            made.figure.add_vline(x=bound, **dotted, **made.place(panel))
        reach = max(float((means + spreads).max(initial=0.0)), (bound or 0.0) / 1.3) or 1.0
        made.x(panel, range=[0, 1.42 * reach], nticks=4, title=shown if made.is_bottom(panel) else None)
    note = records_note(
        records,
        "error bars: one standard deviation over seeds" if any(seeds > 1 for seeds in table["seeds"]) else "",
        "dotted: the best possible" if BEST_POSSIBLE in table["method"] else "",
    )
    return made.finish(winner_title(table, shown), note)


def share_of_best(records: pl.DataFrame, metric: str = "ndcg", k: int = 10) -> go.Figure:
    """How much of the best possible each method reaches, as bullet bars, a panel a domain.

    records must have the method "best possible"; its value in a domain is the end of that domain's track.
    Domains for which it has no value above 0 are left out. Raises ValueError where it or any other method is
    missing.
    """
    table = summarise(records, metric, k)
    methods = rivals(table)
    bounds = {name: _bound(table, name) or 0.0 for name in domain_order(table)}
    domains = [name for name, bound in bounds.items() if bound > 0]
    if not domains:
        raise ValueError(
            f"records: no value above 0 of the method {BEST_POSSIBLE!r} among {methods}; only Bazaar knows it"
        )
    names = ["Average" if name == AVERAGE else shorten(name, 36) for name in domains]
    titles = [f"{name}: {bounds[domain]:.4f}" for name, domain in zip(names, domains, strict=True)]
    made = _method_panels(titles, methods, row=28)
    for panel, domain in enumerate(domains):
        places, rows = _rows(table, domain, methods)
        shares = 100 * rows["mean"].to_numpy() / bounds[domain]
        track: dict[str, Any] = {
            "at": places,
            "flat": True,
            "marker_color": theme.TRACK,
            "hoverinfo": "skip",
            "width": 0.74,
        }
        made.bars(panel, np.full(len(places), 100.0), "", **track)
        hover = "%{customdata[0]}: %{x:.1f} % (%{customdata[1]:.4f})<extra></extra>"
        custom = np.column_stack([_labels(rows), rows["mean"].to_numpy()])
        made.bars(panel, shares, hover, at=places, flat=True, width=0.4, customdata=custom)
        texts = [f" {share:.0f} %" for share in shares]
        _write(made, panel, places, np.maximum(shares, 100.0), texts, size=11)
        made.x(
            panel,
            range=[0, 1.3 * max(100.0, float(shares.max(initial=0.0)))],
            tickvals=[0, 50, 100],
            ticktext=["0 %", "50 %", "100 %"],
            tickangle=0,
            title="share of the best" if made.is_bottom(panel) else None,
        )
    note = "means over seeds; grey and above each panel: the best that any model could reach"
    title = _share_title(table, domains[-1], bounds[domains[-1]], metric_name(metric, k))
    return made.finish(title, records_note(records, note), barmode="overlay")


def room_above(records: pl.DataFrame, floor: str = "popularity", *, k: int = 10) -> go.Figure:
    """Recall@k and NDCG@k of the floor and of the best possible, a line a domain.

    records: frame `method, domain, metric, k, value, users` with the floor and perhaps "best possible", of
    validation users. Raises ValueError where the floor is missing.
    """
    metrics = ("recall", "ndcg")
    tables = [summarise(records, metric, k) for metric in metrics]
    if floor not in tables[0]["method"]:
        raise ValueError(f"records: no method {floor!r} among {tables[0]['method'].unique().to_list()}")
    domains = domain_order(tables[0])
    titles = [metric_name(metric, k) for metric in metrics]
    height = 34 * len(domains) + 10
    made = panels(titles, columns=2, row_height=height, left_labels=_DOMAINS, column_gap=0.05)
    lines = np.arange(len(domains))
    for panel, table in enumerate(tables):
        means = {
            name: dict(table.filter(pl.col("method") == name).select("domain", "mean").iter_rows())
            for name in (floor, BEST_POSSIBLE)
            if name in table["method"]
        }
        if len(means) == 2:
            ends = [[values.get(domain, np.nan) for values in means.values()] for domain in domains]
            made.segments(panel, ends, np.column_stack([lines, lines]), theme.TRACK, 6)
        for name, values in means.items():
            colour, symbol, side = (
                (theme.MUTED, "circle", "top center")
                if name == floor
                else (theme.GOOD, "line-ns-open", "middle right")
            )
            made.points(
                panel,
                [values.get(domain, np.nan) for domain in domains],
                lines,
                name,
                "%{x:.4f}",
                theme.mark(colour, symbol, 12, width=3),
                mode="markers+text",
                text=[f"{values[domain]:.3f}" if domain in values else "" for domain in domains],
                textposition=side,
                textfont_size=11,
                cliponaxis=False,
            )
        made.x(panel, range=[0, 1.22 * float(table["mean"].to_numpy().max()) or 1.0], nticks=6)
        made.rows(panel, domains, above=0.7)
    users = records.filter(pl.col("domain") == domains[-1])["users"].max()
    known = "best possible: what the best ranking can expect, known from the generator"
    note = noted(
        counted(int(str(users)), "validation user"),
        "average: weighted by users",
        known if BEST_POSSIBLE in tables[1]["method"] else "",
    )
    title = _room_title(tables[1], floor, domains[-1], metric_name("ndcg", k))
    return made.finish(title, note, showlegend=True)


def _method_panels(titles: Sequence[str], methods: Sequence[str], row: int) -> Panels:
    """Panels with a line of `row` pixels a method, the methods' names at the left of the first column."""
    made = panels(
        titles,
        columns=4 if len(titles) <= 4 else 3,
        row_height=row * len(methods) + 12,
        left_labels=_METHODS,
        column_gap=0.035,
        row_gap=46,
    )
    for panel in range(made.count):
        made.rows(panel, methods, 26)
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


def _write(
    made: Panels,
    panel: int,
    places: Sequence[int],
    x: npt.NDArray[np.float64],
    texts: Sequence[str],
    size: int,
) -> None:
    """Write a text a line, to the right of x."""
    trace = {"x": x, "y": places, "text": texts, "mode": "text", "textposition": "middle right"}
    silent = {"showlegend": False, "hoverinfo": "skip", "cliponaxis": False}
    made.add(panel, go.Scatter(**trace, textfont_size=size, **silent))


def _share_title(table: pl.DataFrame, domain: str, bound: float, shown: str) -> str:
    rows = table.filter((pl.col("domain") == domain) & (pl.col("method") != BEST_POSSIBLE))
    where = "on average" if domain == AVERAGE else f"in {listed([domain])}"
    if rows.height == 0:
        return f"The best possible {shown} {where} is {bound:.4f}"
    best = rows.sort("mean", descending=True).row(0, named=True)
    share = percent(best["mean"] / bound)
    return f"{listed([best['method']])} reaches {share} of the best possible {shown} {where}"


def _room_title(table: pl.DataFrame, floor: str, domain: str, metric: str) -> str:
    means = dict(table.filter(pl.col("domain") == domain).select("method", "mean").iter_rows())
    if BEST_POSSIBLE not in means:
        return f"{floor.capitalize()} alone reaches {metric} {means[floor]:.4f}"
    if means[floor] <= 0:
        return f"The best possible {metric} is {means[BEST_POSSIBLE]:.4f}; {floor} never hits"
    times = means[BEST_POSSIBLE] / means[floor]
    return f"The best possible {metric} is {means[BEST_POSSIBLE]:.3f}, {times:.1f} times that of {floor}"
