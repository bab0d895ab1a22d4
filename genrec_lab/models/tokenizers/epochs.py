"""Trains a tokenizer with the shared training loop and measures its codes after epochs.

A record is a mapping: `epoch`, counted from 1; the mean `loss` and other terms over the items; `seconds`
since epoch 1; `items_per_second` and `mfu` as in an EpochRecord; the result of `use_of_codes` for all items;
and `churn`, the share of items per level whose code changed since the previous record (None in the first).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrec_lab.codes import churn, use_of_codes
from genrec_lab.models.tokenizers.base import OnEpoch
from genrec_lab.training import Batches, Callback, EpochRecord, TrainingConfig, fit, processes
from genrec_lab.training.config import with_enough_epochs

_MONITOR = "fewest_collisions"
_MOST_KEPT = 16


class Lesson(nn.Module):
    """A model in training, with the codes (n, L) of its items after at most 16 of the measured epochs.

    A subclass returns the loss of a batch and its terms by name. The first and the last measured codes are
    always kept. They are part of the checkpoint.
    """

    def __init__(self, model: nn.Module, items: int, levels: int) -> None:
        super().__init__()
        self.model, self.shape = model, (items, levels)
        # A row per kept epoch, its number (0: none yet) and its codes.
        self.rows = torch.zeros((_MOST_KEPT, 1 + items * levels), dtype=torch.int32)

    @property
    def kept(self) -> dict[int, np.ndarray]:
        """The kept codes by epoch, in order."""
        rows = self.rows.numpy()
        return {int(row[0]): row[1:].reshape(self.shape).copy() for row in rows if row[0]}

    @property
    def last(self) -> np.ndarray | None:
        """The codes that were measured last; None before any."""
        count = int((self.rows[:, 0] > 0).sum())
        return self.rows[count - 1, 1:].numpy().reshape(self.shape).copy() if count else None

    def keep(self, epoch: int, codes: np.ndarray) -> None:
        """Keep the codes of an epoch; of more than 16, drop the one that the others miss least.

        That is the one between the nearest neighbours, relative to their number: codes change most in the
        first epochs.
        """
        rows = self.rows.numpy()
        epochs = [*rows[rows[:, 0] > 0, 0].tolist(), epoch]
        if len(epochs) > _MOST_KEPT:
            gaps = [(after - before) / after for before, after in zip(epochs, epochs[2:], strict=False)]
            dropped = 1 + int(np.argmin(gaps))
            rows[dropped:-1] = rows[dropped + 1 :].copy()
        rows[min(len(epochs), _MOST_KEPT) - 1] = np.append(epoch, codes.ravel())

    def get_extra_state(self) -> Tensor:
        """Return the rows; as a buffer, several processes would exchange them before every step."""
        return self.rows

    def set_extra_state(self, state: Tensor) -> None:
        """Set the rows."""
        self.rows = state


def train_in_epochs(
    lesson: Lesson,
    batches: Batches,
    training: TrainingConfig,
    *,
    tokenize: Callable[[], np.ndarray],
    sizes: Sequence[int],
    domains: Sequence[Any],
    on_epoch: OnEpoch = None,
    checkpoint: Path | None = None,
    report_every: int = 1,
    fewest_collisions: bool = False,
    **others: Any,
) -> list[dict[str, Any]]:
    """Train by `training.fit`; return the records of the first epoch, every `report_every`th and the last.

    tokenize: returns the current codes (n, L) of the items; `sizes` and `domains` (n,) belong to them.
    fewest_collisions: the model keeps the weights of the record with the lowest collision rate.
    others: arguments of `fit`. A resumed training calls `on_epoch` again with the earlier records. The state
    of the global generators is restored.
    """
    records = _Records(on_epoch if processes.number() == 0 else None)
    last = with_enough_epochs(training, len(batches)).epochs

    def measure() -> dict[str, Any]:
        """Return measurements of the codes, or an empty mapping if none are due."""
        epoch = records.epoch + 1
        if epoch not in (1, last) and epoch % report_every:
            return {}
        before, codes = lesson.last, tokenize()
        lesson.keep(epoch, codes)
        found = use_of_codes(codes, sizes, domains)
        chosen = {_MONITOR: -found["collision_rate"]} if fewest_collisions else {}
        changed = None if before is None else churn(before, codes).by_level.tolist()
        measured = {**found, "churn": changed, **chosen}
        return dict(json.loads(json.dumps(measured)))  # as read back from a checkpoint

    monitor = {"monitor": _MONITOR if fewest_collisions else None, "validate_every": 1, "validate_from": 1}
    training = training.model_copy(update=monitor)
    given = {"validate": measure, "callbacks": [records], "checkpoints": checkpoint, **others}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        fit(lesson, batches, training, **given)
    return records.made


class _Records(Callback):
    everywhere = True

    def __init__(self, notify: OnEpoch) -> None:
        self.notify, self.seconds, self.epoch = notify, 0.0, 0
        self.made: list[dict[str, Any]] = []

    def on_start(self, history: Sequence[EpochRecord]) -> None:
        for record in history:
            self.on_epoch(record, 0)

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        self.epoch = record.epoch
        self.seconds += record.seconds
        if record.metrics:
            terms = {"loss": record.loss, **record.terms}
            speed = {"items_per_second": record.samples_per_second, "mfu": record.mfu}
            codes = {name: value for name, value in record.metrics.items() if name != _MONITOR}
            made = {"epoch": record.epoch, **terms, **codes, "seconds": self.seconds, **speed}
            self.made.append(made)
            if self.notify is not None:
                self.notify(made)
