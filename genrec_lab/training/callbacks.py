"""Records and callbacks of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar


@dataclass(frozen=True)
class EpochRecord:
    """The result of one epoch."""

    epoch: int  # counted from 1
    loss: float  # mean over the samples
    learning_rate: float  # at the end of the epoch
    samples_per_second: float
    seconds: float  # training and validation
    metrics: dict[str, Any] = field(default_factory=dict)  # empty if the epoch was not validated
    # Share of the device's matrix-product rate (`operations`); None in epoch 0 and in old records.
    mfu: float | None = None
    # Mean over the samples of the model's other returned terms.
    terms: dict[str, float] = field(default_factory=dict)
    steps: int | None = None  # optimiser steps in this epoch; None in old records, like the samples
    samples: int | None = None


@dataclass(frozen=True)
class TrainingResult:
    """The history of a training; the model holds the weights of `best_epoch`."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    best_value: float | None  # of the monitor; None without validation
    stopped_early: bool
    seconds: float

    def following(self, before: TrainingResult) -> TrainingResult:
        """Return the joined history of two consecutive trainings; epoch numbers continue."""
        done = len(before.history)
        return replace(
            self,
            history=before.history + tuple(replace(one, epoch=one.epoch + done) for one in self.history),
            best_epoch=self.best_epoch + done,
            seconds=before.seconds + self.seconds,
        )


class Callback:
    """Called after steps and epochs; a subclass overrides the methods that it needs.

    With several processes, only the first one calls it, and the others wait. With `everywhere`, all of them
    call it: they can share work with `processes.in_shares`, but only one may write files.
    """

    everywhere: ClassVar[bool] = False

    def on_start(self, history: Sequence[EpochRecord]) -> None:
        """Called before the first epoch, with the records of the epochs before an interruption."""

    def on_step(self, step: int, steps: int, loss: float) -> None:
        """Called after some steps, about twice a second."""

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Called after each epoch."""

    def on_end(self, result: TrainingResult) -> None:
        """Called once at the end."""


class PrintEpochs(Callback):
    """Prints a line after each epoch, for terminals and log files."""

    def __init__(self, title: str = "", every: int = 1) -> None:
        self.title, self.every = title, every

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Print loss, speed and validation metrics."""
        if record.epoch % self.every and record.epoch != epochs and not record.metrics:
            return
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in record.metrics.items())
        speed = "  ".join(speed_parts(asdict(record)))
        print(
            f"{self.title} epoch {record.epoch}/{epochs}  loss {record.loss:.4f}  {speed}  "
            f"{record.seconds:.1f} s  {metrics}",
            flush=True,
        )


def speed_parts(record: Mapping[str, Any]) -> list[str]:
    """Return the speed of an epoch as text: samples or items per second, and MFU."""
    units = {"samples_per_second": "samples/s", "items_per_second": "items/s"}
    parts = [f"{record[name]:,.0f} {unit}" for name, unit in units.items() if record.get(name)]
    return parts + ([f"MFU {record['mfu']:.0%}"] if record.get("mfu") is not None else [])
