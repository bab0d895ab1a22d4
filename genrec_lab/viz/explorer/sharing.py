"""How domains share codes, and how similar the items of a code are compared with chance.

All means are over pairs of items. They are computed exactly from sums of unit vectors, without sampling: the
sum over all pairs of a group is |sum of its vectors|^2 minus one for each item.
Shapes: N items, L levels, K codes per level, T domains, D content dimensions, G groups of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from genrec_lab.codes import row_ids
from genrec_lab.viz import Float32Array, FloatArray, IntArray

if TYPE_CHECKING:
    from genrec_lab.viz.explorer.catalogue import CodedCatalogue


class LevelSharing(NamedTuple):
    """The use of one level's codes by domain.

    items: (T, K) items of each domain with each code. lift: (T, K), the share of a domain's items with a code
    divided by the share of all items with it: 1 if the code has no preference, 0 if the domain does not use
    it, NaN for unused codes and for domains without items.
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
    """Return the use of a level's codes by domain, under any prefix.

    level: 0-based. among: the items to count, each once, by default all.
    """
    sizes = catalogue.codes.sizes
    whole = among is None or len(among) == catalogue.n_items
    n_domains, chosen = len(catalogue.domains), slice(None) if whole else among
    cells = catalogue.codes.domain_index[chosen] * sizes[level] + catalogue.codes.codes[chosen, level]
    items = np.bincount(cells, minlength=n_domains * sizes[level]).reshape(n_domains, sizes[level])
    expected = np.outer(items.sum(axis=1), items.sum(axis=0)) / max(int(items.sum()), 1)
    with np.errstate(invalid="ignore"):
        return LevelSharing(items, items / np.where(expected > 0, expected, np.nan))


class PairMeans(NamedTuple):
    """Mean cosine similarities of pairs of one domain (same) and of two (across), NaN without any."""

    same: float
    same_pairs: int
    across: float
    across_pairs: int

    @property
    def mean(self) -> float:
        """The mean over all these pairs; NaN without any."""
        parts = [(self.same, self.same_pairs), (self.across, self.across_pairs)]
        pairs = self.same_pairs + self.across_pairs
        return sum(mean * count for mean, count in parts if count) / pairs if pairs else float("nan")


