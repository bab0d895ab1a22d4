"""Several processes that train one model: who computes what, and what all of them gather.

A process is one of several where `accelerate launch` or `notebook_launcher` started it (torch.distributed).
In a single process every function returns what it was given. All processes must call the same functions in
the same order, because each waits for the others.
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

# The others wait while the first process encodes all texts; a process that died is noticed at once anyway.
_TIMEOUT = timedelta(hours=12)
_apart = False


# --- the group


def several() -> bool:
    """Whether this process is one of several that work together, and not `apart` at the moment."""
    if _apart or not distributed.is_available():
        return False
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Joins the group that the environment names. Without accelerators it must be told to use the CPU,
        # which notebook_launcher does not say.
        PartialState(cpu=_accelerator() is None, timeout=_TIMEOUT)
    return bool(distributed.is_initialized()) and distributed.get_world_size() > 1


def _accelerator() -> torch.device | None:
    """The kind of accelerator that this machine has, unless the CPU is asked for."""
    if parse_flag_from_env("ACCELERATE_USE_CPU") or os.environ.get("GENREC_DEVICE") == "cpu":
        return None
    return torch.accelerator.current_accelerator(check_available=True)


def count() -> int:
    """Return how many processes work together."""
    return int(distributed.get_world_size()) if several() else 1


def number() -> int:
    """Return the number of this process, from 0."""
    return int(distributed.get_rank()) if several() else 0


def own_device() -> torch.device:
    """Return the accelerator of this process, or the CPU; with `training.device` a user can choose."""
    if distributed.is_available() and distributed.is_initialized():
        found: torch.device = PartialState().device
        return found
    return _accelerator() or torch.device("cpu")


@contextmanager
def apart(alone: bool = True) -> Iterator[None]:
    """Within the block, let every process compute by itself, as for work that is too small to be shared."""
    global _apart
    before, _apart = _apart, _apart or alone
    try:
        yield
    finally:
        _apart = before


def wait() -> None:
    """Wait until all processes are here."""
    if several():
        PartialState().wait_for_everyone()


@contextmanager
def first_one_first() -> Iterator[None]:
    """Let the first process run the block before the others, which then read its results from a cache."""
    if not several():
        yield
        return
    # One after the other: whatever asks the others to join within the block would wait for ever.
    with PartialState().main_process_first(), apart():
        yield


def of_the_first(content: Any) -> Any:
    """Return, in all processes, the value that the first process passed in."""
    if not several():
        return content
    shared = [content]
    broadcast_object_list(shared)
    return shared[0]


# --- rows that are shared out


def own_rows(rows: int) -> list[int]:
    """Return which of so many rows this process computes; all where there are fewer than processes."""
    world = count()
    return list(range(rows)) if rows < world else list(range(number(), rows, world))


def rows_of_all(own: Tensor, rows: int) -> Tensor:
    """Gather what processes found for their `own_rows`, in order: (own rows, ...) -> (rows, ...)."""
    world = count()
    if world == 1 or rows < world:
        return own
    order = [row for process in range(world) for row in range(process, rows, world)]
    gathered = gather_rows(own.to(own_device())).to(own.device)
    found = torch.empty_like(gathered)
    found[order] = gathered
    return found


def in_shares(compute: Callable[[np.ndarray], Sequence[np.ndarray]], rows: int) -> tuple[np.ndarray, ...]:
    """Compute arrays for `rows` rows, each process some of the rows, and give every process all of them.

    `compute(own)` is called with the numbers of this process's rows (n,) and returns arrays whose first
    dimension is n; so are the results, with `rows` rows in their order. A single process computes all.

    >>> in_shares(lambda own: [own * own], 4)
    (array([0, 1, 4, 9]),)
    """
    found = compute(np.array(own_rows(rows), dtype=np.int64))
    return tuple(rows_of_all(torch.as_tensor(part), rows).numpy() for part in found)


def rank_in_shares(recommend: Callable[[pl.DataFrame], Any], users: pl.DataFrame) -> Any:
    """Rank all users, each process some, and give every process all rankings in the order of `users`.

    `recommend(rows)` ranks some rows of `users`: a `decoding.Ranked`. A single process ranks all.
    """
    own = own_rows(users.height)
    ranked = recommend(users[own] if len(own) < users.height else users)
    items, scores = (
        rows_of_all(torch.as_tensor(part), users.height).numpy() for part in (ranked.items, ranked.scores)
    )
    return ranked._replace(items=items, scores=scores)


# --- batches that are shared out


class Part(NamedTuple):
    """What a process computes at one time, and the weight of its loss in the mean over processes."""

    batch: Mapping[str, Any]
    weight: float


def samples_of(batch: Mapping[str, Any]) -> int:
    """Return the number of samples of a batch; of plain tensors, the first dimension of the first one."""
    if isinstance(batch, Batch):
        return batch.samples
    first = next(iter(batch.values()))
    return samples_of(first) if isinstance(first, Mapping) else len(first)


def own_parts(batch: Mapping[str, Any], world: int, process: int, at_once: int | None) -> list[Part]:
    """Return what one of `world` processes learns of a batch, in parts of about `at_once` samples.

    The weighted losses of all parts, summed, and averaged over processes, are the mean over the batch's
    samples. Every process has as many parts as the others, none of them empty. A batch of fewer rows than
    processes, and one that is no `Batch`, is returned whole, with a weight of 1.
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
    """Wrap a model on its device so that processes average its gradients; one process gets it as it is."""
    if not several():
        return model
    # A step may leave parameters out, such as a decoder's in a step without pictures.
    ids = None if where.type == "cpu" else [where]
    return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)


