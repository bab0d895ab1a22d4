"""How well a catalogue uses its codes: use of each level, collisions, neighbours, sharing between domains.

Shapes: N items, L levels, K codes of a level, T domains. Entropies are in bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes import CodesError, ItemCodes, row_ids

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_BY_LEVEL = ("used", "utilisation", "perplexity", "gini", "dead")
_OVERALL = ("collision_rate", "largest_collision", "unique_ratio")

# Distances held at once by the neighbour search: 64 MB.
_LARGEST_BATCH = 8_000_000


@dataclass(frozen=True)
class CodeHealth:
    """How the codes of each level are used (a tuple entry a level), and how far identifiers tell items apart.

    used: codes that at least one item has. utilisation: used / size. dead: codes that no item has.
    entropy: of the code frequencies, in bits. perplexity: 2 ** entropy, the number of codes that evenly used
    ones would match. gini: inequality of the code frequencies, unused codes included; 0 is even.
    collision_rate: share of items whose whole identifier another item has too.
    largest_collision: items of the most shared identifier, 1 where all are unique.
    unique_ratio: distinct identifiers / items.
    """

    used: tuple[int, ...]
    utilisation: tuple[float, ...]
    perplexity: tuple[float, ...]
    entropy: tuple[float, ...]
    gini: tuple[float, ...]
    dead: tuple[int, ...]
    collision_rate: float
    largest_collision: int
    unique_ratio: float


def code_health(
    codes: npt.ArrayLike, sizes: Sequence[int], domains: Iterable[str | int] | None = None
) -> CodeHealth:
    """Measure (N, L) codes; with `domains` (N,), only items of one domain collide.

    Raises CodesError where codes and sizes do not fit.
    """
    checked = ItemCodes(codes, sizes, domains)
    counts = [
        np.bincount(checked.codes[:, level], minlength=size) for level, size in enumerate(checked.sizes)
    ]
    entropies = tuple(_entropy_bits(level_counts) for level_counts in counts)
    used = tuple(int(np.count_nonzero(level_counts)) for level_counts in counts)
    groups = np.bincount(row_ids(np.column_stack([checked.domain_index, checked.codes])))
    return CodeHealth(
        used=used,
        utilisation=tuple(n / size for n, size in zip(used, checked.sizes, strict=True)),
        perplexity=tuple(2.0**entropy for entropy in entropies),
        entropy=entropies,
        gini=tuple(_gini(level_counts) for level_counts in counts),
        dead=tuple(size - n for n, size in zip(used, checked.sizes, strict=True)),
        collision_rate=float(groups[groups > 1].sum() / checked.n_items),
        largest_collision=int(groups.max()),
        unique_ratio=len(groups) / checked.n_items,
    )


def prefix_entropy(codes: npt.ArrayLike, sizes: Sequence[int]) -> tuple[float, ...]:
    """The entropy in bits of the prefixes of 1, 2, …, L codes.

    The step from one level to the next is the entropy of a code given those before it; the last value is
    log2(N) exactly where all identifiers are distinct.
    """
    checked = ItemCodes(codes, sizes)
    prefixes = (row_ids(checked.codes[:, :length]) for length in range(1, checked.levels + 1))
    return tuple(_entropy_bits(np.bincount(ids)) for ids in prefixes)


def health_table(tokenizers: Mapping[str, ItemCodes]) -> pl.DataFrame:
    """The code health of several tokenizers, a row a tokenizer and level.

    Columns `tokenizer, level` (from 1), `codes` (of the level), `used, utilisation, perplexity, gini, dead`,
    `prefix_entropy` (bits, of the codes up to this level), and the same in each row of a tokenizer: `items`,
    `collision_rate, largest_collision, unique_ratio`, as of `CodeHealth`; only items of a domain collide.
    """
    rows = []
    for name, codes in tokenizers.items():
        health = code_health(codes.codes, codes.sizes, codes.domains)
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
    return pl.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class DomainSharing:
    """Which codes the domains share (GMC 5.4.2, Figure 3); tuple entries are levels.

    domains: the T names. counts: (T, K) items of each domain with each code.
    codes_by_domains: (T + 1,) number of codes that exactly 0, 1, …, T domains use.
    shared_items: share of items whose code another domain uses too.
    """

    domains: tuple[str, ...]
    counts: tuple[IntArray, ...]
    codes_by_domains: tuple[IntArray, ...]
    shared_items: tuple[float, ...]


def domain_sharing(codes: npt.ArrayLike, domains: Iterable[str | int], sizes: Sequence[int]) -> DomainSharing:
    """Count each level's codes by domain; codes (N, L), domains (N,). Raises CodesError."""
    checked = ItemCodes(codes, sizes, domains)
    n_domains = len(checked.domain_names)
    counts: list[IntArray] = []
    codes_by_domains: list[IntArray] = []
    shared_items: list[float] = []
    for level, size in enumerate(checked.sizes):
        flat = np.bincount(checked.domain_index * size + checked.codes[:, level], minlength=n_domains * size)
        by_domain = flat.reshape(n_domains, size).astype(np.int64, copy=False)
        users_of_code = np.count_nonzero(by_domain, axis=0)
        counts.append(by_domain)
        codes_by_domains.append(
            np.bincount(users_of_code, minlength=n_domains + 1).astype(np.int64, copy=False)
        )
        shared_items.append(float(by_domain[:, users_of_code > 1].sum() / checked.n_items))
    return DomainSharing(checked.domain_names, tuple(counts), tuple(codes_by_domains), tuple(shared_items))


