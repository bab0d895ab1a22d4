"""Bars of results by method and domain, as values or as shares of the best possible.

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
    rivals,
    summarise,
)
from genrec_lab.viz.figures.training import metric_name
from genrec_lab.viz.layout import Panels, error_bars, panels
from genrec_lab.viz.sentences import records_note, winner_title
from genrec_lab.viz.text import label, shorten

_METHODS = 170  # pixels for the names at the left


def metric_bars(
    records: pl.DataFrame,
    metric: str = "ndcg",
    k: int = 10,
    *,
    highlight: Sequence[str] | None = None,
    of_best: bool = False,
    users: str = "test user",
) -> go.Figure:
    """One metric by method and domain: a panel a domain and one for the average, a bar a method.

    Error bars, where there are several seeds: one standard deviation. Methods are ranked by the average, best
    on top, in every panel. highlight: the methods in full colour; by default the best. The best possible,
    where it is among the methods, is a dotted line. of_best: show each value as a share of the best possible
    of its domain; domains without one are left out. users: which users they are, for the note. Raises
    ValueError for an unknown method in `highlight`, and with `of_best` where no domain has a best possible
    above 0.
    """
    table = summarise(records, metric, k)
    methods = rivals(table)
    strong = methods[:1] if highlight is None else list(highlight)
    if unknown := [name for name in strong if name not in methods]:
        raise ValueError(f"highlight: {unknown} not among the methods {methods}")
    bounds = {name: _bound(table, name) for name in domain_order(table)}
    domains = [name for name, bound in bounds.items() if not of_best or bound]
    if not domains:
        raise ValueError(
            f"records: no value above 0 of the method {BEST_POSSIBLE!r} among {methods}; only Bazaar knows it"
        )
    shown = metric_name(metric, k)
    names = ["Average, weighted by users" if name == AVERAGE else name for name in domains]
    if of_best:
        names = [f"{shorten(name, 36)}: {bounds[name]:.4f}" for name in domains]
    made = _method_panels(names, methods, row=26)
    several = bool((table.filter(pl.col("method") != BEST_POSSIBLE)["seeds"] > 1).any())
    for panel, domain in enumerate(domains):
        places, rows = _rows(table, domain, methods)
        scale = 100 / (bounds[domain] or 1.0) if of_best else 1.0
        means, spreads = (scale * rows[name].fill_null(0.0).to_numpy() for name in ("mean", "sd"))
        made.bars(
            panel,
            means,
            "%{customdata[0]}: %{customdata[1]:.4f}, %{customdata[2]}<extra></extra>",
            at=places,
            flat=True,
            marker_color=[theme.ACCENT if name in strong else theme.MUTED for name in rows["method"]],
            error_x=error_bars(spreads),
            customdata=np.column_stack([_labels(rows), rows["mean"].to_numpy(), _spreads(rows)]),
        )
        # The number stands behind the error bar, so that neither covers the other.
        texts = [f" {value:.0f} %" if of_best else f" {value:.4f}" for value in means]
        _write(made, panel, places, means + spreads, texts, size=11)
        bound = 100.0 if of_best else bounds[domain]
        if bound is not None:
            dotted = {"line_dash": "dot", "line_color": theme.REFERENCE}
            made.figure.add_vline(x=bound, **dotted, **made.place(panel))
        reach = max(float((means + spreads).max(initial=0.0)), (bound or 0.0) / 1.3) or 1.0
        axis = "share of the best possible" if of_best else shown
        unit = {"ticksuffix": " %"} if of_best else {}
        title = axis if made.is_bottom(panel) else None
        made.x(panel, range=[0, 1.42 * reach], nticks=4, title=title, **unit)
    note = records_note(
        records,
        "error bars: one standard deviation over seeds" if several else "",
        "dotted: the best possible" if any(bounds.values()) else "",
        "above each panel: the best possible" if of_best else "",
        of=users,
    )
    return made.finish(winner_title(table, shown, BEST_POSSIBLE), note)


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


def _spreads(rows: pl.DataFrame) -> list[str]:
    """What a hover says of seeds: the spread only where there are several."""
    pairs = rows.select("sd", "seeds").iter_rows()
    return ["1 seed" if sd is None else f"± {sd:.4f} over {seeds} seeds" for sd, seeds in pairs]


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
