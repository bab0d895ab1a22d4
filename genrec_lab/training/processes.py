"""Several processes that train one model: how they split work and exchange results.

A process is one of several if `accelerate launch` or `notebook_launcher` started it (torch.distributed). In a
single process, every function returns its input. All processes must call the same functions in the same
order, because each waits for the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from genrec_lab.data.batches import Batch

# Long, because the others wait while the first process encodes all texts; a dead process is noticed at once.
_TIMEOUT = timedelta(hours=12)
_apart = False


# --- the group


def several() -> bool:
    """Return whether this process is one of several that work together, and not within `apart`."""
    if _apart or not distributed.is_available():
        return False
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Joins the group that the environment names. Without accelerators, the CPU must be requested
        # explicitly, which notebook_launcher does not do.
        PartialState(cpu=_accelerator() is None, timeout=_TIMEOUT)
    return bool(distributed.is_initialized()) and distributed.get_world_size() > 1


def _accelerator() -> torch.device | None:
    """Return the type of this machine's accelerator, or None if the CPU is requested."""
    if parse_flag_from_env("ACCELERATE_USE_CPU") or os.environ.get("GENREC_DEVICE") == "cpu":
        return None
    return torch.accelerator.current_accelerator(check_available=True)


def count() -> int:
    """Return the number of processes that work together."""
    return int(distributed.get_world_size()) if several() else 1


def number() -> int:
    """Return the rank of this process, from 0."""
    return int(distributed.get_rank()) if several() else 0


def own_device() -> torch.device:
    """Return the accelerator of this process, or the CPU; see `training.device` for the user's choice."""
    if distributed.is_available() and distributed.is_initialized():
        found: torch.device = PartialState().device
        return found
    return _accelerator() or torch.device("cpu")


@contextmanager
def apart(alone: bool = True) -> Iterator[None]:
    """Within the block, let every process compute alone, for work that is too small to split."""
    global _apart
    before, _apart = _apart, _apart or alone
    try:
        yield
    finally:
        _apart = before


def wait() -> None:
    """Wait until all processes reach this call."""
    if several():
        PartialState().wait_for_everyone()


@contextmanager
def first_one_first() -> Iterator[None]:
    """Run the block in the first process before the others, which then read its results from a cache."""
    if not several():
        yield
        return
    # Sequential, so collective calls within the block would wait for ever.
    with PartialState().main_process_first(), apart():
        yield


def of_the_first(content: Any) -> Any:
    """Return the first process's value in all processes."""
    if not several():
        return content
    shared = [content]
    broadcast_object_list(shared)
    return shared[0]


# --- rows that are shared out


def own_rows(rows: int) -> list[int]:
    """Return which of `rows` rows this process computes; all of them if there are fewer than processes."""
    world = count()
    return list(range(rows)) if rows < world else list(range(number(), rows, world))


def rows_of_all(own: Tensor, rows: int) -> Tensor:
    """Gather the processes' results for their `own_rows`, in order: (own rows, ...) -> (rows, ...)."""
    world = count()
    if world == 1 or rows < world:
        return own
    order = [row for process in range(world) for row in range(process, rows, world)]
    gathered = gather_rows(own.to(own_device())).to(own.device)
    found = torch.empty_like(gathered)
    found[order] = gathered
    return found


def in_shares(compute: Callable[[np.ndarray], Sequence[np.ndarray]], rows: int) -> tuple[np.ndarray, ...]:
    """Split the computation of arrays with `rows` rows between processes, and return all rows in each.

    `compute(own)` receives the indices of this process's rows (n,) and returns arrays whose first dimension
    is n. The results have `rows` rows, in order. A single process computes all rows.

    >>> in_shares(lambda own: [own * own], 4)
    (array([0, 1, 4, 9]),)
    """
    found = compute(np.array(own_rows(rows), dtype=np.int64))
    return tuple(rows_of_all(torch.as_tensor(part), rows).numpy() for part in found)


def rank_in_shares(recommend: Callable[[pl.DataFrame], Any], users: pl.DataFrame) -> Any:
    """Split the ranking of users between processes, and return all rankings in the order of `users`.

    `recommend(rows)` returns a `decoding.Ranked` for some rows of `users`. A single process ranks all.
    """
    own = own_rows(users.height)
    ranked = recommend(users[own] if len(own) < users.height else users)
    items, scores = (
        rows_of_all(torch.as_tensor(part), users.height).numpy() for part in (ranked.items, ranked.scores)
    )
    return ranked._replace(items=items, scores=scores)


# --- batches that are shared out


class Part(NamedTuple):
    """A part of a batch that a process computes at a time, and the weight of its loss in the mean."""

    batch: Mapping[str, Any]
    weight: float


