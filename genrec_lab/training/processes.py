"""Several processes that train one model: who does what, and what all of them gather.

A process is one of many where `accelerate launch` or `notebook_launcher` started it (torch.distributed).
In a single process every function gives back what it was given. All processes must call the same functions in
the same order, for each waits for the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, Self, TypeVar, cast

import numpy as np
import polars as pl
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    broadcast_object_list,
    parse_flag_from_env,
    send_to_device,
)
from torch import Tensor, distributed, nn

# The others wait while the first process encodes all texts; one that died is noticed at once all the same.
_PATIENCE = timedelta(hours=12)
_apart = False


def several() -> bool:
    """Whether this process is one of several that work together, and not `apart` at the moment."""
    if _apart or not distributed.is_available():
        return False
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Joins the group that the environment names, as Accelerator would; without devices on the CPU, which
        # notebook_launcher leaves to be said.
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        PartialState(cpu=on_cpu, timeout=_PATIENCE)
    return bool(distributed.is_initialized()) and distributed.get_world_size() > 1


def count() -> int:
    """How many processes work together."""
    return int(distributed.get_world_size()) if several() else 1


def number() -> int:
    """The number of this process, from 0."""
    return int(distributed.get_rank()) if several() else 0


def device() -> torch.device:
    """The device of this process."""
    found: torch.device = PartialState().device
    return found


@contextmanager
def apart(alone: bool = True) -> Iterator[None]:
    """Let every process work by itself, as if there were no others, on work too small to be dealt out."""
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
    """Let the first process through before the others, which then find in a cache what it wrote there."""
    if not several():
        yield
        return
    with PartialState().main_process_first():
        yield


def of_the_first(content: Any) -> Any:
    """What the first process gave, in all of them."""
    if not several():
        return content
    shared = [content]
    broadcast_object_list(shared)
    return shared[0]


def own_rows(rows: int) -> list[int]:
    """Which of so many rows, all alike, this process takes; all where there are fewer than processes."""
    world = count()
    return list(range(rows)) if rows < world else list(range(number(), rows, world))


def rows_of_all(own: Tensor, rows: int) -> Tensor:
    """What the processes found for their `own_rows`, in the order of the rows: (own, ...) -> (rows, ...)."""
    world = count()
    if world == 1 or rows < world:
        return own
    order = [row for process in range(world) for row in range(process, rows, world)]
    gathered = gather_rows(own.to(device())).to(own.device)
    found = torch.empty_like(gathered)
    found[order] = gathered
    return found


def total(x: Tensor) -> Tensor:
    """The sum over all processes, without a gradient."""
    if not several():
        return x
    summed = x.detach().clone()
    distributed.all_reduce(summed)
    return summed


def largest(x: Tensor) -> Tensor:
    """The largest of all processes, element by element, without a gradient."""
    if not several():
        return x
    most = x.detach().clone()
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return most


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give all processes the mean of their gradients, in one message; all have the same."""
    world = count()
    if world == 1:
        return
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([cast(Tensor, parameter.grad).flatten() for parameter in trained])
    mean = total(flat) / world
    for parameter, part in zip(trained, mean.split([one.numel() for one in trained]), strict=True):
        parameter.grad = part.view_as(parameter)


