"""Training batches: pairs of history and next item, stretches of sequences, items with neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from genrec_lab.data.rules import NO_ITEM

# Batches per group that is shuffled before its samples are sorted by length.
_POOL, _STRETCH_POOL = 64, 16


class Batch(Mapping[str, Any]):
    """The samples of one training step: tensors by name, collated on first access.

    With several processes, each takes its `share` first, and only collates that.

    >>> batch = Batch(np.arange(5), lambda rows: {"x": torch.from_numpy(rows) * 10})
    >>> batch.share(1, 2)["x"]
    tensor([10, 30])
    """

    def __init__(
        self,
        numbers: np.ndarray,
        collate: Callable[[np.ndarray], Mapping[str, Any]],
        *,
        weights: np.ndarray | None = None,
        in_order: bool = False,
        count_rows: bool = False,
    ) -> None:
        """`rows` (n,) holds row numbers; `collate(some)` returns the tensors of some of them.

        weights (n,): the number of terms of each row in the mean loss, by default one. They count as samples,
        unless `count_rows` counts rows. in_order: shares are consecutive rows, for a loss that compares all
        rows; otherwise a share is every n-th row, so that shares have similar lengths.
        """
        self.numbers, self.weights, self.in_order, self.count_rows = numbers, weights, in_order, count_rows
        self._collate = collate
        self._tensors: Mapping[str, Any] | None = None

    @property
    def rows(self) -> int:
        """The number of rows, which can be split."""
        return len(self.numbers)

    @property
    def samples(self) -> int:
        """The number of samples that the training counts."""
        return self.rows if self.count_rows else self.weight

    @property
    def weight(self) -> int:
        """The number of terms in the mean loss, which is the weight of a share among others."""
        return self.rows if self.weights is None else int(self.weights.sum())

    def share(self, number: int, of: int) -> Batch:
        """Return share `number` (from 0) when the batch is split into `of` shares."""
        rows = np.array_split(np.arange(self.rows), of)[number] if self.in_order else slice(number, None, of)
        weights = None if self.weights is None else self.weights[rows]
        options = {"in_order": self.in_order, "count_rows": self.count_rows}
        return Batch(self.numbers[rows], self._collate, weights=weights, **options)

    @property
    def tensors(self) -> Mapping[str, Any]:
        """The tensors, or groups of tensors, by name; collated once."""
        if self._tensors is None:
            self._tensors = self._collate(self.numbers)
        return self._tensors

    def __getitem__(self, name: str) -> Any:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class PairsConfig(BaseModel):
    """Which (history, next item) pairs a recommender is trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_history: int = Field(20, ge=1)  # items; GMC 5.1.1
    # Pairs per user and epoch, drawn again for each epoch; None: all.
    per_user: int | None = Field(None, ge=1)
    # In one-pass training, stretches per sequence (`StretchBatches`). With 1, an epoch has at most
    # max_history items of each user. For films, half of whose users rate 64 or more, that is a tenth of the
    # training items: use as many steps as for other rows, or None.
    stretches_per_user: int | None = Field(None, ge=1)


