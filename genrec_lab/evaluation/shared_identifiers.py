"""Rankings in which several items share an identifier, and therefore have the same score.

The metrics are expected values over all orders of such a group, computed by formula. Some published code
counts a hit if the target's identifier is among the first k identifiers; this optimistic count, which is at
least as high, is also provided. Shapes: U users, K ranked identifiers, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec_lab.codes.grouping import with_equals
from genrec_lab.data import NO_ITEM


@dataclass(frozen=True, eq=False)
class SharedRanking:
    """A ranking of identifiers, given by their lowest items, that can be used as a ranking of items.

    identifiers: (U, K), best first, filled with -1. representatives: (N,) the lowest item with each item's
    identifier.

    >>> ranking = SharedRanking(np.array([[4, 0]]), np.array([0, 0, 0, 3, 4]))
    >>> ranking.items.tolist(), ranking.recall(np.array([1]), 2).tolist()  # one of 0, 1 and 2 is second
    ([[4, 0]], [0.3333333333333333])
    """

    identifiers: np.ndarray
    representatives: np.ndarray

    @property
    def items(self) -> np.ndarray:
        """Items (U, K): those of one identifier are adjacent, the lowest first."""
        return with_equals(self.identifiers, self.representatives)[0]

    def places(self, target: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each user the numbers of identifiers and items before the target's group, and its size.

        The first is -1 if the group is not ranked.
        """
        sizes = np.bincount(self.representatives, minlength=len(self.representatives))
        group = self.representatives[np.asarray(target)]
        hits = self.identifiers == group[:, None]
        first = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
        ranked = np.where(self.identifiers == NO_ITEM, 0, sizes[self.identifiers])
        before = np.concatenate([np.zeros((len(ranked), 1), dtype=np.int64), ranked.cumsum(axis=1)], axis=1)
        return first, before[np.arange(len(ranked)), np.maximum(first, 0)], sizes[group]

    def recall(self, target: npt.ArrayLike, k: int) -> np.ndarray:
        """Return the probability that the target is among the first k items: (U,)."""
        first, before, size = self.places(target)
        return np.where(first >= 0, np.clip((k - before) / size, 0.0, 1.0), 0.0)

    def ndcg(self, target: npt.ArrayLike, k: int) -> np.ndarray:
        """Return the mean of 1 / log2(rank + 2) over the group's ranks, 0 from rank k on: (U,)."""
        first, before, size = self.places(target)
        gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])
        within = gains[np.minimum(before + size, k)] - gains[np.minimum(before, k)]
        return np.where(first >= 0, within / size, 0.0)

    def optimistic_recall(self, target: npt.ArrayLike, k: int) -> np.ndarray:
        """Return 1 if the target's identifier is among the first k identifiers, else 0: (U,)."""
        first = self.places(target)[0]
        return ((first >= 0) & (first < k)).astype(np.float64)

    def per_user(self, metric: str, target: npt.ArrayLike, k: int) -> np.ndarray | None:
        """Return a metric that has a formula, or None for others."""
        formula: Any = {"recall": self.recall, "ndcg": self.ndcg}.get(metric)
        return None if formula is None else np.asarray(formula(target, k))
