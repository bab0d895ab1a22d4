"""Rankings where several items share an identifier: a search finds identifiers, and what it says of the items
of one is the same for all of them.

Such a group is ranked at its expected place: as if its items came in an order drawn by chance, and the metric
averaged over all orders, by formula. Some published code counts a user as hit where the target's identifier
is among the first k identifiers; that count is at least as high, and is here too. Shapes: U users, K ranked
identifiers, N items.
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
    """A ranking of identifiers, each named by the lowest of its items; it takes part as a ranking of items.

    identifiers: (U, K), best first, -1 past the last. representatives: (N,) the lowest item with each item's
    identifier.

    >>> ranking = SharedRanking(np.array([[4, 0]]), np.array([0, 0, 0, 3, 4]))
    >>> ranking.items.tolist(), ranking.recall(np.array([1]), 2).tolist()  # one of 0, 1 and 2 is second
    ([[4, 0]], [0.3333333333333333])
    """

    identifiers: np.ndarray
    representatives: np.ndarray

    @property
    def items(self) -> np.ndarray:
        """(U, K) items: those of an identifier next to each other, the lowest first."""
        return with_equals(self.identifiers, self.representatives)[0]

    def places(self, target: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each user the number of identifiers and of items before the target's group, and its size.

        The first is -1 where the group is not ranked.
        """
        sizes = np.bincount(self.representatives, minlength=len(self.representatives))
        group = self.representatives[np.asarray(target)]
        hits = self.identifiers == group[:, None]
        first = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
        ranked = np.where(self.identifiers == NO_ITEM, 0, sizes[self.identifiers])
        before = np.concatenate([np.zeros((len(ranked), 1), dtype=np.int64), ranked.cumsum(axis=1)], axis=1)
        return first, before[np.arange(len(ranked)), np.maximum(first, 0)], sizes[group]

    def recall(self, target: npt.ArrayLike, k: int) -> np.ndarray:
        """The chance that the target is among the first k items: (U,)."""
        first, before, size = self.places(target)
        return np.where(first >= 0, np.clip((k - before) / size, 0.0, 1.0), 0.0)

    def ndcg(self, target: npt.ArrayLike, k: int) -> np.ndarray:
        """The mean of 1 / log2(rank + 2) over the group's places, 0 from rank k on: (U,)."""
        first, before, size = self.places(target)
        gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])
        within = gains[np.minimum(before + size, k)] - gains[np.minimum(before, k)]
        return np.where(first >= 0, within / size, 0.0)

    def optimistic_recall(self, target: npt.ArrayLike, k: int) -> np.ndarray:
        """1 where the target's identifier is among the first k identifiers, else 0: (U,)."""
        first = self.places(target)[0]
        return ((first >= 0) & (first < k)).astype(np.float64)

    def per_user(self, metric: str, target: npt.ArrayLike, k: int) -> np.ndarray | None:
        """One of the metrics that have a formula, None for another."""
        formula: Any = {"recall": self.recall, "ndcg": self.ndcg}.get(metric)
        return None if formula is None else np.asarray(formula(target, k))
