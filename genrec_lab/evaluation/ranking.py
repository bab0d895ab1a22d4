"""Recall and NDCG of full rankings with one relevant item per user, and the table over domains.

Shapes: U users, K ranked items per user, N items. A row lists item indices, best first, filled with -1 if the
user's domain has fewer than K items.

Items that share an identifier have the same score, so the metrics are expected values over all orders of such
a group, computed by formula. Some published code counts a hit if the target's identifier is among the first k
identifiers; this optimistic count, which is at least as high, is also provided.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes.grouping import with_equals
from genrec_lab.data import NO_ITEM
from genrec_lab.registry import Registry

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

Metric = TypeVar("Metric", bound=Callable[..., Any])

AVERAGE = "average"
# The metrics with a formula: what a target at each rank, from 0, counts.
_GAINS: dict[str, Callable[[IntArray], npt.NDArray[Any]]] = {
    "recall": np.ones_like,
    "hit_rate": np.ones_like,
    "ndcg": lambda ranks: 1.0 / np.log2(ranks + 2.0),
    "mrr": lambda ranks: 1.0 / (ranks + 1.0),
}


class RankingError(ValueError):
    """Raised for rankings, targets or domains that are invalid or inconsistent."""


def recall_at_k(ranked: Any, target: npt.ArrayLike, k: int) -> float:
    """Return the share of users whose target is in their first k items; arguments as in `recall_per_user`.

    >>> recall_at_k([[4, 2], [1, 3]], [2, 5], k=2)
    0.5
    """
    return float(recall_per_user(ranked, target, k).mean())


def ndcg_at_k(ranked: Any, target: npt.ArrayLike, k: int) -> float:
    """Return the mean of `ndcg_per_user` over users, with the same arguments.

    >>> ndcg_at_k([[4, 2], [1, 3]], [1, 1], k=2)  # not found, and found first
    0.5
    """
    return float(ndcg_per_user(ranked, target, k).mean())


def recall_per_user(ranked: Any, target: npt.ArrayLike, k: int) -> FloatArray:
    """Return for each user whether the target is among the first k items: (U,) of 1.0 and 0.0.

    ranked: (U, K) item indices, an array or tensor, or anything with such an `.items`. target: (U,).
    Raises RankingError for k outside 1..K, a repeated item in a row, a -1 before an item, or unequal U.
    """
    return _gains(ranked, target, k, "recall")


def ndcg_per_user(ranked: Any, target: npt.ArrayLike, k: int) -> FloatArray:
    """Return 1 / log2(rank + 2), rank from 0, for each target among the first k, else 0: (U,).

    With one relevant item the ideal gain is 1, so this is NDCG (Järvelin and Kekäläinen, 2002).
    Arguments and errors as in `recall_per_user`.
    """
    return _gains(ranked, target, k, "ndcg")


def mrr_per_user(ranked: Any, target: npt.ArrayLike, k: int) -> FloatArray:
    """Return 1 / (rank + 1), rank from 0, for each target among the first k, else 0: (U,).

    Arguments and errors as in `recall_per_user`.
    """
    return _gains(ranked, target, k, "mrr")


@dataclass(frozen=True, eq=False)
class SharedRanking:
    """A ranking of identifiers, given by their lowest items, that can be used as a ranking of items.

    identifiers: (U, K), best first, filled with -1. representatives: (N,) the lowest item with each item's
    identifier.

    >>> ranking = SharedRanking(np.array([[4, 0]]), np.array([0, 0, 0, 3, 4]))
    >>> ranking.items.tolist(), metric_per_user("recall", ranking, [1], 2).tolist()  # 0, 1 or 2 is second
    ([[4, 0]], [0.3333333333333333])
    """

    identifiers: np.ndarray
    representatives: np.ndarray

    @property
    def items(self) -> np.ndarray:
        """Items (U, K): those of one identifier are adjacent, the lowest first."""
        return with_equals(self.identifiers, self.representatives)[0]

    def places(self, target: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each user the numbers of identifiers and items before the target's group, and its size.

        The first is -1 if the group is not ranked.
        """
        sizes = np.bincount(self.representatives, minlength=len(self.representatives))
        group = self.representatives[np.asarray(target)]
        hits = self.identifiers == group[:, None]
        first = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
        ranked = np.where(self.identifiers == NO_ITEM, 0, sizes[self.identifiers])
        before = np.concatenate([np.zeros((len(ranked), 1), dtype=np.int64), ranked.cumsum(axis=1)], axis=1)
        return first, before[np.arange(len(ranked)), np.maximum(first, 0)], sizes[group]

    def optimistic_recall(self, target: npt.ArrayLike, k: int) -> np.ndarray:
        """Return 1 if the target's identifier is among the first k identifiers, else 0: (U,)."""
        first = self.places(target)[0]
        return ((first >= 0) & (first < k)).astype(np.float64)


