"""Bazaar, the built-in data set: shops, items with text and pictures, and users, all generated from a seed.

`make_bazaar` returns an ordinary `Dataset`. Since the distribution behind it is known (`world.py`), the best
ranking that any model could make from a history is also known: `oracle_ranking` and `best_possible`
(`oracle.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.bazaar.catalogue import describe
from genrec_lab.bazaar.oracle import (
    BestPossible,
    OracleRanking,
    best_possible,
    next_item_probabilities,
    oracle_ranking,
)
from genrec_lab.bazaar.pictures import write_pictures
from genrec_lab.bazaar.sequences import Sequences, draw_sequences
from genrec_lab.bazaar.world import BazaarConfig, BazaarWorld, DomainWorld, stream
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.item_text import DEFAULT_TEMPLATE, template_text
from genrec_lab.data.paths import absolute_path
from genrec_lab.data.rules import DataError

__all__ = [
    "BazaarConfig", "BazaarWorld", "BestPossible", "OracleRanking", "best_possible", "make_bazaar",
    "next_item_probabilities", "oracle_ranking",
]  # fmt: skip


def make_bazaar(
    items: int = 900,
    users: int | None = None,
    domains: Sequence[str] = ("Garden", "Kitchen", "Studio"),
    seed: int = 0,
    images: str | PathLike[str] | bool | None = None,
    text_template: str = DEFAULT_TEMPLATE,
    **knobs: Any,
) -> Dataset:
    """Generate a Bazaar: `load_dataset("bazaar", ...)`.

    `items` (300 to 1,000,000) and `users` (by default four per item, at most 400,000) are spread evenly over
    `domains`, a selection of the shops Garden, Kitchen, Studio, Workshop, Wardrobe, Playroom. `images` is a
    folder for the pictures of all items; None or False means no pictures. Pictures only change the column
    `image`. True is for run files: the lab writes the pictures to its cache. `text_template` builds the
    column `text` from the others. `knobs` are the other fields of `BazaarConfig`. The items have the
    additional columns `brand, categories, description, material, colour, shape, style`.

    The same options give the same Dataset on every machine. A shop's items depend on the seed and on their
    number, not on the other shops or on the users. Raises DataError for an option that is unknown or out of
    bounds.

    >>> data = make_bazaar(items=300, users=300, domains=["Garden"])
    >>> data.items["title"][1]
    'Crimson wind chime (copper, hexagonal) in the Industrial look'
    """
    world = BazaarWorld.from_options(
        {"items": items, "users": users, "domains": domains, "seed": seed, **knobs}
    )
    folder = _picture_folder(images)
    catalogue = pl.concat([_items(world, place, text_template, folder) for place in world.domains.values()])
    drawn = draw_sequences(world)
    users_frame = pl.concat([_sequences(place, drawn[name]) for name, place in world.domains.items()])
    return Dataset(
        "Bazaar",
        catalogue.with_columns(item=pl.int_range(catalogue.height, dtype=pl.Int64)),
        users_frame.with_columns(user=pl.int_range(users_frame.height, dtype=pl.Int64)),
    )


def _picture_folder(images: object) -> Path | None:
    if images is None or images is False:
        return None
    if not isinstance(images, str | PathLike) or not fspath(images):
        raise DataError(
            f"bazaar: images = {images!r}: name a folder for the pictures, or None for no pictures"
        )
    folder = absolute_path(images, "bazaar: images")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"bazaar: images = {str(folder)!r} is a file; name a folder for the pictures")
    return folder


def _items(world: BazaarWorld, place: DomainWorld, text_template: str, folder: Path | None) -> pl.DataFrame:
    """Return the items of one shop, without their index."""
    seed, shop = world.config.seed, place.shop
    phrased = describe(shop, place.attributes, stream(seed, "wording", shop))
    phrased = phrased.with_columns(domain=pl.lit(shop.name))
    # Pictures take longest, so the text comes first: a wrong template fails immediately.
    text = template_text(text_template, phrased)
    pictures: list[str | None] = [None] * phrased.height
    if folder is not None:
        keys = phrased["key"].to_list()
        pictures = list(write_pictures(folder, shop, place.attributes, keys, stream(seed, "pictures", shop)))
    return phrased.with_columns(text, image=pl.Series(pictures, dtype=pl.String))


def _sequences(place: DomainWorld, drawn: Sequences) -> pl.DataFrame:
    """Return the sequences of one shop's users, without the users' indices."""
    number = np.arange(len(drawn.lengths))
    places = pl.DataFrame({"number": np.repeat(number, drawn.lengths), "items": drawn.items})
    name = place.shop.name
    number_text = pl.col("number").cast(pl.String).str.zfill(7)
    return places.group_by("number", maintain_order=True).agg("items").select(
        pl.lit(name).alias("domain"),
        "items",
        pl.format("{}-user-{}", pl.lit(name.lower()), number_text).alias("key"),
    )  # fmt: skip


make_bazaar.__dict__["options"] = BazaarConfig  # used to validate a run file before anything is generated
