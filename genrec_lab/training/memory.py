"""What is told when a device's memory runs out: which setting to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TrainingMemoryError(RuntimeError):
    """A batch that the device cannot hold; the message says what to lower."""


@contextmanager
def batch_must_fit(samples: int, epoch: int, at_once: int | None, world: int = 1) -> Iterator[None]:
    """Turn a lack of device memory in a step of so many samples into a TrainingMemoryError with advice.

    at_once: the config's `samples_at_once`; world: the processes that share a batch.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        share = -(-samples // world)
        held = share if at_once is None else min(share, at_once)
        raise TrainingMemoryError(
            f"the device's memory ran out at a batch of {samples} samples in epoch {epoch}, {held} of them "
            f"at one time on this device; lower this training's samples_at_once (now {at_once}) to "
            f"{max(1, held // 2)} or less, which leaves the batch as it is, or set gradient_checkpointing, "
            f"or else lower its batch_size or pairs.max_history. Finished epochs are kept where there are "
            f"checkpoints, but only for the same "
            f"settings ({str(error)[:200]})"
        ) from error
