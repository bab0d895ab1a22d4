"""Published identifiers in the explorer, from files of codes, items and vectors.

Codes: `{item: ["<a_12>", "<b_3>"]}`, `{item: [12, 3]}`, `{item: "12 3"}` or a list of lists. Items: the same
keys with titles and attributes, as JSON, JSON lines, csv, tsv, parquet or RecBole's `.item`. Vectors: `.npy`
or safetensors, one row per item in the order of the codes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from genrec_lab.codes import CodesError, ItemCodes
from genrec_lab.data.frames import read_table
from genrec_lab.data.paths import existing_file, read_json_object
from genrec_lab.data.research_files import read_atomic
from genrec_lab.viz import Float32Array
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.state import ExplorerState
from genrec_lab.viz.projection import Projection, project_residuals
from genrec_lab.viz.text import counted

Codes = str | os.PathLike[str] | Mapping[Any, Any] | ItemCodes | Sequence[Any] | NDArray[Any]
Items = str | os.PathLike[str] | Mapping[Any, Any] | pl.DataFrame
Vectors = str | os.PathLike[str] | ArrayLike

_NUMBER = re.compile(r"\d+(?=\D*$)")
_KEYS = ("key", "item_id", "id", "asin", "parent_asin", "item", "movie_id")
_TITLES = ("title", "name", "item_name", "movie_title")
_BRANDS, _CATEGORIES = ("brand", "store"), ("categories", "category", "genres", "genre", "class")
_ATTRIBUTES = {"brand": _BRANDS, "category": _CATEGORIES, "price": ("price",)}
_TEXTS = (*_TITLES, *_BRANDS, *_CATEGORIES, "description", "overview", "text")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_PRICE = r"(\d+(?:\.\d+)?)"
_WORD_DIMENSIONS = 64
_MAPPED = 5_000


@dataclass(frozen=True, eq=False)
class Opened:
    """A state of published codes. notes: descriptions of what was left out or is unknown."""

    state: ExplorerState
    notes: tuple[str, ...]


def open_codes(
    codes: Codes,
    items: Items | None = None,
    vectors: Vectors | None = None,
    *,
    sizes: Sequence[int] | None = None,
    other: Codes | None = None,
    name: str | None = None,
    seed: int = 0,
) -> Opened:
    """Open identifiers from other sources.

    sizes: number of codes of each level; without it, no code counts as dead. other: identifiers of the same
    items to compare with, matched by their keys. Items without codes are left out, and the notes count them.
    Without vectors, the words of the texts are used instead. Raises CodesError if the codes are not
    identifiers of one length, and ValueError for a wrong number of vectors.
    """
    keys, rows, notes = _rows(codes)
    odd = next((key for key, row in zip(keys, rows, strict=True) if len(row) != len(rows[0])), None)
    if odd is not None or not rows:
        expected = "expected at least one item, and identifiers of one length"
        first = f"than the first item, which has {len(rows[0]) if rows else 0}"
        raise CodesError(f"codes: item {odd!r} has another number of codes {first}; {expected}")
    table = np.array(rows, dtype=np.int64)
    if sizes is None:
        notes.append("the sizes of the levels are not known, so no code is called dead")
    titles, attributes, texts, missing = _described(items, keys)
    if missing:
        notes.append(f"{counted(missing, 'item')} of the codes have no title")
    given, alike = None if vectors is None else _vectors(vectors, len(keys)), "content vectors"
    if given is None and any(texts):
        given, alike = word_vectors(texts, seed), "words of the texts"
        notes.append("no vectors: similarity is that of the words of the texts")
    named = Path(codes).name if isinstance(codes, (str, os.PathLike)) else "codes"
    catalogue = CodedCatalogue(
        name or named.removesuffix(".json").removesuffix(".index"),
        ItemCodes(table, [None] * table.shape[1] if sizes is None else sizes),
        titles,
        vectors=given,
        keys=keys,
        attributes=attributes,
        alike=alike,
        seed=seed,
    )
    source = "state = open_codes(...).state  # from genrec_lab.viz.explorer.published"
    second = None if other is None else open_codes(other).state.catalogue
    state = ExplorerState(catalogue, second, source=source)
    if given is not None:
        one_domain = np.zeros(len(given), dtype=np.int64)
        # Slow maps are only computed when first shown, from 5,000 items; the others are placed among these.
        later = partial(project_residuals, given[:, None], one_domain, size=_MAPPED, seed=seed)
        maps = {"UMAP": partial(later, method="umap"), "t-SNE": partial(later, method="tsne")}
        state.maps = {"PCA": principal_map(given, seed), **maps}
    return Opened(state, tuple(notes))


def principal_map(vectors: Float32Array, seed: int = 0) -> Projection:
    """Return the first two principal components of vectors (N, D), scaled to unit mean square radius."""
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred.T @ centred)
    flat = centred @ directions[:2].T
    if flat.shape[1] < 2:
        flat = np.column_stack([flat[:, 0], np.zeros(len(flat), np.float32)])
    flat = flat / (float(np.sqrt((flat**2).sum(axis=1).mean())) or 1.0)
    points = flat.astype(np.float32)[:, None]
    return Projection(points, np.arange(len(vectors)), "pca", seed, len(vectors))


def word_vectors(texts: Sequence[str], seed: int = 0) -> Float32Array:
    """Return text vectors (N, up to 64): tf-idf of the words, reduced by singular value decomposition."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = TfidfVectorizer(sublinear_tf=True, min_df=1 if len(texts) < 50 else 2, stop_words="english")
    try:
        words = found.fit_transform(texts)
    except ValueError:  # no text has a word
        return np.zeros((len(texts), 1), dtype=np.float32)
    width = min(_WORD_DIMENSIONS, min(words.shape) - 1)
    if width < 1:
        return np.asarray(words.todense(), dtype=np.float32)
    return TruncatedSVD(width, random_state=seed).fit_transform(words).astype(np.float32)


