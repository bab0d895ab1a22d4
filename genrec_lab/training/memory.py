"""A device's memory: layers that keep less of it, and which setting to lower when it runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class TrainingMemoryError(RuntimeError):
    """A batch that the device cannot hold; the message says what to lower."""


@contextmanager
def recomputed_layers(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Let the model's stacked layers (every member of a ModuleList) keep their inputs only.

    What happens inside them is computed again for the backward pass, dropout included: the same numbers for
    less memory and about a third more time (Chen et al. 2016, Training deep nets with sublinear memory cost).
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    layers = {layer for one in lists for layer in one if not isinstance(layer, nn.ModuleList)}
    layers = layers if wanted else set()
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own stands again


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
