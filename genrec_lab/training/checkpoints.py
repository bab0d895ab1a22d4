"""The state of a training and its copy on disk, which stays complete if the process is killed."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from genrec_lab.data.whole_files import sha256_of, whole_folder
from genrec_lab.training.callbacks import EpochRecord
from genrec_lab.training.config import TrainingConfig

_HASH = "sha256"
_COUNTERS = ("epoch", "step", "best_epoch", "since_best")


def content_hash(*parts: np.ndarray | Tensor | pl.DataFrame | None) -> str:
    """Return a hash of arrays, tensors and frames, for the `identity` of a training."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, pl.DataFrame):
            found.update(part.write_json().encode())
        elif isinstance(part, Tensor):
            found.update(part.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        elif part is not None:
            found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()[:16]


class Checkpoint:
    """The latest state of a training in a folder, replaced atomically; safetensors and JSON."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Write next to the old state and swap, so that a complete state always exists."""
        final = self.folder / f"epoch-{counters['epoch']}"
        held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with whole_folder(final) as partial:
            save_file(held, partial / "state.safetensors")
            described = {**counters, _HASH: sha256_of(partial / "state.safetensors")}
            (partial / "counters.json").write_text(json.dumps(described))
        for _, old in self._states():
            if old != final:
                shutil.rmtree(old)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the latest undamaged state, or None; print which ones are damaged."""
        for _, folder in sorted(self._states(), reverse=True):
            try:
                counters = json.loads((folder / "counters.json").read_text())
                found = sha256_of(folder / "state.safetensors")
                # Older versions wrote no hash.
                if not isinstance(counters, dict) or counters.pop(_HASH, found) != found:
                    raise ValueError("its hash does not match: a failing disk, or a manual change")
                return load_file(folder / "state.safetensors"), counters
            except (OSError, ValueError) as error:
                print(f"{folder} is damaged ({error}): using the state before it", flush=True)
        return None

    def _states(self) -> Iterator[tuple[int, Path]]:
        for path in list(self.folder.glob("epoch-*")):
            number = path.name.removeprefix("epoch-")
            if number.isdigit():
                yield int(number), path


class TrainingState:
    """Everything that a resumed training needs to give the same numbers as an uninterrupted one.

    These are counters, history, weights, moments of the optimisers and states of the random generators.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        model: nn.Module,
        optimizers: list[Optimizer],
        names: list[str],
        identity: Mapping[str, Any],
    ) -> None:
        self.checkpoint, self.model, self.optimizers = checkpoint, model, optimizers
        self.names, self.identity = names, json.loads(json.dumps(dict(identity)))
        self.epoch = self.step = self.best_epoch = self.since_best = 0
        self.best_value = -math.inf
        self.best: dict[str, Tensor] = {}
        self.history: list[EpochRecord] = []

    def take(self, record: EpochRecord, config: TrainingConfig) -> None:
        """Record an epoch, and its weights if its validation is the best so far."""
        self.history.append(record)
        if not record.metrics or config.monitor is None:
            return
        if config.monitor not in record.metrics:
            raise KeyError(
                f"training.monitor is {config.monitor!r}; expected one of {sorted(record.metrics)}"
            )
        value = record.metrics[config.monitor]
        self.since_best += 1
        if value > self.best_value:
            self.best_value, self.best_epoch, self.since_best = value, record.epoch, 0
            self.best = {name: tensor.detach().clone() for name, tensor in self._trained().items()}

    def is_done(self, config: TrainingConfig) -> bool:
        """Return whether all epochs are done, or `patience` validations brought no improvement."""
        stopped = config.patience is not None and self.since_best >= config.patience
        return stopped or self.epoch >= config.epochs

    def restore_best(self) -> None:
        """Restore the weights of the best validation, if any."""
        trained = self._trained()
        with torch.no_grad():
            for name, tensor in self.best.items():
                trained[name].copy_(tensor)

    def _trained(self) -> dict[str, Tensor]:
        return {name: self.model.get_parameter(name).data for name in self.names}

    def _buffers(self) -> dict[str, Tensor]:
        """Return what is neither trained nor derived, such as a count of steps."""
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return {name: t for name, t in self.model.state_dict().items() if name not in parameters}

    def save(self, seconds: float) -> None:
        """Write a checkpoint, if it has a folder."""
        if self.checkpoint is None:
            return
        groups = {"model": self._trained(), "buffer": self._buffers(), "best": self.best}
        tensors = {f"{kind}/{name}": one for kind, held in groups.items() for name, one in held.items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{number}/{index}/{slot}": value for slot, value in slots.items()}
        tensors["generator"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["cuda_generator"] = torch.cuda.get_rng_state()
        counters = {
            "identity": self.identity,
            **{name: getattr(self, name) for name in _COUNTERS},
            "best_value": None if self.best_value == -math.inf else self.best_value,
            "seconds": seconds,
            "history": [asdict(record) for record in self.history],
        }
        self.checkpoint.write(tensors, counters)

    def resume(self) -> float:
        """Resume from the last checkpoint, if there is one; return the seconds spent before it.

        Raises ValueError if it belongs to a training with another identity.
        """
        found = self.checkpoint.read() if self.checkpoint is not None else None
        if found is None or self.checkpoint is None:
            return 0.0
        tensors, counters = found
        there = counters.get("identity", {})
        for key, here in self.identity.items():
            if key in there and there[key] != here:  # older versions wrote fewer keys
                raise ValueError(
                    f"{self.checkpoint.folder} belongs to a training with {key} = {there[key]!r}, this "
                    f"one has {here!r}; delete it to start again, or give another checkpoint folder"
                )
        with torch.no_grad():
            for kind, held in (("model", self._trained()), ("buffer", self._buffers())):
                for name, tensor in held.items():
                    tensor.copy_(tensors[f"{kind}/{name}"])
        self.best = _under("best/", tensors)
        for number, optimizer in enumerate(self.optimizers):
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _under(f"optimizer/{number}/", tensors).items():
                index, slot = name.split("/")
                slots.setdefault(int(index), {})[slot] = tensor
            optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
        for name in _COUNTERS:
            setattr(self, name, counters[name])
        self.best_value = -math.inf if counters["best_value"] is None else counters["best_value"]
        self.history = [EpochRecord(**record) for record in counters["history"]]
        torch.set_rng_state(tensors["generator"])
        if "cuda_generator" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["cuda_generator"])
        return float(counters["seconds"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the prefix, and strip it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
