"""Metrics of rankings besides hits: coverage, inequality, novelty, diversity, and the long tail.

Shapes: U users of one domain, K ranked items per user (filled with -1), N items of all domains, n of this
one. Keyword arguments are further inputs: `items` (n,) the domain's item indices, `popularity` (N,) the
interactions of the training part, `vectors` (N, D) of the items' texts.

The long tail (UTGRec 3.4.3, Figure 4) is any metric by the popularity of the user's target. UTGRec's groups
are 20 interactions wide, up to 100. Here, groups have about equal numbers of test users, because on small
data most targets would be in the first group. Targets that are not in the training part are a separate group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes.health import gini_of
from genrec_lab.data import NO_ITEM

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def coverage(ranked: IntArray, target: IntArray, k: int, *, items: IntArray) -> float:
    """Return the share of the domain's items that are among the first k of any user."""
    return float((_exposure(ranked, k, items) > 0).mean())


def gini(ranked: IntArray, target: IntArray, k: int, *, items: IntArray) -> float:
    """Return the Gini coefficient of the items' counts among the first k: 0 equal, near 1 very unequal.

    As in Shani and Gunawardana (2011), 8.3.10.
    """
    return gini_of(_exposure(ranked, k, items))


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


def popularity_edges(popularity: npt.ArrayLike, groups: int = 5) -> tuple[int, ...]:
    """Return the largest popularity of each group, ascending, so that groups have similar numbers of users.

    0 is an edge if it occurs. There are fewer groups if many targets are equally popular.
    """
    counts = np.sort(np.asarray(popularity, dtype=np.int64))
    if not len(counts):
        raise ValueError("popularity: no users; expected the target's interactions of at least one")
    seen = counts[counts > 0]
    parts = [] if not len(seen) else np.array_split(seen, min(groups, len(seen)))
    edges = {int(part[-1]) for part in parts} | ({0} if counts[0] == 0 else set())
    return tuple(sorted(edges))


def metric_by_popularity(
    values: Mapping[str, npt.ArrayLike], popularity: npt.ArrayLike, edges: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return the mean of each row's metric (users,) by group of the target's popularity (users,).

    `edges` are the largest popularity of each group, ascending, by default `popularity_edges`; values beyond
    the last edge form another group. Frame `group, low, high, users, row, value`: a group's name, lowest and
    highest popularity, for each row and non-empty group. Raises ValueError if the edges do not ascend or the
    numbers of values and users differ.
    """
    counts = np.asarray(popularity, dtype=np.int64)
    bounds = list(popularity_edges(counts) if edges is None else edges)
    if any(low >= high for low, high in pairwise(bounds)) or not bounds:
        raise ValueError(f"edges are {bounds}; expected one or more numbers, each larger than the last")
    if counts.max() > bounds[-1]:
        bounds.append(int(counts.max()))
    place = np.searchsorted(bounds, counts)
    lines = []
    for number, (low, high) in enumerate(pairwise([int(counts.min()) - 1, *bounds])):
        chosen = place == number
        if not chosen.any():
            continue
        for row, of_users in values.items():
            metric = np.asarray(of_users, dtype=np.float64)
            if metric.shape != counts.shape:
                raise ValueError(
                    f"{row} has {metric.shape} values, expected one for each of {len(counts)} users"
                )
            name = f"{low + 1:,} to {high:,}" if low + 1 < high else f"{high:,}"
            users, mean = int(chosen.sum()), float(metric[chosen].mean())
            lines.append((name, low + 1, high, users, row, mean))
    schema = {"group": pl.String, "low": pl.Int64, "high": pl.Int64, "users": pl.Int64, "row": pl.String}
    return pl.DataFrame(lines, schema={**schema, "value": pl.Float64}, orient="row")


def _exposure(ranked: IntArray, k: int, items: IntArray) -> IntArray:
    """Return how often each of the domain's items is among the first k, (n,)."""
    first = ranked[:, :k]
    counts = np.bincount(first[first != NO_ITEM], minlength=int(items.max()) + 1)
    return counts[items].astype(np.int64)
