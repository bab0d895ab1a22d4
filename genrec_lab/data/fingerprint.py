"""A hash of tables' content that is the same in every process, on every machine, for every row chunking."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

# Strings are fed to the hash so many rows at a time: bounds memory, leaves the hash as it is.
ROWS_AT_A_TIME = 65_536


def content_fingerprint(tables: Mapping[str, pl.DataFrame]) -> str:
    """SHA-256 (64 hex digits) over the tables' names, columns, types and values.

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
        for start in range(0, len(present), ROWS_AT_A_TIME):
            digest.update("".join(present.slice(start, ROWS_AT_A_TIME).to_list()).encode("utf-8"))
    elif isinstance(dtype, pl.Null):
        _feed_text(digest, "nothing")
    elif dtype.is_float():
        _feed_text(digest, "floats")
        digest.update(present.cast(pl.Float64).to_numpy().astype("<f8").tobytes())
    else:
        _feed_text(digest, "integers")
        digest.update(present.cast(pl.Int64).to_numpy().astype("<i8").tobytes())


def _feed_text(digest: Any, text: str) -> None:
    # The length first, so that no two different feeds run together into the same bytes.
    raw = text.encode("utf-8")
    digest.update(len(raw).to_bytes(8, "little"))
    digest.update(raw)
