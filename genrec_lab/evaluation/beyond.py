"""Metrics of rankings besides hits: catalogue coverage, inequality, novelty and diversity.

Shapes: U users of one domain, K ranked items per user (filled with -1), N items of all domains, n of this
one. Keyword arguments are further inputs: `items` (n,) the domain's item indices, `popularity` (N,) the
interactions of the training part, `vectors` (N, D) of the items' texts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from genrec_lab.data import NO_ITEM

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def coverage(ranked: IntArray, target: IntArray, k: int, *, items: IntArray) -> float:
    """Return the share of the domain's items that are among the first k of any user."""
    return float((_exposure(ranked, k, items) > 0).mean())


def gini(ranked: IntArray, target: IntArray, k: int, *, items: IntArray) -> float:
    """Return the Gini coefficient of the items' counts among the first k: 0 equal, near 1 very unequal.

    G = sum_i (2 i - n - 1) x_i / (n sum_i x_i), x ascending, i from 1 (Shani and Gunawardana, 2011, 8.3.10).
    """
    shown = np.sort(_exposure(ranked, k, items))
    n = len(shown)
    return float((2 * np.arange(1, n + 1) - n - 1) @ shown / (n * max(int(shown.sum()), 1)))


def novelty(
    ranked: IntArray, target: IntArray, k: int, *, items: IntArray, popularity: npt.ArrayLike
) -> FloatArray:
    """Return each user's mean self-information, -log2 p, of the first k items, in bits (Zhou et al., 2010).

    p is an item's share of the domain's training interactions, with one added to each item, so that unseen
    items are finite.
    """
    counts = np.asarray(popularity, dtype=np.float64) + 1
    bits = -np.log2(counts / counts[items].sum())
    first = ranked[:, :k]
    filled = first != NO_ITEM
    return np.where(filled, bits[first], 0.0).sum(axis=1) / np.maximum(filled.sum(axis=1), 1)


def diversity(ranked: IntArray, target: IntArray, k: int, *, vectors: npt.ArrayLike) -> FloatArray:
    """Return each user's mean of 1 - cosine over all pairs of the first k items' vectors.

    Intra-list diversity (Ziegler et al., 2005); 0 for fewer than two items.
    """
    table = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    table = table / np.where(norms == 0, 1.0, norms)
    first = ranked[:, :k]
    filled = first != NO_ITEM
    # sum over pairs of <v_i, v_j> = (|sum v|^2 - sum |v|^2) / 2
    chosen = table[first] * filled[..., None]
    together = (chosen.sum(axis=1) ** 2).sum(axis=1) - (chosen**2).sum(axis=(1, 2))
    pairs = filled.sum(axis=1) * (filled.sum(axis=1) - 1)
    return np.where(pairs > 0, 1 - together / np.maximum(pairs, 1), 0.0)


def _exposure(ranked: IntArray, k: int, items: IntArray) -> IntArray:
    """Return how often each of the domain's items is among the first k, (n,)."""
    first = ranked[:, :k]
    counts = np.bincount(first[first != NO_ITEM], minlength=int(items.max()) + 1)
    return counts[items].astype(np.int64)