def same_in_all(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of the first process."""
    if not several():
        return
    for tensor in tensors:
        distributed.broadcast(tensor.detach(), 0)


def share_of_mean(mean: Tensor, counted: int, rows: int) -> Tensor:
    """Turn a mean over some things of this process's rows into its part of the mean over those of all.

    mean: scalar, over `counted` things that `rows` rows have, as pictures of items. The processes' means,
    weighted by their rows, then give the mean over all things.
    """
    if not several():
        return mean
    things, of_all = total(torch.tensor([counted, rows], device=mean.device)).tolist()
    return mean * (counted / max(things, 1)) * (of_all / max(rows, 1))


def drawn_for_all(draw: Callable[[int], Tensor], rows: int, dim: int = 0) -> Tensor:
    """Own rows of what is drawn for the rows of all processes, as a single process would draw it.

    `draw(n)` draws for n rows, along dimension `dim`.
    """
    if not several():
        return draw(rows)
    first, of_all = places_of_rows(rows)
    return draw(of_all).narrow(dim, first, rows)


def places_of_rows(rows: int) -> tuple[int, int]:
    """Which of the rows of all processes this one's first is, in the order of their ranks, and how many."""
    if not several():
        return 0, rows
    of_each = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=device())
    of_each[distributed.get_rank()] = rows
    counts: list[int] = total(of_each).tolist()
    return sum(counts[: distributed.get_rank()]), sum(counts)


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of their ranks; in a single process x itself.

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
        """Gather rows of which each process may have another number."""
        own = torch.tensor([len(x)], device=x.device)
        counts = [torch.zeros_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(counts, own)
        rows = [int(count) for count in counts]
        # All processes must send tensors of one shape.
        padded = torch.cat([x, x.new_zeros(max(rows) - len(x), *x.shape[1:])]).contiguous()
        parts = [torch.empty_like(padded) for _ in rows]
        distributed.all_gather(parts, padded)
        ctx.start = sum(rows[: distributed.get_rank()])
        ctx.rows = len(x)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Sum what all processes found, keep the own rows."""
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.rows]


class Ranking(Protocol):
    """Items and scores of users, as `decoding.Ranked`."""

    @property
    def items(self) -> np.ndarray:
        """(U, K) item indices."""

    @property
    def scores(self) -> np.ndarray:
        """(U, K) scores."""

    def _replace(self, *, items: np.ndarray, scores: np.ndarray) -> Self: ...


R = TypeVar("R", bound=Ranking)


def rank_in_shares(recommend: Callable[[pl.DataFrame], R], users: pl.DataFrame) -> R:
    """Rank all users, each process some, and give every process all rankings in the order of `users`.

    `recommend(rows)` ranks some rows of `users`. A single process ranks all.
    """
    own = own_rows(users.height)
    ranked = recommend(users[own] if len(own) < users.height else users)
    items, scores = (
        rows_of_all(torch.as_tensor(part), users.height).numpy() for part in (ranked.items, ranked.scores)
    )
    return ranked._replace(items=items, scores=scores)


class Part(NamedTuple):
    """What a process computes at one time, and the weight of its loss in the mean over processes."""

    batch: Mapping[str, Any]
    weight: float


def accelerator_of_all() -> Accelerator:
    """Return the accelerator of this process, among the others where there are any."""
    several()  # joins the group with the patience that the rest of the work needs
    # A step may leave parameters out, as a decoder in a step without pictures.
    return Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


def own_parts(batch: Mapping[str, Any], world: int, process: int, at_once: int | None) -> list[Part]:
    """Return what one of `world` processes learns of a batch, in parts of about `at_once` samples.

    The weighted losses of all parts, summed, and averaged over processes, are the mean over the batch's
    samples. Every process has as many parts as the others, none of them empty. A batch of fewer rows than
    processes, and one of an unknown kind, is given whole, with a weight of 1.
    """
    kind = _KINDS.get(frozenset(batch))
    if kind is None:
        return [Part(batch, 1.0)]
    rows, samples = kind.size(batch)
    if rows < world:
        return [Part(batch, 1.0)]
    parts = 1 if at_once is None else min(-(-samples // (at_once * world)), rows // world)
    if world * parts == 1:
        return [Part(batch, 1.0)]
    dealt = kind.deal(rows, world * parts)
    own = [kind.take(batch, dealt[part * world + process]) for part in range(parts)]
    return [Part(part, kind.size(part)[1] * world / samples) for part in own]


def learn(
    model: nn.Module,
    batch: Mapping[str, Any],
    accelerator: Accelerator,
    at_once: int | None,
    contexts: Callable[[], Any],
) -> float:
    """Add the gradients of a batch to those of the (wrapped) model; return the whole batch's loss.

    `contexts()` is entered around each forward pass.
    """
    parts = own_parts(batch, accelerator.num_processes, accelerator.process_index, at_once)
    value = torch.zeros((), device=accelerator.device)
    # Where every process computes the whole batch they must not gather one another's rows.
    with apart(parts[0].batch is batch):
        for number, (own, weight) in enumerate(parts, start=1):
            with _in_step(model, accelerator, last=number == len(parts)):
                with contexts():
                    loss = model(**send_to_device(own, accelerator.device)) * weight
                accelerator.backward(loss)
            value += loss.detach()
    return mean_over_processes(value, accelerator)


def mean_over_processes(loss: Tensor, accelerator: Accelerator) -> float:
    """Return the loss of the whole batch, the same number in every process."""
    reduced = accelerator.reduce(loss, reduction="mean")
    return float(reduced)


@contextmanager
def _in_step(model: nn.Module, accelerator: Accelerator, last: bool) -> Iterator[None]:
    """Exchange gradients after the last part of a batch only."""
    if last:
        yield
    else:
        with accelerator.no_sync(model):
            yield


class _Pairs:
    """Histories and targets: the loss is a mean over rows."""

    @staticmethod
    def size(batch: Mapping[str, Any]) -> tuple[int, int]:
        return len(batch["targets"]), len(batch["targets"])

    @staticmethod
    def deal(rows: int, shares: int) -> list[Tensor]:
        # Rows of like length lie together: each share gets some of every length.
        return [torch.arange(first, rows, shares) for first in range(shares)]

    @staticmethod
    def take(batch: Mapping[str, Any], rows: Tensor) -> Mapping[str, Any]:
        return {name: tensor[rows] for name, tensor in batch.items()}


class _Stretches(_Pairs):
    """Stretches of sequences: the loss is a mean over the places that are learnt, several in a row."""

    @staticmethod
    def size(batch: Mapping[str, Any]) -> tuple[int, int]:
        return len(batch["sequences"]), len(batch["rows"])

    @staticmethod
    def take(batch: Mapping[str, Any], rows: Tensor) -> Mapping[str, Any]:
        new = torch.full((len(batch["sequences"]),), -1)
        new[rows] = torch.arange(len(rows))
        kept = new[batch["rows"]] >= 0
        return {
            "rows": new[batch["rows"][kept]],
            "places": batch["places"][kept],
            "sequences": batch["sequences"][rows],
        }


class _Neighbours:
    """Items beside their neighbours: all are compared with one another, by rows that processes gather."""

    @staticmethod
    def size(batch: Mapping[str, Any]) -> tuple[int, int]:
        rows = len(next(iter(batch["items"].values())))
        return rows, rows

    @staticmethod
    def deal(rows: int, shares: int) -> list[Tensor]:
        # One after the other: what is gathered in the order of the processes is then the batch itself.
        return list(torch.arange(rows).tensor_split(shares))

    @staticmethod
    def take(batch: Mapping[str, Any], rows: Tensor) -> Mapping[str, Any]:
        return {side: {name: t[rows] for name, t in content.items()} for side, content in batch.items()}


class _Places:
    """Places of things that the model itself holds, dealt out as neighbours are."""

    deal = _Neighbours.deal

    @staticmethod
    def size(batch: Mapping[str, Any]) -> tuple[int, int]:
        return len(batch["rows"]), len(batch["rows"])

    @staticmethod
    def take(batch: Mapping[str, Any], rows: Tensor) -> Mapping[str, Any]:
        return {"rows": batch["rows"][rows.to(batch["rows"].device)]}


_KINDS: dict[frozenset[str], type[_Pairs] | type[_Neighbours] | type[_Places]] = {
    frozenset({"rows"}): _Places,
    frozenset({"histories", "targets"}): _Pairs,
    frozenset({"rows", "places", "sequences"}): _Stretches,
    frozenset({"items", "neighbours"}): _Neighbours,
}
