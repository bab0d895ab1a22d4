"""How much there is to win: from popularity, the floor, to the best possible, where it is known."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.figures.results import BEST_POSSIBLE, domain_order, summarise
from genrec_lab.viz.figures.training import metric_name
from genrec_lab.viz.layout import counted, finish_panels, numbered_axis, panels

_ROW = 34
_LABELS = 110


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
    made = panels(
        [metric_name(metric, k) for metric in metrics],
        columns=2,
        row_height=_ROW * len(domains) + 10,
        left_labels=_LABELS,
        column_gap=0.05,
    )
    for panel, table in enumerate(tables):
        lines = [
            (
                name,
                theme.MUTED if name == floor else theme.GOOD,
                "circle" if name == floor else "line-ns-open",
            )
            for name in (floor, BEST_POSSIBLE)
            if name in table["method"]
        ]
        reach = 1.22 * float(str(table["mean"].max())) or 1.0
        if len(lines) == 2:
            _join(made.figure, table, domains, floor, made.place(panel))
        for name, colour, symbol in lines:
            values = dict(table.filter(pl.col("method") == name).select("domain", "mean").iter_rows())
            made.figure.add_scatter(
                x=[values.get(domain) for domain in domains],
                y=list(range(len(domains))),
                mode="markers+text",
                name=name,
                legendgroup=name,
                showlegend=panel == 0,
                marker={"color": colour, "symbol": symbol, "size": 12, "line": {"width": 3, "color": colour}},
                text=[f"{values[domain]:.3f}" if domain in values else "" for domain in domains],
                textposition="top center" if name == floor else "middle right",
                textfont_size=11,
                cliponaxis=False,
                hovertemplate="%{x:.4f}",
                **made.place(panel),
            )
        made.figure.update_xaxes(range=[0, reach], nticks=6, **made.place(panel))
        made.figure.update_yaxes(
            **numbered_axis(domains),
            range=[len(domains) - 0.4, -0.7],
            showticklabels=made.is_left(panel),
            showgrid=False,
            **made.place(panel),
        )
    made.figure.update_layout(showlegend=True)
    users = records.filter(pl.col("domain") == domains[-1])["users"].max()
    note = f"{counted(int(str(users)), 'validation user')}; average: weighted by users"
    if BEST_POSSIBLE in tables[1]["method"]:
        note += "; best possible: what the best ranking can expect, known from the generator"
    return finish_panels(made, _title(tables[1], floor, domains[-1], metric_name("ndcg", k)), note)


def _join(
    figure: go.Figure, table: pl.DataFrame, domains: list[str], floor: str, place: dict[str, int]
) -> None:
    """The lines from floor to best possible, under the marks."""
    means = {
        (method, domain): mean
        for method, domain, mean in table.select("method", "domain", "mean").iter_rows()
    }
    x: list[float | None] = []
    y: list[float | None] = []
    for line, domain in enumerate(domains):
        x += [means.get((floor, domain)), means.get((BEST_POSSIBLE, domain)), None]
        y += [line, line, None]
    line_style = {"color": theme.TRACK, "width": 6}
    figure.add_scatter(x=x, y=y, mode="lines", line=line_style, hoverinfo="skip", showlegend=False, **place)


def _title(table: pl.DataFrame, floor: str, domain: str, metric: str) -> str:
    means = dict(table.filter(pl.col("domain") == domain).select("method", "mean").iter_rows())
    if BEST_POSSIBLE not in means:
        return f"{floor.capitalize()} alone reaches {metric} {means[floor]:.4f}"
    if means[floor] <= 0:
        return f"The best possible {metric} is {means[BEST_POSSIBLE]:.4f}; {floor} never hits"
    times = means[BEST_POSSIBLE] / means[floor]
    return f"The best possible {metric} is {means[BEST_POSSIBLE]:.3f}, {times:.1f} times that of {floor}"
