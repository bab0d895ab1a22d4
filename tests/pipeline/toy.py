"""A data source in which the next item of everybody is known, and a model that ranks it at place seed + 1."""

import json
import time
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel

from genrec_lab.data import Dataset
from genrec_lab.models.recommenders.base import ItemRecommender


def toy(items: int = 12, users: int = 8, domain: str = "A", note: str = "") -> Dataset:
    names = [f"Item {item}" for item in range(items)]
    table = pl.DataFrame({"item": range(items), "domain": domain, "title": names, "text": names})
    sequences = [[(user + step) % items for step in range(5)] for user in range(users)]
    users_table = pl.DataFrame({"user": range(users), "domain": domain, "items": sequences})
    return Dataset("Toy", table, users_table, {f"mended {note}": 1200} if note else {})


def pause() -> None:
    """Wait while there is a file training_hold beside this one, and say so by the file training_held."""
    hold = Path(__file__).with_name("training_hold")
    while hold.exists():
        hold.with_name("training_held").touch()
        time.sleep(0.05)


class Slow(ItemRecommender):
    class Config(BaseModel):
        epochs: int = 1
        label: str = "first"

    def __init__(self, config):
        self.config = config

    def fit(self, data, *, seed, checkpoints):
        checkpoint = checkpoints / "epoch"
        begun = int(checkpoint.read_text()) if checkpoint.exists() else 0
        print("begins at epoch", begun, flush=True)
        for epoch in range(begun, self.config.epochs):
            checkpoint.with_suffix(".partial").write_text(str(epoch + 1))
            checkpoint.with_suffix(".partial").replace(checkpoint)  # whole, whenever it is killed
            pause()
        self.items, self.seed = data.items["item"].to_numpy(), seed
        return self

    def score(self, histories):
        last = np.array([history[-1] for history in histories])
        return -((last[:, None] + 1 + self.seed - self.items) % len(self.items)).astype(float)

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        kept = {"items": self.items.tolist(), "seed": self.seed, "config": self.config.model_dump()}
        (folder / "model.json").write_text(json.dumps(kept))

    @classmethod
    def load(cls, folder):
        kept = json.loads((folder / "model.json").read_text())
        model = cls(cls.Config(**{name: kept["config"][name] for name in ("epochs", "label")}))
        model.items, model.seed = np.array(kept["items"]), kept["seed"]
        return model
