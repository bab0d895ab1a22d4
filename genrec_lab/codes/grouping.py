"""Grouping of equal rows of an integer matrix, and the error class of identifiers.

Shapes: N rows (items), C columns (domain and codes), G distinct rows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import polars as pl

IntArray = npt.NDArray[np.int64]


class CodesError(ValueError):
    """Raised if identifiers, their sizes, or the inputs of a conflict policy do not fit together."""


def row_ids(rows: npt.NDArray[np.integer]) -> IntArray:
    """Number the distinct rows from 0 in lexicographic order and give each row its number.

    `rows` is (N, C) with entries >= 0; the result is (N,) with values in 0..G-1.
    """
    spans = [int(largest) + 1 for largest in rows.max(axis=0, initial=0)]
    if math.prod(spans) < np.iinfo(np.int64).max:  # numbers are sorted much faster than rows
        keys = np.ravel_multi_index(tuple(rows.T), spans)
        return np.unique(keys, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def positions_within_groups(ids: IntArray) -> IntArray:
    """Count 0, 1, 2, … inside each group of equal ids, in row order; (N,) -> (N,)."""
    return pl.Series("id", ids).to_frame().select(pl.int_range(pl.len()).over("id")).to_series().to_numpy()


def members_of_groups(ids: IntArray, wanted: npt.NDArray[np.integer]) -> list[IntArray]:
    """List the rows of each wanted group, rows ascending, groups in order of their id.

    `ids` is (N,) with values 0..G-1, `wanted` holds the ids of the groups to list.
    """
    rows = np.flatnonzero(np.isin(ids, wanted))
    if rows.size == 0:
        return []
    rows = rows[np.argsort(ids[rows], kind="stable")]
    return list(np.split(rows, np.flatnonzero(np.diff(ids[rows])) + 1))


def shared_ids(ids: IntArray) -> IntArray:
    """Return the ids that several rows have, ascending; `ids` is (N,) with values 0..G-1."""
    return np.flatnonzero(np.bincount(ids) > 1)


def with_equals(
    identifiers: IntArray, representatives: IntArray, scores: npt.NDArray[np.float32] | None = None
) -> tuple[IntArray, npt.NDArray[np.float32]]:
    """Expand ranked identifiers (U, K), given by their lowest items, to ranked items (U, K) and scores.

    `representatives` (N,) holds the lowest item with each item's identifier. Items of one identifier follow
    each other, the lowest first. Rows are filled with -1 and -inf.
    """
    order = np.argsort(representatives, kind="stable")
    starts = np.searchsorted(representatives[order], np.arange(len(representatives) + 1))
    items = np.full(identifiers.shape, -1, dtype=np.int64)
    kept = np.full(identifiers.shape, -np.inf, dtype=np.float32)
    for user, row in enumerate(identifiers):
        groups = [order[starts[one] : starts[one + 1]] for one in row if one >= 0]
        members = np.concatenate(groups)[: len(row)] if groups else np.empty(0, dtype=np.int64)
        items[user, : len(members)] = members
        if scores is not None:
            of_items = np.repeat(scores[user, : len(groups)], [len(group) for group in groups])
            kept[user, : len(members)] = of_items[: len(members)]
    return items, kept
