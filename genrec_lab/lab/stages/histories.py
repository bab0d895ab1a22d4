"""The epoch records of stages 05 and 06 as a table and as lines of one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import polars as pl

from genrec_lab.lab.store import Run
from genrec_lab.viz.figures import recommender_curves

Records = Sequence[Mapping[str, Any]]
Histories = Mapping[str, Mapping[str, Records]]


def trainings(histories: Histories, rows: Sequence[str] | None = None) -> dict[str, Records]:
    """The trainings of some rows (None: of all) by the name "row scope", for `recommender_curves`."""
    return {
        f"{row} {scope}": records
        for row, scopes in histories.items()
        for scope, records in scopes.items()
        if rows is None or row in rows
    }


def training_figures(run: Run, histories: Histories) -> list[go.Figure]:
    """Draw and save the curves of every row, its trainings in one figure."""
    return [
        run.figure(
            f"training_{row}",
            recommender_curves(trainings(histories, [row]), seed=run.seed),
            f"Training loss and validation NDCG@10 of {row} by epoch.",
        )
        for row in histories
    ]


def training_summary(histories: Histories, monitor: str = "ndcg@10") -> pl.DataFrame:
    """A row a training: `training, epochs, best_epoch, <monitor>, minutes, samples_per_second, mfu`.

    best_epoch and the monitor are null where nothing was validated; epoch 0 is before any training. Speed
    and MFU (`training.operations`) are means over the epochs; of records without it the MFU is null.
    """
    rows = []
    for name, records in trainings(histories).items():
        validated = [record for record in records if monitor in record["metrics"]]
        best = max(validated, key=lambda record: float(record["metrics"][monitor]), default=None)
        trained = [record for record in records if record["epoch"] > 0]
        seconds = sum(record["seconds"] for record in records)
        rate = sum(record["samples_per_second"] for record in trained) / max(len(trained), 1)
        shares = [record["mfu"] for record in trained if record.get("mfu") is not None]
        mfu = round(sum(shares) / len(shares), 3) if shares else None
        found = (None, None) if best is None else (best["epoch"], best["metrics"][monitor])
        rows.append((name, len(trained), *found, round(seconds / 60, 2), round(rate), mfu))
    schema = ["training", "epochs", "best_epoch", monitor, "minutes", "samples_per_second", "mfu"]
    kinds = [pl.String, pl.Int64, pl.Int64, pl.Float64, pl.Float64, pl.Int64, pl.Float64]
    return pl.DataFrame(rows, schema=dict(zip(schema, kinds, strict=True)), orient="row")
