"""What a recommender over items may know of the domain that it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

# "text": sentence vectors; "pictures": picture vectors; "words": the items' table of texts and attributes.
Need = Literal["text", "pictures", "words"]
_ARRAYS, _WORDS = "domain.safetensors", "items.parquet"


def _no_users() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class DomainItems:
    """A domain's items, or several domains' together: row i of every table is that of `items[i]`."""

    items: np.ndarray  # (N,) int64, indices over all domains, ascending
    users: np.ndarray = field(default_factory=_no_users)  # (U,) int64, the domain's users, ascending
    text: np.ndarray | None = None  # (N, D) float32, of `encode_texts`
    pictures: np.ndarray | None = None  # (N, D) float32
    words: pl.DataFrame | None = None  # N rows of Dataset.items

    def __post_init__(self) -> None:
        """Check the order of ids and the number of rows; ValueError names what is wrong."""
        for name in ("items", "users"):
            ids = np.asarray(getattr(self, name), dtype=np.int64)
            if (np.diff(ids) <= 0).any():
                raise ValueError(f"the domain's {name} are not ascending and distinct; sort them")
            object.__setattr__(self, name, ids)
        if not len(self.items):
            raise ValueError("the domain has no items; there is nothing to recommend")
        for need, table in self._tables().items():
            if table is not None and len(table) != len(self.items):
                raise ValueError(
                    f"{need} has {len(table)} rows for {len(self.items)} items; expected one each"
                )

    def require(self, needs: Sequence[Need], model: str) -> None:
        """Raise ValueError where one of the needs is not there, naming the model."""
        tables = self._tables()
        for need in needs:
            if tables[need] is None:
                raise ValueError(f"{model} needs {need} of its items; give DomainItems(…, {need}=…)")

    def present(self, needs: Sequence[Need]) -> tuple[Need, ...]:
        """Return those of the needs that are there."""
        tables = self._tables()
        return tuple(need for need in needs if tables[need] is not None)

    def user_places(self, users: Sequence[int]) -> np.ndarray:
        """Return (B,) places in `users`, -1 for a user that is not among them."""
        wanted = np.asarray(users, dtype=np.int64)
        if not len(self.users):
            return np.full(len(wanted), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.users, wanted), len(self.users) - 1)
        return np.where(self.users[places] == wanted, places, -1)

    def write(self, folder: Path, needs: Sequence[Need]) -> None:
        """Write items, users and the needed tables into a folder."""
        vectors = {"text": self.text, "pictures": self.pictures}
        arrays = {"items": self.items, "users": self.users}
        arrays |= {name: array for name, array in vectors.items() if name in needs and array is not None}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / _ARRAYS)
        if "words" in needs and self.words is not None:
            self.words.write_parquet(folder / _WORDS)

    @classmethod
    def read(cls, folder: Path) -> DomainItems:
        """Read what `write` wrote."""
        words = folder / _WORDS
        return cls(**load_file(folder / _ARRAYS), words=pl.read_parquet(words) if words.is_file() else None)

    def _tables(self) -> dict[Need, np.ndarray | pl.DataFrame | None]:
        return {"text": self.text, "pictures": self.pictures, "words": self.words}