def samples_of(batch: Mapping[str, Any]) -> int:
    """Return the number of samples of a batch; for plain tensors, the first dimension of the first one."""
    if isinstance(batch, Batch):
        return batch.samples
    first = next(iter(batch.values()))
    return samples_of(first) if isinstance(first, Mapping) else len(first)


def own_parts(batch: Mapping[str, Any], world: int, process: int, at_once: int | None) -> list[Part]:
    """Return a process's share of a batch, one of `world`, in parts of about `at_once` samples.

    The sum of the weighted losses of all parts, averaged over processes, is the mean over the batch's
    samples. All processes have the same number of parts, and none is empty. A batch with fewer rows than
    processes, or that is not a `Batch`, is returned whole, with weight 1.
    """
    whole = [Part(batch, 1.0)]
    if not isinstance(batch, Batch) or batch.rows < world:
        return whole
    parts = 1 if at_once is None else min(-(-batch.samples // (at_once * world)), batch.rows // world)
    if world * parts == 1:
        return whole
    own = [batch.share(part * world + process, world * parts) for part in range(parts)]
    return [Part(part, part.weight * world / batch.weight) for part in own]


# --- models and gradients


def together(model: nn.Module, where: torch.device) -> nn.Module:
    """Wrap a model on its device so that processes average its gradients; unchanged for one process."""
    if not several():
        return model
    # A step may not use all parameters, such as those of a decoder in a step without pictures.
    ids = None if where.type == "cpu" else [where]
    return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)


def without_exchange(model: nn.Module) -> AbstractContextManager[None]:
    """Within the block, accumulate gradients of a model wrapped by `together` without averaging them."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def same_in_all(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if not several():
        return
    for tensor in tensors:
        distributed.broadcast(tensor.detach(), 0)


# --- sums and means over all processes


def total(x: Tensor) -> Tensor:
    """Return the sum over all processes, without a gradient."""
    return _reduced(x, distributed.ReduceOp.SUM)


def largest(x: Tensor) -> Tensor:
    """Return the element-wise maximum over all processes, without a gradient."""
    return _reduced(x, distributed.ReduceOp.MAX)


def _reduced(x: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
    if not several():
        return x
    reduced = x.detach().clone()
    distributed.all_reduce(reduced, operation)
    return reduced


def share_of_mean(mean: Tensor, counted: int, rows: int) -> Tensor:
    """Scale a mean over some elements of this process's rows, for the mean over those of all processes.

    mean: a scalar, over `counted` elements of `rows` rows, such as the pictures of items. The processes'
    results, averaged with their rows as weights, give the mean over all elements.
    """
    if not several():
        return mean
    things, of_all = total(torch.tensor([counted, rows], device=mean.device)).tolist()
    return mean * (counted / max(things, 1)) * (of_all / max(rows, 1))


def drawn_for_all(draw: Callable[[int], Tensor], rows: int, dim: int = 0) -> Tensor:
    """Draw random numbers for the rows of all processes, like a single process, and return this one's.

    `draw(n)` draws for n rows, along dimension `dim`.
    """
    if not several():
        return draw(rows)
    first, of_all = places_of_rows(rows)
    return draw(of_all).narrow(dim, first, rows)


def places_of_rows(rows: int) -> tuple[int, int]:
    """Return the index of this process's first row among the rows of all processes, and their number."""
    if not several():
        return 0, rows
    counts = _rows_of_each(rows)
    return sum(counts[: number()]), sum(counts)


def _rows_of_each(rows: int) -> list[int]:
    of_each = torch.zeros(count(), dtype=torch.int64, device=own_device())
    of_each[number()] = rows
    found: list[int] = total(of_each).tolist()
    return found


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of their ranks; x itself in a single process.

    (B, ...) -> (sum of the processes' B, ...). In the backward pass, each process gets the gradient of its
    own rows, summed over the processes; after the averaging of gradients, it is that of one large batch.
    """
    if not several():
        return x
    gathered: Tensor = _GatherRows.apply(x)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Gather rows, whose number may differ between processes."""
        rows = _rows_of_each(len(x))
        # All processes must send tensors of the same shape.
        padded = torch.cat([x, x.new_zeros(max(rows) - len(x), *x.shape[1:])]).contiguous()
        parts = [torch.empty_like(padded) for _ in rows]
        distributed.all_gather(parts, padded)
        ctx.start, ctx.rows = sum(rows[: number()]), len(x)
        return torch.cat([part[:own] for part, own in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Sum the gradients of all processes; keep those of this process's rows."""
        return total(gradient.contiguous())[ctx.start : ctx.start + ctx.rows]
