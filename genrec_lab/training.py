"""The one training loop: any model whose forward returns a loss, on whatever device accelerate finds.

It knows nothing of recommendation. A killed run goes on from its last checkpoint and gives the numbers of the unbroken one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class TrainingConfig(BaseModel):
    """How a model is trained; the presets say where their values come from."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: int = Field(100, ge=0)
    batch_size: int = Field(256, ge=1)  # samples a step, over all processes
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)  # share of all steps in which the learning rate rises from 0
    clip_norm: float | None = Field(1.0, gt=0)  # largest gradient norm
    precision: Literal["auto", "fp32", "bf16"] = (
        "auto"  # auto: bf16 where the hardware multiplies it natively
    )
    validate_every: int = Field(1, ge=1)  # epochs
    validate_from: int = Field(
        1, ge=0
    )  # the first epoch after which to look; 0 looks before any training too
    validation_users: int | None = Field(None, ge=1)  # a seeded sample of them; None takes all
    patience: int | None = Field(None, ge=1)  # validations without a better monitor before it stops
    monitor: str = "ndcg@10"


class Batches(Protocol):
    """An epoch's batches by epoch and seed, and how many there are."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, seed: int) -> Iterable[dict[str, Tensor]]: ...


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to."""

    epoch: int  # counted from 1
    loss: float  # mean over the samples
    learning_rate: float  # at its end
    samples_per_second: float
    seconds: float  # training and validation
    metrics: dict[str, float] = field(
        default_factory=dict
    )  # validation; empty where the epoch was not validated


@dataclass(frozen=True)
class TrainingResult:
    """The history of a training; the model holds the weights of `best_epoch`."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    best_value: float | None  # of the monitor; None where nothing was validated
    stopped_early: bool
    seconds: float


class Callback:
    """Hears of each step and epoch; all methods may be left out."""

    def on_step(self, step: int, steps: int, loss: float) -> None:
        """Called after some of the steps, at most a few times a second."""

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Called after each epoch."""

    def on_end(self, result: TrainingResult) -> None:
        """Called once at the end."""


class PrintEpochs(Callback):
    """One line an epoch, readable in a terminal and in a log file."""

    def __init__(self, title: str = "", every: int = 1) -> None:
        self.title, self.every = title, every

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Print loss, speed and validation metrics."""
        if record.epoch % self.every and record.epoch != epochs and not record.metrics:
            return
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in record.metrics.items())
        print(
            f"{self.title} epoch {record.epoch}/{epochs}  loss {record.loss:.4f}  "
            f"{record.samples_per_second:,.0f} samples/s  {record.seconds:.1f} s  {metrics}",
            flush=True,
        )


def bf16_is_native(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware, so that autocast gains time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision setting."""
    enabled = precision == "bf16" or (precision == "auto" and bf16_is_native(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def fit(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    *,
    validate: Callable[[], dict[str, float]] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: Path | None = None,
    seed: int = 0,
) -> TrainingResult:
    """Train the parameters that require gradients, keep the weights of the best validation, and return the history.

    `model(**batch)` is the loss; `validate()` gives metrics of which `config.monitor` is maximised. With `checkpoints` the state is
    written there after each epoch, and a later call with the same arguments goes on from it; the caller removes the folder when it is
    done with it. Raises FloatingPointError where the loss is not finite, KeyError where `validate` does not give the monitor.
    """
    torch.manual_seed(seed)
    accelerator = Accelerator()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient: nothing would be trained")
    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(_decay_groups(parameters, config), lr=config.learning_rate, fused=True)
    steps = len(batches) * config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, steps, config))
    wrapped, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    state = _State(
        Checkpoint(checkpoints) if checkpoints is not None else None, model, optimizer, schedule, names
    )
    started = time.monotonic() - state.resume()
    if validate is not None and config.validate_from == 0 and not state.history:
        clock = time.monotonic()
        state.take(EpochRecord(0, math.nan, 0.0, 0.0, time.monotonic() - clock, validate()), config)

    while state.epoch < config.epochs and not state.is_patient_no_more(config):
        clock = time.monotonic()
        model.train()
        loss, samples = _epoch(
            wrapped,
            batches(state.epoch, seed),
            accelerator,
            optimizer,
            schedule,
            config,
            callbacks,
            state,
            steps,
        )
        trained = time.monotonic() - clock
        state.epoch += 1
        metrics = validate() if validate is not None and _is_due(state.epoch, config) else {}
        rate = float(schedule.get_last_lr()[0])
        record = EpochRecord(state.epoch, loss, rate, samples / trained, time.monotonic() - clock, metrics)
        state.take(record, config)
        state.save(time.monotonic() - started)
        for callback in callbacks:
            callback.on_epoch(record, config.epochs)

    state.restore_best()
    model.eval()
    stopped = state.epoch < config.epochs
    best = None if state.best_value == -math.inf else state.best_value
    best_epoch = state.epoch if best is None else state.best_epoch
    result = TrainingResult(tuple(state.history), best_epoch, best, stopped, time.monotonic() - started)
    for callback in callbacks:
        callback.on_end(result)
    return result