def neighbour_code_overlap(
    vectors: npt.ArrayLike,
    codes: npt.ArrayLike | ItemCodes,
    ks: Sequence[int],
    domains: Iterable[str | int] | None = None,
    queries_per_domain: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Do similar items get similar codes? Each item's codes against its k nearest items' (GMC Figure 4).

    vectors: (N, D) the content vectors that were tokenized; neighbours are the nearest by Euclidean distance
    among the other items of the domain, found exactly (any of them where distances are equal).
    codes: (N, L), or ItemCodes, whose domains then count. The overlap of two items is the share of levels
    with the same code. queries_per_domain: measure a seeded sample of items instead of all.
    Columns domain, k, overlap (mean over items and neighbours), items (measured). Raises CodesError for
    vectors that do not fit or are not finite, or a k that a domain has too few items for.
    """
    checked = codes if isinstance(codes, ItemCodes) else _without_sizes(codes, domains)
    points = _checked_vectors(vectors, checked.n_items)
    largest_k = max(ks)
    rows: list[tuple[str, int, float, int]] = []
    for name in checked.domain_names:
        items = checked.domain_items(name)
        if min(ks) < 1 or largest_k >= len(items):
            raise CodesError(
                f"ks: {list(ks)}, expected 1 to {len(items) - 1}, the other items of domain {name!r}"
            )
        queries = _sample(len(items), queries_per_domain, seed)
        totals = dict.fromkeys(ks, 0.0)
        for chunk, neighbours in _nearest_chunks(points[items], queries, largest_k):
            own, others = checked.codes[items[chunk]], checked.codes[items[neighbours]]
            overlap = (own[:, None, :] == others).mean(axis=2)
            for k in totals:
                totals[k] += float(overlap[:, :k].mean(axis=1).sum())
        rows += [(name, k, total / len(queries), len(queries)) for k, total in totals.items()]
    schema = {"domain": pl.String, "k": pl.Int64, "overlap": pl.Float64, "items": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _nearest_chunks(points: FloatArray, queries: IntArray, k: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield chunks of query rows with their k nearest other rows, nearest first: (C,), (C, k)."""
    # Distances do not change with the origin; near the mean, less is lost in |p|^2 - 2 pq.
    centred = points - points.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    per_chunk = max(1, _LARGEST_BATCH // len(points))
    for start in range(0, len(queries), per_chunk):
        chunk = queries[start : start + per_chunk]
        # The query's own square is the same for all its candidates and can be left out of the order.
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


def _without_sizes(codes: npt.ArrayLike, domains: Iterable[str | int] | None) -> ItemCodes:
    array = np.asarray(codes)
    if array.ndim != 2 or 0 in array.shape:
        raise CodesError(f"codes: shape {array.shape}, expected (items, levels) with at least one of each")
    return ItemCodes(array, [int(size) + 1 for size in array.max(axis=0)], domains)


def _checked_vectors(vectors: npt.ArrayLike, n_items: int) -> FloatArray:
    points = np.asarray(vectors, dtype=np.float64)
    if points.ndim != 2 or len(points) != n_items:
        raise CodesError(f"vectors: shape {points.shape}, expected ({n_items}, D), one row an item")
    bad_rows = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad_rows.size:
        raise CodesError(f"vectors: NaN or infinity in {bad_rows.size} rows, the first is row {bad_rows[0]}")
    return points


def _entropy_bits(counts: npt.NDArray[np.integer]) -> float:
    present = counts[counts > 0]
    shares = present / present.sum()
    # max() turns the -0.0 of a single code into 0.0.
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def _gini(counts: npt.NDArray[np.integer]) -> float:
    # Integers until the division, so that even use gives exactly 0.
    ascending = np.sort(counts).astype(np.int64)
    size = len(ascending)
    weights = 2 * np.arange(1, size + 1) - size - 1
    return float((weights * ascending).sum() / (size * ascending.sum()))
