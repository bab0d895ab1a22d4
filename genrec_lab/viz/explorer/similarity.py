"""How alike the items of a code are, and of two domains that share one, against what chance would give.

All means are over pairs of items, computed exactly from sums of unit vectors: the sum over all pairs of a
group is |sum of its vectors|^2 less one for each item. Nothing is sampled but in `coherence`.
Shapes: N items, D content dimensions, G groups of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array

from genrec_lab.codes import row_ids

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

_DRAWS = 200
_MOST_MEMBERS = 200
"""Items of a code that are compared with random sets of as many; a larger code gives its first ones."""


class PairMeans(NamedTuple):
    """Mean cosine similarity of pairs of different items in one group, NaN without a pair, and the pairs."""

    same: float
    same_pairs: int
    across: float
    across_pairs: int


class Coherence(NamedTuple):
    """A code's mean similarity, that of random items, and the share of random sets that are less alike."""

    mean: float
    chance: float
    above: float


def unit_vectors(vectors: npt.ArrayLike) -> Vectors:
    """(N, D) vectors scaled to length 1; a vector of zeros or with a NaN becomes zeros, alike to nothing."""
    given = np.asarray(vectors, dtype=np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", given, given))
    known = np.isfinite(norms) & (norms > 0)
    scaled: Vectors = np.divide(given, norms[:, None], out=np.zeros_like(given), where=known[:, None])
    return scaled


def pair_means(unit: Vectors, groups: npt.ArrayLike, domains: npt.ArrayLike) -> PairMeans:
    """Mean similarity over the pairs of a group: of one domain, and of two domains.

    unit: (N, D) of `unit_vectors`. groups: (N,) numbers from 0 on, as codes or prefixes. domains: (N,).
    """
    numbers = np.asarray(groups, dtype=np.int64)
    cells = row_ids(np.column_stack([numbers, np.asarray(domains)]))
    group_of_cell = np.empty(int(cells.max(initial=-1)) + 1, dtype=np.int64)
    group_of_cell[cells] = numbers
    sums, own, sizes = _sums(unit, cells, len(group_of_cell))
    by_cell = _of_pairs(sums, own, sizes)
    of_groups = np.bincount(group_of_cell, own).astype(np.float64)
    counts = np.bincount(group_of_cell, sizes).astype(np.int64)
    by_group = _of_pairs(_grouped(sums, group_of_cell), of_groups, counts)
    across, pairs = by_group[0].sum() - by_cell[0].sum(), int(by_group[1].sum() - by_cell[1].sum())
    same, same_pairs = float(by_cell[0].sum()), int(by_cell[1].sum())
    return PairMeans(
        same / same_pairs if same_pairs else float("nan"), same_pairs,
        float(across) / pairs if pairs else float("nan"), pairs,
    )  # fmt: skip


def similarity_by_level(
    unit: Vectors, prefixes: Sequence[npt.ArrayLike], domains: npt.ArrayLike
) -> pl.DataFrame:
    """Are items of two domains more alike where they share a code than anywhere?

    prefixes: by level, (N,) the number of each item's prefix (or code). Frame `level` (from 1), `group` ("one
    domain", "two domains"), `pairs`, `inside` (mean cosine of pairs with an equal prefix, null without any),
    `chance` (of all such pairs of the catalogue), `gain` (inside less chance).
    """
    whole = pair_means(unit, np.zeros(len(unit), dtype=np.int64), domains)
    rows = []
    for level, groups in enumerate(prefixes, start=1):
        found = pair_means(unit, groups, domains)
        rows += [
            (level, "one domain", found.same_pairs, found.same, whole.same),
            (level, "two domains", found.across_pairs, found.across, whole.across),
        ]
    columns = {"level": pl.Int64, "group": pl.String, "pairs": pl.Int64}
    columns |= {"inside": pl.Float64, "chance": pl.Float64}
    frame = pl.DataFrame(rows, schema=columns, orient="row").filter(pl.col("chance").is_not_nan())
    return frame.with_columns(pl.col("inside").fill_nan(None)).with_columns(
        gain=pl.col("inside") - pl.col("chance")
    )


def coherence_by_code(unit: Vectors, codes: npt.ArrayLike, size: int) -> pl.DataFrame:
    """Mean similarity of the pairs of items of each of `size` codes, against that of all pairs.

    Frame `code, items, coherence` (null under two items), `chance` (the same in each row, null likewise).
    """
    sums, pairs = _within(unit, codes, size)
    total, all_pairs = _within(unit, np.zeros(len(unit), dtype=np.int64))
    mean = np.divide(sums, pairs, out=np.full(len(sums), np.nan), where=pairs > 0)
    chance = float(total.sum()) / int(all_pairs.sum()) if all_pairs.sum() else float("nan")
    columns = {
        "code": np.arange(len(sums)),
        "items": np.bincount(np.asarray(codes), minlength=size),
        "coherence": mean,
        "chance": np.full(len(sums), chance),
    }
    return pl.DataFrame(columns).with_columns(pl.col("coherence", "chance").fill_nan(None))


def coherence(unit: Vectors, items: npt.ArrayLike, generator: np.random.Generator) -> Coherence | None:
    """Compare the items of a code with 200 random sets of as many items; None for fewer than two items.

    The first 200 items of a larger code stand for it. A random set that is just as alike counts by half.
    """
    members = np.asarray(items, dtype=np.int64)[:_MOST_MEMBERS]
    if members.size < 2:
        return None
    own = float(_mean_of_pairs(unit[members][None])[0])
    sets = np.stack([generator.choice(len(unit), members.size, replace=False) for _ in range(_DRAWS)])
    parts = np.array_split(sets, max(1, sets.size * unit.shape[1] // 4_000_000))
    drawn = np.concatenate([_mean_of_pairs(unit[part]) for part in parts])
    close = np.isclose(drawn, own, rtol=0, atol=1e-6)
    above = float(((drawn < own) & ~close).mean() + close.mean() / 2)
    total, pairs = _within(unit, np.zeros(len(unit), dtype=np.int64))
    return Coherence(own, float(total.sum()) / int(pairs.sum()), above)


def group_similarity(unit: Vectors, members: npt.ArrayLike, groups: npt.ArrayLike, count: int) -> FloatArray:
    """(G,) mean similarity of the pairs of each group; members, groups: (n,) items and theirs."""
    sums, pairs = _within(unit[np.asarray(members, dtype=np.int64)], groups, count)
    return np.divide(sums, pairs, out=np.full(count, np.nan), where=pairs > 0)


def _within(unit: Vectors, groups: npt.ArrayLike, count: int = 0) -> tuple[FloatArray, IntArray]:
    """By group: the sum of the similarities of its pairs of items, and how many pairs."""
    return _of_pairs(*_sums(unit, np.asarray(groups, dtype=np.int64), count))


def _sums(unit: Vectors, groups: IntArray, count: int) -> tuple[Vectors, FloatArray, IntArray]:
    """By group: the sum of its vectors, of their squares, and the number of items."""
    sizes = np.bincount(groups, minlength=count)
    squares = np.einsum("nd,nd->n", unit, unit)
    return (
        _grouped(unit, groups, len(sizes)),
        np.bincount(groups, squares, len(sizes)).astype(np.float64),
        sizes,
    )


def _grouped(vectors: Vectors, groups: IntArray, count: int = 0) -> Vectors:
    shape = (max(count, int(groups.max(initial=-1)) + 1), len(vectors))
    ones = np.ones(len(vectors), dtype=np.float32)
    summed: Vectors = csr_array((ones, (groups, np.arange(len(vectors)))), shape=shape) @ vectors
    return summed


def _of_pairs(sums: Vectors, own: FloatArray, sizes: IntArray) -> tuple[FloatArray, IntArray]:
    squares = np.einsum("gd,gd->g", sums, sums, dtype=np.float64)
    return (squares - own) / 2, sizes * (sizes - 1) // 2


def _mean_of_pairs(sets: Vectors) -> FloatArray:
    """(S, m, D) sets of items -> (S,) the mean similarity of the pairs of each."""
    sums, count = sets.sum(axis=1), sets.shape[1]
    own = np.einsum("smd,smd->s", sets, sets)
    mean: FloatArray = (np.einsum("sd,sd->s", sums, sums) - own) / (count * (count - 1))
    return mean
