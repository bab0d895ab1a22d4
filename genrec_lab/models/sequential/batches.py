"""Training batches for models over items: whole sequences, or prefixes and their next items.

Sequences hold positions among a domain's items, padded on the right with -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec_lab.data import NO_ITEM
from genrec_lab.data.batches import Batch, of_like_length, padded, shuffled
from genrec_lab.training import Batches

NOTHING_TO_LEARN = "no training sequence has two items: there is nothing to learn from"


def positions(items: np.ndarray, sequences: Iterable[Sequence[int]]) -> list[np.ndarray]:
    """Return sequences as positions among the ascending `items` (N,); raises ValueError for another item."""
    return [
        places_of(items, np.asarray(sequence, dtype=np.int64), f"sequence {number}")
        for number, sequence in enumerate(sequences)
    ]


class SequenceBatches:
    """Batches of whole training sequences, `{"sequences": (B, T + 1)}`, to train on every next item.

    A sequence longer than T + 1 = max_history + 1 items is cut into pieces of that length from its end, so
    that no item is lost. Users with a single item are left out. With `users` (one
    position per sequence), each batch also has `"users": (B,)`.
    """

    def __init__(
        self,
        items: np.ndarray,
        sequences: Iterable[Sequence[int]],
        batch_size: int,
        max_history: int,
        users: np.ndarray | None = None,
    ) -> None:
        """Cut the sequences; raises ValueError if one holds an item not in the ascending `items` (N,)."""
        self.batch_size = batch_size
        self.rows: list[np.ndarray] = []
        owners: list[int] = []
        for number, places in enumerate(positions(items, sequences)):
            # Pieces share one item: the last of a piece is the first of the next, as input only.
            for end in range(len(places), 1, -max_history):
                self.rows.append(places[max(0, end - max_history - 1) : end])
                owners.append(number)
        if not self.rows:
            raise ValueError(NOTHING_TO_LEARN)
        self.users = None if users is None else np.asarray(users, dtype=np.int64)[owners]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of one epoch in a new order."""
        for drawn in shuffled(len(self.rows), self.batch_size, np.random.default_rng([seed, epoch])):
            lengths = np.array([len(self.rows[i]) for i in drawn])
            collate = partial(self._collated, width=lengths.max())
            yield Batch(drawn, collate, weights=lengths - 1, in_order=True, count_rows=True)

    def _collated(self, drawn: np.ndarray, width: int) -> dict[str, Tensor]:
        """Return the drawn sequences, padded to the width of the whole batch."""
        batch = {"sequences": padded([self.rows[i] for i in drawn], width)}
        return batch if self.users is None else {**batch, "users": torch.from_numpy(self.users[drawn])}


class Undivided:
    """Batches as plain mappings, which every process computes completely."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, epoch: int, seed: int) -> Iterator[Mapping[str, Any]]:
        """Yield the batches of one epoch."""
        return (dict(batch) for batch in self.batches(epoch, seed))


def batch_of(tensors: Mapping[str, Tensor], weights: np.ndarray | None = None) -> Batch:
    """Return a batch of existing tensors (B, …); `weights` (B,) as in Batch."""

    def collate(rows: np.ndarray) -> dict[str, Tensor]:
        return {name: tensor[torch.from_numpy(rows)] for name, tensor in tensors.items()}

    rows = np.arange(len(next(iter(tensors.values()))))
    return Batch(rows, collate, weights=weights, in_order=True, count_rows=True)


def places_of(items: np.ndarray, wanted: np.ndarray, where: str) -> np.ndarray:
    """Return the positions of wanted items among a domain's ascending `items`; `where` is for the error."""
    places = np.searchsorted(items, wanted)
    foreign = wanted[items[np.minimum(places, len(items) - 1)] != wanted]
    if len(foreign):
        raise ValueError(
            f"{where} holds item {foreign[0]}, which is not among the {len(items)} of the domain"
        )
    return places


Places = tuple[Tensor, Tensor]  # rows (M,) and columns (M,): an index of some of (B, T)


def places_with_items(sequences: Tensor) -> Places:
    """Return which positions of sequences (B, T) hold an item, row by row.

    This reads their number from the device once; a boolean mask would do so at every use as an index.
    """
    rows, columns = (sequences != NO_ITEM).nonzero(as_tuple=True)
    return rows, columns


def next_items(sequences: Tensor) -> tuple[Tensor, Places, Tensor]:
    """Return the inputs and targets of sequences (B, T + 1).

    These are the sequences without their last position (B, T), the positions with a next item, and those
    items (M,).
    """
    wanted = sequences[:, 1:]
    real = places_with_items(wanted)
    return sequences[:, :-1], real, wanted[real]


def last_of(states: Tensor, sequences: Tensor) -> Tensor:
    """Return (B, D), the states (B, T, D) at the last item of each of the sequences (B, T)."""
    lengths = (sequences != NO_ITEM).sum(1)
    return states[torch.arange(len(states), device=states.device), lengths - 1]


class DrawnPrefixes:
    """Batches `{"sequences": (B, T), "wanted": (B,)}`: some prefixes of each sequence and their next items.

    Prefixes are the most recent `max_history` items before their target, padded on the right with -1. Each
    epoch draws `per_sequence` targets of each sequence, or takes all; with `later_half` no target is in the
    first half. With `like_length`, prefixes of similar length share a batch, to reduce padding. Targets and
    order depend only on (seed, epoch). `before_epoch` is called first, for example to refresh item vectors.
    Sequences of a single item are left out.
    """

    def __init__(
        self,
        items: np.ndarray,
        sequences: Sequence[Sequence[int]],
        batch_size: int,
        max_history: int,
        *,
        per_sequence: int | None = None,
        later_half: bool = False,
        like_length: bool = False,
        before_epoch: Callable[[], None] | None = None,
    ) -> None:
        """Read the sequences; raises ValueError if one holds an item that is not in the ascending `items`."""
        self.batch_size, self.max_history, self.per_sequence = batch_size, max_history, per_sequence
        self.like_length, self.before_epoch = like_length, before_epoch
        self.rows = [row for row in positions(items, sequences) if len(row) > 1]
        if not self.rows:
            raise ValueError(NOTHING_TO_LEARN)
        starts = [max(1, (len(row) - 1) // 2) if later_half else 1 for row in self.rows]
        self.targets = [np.arange(start, len(row)) for start, row in zip(starts, self.rows, strict=True)]

    def __len__(self) -> int:
        most = self.per_sequence
        counts = [len(targets) if most is None else min(most, len(targets)) for targets in self.targets]
        return -(-sum(counts) // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        if self.before_epoch is not None:
            self.before_epoch()
        rng = np.random.default_rng([seed, epoch])
        samples: list[tuple[np.ndarray, int]] = []
        for row, targets in zip(self.rows, self.targets, strict=True):
            most = self.per_sequence
            drawn = targets if most is None else rng.permutation(targets)[:most]
            samples += [(row, target) for target in drawn.tolist()]
        if self.like_length:
            lengths = np.array([min(target, self.max_history) for _, target in samples])
            batches = of_like_length(rng.permutation(len(samples)), lengths, self.batch_size, rng)
        else:
            batches = shuffled(len(samples), self.batch_size, rng)
        for chosen in batches:
            some = [samples[i] for i in chosen]
            prefixes = [row[max(0, target - self.max_history) : target] for row, target in some]
            wanted = torch.tensor([int(row[target]) for row, target in some])
            yield batch_of({"sequences": padded(prefixes), "wanted": wanted})
