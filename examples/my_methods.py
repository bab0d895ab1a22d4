"""Components of your own in one file, which `my_methods.yaml` points at: no edit of the package.

A tokenizer, a model over items, a data source and a metric, each as small as it can be.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from genrec_lab.data import Dataset, load_dataset
from genrec_lab.decoding import Ranked
from genrec_lab.models.recommenders.base import TrainingData
from genrec_lab.models.tokenizers import ItemContent, Tokenizer, TokenizerConfig


class Halves(Tokenizer):
    """A code for each of the first dimensions: 1 where an item is above the median, else 0."""

    class Config(TokenizerConfig):
        """How many dimensions are read."""

        levels: int = 6

    def fit(self, content: Any, *, seed: int = 0, on_epoch: Any = None, checkpoint: Any = None) -> "Halves":
        """Find the medians."""
        self.middle = np.median(ItemContent.of(content).vectors[:, : self.config.levels], axis=0)
        self.sizes = (2,) * self.config.levels
        return self

    def encode(self, content: Any) -> np.ndarray:
        """Return the codes of items, (n, L)."""
        return (ItemContent.of(content).vectors[:, : self.config.levels] > self.middle).astype(np.int64)


class LastItem:
    """Recommends what follows the last item of a history most often in training."""

    class Config(BaseModel):
        """What is added to each count."""

        smoothing: float = 0.1

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def fit(self, data: Any) -> "LastItem":
        """Count which item follows which."""
        learnt = TrainingData.of(data)
        self.items = learnt.items["item"].to_numpy()
        self.counts = np.full((len(self.items), len(self.items)), self.config.smoothing, dtype=np.float32)
        for sequence in learnt.sequences["items"].to_list():
            places = np.searchsorted(self.items, sequence)
            np.add.at(self.counts, (places[:-1], places[1:]), 1)
        return self

    def recommend(self, histories: list[list[int]], top_k: int) -> Ranked:
        """Return the top_k items after each history."""
        scores = self.counts[np.searchsorted(self.items, [history[-1] for history in histories])]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        return Ranked(self.items[order], np.take_along_axis(scores, order, axis=1))

    def save(self, folder: Path) -> None:
        """Write the counts."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "counts.npz", items=self.items, counts=self.counts)

    @classmethod
    def load(cls, folder: Path) -> "LastItem":
        """Read what `save` wrote."""
        model, found = cls(), np.load(folder / "counts.npz")
        model.items, model.counts = found["items"], found["counts"]
        return model


def small_shop(size: int = 300) -> Dataset:
    """A data source: any function that returns a Dataset; its arguments are options of the run file."""
    return load_dataset("bazaar", items=size, users=300)


def hit_at_one(ranked: np.ndarray, target: np.ndarray, k: int) -> np.ndarray:
    """A metric of each user (U,), from ranked items (U, K) and the target (U,)."""
    return (np.asarray(ranked)[:, 0] == target).astype(float)
