"""Codes of text vectors by optimised product quantisation (Ge et al. 2013), fitted by faiss.

Shapes: N items, V numbers of a text vector, M codes an item, K values of a code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_MISSING = (
    "the row 'vqrec' makes its codes with faiss, which is not installed: "
    "`pip install 'genrec-lab[baselines]'`, or take the row out of compare"
)


class TextCodebooks(NamedTuple):
    """What turns a text vector into M codes: rotate, take off the mean, find each part's nearest centre."""

    rotation: np.ndarray  # (V, V) float32
    mean: np.ndarray  # (V,) of the rotated vectors
    centres: np.ndarray  # (M, K, V / M)

    def codes(self, vectors: np.ndarray) -> np.ndarray:
        """(N, V) -> (N, M) int64 in 0..K-1."""
        parts = (vectors @ self.rotation.T - self.mean).reshape(len(vectors), len(self.centres), -1)
        # |x|^2 is the same for all centres, so that the nearest one needs only the rest of |x - c|^2.
        far = [(c * c).sum(1) - 2 * x @ c.T for x, c in zip(parts.swapaxes(0, 1), self.centres, strict=True)]
        return np.stack([distances.argmin(1) for distances in far], axis=1)


def fit_opq(vectors: np.ndarray, codes: int, bits: int) -> TextCodebooks:
    """Fit a rotation and M = `codes` books of K = 2^`bits` centres to vectors (N, V).

    faiss's "OPQ{M},IVF1,PQ{M}x{bits}" without the index. Raises ValueError for M that does not divide V and
    for fewer vectors than centres, ImportError where faiss is missing.
    """
    n, width = vectors.shape
    if width % codes:
        raise ValueError(
            f"vqrec.codes is {codes}, which does not divide the {width} numbers of a text vector; "
            f"expected one of {[m for m in range(1, width + 1) if width % m == 0]}"
        )
    if n < 2**bits:
        raise ValueError(
            f"vqrec.bits is {bits}, so that a code has {2**bits} values, but there are only {n} items; "
            f"set it to {int(np.log2(n))} or less"
        )
    faiss = _faiss()
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    rotation = faiss.OPQMatrix(width, codes)
    # The rotation is fitted for as many centres as the codes will have; it does not own its quantiser.
    of_rotation, quantizer = (faiss.ProductQuantizer(width, codes, bits) for _ in range(2))
    rotation.pq = of_rotation
    # faiss warns below 39 vectors a centre; small catalogues are like that.
    for clustering in (of_rotation.cp, quantizer.cp):
        clustering.min_points_per_centroid = 1
    # With fewer vectors than numbers in each, faiss 1.15 writes past its memory; repeated ones fit the same.
    rotation.train(np.tile(rows, (-(-width // n), 1)))
    matrix = faiss.vector_to_array(rotation.A).reshape(width, width)
    rotated = rows @ matrix.T
    mean = rotated.mean(axis=0)
    quantizer.train(np.ascontiguousarray(rotated - mean))
    centres = faiss.vector_to_array(quantizer.centroids).reshape(codes, 2**bits, width // codes)
    return TextCodebooks(matrix, mean, centres)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as missing:
        raise ImportError(_MISSING) from missing
    return faiss
