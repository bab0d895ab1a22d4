"""Prefixes of identifiers as slices: the items in the order of their codes, and sums over any stretch of it.

A prefix is a run of neighbours in lexicographic order, so its size, traffic and domains are differences of
running sums, and its children are the places where the next code changes. No answer loops over items.
Shapes: N items, L levels, K codes of a level, T domains, C children of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes import ItemCodes

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

USED, ELSEWHERE, DEAD = "used", "only elsewhere", "dead"


@dataclass(frozen=True, eq=False)
class Children:
    """The codes that may follow a prefix, all K of the level in their order.

    items, interactions: (K, T) of the items below by domain, zero but for one domain where a filter is set.
    everywhere: (K,) items that have the code at this level under any prefix, of any domain.
    total_interactions: those of the whole catalogue, or of the domain that the filter names.
    """

    prefix: tuple[int, ...]
    domains: tuple[str, ...]
    items: IntArray
    interactions: IntArray
    everywhere: IntArray
    total_interactions: int

    @property
    def level(self) -> int:
        """The 0-based level of these codes."""
        return len(self.prefix)

    @property
    def sizes(self) -> IntArray:
        """(K,) items below each code."""
        sums: IntArray = self.items.sum(axis=1)
        return sums

    @property
    def traffic_share(self) -> FloatArray:
        """(K,) share of the catalogue's (or the filtered domain's) interactions that goes to these items."""
        return self.interactions.sum(axis=1) / max(self.total_interactions, 1)

    @property
    def states(self) -> list[str]:
        """(K,): "used" below this prefix, "only elsewhere" under other prefixes or domains, or "dead"."""
        kinds = np.where(self.sizes > 0, USED, np.where(self.everywhere > 0, ELSEWHERE, DEAD))
        return [str(kind) for kind in kinds]

    @property
    def purity(self) -> FloatArray:
        """(K,) share of a code's items that are of its commonest domain; NaN where it has none."""
        return purity_of(self.items)

    def frame(self) -> pl.DataFrame:
        """One row a code: `code, items, share, interactions, traffic_share, purity, state`, then domains.

        share: of the prefix's items. The last columns are the items by domain, `items in NAME`.
        """
        sizes = self.sizes
        columns: dict[str, object] = {
            "code": np.arange(len(sizes)),
            "items": sizes,
            "share": sizes / max(int(sizes.sum()), 1),
            "interactions": self.interactions.sum(axis=1),
            "traffic_share": self.traffic_share,
            "purity": pl.Series(self.purity).fill_nan(None),
            "state": self.states,
        }
        columns |= {f"items in {name}": self.items[:, place] for place, name in enumerate(self.domains)}
        return pl.DataFrame(columns)


