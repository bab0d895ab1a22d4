"""Popularity: recommends the most frequent training items to everybody, as a lower bound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, Self

import numpy as np

from genrec_lab.data import NO_ITEM, Dataset
from genrec_lab.decoding import Histories, Ranked
from genrec_lab.models.recommenders.base import (
    ItemList,
    ItemRecommender,
    Seen,
    TrainingData,
    allowed_items,
    seen_items,
)
from genrec_lab.registry import ComponentConfig


class PopularityConfig(ComponentConfig):
    """Popularity has no settings."""

    kind: Literal["popularity"] = "popularity"


class Popularity(ItemRecommender):
    """Ranks items by their count in the training sequences; ties by item index."""

    Config: ClassVar = PopularityConfig
    counts: np.ndarray  # (N,) float32

    def fit(self, data: Dataset | TrainingData) -> Self:
        """Count the items of the training part."""
        learnt = TrainingData.of(data)
        return self.count(learnt.items["item"].to_numpy(), learnt.sequences["items"].to_list())

    def count(self, items: np.ndarray, sequences: Iterable[Iterable[int]]) -> Self:
        """Count items (N,) in sequences; raises ValueError if a sequence holds another item."""
        self.items = np.sort(items)
        seen = np.fromiter((item for sequence in sequences for item in sequence), dtype=np.int64)
        foreign = np.setdiff1d(seen, self.items)
        if len(foreign):
            raise ValueError(
                f"the sequences hold item {foreign[0]}, which is not among the {len(self.items)} items given"
            )
        places = np.searchsorted(self.items, seen)
        self.counts = np.bincount(places, minlength=len(self.items)).astype(np.float32)
        return self

    def score(self, histories: Histories, users: object = None) -> np.ndarray:
        """Return the counts (B, N), the same in each row."""
        return np.broadcast_to(self.counts, (len(histories), len(self.counts)))

    def recommend(
        self,
        histories: Histories,
        top_k: int,
        users: Sequence[int] | None = None,
        *,
        allow: ItemList = None,
        deny: ItemList = None,
        exclude_seen: Seen = False,
    ) -> Ranked:
        """Return the top_k items, ranked once for all users; see ItemRecommender."""
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}; expected 1 or more")
        kept = allowed_items(self.items, allow, deny)
        counts = self.counts[np.searchsorted(self.items, kept)]
        seen = seen_items(histories, exclude_seen)
        longest = max(map(len, seen), default=0) if seen is not None else 0
        first = np.lexsort((kept, -counts))[: top_k + longest]
        filled = (0, top_k + longest - len(first))
        best = np.pad(kept[first], filled, constant_values=NO_ITEM)
        scores = np.pad(counts[first], filled, constant_values=-np.inf)
        rows = np.broadcast_to(np.arange(top_k), (len(histories), top_k))
        if seen is not None:
            unseen = [np.flatnonzero(~np.isin(best, items))[:top_k] for items in seen]
            rows = np.array(unseen, dtype=np.int64).reshape(len(histories), top_k)
        return Ranked(best[rows], scores[rows])
