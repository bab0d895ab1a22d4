"""Popularity: for everybody the items that the training part holds most often. The floor of every table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, Self

import numpy as np

from genrec_lab.data import Dataset
from genrec_lab.decoding import Histories
from genrec_lab.models.recommenders.base import ItemRecommender, TrainingData
from genrec_lab.registry import ComponentConfig


class PopularityConfig(ComponentConfig):
    """There is nothing to set."""

    kind: Literal["popularity"] = "popularity"


class Popularity(ItemRecommender):
    """Ranks the items of its data by their number in training sequences; at equal counts by item index."""

    Config: ClassVar = PopularityConfig
    counts: np.ndarray  # (N,) float32

    def fit(self, data: Dataset | TrainingData) -> Self:
        """Count the items of the training part."""
        learnt = TrainingData.of(data)
        return self.count(learnt.items["item"].to_numpy(), learnt.sequences["items"].to_list())

    def count(self, items: np.ndarray, sequences: Iterable[Iterable[int]]) -> Self:
        """Count some items (N,) in sequences of them; ValueError where a sequence holds another."""
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
        """Return the counts (B, N), equal in each row."""
        return np.broadcast_to(self.counts, (len(histories), len(self.counts)))
