"""What the trainings of all recommenders share: parts of the data, validation, curves, records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from genrec_lab.training import Callback, TrainingResult
from genrec_lab.viz.live import LiveCurves

Watch = Callable[[str], Callback]
HISTORY_FILE = "history.json"  # beside each trained model


def part_of(frame: pl.DataFrame, domains: Sequence[str]) -> pl.DataFrame:
    """Return the users of some domains of one part of the split."""
    return frame.filter(pl.col("domain").is_in(list(domains)))


def curves(watch: Watch | None, title: str, seed: int) -> Callback:
    """Return the live curves of a training, by default those of `viz.live`."""
    return watch(title) if watch else LiveCurves.recommender(title=title, seed=seed, keep=False)


def phase_curves(watch: Watch | None, title: str, seed: int) -> Callable[[str], Sequence[Callback]]:
    """Return the live curves of each phase of a fit, by the phase's name."""
    return lambda phase: (curves(watch, title if phase == "training" else f"{title}, {phase}", seed),)


def write_histories(model: Any, folder: Path) -> None:
    """Write the epoch records of a model's phases: the last one's in its folder, the others' beside it."""
    results = list(getattr(model, "results_", {}).items())
    for place, (phase, result) in enumerate(results, start=1):
        write_history(result, folder if place == len(results) else folder.with_name(f"{folder.name} {phase}"))


def write_history(result: TrainingResult, folder: Path) -> None:
    """Write the epoch records of a training beside its model."""
    content = {"best_epoch": result.best_epoch, "best_value": result.best_value, "seconds": result.seconds}
    epochs = [asdict(record) for record in result.history]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HISTORY_FILE).write_text(json.dumps(content | {"epochs": epochs}))


def read_histories(folder: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read the epoch records of all trainings below a folder, by row and scope."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for file in sorted(folder.glob(f"*/*/{HISTORY_FILE}")):
        found.setdefault(file.parent.parent.name, {})[file.parent.name] = json.loads(file.read_text())[
            "epochs"
        ]
    return found
