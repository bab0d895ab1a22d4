"""The ranked table of a run or of its seeds: methods by their average over users, best first."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table

AVERAGE = "average"  # the domain name under which the user-weighted average over domains is recorded
_RANKED_BY = ("ndcg", 10)


@dataclass(frozen=True)
class RankedTable:
    """Methods, best first. columns: headings. rows: a name, then a cell a column, "" where not measured.

    ranked_by: the heading that the order follows. seeds: how many seeds a cell is the mean of, at most.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ranked_by: str
    seeds: int


def ranked_table(metrics: pl.DataFrame) -> RankedTable | None:
    """Rank the methods of one or several runs' metrics; None where nothing was recorded.

    metrics: frame `method, domain, metric, k, value, users, seed`. A cell is the value, or over several seeds
    "mean ± standard deviation". First come the averages over domains, then the ranking metric by domain.
    """
    if metrics.is_empty():
        return None
    metrics = metrics.with_columns(pl.col("metric").str.to_lowercase())
    domains = list(dict.fromkeys(metrics["domain"]))
    overall = AVERAGE if AVERAGE in domains else domains[0]
    measured = (
        metrics.filter(pl.col("domain") == overall).select("metric", "k").unique(maintain_order=True).rows()
    )
    main = _RANKED_BY if _RANKED_BY in measured else measured[0]
    cells = [(overall, metric) for metric in sorted(measured, key=lambda metric: (metric[1] or 0, metric[0]))]
    cells += [(domain, main) for domain in domains if domain != overall]
    summary = {
        (method, domain, metric, k): (mean, deviation, seeds)
        for method, domain, metric, k, mean, deviation, seeds in metrics.group_by(
            "method", "domain", "metric", "k"
        )
        .agg(pl.col("value").mean(), pl.col("value").std().alias("deviation"), pl.col("seed").n_unique())
        .rows()
    }
    worst = (float("-inf"), None, 0)
    methods = sorted(
        dict.fromkeys(metrics["method"]), key=lambda method: -summary.get((method, overall, *main), worst)[0]
    )
    return RankedTable(
        columns=("method", *(_heading(domain, *metric) for domain, metric in cells)),
        rows=tuple(
            (method, *(_cell(summary.get((method, domain, *metric))) for domain, metric in cells))
            for method in methods
        ),
        ranked_by=_heading(overall, *main),
        seeds=max(seeds for _, _, seeds in summary.values()),
    )


def terminal_table(table: RankedTable, title: str) -> Table:
    """The ranked table for a terminal."""
    shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=number == 0)
    for number, row in enumerate(table.rows):
        shown.add_row(*row, style="bold" if number == 0 else "")
    return shown


def _heading(domain: str, metric: str, k: int | None) -> str:
    name = {"ndcg": "NDCG", "recall": "Recall"}.get(metric, metric)
    return f"{name}{'' if k is None else f'@{k}'} {domain}"


def _cell(summary: tuple[float, float | None, int] | None) -> str:
    if summary is None:
        return ""
    mean, deviation, seeds = summary
    return f"{mean:.4f}" if seeds < 2 or deviation is None else f"{mean:.4f} ± {deviation:.4f}"
