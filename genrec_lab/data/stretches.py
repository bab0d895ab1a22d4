"""Stretches of sequences in batches, for models that learn every place of a sequence in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from genrec_lab.data.batches import NO_ITEM, some_of_each

_POOL = 16  # batches that are shuffled together before their stretches are sorted by length


class StretchBatches:
    """Batches of stretches, `{"rows": (n,), "places": (n,), "sequences": (B, I + 1)}`.

    The items to learn are `sequences[rows, places]`, n of them, about `batch_size`; each comes once an epoch,
    after the items before it in its row. Rows are padded at the right with -1. A sequence of more than
    max_history + 1 items is cut into stretches that overlap by half, so that each item stands after at least
    max_history / 2 others where so many exist. With `per_user` an epoch has at most so many stretches of a
    sequence, drawn anew each time. Order and batches are drawn from (seed, epoch) alone.
    """

    def __init__(
        self,
        sequences: Iterable[Sequence[int]],
        batch_size: int,
        max_history: int,
        *,
        per_user: int | None = None,
    ) -> None:
        """Cut the sequences, the part of each that is trained on; ValueError where none has two items."""
        self.batch_size, self.per_user = batch_size, per_user
        owned = [
            (owner, stretch)
            for owner, sequence in enumerate(sequences)
            for stretch in _stretches(sequence, max_history)
        ]
        if not owned:
            raise ValueError("no training sequence has two items: there is nothing to learn from")
        cut = [stretch for _, stretch in owned]
        self.owners = np.array([owner for owner, _ in owned])
        self.lengths = np.array([len(items) for items, _ in cut])
        self.firsts = np.array([first for _, first in cut])
        self.items = np.full((len(cut), self.lengths.max()), NO_ITEM, dtype=np.int64)
        for row, (items, _) in zip(self.items, cut, strict=True):
            row[: len(items)] = items

    def __len__(self) -> int:
        """Return the number of batches in an epoch; fewer where a stretch has more items than a batch."""
        return -(-self.samples // self.batch_size)

    @property
    def samples(self) -> int:
        """Return the number of items that an epoch learns; with `per_user` the mean over epochs."""
        learnt = self.lengths - self.firsts
        if self.per_user is None:
            return int(learnt.sum())
        counts = np.bincount(self.owners)[self.owners]
        return round(float((learnt * np.minimum(1.0, self.per_user / counts)).sum()))

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of one epoch."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.lengths))
        if self.per_user is not None:
            order = some_of_each(self.owners, order, self.per_user)
        pools = np.split(order, range(self.batch_size * _POOL, len(order), self.batch_size * _POOL))
        order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        learnt = np.cumsum((self.lengths - self.firsts)[order])
        cuts = np.searchsorted(learnt, np.arange(self.batch_size, learnt[-1], self.batch_size), "right")
        parts = [part for part in np.split(order, cuts) if len(part)]
        for number in rng.permutation(len(parts)):
            part = parts[number]
            counts = (self.lengths - self.firsts)[part]
            rows = np.repeat(np.arange(len(part)), counts)
            places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            yield {
                "rows": torch.from_numpy(rows),
                "places": torch.from_numpy(places + self.firsts[part][rows]),
                "sequences": torch.from_numpy(self.items[part, : self.lengths[part].max()]),
            }


def _stretches(sequence: Sequence[int], max_history: int) -> Iterator[tuple[Sequence[int], int]]:
    """Yield the stretches of a sequence, and in each the place of the first item to learn."""
    start, first, last_start = 0, 1, max(0, len(sequence) - max_history - 1)
    if len(sequence) < 2:
        return
    while True:
        stretch = sequence[start : start + max_history + 1]
        yield stretch, first
        if start == last_start:
            return
        following = min(start + max(1, max_history // 2), last_start)
        first = start + len(stretch) - following
        start = following