class PrefixOrder:
    """The items sorted by their codes, with running sums of items and traffic by domain.

    items: (N,) item indices in lexicographic order of codes, equal identifiers by index. columns: (L, N)
    codes in that order. starts[l]: where prefixes of l + 1 codes begin in that order, N at the end.
    """

    def __init__(self, codes: ItemCodes, traffic: IntArray) -> None:
        self.sizes, self.domains = codes.sizes, codes.domain_names
        self.items: IntArray = np.lexsort(codes.codes.T[::-1])
        self.columns = np.ascontiguousarray(codes.codes[self.items].T.astype(np.int32))
        self.domain_index = codes.domain_index[self.items].astype(np.int32)
        self.position: IntArray = np.empty(len(self.items), dtype=np.int64)
        self.position[self.items] = np.arange(len(self.items))
        new = np.zeros(len(self.items), dtype=bool)
        new[0] = True
        self.starts: tuple[IntArray, ...] = ()
        for column in self.columns:
            new[1:] |= column[1:] != column[:-1]
            self.starts += (np.append(np.flatnonzero(new), len(self.items)),)
        self._item_sums = _running(self.domain_index, len(self.domains), np.ones(len(self.items), np.int64))
        self._traffic_sums = _running(self.domain_index, len(self.domains), traffic[self.items])
        self._by_code: dict[int, tuple[IntArray, IntArray]] = {}

    def span(self, prefix: Sequence[int]) -> tuple[int, int]:
        """The stretch [low, high) of the order that a prefix takes; low == high where nobody has it.

        Raises ValueError for more codes than levels.
        """
        if len(prefix) > len(self.columns):
            raise ValueError(f"prefix: {len(prefix)} codes, identifiers have {len(self.columns)}")
        low, high = 0, self.items.size
        for column, code in zip(self.columns, prefix, strict=False):
            part = column[low:high]
            # The code in the column's own type: numpy would otherwise copy the column to search it.
            if not 0 <= code <= np.iinfo(np.int32).max:
                return low, low
            wanted = np.int32(code)
            low, high = (
                low + int(np.searchsorted(part, wanted, "left")),
                low + int(np.searchsorted(part, wanted, "right")),
            )
        return low, high

    def members(self, prefix: Sequence[int], domain: int | None = None) -> IntArray:
        """The items of a prefix in the order of their codes, of one domain (by number) where given."""
        low, high = self.span(prefix)
        if domain is None:
            return self.items[low:high]
        return self.items[low:high][self.domain_index[low:high] == domain]

    def totals(self, prefix: Sequence[int] = ()) -> tuple[IntArray, IntArray]:
        """Return items (T,) and interactions (T,) of a prefix by domain."""
        low, high = self.span(prefix)
        items, traffic = (sums[high] - sums[low] for sums in (self._item_sums, self._traffic_sums))
        return items, traffic

    def children(self, prefix: Sequence[int], domain: int | None = None) -> Children:
        """What follows a prefix; raises ValueError for a whole identifier, which nothing follows."""
        level = len(prefix)
        if level >= len(self.columns):
            raise ValueError(f"prefix: {list(prefix)} is a whole identifier; no code follows it")
        low, high = self.span(prefix)
        starts = self.starts[level]
        first, last = int(np.searchsorted(starts, low)), int(np.searchsorted(starts, high))
        places = starts[first:last]
        ends = np.append(places[1:], high) if places.size else places
        codes = self.columns[level][places]
        items = np.zeros((self.sizes[level], len(self.domains)), dtype=np.int64)
        interactions = np.zeros_like(items)
        items[codes] = self._item_sums[ends] - self._item_sums[places]
        interactions[codes] = self._traffic_sums[ends] - self._traffic_sums[places]
        total = self._traffic_sums[-1]
        if domain is not None:
            kept = np.arange(len(self.domains)) == domain
            items, interactions, total = items * kept, interactions * kept, total * kept
        return Children(
            tuple(int(code) for code in prefix),
            self.domains,
            items,
            interactions,
            np.diff(self._grouped(level)[1]),
            int(total.sum()),
        )

    def with_code(self, level: int, code: int) -> IntArray:
        """The places in the order, ascending, of the items that have a code at a level under any prefix."""
        order, starts = self._grouped(level)
        if not 0 <= code < self.sizes[level]:
            return order[:0]
        return order[starts[code] : starts[code + 1]]

    def _grouped(self, level: int) -> tuple[IntArray, IntArray]:
        if level not in self._by_code:
            column = self.columns[level]
            counts = np.bincount(column, minlength=self.sizes[level])
            self._by_code[level] = (
                np.argsort(column, kind="stable"),
                np.concatenate([[0], np.cumsum(counts)]),
            )
        return self._by_code[level]

    def group_numbers(self, length: int) -> IntArray:
        """(N,) by item: which of the prefixes of `length` codes it has, numbered in their order."""
        if length == 0:
            return np.zeros(self.items.size, dtype=np.int64)
        starts = self.starts[length - 1]
        numbers = np.empty(self.items.size, dtype=np.int64)
        numbers[self.items] = np.repeat(np.arange(starts.size - 1), np.diff(starts))
        return numbers


def purity_of(items: IntArray) -> FloatArray:
    """(K, T) items by domain -> (K,) share of the commonest domain; NaN where a row is empty."""
    sizes = items.sum(axis=1)
    return np.where(sizes > 0, items.max(axis=1) / np.maximum(sizes, 1), np.nan)


def entropy_bits(counts: npt.ArrayLike) -> float:
    """The entropy in bits of counts; 0 where they are all in one place, or where there are none."""
    values = np.asarray(counts, dtype=np.float64)
    if values.sum() == 0:
        return 0.0
    shares = values[values > 0] / values.sum()
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def _running(domain: npt.NDArray[np.int32], n_domains: int, weights: IntArray) -> IntArray:
    """(N + 1, T) sums of the weights before each place, by domain."""
    sums = np.zeros((len(domain) + 1, n_domains), dtype=np.int64)
    for number in range(n_domains):
        np.cumsum(np.where(domain == number, weights, 0), out=sums[1:, number])
    return sums
