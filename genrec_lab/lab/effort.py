"""What the training of each row took, so that a table shows which rows had more of it than others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from genrec_lab.lab.adapt import serving_tasks
from genrec_lab.lab.files import RunError
from genrec_lab.lab.prepare import Facts
from genrec_lab.lab.recommend import best_epoch, histories_of, item_model_tasks, recommender_tasks
from genrec_lab.lab.rows import generative_rows
from genrec_lab.lab.store import Run, Task

_SUMS = ("trainings", "steps", "samples", "minutes")
_COLUMNS = {
    "trainings": "trainings",
    "steps": "steps",
    "samples": "samples",
    "parameters": "parameters",
    "best_epochs": "best epochs",
    "minutes": "minutes",
    "users_per_second": "users/s ranked",
}


def effort_of(run: Run, facts: Facts, row: str) -> dict[str, Any]:
    """What the trainings of a row took together, tokenizers aside; empty if one is missing or unreadable.

    trainings: how many there were, over domains and phases. steps, samples: what the optimiser took, None of
    results of a version that did not count them. parameters: of the largest model. best_epochs: the epoch
    that was kept, of the last phase of each training.
    """
    tasks = _trainings(run, facts, row)
    states = [run.state(task, verify=False) for task in tasks]
    if not tasks or not all(state.usable for state in states):
        return {}
    found: dict[str, Any] = dict.fromkeys(_SUMS, 0) | {"best_epochs": [], "parameters": None}
    for task, state in zip(tasks, states, strict=True):
        folder = (task.of or run).folder / task.place
        try:
            histories = histories_of(folder, task.scope).values()
        except RunError:  # a damaged file, which `genrec doctor` reports
            return {}
        if not histories:
            continue  # a component from outside that keeps no history
        records = [record for history in histories for record in history]
        found["trainings"] += len(histories)
        found["minutes"] += sum(record["seconds"] for record in records) / 60
        for name in ("steps", "samples"):
            counts: list[Any] = [record.get(name) for record in records]
            known = found[name] is not None and None not in counts
            found[name] = found[name] + sum(counts) if known else None
        found["best_epochs"].append(best_epoch(folder))
        sizes = [found["parameters"], state.record.summary.get("parameters") if state.record else None]
        found["parameters"] = max((size for size in sizes if size is not None), default=None)
    return {**found, "minutes": round(found["minutes"], 2)}


def _trainings(run: Run, facts: Facts, row: str) -> list[Task]:
    """The results of stages 05 and 06 that a row's recommenders come from."""
    if row in generative_rows(run, facts):
        models, bases = serving_tasks(run, facts, row)
        before = recommender_tasks(run, facts, row)
        tasks = [*before.values(), *bases.values(), *models.values()]
    else:
        tasks = list(item_model_tasks(run, facts, row, pretrained=True).values())
    return list({task.place: task for task in tasks}.values())


def effort_table(notes: Mapping[str, Sequence[Mapping[str, Any]]]) -> pl.DataFrame:
    """What `Run.notes` says of rows as text, one line per row: means over its runs, best epochs run by run.

    notes: by row, what each run noted of it. Columns that no row has are left out, and rows without any note.
    """
    lines = []
    for row, of_runs in notes.items():
        noted = [note for note in of_runs if note]
        if noted:
            cells = {to: _cell(name, [note.get(name) for note in noted]) for name, to in _COLUMNS.items()}
            lines.append({"row": row} | cells)
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
