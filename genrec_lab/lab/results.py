"""Metrics, figures and log of a run: what notebooks show, the report gathers and runs are compared by."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from plotly.graph_objects import Figure

from genrec_lab.lab.files import RunError, read_json, write_json, write_text
from genrec_lab.lab.keys import unknown_name

METRICS_SCHEMA = {
    "method": pl.String, "domain": pl.String, "metric": pl.String, "k": pl.Int64,
    "value": pl.Float64, "users": pl.Int64, "seed": pl.Int64,
}  # fmt: skip
_FIGURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def read_metrics(folder: Path) -> dict[str, Any]:
    """The content of a run folder's metrics.json.

    `{"records": [...], "notes": {method: {...}}, "skipped": {method: {"why", "stage"}}}`
    """
    file = folder / "metrics.json"
    empty: dict[str, Any] = {"records": [], "notes": {}, "skipped": {}}
    if not file.is_file():
        return empty
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("records"), list):
        raise RunError(f"{file} holds no list 'records'. Delete it and run the notebooks 05 to 07 again.")
    return empty | content


def metrics_frame(folder: Path) -> pl.DataFrame:
    """All metrics of a run folder as a frame `method, domain, metric, k, value, users, seed`."""
    records = read_metrics(folder)["records"]
    return pl.DataFrame([[record[name] for name in METRICS_SCHEMA] for record in records],
                        schema=METRICS_SCHEMA, orient="row")  # fmt: skip


def metric_records(
    method: str, rows: pl.DataFrame | Iterable[Mapping[str, Any]], seed: int
) -> list[dict[str, Any]]:
    """Validated metric records of one method; raises `RunError` at unknown, missing or non-finite values.

    A row has `domain, metric, value` and may have `k`, `users` and `seed` (by default the run's).
    """
    if not method.strip():
        raise RunError("Metrics need the name of a method, as 'gmc' or 'sasrec'; the name is empty.")
    records = []
    for row in rows.iter_rows(named=True) if isinstance(rows, pl.DataFrame) else rows:
        for name in row:
            if name not in METRICS_SCHEMA:
                raise RunError(f"A metric of {method!r} has the field {unknown_name(name, METRICS_SCHEMA)}")
        missing = [name for name in ("domain", "metric", "value") if row.get(name) is None]
        if missing:
            raise RunError(f"A metric of {method!r} lacks {', '.join(missing)}: {dict(row)}.")
        if not math.isfinite(row["value"]):
            raise RunError(
                f"{row['metric']} of {method!r} in domain {row['domain']!r} is {row['value']}, which cannot "
                "be compared. Look for an empty domain or a diverged training before it is recorded."
            )
        k, users = row.get("k"), row.get("users")
        records.append({
            "method": method, "domain": str(row["domain"]), "metric": str(row["metric"]),
            "k": None if k is None else int(k), "value": float(row["value"]),
            "users": None if users is None else int(users), "seed": int(row.get("seed", seed)),
        })  # fmt: skip
    if not records:
        raise RunError(f"The metrics of {method!r} are empty; nothing was evaluated.")
    cells = [tuple(record[field] for field in ("domain", "metric", "k", "seed")) for record in records]
    for cell in cells:
        if cells.count(cell) > 1:
            domain, metric, k, _ = cell
            raise RunError(f"The metrics of {method!r} state {metric}@{k} of {domain!r} more than once.")
    return records


def replace_metrics(
    folder: Path, method: str, records: list[dict[str, Any]], notes: Mapping[str, Any], stage: str | None
) -> None:
    """Put a method's records and notes in place of those it had; the caller holds the run's write lock."""
    content = read_metrics(folder)
    kept = [record for record in content["records"] if record["method"] != method]
    tagged = [{**record, "stage": stage} for record in records]
    others = {name: note for name, note in content["notes"].items() if name != method}
    if notes:
        others[method] = dict(notes)
    skipped = {name: reason for name, reason in content["skipped"].items() if name != method}
    _write_metrics(folder, kept + tagged, others, skipped)


def record_skipped(folder: Path, method: str, why: str, stage: str | None) -> None:
    """Put the reason why a method was skipped in place of what it had; the caller holds the write lock."""
    replace_metrics(folder, method, [], {}, stage)
    content = read_metrics(folder)
    skipped = content["skipped"] | {method: {"why": why, "stage": stage}}
    _write_metrics(folder, content["records"], content["notes"], skipped)


def _write_metrics(
    folder: Path, records: list[dict[str, Any]], notes: Mapping[str, Any], skipped: Mapping[str, Any]
) -> None:
    write_json(folder / "metrics.json", {"records": records, "notes": notes, "skipped": skipped})


def save_figure(folder: Path, name: str, figure: Figure, caption: str, stage: str | None) -> None:
    """Store a plotly figure as figures/<name>.json with its caption; the caller holds the write lock."""
    if not _FIGURE_NAME.fullmatch(name):
        raise RunError(f"A figure's name is letters, digits, '_' and '-', as 'utilisation'; got {name!r}.")
    if not isinstance(figure, Figure):
        raise RunError(f"run.figure({name!r}, …) takes a plotly Figure; got {type(figure).__name__}.")
    index = figure_index(folder)
    (folder / "figures").mkdir(exist_ok=True)
    write_text(folder / "figures" / f"{name}.json", str(figure.to_json()))
    index[name] = {"caption": caption, "stage": stage, "saved_at": time.time()}
    write_json(folder / "figures" / "index.json", index)


def figure_index(folder: Path) -> dict[str, dict[str, Any]]:
    """`{name: {"caption", "stage", "saved_at"}}` of a run's figures, in the order of their first saving."""
    file = folder / "figures" / "index.json"
    return dict(read_json(file)) if file.is_file() else {}


def drop_stage_results(folder: Path, stage: str, into: Path | None = None) -> None:
    """Take a stage's metrics and figures out of a run; the caller holds the write lock.

    They are kept in the folder `into`, whence `restore_stage_results` brings them back; None deletes them.
    """
    content, index = read_metrics(folder), figure_index(folder)
    gone = [record for record in content["records"] if record.get("stage") == stage]
    names = [name for name, entry in index.items() if entry["stage"] == stage]
    methods = {record["method"] for record in gone}
    notes = {method: note for method, note in content["notes"].items() if method in methods}
    skipped = {name: reason for name, reason in content["skipped"].items() if reason["stage"] == stage}
    if into is not None:
        figures = {name: read_json(folder / "figures" / f"{name}.json") for name in names}
        entries = {name: index[name] for name in names}
        write_json(into / "results.json",
                   {"records": gone, "notes": notes, "skipped": skipped,
                    "figures": figures, "index": entries})  # fmt: skip
    if gone or skipped:
        kept = [record for record in content["records"] if record not in gone]
        left = {method: note for method, note in content["notes"].items() if method not in methods}
        others = {name: reason for name, reason in content["skipped"].items() if name not in skipped}
        _write_metrics(folder, kept, left, others)
    _remove_figures(folder, names)


def drop_figures_before(folder: Path, stage: str, moment: float) -> None:
    """Remove a stage's figures that were last saved before `moment` (seconds of the epoch).

    After its notebook was executed from start to end those are the ones it does not make any more.
    The caller holds the write lock.
    """
    entries = figure_index(folder).items()
    _remove_figures(folder, [n for n, e in entries if e["stage"] == stage and e["saved_at"] < moment])


def _remove_figures(folder: Path, names: list[str]) -> None:
    if not names:
        return
    kept = {name: entry for name, entry in figure_index(folder).items() if name not in names}
    write_json(folder / "figures" / "index.json", kept)
    for name in names:
        (folder / "figures" / f"{name}.json").unlink(missing_ok=True)


def restore_stage_results(folder: Path, source: Path) -> None:
    """Bring back the metrics and figures that `drop_stage_results` kept; the caller holds the write lock."""
    kept = read_json(source / "results.json")
    if kept["records"] or kept["skipped"]:
        content = read_metrics(folder)
        records, notes = content["records"] + kept["records"], content["notes"] | kept["notes"]
        _write_metrics(folder, records, notes, content["skipped"] | kept["skipped"])
    if kept["figures"]:
        (folder / "figures").mkdir(exist_ok=True)
        for name, figure in kept["figures"].items():
            write_json(folder / "figures" / f"{name}.json", figure)
        write_json(folder / "figures" / "index.json", figure_index(folder) | kept["index"])


def append_log(folder: Path, record: Mapping[str, Any]) -> None:
    """Append one event to log.jsonl in a single write, so that lines of two processes never mix."""
    line = json.dumps(record, ensure_ascii=False, default=str) + "\n"
    with (folder / "log.jsonl").open("ab", buffering=0) as stream:
        stream.write(line.encode())


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The events of log.jsonl, without a last line that a kill cut off; raises at other malformed lines."""
    file = folder / "log.jsonl"
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            events.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise RunError(f"{file} line {number} is not JSON ({error}). Delete that line.") from error
    return events
