"""What every recommender answers: items in the order of their scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from genrec_lab.data.rules import NO_ITEM


class Ranked(NamedTuple):
    """Items and scores of B users, best first; distinct, and past a catalogue's last item -1 and -inf."""

    items: np.ndarray  # (B, K) int64: item indices
    scores: np.ndarray  # (B, K) float32: log-probabilities, or whatever the model ranks by

    @classmethod
    def best(cls, items: np.ndarray, scores: np.ndarray, top_k: int) -> Ranked:
        """Return the top_k of each row of (B, C) candidates, higher scores first.

        At equal scores the lower item index comes first. Candidates with a score of -inf are none; rows with
        fewer than top_k others end in -1 and -inf.
        """
        scores = scores.astype(np.float32)  # first, so that what reads as equal is ordered as equal
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
        """Return the users of all parts below one another."""
        return cls(np.concatenate([p.items for p in parts]), np.concatenate([p.scores for p in parts]))

    @classmethod
    def nobody(cls, top_k: int) -> Ranked:
        """Return the rankings of no user at all."""
        return cls(np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32))