def _epoch(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    accelerator: Accelerator,
    optimizer: Any,
    schedule: Any,
    config: TrainingConfig,
    callbacks: Sequence[Callback],
    state: _State,
    steps: int,
) -> tuple[float, int]:
    """Train one epoch; return the mean loss and the number of samples."""
    total, samples, told = 0.0, 0, time.monotonic()
    for batch in batches:
        size = len(next(iter(batch.values())))
        with autocast(accelerator.device, config.precision):
            loss = model(**{name: tensor.to(accelerator.device) for name, tensor in batch.items()})
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {state.step} of epoch {state.epoch + 1}: lower training.learning_rate "
                f"(now {config.learning_rate}) or set training.precision to 'fp32'"
            )
        accelerator.backward(loss)
        if config.clip_norm is not None:
            accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        state.step += 1
        total += value * size
        samples += size
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            for callback in callbacks:
                callback.on_step(state.step, steps, value)
    return total / max(samples, 1), samples


def _decay_groups(parameters: list[nn.Parameter], config: TrainingConfig) -> list[dict[str, Any]]:
    """Decay matrices only: shrinking a norm's scale or a bias regularises nothing."""
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Return the share of the learning rate at a step."""
    warmup = config.warmup * steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup))))
    if config.schedule == "inverse_sqrt":
        return math.sqrt(max(warmup, 1.0) / max(step, 1))
    return 1.0


def _is_due(epoch: int, config: TrainingConfig) -> bool:
    """Whether an epoch is validated: every so many from the first on, and the last one always."""
    return epoch == config.epochs or (epoch >= config.validate_from and epoch % config.validate_every == 0)


class _State:
    """Everything that a resumed training needs: counters, history, weights, moments, generators."""

    def __init__(
        self, checkpoint: Checkpoint | None, model: nn.Module, optimizer: Any, schedule: Any, names: list[str]
    ) -> None:
        self.checkpoint, self.model, self.optimizer, self.schedule = checkpoint, model, optimizer, schedule
        self.names = names
        self.epoch = self.step = self.best_epoch = self.since_best = 0
        self.best_value = -math.inf
        self.best: dict[str, Tensor] = {}
        self.history: list[EpochRecord] = []

    def take(self, record: EpochRecord, config: TrainingConfig) -> None:
        """Note an epoch, and its weights where it is the best so far."""
        self.history.append(record)
        if not record.metrics:
            return
        if config.monitor not in record.metrics:
            raise KeyError(
                f"training.monitor is {config.monitor!r}; validation gives {sorted(record.metrics)}"
            )
        value = record.metrics[config.monitor]
        self.since_best += 1
        if value > self.best_value:
            self.best_value, self.best_epoch, self.since_best = value, record.epoch, 0
            self.best = {name: tensor.detach().clone() for name, tensor in self._trained().items()}

    def is_patient_no_more(self, config: TrainingConfig) -> bool:
        """Whether `patience` validations went by without a better one."""
        return config.patience is not None and self.since_best >= config.patience

    def restore_best(self) -> None:
        """Give the model the weights of the best validation, where there was one."""
        trained = self._trained()
        with torch.no_grad():
            for name, tensor in self.best.items():
                trained[name].copy_(tensor)

    def _trained(self) -> dict[str, Tensor]:
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name].data for name in self.names}

    def save(self, seconds: float) -> None:
        """Write a checkpoint, where there is a place for it."""
        if self.checkpoint is None:
            return
        tensors = {f"model/{name}": tensor for name, tensor in self._trained().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items()}
        tensors["generator"] = torch.get_rng_state()
        counters = {
            "epoch": self.epoch,
            "step": self.step,
            "best_epoch": self.best_epoch,
            "since_best": self.since_best,
            "best_value": None if self.best_value == -math.inf else self.best_value,
            "seconds": seconds,
            "history": [asdict(record) for record in self.history],
        }
        self.checkpoint.write(tensors, counters)

    def resume(self) -> float:
        """Take up the last checkpoint, if there is one; return the seconds that were spent before it."""
        found = self.checkpoint.read() if self.checkpoint is not None else None
        if found is None:
            return 0.0
        tensors, counters = found
        with torch.no_grad():
            for name, tensor in self._trained().items():
                tensor.copy_(tensors[f"model/{name}"])
        self.best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, index, slot = name.split("/")
                slots.setdefault(int(index), {})[slot] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        for name in ("epoch", "step", "best_epoch", "since_best"):
            setattr(self, name, counters[name])
        self.best_value = -math.inf if counters["best_value"] is None else counters["best_value"]
        self.history = [EpochRecord(**record) for record in counters["history"]]
        scheduler = getattr(self.schedule, "scheduler", self.schedule)
        scheduler.last_epoch = self.step
        for group, base, factor in zip(
            self.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(self.step)
        scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        torch.set_rng_state(tensors["generator"])
        return float(counters["seconds"])


class Checkpoint:
    """The newest state of a training in a folder: tensors as safetensors, counters as json, replaced as one."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Write beside the old state and swap, so that a kill at any moment leaves one whole state."""
        epoch = counters["epoch"]
        partial, final = self.folder / f"epoch-{epoch}.partial", self.folder / f"epoch-{epoch}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            partial / "state.safetensors",
        )
        (partial / "counters.json").write_text(json.dumps(counters))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for _, old in self._states():
            if old != final:
                shutil.rmtree(old)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest whole state, or None."""
        states = sorted(self._states())
        if not states:
            return None
        newest = states[-1][1]
        return load_file(newest / "state.safetensors"), json.loads((newest / "counters.json").read_text())

    def _states(self) -> Iterator[tuple[int, Path]]:
        for path in list(self.folder.glob("epoch-*")):
            number = path.name.removeprefix("epoch-")
            if number.isdigit():
                yield int(number), path