class PairBatches:
    """Batches of training pairs, `{"histories": (B, I), "targets": (B,)}`, in a new order each epoch.

    Histories are padded on the right with `NO_ITEM`. `pairs` has the columns user, history and target, like
    `Split.train`. Samples of similar length share a batch, to reduce padding. Batches and their order depend
    only on (seed, epoch).
    """

    def __init__(self, pairs: pl.DataFrame, batch_size: int, *, per_user: int | None = None) -> None:
        if pairs.is_empty():
            raise ValueError("there is no training pair: every user has fewer than two training items")
        lengths = pairs["history"].list.len().to_numpy()
        self.histories = np.full((pairs.height, int(lengths.max())), NO_ITEM, dtype=np.int64)
        self.histories[np.arange(self.histories.shape[1]) < lengths[:, None]] = (
            pairs["history"].explode().to_numpy()
        )
        self.lengths = lengths
        self.targets = pairs["target"].to_numpy().astype(np.int64)
        self.users = pairs["user"].to_numpy()
        self.batch_size, self.per_user = batch_size, per_user

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    @property
    def samples(self) -> int:
        """Return the number of pairs in an epoch."""
        if self.per_user is None:
            return len(self.targets)
        return int(np.minimum(np.unique(self.users, return_counts=True)[1], self.per_user).sum())

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.targets))
        if self.per_user is not None:
            order = some_of_each(self.users, order, self.per_user)
        for rows in of_like_length(order, self.lengths, self.batch_size, rng):
            yield Batch(rows, partial(self._collated, width=self.lengths[rows].max()))

    def _collated(self, rows: np.ndarray, width: int) -> dict[str, Tensor]:
        """Return the pairs in `rows`, padded to the width of the whole batch."""
        histories = self.histories[rows, :width]
        return {"histories": torch.from_numpy(histories), "targets": torch.from_numpy(self.targets[rows])}


def padded(
    rows: Sequence[Sequence[int] | np.ndarray], width: int | None = None, fill: int = NO_ITEM
) -> Tensor:
    """Return rows of numbers as (B, width) int64, filled on the right; `width` defaults to the longest."""
    width = max(map(len, rows), default=0) if width is None else width
    matrix = np.full((len(rows), width), fill, dtype=np.int64)
    for line, row in zip(matrix, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(matrix)


def shuffled(count: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the numbers below `count` in batches, each once, in random order."""
    order = rng.permutation(count)
    for start in range(0, count, batch_size):
        yield order[start : start + batch_size]


def of_like_length(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Split rows in random order (n,) into batches of similar length; `lengths` (N,) is by row.

    Groups of consecutive rows are sorted by length, then the batches are shuffled.
    """
    order = _sorted_in_pools(order, lengths, batch_size * _POOL)
    for start in rng.permutation(np.arange(0, len(order), batch_size)):
        yield order[start : start + batch_size]


def _sorted_in_pools(order: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    pools = [order[start : start + width] for start in range(0, len(order), width)]
    return np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])


def some_of_each(owners: np.ndarray, order: np.ndarray, most: int) -> np.ndarray:
    """Keep the first `most` rows of each owner from rows in random order; `owners` (N,) is by row."""
    owner = owners[order]
    by_owner = np.argsort(owner, kind="stable")
    counts = np.unique(owner, return_counts=True)[1]
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.sort(by_owner[place < most])]


