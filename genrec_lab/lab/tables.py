"""The results tables of a run or of its seeds, for the terminal and the report, and what made their rows.

Also what the training of each row took, which shows the rows that had more of it than others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from genrec_lab.lab.adapt import serving_tasks
from genrec_lab.lab.recommend import best_epoch, histories_of, item_model_tasks, recommender_tasks
from genrec_lab.lab.rows import Facts
from genrec_lab.lab.store import Run, Task
from genrec_lab.viz.figures.results import ranked_table
from genrec_lab.viz.figures.training import metric_name

_RANKED_BY = ("ndcg", 10)
_TEXT_COLUMNS = 2  # rank and method; what follows are numbers
_FIRST_VALUE = 3  # after rank, method and seeds
_COLUMNS = {
    "trainings": "trainings",
    "steps": "steps",
    "samples": "samples",
    "parameters": "parameters",
    "best_epochs": "best epochs",
    "minutes": "minutes",
    "users_per_second": "users/s ranked",
}
KEPT = "†"  # stands behind a row whose numbers were kept although the code behind them has changed


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
    found = {row: kept_reasons(each for each in provenance if each["row"] in (None, "", row)) for row in rows}
    return {row: "; ".join(reasons) for row, reasons in found.items() if reasons}


def kept_note(kept: Mapping[str, str]) -> str:
    """What the mark `KEPT` behind rows means, rows with the same reasons together; empty without any."""
    by_reason: dict[str, list[str]] = {}
    for row, why in kept.items():
        by_reason.setdefault(why, []).append(row)
    reasons = " ".join(f"{', '.join(rows)}: {why}." for why, rows in by_reason.items())
    return f"{KEPT} Made by older code and kept by --keep-old-code. {reasons}" if kept else ""


def _marked(table: pl.DataFrame, kept: Mapping[str, str]) -> pl.DataFrame:
    return table.with_columns(pl.col("method").replace({row: f"{row} {KEPT}" for row in kept}))


def text_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame for `terminal_table`: numbers with four digits, nothing if a value is missing."""
    return frame.with_columns(pl.selectors.float().round(4)).cast(pl.String).fill_null("")


def effort_of(facts: Facts, row: str) -> dict[str, Any]:
    """What the trainings of a row took together, tokenizers aside; empty if one is missing or damaged.

    trainings: how many there were, over domains and phases. steps, samples: what the optimiser took, None if
    a component did not count them. parameters: of the largest model. best_epochs: the epoch that was kept, of
    the last phase of each training.
    """
    tasks = _trainings(facts, row)
    if not tasks or not all(facts.run.state(task).usable for task in tasks):
        return {}
    histories: list[list[dict[str, Any]]] = []
    best_epochs, sizes = [], []
    for task in tasks:
        folder = facts.run.read(task)
        if found := histories_of(folder, task.scope):  # a component from outside may keep no history
            histories += found.values()
            best_epochs.append(best_epoch(folder))
        record = facts.run.state(task, verify=False).record
        sizes.append(record.summary.get("parameters") if record is not None else None)
    records = [record for history in histories for record in history]
    counts: dict[str, list[Any]] = {name: [one.get(name) for one in records] for name in ("steps", "samples")}
    return {
        "trainings": len(histories),
        **{name: None if None in counted else sum(counted) for name, counted in counts.items()},
        "minutes": round(sum(record["seconds"] for record in records) / 60, 2),
        "best_epochs": best_epochs,
        "parameters": max((size for size in sizes if size is not None), default=None),
    }


def _trainings(facts: Facts, row: str) -> list[Task]:
    """The results of stages 05 and 06 that a row's recommenders come from."""
    if row in facts.generative:
        models, bases = serving_tasks(facts, row)
        before = recommender_tasks(facts, row)
        tasks = [*before.values(), *bases.values(), *models.values()]
    else:
        tasks = list(item_model_tasks(facts, row, pretrained=True).values())
    return list({task.place: task for task in tasks}.values())


def effort_table(notes: Mapping[str, Sequence[Mapping[str, Any]]]) -> pl.DataFrame:
    """What `Run.notes` says of rows as text, one line per row: means over its runs, best epochs run by run.

    notes: by row, what each run noted of it. Columns that no row has are left out, and rows without any note.
    """
    lines = [
        {"row": row}
        | {to: _cell(name, [note.get(name) for note in of_runs]) for name, to in _COLUMNS.items()}
        for row, of_runs in notes.items()
        if any(of_runs)
    ]
    frame = pl.DataFrame(lines, infer_schema_length=None)
    return frame.select(name for name in frame.columns if (frame[name] != "").any())


def notes_by_row(runs: Iterable[Run]) -> dict[str, list[dict[str, Any]]]:
    """What some runs noted of each of their rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for row, note in run.notes().items():
            found.setdefault(row, []).append(note)
    return found


def _cell(name: str, values: Sequence[Any]) -> str:
    known = [value for value in values if value is not None and value != []]
    if not known:
        return ""
    if name == "best_epochs":
        return "; ".join(", ".join(map(str, epochs)) for epochs in known)
    mean = sum(known) / len(known)
    return f"{mean:,.1f}" if name == "minutes" else f"{mean:,.0f}"
