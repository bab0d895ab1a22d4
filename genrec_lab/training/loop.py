"""The training loop: epochs, steps, validation, early stopping, resuming."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genrec_lab.training import processes
from genrec_lab.training.callbacks import Callback, EpochRecord, TrainingResult
from genrec_lab.training.checkpoints import Checkpoint, TrainingState
from genrec_lab.training.config import (
    TrainingConfig,
    is_due,
    make_optimizers,
    rate_factor,
    with_enough_epochs,
)
from genrec_lab.training.devices import (
    autocast,
    batch_must_fit,
    compiled_layers,
    device,
    moved,
    placed,
    product_type,
    recomputed_layers,
)
from genrec_lab.training.operations import StepMeter

_LOOKS = 0.5  # seconds between readings of the loss, which synchronise with the device
LOSS = "loss"
# Settings that may differ when a training resumes: how long it lasts, and how a batch is computed.
_MAY_CHANGE = {"epochs", "least_steps", "patience", "samples_at_once", "gradient_checkpointing", "compile"}


class Batches(Protocol):
    """The batches of an epoch, and their number."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, seed: int) -> Iterable[Mapping[str, Any]]:
        """Yield the batches of one epoch (from 0), which depend only on epoch and seed.

        A batch maps the names of the model's arguments to tensors, or groups of tensors, whose first
        dimension is the sample. Several processes split a `genrec_lab.data.batches.Batch`; any other mapping
        is computed completely by each of them.
        """


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
    identity: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> TrainingResult:
    """Train the parameters that require gradients, restore the best weights, and return the history.

    The model is moved to `device()`. `model(**batch)` returns the loss, or a mapping of named scalars that
    includes "loss"; the others are recorded. `validate()` returns metrics, and `config.monitor` is maximised.

    With `checkpoints`, the state is written to that folder every `checkpoint_every` epochs and after the last
    one, and a later call with the same arguments resumes from it; the caller removes the folder. `identity`
    holds what must be equal to resume besides the seed and the config, such as the model's settings and
    hashes of the data (`content_hash`); the number of epochs may differ. Callbacks are called before the
    state is written, so after an interruption they may see an epoch twice, but never miss one.

    `optimizers` replace the config's, with its learning rate. Several processes, for example from
    `accelerate launch`, train one model (`processes`). All of them call `validate`; the first one writes and
    calls the callbacks, the others call only those that are `everywhere`.

    Raises FloatingPointError if the loss is not finite, TrainingMemoryError if a batch does not fit on the
    device, KeyError if `validate` does not return the monitor, ValueError for a checkpoint of another
    identity.
    """
    torch.manual_seed(seed)
    if os.environ.get("GENREC_DETERMINISTIC"):  # set by `genrec run --deterministic`
        torch.use_deterministic_algorithms(True)
    config = with_enough_epochs(config, len(batches))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        raise ValueError("the model has no parameter that requires a gradient, so nothing would be trained")
    placed(model)
    is_first = processes.number() == 0
    callbacks = [callback for callback in callbacks if is_first or callback.everywhere]
    optimizers = list(optimizers) if optimizers is not None else make_optimizers(model, config)
    checkpoint = Checkpoint(checkpoints) if checkpoints is not None else None
    settings = config.model_dump(mode="json", exclude=_MAY_CHANGE)
    of_training = {"seed": seed, **{f"training.{name}": value for name, value in settings.items()}}
    state = TrainingState(checkpoint, model, optimizers, names, {**(identity or {}), **of_training})
    started = time.monotonic() - state.resume()
    for callback in callbacks:
        callback.on_start(state.history)
    learning = _Learning(model, optimizers, config, callbacks, state, len(batches) * config.epochs)
    if validate is not None and config.validate_from == 0 and not state.history:
        clock = time.monotonic()
        metrics = processes.of_the_first(validate())
        seconds = time.monotonic() - clock
        state.take(EpochRecord(0, math.nan, 0.0, 0.0, seconds, metrics, steps=0, samples=0), config)

    while not state.is_done(config):
        clock, before = time.monotonic(), state.step
        model.train()
        with compiled_layers(model, config.compile), recomputed_layers(model, config.gradient_checkpointing):
            means, samples = learning.epoch(batches(state.epoch, seed))
        speed = samples / (time.monotonic() - clock)
        state.epoch += 1
        metrics = processes.of_the_first(validate()) if validate and is_due(state.epoch, config) else {}
        record = EpochRecord(
            epoch=state.epoch,
            loss=means.pop(LOSS, 0.0),
            learning_rate=learning.rate(),
            samples_per_second=speed,
            seconds=time.monotonic() - clock,
            metrics=metrics,
            mfu=learning.meter.mfu(speed),
            terms=means,
            steps=state.step - before,
            samples=samples,
        )
        state.take(record, config)
        for callback in callbacks:
            callback.on_epoch(record, config.epochs)
        if is_first and (state.epoch % checkpoint_every == 0 or state.is_done(config)):
            state.save(time.monotonic() - started)
        processes.wait()

    state.restore_best()
    model.eval()
    stopped = state.epoch < config.epochs
    best = None if state.best_value == -math.inf else state.best_value
    best_epoch = state.epoch if best is None else state.best_epoch
    result = TrainingResult(tuple(state.history), best_epoch, best, stopped, time.monotonic() - started)
    for callback in callbacks:
        callback.on_end(result)
    return result


