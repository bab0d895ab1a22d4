"""The two tables of a Dataset: their requirements, the error class, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.registry import did_you_mean

# The number for "no item": pads histories and rankings.
NO_ITEM = -1
# Rows of strings that are hashed at a time, to limit memory; it does not change the hash.
_HASHED_ROWS = 65_536

ITEM_TYPES: dict[str, pl.DataType] = {
    "item": pl.Int64(),
    "domain": pl.String(),
    "title": pl.String(),
    "text": pl.String(),
    "image": pl.String(),
    "key": pl.String(),
}
SEQUENCE_TYPES: dict[str, pl.DataType] = {
    "user": pl.Int64(),
    "domain": pl.String(),
    "items": pl.List(pl.Int64()),
    "key": pl.String(),
}


class DataError(ValueError):
    """Raised for data that cannot be used; the message names the place, the value and the fix."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown word: the nearest known one, then all."""
    names = [str(name) for name in known]
    return f"{did_you_mean(word, names)}; known: {', '.join(names) or 'none'}"


@contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """Catch a DataError of the block, and add its sentence to the problems."""
    try:
        yield
    except DataError as error:
        problems.append(str(error))


def require_one_of(option: str, value: object, known: tuple[str, ...]) -> None:
    """Raise DataError if an option has none of the known values."""
    if value not in known:
        raise DataError(f"{option} is {value!r}, expected {' or '.join(map(repr, known))}")


def require_bool(option: str, value: object) -> None:
    """Raise DataError if an option is neither true nor false."""
    if not isinstance(value, bool):
        raise DataError(f"{option} is {value!r}, expected true or false")


def count_repair(repairs: dict[str, int], what: str, number: int) -> None:
    """Add to the count of a repair, unless it is zero."""
    if number:
        repairs[what] = repairs.get(what, 0) + number


def checked_items(items: pl.DataFrame) -> pl.DataFrame:
    """Return the items table with its fixed columns first, in their exact types.

    Raises DataError for a missing column, a wrong type, a null, an empty table, ids that are not 0..N-1 in
    order, a key twice in a domain, or an attribute column of a type that cannot be kept.
    """
    if "image" not in items.columns:
        items = items.with_columns(image=pl.lit(None, dtype=pl.String))
    table = _typed(_with_keys(items, "item"), "items", ITEM_TYPES, may_be_null=("image",))
    for name in table.columns[len(ITEM_TYPES) :]:
        if not is_attribute_type(table.schema[name]):
            raise DataError(
                f"items: column {name!r} has type {table.schema[name]}; attribute columns hold text, "
                "numbers, booleans or lists of these: cast or drop it"
            )
    _check_ids(table, "items", "item")
    return table


