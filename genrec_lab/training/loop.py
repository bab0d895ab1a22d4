"""The loop itself: epochs, steps, validation, early stopping, resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from genrec_lab.training.callbacks import Callback, EpochRecord, TrainingResult
from genrec_lab.training.checkpoints import Checkpoint
from genrec_lab.training.configs import TrainingConfig, is_due, rate_factor, with_enough_epochs
from genrec_lab.training.precision import autocast
from genrec_lab.training.state import TrainingState


class Batches(Protocol):
    """An epoch's batches by epoch and seed, and how many there are."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, seed: int) -> Iterable[dict[str, Tensor]]:
        """Yield the batches of one epoch (from 0), fixed by epoch and seed."""


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
    """Train the parameters that require gradients, keep the best validation's weights, return the history.

    `model(**batch)` is the loss; `validate()` gives metrics of which `config.monitor` is maximised. With
    `checkpoints` the state is written there after each epoch, and a later call with the same arguments goes
    on from it; the caller removes the folder when it is done with it. Raises FloatingPointError where the
    loss is not finite, KeyError where `validate` does not give the monitor.
    """
    torch.manual_seed(seed)
    config = with_enough_epochs(config, len(batches))
    accelerator = Accelerator()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient: nothing would be trained")
    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(_decay_groups(parameters, config), lr=config.learning_rate, fused=True)
    steps = len(batches) * config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps, config))
    wrapped, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    state = TrainingState(
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
        metrics = validate() if validate is not None and is_due(state.epoch, config) else {}
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
    state: TrainingState,
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
                f"the loss is {value} at step {state.step} of epoch {state.epoch + 1}: lower "
                f"training.learning_rate (now {config.learning_rate}) or set training.precision to 'fp32'"
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