METRICS: Registry[Callable[..., Any]] = Registry(
    "metric",
    declared={
        "recall": "genrec_lab.evaluation.ranking:recall_per_user",
        "ndcg": "genrec_lab.evaluation.ranking:ndcg_per_user",
        "mrr": "genrec_lab.evaluation.ranking:mrr_per_user",
        "hit_rate": "genrec_lab.evaluation.ranking:recall_per_user",  # the same with one relevant item
        "coverage": "genrec_lab.evaluation.beyond:coverage",
        "gini": "genrec_lab.evaluation.beyond:gini",
        "novelty": "genrec_lab.evaluation.beyond:novelty",
        "diversity": "genrec_lab.evaluation.beyond:diversity",
    },
)


def register_metric(name: str) -> Callable[[Metric], Metric]:
    """Register the decorated function as a metric with the arguments ranked (U, K), target (U,) and k.

    It returns one number per user (U,), or one for all. With keyword-only parameters `items`, `popularity` or
    `vectors` (`genrec_lab.evaluation.beyond`), it is called for each domain separately.

    >>> @register_metric("hit_at_one")
    ... def hit_at_one(ranked, target, k):
    ...     return (np.asarray(ranked)[:, 0] == target).astype(float)
    """
    return METRICS.register(name)


def metric_per_user(name: str, ranked: Any, target: npt.ArrayLike, k: int, **facts: Any) -> FloatArray:
    """Return a metric, by name or `package.module:function`, for each user: (U,).

    For a `SharedRanking`, recall, hit rate, NDCG and MRR are expected values; any other metric gets the items
    of one identifier in ascending order. facts: the metric's other inputs (`metric_needs`). A single number
    is repeated for all users. Raises RankingError if your own metric returns another shape or values that are
    not finite.
    """
    if isinstance(ranked, SharedRanking) and name in _GAINS:
        return _expected(ranked, name, target, k)
    items = _checked_items(ranked)
    values = np.asarray(METRICS.find(name)(items, np.asarray(target), k, **facts))
    right = values.shape in ((), (len(items),)) and values.dtype.kind in "fiub"
    if not right or not np.isfinite(values).all():
        raise RankingError(
            f"metric {name!r} gave an array of shape {values.shape} and type {values.dtype}; expected "
            f"({len(items)},) finite numbers, one for each user, or one for all"
        )
    return np.broadcast_to(values.astype(np.float64), len(items))


def metric_needs(name: str) -> tuple[str, ...]:
    """Return a metric's other inputs besides the rankings: its keyword-only parameters."""
    parameters = inspect.signature(METRICS.find(name)).parameters.values()
    return tuple(one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY)


