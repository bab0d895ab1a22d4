"""Recommenders as somebody outside the package writes them, for tests: named in run files by their place."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel

from genrec_lab.codes import ItemCodes
from genrec_lab.decoding import Ranked
from genrec_lab.models.recommenders.base import ItemRecommender


class LastItem(ItemRecommender):
    """Ranks the items near the last one of a history first; it derives from the package's class."""

    class Config(BaseModel):  # no kind, no strictness: pydantic as everybody writes it
        reach: float = 3.0
        weights: list[float] = [1.0]

    def fit(self, data):
        self.items = data.items["item"].to_numpy()
        return self

    def score(self, histories):
        last = np.array([history[-1] for history in histories])
        return -np.abs(self.items - last[:, None]) / self.config.reach


class FirstCodes:
    """A generative recommender that derives from nothing: the items with the smallest codes for everybody."""

    class Config(BaseModel):
        upwards: bool = True

    def __init__(self, codes, config):
        self.codes, self.config, self.seen = codes, config, {}

    def fit(self, data, *, seed, training):
        self.seen = {"domains": data.domains, "seed": seed, "epochs": training.epochs}
        return self

    def recommend(self, histories, top_k, domain):
        rows = []
        for name in domain:
            items = self.codes.domain_items(name)
            order = np.lexsort(self.codes.codes[items].T[::-1])
            rows.append(items[order if self.config.upwards else order[::-1]][:top_k])
        return np.array(rows)

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.codes.write(folder / "codes.parquet")
        (folder / "config.json").write_text(self.config.model_dump_json())

    @classmethod
    def load(cls, folder):
        config = cls.Config.model_validate_json((folder / "config.json").read_text())
        return cls(ItemCodes.read(folder / "codes.parquet"), config)


class Unfinished:
    """It lacks most of what a recommender has."""

    class Config(BaseModel):
        pass


class NoConfig(LastItem):
    """Its Config is no pydantic model."""

    Config = dict


def ranked(items, scores=None):
    """What a `recommend` gave, for tests of its checks."""
    items = np.array(items)
    return items if scores is None else Ranked(items, np.array(scores))
