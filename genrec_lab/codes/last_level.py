"""What a policy must know to move items between last codes: their residuals and the codewords.

Shapes: N items, K codes of the last level, d dimensions of the codebook space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from genrec_lab.codes.errors import CodesError
from genrec_lab.codes.grouping import IntArray, row_ids
from genrec_lab.codes.prefix_codewords import PrefixBooks, PrefixCodewords

FloatArray = npt.NDArray[np.float64]
CodebooksLike = npt.ArrayLike | PrefixCodewords | Mapping[str, npt.ArrayLike | PrefixCodewords]


@dataclass(frozen=True)
class LastLevel:
    """The last level's geometry: residuals (N, d), books of codewords (K, d), items' domains (N,).

    book_index: (N,) each item's book: that of its domain, or of its prefix where every prefix has its own.
    """

    residuals: FloatArray
    codebooks: Sequence[FloatArray]
    domain_index: IntArray
    book_index: IntArray

    @classmethod
    def build(
        cls,
        policy: str,
        residuals: npt.ArrayLike | None,
        codebooks: CodebooksLike | None,
        domain_index: IntArray,
        domain_names: Sequence[str],
        codes: IntArray,
        size: int,
    ) -> LastLevel:
        """Check and pick the last level of what was given; arguments as in `ItemCodes.resolve_with_cost`.

        Raises CodesError that names what is missing or does not fit.
        """
        missing = [
            name
            for name, value in (("residuals (N, d)", residuals), ("codebooks (K, d)", codebooks))
            if value is None
        ]
        if residuals is None or codebooks is None:
            raise CodesError(
                f"policy {policy!r} moves items by distance and needs {' and '.join(missing)} of the last "
                "level; pass both to resolve(), or use policy 'extra_level', which needs neither"
            )
        last_residuals = _last_residuals(residuals, len(domain_index))
        if isinstance(codebooks, Mapping):
            absent = [name for name in domain_names if name not in codebooks]
            if absent:
                raise CodesError(
                    f"codebooks: no entry for domains {absent}; given are {list(codebooks)}, "
                    f"needed {list(domain_names)}"
                )
            given = [(codebooks[name], f"codebooks[{name!r}]") for name in domain_names]
        else:
            given = [(codebooks, "codebooks")] * len(domain_names)
        books: Sequence[FloatArray]
        prefixed = [book for book, _ in given if isinstance(book, PrefixCodewords)]
        if prefixed:
            if len(prefixed) < len(given):
                raise CodesError("codebooks: some domains have codewords of each prefix, others not")
            rows = np.column_stack([domain_index, codes[:, :-1]])
            book_index = row_ids(rows)
            first = np.unique(book_index, return_index=True)[1]
            books = PrefixBooks(prefixed, [tuple(row) for row in rows[first].tolist()])
            shapes = {(book.size, book.vectors.shape[1]) for book in prefixed}
        else:
            book_index = domain_index
            books = tuple(_last_codebook(cast(npt.ArrayLike, book), name) for book, name in given)
            shapes = {(len(book), book.shape[1]) for book in books}
        for shape in shapes - {(size, last_residuals.shape[1])}:
            raise CodesError(
                f"codebooks: last level is {shape}, expected {(size, last_residuals.shape[1])}: "
                "the last of sizes by the dimensions of residuals"
            )
        return cls(last_residuals, books, domain_index, book_index)

    def distances(self, items: IntArray) -> FloatArray:
        """(len(items), K) Euclidean distances of these items, all of one prefix, to every last codeword."""
        return cdist(self.residuals[items], self.codebooks[self.book_index[items[0]]])

    def distance_to(self, items: IntArray, last_codes: IntArray) -> FloatArray:
        """(len(items),) Euclidean distance of each item to the last codeword named beside it."""
        distances = np.zeros(len(items))
        for book in np.unique(self.book_index[items]):
            rows = np.flatnonzero(self.book_index[items] == book)
            differences = self.residuals[items[rows]] - self.codebooks[book][last_codes[rows]]
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
    _require_finite(array, "residuals")
    return array


def _last_codebook(codebooks: npt.ArrayLike, name: str) -> FloatArray:
    # Levels of different sizes come as a list of matrices, which no single array could hold.
    if isinstance(codebooks, (list, tuple)) and np.ndim(codebooks[-1]) == 2:
        codebooks = codebooks[-1]
    array = np.asarray(codebooks, dtype=np.float64)
    if array.ndim == 3:
        array = array[-1]
    if array.ndim != 2:
        raise CodesError(f"{name}: shape {array.shape}, expected (K, d) of the last level or (levels, K, d)")
    _require_finite(array, name)
    return array


def _require_finite(array: FloatArray, name: str) -> None:
    bad_rows = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad_rows.size:
        raise CodesError(
            f"{name}: NaN or infinity in {bad_rows.size} rows, the first is row {bad_rows[0]}; "
            "look for NaN in the vectors that were tokenized"
        )
