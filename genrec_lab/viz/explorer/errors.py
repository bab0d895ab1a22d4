"""What a recommender gets wrong, in codes: at which level it loses the target, and which codes it confuses.

From the lists of recommended items alone. Shapes: U users with K recommended items, N items, L levels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes import ItemCodes, row_ids

IntArray = npt.NDArray[np.int64]


def outcomes(codes: ItemCodes, recommended: npt.ArrayLike, targets: npt.ArrayLike) -> pl.DataFrame:
    """How each user's list ends, a row a user.

    recommended: (U, K) items, best first, -1 past the end. targets: (U,). Frame `row, target, rank` (place of
    the target, from 1, null for a miss), `hit`, `lost` (the first level, from 1, at which no recommended item
    has the target's codes up to there; null where one has them all), `twins` (other items of the target's
    domain with its identifier).
    """
    lists, wanted = _checked(codes, recommended, targets)
    hits = lists == wanted[:, None]
    rank = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    # The longest prefix of the target's codes that any recommended item has.
    deepest = _common(codes, lists, wanted).max(axis=1, initial=0)
    ids = row_ids(np.column_stack([codes.domain_index, codes.codes]))
    frame = pl.DataFrame({
        "row": np.arange(len(wanted)), "target": wanted, "rank": rank, "hit": rank > 0,
        "lost": deepest + 1, "twins": np.bincount(ids)[ids[wanted]] - 1,
    })  # fmt: skip
    whole = pl.col("lost") > codes.levels
    return frame.with_columns(
        rank=pl.when(pl.col("rank") > 0).then("rank"), lost=pl.when(~whole).then("lost")
    )


def lost_levels(found: pl.DataFrame, levels: int) -> pl.DataFrame:
    """How many users lose the target at each level; found: of `outcomes`.

    Frame `level` (from 1), `reached` (users who still have it before this level), `lost`, `share` (of those
    who reached it, null where nobody did). Who keeps it to the end may still miss it: see `twins`.
    """
    lost = found["lost"].drop_nulls().to_numpy()
    counts = np.bincount(lost, minlength=levels + 1)[1:]
    reached = found.height - np.concatenate([[0], np.cumsum(counts)[:-1]])
    share = np.divide(counts, reached, out=np.full(levels, np.nan), where=reached > 0)
    frame = {"level": np.arange(1, levels + 1), "reached": reached, "lost": counts, "share": share}
    return pl.DataFrame(frame).with_columns(pl.col("share").fill_nan(None))


def confusions(
    codes: ItemCodes, recommended: npt.ArrayLike, targets: npt.ArrayLike, level: int
) -> pl.DataFrame:
    """Which code of a level (0-based) stands first where another is right.

    Of the users whose first recommendation has the target's codes before this level: frame `target,
    predicted, users, share` (of the users of the target's code), `expected` (users if predictions did not
    depend on the target), `lift`, most users first. Rows with equal codes are the right ones.
    """
    lists, wanted = _checked(codes, recommended, targets)
    if not 0 <= level < codes.levels:
        raise ValueError(f"level: {level}, expected 0..{codes.levels - 1}")
    first = lists[:, 0] if lists.shape[1] else np.full(len(lists), -1)
    rows = np.flatnonzero(first >= 0)
    rows = rows[(codes.codes[first[rows], :level] == codes.codes[wanted[rows], :level]).all(axis=1)]
    pairs = pl.DataFrame({
        "target": codes.codes[wanted[rows], level], "predicted": codes.codes[first[rows], level],
    })  # fmt: skip
    counted = pairs.group_by("target", "predicted").agg(users=pl.len().cast(pl.Int64))
    of_target, of_predicted = (pl.col("users").sum().over(name) for name in ("target", "predicted"))
    return (
        counted.with_columns(
            share=pl.col("users") / of_target, expected=of_target * of_predicted / max(len(rows), 1)
        )
        .with_columns(lift=pl.col("users") / pl.col("expected"))
        .sort("users", "target", "predicted", descending=[True, False, False])
    )


def _checked(
    codes: ItemCodes, recommended: npt.ArrayLike, targets: npt.ArrayLike
) -> tuple[IntArray, IntArray]:
    lists, wanted = np.asarray(recommended, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    if lists.ndim != 2 or wanted.shape != lists.shape[:1]:
        raise ValueError(
            f"recommended: shape {lists.shape} for targets of {wanted.shape}; expected (U, K) and (U,)"
        )
    for name, items in (("recommended", lists[lists >= 0]), ("targets", wanted)):
        if items.size and not (items.min() >= 0 and items.max() < codes.n_items):
            raise ValueError(f"{name}: items {items.min()}..{items.max()}, expected 0..{codes.n_items - 1}")
    return lists, wanted


def _common(codes: ItemCodes, lists: IntArray, wanted: IntArray) -> IntArray:
    """(U, K) how many codes from the first on each recommended item has in common with the target."""
    length = np.zeros(lists.shape, dtype=np.int64)
    alike = lists >= 0
    for level in range(codes.levels):
        column = codes.codes[:, level]
        alike = alike & (column[lists] == column[wanted][:, None])
        length += alike
    return length
