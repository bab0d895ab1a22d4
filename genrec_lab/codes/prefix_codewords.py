"""Last codewords that differ from prefix to prefix, as those of hierarchical k-means.

Shapes: M identifiers that have a codeword, L levels, K last codes, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import numpy.typing as npt

from genrec_lab.codes.errors import CodesError
from genrec_lab.codes.grouping import IntArray


@dataclass(frozen=True, eq=False)
class PrefixCodewords:
    """The codewords of last codes under each prefix.

    paths: (M, L) codes. vectors: (M, d), the codeword of each, in the space of the last level's residuals. A
    last code that has none under a prefix stands where the prefix itself does: at the origin. size: K.
    Raises CodesError where the three do not fit together.
    """

    paths: IntArray
    vectors: npt.NDArray[np.floating]
    size: int

    def __post_init__(self) -> None:
        if self.paths.ndim != 2 or self.vectors.ndim != 2 or len(self.paths) != len(self.vectors):
            raise CodesError(
                f"paths: shape {self.paths.shape} with vectors of shape {self.vectors.shape}; expected "
                "(identifiers, levels) and (identifiers, dimensions)"
            )
        if len(self.paths) and not (0 <= self.paths[:, -1].min() <= self.paths[:, -1].max() < self.size):
            raise CodesError(
                f"paths: last codes {self.paths[:, -1].min()} to {self.paths[:, -1].max()}, expected 0 to "
                f"{self.size - 1}"
            )

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], list[int]]:
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, path in enumerate(self.paths.tolist()):
            rows.setdefault(tuple(path[:-1]), []).append(row)
        return rows

    def below(self, prefix: tuple[int, ...]) -> npt.NDArray[np.floating]:
        """(k, d) the codewords that there are under a prefix, in the order of their codes."""
        return self.vectors[self._rows.get(prefix, [])]

    def book(self, prefix: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """(K, d) codewords of the last codes under a prefix of L - 1 codes."""
        book = np.zeros((self.size, self.vectors.shape[1]))
        rows = self._rows.get(prefix, [])
        book[self.paths[rows, -1]] = self.vectors[rows]
        return book

    def of(self, codes: IntArray) -> npt.NDArray[np.float32]:
        """(N, d) the codewords of whole identifiers (N, L); zero where one has none."""
        row_of = {tuple(path): row for row, path in enumerate(self.paths.tolist())}
        rows = np.array([row_of.get(tuple(code), -1) for code in codes.tolist()], dtype=np.int64)
        return np.where(rows[:, None] < 0, 0, self.vectors[rows]).astype(np.float32)


class PrefixBooks(Sequence[npt.NDArray[np.float64]]):
    """The books (K, d) of the prefixes that items have, made when asked for: all of them may be large."""

    def __init__(self, of_domain: Sequence[PrefixCodewords], prefixes: Sequence[tuple[int, ...]]) -> None:
        """Each prefix begins with the number of its domain."""
        self._of_domain, self._prefixes = of_domain, prefixes

    def __len__(self) -> int:
        return len(self._prefixes)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.float64]: ...
    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[np.float64]]: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[np.float64] | list[npt.NDArray[np.float64]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        domain, *prefix = self._prefixes[index]
        return self._of_domain[domain].book(tuple(prefix))
