"""The result of every recommender: items ranked by score."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from genrec_lab.data.rules import NO_ITEM


class Ranked(NamedTuple):
    """Distinct items and scores of B users, best first, filled with -1 and -inf."""

    items: np.ndarray  # (B, K) int64: item indices
    scores: np.ndarray  # (B, K) float32: log-probabilities, or other scores of the model

    @classmethod
    def best(cls, items: np.ndarray, scores: np.ndarray, top_k: int) -> Ranked:
        """Return the top_k of each row of (B, C) candidates, higher scores first.

        Ties go to the lower item index. Candidates with score -inf are ignored; rows with fewer than top_k
        others are filled with -1 and -inf.
        """
        scores = scores.astype(np.float32)  # first, so that scores that print as equal are ties
        order = np.lexsort((items, -scores), axis=-1)[:, :top_k]
        items, scores = np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)
        missing = top_k - items.shape[1]
        items = np.pad(
            np.where(np.isneginf(scores), NO_ITEM, items), ((0, 0), (0, missing)), constant_values=NO_ITEM
        )
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        return cls(items.astype(np.int64), scores)

    @classmethod
    def concatenate(cls, parts: list[Ranked]) -> Ranked:
        """Return the rows of all parts, one after the other."""
        return cls(np.concatenate([p.items for p in parts]), np.concatenate([p.scores for p in parts]))

    @classmethod
    def nobody(cls, top_k: int) -> Ranked:
        """Return the empty rankings of no users."""
        return cls(np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32))