class StretchBatches:
    """Batches of stretches, `{"rows": (n,), "places": (n,), "sequences": (B, I + 1)}`.

    The n targets, about `batch_size`, are `sequences[rows, places]`; each occurs once per epoch and is
    predicted from the items before it in its row. Rows are padded on the right with -1. A sequence of more
    than max_history + 1 items is cut into stretches that overlap by half, so that each item follows at least
    max_history / 2 others if they exist. `per_user` limits the stretches of a sequence per epoch, which are
    drawn again each time. Batches and their order depend only on (seed, epoch).
    """

    def __init__(
        self,
        sequences: Iterable[Sequence[int]],
        batch_size: int,
        max_history: int,
        *,
        per_user: int | None = None,
    ) -> None:
        """Cut the training sequences; raises ValueError if none has two items."""
        self.batch_size, self.per_user = batch_size, per_user
        cut = [
            (owner, items, first)
            for owner, sequence in enumerate(sequences)
            for items, first in _stretches(sequence, max_history)
        ]
        if not cut:
            raise ValueError("no training sequence has two items: there is nothing to learn from")
        owners, stretches, firsts = zip(*cut, strict=True)
        self.owners, self.firsts = np.array(owners), np.array(firsts)
        self.lengths = np.array([len(items) for items in stretches])
        self.items = padded(stretches).numpy()

    def __len__(self) -> int:
        """Return the number of batches in an epoch; fewer if a stretch has more items than a batch."""
        return -(-self.samples // self.batch_size)

    @property
    def samples(self) -> int:
        """Return the number of targets in an epoch; with `per_user` the mean over epochs."""
        learnt = self.lengths - self.firsts
        if self.per_user is None:
            return int(learnt.sum())
        counts = np.bincount(self.owners)[self.owners]
        return round(float((learnt * np.minimum(1.0, self.per_user / counts)).sum()))

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.lengths))
        if self.per_user is not None:
            order = some_of_each(self.owners, order, self.per_user)
        order = _sorted_in_pools(order, self.lengths, self.batch_size * _STRETCH_POOL)
        learnt = np.cumsum((self.lengths - self.firsts)[order])
        cuts = np.searchsorted(learnt, np.arange(self.batch_size, learnt[-1], self.batch_size), "right")
        parts = [part for part in np.split(order, cuts) if len(part)]
        for number in rng.permutation(len(parts)):
            part = parts[number]
            collate = partial(self._collated, width=self.lengths[part].max())
            yield Batch(part, collate, weights=(self.lengths - self.firsts)[part])

    def _collated(self, part: np.ndarray, width: int) -> dict[str, Tensor]:
        """Return the stretches in `part`, padded to the width of the whole batch."""
        counts = (self.lengths - self.firsts)[part]
        rows = np.repeat(np.arange(len(part)), counts)
        places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return {
            "rows": torch.from_numpy(rows),
            "places": torch.from_numpy(places + self.firsts[part][rows]),
            "sequences": torch.from_numpy(self.items[part, :width]),
        }


def _stretches(sequence: Sequence[int], max_history: int) -> Iterator[tuple[Sequence[int], int]]:
    """Yield the stretches of a sequence, each with the position of its first target."""
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


class ContentOf(Protocol):
    """Converts B item indices to B rows of tensors, such as `PreparedContent.batch`."""

    def __call__(self, items: np.ndarray, among: np.ndarray, /) -> Mapping[str, Tensor]:
        """Return rows for `items` (B,), padded as in a batch of the items `among`."""


class NeighbourBatches:
    """Batches of items, each with an item that is next to it in some sequence (UTGRec 2.3.2).

    `{"items": content(i), "neighbours": content(j)}`, where `content` is a ContentOf. Every item occurs once
    per epoch. The order and the choice of neighbours depend only on (seed, epoch). An item without neighbours
    is paired with itself.
    """

    def __init__(
        self, items: np.ndarray, neighbours: pl.DataFrame, content: ContentOf, batch_size: int
    ) -> None:
        """Take the items (n,) and their neighbours from `co_occurrence_neighbours`."""
        if not len(items):
            raise ValueError("there is no item to learn from")
        self.items, self.content, self.batch_size = np.asarray(items, dtype=np.int64), content, batch_size
        of_items = neighbours.filter(pl.col("item").is_in(self.items.tolist()))
        found = dict(of_items.select("item", "neighbours").iter_rows())
        lists = [found.get(item) or [item] for item in self.items.tolist()]
        self.counts = np.array([len(one) for one in lists])
        self._starts = np.cumsum(self.counts) - self.counts
        self._flat = np.concatenate([np.asarray(one, dtype=np.int64) for one in lists])

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def pairs(self, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of an epoch in order, (n,), and their neighbours, (n,)."""
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self.items))
        drawn = self._starts[order] + rng.integers(self.counts[order])
        return self.items[order], self._flat[drawn]

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        items, neighbours = self.pairs(epoch, seed)
        for start in range(0, len(items), self.batch_size):
            pair = items[start : start + self.batch_size], neighbours[start : start + self.batch_size]
            yield Batch(np.arange(len(pair[0])), partial(self._collated, pair), in_order=True)

    def _collated(self, pair: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
        items, neighbours = pair
        return {
            "items": self.content(items[rows], items),
            "neighbours": self.content(neighbours[rows], neighbours),
        }
