"""The ranked tables of a run or of its seeds, for the terminal and for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from genrec_lab.viz.figures.results import ranked_table
from genrec_lab.viz.figures.training import metric_name

_RANKED_BY = ("ndcg", 10)
_TEXT_COLUMNS = 2  # rank and method; what follows are numbers
_FIRST_VALUE = 3  # after rank, method and seeds


@dataclass(frozen=True)
class Rankings:
    """Methods, best first, as frames of text with the columns `rank, method, seeds` and then the values.

    ranked_by: the metric whose average the order follows. by_domain: for each metric, that one first, its
    value in every domain. averages: the average over domains of every metric.
    """

    ranked_by: str
    by_domain: dict[str, pl.DataFrame]
    averages: pl.DataFrame


def rankings(metrics: pl.DataFrame) -> Rankings | None:
    """Rank the methods of one run, or of one run a seed, by NDCG@10; None where nothing was recorded.

    metrics: frame `method, domain, metric, k, value, users, seed`, of several runs one below the other. Where
    no NDCG@10 was recorded the order follows the first metric that was.
    """
    metrics = metrics.filter(pl.col("k").is_not_null())
    if metrics.is_empty():
        return None
    measured = metrics.select(pl.col("metric").str.to_lowercase(), "k").unique(maintain_order=True).rows()
    main = _RANKED_BY if _RANKED_BY in measured else measured[0]
    order = [main, *(metric for metric in measured if metric != main)]
    return Rankings(
        ranked_by=metric_name(*main),
        by_domain={metric_name(*metric): ranked_table(metrics, *metric) for metric in order},
        averages=ranked_table(metrics, *main, columns="metrics"),
    )


def terminal_table(table: pl.DataFrame, title: str) -> Table:
    """A ranked table for a terminal, the best method in bold.

    In a narrow terminal "mean ± standard deviation" breaks before the second number; nothing is cut off.
    """
    shown = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        is_value = number >= _FIRST_VALUE
        justify: Literal["left", "right"] = "right" if number >= _TEXT_COLUMNS else "left"
        shown.add_column(Text(column), justify=justify, no_wrap=not is_value, overflow="fold")
    for row in table.rows():
        shown.add_row(*(Text(cell) for cell in row), style="bold" if row[0] == "1" else "")
    return shown
