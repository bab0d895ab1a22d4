"""Trains a tokenizer with the shared training loop and measures its codes after epochs.

A record is a mapping: `epoch`, counted from 1; the mean `loss` and other terms over the items; `seconds`
since epoch 1; `items_per_second` and `mfu` as in an EpochRecord; the result of `use_of_codes` for all items;
and `churn`, the share of items per level whose code changed since the previous record (None in the first).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


class Lesson(nn.Module):
    """A model in training, with the last measured codes (n, L) of its items.

    A subclass returns the loss of a batch and its terms by name. The codes are part of the checkpoint.
    """

    def __init__(self, model: nn.Module, items: int, levels: int) -> None:
        super().__init__()
        self.model = model
        self.codes = torch.full((items, levels), -1)

    def get_extra_state(self) -> Tensor:
        """Return the codes; as a buffer, several processes would exchange them before every step."""
        return self.codes

    def set_extra_state(self, state: Tensor) -> None:
        """Set the codes."""
        self.codes = state


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
    last = with_enough_epochs(training, len(batches)).epochs
    watched = _Measured(lesson, batches, tokenize, sizes, domains, report_every, last, fewest_collisions)
    records = _Records(on_epoch if processes.number() == 0 else None)
    monitor = {"monitor": _MONITOR if fewest_collisions else None, "validate_every": 1, "validate_from": 1}
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        fit(
            lesson,
            watched,
            training.model_copy(update=monitor),
            validate=watched.measure,
            callbacks=[records],
            checkpoints=checkpoint,
            **others,
        )
    return records.made


@dataclass
class _Measured:
    """The batches of a training, and the measurement of its codes after an epoch."""

    lesson: Lesson
    batches: Batches
    tokenize: Callable[[], np.ndarray]
    sizes: Sequence[int]
    domains: Sequence[Any]
    every: int
    last: int  # epoch
    selects: bool
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, epoch: int, seed: int) -> Iterable[Any]:
        self.epoch = epoch + 1
        return self.batches(epoch, seed)

    def measure(self) -> dict[str, Any]:
        """Return measurements of the codes, or an empty mapping if none are due."""
        if self.epoch not in (1, self.last) and self.epoch % self.every:
            return {}
        before, codes = self.lesson.codes, torch.from_numpy(np.ascontiguousarray(self.tokenize()))
        self.lesson.codes = codes
        found = use_of_codes(codes.numpy(), self.sizes, self.domains)
        chosen = {_MONITOR: -found["collision_rate"]} if self.selects else {}
        changed = churn(before.numpy(), codes.numpy()).by_level.tolist() if before.min() >= 0 else None
        measured = {**found, "churn": changed, **chosen}
        return dict(json.loads(json.dumps(measured)))  # as read back from a checkpoint


class _Records(Callback):
    everywhere = True

    def __init__(self, hear: OnEpoch) -> None:
        self.hear, self.seconds = hear, 0.0
        self.made: list[dict[str, Any]] = []

    def on_start(self, history: Sequence[EpochRecord]) -> None:
        for record in history:
            self.on_epoch(record, 0)

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        self.seconds += record.seconds
        if record.metrics:
            terms = {"loss": record.loss, **record.terms}
            speed = {"items_per_second": record.samples_per_second, "mfu": record.mfu}
            codes = {name: value for name, value in record.metrics.items() if name != _MONITOR}
            made = {"epoch": record.epoch, **terms, **codes, "seconds": self.seconds, **speed}
            self.made.append(made)
            if self.hear is not None:
                self.hear(made)
