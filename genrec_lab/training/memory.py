"""When the memory of a device runs out: which setting to lower, and what is safe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TrainingMemoryError(RuntimeError):
    """A batch that the device cannot hold; the message says what to lower."""


@contextmanager
def batch_must_fit(samples: int, epoch: int) -> Iterator[None]:
    """Turn a lack of device memory in a step of so many samples into a TrainingMemoryError with advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingMemoryError(
            f"the device's memory ran out at a batch of {samples} samples in epoch {epoch}; lower this "
            f"training's batch_size (and its learning_rate with it), or pairs.max_history. The epochs before "
            f"are kept where there are checkpoints, but only for the same settings ({str(error)[:200]})"
        ) from error
