"""Residuals and codewords of the last level, which policies use to move items between last codes.

Shapes: N items, M identifiers that have a codeword, L levels, K codes of the last level, d dimensions of the
codebook space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from genrec_lab.codes.grouping import CodesError, IntArray

if TYPE_CHECKING:
    from genrec_lab.codes.conflicts import Conflicts

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PrefixCodewords:
    """The codewords of last codes under each prefix.

    paths: (M, L) codes. vectors: (M, d), the codeword of each, in the space of the last level's residuals. A
    last code without a codeword under a prefix lies at the origin, where the prefix is. size: K.
    Raises CodesError if the three do not fit together.
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
        """Return the existing codewords under a prefix, (k, d), in the order of their codes."""
        return self.vectors[self._rows.get(prefix, [])]

    def book(self, prefix: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """Return the codewords (K, d) of the last codes under a prefix of L - 1 codes."""
        book = np.zeros((self.size, self.vectors.shape[1]))
        rows = self._rows.get(prefix, [])
        book[self.paths[rows, -1]] = self.vectors[rows]
        return book

    def of(self, codes: IntArray) -> npt.NDArray[np.float32]:
        """Return the codewords (N, d) of whole identifiers (N, L); zero if one has none."""
        row_of = {tuple(path): row for row, path in enumerate(self.paths.tolist())}
        rows = np.array([row_of.get(tuple(code), -1) for code in codes.tolist()], dtype=np.int64)
        return np.where(rows[:, None] < 0, 0, self.vectors[rows]).astype(np.float32)


CodebooksLike = npt.ArrayLike | PrefixCodewords | Mapping[str, npt.ArrayLike | PrefixCodewords]


@dataclass(frozen=True)
class LastLevel:
    """The last level's geometry: residuals (N, d), and books, the codewords (K, d) that items choose from.

    book_index: (N,) the number of each item's book, by domain or, if every prefix has its own, by prefix.
    book: returns a book by its number. size: K.
    """

    residuals: FloatArray
    book_index: IntArray
    book: Callable[[int], FloatArray]
    size: int

    @classmethod
    def of(cls, conflicts: Conflicts) -> LastLevel:
        """Check and select the last level; raises CodesError for missing or mismatched inputs."""
        residuals, codebooks, size = conflicts.residuals, conflicts.codebooks, conflicts.sizes[-1]
        names = conflicts.domain_names
        if residuals is None or codebooks is None:
            missing = ["residuals (N, d)"] * (residuals is None) + ["codebooks (K, d)"] * (codebooks is None)
            raise CodesError(
                f"policy {conflicts.config.policy!r} moves items by distance and needs "
                f"{' and '.join(missing)} of the last level; pass both to resolve(), or use policy "
                "'extra_level', which needs neither"
            )
        last_residuals = _last_residuals(residuals, len(conflicts.codes))
        given = [(codebooks, "codebooks")] * len(names)
        if isinstance(codebooks, Mapping):
            absent = [name for name in names if name not in codebooks]
            if absent:
                raise CodesError(
                    f"codebooks: no entry for domains {absent}; given are {list(codebooks)}, "
                    f"needed {list(names)}"
                )
            given = [(codebooks[name], f"codebooks[{name!r}]") for name in names]
        prefixed = [book for book, _ in given if isinstance(book, PrefixCodewords)]
        book_of: Callable[[int], FloatArray]
        if prefixed:
            if len(prefixed) < len(given):
                raise CodesError("codebooks: some domains have codewords of each prefix, others not")
            book_index = conflicts.prefix_ids
            rows = np.column_stack([conflicts.domain_index, conflicts.codes[:, :-1]])
            prefixes = rows[np.unique(book_index, return_index=True)[1]].tolist()
            # Created on demand, because the books of all prefixes may be large.
            book_of = lambda index: prefixed[prefixes[index][0]].book(tuple(prefixes[index][1:]))  # noqa: E731
            shapes = {(book.size, book.vectors.shape[1]) for book in prefixed}
        else:
            book_index = conflicts.domain_index
            books = [_last_codebook(cast(npt.ArrayLike, book), name) for book, name in given]
            book_of = books.__getitem__
            shapes = {book.shape for book in books}
        for shape in shapes - {(size, last_residuals.shape[1])}:
            raise CodesError(
                f"codebooks: last level is {shape}, expected {(size, last_residuals.shape[1])}: "
                "the last of sizes by the dimensions of residuals"
            )
        return cls(last_residuals, book_index, book_of, size)

    def distances(self, items: IntArray) -> FloatArray:
        """(len(items), K) Euclidean distances of these items, all of one prefix, to every last codeword."""
        from scipy.spatial.distance import cdist  # slow to import

        return cdist(self.residuals[items], self.book(self.book_index[items[0]]))

    def distance_to(self, items: IntArray, last_codes: IntArray) -> FloatArray:
        """Return the Euclidean distance of each item to its last code in `last_codes`, (len(items),)."""
        distances = np.zeros(len(items))
        for book in np.unique(self.book_index[items]):
            rows = np.flatnonzero(self.book_index[items] == book)
            differences = self.residuals[items[rows]] - self.book(book)[last_codes[rows]]
            distances[rows] = np.sqrt((differences**2).sum(axis=1))
        return distances


def _last_residuals(residuals: npt.ArrayLike, n_items: int) -> FloatArray:
    array = np.asarray(residuals, dtype=np.float64)
    if array.ndim == 3:
        array = array[:, -1]
    if array.ndim != 2 or len(array) != n_items:
        raise CodesError(
            f"residuals: shape {np.shape(residuals)}, expected ({n_items}, d) of the last level "
            f"or ({n_items}, levels, d) of all levels"
        )
    require_finite(array, "residuals")
    return array


def _last_codebook(codebooks: npt.ArrayLike, name: str) -> FloatArray:
    # Levels of different sizes come as a list of matrices, which do not fit into one array.
    if isinstance(codebooks, (list, tuple)) and np.ndim(codebooks[-1]) == 2:
        codebooks = codebooks[-1]
    array = np.asarray(codebooks, dtype=np.float64)
    if array.ndim == 3:
        array = array[-1]
    if array.ndim != 2:
        raise CodesError(f"{name}: shape {array.shape}, expected (K, d) of the last level or (levels, K, d)")
    require_finite(array, name)
    return array


def require_finite(array: FloatArray, name: str) -> None:
    """Raise CodesError for NaN or infinity in a matrix."""
    bad_rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad_rows.size:
        raise CodesError(
            f"{name}: NaN or infinity in {bad_rows.size} rows, the first is row {bad_rows[0]}; "
            "look for NaN in the vectors that were tokenized"
        )