def _rows(codes: Codes) -> tuple[list[Any], list[list[int]], list[str]]:
    """Return keys and codes of the items with codes, and notes on what was left out."""
    content: Any = codes
    if isinstance(codes, (str, os.PathLike)):
        path = _absolute(codes)
        if path.suffix == ".npy":
            content = _array(path, "codes")
        elif path.suffix == ".parquet":
            content = ItemCodes.read(path)
        elif existing_file(path, "codes").read_bytes()[:64].lstrip().startswith(b"["):
            try:
                content = json.loads(path.read_bytes())
            except ValueError as error:
                raise CodesError(
                    f"{path}: malformed JSON ({error}); correct the file or fetch it again"
                ) from error
        else:
            content = read_json_object(path)
    if isinstance(content, ItemCodes):
        return list(range(content.n_items)), content.codes.tolist(), []
    pairs = content.items() if isinstance(content, Mapping) else enumerate(np.asarray(content).tolist())
    found = {key: _numbers(key, tokens) for key, tokens in pairs}
    rows = {key: row for key, row in found.items() if row}
    without = len(found) - len(rows)
    notes = [f"{counted(without, 'item')} without codes left out"] if without else []
    return list(rows), list(rows.values()), notes


def _numbers(key: Any, tokens: Any) -> list[int]:
    """Return the code of each token: its last number, ignoring letters and brackets."""
    if tokens is None:
        return []
    parts = tokens.split() if isinstance(tokens, str) else tokens
    if isinstance(tokens, str) and len(parts) == 1:
        parts = re.findall(r"<[^<>]*>", tokens) or re.split(r"[,;|]", tokens)
    if not isinstance(parts, Sequence):
        raise CodesError(
            f'codes: item {key!r} has {tokens!r}; expected a list as ["<a_12>", "<b_3>"] or [12, 3]'
        )
    found = []
    for part in parts:
        number = _NUMBER.search(str(part)) if not isinstance(part, float) else None
        if isinstance(part, bool) or number is None or str(part).startswith("-"):
            raise CodesError(f"codes: item {key!r} has {part!r}; expected a code as <a_12> or 12, from 0 on")
        found.append(int(number[0]))
    return found