# Selecting epochs does not use `genrec_lab.evaluation` on purpose: changing a metric there recomputes it from
# rankings, but does not retrain models.
def validation_metrics(ranked: np.ndarray, targets: np.ndarray, k: int = 10) -> dict[str, float]:
    """Return `recall@k` and `ndcg@k` of rankings (U, K), best first, for users with one target each (U,)."""
    hits = ranked[:, :k] == targets[:, None]
    found = hits.any(1)
    gains = np.where(found, 1.0 / np.log2(hits.argmax(1) + 2.0), 0.0)
    return {f"recall@{k}": float(found.astype(np.float64).mean()), f"ndcg@{k}": float(gains.mean())}


def validator(
    recommend: Callable[[pl.DataFrame], Any], users: pl.DataFrame, most: int | None, seed: int
) -> Callable[[], dict[str, float]]:
    """Return the function that `fit` calls after an epoch: Recall and NDCG at 10 of (sampled) users.

    `recommend(rows)` ranks 10 items for each row of `users`, which has user, domain, history and target;
    several processes split the users.
    """
    if most is not None and users.height > most:
        users = users.sample(most, seed=seed)
    targets = users["target"].to_numpy()
    return lambda: validation_metrics(processes.rank_in_shares(recommend, users).items, targets)


class _Learning:
    """The steps of a training; `steps` is their number in all epochs, for the schedule of the rate."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        config: TrainingConfig,
        callbacks: Sequence[Callback],
        state: TrainingState,
        steps: int,
    ) -> None:
        self.device = device()
        self.model = processes.together(model, self.device)
        self.optimizers, self.config, self.callbacks, self.state = optimizers, config, callbacks, state
        self.steps = steps
        kind = product_type(self.device, config.precision)
        self.meter = StepMeter(self.device, kind, counts=not config.compile)

    def epoch(self, batches: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float], int]:
        """Train one epoch; return the mean loss and terms over its samples, and the number of samples."""
        totals: dict[str, float] = {}
        # Losses stay on the device and are read together, because each read waits for the device.
        unread: list[tuple[dict[str, Tensor], int]] = []
        samples, looked = 0, time.monotonic()
        for batch in batches:
            size = processes.samples_of(batch)
            unread.append((self._step(batch, size), size))
            samples += size
            if time.monotonic() - looked > _LOOKS:
                looked = time.monotonic()
                loss = self._read(unread, totals)
                for callback in self.callbacks:
                    callback.on_step(self.state.step, self.steps, loss)
        self._read(unread, totals)
        return {name: total / samples for name, total in totals.items()}, samples

    def _read(self, unread: list[tuple[dict[str, Tensor], int]], totals: dict[str, float]) -> float:
        """Add the values of steps, each times its samples, to the totals; return the last loss, else 0.

        Raises FloatingPointError, naming the first such step, if a loss is not finite.
        """
        if not unread:
            return 0.0
        numbers = iter(torch.stack([value for values, _ in unread for value in values.values()]).tolist())
        for step, (values, size) in enumerate(unread, start=self.state.step - len(unread)):
            found = dict(zip(values, numbers, strict=False))
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + value * size
            if not math.isfinite(found[LOSS]):
                raise FloatingPointError(
                    f"the loss is {found[LOSS]} at step {step} of epoch {self.state.epoch + 1}: lower "
                    f"training.learning_rate (now {self.config.learning_rate}) or set training.precision to "
                    "'fp32'"
                )
        unread.clear()
        return found[LOSS]

    def _step(self, batch: Mapping[str, Any], size: int) -> dict[str, Tensor]:
        """Take one step on a batch; return its loss and terms, on the device."""
        config, state = self.config, self.state
        memory = batch_must_fit(size, state.epoch + 1, config.samples_at_once, processes.count())
        with memory, self.meter.step(size):
            values = self._gradients(batch)
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
            optimizer.step()
            optimizer.zero_grad()
        state.step += 1
        return values

    def _gradients(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Accumulate the gradients of a batch; return the whole batch's loss and terms."""
        parts = processes.own_parts(batch, processes.count(), processes.number(), self.config.samples_at_once)
        values: dict[str, Tensor] = {}
        # If every process computes the whole batch, they must not gather each other's rows.
        with processes.apart(parts[0].batch is batch):
            for number, (own, weight) in enumerate(parts, start=1):
                last = number == len(parts)
                with nullcontext() if last else processes.without_exchange(self.model):
                    with autocast(self.device, self.config.precision):
                        found = self.model(**moved(own, self.device))
                        found = found if isinstance(found, Mapping) else {LOSS: found}
                        weighted = {name: value * weight for name, value in found.items()}
                    weighted[LOSS].backward()
                for name, value in weighted.items():
                    learnt = value.detach().float()
                    values[name] = values[name] + learnt if name in values else learnt
        if processes.several():
            values = {name: processes.total(value) / processes.count() for name, value in values.items()}
        return values

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        return self.config.learning_rate * rate_factor(self.state.step, self.steps, self.config)
