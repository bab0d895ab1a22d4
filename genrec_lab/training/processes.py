"""One training over several processes, and in several parts where a batch is too large: who learns what.

Loss and gradients are those of the whole batch. A batch is dealt out, a process a share, and each share again
into parts that the device holds at one time, whose gradients add up. Batches of a kind that is not known here
are computed whole by every process: no faster, and the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device
from torch import Tensor, nn

from genrec_lab import processes


class Part(NamedTuple):
    """What a process computes at one time, and the weight of its loss in the mean over processes."""

    batch: Mapping[str, Any]
    weight: float


def accelerator_of_all() -> Accelerator:
    """Return the accelerator of this process, among the others where there are any."""
    processes.several()  # joins the group with the patience that the rest of the work needs
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
    with processes.apart(parts[0].batch is batch):
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


_KINDS: dict[frozenset[str], type[_Pairs] | type[_Neighbours]] = {
    frozenset({"histories", "targets"}): _Pairs,
    frozenset({"rows", "places", "sequences"}): _Stretches,
    frozenset({"items", "neighbours"}): _Neighbours,
}
