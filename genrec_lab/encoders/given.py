"""Content vectors of texts or pictures that were computed elsewhere: read from a file and checked.

Shapes: N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file

from genrec_lab.data import DataError
from genrec_lab.data.paths import existing_file
from genrec_lab.registry import ComponentConfig

VECTOR_FILES = (".npy", ".safetensors", ".parquet")


class GivenVectorsConfig(ComponentConfig):
    """Settings of given vectors: the file to read."""

    kind: Literal["given"] = "given"
    file: str = Field(
        "",
        description="relative to the run file; may contain ${VAR}, and {domain} for one file per domain. "
        ".npy: one row per item. .safetensors: one array, or a vector by each item's key. .parquet: `key` or "
        "`item` and a column of lists, or one column per dimension",
    )
    keys: str | None = Field(
        None, description="a text file with one item key per row; None: rows are in the data's order"
    )


class GivenVectors:
    """Uses vectors from a file instead of encoding texts: `text: {kind: given, file: vectors.npy}`."""

    Config = GivenVectorsConfig

    def __init__(self, config: GivenVectorsConfig) -> None:
        """Set the config without reading; raises ValueError if it names no file."""
        if not config.file:
            raise ValueError(f"text.file is empty; name a file of vectors, {', '.join(VECTOR_FILES)}")
        self.config = config

    def encode(self, texts: Any) -> np.ndarray:
        """Raise ValueError, because the vectors belong to items, not to texts."""
        raise ValueError(
            f"text.kind is 'given': {self.config.file} has vectors of items and encodes no texts"
        )

    def of_items(self, items: pl.DataFrame) -> np.ndarray:
        """Return the vectors (N, D) float32 of rows of `Dataset.items`; errors as in `read_vectors`."""
        return read_vectors(self.config.file, items, self.config.keys)

    @classmethod
    def found(cls, config: GivenVectorsConfig) -> str:
        """See TextEncoder."""
        return f"given vectors, {config.file}"


def read_vectors(file: str, items: pl.DataFrame, keys: str | None = None) -> np.ndarray:
    """Return the vectors (N, D) float32 of rows of `Dataset.items` from a file.

    Raises DataError, naming the file, if it is missing or not a table of numbers, has no keys and a number of
    rows that differs from the number of items, lacks an item, or holds a value that is not finite.
    """

    def read(name: str, rows: np.ndarray, domain: str) -> np.ndarray:
        return _of_file(name, items[rows.tolist()], keys.replace("{domain}", domain) if keys else None)

    return of_each_domain(file, items["domain"].to_list(), read)


def of_each_domain(
    file: str, domains: Sequence[str], read: Callable[[str, np.ndarray, str], np.ndarray]
) -> np.ndarray:
    """Return a row for each item of `domains` (N,), read from one file or from one file for each domain.

    `read(name, rows, domain)` reads the items in `rows` from the file `name`. Raises DataError if the rows of
    two domains differ in length.
    """
    if "{domain}" not in file:
        return read(file, np.arange(len(domains)), "")
    names = np.array(domains)
    rows = {domain: np.flatnonzero(names == domain) for domain in dict.fromkeys(domains)}
    parts = [read(file.replace("{domain}", domain), own, domain) for domain, own in rows.items()]
    if len({part.shape[1:] for part in parts}) > 1:
        raise DataError(f"{file}: the rows of {', '.join(rows)} differ in length; give files of one model")
    return np.concatenate(parts)[np.argsort(np.concatenate(list(rows.values())))]


def _of_file(name: str, items: pl.DataFrame, keys: str | None) -> np.ndarray:
    file = existing_file(name, "file")
    try:
        vectors, named = _read(file)
    except (OSError, ValueError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{file}: no vectors can be read ({error}); give one of {', '.join(VECTOR_FILES)}"
        ) from error
    if keys is not None:
        keys_file = existing_file(keys, "file")
        named = keys_file.read_text(encoding="utf-8-sig").split()
        if len(named) != len(vectors):
            raise DataError(
                f"{keys_file}: {len(named):,} keys for {len(vectors):,} vectors; expected one key per vector"
            )
    if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind not in "fiu":
        raise DataError(
            f"{file}: an array of shape {vectors.shape} and type {vectors.dtype}; expected (items, "
            "dimensions)"
        )
    if named is None and len(vectors) != items.height:
        raise DataError(
            f"{file}: {len(vectors):,} vectors for {items.height:,} items; give one per item in the data's "
            "order, or keys that say which item each belongs to"
        )
    if named is not None:
        places = {key: place for place, key in enumerate(named)}
        if len(places) < len(named):
            raise DataError(f"{file}: an item has two vectors; keep one")
        missing = [key for key in items["key"] if key not in places]
        if missing:
            more = f"({len(missing):,} such items)"
            raise DataError(f"{file}: no vector for item {missing[0]!r} {more}; add what is missing")
        vectors = vectors[[places[key] for key in items["key"]]]
    found = vectors.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        key = items["key"][int(bad[0])]
        raise DataError(f"{file}: the vector of item {key!r} is not finite; compute it again")
    return found


def _read(file: Path) -> tuple[np.ndarray, list[str] | None]:
    """Return the array in a file, and the keys of its rows, if any."""
    if file.suffix == ".npy":
        return np.load(file, allow_pickle=False), None
    if file.suffix == ".safetensors":
        arrays = load_file(file)
        if len(arrays) == 1 and next(iter(arrays.values())).ndim == 2:
            return next(iter(arrays.values())), None
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError("it holds neither one array of all items nor a vector for each key")
        return np.stack(list(arrays.values())), list(arrays)
    if file.suffix != ".parquet":
        raise ValueError("its ending is unknown")
    table = pl.read_parquet(file)
    key = next((name for name in ("key", "item", "item_id") if name in table.columns), None)
    others = [name for name in table.columns if name != key]
    lists = [name for name in others if isinstance(table.schema[name], pl.List | pl.Array)]
    vectors = np.array(table[lists[0]].to_list()) if lists else table.select(others).to_numpy()
    return vectors, None if key is None else table[key].cast(pl.String).to_list()