def metrics_table(
    ranked: Any,
    targets: npt.ArrayLike,
    domains: Iterable[str],
    ks: Sequence[int] = (5, 10),
    metrics: Sequence[str] = ("recall", "ndcg"),
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> pl.DataFrame:
    """Return metrics at each k by domain, then their user-weighted average as in GMC Table 3.

    domains: (U,) each user's domain. Columns domain, metric, k, value, users; domains in order of first
    appearance, "average" last. metrics: as in `metric_per_user`. facts: by domain, the metrics' other inputs
    (`metric_needs`). Other arguments and errors as in `recall_per_user`.

    >>> ranked, targets = [[4, 2], [1, 3], [5, 6]], [2, 1, 7]
    >>> table = metrics_table(ranked, targets, ["Garden", "Garden", "Studio"], ks=[2], metrics=["recall"])
    >>> table.select("domain", "value", "users").rows()
    [('Garden', 1.0, 2), ('Studio', 0.0, 1), ('average', 0.6666666666666666, 3)]
    """
    ranks = _ranks(ranked, targets, ks)
    names = np.array([str(domain) for domain in domains])
    if len(names) != len(ranks):
        raise RankingError(f"domains: {len(names)} values for {len(ranks)} users, expected one per user")
    if (names == AVERAGE).any():
        raise RankingError(f"domains: a domain is called {AVERAGE!r}, the name of the last rows; rename it")
    members = {name: names == name for name in dict.fromkeys(names.tolist())}
    items, wanted = _checked_items(ranked), np.asarray(targets)
    scores: dict[tuple[str, int], FloatArray] = {}
    for metric in metrics:
        needs = metric_needs(metric)
        for k in ks:
            if not needs:
                scores[metric, k] = metric_per_user(metric, ranked, wanted, k)
                continue
            values = scores[metric, k] = np.empty(len(items))
            for name, mask in members.items():
                known = (facts or {}).get(name, {})
                if lacking := [need for need in needs if known.get(need) is None]:
                    raise RankingError(
                        f"metric {metric!r} needs {lacking[0]} of {name}, and there are none; leave it out"
                    )
                given = {need: known[need] for need in needs}
                values[mask] = metric_per_user(metric, items[mask], wanted[mask], k, **given)
    table = [
        (name, metric, k, float(values[mask].mean()), int(mask.sum()))
        for name, mask in members.items()
        for (metric, k), values in scores.items()
    ]
    users = [int(mask.sum()) for mask in members.values()]
    for (metric, k), values in scores.items():
        of_domains = [float(values[mask].mean()) for mask in members.values()]
        table.append((AVERAGE, metric, k, user_weighted_average(of_domains, users), sum(users)))
    schema = {"domain": pl.String, "metric": pl.String, "k": pl.Int64, "value": pl.Float64, "users": pl.Int64}
    return pl.DataFrame(table, schema=schema, orient="row")


def user_weighted_average(values: Sequence[float], users: Sequence[int]) -> float:
    """Return the average of domains' values weighted by their numbers of users (GMC Table 3, AVERAGE)."""
    if len(values) != len(users) or sum(users) <= 0:
        raise RankingError(f"{len(values)} values for {len(users)} domains with {sum(users)} users in all")
    return float(np.average(np.asarray(values, dtype=np.float64), weights=np.asarray(users)))


def _expected(ranking: SharedRanking, metric: str, target: npt.ArrayLike, k: int) -> FloatArray:
    """Return the mean of a metric's gains over the ranks of the target's group, 0 from rank k on: (U,)."""
    first, before, size = ranking.places(target)
    gains = _GAINS[metric](np.arange(k)).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    within = sums[np.minimum(before + size, k)] - sums[np.minimum(before, k)]
    return np.where(first >= 0, within / size, 0.0)


def _gains(ranked: Any, target: npt.ArrayLike, k: int, metric: str) -> FloatArray:
    """Return each user's gain at the target's rank (from 0) if it is among the first k, else 0."""
    ranks = _ranks(ranked, target, (k,))
    found = (ranks >= 0) & (ranks < k)
    return np.where(found, _GAINS[metric](np.maximum(ranks, 0)), 0).astype(np.float64)


def _ranks(ranked: Any, target: npt.ArrayLike, ks: Sequence[int]) -> IntArray:
    """Return each target's rank from 0, -1 if it is not ranked; raises RankingError for an impossible k."""
    items = _checked_items(ranked)
    for k in ks:
        if not 1 <= k <= items.shape[1]:
            raise RankingError(
                f"k: {k}, expected 1 to {items.shape[1]}, the number of ranked items per user; rank more "
                "items"
            )
    targets = np.asarray(target)
    if targets.shape != (len(items),) or targets.dtype.kind not in "iu":
        raise RankingError(
            f"target: shape {targets.shape} of {targets.dtype}, expected ({len(items)},) item indices"
        )
    if targets.min() < 0:
        raise RankingError(
            f"target: {targets.min()} of user {int(targets.argmin())}, expected an item index of at least 0"
        )
    hits = items == targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)


def _checked_items(ranked: Any) -> IntArray:
    # `items` is a method of mappings, but an array of rankings.
    held = getattr(ranked, "items", None)
    items = np.asarray(ranked if held is None or callable(held) else held)
    if items.ndim != 2 or 0 in items.shape or items.dtype.kind not in "iu":
        raise RankingError(
            f"ranked: shape {items.shape} of {items.dtype}, expected (users, K) item indices with at least "
            "one of each"
        )
    items = items.astype(np.int64)
    filled = items == NO_ITEM
    misplaced = (items < NO_ITEM).any(axis=1) | (filled[:, :-1] & ~filled[:, 1:]).any(axis=1)
    if misplaced.any():
        user = int(misplaced.argmax())
        raise RankingError(
            f"ranked: the row of user {user} is {items[user].tolist()}; -1 may only fill the end of a row "
            "whose domain has fewer items, and no other index is negative"
        )
    in_order = np.sort(items, axis=1)
    repeated = ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] != NO_ITEM)).any(axis=1)
    if repeated.any():
        user = int(repeated.argmax())
        raise RankingError(
            f"ranked: an item is repeated in the row of user {user}, {items[user].tolist()} "
            f"({int(repeated.sum())} such rows); rank each item once"
        )
    return items
