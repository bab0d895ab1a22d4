"""What the trainings of all recommenders share: parts of the data, validation, curves, records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from genrec_lab.decoding import Ranked
from genrec_lab.evaluation import ndcg_at_k, recall_at_k
from genrec_lab.lab.stages.preparing import Prepared
from genrec_lab.training import Callback, TrainingResult, rank_in_shares
from genrec_lab.viz.live import LiveCurves

Watch = Callable[[str], Callback]
HISTORY_FILE = "history.json"  # beside each trained model


def part_of(frame: pl.DataFrame, domains: Sequence[str]) -> pl.DataFrame:
    """Return the users of some domains of one part of the split."""
    return frame.filter(pl.col("domain").is_in(list(domains)))


def training_part(data: Prepared, domains: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Return what of each user's sequence is trained on, all but the last two items, and whose it is."""
    rows = part_of(data.dataset.sequences, domains)
    sequences = [items[:-2] if len(items) > 2 else items for items in rows["items"].to_list()]
    return sequences, rows["user"].to_list()


def validator(
    recommend: Callable[[pl.DataFrame], Ranked], users: pl.DataFrame, most: int | None, seed: int
) -> Callable[[], dict[str, float]]:
    """Return what `fit` calls after an epoch: Recall and NDCG at 10 over (a seeded sample of) the users.

    `recommend(rows)` ranks 10 items for each row of `users`, which has user, domain, history and target;
    several processes rank a share each.
    """
    if most is not None and users.height > most:
        users = users.sample(most, seed=seed)
    targets = users["target"].to_numpy()

    def validate() -> dict[str, float]:
        ranked = rank_in_shares(recommend, users)
        return {"recall@10": recall_at_k(ranked, targets, 10), "ndcg@10": ndcg_at_k(ranked, targets, 10)}

    return validate


def curves(watch: Watch | None, title: str, seed: int) -> Callback:
    """Return the live curves of a training, by default those of `viz.live`."""
    return watch(title) if watch else LiveCurves.recommender(title=title, seed=seed, keep=False)


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