def without_exchange(model: nn.Module) -> AbstractContextManager[None]:
    """Within the block, add up gradients of a model that is `together` without averaging them."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def same_in_all(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process."""
    if not several():
        return
    for tensor in tensors:
        distributed.broadcast(tensor.detach(), 0)


# --- sums and means over all processes


def total(x: Tensor) -> Tensor:
    """Return the sum over all processes, without a gradient."""
    return _reduced(x, distributed.ReduceOp.SUM)


def largest(x: Tensor) -> Tensor:
    """Return the largest of all processes, element by element, without a gradient."""
    return _reduced(x, distributed.ReduceOp.MAX)


def _reduced(x: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
    if not several():
        return x
    reduced = x.detach().clone()
    distributed.all_reduce(reduced, operation)
    return reduced


def share_of_mean(mean: Tensor, counted: int, rows: int) -> Tensor:
    """Turn a mean over some things of this process's rows into its part of the mean over those of all.

    mean: scalar, over `counted` things that `rows` rows have, such as pictures of items. The processes'
    means, weighted by their rows, then give the mean over all things.
    """
    if not several():
        return mean
    things, of_all = total(torch.tensor([counted, rows], device=mean.device)).tolist()
    return mean * (counted / max(things, 1)) * (of_all / max(rows, 1))


def drawn_for_all(draw: Callable[[int], Tensor], rows: int, dim: int = 0) -> Tensor:
    """Draw for the rows of all processes, as a single process would, and return those of this one.

    `draw(n)` draws for n rows, along dimension `dim`.
    """
    if not several():
        return draw(rows)
    first, of_all = places_of_rows(rows)
    return draw(of_all).narrow(dim, first, rows)


def places_of_rows(rows: int) -> tuple[int, int]:
    """Return the place of this process's first row among the rows of all processes, and their number."""
    if not several():
        return 0, rows
    of_each = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=own_device())
    of_each[distributed.get_rank()] = rows
    counts: list[int] = total(of_each).tolist()
    return sum(counts[: distributed.get_rank()]), sum(counts)


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all processes, in the order of their ranks; in a single process x itself.

    (B, ...) -> (sum of the processes' B, ...). Backwards each process gets the gradient of its own rows,
    summed over the processes: after the usual averaging of gradients it is that of one large batch.
    """
    if not several():
        return x
    gathered: Tensor = _GatherRows.apply(x)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Gather rows, of which each process may have another number."""
        own = torch.tensor([len(x)], device=x.device)
        counts = [torch.zeros_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(counts, own)
        rows: list[int] = torch.cat(counts).tolist()
        # All processes must send tensors of one shape.
        padded = torch.cat([x, x.new_zeros(max(rows) - len(x), *x.shape[1:])]).contiguous()
        parts = [torch.empty_like(padded) for _ in rows]
        distributed.all_gather(parts, padded)
        ctx.start = sum(rows[: distributed.get_rank()])
        ctx.rows = len(x)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Sum the gradients of all processes, keep those of the own rows."""
        summed = gradient.contiguous().clone()
        distributed.all_reduce(summed)
        return summed[ctx.start : ctx.start + ctx.rows]
