"""Popularity: for everybody the items that the training part holds most often. The floor of every table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from genrec_lab.decoding import Histories, Ranked
from genrec_lab.models.catalogue import rank_by_score


class Popularity:
    """Ranks the items of one domain by their number in training sequences; at equal counts by item index."""

    def __init__(self, items: np.ndarray, sequences: Iterable[Iterable[int]]) -> None:
        """Count: `items` (N,) are the domain's item indices, `sequences` the training parts of its users.

        Raises ValueError where a sequence holds another item.
        """
        self.items = np.asarray(items)
        seen = np.fromiter((item for sequence in sequences for item in sequence), dtype=np.int64)
        foreign = np.setdiff1d(seen, self.items)
        if len(foreign):
            raise ValueError(
                f"the sequences hold item {foreign[0]}, which is not among the {len(self.items)} items given"
            )
        order = np.argsort(self.items)
        places = order[np.searchsorted(self.items, seen, sorter=order)]
        self.counts = np.bincount(places, minlength=len(self.items)).astype(np.float32)

    def score(self, histories: Histories) -> np.ndarray:
        """Return the counts (B, N), equal in each row."""
        return np.broadcast_to(self.counts, (len(histories), len(self.counts)))

    def recommend(self, histories: Histories, top_k: int) -> Ranked:
        """Return the top_k items of the domain for each history."""
        return rank_by_score(self.score, histories, self.items, top_k)
