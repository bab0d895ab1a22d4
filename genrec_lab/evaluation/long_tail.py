"""Metrics by the target's popularity, to measure the long tail (UTGRec 3.4.3, Figure 4).

Popularity is a target's number of interactions in the training part. UTGRec's groups are 20 interactions
wide, up to 100. Here, groups have about equal numbers of test users, because on small data most targets would
be in the first group. Targets that are not in the training part are a separate group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl


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
