"""A control with a known answer: one shop as two domains, the same items, half of the users in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.data.dataset import DataError, Dataset
from genrec_lab.data.sources import load_dataset

HALVES = ("A", "B")


def read_halves(of: Mapping[str, Any], *, seed: int = 0) -> Dataset:
    """Each domain of another dataset twice, with half of its users each, drawn from the seed.

    `of` are a dataset's name and options, as of `load_dataset`. Its domain Garden becomes "Garden A" and
    "Garden B", with the same items and texts. What a method learns in one half holds in the other, so one
    that shares over domains has to beat the same method on a half alone; where it does not, its sharing is
    broken. Raises DataError where `of` has no name, and for a domain of fewer than two users.

        >>> load_dataset("halves", of={"name": "bazaar", "domains": ["Garden"]}).domains
        ('Garden A', 'Garden B')
    """
    if not isinstance(of.get("name"), str):
        raise DataError(f"halves: of is {dict(of)}, which lacks a name; write for example {{name: bazaar}}")
    whole, parts = load_dataset(**of), list[Dataset]()
    rng = np.random.default_rng(seed)
    for domain in whole.domains:
        shop = whole.select(domain)
        if shop.n_users < len(HALVES):
            raise DataError(f"halves: {domain} has {shop.n_users} users; expected two or more")
        for half, users in zip(HALVES, np.array_split(rng.permutation(shop.n_users), 2), strict=True):
            name = pl.lit(f"{domain} {half}").alias("domain")
            sequences = shop.sequences[np.sort(users)].with_columns(
                name, user=pl.int_range(pl.len(), dtype=pl.Int64)
            )
            parts.append(Dataset(f"{domain} {half}", shop.items.with_columns(name), sequences))
    halves = Dataset.concat(parts, f"{whole.name} in halves")
    return Dataset(halves.name, halves.items, halves.sequences, whole.repairs, whole.sources)
