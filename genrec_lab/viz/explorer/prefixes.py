"""Prefixes of identifiers as slices: a prefix is a run of neighbours in the order of the codes.

Shapes: N items, L levels, K codes of a level, T domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from genrec_lab.codes import ItemCodes

IntArray = npt.NDArray[np.int64]


class PrefixOrder:
    """The items sorted by their codes.

    items: (N,) item indices in lexicographic order of codes, equal identifiers by index. columns: (L, N)
    codes in that order. starts[l]: where prefixes of l + 1 codes begin in that order, N at the end.
    """

    def __init__(self, codes: ItemCodes) -> None:
        self.sizes = codes.sizes
        self.items: IntArray = np.lexsort(codes.codes.T[::-1])
        self.columns = np.ascontiguousarray(codes.codes[self.items].T.astype(np.int32))
        self.domain_index = codes.domain_index[self.items].astype(np.int32)
        new = np.zeros(len(self.items), dtype=bool)
        new[0] = True
        self.starts: tuple[IntArray, ...] = ()
        for column in self.columns:
            new[1:] |= column[1:] != column[:-1]
            self.starts += (np.append(np.flatnonzero(new), len(self.items)),)

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
            first, last = (int(np.searchsorted(part, np.int32(code), side)) for side in ("left", "right"))
            low, high = low + first, low + last
        return low, high

    def members(self, prefix: Sequence[int], domain: int | None = None) -> IntArray:
        """The items of a prefix in the order of their codes, of one domain (by number) where given."""
        low, high = self.span(prefix)
        if domain is None:
            return self.items[low:high]
        return self.items[low:high][self.domain_index[low:high] == domain]

    def with_code(self, level: int, code: int) -> IntArray:
        """The places in the order, ascending, of the items that have a code at a level under any prefix."""
        order, starts = self.by_code(level)
        if not 0 <= code < self.sizes[level]:
            return order[:0]
        return order[starts[code] : starts[code + 1]]

    @lru_cache  # noqa: B019 - an order lives as long as its explorer
    def by_code(self, level: int) -> tuple[IntArray, IntArray]:
        """The places by the code of a level, (N,), and where each code's begin among them, (K + 1,)."""
        counts = np.bincount(self.columns[level], minlength=self.sizes[level])
        return np.argsort(self.columns[level], kind="stable"), np.concatenate([[0], np.cumsum(counts)])

    def group_numbers(self, length: int) -> IntArray:
        """(N,) by item: which of the prefixes of `length` codes it has, numbered in their order."""
        starts = self.starts[length - 1]
        numbers = np.empty(self.items.size, dtype=np.int64)
        numbers[self.items] = np.repeat(np.arange(starts.size - 1), np.diff(starts))
        return numbers
