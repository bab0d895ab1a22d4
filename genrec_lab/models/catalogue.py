"""Look-up of items by title or by the source's key."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from genrec_lab.decoding import Ranked

ITEM_COLUMNS = ("domain", "key", "title")


class Catalogue:
    """The items of a frame `domain, key, title`, in the order of their indices."""

    def __init__(self, items: pl.DataFrame) -> None:
        self.items = items.select(ITEM_COLUMNS)

    @cached_property
    def _keys(self) -> dict[tuple[str, str], int]:
        pairs = zip(self.items["domain"].to_list(), self.items["key"].to_list(), strict=True)
        return {pair: item for item, pair in enumerate(pairs)}

    def places(self, keys: Sequence[str], domain: str) -> np.ndarray:
        """Return the indices of the items with these keys in a domain, -1 for unknown keys."""
        return np.array([self._keys.get((domain, key), -1) for key in keys], dtype=np.int64)

    def named(self, names: Sequence[str], domain: str | None = None) -> list[int]:
        """Return the items with these keys or titles; if several share a title, the first.

        Raises ValueError for an unknown name, listing the nearest ones.
        """
        rows = self.items.with_row_index("item")
        rows = rows if domain is None else rows.filter(pl.col("domain") == domain)
        known: dict[str, int] = {}
        for column in ("key", "title"):
            for name, item in zip(rows[column].to_list(), rows["item"].to_list(), strict=True):
                known.setdefault(name, item)
        for name in names:
            if name not in known:
                near = ", ".join(map(repr, get_close_matches(str(name), known, n=3))) or "none"
                where = f" of {domain}" if domain else ""
                raise ValueError(f"{name!r} is not the title or key of an item{where}; near: {near}")
        return [known[name] for name in names]

    def described(self, ranked: Ranked, user: int = 0) -> pl.DataFrame:
        """Return one user's recommendations: frame `rank, key, title, score`, rank from 1."""
        found = ranked.items[user] >= 0
        return (
            self.items[ranked.items[user][found]]
            .select("key", "title", score=pl.Series(ranked.scores[user][found]))
            .with_row_index("rank", offset=1)
        )


class NamesItems:
    """A recommender that can look up items by title.

    `shared_items` is its catalogue, a frame `domain, key, title` in the order of item indices, or None.
    `max_history` is the longest history in its training, None if unknown.
    """

    shared_items: pl.DataFrame | None = None
    max_history: int | None = None

    def recommend_titles(
        self, titles: Sequence[str], top_k: int = 10, domain: str | None = None, **options: Any
    ) -> pl.DataFrame:
        """Recommend after the items with these titles or keys, oldest first: `rank, key, title, score`.

        domain: look up titles only there. options: those of `recommend`, such as `allow` (item indices) and
        `exclude_seen`. Raises ValueError for an unknown title, listing the nearest ones.
        """
        if self.shared_items is None:
            raise ValueError(
                f"this {type(self).__name__} has no titles; use run.recommender(domain), or set "
                "shared_items to a frame of domain, key and title"
            )
        catalogue = Catalogue(self.shared_items)
        ranked = self.recommend([catalogue.named(titles, domain)], top_k, **options)  # type: ignore[attr-defined]
        return catalogue.described(ranked)
