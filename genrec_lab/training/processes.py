"""One training over several processes (`accelerate launch`): loss and gradients are the whole batch's.

A batch of histories and targets is dealt out, a process a share. Any other batch, as those whose loss
compares samples with each other, is computed whole by every process: no faster, and the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import Tensor

# The one kind of batch whose loss is a mean over its rows, all of equal weight.
_DEALT = {"histories", "targets"}


def accelerator_of_all() -> Accelerator:
    """Return the accelerator of this process, among the others where there are any."""
    # A step may leave parameters out, as a decoder in a step without pictures.
    return Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


def own_share(batch: Mapping[str, Any], accelerator: Accelerator) -> tuple[Mapping[str, Any], float]:
    """Return what this process computes of a batch, and the weight of its loss in the mean over processes."""
    world = accelerator.num_processes
    if world == 1 or set(batch) != _DEALT:
        return batch, 1.0
    whole = len(batch["targets"])
    own = {name: rows[accelerator.process_index :: world] for name, rows in batch.items()}
    if len(own["targets"]) == 0:
        # A process without a row takes part in the step all the same, with the first row and no weight.
        return {name: rows[:1] for name, rows in batch.items()}, 0.0
    return own, len(own["targets"]) * world / whole


def mean_over_processes(loss: Tensor, accelerator: Accelerator) -> float:
    """Return the loss of the whole batch, the same number in every process."""
    reduced = accelerator.reduce(loss.detach(), reduction="mean")
    return float(reduced)


def agreed(metrics: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Return the first process's metrics, so that no two processes disagree on the best epoch or the end."""
    if accelerator.num_processes == 1:
        return metrics
    shared = [metrics]
    broadcast_object_list(shared)
    return shared[0]
