"""Where the items of a code went: between two tokenizers, or two epochs of one, corrected for chance.

Shapes: n items that both have, K and J codes of a level before and after.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import gammaln

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

KEPT, MERGED, SPLIT, MOVED = "kept", "merged", "split", "moved"
_SPREAD, _TAIL = 8.0, 8


class Overlap(NamedTuple):
    """Companions kept, among items that had company in either partition.

    items: how many had. kept: common companions over companions in either, summed over items; NaN without
    any. chance: the same if the groups after were given to the items by lot. corrected: 0 at chance, 1 where
    all company is kept; NaN where chance keeps all.
    """

    items: int
    kept: float
    chance: float
    corrected: float


def flows(before: npt.ArrayLike, after: npt.ArrayLike) -> pl.DataFrame:
    """The items that went from one code to another, most first.

    before, after: (n,) codes of the same items. Frame `code_a, code_b, items, share_a` (of the items of a),
    `share_b`, `expected` (items if codes had been given by lot), `lift` (items over expected).
    """
    codes_a, codes_b, items, size_a, size_b = _pairs(before, after)
    expected = size_a * size_b / max(len(np.asarray(before)), 1)
    order = np.lexsort((codes_b, codes_a, -items))
    columns: dict[str, npt.NDArray[np.generic]] = {"code_a": codes_a, "code_b": codes_b, "items": items}
    columns |= {"share_a": items / size_a, "share_b": items / size_b}
    columns |= {"expected": expected, "lift": items / expected}
    return pl.DataFrame({name: values[order] for name, values in columns.items()})


def fates(before: npt.ArrayLike, after: npt.ArrayLike) -> pl.DataFrame:
    """What became of each code that had items, by which code has at least half of whose items.

    "kept": half of its items are in one code, and half of that code's are from it. "merged": half of its
    items are in one code, which is mostly of other items. "split": no code has half of them, but codes that
    are at least half made of them have half together. "moved": all else, its items are among many others.
    Frame `code_a, items, fate, code_b` (where most went, the lower of two), `share` (of its items there),
    `pieces` (codes that are at least half made of its items), most items first.
    """
    half_a, half_b = pl.col("share_a") >= 0.5, pl.col("share_b") >= 0.5
    made_of_it = (pl.when(half_b).then(pl.col("share_a")).otherwise(0.0)).sum()
    return (
        flows(before, after)
        .group_by("code_a", maintain_order=True)
        .agg(
            pl.col("items").sum(),
            pl.col("code_b").first(),
            share=pl.col("share_a").first(),
            pieces=half_b.sum().cast(pl.Int64),
            kept=(half_a & half_b).any(),
            merged=half_a.any(),
            split=made_of_it >= 0.5 - 1e-12,
        )
        .with_columns(
            fate=pl.when("kept").then(pl.lit(KEPT)).when("merged").then(pl.lit(MERGED))
            .when("split").then(pl.lit(SPLIT)).otherwise(pl.lit(MOVED))
        )
        .select("code_a", "items", "fate", "code_b", "share", "pieces")
        .sort(pl.col("items"), pl.col("code_a"), descending=[True, False])
    )  # fmt: skip


def company_kept(with_a: IntArray, with_b: IntArray, both: IntArray) -> Overlap:
    """The overlap of companions from each item's number in a, in b and in both, (n,) each.

    By lot, n items would have sum(a) sum(b) / (n (n - 1)) companions in common: the expectation over all
    permutations of the groups of b.
    """
    count = len(with_a)
    had = with_a + with_b > 0
    total_a, total_b, common = int(with_a.sum()), int(with_b.sum()), int(both.sum())
    if not had.any():
        return Overlap(0, float("nan"), float("nan"), float("nan"))
    expected = total_a * total_b / (count * (count - 1))
    kept, chance = (one / (total_a + total_b - one) for one in (common, expected))
    corrected = (kept - chance) / (1 - chance) if chance < 1 else float("nan")
    return Overlap(int(had.sum()), kept, chance, corrected)


def adjusted_mutual(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Adjusted mutual information of two partitions (n,), over the mean of the entropies (Vinh et al. 2010).

    0 on average for unrelated ones whatever their sizes, 1 for equal ones; 1 too where both are trivial in
    the same way. As scikit-learn's, in a hundredth of its time at 100,000 items.
    """
    _, _, items, size_a, size_b = _pairs(before, after)
    n = int(items.sum())
    rows = np.unique(np.asarray(before), return_counts=True)[1]
    columns = np.unique(np.asarray(after), return_counts=True)[1]
    if len(rows) == len(columns) in (1, n):
        return 1.0
    entropies = [float(-(part / n * np.log(part / n)).sum()) for part in (rows, columns)]
    shared = items / n
    information = float((shared * np.log(items * n / (size_a * size_b))).sum())
    expected = _expected_information(rows, columns, n)
    most = sum(entropies) / 2
    # As scikit-learn does, where nothing is left to explain.
    space = most - expected
    space = min(space, -np.finfo(float).eps) if space < 0 else max(space, np.finfo(float).eps)
    return float((information - expected) / space)


def _pairs(
    before: npt.ArrayLike, after: npt.ArrayLike
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Pairs of codes with common items: the two codes, their common items, and the items of each."""
    one, other = np.asarray(before, dtype=np.int64), np.asarray(after, dtype=np.int64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(
            f"codes of shapes {one.shape} and {other.shape}; expected (n,) twice, of the same items"
        )
    width = int(other.max(initial=0)) + 1
    found, items = np.unique(one * width + other, return_counts=True)
    codes_a, codes_b = found // width, found % width
    size_a, size_b = (
        np.bincount(one)[codes_a] if one.size else items,
        np.bincount(other)[codes_b] if one.size else items,
    )
    return codes_a, codes_b, items, size_a, size_b


def _expected_information(rows: IntArray, columns: IntArray, n: int) -> float:
    """The mutual information of partitions with these sizes if one were dealt out by lot (hypergeometric).

    Equal sizes are counted once, and of each cell only the counts within 8 deviations and 8 of its mean.
    """
    size_a, times_a = np.unique(rows, return_counts=True)
    size_b, times_b = np.unique(columns, return_counts=True)
    a, b = (part.reshape(-1) for part in np.meshgrid(size_a, size_b, indexing="ij"))
    times = np.outer(times_a, times_b).reshape(-1)
    mean = a * b / n
    reach = _SPREAD * np.sqrt(mean * (1 - a / n) * (1 - b / n) * n / max(n - 1, 1)) + _TAIL
    low = np.maximum(np.floor(mean - reach).astype(np.int64), np.maximum(1, a + b - n))
    high = np.minimum(np.ceil(mean + reach).astype(np.int64), np.minimum(a, b))
    lengths = np.maximum(high - low + 1, 0)
    cell = np.repeat(np.arange(len(a)), lengths)
    count = np.arange(len(cell)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + low[cell]
    logs = gammaln(np.arange(n + 1) + 1.0)
    fixed = logs[a] + logs[b] + logs[n - a] + logs[n - b] - logs[n]
    of_count = logs[count] + logs[a[cell] - count] + logs[b[cell] - count]
    chance = np.exp(fixed[cell] - of_count - logs[n - a[cell] - b[cell] + count])
    information = count / n * (np.log(count) - np.log(mean)[cell])
    return float((times[cell] * chance * information).sum())
