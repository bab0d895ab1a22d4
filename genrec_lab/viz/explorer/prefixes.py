"""Prefixes of identifiers as slices: a prefix is a contiguous range of the items sorted by codes.

Shapes: N items, L levels, K codes per level, T domains.
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

    items: (N,) item indices in lexicographic order of codes; ties by index. columns: (L, N) codes in that
    order. starts[l]: the starts of the prefixes of l + 1 codes in that order, followed by N.
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
        """Return the range [low, high) of a prefix in the order; low == high if no item has it.

        Raises ValueError for more codes than levels.
        """
        if len(prefix) > len(self.columns):
            raise ValueError(f"prefix: {len(prefix)} codes, identifiers have {len(self.columns)}")
        low, high = 0, self.items.size
        for column, code in zip(self.columns, prefix, strict=False):
            part = column[low:high]
            # The code has the column's type, because numpy would otherwise copy the column.
            if not 0 <= code <= np.iinfo(np.int32).max:
                return low, low
            first, last = (int(np.searchsorted(part, np.int32(code), side)) for side in ("left", "right"))
            low, high = low + first, low + last
        return low, high

    def members(self, prefix: Sequence[int], domain: int | None = None) -> IntArray:
        """Return the items of a prefix in the order of their codes, optionally of one domain (by number)."""
        low, high = self.span(prefix)
        if domain is None:
            return self.items[low:high]
        return self.items[low:high][self.domain_index[low:high] == domain]

    def with_code(self, level: int, code: int) -> IntArray:
        """Return the positions in the order, ascending, of items with a code at a level under any prefix."""
        order, starts = self.by_code(level)
        if not 0 <= code < self.sizes[level]:
            return order[:0]
        return order[starts[code] : starts[code + 1]]

    @lru_cache  # noqa: B019 - an order lives as long as its explorer
    def by_code(self, level: int) -> tuple[IntArray, IntArray]:
        """Return the positions sorted by the code of a level, (N,), and the start of each code, (K + 1,)."""
        counts = np.bincount(self.columns[level], minlength=self.sizes[level])
        return np.argsort(self.columns[level], kind="stable"), np.concatenate([[0], np.cumsum(counts)])

    def groups_below(self, prefix: Sequence[int], length: int) -> tuple[int, int]:
        """Return the range of the prefixes of `length` codes below a prefix, among all of this length."""
        if not length:
            return 0, 1
        first, last = np.searchsorted(self.starts[length - 1], self.span(prefix)).tolist()
        return first, last

    def group_numbers(self, length: int) -> IntArray:
        """Return for each item, (N,), the number of its prefix among those of `length` codes."""
        if not length:
            return np.zeros(self.items.size, dtype=np.int64)
        starts = self.starts[length - 1]
        numbers = np.empty(self.items.size, dtype=np.int64)
        numbers[self.items] = np.repeat(np.arange(starts.size - 1), np.diff(starts))
        return numbers
