"""Compares tokenizers, and measures whether similar items share codes.

Shapes: N items, L levels. Entropies are in bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes import CodesError, ItemCodes, code_health, prefix_entropy
from genrec_lab.codes.last_level import require_finite

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_BY_LEVEL = ("used", "utilisation", "perplexity", "gini", "dead")
_OVERALL = ("collision_rate", "largest_collision", "unique_ratio")

# Distances that the neighbour search holds at a time: 64 MB.
_LARGEST_BATCH = 8_000_000


def health_table(tokenizers: Mapping[str, ItemCodes]) -> pl.DataFrame:
    """Return the code health of several tokenizers, one row per tokenizer and level.

    Columns `tokenizer, level` (from 1), `codes` (of the level), `used, utilisation, perplexity, gini, dead`,
    `prefix_entropy` (bits, of the codes up to this level), and, equal in all rows of a tokenizer, `items`,
    `collision_rate, largest_collision, unique_ratio`, as in `CodeHealth`; only items of one domain collide.
    Utilisation, gini and dead are null if the number of possible codes is unknown.
    """
    rows = []
    for name, codes in tokenizers.items():
        health = code_health(codes.codes, codes.known_sizes, codes.domains)
        entropies = prefix_entropy(codes.codes, codes.sizes)
        rows += [
            {
                "tokenizer": name,
                "level": level + 1,
                "codes": size,
                **{part: getattr(health, part)[level] for part in _BY_LEVEL},
                "prefix_entropy": entropies[level],
                "items": codes.n_items,
                **{part: getattr(health, part) for part in _OVERALL},
            }
            for level, size in enumerate(codes.sizes)
        ]
    table = pl.DataFrame(rows, infer_schema_length=None)
    unknown = [name for name in _BY_LEVEL if rows and table[name].dtype.is_float()]
    return table.with_columns(pl.col(unknown).fill_nan(None))


def neighbour_code_overlap(
    vectors: npt.ArrayLike,
    codes: npt.ArrayLike | ItemCodes,
    ks: Sequence[int],
    domains: Iterable[str | int] | None = None,
    queries_per_domain: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Compare each item's codes with those of its k nearest items (GMC Figure 4).

    vectors: (N, D) the tokenized content vectors; neighbours are the exact nearest other items of the domain
    by Euclidean distance (any of them at ties). codes: (N, L), or ItemCodes, whose domains are then used. The
    overlap of two items is the share of levels with the same code. queries_per_domain: measure a seeded
    sample of items instead of all. Columns domain, k, overlap (mean over items and neighbours), items
    (measured). Raises CodesError for vectors that do not fit or are not finite, or a k that a domain has too
    few items for.
    """
    if not isinstance(codes, ItemCodes):
        levels = np.shape(codes)[-1] if np.ndim(codes) else 0
        codes = ItemCodes(codes, [None] * levels, domains)
    points = np.asarray(vectors, dtype=np.float64)
    if points.ndim != 2 or len(points) != codes.n_items:
        raise CodesError(f"vectors: shape {points.shape}, expected ({codes.n_items}, D), one row per item")
    require_finite(points, "vectors")
    largest_k = max(ks)
    rows: list[tuple[str, int, float, int]] = []
    for name in codes.domain_names:
        items = codes.domain_items(name)
        if min(ks) < 1 or largest_k >= len(items):
            raise CodesError(
                f"ks: {list(ks)}, expected 1 to {len(items) - 1}, the other items of domain {name!r}"
            )
        queries = _sample(len(items), queries_per_domain, seed)
        totals = dict.fromkeys(ks, 0.0)
        for chunk, neighbours in _nearest_chunks(points[items], queries, largest_k):
            own, others = codes.codes[items[chunk]], codes.codes[items[neighbours]]
            overlap = (own[:, None, :] == others).mean(axis=2)
            for k in totals:
                totals[k] += float(overlap[:, :k].mean(axis=1).sum())
        rows += [(name, k, total / len(queries), len(queries)) for k, total in totals.items()]
    schema = {"domain": pl.String, "k": pl.Int64, "overlap": pl.Float64, "items": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _nearest_chunks(points: FloatArray, queries: IntArray, k: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield chunks of query rows with their k nearest other rows, nearest first: (C,), (C, k)."""
    # Distances do not depend on the origin; near the mean, |p|^2 - 2 pq loses less precision.
    centred = points - points.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    per_chunk = max(1, _LARGEST_BATCH // len(points))
    for start in range(0, len(queries), per_chunk):
        chunk = queries[start : start + per_chunk]
        # The query's square is the same for all candidates and does not affect the order.
        distances = squares[None, :] - 2.0 * (centred[chunk] @ centred.T)
        distances[np.arange(len(chunk)), chunk] = np.inf
        nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(distances, nearest, axis=1), axis=1, kind="stable")
        yield chunk, np.take_along_axis(nearest, order, axis=1)


def _sample(n_items: int, wanted: int | None, seed: int) -> IntArray:
    if wanted is None or wanted >= n_items:
        return np.arange(n_items, dtype=np.int64)
    if wanted < 1:
        raise CodesError(f"queries_per_domain: {wanted}, expected at least 1, or None for all items")
    return np.sort(np.random.default_rng(seed).choice(n_items, size=wanted, replace=False))