def unit_vectors(vectors: ArrayLike) -> Float32Array:
    """Scale vectors (N, D) to length 1; zero vectors and vectors with NaN become zeros (similarity 0)."""
    given = np.asarray(vectors, dtype=np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", given, given))
    known = np.isfinite(norms) & (norms > 0)
    scaled: Float32Array = np.divide(given, norms[:, None], out=np.zeros_like(given), where=known[:, None])
    return scaled


class PairSums(NamedTuple):
    """Sums of the similarities of pairs of items in G groups, and of those pairs that are of one domain.

    sums, pairs: (G,) sum and number of all pairs of a group. group, domain: (C,) of each cell, the items of
    one domain in a group; groups ascending, without items that are alone in theirs. sums_inside,
    pairs_inside: (C,) of the pairs of a cell.
    """

    sums: FloatArray
    pairs: FloatArray
    group: IntArray
    domain: IntArray
    sums_inside: FloatArray
    pairs_inside: FloatArray

    def means(self, first: int = 0, last: int | None = None, domain: int | None = None) -> PairMeans:
        """Return the means over the groups first..last-1, by default all, and in one domain or in all."""
        low, high = np.searchsorted(self.group, [first, self.sums.size if last is None else last])
        cells = slice(low, high)
        inside = np.array([self.sums_inside[cells], self.pairs_inside[cells]])
        if domain is None:
            same, every = inside.sum(axis=1), (self.sums[first:last].sum(), self.pairs[first:last].sum())
        else:
            same = every = inside[:, self.domain[cells] == domain].sum(axis=1)
        across = every - same
        means = [float(one / pairs) if pairs else float("nan") for one, pairs in (same, across)]
        return PairMeans(means[0], int(same[1]), means[1], int(across[1]))

    def by_group(self, domain: int | None = None) -> FloatArray:
        """Return the mean similarity of each group's pairs, (G,), of one domain or all, NaN without any."""
        sums, pairs = self.sums, self.pairs
        if domain is not None:
            own, size = self.domain == domain, sums.size
            sums = np.bincount(self.group[own], self.sums_inside[own], size).astype(float)
            pairs = np.bincount(self.group[own], self.pairs_inside[own], size).astype(float)
        return np.divide(sums, pairs, out=np.full(sums.size, np.nan), where=pairs > 0)


def pair_sums(unit: Float32Array, groups: ArrayLike, domains: ArrayLike, count: int = 0) -> PairSums:
    """Return the sums of similarities by group, and by group and domain.

    unit: (N, D) from `unit_vectors`. groups: (N,) numbers from 0, such as codes or prefixes. domains: (N,).
    count: G, if it is more than the largest number plus 1.
    """
    numbers = np.asarray(groups, dtype=np.int64)
    sizes = np.bincount(numbers, minlength=count)
    # Items that are alone in their group have no pairs; at deep levels, these are the majority.
    rows = np.flatnonzero(sizes[numbers] > 1)
    places = np.column_stack([numbers[rows], np.asarray(domains)[rows]])
    cells = row_ids(places)
    group, domain = np.empty((2, int(cells.max(initial=-1)) + 1), dtype=np.int64)
    group[cells], domain[cells] = places.T
    own = unit[rows] if rows.size < len(unit) else unit
    # By cell: the sum of its vectors, the sum of their squares, and the number of items.
    vectors, squares = _summed(own, cells), np.bincount(cells, np.einsum("nd,nd->n", own, own), group.size)
    inside = np.bincount(cells, minlength=group.size)
    several, which = np.unique(group, return_inverse=True)
    sums, pairs = np.zeros((2, sizes.size))
    of_groups = (_summed(vectors, which), np.bincount(which, squares), np.bincount(which, inside))
    sums[several], pairs[several] = _of_pairs(*of_groups)
    return PairSums(sums, pairs, group, domain, *_of_pairs(vectors, squares, inside))


def similarity_by_level(whole: PairMeans, levels: Sequence[PairMeans]) -> pl.DataFrame:
    """Show whether items that share a code are more similar than other items, within and across domains.

    whole: of all items. levels: of the items with the same prefix (or code), by level. Frame `level` (from
    1), `group` ("one domain", "two domains"), `pairs`, `inside` (mean cosine of pairs with an equal prefix,
    null without any), `chance` (of all such pairs), `gain` (inside minus chance).
    """
    rows: list[tuple[object, ...]] = []
    for level, found in enumerate(levels, start=1):
        rows.append((level, "one domain", found.same_pairs, found.same, whole.same))
        rows.append((level, "two domains", found.across_pairs, found.across, whole.across))
    columns = {"level": pl.Int64, "group": pl.String, "pairs": pl.Int64}
    columns |= {"inside": pl.Float64, "chance": pl.Float64}
    frame = pl.DataFrame(rows, schema=columns, orient="row").filter(pl.col("chance").is_not_nan())
    frame = frame.with_columns(pl.col("inside").fill_nan(None))
    return frame.with_columns(gain=pl.col("inside") - pl.col("chance"))


def group_similarity(unit: Float32Array, members: ArrayLike, groups: ArrayLike, count: int) -> FloatArray:
    """Return the mean similarity of each group's pairs, (G,); members, groups: (n,) items and groups."""
    own = unit[np.asarray(members, dtype=np.int64)]
    return pair_sums(own, groups, np.zeros(len(own), dtype=np.int64), count).by_group()


def _summed(vectors: Float32Array, groups: IntArray) -> Float32Array:
    """Return the sum of the vectors (n, D) of each group, (G, D)."""
    shape = (int(groups.max(initial=-1)) + 1, len(vectors))
    ones = np.ones(len(vectors), dtype=np.float32)
    summed: Float32Array = csr_array((ones, (groups, np.arange(len(vectors)))), shape=shape) @ vectors
    return summed


def _of_pairs(sums: Float32Array, own: NDArray[Any], sizes: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Return by group the sum of the similarities of its pairs of items, and the number of pairs."""
    squares = np.einsum("gd,gd->g", sums, sums, dtype=np.float64)
    return (squares - own) / 2, sizes * (sizes - 1) / 2
