"""Training sequences of items as batches of places, padded at the right with -1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genrec_lab.data.batches import shuffled

EMPTY = -1  # in a matrix of sequences: no item
NOTHING_TO_LEARN = "no training sequence has two items: there is nothing to learn from"


class ItemBatches(Protocol):
    """An epoch's batches, each a mapping of tensors whose first dimension is the sample."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of one epoch, fixed by epoch and seed."""


class SequenceBatches:
    """Batches of whole training sequences, `{"sequences": (B, T + 1)}`: each next item in them is learnt.

    A sequence longer than T + 1 = max_history + 1 items is cut into pieces of that length from its end, so
    that no item is lost; users with a single item have nothing to learn from and are counted in `skipped`.
    With `users` (a place a sequence) each batch has `"users": (B,)` too.
    """

    def __init__(
        self,
        items: np.ndarray,
        sequences: Iterable[Sequence[int]],
        batch_size: int,
        max_history: int,
        users: np.ndarray | None = None,
    ) -> None:
        """Cut the sequences; ValueError where one holds an item that is not among `items` (N,), ascending."""
        self.batch_size = batch_size
        self.rows: list[np.ndarray] = []
        self.skipped = 0
        owners: list[int] = []
        for number, sequence in enumerate(sequences):
            places = places_of(items, np.asarray(sequence, dtype=np.int64), f"sequence {number}")
            if len(places) < 2:
                self.skipped += 1
            # Pieces share one item: the last of a piece is the first of the next, where it is only read.
            for end in range(len(places), 1, -max_history):
                self.rows.append(places[max(0, end - max_history - 1) : end])
                owners.append(number)
        if not self.rows:
            raise ValueError(NOTHING_TO_LEARN)
        self.users = None if users is None else np.asarray(users, dtype=np.int64)[owners]

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of one epoch in a new order."""
        for drawn in shuffled(len(self.rows), self.batch_size, np.random.default_rng([seed, epoch])):
            rows = [self.rows[i] for i in drawn]
            batch = {"sequences": padded(rows, max(map(len, rows)))}
            yield batch if self.users is None else {**batch, "users": torch.from_numpy(self.users[drawn])}


def places_of(items: np.ndarray, wanted: np.ndarray, where: str) -> np.ndarray:
    """Return the places of wanted items among a domain's `items`, ascending; `where` is for the error."""
    places = np.searchsorted(items, wanted)
    foreign = wanted[items[np.minimum(places, len(items) - 1)] != wanted]
    if len(foreign):
        raise ValueError(
            f"{where} holds item {foreign[0]}, which is not among the {len(items)} of the domain"
        )
    return places


def padded(rows: Sequence[np.ndarray], width: int) -> Tensor:
    """Return (B, width) with each row at the left, and -1 behind it."""
    matrix = np.full((len(rows), width), EMPTY, dtype=np.int64)
    for line, row in zip(matrix, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(matrix)


def last_of(states: Tensor, sequences: Tensor) -> Tensor:
    """Return (B, D), the states (B, T, D) at the last item of each of the sequences (B, T)."""
    lengths = (sequences != EMPTY).sum(1)
    return states[torch.arange(len(states), device=states.device), lengths - 1]
