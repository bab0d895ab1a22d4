"""Batches of prefixes and what follows them, for models whose training must read each prefix on its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genrec_lab.data.batches import of_like_length, shuffled
from genrec_lab.models.sequential.sequence_batches import NOTHING_TO_LEARN, padded, places_of


class DrawnPrefixes:
    """Batches `{"sequences": (B, T), "wanted": (B,)}`: some prefixes of each sequence and their next items.

    Prefixes are the most recent `max_history` items before their target, padded at the right with -1. Each
    epoch draws `per_sequence` targets of each sequence, or takes all; with `later_half` no target is in the
    first half. With `like_length` prefixes of like length share a batch, so that little is padded. What is
    drawn, and the order, depends on (seed, epoch) and nothing else. Sequences of a single item have nothing
    to learn from and are counted in `skipped`.
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
    ) -> None:
        """Read the sequences; ValueError where one holds an item that is not among `items`, ascending."""
        self.batch_size, self.max_history, self.per_sequence = batch_size, max_history, per_sequence
        self.like_length = like_length
        numbered = enumerate(sequences)
        places = [places_of(items, np.asarray(s, dtype=np.int64), f"sequence {i}") for i, s in numbered]
        self.rows = [row for row in places if len(row) > 1]
        self.skipped = len(places) - len(self.rows)
        if not self.rows:
            raise ValueError(NOTHING_TO_LEARN)
        starts = [max(1, (len(row) - 1) // 2) if later_half else 1 for row in self.rows]
        self.targets = [np.arange(start, len(row)) for start, row in zip(starts, self.rows, strict=True)]

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        most = self.per_sequence
        counts = [len(targets) if most is None else min(most, len(targets)) for targets in self.targets]
        return -(-sum(counts) // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of one epoch."""
        rng = np.random.default_rng([seed, epoch])
        samples = [
            (row, int(target))
            for row, targets in zip(self.rows, self.targets, strict=True)
            for target in (
                targets if self.per_sequence is None else rng.permutation(targets)[: self.per_sequence]
            )
        ]
        if self.like_length:
            lengths = np.array([min(target, self.max_history) for _, target in samples])
            batches = of_like_length(rng.permutation(len(samples)), lengths, self.batch_size, rng)
        else:
            batches = shuffled(len(samples), self.batch_size, rng)
        for chosen in batches:
            drawn = [samples[i] for i in chosen]
            prefixes = [row[max(0, target - self.max_history) : target] for row, target in drawn]
            yield {
                "sequences": padded(prefixes, max(map(len, prefixes))),
                "wanted": torch.tensor([int(row[target]) for row, target in drawn]),
            }


class Refreshable(Protocol):
    """A model that keeps something made of its weights, which each epoch makes anew."""

    def refresh(self) -> None:
        """Make it anew."""


class RefreshedBatches:
    """Batches before each epoch of which a model is refreshed."""

    def __init__(self, model: Refreshable, batches: DrawnPrefixes) -> None:
        self.model, self.batches = model, batches

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.batches)

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Refresh the model, then yield the batches of one epoch."""
        self.model.refresh()
        yield from self.batches(epoch, seed)
