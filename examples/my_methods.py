"""Components of your own in one file, which `my_methods.yaml` points at: no edit of the package.

A tokenizer, a generative recommender, a model over items, a data source and a metric. Notebook 10 explains
the first two.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from genrec_lab import Dataset, ItemCodes, load_dataset
from genrec_lab.decoding import Ranked
from genrec_lab.models.recommenders.base import ItemRecommender
from genrec_lab.models.tokenizers import ItemContent, Tokenizer, TokenizerConfig


class Directions(Tokenizer):
    """A code for each principal direction of the content vectors: the bin in which an item lies along it."""

    class Config(TokenizerConfig):
        """How many directions, and how many bins with equally many items."""

        levels: int = 3
        codebook_size: int = 16

    def fit(
        self, content: Any, *, seed: int = 0, on_epoch: Any = None, checkpoint: Any = None
    ) -> "Directions":
        """Find directions and bins."""
        vectors, size = ItemContent.of(content).vectors, self.config.codebook_size
        self.mean = vectors.mean(axis=0)
        _, _, directions = np.linalg.svd(vectors - self.mean, full_matrices=False)
        self.directions = directions[: self.config.levels]
        self.borders = np.quantile(self.along(vectors), np.arange(1, size) / size, axis=0)
        self.sizes = (size,) * self.config.levels
        return self

    def along(self, vectors: np.ndarray) -> np.ndarray:
        """Return where items lie along the directions, (n, L)."""
        return (vectors - self.mean) @ self.directions.T

    def encode(self, content: Any) -> np.ndarray:
        """Return the codes of items, (n, L)."""
        places = self.along(ItemContent.of(content).vectors)
        return (places[:, None] > self.borders).sum(axis=1)


class CodeTransitions:
    """Which codes follow which, counted for each level by itself; the most recent items count most."""

    class Config(BaseModel):
        """How fast older items are forgotten, and what is added to each count."""

        decay: float = 0.3
        smoothing: float = 0.5

    def __init__(self, codes: ItemCodes, config: Any) -> None:
        self.codes, self.config = codes, config

    def fit(self, data: Any) -> "CodeTransitions":
        """Count which code follows which at each level."""
        counts = [np.full((size, size), self.config.smoothing) for size in self.codes.sizes]
        for sequence in data.sequences["items"].to_list():
            for level, codes in enumerate(self.codes.codes[sequence].T):
                np.add.at(counts[level], (codes[:-1], codes[1:]), 1)
        self.follows = [table / table.sum(axis=1, keepdims=True) for table in counts]
        return self

    def recommend(self, histories: list[list[int]], top_k: int, domain: list[str]) -> Ranked:
        """Return the top_k items of each user's domain."""
        ranked = []
        for history, name in zip(histories, domain, strict=True):
            items, recent = self.codes.domain_items(name), self.codes.codes[history[::-1]]
            weights = self.config.decay ** np.arange(len(recent))
            parts = [weights @ table[recent[:, level]] for level, table in enumerate(self.follows)]
            scores = sum(np.log(part[self.codes.codes[items, level]]) for level, part in enumerate(parts))
            ranked.append(Ranked.best(items[None], scores[None], top_k))
        return Ranked.concatenate(ranked)

    def save(self, folder: Path) -> None:
        """Write codes, settings and shares."""
        self.codes.write(folder / "codes.parquet")
        (folder / "config.json").write_text(self.config.model_dump_json())
        np.savez(folder / "follows.npz", *self.follows)

    @classmethod
    def load(cls, folder: Path) -> "CodeTransitions":
        """Read what `save` wrote."""
        config = cls.Config.model_validate_json((folder / "config.json").read_text())
        model = cls(ItemCodes.read(folder / "codes.parquet"), config)
        with np.load(folder / "follows.npz") as tables:
            model.follows = list(tables.values())
        return model


class LastItem(ItemRecommender):
    """Recommends what follows the last item of a history most often in training."""

    class Config(BaseModel):
        """What is added to each count."""

        smoothing: float = 0.1

    def fit(self, data: Any) -> "LastItem":
        """Count which item follows which."""
        self.items = data.items["item"].to_numpy()
        self.counts = np.full((len(self.items), len(self.items)), self.config.smoothing, dtype=np.float32)
        for sequence in data.sequences["items"].to_list():
            places = np.searchsorted(self.items, sequence)
            np.add.at(self.counts, (places[:-1], places[1:]), 1)
        return self

    def score(self, histories: list[list[int]]) -> np.ndarray:
        """Return a score for each history and item."""
        return self.counts[np.searchsorted(self.items, [history[-1] for history in histories])]


def small_shop(size: int = 300) -> Dataset:
    """A data source: any function that returns a Dataset; its arguments are options of the run file."""
    return load_dataset("bazaar", items=size, users=300)


def hit_at_one(ranked: np.ndarray, target: np.ndarray, k: int) -> np.ndarray:
    """A metric of each user (U,), from ranked items (U, K) and the target (U,)."""
    return (np.asarray(ranked)[:, 0] == target).astype(float)