def checked_sequences(sequences: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Return the sequences table with its columns in order, in their exact types.

    `items` has passed `checked_items`. Raises DataError as there, and for a sequence that is empty, that
    names an unknown item or an item of another domain.
    """
    table = _typed(_with_keys(sequences, "user"), "sequences", SEQUENCE_TYPES)
    extra = [name for name in table.columns if name not in SEQUENCE_TYPES]
    if extra:
        raise DataError(f"sequences: unknown column {extra[0]!r}{nearest(extra[0], SEQUENCE_TYPES)}; drop it")
    _check_ids(table, "sequences", "user")
    empty = table.filter(pl.col("items").list.len() == 0)
    if empty.height:
        raise DataError(
            f"sequences: {empty.height} users have no item, the first is key {empty['key'][0]!r} of domain "
            f"{empty['domain'][0]!r}; leave them out"
        )
    places = table.select("user", "domain", item="items").explode("item")
    index = places["item"]
    unknown = places.filter(index.is_null() | (index < 0) | (index >= items.height))
    if unknown.height:
        raise DataError(
            f"sequences: user {unknown['user'][0]} has item {unknown['item'][0]}, but items are "
            f"0..{items.height - 1} ({unknown.height} such entries); add the item to the items or remove the "
            "entry from the sequence"
        )
    foreign = places.with_columns(home=items["domain"].gather(index)).filter(
        pl.col("home") != pl.col("domain")
    )
    if foreign.height:
        raise DataError(
            f"sequences: user {foreign['user'][0]} of domain {foreign['domain'][0]!r} has item "
            f"{foreign['item'][0]} of domain {foreign['home'][0]!r} ({foreign.height} such entries); a "
            "sequence stays within one domain: split it into one user per domain"
        )
    return table


def is_attribute_type(dtype: pl.DataType) -> bool:
    """Return whether an attribute column may have this type: text, numbers, booleans, and lists of these."""
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    return isinstance(inner, (pl.String, pl.Boolean, pl.Null)) or inner.is_integer() or inner.is_float()


def relabelled(lists: pl.Series, new: np.ndarray) -> pl.Series:
    """Return lists of indices with every index i replaced by `new[i]`; the lists must not be empty."""
    places = pl.DataFrame({"row": np.arange(len(lists)), "value": lists}).explode("value")
    mapped = places.with_columns(value=pl.Series(new[places["value"].to_numpy()], dtype=pl.Int64))
    return mapped.group_by("row", maintain_order=True).agg("value")["value"].rename(lists.name)


def renumbered(rows: pl.DataFrame, new_user: np.ndarray, new_item: np.ndarray) -> pl.DataFrame:
    """Return rows `user, history, target` with user u as `new_user[u]` and item i as `new_item[i]`."""
    return pl.DataFrame({
        "user": new_user[rows["user"].to_numpy()],
        "history": relabelled(rows["history"], new_item),
        "target": new_item[rows["target"].to_numpy()],
    })  # fmt: skip


def content_fingerprint(tables: Mapping[str, pl.DataFrame]) -> str:
    """Return the SHA-256 (64 hex digits) of the tables' names, columns, types and values.

    Tables and columns enter in the order of their names, rows in theirs. Columns hold text, numbers, booleans
    or lists of these; integers of every width count as equal, so do floats.
    """
    digest = hashlib.sha256()
    for table_name in sorted(tables):
        table = tables[table_name]
        _feed_text(digest, f"table {table_name} {table.height} rows")
        for column in sorted(table.columns):
            _feed_text(digest, f"column {column}")
            _feed_values(digest, table[column])
    return digest.hexdigest()


def _with_keys(table: pl.DataFrame, id_column: str) -> pl.DataFrame:
    if "key" in table.columns or id_column not in table.columns:
        return table
    return table.with_columns(key=pl.col(id_column).cast(pl.String))


def _typed(
    table: pl.DataFrame, what: str, types: dict[str, pl.DataType], may_be_null: tuple[str, ...] = ()
) -> pl.DataFrame:
    if table.height == 0:
        raise DataError(f"{what}: the table is empty; at least one row is needed")
    missing = [name for name in types if name not in table.columns]
    if missing:
        raise DataError(
            f"{what}: column {missing[0]!r} is missing (found: {', '.join(table.columns) or 'none'}); add it"
        )
    for name, wanted in types.items():
        if not _same_kind(table.schema[name], wanted, name in may_be_null):
            raise DataError(
                f"{what}: column {name!r} has type {table.schema[name]}, expected {wanted}; cast it"
            )
        if name not in may_be_null and table[name].null_count():
            row = int(table[name].is_null().arg_max() or 0)
            raise DataError(
                f"{what}: column {name!r} is null in row {row}; every row needs a value (text may be '')"
            )
    attributes = [name for name in table.columns if name not in types]
    return table.select(*(pl.col(name).cast(wanted) for name, wanted in types.items()), *attributes).rechunk()


def _same_kind(found: pl.DataType, wanted: pl.DataType, may_be_null: bool) -> bool:
    if isinstance(wanted, pl.List):
        return isinstance(found, pl.List) and (found.inner.is_integer() or isinstance(found.inner, pl.Null))
    if isinstance(wanted, pl.String):
        text = (pl.String, pl.Categorical, pl.Enum)
        return isinstance(found, text) or (may_be_null and isinstance(found, pl.Null))
    return found.is_integer()


def _check_ids(table: pl.DataFrame, what: str, id_column: str) -> None:
    ids = table[id_column]
    if ids.n_unique() < table.height:
        twice = ids.filter(ids.is_duplicated())[0]
        raise DataError(f"{what}: {id_column} {twice} appears more than once; every row needs its own id")
    misplaced = ids != pl.int_range(table.height, eager=True)
    if misplaced.any():
        row = int(misplaced.arg_max() or 0)
        raise DataError(
            f"{what}: {id_column} ids must be 0..{table.height - 1} in order, row {row} has {ids[row]}; "
            "number the rows and keep the source's own ids in `key`"
        )
    keys = table.select("domain", "key")
    if keys.n_unique() < table.height:
        twice_row = keys.filter(keys.is_duplicated()).row(0)
        raise DataError(
            f"{what}: key {twice_row[1]!r} appears more than once in domain {twice_row[0]!r}; merge or "
            "rename them"
        )
    if table["domain"].is_in([""]).any():
        raise DataError(f"{what}: a domain has an empty name; give it a name")


def _feed_values(digest: Any, values: pl.Series) -> None:
    missing = values.is_null()
    _feed_text(digest, f"{missing.sum()} nulls")
    if missing.any():
        digest.update(np.packbits(missing.to_numpy()).tobytes())
    present = values.drop_nulls()
    dtype = present.dtype
    if isinstance(dtype, pl.List):
        _feed_text(digest, "lists")
        digest.update(present.list.len().cast(pl.Int64).to_numpy().astype("<i8").tobytes())
        _feed_values(digest, present.filter(present.list.len() > 0).explode())
    elif isinstance(dtype, pl.String):
        _feed_text(digest, "text")
        digest.update(present.str.len_bytes().cast(pl.Int64).to_numpy().astype("<i8").tobytes())
        for start in range(0, len(present), _HASHED_ROWS):
            digest.update("".join(present.slice(start, _HASHED_ROWS).to_list()).encode("utf-8"))
    elif isinstance(dtype, pl.Null):
        _feed_text(digest, "nothing")
    elif dtype.is_float():
        _feed_text(digest, "floats")
        digest.update(present.cast(pl.Float64).to_numpy().astype("<f8").tobytes())
    else:
        _feed_text(digest, "integers")
        digest.update(present.cast(pl.Int64).to_numpy().astype("<i8").tobytes())


def _feed_text(digest: Any, text: str) -> None:
    # The length first, so that different sequences of texts never give the same bytes.
    raw = text.encode("utf-8")
    digest.update(len(raw).to_bytes(8, "little"))
    digest.update(raw)
