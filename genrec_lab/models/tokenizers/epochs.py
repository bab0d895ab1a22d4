"""The training of a tokenizer by the one loop: its epochs are measured, recorded and can be gone on from.

A record is a mapping: `epoch`, counted from 1, the mean `loss` and other terms over the items, `seconds`
since epoch 1, `items_per_second` and `mfu` as of an EpochRecord, what `use_of_codes` says of the codes of all
items, and `churn`, by level the share of items whose code is not that of the record before (None in the
first).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

from genrec_lab.codes import churn, use_of_codes
from genrec_lab.data.whole_files import whole_file
from genrec_lab.models.tokenizers.base import OnEpoch
from genrec_lab.training import Batches, Callback, EpochRecord, TrainingConfig, fit, processes
from genrec_lab.training.config import with_enough_epochs

_MONITOR = "fewest_collisions"


def train_in_epochs(
    model: nn.Module,
    batches: Batches,
    training: TrainingConfig,
    *,
    tokenize: Callable[[], np.ndarray],
    sizes: Sequence[int],
    domains: Sequence[Any],
    seed: int,
    on_epoch: OnEpoch = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1,
    report_every: int = 1,
    fewest_collisions: bool = False,
    identity: Mapping[str, Any] | None = None,
    **others: Any,
) -> list[dict[str, Any]]:
    """Train by `training.fit`; return the records of the first epoch, every `report_every`th and the last.

    model: returns the terms of the loss by name, as for `fit`. tokenize: returns the codes (n, L) of the
    items, of these `sizes` and `domains` (n,), as the model now names them. fewest_collisions: the model
    keeps the weights of the record with the lowest collision rate. identity: what must be equal for a
    checkpoint to fit. others: arguments of `fit`. A resumed training calls `on_epoch` with the earlier
    records again. The global generators are left as they were. Raises ValueError for a checkpoint of another
    training.
    """
    if checkpoint is not None and identity is not None:
        _require_same_training(checkpoint, identity)
    watched = _Watched(
        batches,
        tokenize,
        sizes,
        domains,
        last=with_enough_epochs(training, len(batches)).epochs,
        every=report_every,
        selects=fewest_collisions,
        folder=checkpoint,
        write_every=checkpoint_every,
        hear=on_epoch if processes.number() == 0 else None,
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        result = fit(
            model,
            watched,
            training.model_copy(update={"monitor": _MONITOR, "validate_every": 1, "validate_from": 1}),
            validate=watched.measure,
            callbacks=[watched],
            checkpoints=checkpoint,
            checkpoint_every=checkpoint_every,
            seed=seed,
            **others,
        )
    watched.replay(len(result.history))
    return list(processes.of_the_first(watched.records))


@dataclass
class _Watched(Callback):
    """The batches of a training, and what its codes have become after them.

    Beside the checkpoints `records.json` holds the records, `codes.safetensors` the codes (n, L) of the last
    ones of this writing and of the one before, by epoch: a kill between two files leaves records whose codes
    are still there.
    """

    batches: Batches
    tokenize: Callable[[], np.ndarray]
    sizes: Sequence[int]
    domains: Sequence[Any]
    last: int  # epoch
    every: int
    selects: bool
    folder: Path | None
    write_every: int
    hear: OnEpoch  # in the first process
    epoch: int = 0
    measured: tuple[np.ndarray, dict[str, Any]] | None = None
    written: str = ""  # the epoch whose codes the last writing kept
    is_replayed: bool = False

    def __post_init__(self) -> None:
        """Read the records of a killed training."""
        self.records, self.codes = _read(self.folder)
        self.before = self.records[-1]["seconds"] if self.records else 0.0
        self.started = time.monotonic()

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, epoch: int, seed: int) -> Iterable[Any]:
        """Yield the batches of an epoch (from 0)."""
        self.replay(epoch)
        self.epoch = epoch + 1
        return self.batches(epoch, seed)

    def replay(self, epochs: int) -> None:
        """Report once the records of so many epochs, which were trained before; drop those after them."""
        if not self.is_replayed:
            self.is_replayed = True
            self.records = [record for record in self.records if record["epoch"] <= epochs]
            self.written = str(self.records[-1]["epoch"]) if self.records else ""
            for record in self.records:
                self._report(record)

    def measure(self) -> dict[str, float]:
        """Tokenize where a record is due, in every process; return what weights are chosen by."""
        self.measured = None
        if self.epoch not in (1, self.last) and self.epoch % self.every:
            return {}
        codes = np.ascontiguousarray(self.tokenize())
        found = use_of_codes(codes, self.sizes, self.domains)
        self.measured = codes, found
        return {_MONITOR: -found["collision_rate"]} if self.selects else {}

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Record the epoch where it was measured."""
        if self.measured is not None:
            codes, found = self.measured
            before = self.codes.get(str(self.records[-1]["epoch"])) if self.records else None
            made = {
                "epoch": record.epoch,
                "loss": record.loss,
                **record.terms,
                **found,
                "seconds": self.before + time.monotonic() - self.started,
                "churn": None if before is None else churn(before, codes).by_level.tolist(),
                "items_per_second": record.samples_per_second,
                "mfu": record.mfu,
            }
            self.records.append(json.loads(json.dumps(made)))  # as they are read back
            kept = {self.written: self.codes[self.written]} if self.written in self.codes else {}
            self.codes = {**kept, str(record.epoch): codes}
            self._report(self.records[-1])
        if self.records and (record.epoch % self.write_every == 0 or record.epoch == epochs):
            self._write()

    def _report(self, record: dict[str, Any]) -> None:
        if self.hear is not None:
            self.hear(record)

    def _write(self) -> None:
        self.written = str(self.records[-1]["epoch"])
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / "codes.safetensors") as partial:
            save_file(self.codes, partial)
        with whole_file(self.folder / "records.json") as partial:
            partial.write_text(json.dumps(self.records))


def sha(content: np.ndarray) -> str:
    """Return a short hash of an array's bytes, by which a checkpoint knows its data again."""
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]


def _read(folder: Path | None) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return records and codes, none where there are none yet or a file is damaged, which is said."""
    if folder is None or not (folder / "records.json").is_file():
        return [], {}
    try:
        records = json.loads((folder / "records.json").read_text())
        return records, load_file(folder / "codes.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        print(f"{folder} holds damaged records ({error}): the earlier epochs have none", flush=True)
        return [], {}


def _require_same_training(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise ValueError where the folder holds the checkpoints of another training."""
    file, here = folder / "training.json", json.loads(json.dumps(dict(identity)))
    try:
        there = json.loads(file.read_text()) if file.is_file() else here
    except ValueError:
        there = here
    for key, value in here.items():
        if there.get(key) != value:
            raise ValueError(
                f"{folder} belongs to a training with {key} = {there.get(key)!r}, this one has {value!r}; "
                "delete it to train anew, or give another checkpoint folder"
            )
    if processes.number() == 0 and not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as partial:
            partial.write_text(json.dumps(here))
