"""The loop itself: epochs, steps, validation, early stopping, resuming."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import find_batch_size
from torch import Tensor, nn
from torch.optim import Optimizer

from genrec_lab.training import processes
from genrec_lab.training.callbacks import Callback, EpochRecord, TrainingResult
from genrec_lab.training.checkpoints import Checkpoint
from genrec_lab.training.configs import TrainingConfig, is_due, rate_factor, with_enough_epochs
from genrec_lab.training.layers import compiled_layers, recomputed_layers
from genrec_lab.training.memory import batch_must_fit
from genrec_lab.training.operations import StepMeter
from genrec_lab.training.optimizers import make_optimizers, set_learning_rate
from genrec_lab.training.precision import autocast, product_type
from genrec_lab.training.processes import accelerator_of_all, learn
from genrec_lab.training.state import TrainingState

# What a model is called with: tensors whose first dimension is the sample, or groups of them by name.
Batch = Mapping[str, Tensor] | Mapping[str, Mapping[str, Tensor]]


class Batches(Protocol):
    """An epoch's batches by epoch and seed, and how many there are."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, seed: int) -> Iterable[Batch]:
        """Yield the batches of one epoch (from 0), fixed by epoch and seed."""


def fit(
    model: nn.Module,
    batches: Batches,
    config: TrainingConfig,
    *,
    validate: Callable[[], dict[str, float]] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: Path | None = None,
    checkpoint_every: int = 1,
    optimizers: Sequence[Optimizer] | None = None,
    seed: int = 0,
) -> TrainingResult:
    """Train the parameters that require gradients, keep the best validation's weights, return the history.

    `model(**batch)` is the loss; `validate()` gives metrics of which `config.monitor` is maximised. With
    `checkpoints` the state is written there after every `checkpoint_every` epochs and the last, and a later
    call with the same arguments goes on from it; the caller removes the folder when it is done with it.
    `optimizers` take the place of the config's, with its learning rate. Callbacks hear of an epoch before its
    state is written, so after a kill they may hear of one twice, and miss none. Raises FloatingPointError
    where the loss is not finite, TrainingMemoryError where the device cannot hold a batch, KeyError where
    `validate` does not give the monitor. Several processes, as of `accelerate launch`, train one model
    (`processes`); all call `validate`, the first one writes and calls back.
    """
    torch.manual_seed(seed)
    config = with_enough_epochs(config, len(batches))
    accelerator = accelerator_of_all()
    callbacks = callbacks if accelerator.is_main_process else ()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient: nothing would be trained")
    model.to(accelerator.device)
    optimizers = list(optimizers) if optimizers is not None else make_optimizers(model, config)
    steps = len(batches) * config.epochs
    wrapped, *prepared = accelerator.prepare(model, *optimizers)
    state = TrainingState(
        Checkpoint(checkpoints) if checkpoints is not None else None, model, optimizers, names
    )
    started = time.monotonic() - state.resume()
    kind = product_type(accelerator.device, config.precision)
    meter = StepMeter(accelerator.device, kind, counts=not config.compile)
    learning = _Learning(wrapped, accelerator, prepared, config, callbacks, state, steps, meter)
    if validate is not None and config.validate_from == 0 and not state.history:
        clock = time.monotonic()
        metrics = processes.of_the_first(validate())
        state.take(EpochRecord(0, math.nan, 0.0, 0.0, time.monotonic() - clock, metrics), config)

    while state.epoch < config.epochs and not state.is_patient_no_more(config):
        clock = time.monotonic()
        model.train()
        with compiled_layers(model, config.compile), recomputed_layers(model, config.gradient_checkpointing):
            loss, samples = learning.epoch(batches(state.epoch, seed))
        trained = time.monotonic() - clock
        state.epoch += 1
        due = validate is not None and is_due(state.epoch, config)
        metrics = processes.of_the_first(validate()) if validate and due else {}
        rate = config.learning_rate * rate_factor(state.step, steps, config)
        speed = samples / trained
        seconds = time.monotonic() - clock
        record = EpochRecord(state.epoch, loss, rate, speed, seconds, metrics, meter.mfu(speed))
        state.take(record, config)
        for callback in callbacks:
            callback.on_epoch(record, config.epochs)
        due = state.epoch % checkpoint_every == 0 or state.epoch == config.epochs
        if accelerator.is_main_process and due:
            state.save(time.monotonic() - started)
        accelerator.wait_for_everyone()

    state.restore_best()
    model.eval()
    stopped = state.epoch < config.epochs
    best = None if state.best_value == -math.inf else state.best_value
    best_epoch = state.epoch if best is None else state.best_epoch
    result = TrainingResult(tuple(state.history), best_epoch, best, stopped, time.monotonic() - started)
    for callback in callbacks:
        callback.on_end(result)
    return result


@dataclass(frozen=True)
class _Learning:
    """What all epochs of one training share."""

    model: nn.Module  # as accelerate wrapped it
    accelerator: Accelerator
    optimizers: Sequence[Optimizer]
    config: TrainingConfig
    callbacks: Sequence[Callback]
    state: TrainingState
    steps: int  # of all epochs
    meter: StepMeter

    def epoch(self, batches: Iterable[Batch]) -> tuple[float, int]:
        """Train one epoch; return the mean loss and the number of samples."""
        total, samples, told = 0.0, 0, time.monotonic()
        for batch in batches:
            size = find_batch_size(batch)
            value = self._step(batch, size)
            total += value * size
            samples += size
            if time.monotonic() - told > 0.5:
                told = time.monotonic()
                for callback in self.callbacks:
                    callback.on_step(self.state.step, self.steps, value)
        return total / max(samples, 1), samples

    def _step(self, batch: Batch, size: int) -> float:
        """Learn from one batch; return its loss."""
        config, state, accelerator = self.config, self.state, self.accelerator
        memory = batch_must_fit(size, state.epoch + 1, config.samples_at_once, accelerator.num_processes)
        with memory, self.meter.step(size):
            value = learn(
                self.model,
                batch,
                accelerator,
                config.samples_at_once,
                lambda: autocast(accelerator.device, config.precision),
            )
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {state.step} of epoch {state.epoch + 1}: lower "
                f"training.learning_rate (now {config.learning_rate}) or set training.precision to 'fp32'"
            )
        if config.clip_norm is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        rate = config.learning_rate * rate_factor(state.step, self.steps, config)
        set_learning_rate(self.optimizers, rate)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.step += 1
        return value
