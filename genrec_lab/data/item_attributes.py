"""The attributes of items, read from the columns of their table, for models that learn from them.

The rule. Every text column beside title, text, image, key and description is a kind of attribute, and so is
every column of lists of text. A value is one attribute; categories with commas between them, and lists, are
several. The same words in two columns are two attributes. Where the table has no such column, the words of
the text are the attributes: lower case, three letters or more. Kept is what at least `least` items have and
at most half of all: what one item has, or all have, tells nothing of a neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from genrec_lab.data.rules import ITEM_TYPES, DataError

# A description is prose: its sentences are nobody else's attribute.
_PROSE = (*ITEM_TYPES, "description")
_WORD = r"[^\W\d_]{3,}"


@dataclass(frozen=True, eq=False)
class ItemAttributes:
    """A attributes of N items; the names are `column: value`, in alphabetical order."""

    names: tuple[str, ...]
    of_items: np.ndarray  # (N, A) bool


def item_attributes(items: pl.DataFrame, least: int = 5) -> ItemAttributes:
    """Read the attributes of the items in N rows of `Dataset.items`, by the rule of this file.

    Raises DataError where no attribute is left.
    """
    found = pl.concat([_named(items, column) for column in _attribute_columns(items) or ["text"]])
    counts = found.unique().group_by("name").agg(items=pl.len())
    kept = counts.filter((pl.col("items") >= least) & (pl.col("items") * 2 <= items.height))["name"].sort()
    if kept.is_empty():
        raise DataError(
            f"items: no attribute belongs to at least {least} and to at most half of {items.height} items; "
            "lower the model's least_items, or leave the row out"
        )
    place = pl.DataFrame({"name": kept, "place": np.arange(len(kept))})
    cells = found.join(place, on="name")
    of_items = np.zeros((items.height, len(kept)), dtype=bool)
    of_items[cells["row"].to_numpy(), cells["place"].to_numpy()] = True
    return ItemAttributes(tuple(kept), of_items)


def _attribute_columns(items: pl.DataFrame) -> list[str]:
    return [
        name
        for name, kind in items.schema.items()
        if name not in _PROSE and kind in (pl.String, pl.List(pl.String)) and items[name].drop_nulls().len()
    ]


def _named(items: pl.DataFrame, column: str) -> pl.DataFrame:
    """Frame `row, name`: what a column says of each item."""
    values = pl.col(column)
    if column == "text":
        values = values.str.to_lowercase().str.extract_all(_WORD)
    elif column == "categories" and items.schema[column] == pl.String:
        values = values.str.split(",")
    named = items.select(row=pl.int_range(items.height, dtype=pl.Int64), value=values)
    return (
        (named.explode("value") if named.schema["value"] != pl.String else named)
        .with_columns(pl.col("value").str.strip_chars())
        .filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
        .select("row", name=pl.format("{}: {}", pl.lit(column), "value"))
    )
