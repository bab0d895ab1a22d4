"""The results tables of a run or of its seeds, for the terminal and the report, and what made their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from genrec_lab.viz.figures.results import ranked_table
from genrec_lab.viz.figures.training import metric_name

_RANKED_BY = ("ndcg", 10)
_TEXT_COLUMNS = 2  # rank and method; what follows are numbers
_FIRST_VALUE = 3  # after rank, method and seeds
KEPT = "†"
"""Stands behind a row whose numbers were kept although the code behind them has changed."""


@dataclass(frozen=True)
class ResultTables:
    """Methods, best first, as frames of text with the columns `rank, method, seeds` and then the values.

    by_domain: for each metric its value in every domain, first the metric whose average sets the order.
    averages: the average over domains of every metric. note: explains the marks behind methods, empty where
    there are none.
    """

    by_domain: dict[str, pl.DataFrame]
    averages: pl.DataFrame
    note: str


def result_tables(metrics: pl.DataFrame, kept: Mapping[str, str] | None = None) -> ResultTables | None:
    """Rank the methods of one run, or of one run per seed, by NDCG@10; None if nothing was recorded.

    metrics: frame `method, domain, metric, k, value, users, seed`; those of several runs are concatenated.
    Where no NDCG@10 was recorded the first recorded metric sets the order. kept: the methods to mark, from
    `kept_rows`.
    """
    metrics = metrics.filter(pl.col("k").is_not_null())
    if metrics.is_empty():
        return None
    kept = {row: why for row, why in (kept or {}).items() if row in metrics["method"]}
    measured = metrics.select(pl.col("metric").str.to_lowercase(), "k").unique(maintain_order=True).rows()
    main = _RANKED_BY if _RANKED_BY in measured else measured[0]
    order = [main, *(metric for metric in measured if metric != main)]
    return ResultTables(
        by_domain={metric_name(*metric): _marked(ranked_table(metrics, *metric), kept) for metric in order},
        averages=_marked(ranked_table(metrics, *main, columns="metrics"), kept),
        note=kept_note(kept),
    )


def terminal_table(table: pl.DataFrame, title: str, note: str = "") -> Table:
    """A ranked table for a terminal, the best method in bold, the note below it.

    In a narrow terminal "mean ± standard deviation" breaks before the second number; nothing is cut off.
    """
    shown = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD,
        caption=Text(note) if note else None, caption_justify="left",
    )  # fmt: skip
    for number, column in enumerate(table.columns):
        is_value = number >= _FIRST_VALUE
        justify: Literal["left", "right"] = "right" if number >= _TEXT_COLUMNS else "left"
        shown.add_column(Text(column), justify=justify, no_wrap=not is_value, overflow="fold")
    for row in table.rows():
        shown.add_row(*(Text(cell) for cell in row), style="bold" if row[0] == "1" else "")
    return shown


def kept_reasons(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each result that was made by code that has changed since, naming what changed."""
    kept = [result for result in results if result.get("kept_despite")]
    sentences = (f"{one['stage']} was made before {', '.join(one['kept_despite'])} changed" for one in kept)
    return list(dict.fromkeys(sentences))


def kept_rows(provenance: Sequence[Mapping[str, Any]], rows: Iterable[str]) -> dict[str, str]:
    """The rows with a result that was made by code that has changed since, each with its `kept_reasons`.

    A result without a row serves every row, so it marks all of them.
    """
    found = {
        row: "; ".join(kept_reasons(each for each in provenance if each["row"] in (None, "", row)))
        for row in rows
    }
    return {row: reasons for row, reasons in found.items() if reasons}


def kept_note(kept: Mapping[str, str]) -> str:
    """What the mark `KEPT` behind rows means, rows with the same reasons together; empty without any."""
    if not kept:
        return ""
    reasons = [
        f"{', '.join(row for row in kept if kept[row] == why)}: {why}."
        for why in dict.fromkeys(kept.values())
    ]
    return f"{KEPT} Made by older code and kept by --keep-old-code. {' '.join(reasons)}"


def _marked(table: pl.DataFrame, kept: Mapping[str, str]) -> pl.DataFrame:
    return table.with_columns(pl.col("method").replace({row: f"{row} {KEPT}" for row in kept}))


def text_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame for `terminal_table`: numbers with four digits, nothing if a value is missing."""
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    rounded = frame.with_columns(pl.col(floats).round(4)).cast(pl.String).fill_null("")
    return rounded
