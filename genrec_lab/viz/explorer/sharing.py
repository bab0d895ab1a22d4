"""How domains share codes, and how similar the items of a code are compared with chance.

All means are over pairs of items. They are computed exactly from sums of unit vectors, without sampling: the
sum over all pairs of a group is |sum of its vectors|^2 minus one for each item.
Shapes: N items, L levels, K codes per level, T domains, D content dimensions, G groups of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array

from genrec_lab.codes import row_ids

if TYPE_CHECKING:
    from genrec_lab.viz.explorer.catalogue import CodedCatalogue

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]


class LevelSharing(NamedTuple):
    """The use of one level's codes by domain.

    items: (T, K) items of each domain with each code. lift: (T, K), the share of a domain's items with a code
    divided by the share of all items with it. It is 1 if the code has no preference, and 0 if the domain does
    not use it. For domains of equal size, the maximum is T, if only one domain uses the code. It is NaN for
    unused codes and for domains without items.
    """

    items: IntArray
    lift: FloatArray

    def order(self) -> IntArray:
        """Return the used codes sorted by the domain with the highest lift, highest lift first."""
        used = np.flatnonzero(self.items.sum(axis=0))
        lift = np.nan_to_num(self.lift[:, used], nan=-1.0)
        order: IntArray = used[np.lexsort((used, -lift.max(axis=0), lift.argmax(axis=0)))]
        return order


def level_sharing(catalogue: CodedCatalogue, level: int, among: IntArray | None = None) -> LevelSharing:
    """Return the use of a level's codes by domain, under any prefix; raises ValueError for an unknown level.

    level: 0-based. among: the items to count, by default all.
    """
    sizes = catalogue.codes.sizes
    if not 0 <= level < len(sizes):
        raise ValueError(f"level: {level}, expected 0..{len(sizes) - 1}")
    n_domains, chosen = len(catalogue.domains), slice(None) if among is None else among
    cells = catalogue.codes.domain_index[chosen] * sizes[level] + catalogue.codes.codes[chosen, level]
    items = np.bincount(cells, minlength=n_domains * sizes[level]).reshape(n_domains, sizes[level])
    expected = np.outer(items.sum(axis=1), items.sum(axis=0)) / max(int(items.sum()), 1)
    with np.errstate(invalid="ignore"):
        return LevelSharing(items, items / np.where(expected > 0, expected, np.nan))


class PairMeans(NamedTuple):
    """Mean cosine similarity of pairs of different items in one group, NaN without pairs, and pair counts."""

    same: float
    same_pairs: int
    across: float
    across_pairs: int


def unit_vectors(vectors: npt.ArrayLike) -> Vectors:
    """Scale vectors (N, D) to length 1; zero vectors and vectors with NaN become zeros (similarity 0)."""
    given = np.asarray(vectors, dtype=np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", given, given))
    known = np.isfinite(norms) & (norms > 0)
    scaled: Vectors = np.divide(given, norms[:, None], out=np.zeros_like(given), where=known[:, None])
    return scaled


def pair_means(unit: Vectors, groups: npt.ArrayLike, domains: npt.ArrayLike) -> PairMeans:
    """Return mean similarities over the pairs of each group: within one domain, and of two domains.

    unit: (N, D) from `unit_vectors`. groups: (N,) numbers from 0, such as codes or prefixes. domains: (N,).
    """
    numbers = np.asarray(groups, dtype=np.int64)
    # Items that are alone in their group have no pairs; at deep levels, these are the majority.
    rows = np.flatnonzero(np.bincount(numbers)[numbers] > 1)
    cells = row_ids(np.column_stack([numbers[rows], np.asarray(domains)[rows]]))
    group_of_cell = np.empty(int(cells.max(initial=-1)) + 1, dtype=np.int64)
    group_of_cell[cells] = numbers[rows]
    parts = _sums(unit[rows] if rows.size < len(unit) else unit, cells, len(group_of_cell))
    group_of_cell = row_ids(group_of_cell[:, None])
    same, same_pairs = (part.sum() for part in _of_pairs(*parts))
    vectors, squares, sizes = parts
    by_group = (np.bincount(group_of_cell, part).astype(np.float64) for part in (squares, sizes))
    every, every_pairs = (part.sum() for part in _of_pairs(_grouped(vectors, group_of_cell), *by_group))
    across, pairs = every - same, int(every_pairs - same_pairs)
    return PairMeans(
        float(same / same_pairs) if same_pairs else float("nan"), int(same_pairs),
        float(across / pairs) if pairs else float("nan"), pairs,
    )  # fmt: skip


def similarity_by_level(
    unit: Vectors, prefixes: Sequence[npt.ArrayLike], domains: npt.ArrayLike
) -> pl.DataFrame:
    """Measure whether items that share a code are more similar than other items, within and across domains.

    prefixes: by level, (N,) the number of each item's prefix (or code). Frame `level` (from 1), `group` ("one
    domain", "two domains"), `pairs`, `inside` (mean cosine of pairs with an equal prefix, null without any),
    `chance` (of all such pairs of the catalogue), `gain` (inside minus chance).
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


def group_similarity(unit: Vectors, members: npt.ArrayLike, groups: npt.ArrayLike, count: int) -> FloatArray:
    """Return the mean similarity of each group's pairs, (G,); members, groups: (n,) items and groups."""
    own = unit[np.asarray(members, dtype=np.int64)]
    sums, pairs = _of_pairs(*_sums(own, np.asarray(groups, dtype=np.int64), count))
    return np.divide(sums, pairs, out=np.full(count, np.nan), where=pairs > 0)


def _sums(unit: Vectors, groups: IntArray, count: int) -> tuple[Vectors, FloatArray, FloatArray]:
    """Return by group the sum of its vectors, the sum of their squares, and the number of items."""
    squares = np.einsum("nd,nd->n", unit, unit)
    sizes = np.bincount(groups, minlength=count).astype(np.float64)
    in_groups = np.bincount(groups, squares, len(sizes)).astype(np.float64)
    return _grouped(unit, groups, len(sizes)), in_groups, sizes


def _grouped(vectors: Vectors, groups: IntArray, count: int = 0) -> Vectors:
    shape = (max(count, int(groups.max(initial=-1)) + 1), len(vectors))
    ones = np.ones(len(vectors), dtype=np.float32)
    summed: Vectors = csr_array((ones, (groups, np.arange(len(vectors)))), shape=shape) @ vectors
    return summed


def _of_pairs(sums: Vectors, own: FloatArray, sizes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return by group the sum of the similarities of its pairs of items, and the number of pairs."""
    squares = np.einsum("gd,gd->g", sums, sums, dtype=np.float64)
    return (squares - own) / 2, sizes * (sizes - 1) / 2