def _described(items: Items | None, keys: list[Any]) -> tuple[list[str], pl.DataFrame | None, list[str], int]:
    """Return titles, attributes and texts in the order of the keys, and the number of keys without title."""
    if items is None:
        return [str(key) for key in keys], None, [], 0
    rows = _item_rows(items)
    own = [rows.get(str(key), {}) for key in keys]
    titles = [_first(one, _TITLES) for one in own]
    texts = [" ".join(filter(None, (_text(one.get(field)) for field in _TEXTS))) for one in own]
    columns: dict[str, pl.Series] = {}
    for name, fields in _ATTRIBUTES.items():
        values = pl.Series([_first(one, fields) or None for one in own], dtype=pl.String)
        if values.null_count() == len(values):
            continue
        if name == "price":
            values = values.str.replace_all(",", "").str.extract(_PRICE).cast(pl.Float64)
        elif name == "category":
            values = values.str.split(",").list.last().str.strip_chars()
            values = values.set(values == "", None)
        columns[name] = values
    named = [title or str(key) for title, key in zip(titles, keys, strict=True)]
    return named, pl.DataFrame(columns) if columns else None, texts, titles.count("")


def _item_rows(items: Items) -> dict[str, dict[str, Any]]:
    """Return the fields of each item by key."""
    if isinstance(items, (str, os.PathLike)):
        path = _absolute(items)
        reader = read_atomic if path.suffix == ".item" else read_table if path.suffix in _TABLES else None
        items = read_json_object(path) if reader is None else reader(existing_file(path, "items"))
    if isinstance(items, pl.DataFrame):
        key = next((name for name in _KEYS if name in items.columns), None)
        if key is None:
            expected = f"expected one of {list(_KEYS)} with the items' keys"
            raise ValueError(f"items: columns {items.columns}, {expected}")
        return {str(row[key]): row for row in items.iter_rows(named=True)}
    rows = ((key, value if isinstance(value, Mapping) else {"title": value}) for key, value in items.items())
    return {str(key): dict(row) for key, row in rows}


def _first(row: Mapping[str, Any], fields: Sequence[str]) -> str:
    return next((text for field in fields if (text := _text(row.get(field)))), "")


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_text, value)))
    return "" if value is None else str(value).strip()


def _absolute(path: str | os.PathLike[str]) -> Path:
    """Return a path as seen from the working directory, also where a run is open whose folder is another."""
    return Path(path).expanduser().absolute()


def _array(file: str | os.PathLike[str], what: str) -> np.ndarray:
    path = existing_file(_absolute(file), what)
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{what}: {path} is not an .npy file of numbers; write one with numpy.save"
        ) from error


def _vectors(vectors: Vectors, n_items: int) -> Float32Array:
    if not isinstance(vectors, (str, os.PathLike)):
        found = np.asarray(vectors)
    elif Path(vectors).suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = next(iter(load_file(vectors).values()))
        except (SafetensorError, StopIteration) as error:
            raise ValueError(f"vectors: {vectors} holds no tensor that can be read ({error})") from error
    else:
        found = _array(vectors, "vectors")
    if found.ndim != 2 or len(found) != n_items:
        shape = f"shape {found.shape} for {n_items} items with codes"
        raise ValueError(f"vectors: {shape}; expected one row per item, in their order")
    made: Float32Array = found.astype(np.float32)
    if bad := int((~np.isfinite(made).all(axis=1)).sum()):
        raise ValueError(f"vectors: {bad} rows have a NaN or an infinite value; expected numbers")
    return made
