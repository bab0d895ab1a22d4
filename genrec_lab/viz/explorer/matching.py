"""Two tokenizers on the same items: which code became which, how alike the levels are, who changed company.

Shapes: n items that both have, K and J codes of a level in the two, L levels that both have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import linear_sum_assignment

from genrec_lab.codes import row_ids
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.layout import counted

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LevelMatch:
    """How the codes of one level of two tokenizers go together.

    table: (K, J) items with code k in the first and j in the second. pairs: frame `code_a, code_b, items,
    share_a, share_b, jaccard`, the one-to-one assignment with the most items in common, largest first;
    pairs without any common item are left out. matched: share of the items in matched pairs. ari, nmi:
    adjusted Rand index and normalised mutual information (arithmetic mean) of the two partitions.
    """

    level: int
    table: IntArray
    pairs: pl.DataFrame
    matched: float
    ari: float
    nmi: float


class TwoTokenizers:
    """The items and levels that two catalogues have in common, and what can be said of them.

    items_a, items_b: (n,) the same items as each numbers them. levels: those that both have. left_out: in
    words, what could not be compared or differs in kind; empty where nothing does.
    """

    def __init__(self, a: CodedCatalogue, b: CodedCatalogue) -> None:
        self.a, self.b = a, b
        self.items_a, self.items_b = _common(a, b)
        self.levels = min(a.levels, b.levels)
        self.left_out = _left_out(a, b, self.items_a.size)

    @property
    def n_items(self) -> int:
        """How many items both have, n."""
        return int(self.items_a.size)

    def level(self, level: int) -> LevelMatch | None:
        """Match the codes of a level (0-based); None without a common item; ValueError for another level."""
        if not 0 <= level < self.levels:
            raise ValueError(f"level: {level}, expected 0..{self.levels - 1}, the levels that both have")
        if self.n_items == 0:
            return None
        one, other = self._codes_a[level], self._codes_b[level]
        shape = self.a.codes.sizes[level], self.b.codes.sizes[level]
        return match_level(level, one, other, shape)

    def changes(self, length: int, top: int = 20) -> pl.DataFrame:
        """The items whose company changed most: those that share `length` codes with them in each tokenizer.

        Frame `item_a, item_b, title, kept, company_a, company_b, common`, `kept` being the Jaccard index of
        the two sets of companions (1 for an item that is alone in both), least first, larger sets first.
        """
        kept, with_a, with_b, both = self.company(length)
        order = np.lexsort((self.items_a, -(with_a + with_b), kept))[:top]
        return pl.DataFrame(
            {
                "item_a": self.items_a[order],
                "item_b": self.items_b[order],
                "title": self.a.titles.gather(self.items_a[order]),
                "kept": kept[order],
                "company_a": with_a[order],
                "company_b": with_b[order],
                "common": both[order],
            }
        )

    def company(self, length: int) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
        """(n,) share of companions kept, companions in a, in b, and in both, under `length` equal codes."""
        if not 1 <= length <= self.levels:
            raise ValueError(f"length: {length}, expected 1..{self.levels} codes, which both have")
        one, other = self._group(self.a, self.items_a, length), self._group(self.b, self.items_b, length)
        both_ids = row_ids(np.column_stack([one, other]))
        with_a, with_b, both = (
            np.bincount(ids)[ids] - 1 if ids.size else ids for ids in (one, other, both_ids)
        )
        union = with_a + with_b - both
        kept = np.where(union > 0, both / np.maximum(union, 1), 1.0)
        return kept, with_a, with_b, both

    @cached_property
    def _codes_a(self) -> IntArray:
        return np.ascontiguousarray(self.a.codes.codes[self.items_a, : self.levels].T)

    @cached_property
    def _codes_b(self) -> IntArray:
        return np.ascontiguousarray(self.b.codes.codes[self.items_b, : self.levels].T)

    def _group(self, catalogue: CodedCatalogue, items: IntArray, length: int) -> IntArray:
        return catalogue.order.group_numbers(length)[items]


def match_level(level: int, one: IntArray, other: IntArray, shape: tuple[int, int]) -> LevelMatch:
    """Match the codes (n,) of one level under two tokenizers with `shape` = (K, J) possible codes."""
    n_a, n_b = shape
    table = np.bincount(one * n_b + other, minlength=n_a * n_b).reshape(n_a, n_b)
    # Unused codes have nothing to match; the assignment is cubic, so they are left out of it.
    rows, columns = np.flatnonzero(table.any(axis=1)), np.flatnonzero(table.any(axis=0))
    used = table[np.ix_(rows, columns)]
    first, second = linear_sum_assignment(used, maximize=True)
    items = used[first, second]
    kept = items > 0
    first, second, items = first[kept], second[kept], items[kept]
    size_a, size_b = used.sum(axis=1)[first], used.sum(axis=0)[second]
    order = np.lexsort((rows[first], -items))
    pairs = pl.DataFrame(
        {
            "code_a": rows[first][order],
            "code_b": columns[second][order],
            "items": items[order],
            "share_a": (items / size_a)[order],
            "share_b": (items / size_b)[order],
            "jaccard": (items / (size_a + size_b - items))[order],
        }
    )
    return LevelMatch(
        level, table, pairs, float(items.sum() / table.sum()), adjusted_rand(used), mutual(used)
    )


def adjusted_rand(table: npt.ArrayLike) -> float:
    """The adjusted Rand index of two partitions from their contingency table (Hubert and Arabie 1985, Eq. 5).

    1 for equal partitions, about 0 for unrelated ones; 1 too where both are trivial in the same way.
    """
    counts = np.asarray(table, dtype=np.float64)
    total = counts.sum()
    pairs = (counts * (counts - 1)).sum() / 2
    in_rows = (counts.sum(axis=1) * (counts.sum(axis=1) - 1)).sum() / 2
    in_columns = (counts.sum(axis=0) * (counts.sum(axis=0) - 1)).sum() / 2
    all_pairs = total * (total - 1) / 2
    expected = in_rows * in_columns / all_pairs if all_pairs else 0.0
    most = (in_rows + in_columns) / 2
    return 1.0 if most == expected else float((pairs - expected) / (most - expected))


def mutual(table: npt.ArrayLike) -> float:
    """Normalised mutual information from a contingency table, over the mean of the two entropies.

    1 for equal partitions; 1 too where both have a single part; 0 where only one of them has.
    """
    shares = np.asarray(table, dtype=np.float64)
    shares = shares / shares.sum()
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    entropies = [-float((part[part > 0] * np.log(part[part > 0])).sum()) for part in (rows, columns)]
    if max(entropies) <= 0:
        return 1.0
    filled = shares > 0
    products = (rows[:, None] * columns[None, :])[filled]
    information = float((shares[filled] * np.log(shares[filled] / products)).sum())
    return min(max(information / (sum(entropies) / 2), 0.0), 1.0)


def _common(a: CodedCatalogue, b: CodedCatalogue) -> tuple[IntArray, IntArray]:
    """The items of equal domain and key, as both number them, in a's order."""
    if a.keys == b.keys and a.domains == b.domains:
        same = np.array_equal(a.codes.domain_index, b.codes.domain_index)
        if same and len(set(map(str, a.keys))) == a.n_items:
            return np.arange(a.n_items), np.arange(b.n_items)
    frames = [
        pl.DataFrame(
            {
                "domain": [one.domains[place] for place in one.codes.domain_index],
                "key": [str(key) for key in one.keys],
                name: np.arange(one.n_items),
            }
        ).unique(["domain", "key"], keep="none", maintain_order=True)
        for one, name in ((a, "a"), (b, "b"))
    ]
    joined = frames[0].join(frames[1], on=["domain", "key"], how="inner").sort("a")
    return joined["a"].to_numpy(), joined["b"].to_numpy()


def _left_out(a: CodedCatalogue, b: CodedCatalogue, common: int) -> list[str]:
    said = []
    for one in (a, b):
        if missing := one.n_items - common:
            said.append(f"{missing:,} of {one.n_items:,} items of {one.name} have no counterpart")
    if a.levels != b.levels:
        more, fewer = (a, b) if a.levels > b.levels else (b, a)
        first = fewer.levels + 1
        last = f"levels {first} to {more.levels}" if more.levels > first else f"level {first}"
        said.append(f"{last} of {more.name}: {fewer.name} has only {counted(fewer.levels, 'level')}")
    both = min(a.levels, b.levels)
    sizes_a, sizes_b = a.codes.sizes[:both], b.codes.sizes[:both]
    if sizes_a != sizes_b:
        of_a, of_b = (", ".join(map(str, sizes)) for sizes in (sizes_a, sizes_b))
        said.append(f"codes a level: {of_a} in {a.name}, {of_b} in {b.name}")
    return said
