"""Paired tests on per-user metrics, to decide whether one model or row of a run is better than another.

Shapes: U users; both models' values are (U,), in the same order of users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.evaluation.ranking import SharedRanking, metric_per_user

FloatArray = npt.NDArray[np.float64]

# Resampled counts that are held at a time: 32 MB.
_LARGEST_BATCH = 4_000_000


class SignificanceError(ValueError):
    """Raised for values that cannot be compared by user."""


@dataclass(frozen=True)
class PairedResult:
    """A paired comparison of two models, a and b.

    test: its name. difference: mean of a - mean of b. low, high: the confidence interval of the difference.
    p_value: two-sided, for a difference of zero. statistic: of the test (for the bootstrap, the standard
    error). users: the number of pairs. confidence: the interval's coverage.
    """

    test: str
    difference: float
    low: float
    high: float
    p_value: float
    statistic: float
    users: int
    confidence: float


@dataclass(frozen=True)
class RankTest:
    """Wilcoxon's signed-rank test of two models: statistic, two-sided p_value, users, and unequal pairs."""

    statistic: float
    p_value: float
    unequal: int
    users: int


def paired_bootstrap(
    a: npt.ArrayLike, b: npt.ArrayLike, seed: int = 0, samples: int = 10_000, confidence: float = 0.95
) -> PairedResult:
    """Compute the mean difference on users resampled with replacement (percentile bootstrap).

    The p-value is twice the smaller share of samples on either side of zero, including zero and with one
    sample added, so that it is below 1 - confidence if the interval excludes zero. Raises SignificanceError.

    >>> hits, others = [1, 1, 0, 1, 1, 1, 0, 1], [0, 1, 0, 0, 1, 0, 0, 1]
    >>> result = paired_bootstrap(hits, others)
    >>> result.difference, result.low, result.high
    (0.375, 0.125, 0.75)
    """
    differences = _differences(a, b, confidence)
    if samples < 100:
        raise SignificanceError(f"samples: {samples}, expected at least 100 for an interval")
    # Ranking metrics have few distinct values, so users with equal differences are drawn together:
    # multinomial counts of the distinct values have the same distribution as drawing users individually.
    values, counts = np.unique(differences, return_counts=True)
    users = len(differences)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    per_batch = max(1, _LARGEST_BATCH // len(values))
    for start in range(0, samples, per_batch):
        size = min(per_batch, samples - start)
        drawn = generator.multinomial(users, counts / users, size=size)
        means[start : start + size] = drawn @ values / users
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    # Equal gains and losses cancel only up to rounding; such a sample counts on both sides.
    rounding = 1e-12 * float(np.abs(values).max())
    smaller_side = min(int((means <= rounding).sum()), int((means >= -rounding).sum()))
    return PairedResult(
        test="paired bootstrap",
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * (smaller_side + 1) / (samples + 1)),
        statistic=float(means.std(ddof=1)),
        users=users,
        confidence=confidence,
    )


def paired_t_test(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> PairedResult:
    """Run Student's t-test on the users' differences, with a confidence interval.

    If all differences are equal, p is 1 for zero and 0 otherwise. Raises SignificanceError.
    """
    from scipy import stats  # slow to import, and rarely used

    differences = _differences(a, b, confidence)
    users = len(differences)
    mean = float(differences.mean())
    # Subtracting a rounded mean from equal values would leave a spurious variance.
    spread = 0.0 if np.ptp(differences) == 0 else float(differences.std(ddof=1))
    error = spread / np.sqrt(users)
    if error == 0:
        statistic = 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
    else:
        statistic = mean / error
    margin = float(stats.t.ppf((1 + confidence) / 2, users - 1)) * error
    return PairedResult(
        test="paired t-test",
        difference=mean,
        low=mean - margin,
        high=mean + margin,
        p_value=float(2 * stats.t.sf(abs(statistic), users - 1)),
        statistic=statistic,
        users=users,
        confidence=confidence,
    )


def paired_wilcoxon(a: npt.ArrayLike, b: npt.ArrayLike) -> RankTest:
    """Run Wilcoxon's signed-rank test without equal pairs; p is 1 if all pairs are equal."""
    from scipy import stats

    differences = _differences(a, b, confidence=0.95)
    unequal = differences[differences != 0]
    if unequal.size == 0:
        return RankTest(0.0, 1.0, 0, len(differences))
    statistic, p_value = stats.wilcoxon(unequal)
    return RankTest(float(statistic), float(p_value), len(unequal), len(differences))


@dataclass(frozen=True)
class Rankings:
    """The recommendations of a run's rows to the same test users."""

    users: pl.DataFrame  # user, domain, history, target: the test part
    items: dict[str, np.ndarray]  # (U, 10) item indices by row
    scores: dict[str, np.ndarray]  # (U, 10)
    shared: dict[str, SharedRanking] = field(default_factory=dict)  # for rows whose items share identifiers


def differences_to_rows(
    rankings: Rankings, method: str, metric: str = "ndcg", k: int = 10, seed: int = 0
) -> pl.DataFrame:
    """Return the method minus each other row over all test users, largest difference first.

    Frame `name, difference, low, high, p_value, t_test, users`; low, high, p_value: the 95 % interval and p
    of a paired bootstrap over users; t_test: p of the paired t-test, which papers report. Empty if the method
    is the only row.
    """
    own = per_user(rankings, method, metric, k)
    others = [name for name in rankings.items if name != method]
    return _tested({name: own - per_user(rankings, name, metric, k) for name in others}, seed)


def differences_by_domain(
    rankings: Rankings, method: str, other: str, metric: str = "ndcg", k: int = 10, seed: int = 0
) -> pl.DataFrame:
    """Return the method minus one other row by domain, like `differences_to_rows`, with domains as `name`.

    A domain with fewer than two test users has no interval and is left out.
    """
    difference = per_user(rankings, method, metric, k) - per_user(rankings, other, metric, k)
    domains = rankings.users["domain"].to_numpy()
    members = {str(name): difference[domains == name] for name in dict.fromkeys(domains.tolist())}
    return _tested({name: values for name, values in members.items() if len(values) > 1}, seed)


def strongest_other(rankings: Rankings, method: str, metric: str = "ndcg", k: int = 10) -> str | None:
    """Return the other row with the highest mean over all test users; None if there is none."""
    others = [name for name in rankings.items if name != method]
    return max(others, key=lambda name: float(per_user(rankings, name, metric, k).mean()), default=None)


def per_user(rankings: Rankings, method: str, metric: str, k: int) -> FloatArray:
    """Return a row's metric, "ndcg" or "recall", for each test user."""
    ranked = rankings.shared.get(method, rankings.items[method])
    return metric_per_user(metric, ranked, rankings.users["target"].to_numpy(), k)


def _tested(of_users: Mapping[str, FloatArray], seed: int) -> pl.DataFrame:
    rows = []
    for name, differences in of_users.items():
        nothing = np.zeros_like(differences)
        result = paired_bootstrap(differences, nothing, seed=seed)
        kept = {part: getattr(result, part) for part in ("difference", "low", "high", "p_value", "users")}
        rows.append({"name": name, **kept, "t_test": paired_t_test(differences, nothing).p_value})
    numbers = dict.fromkeys(("difference", "low", "high", "p_value", "t_test"), pl.Float64)
    schema = {"name": pl.String, **numbers, "users": pl.Int64}
    return pl.DataFrame(rows, schema=schema).sort("difference", descending=True)


def _differences(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float) -> FloatArray:
    first = np.asarray(a, dtype=np.float64)
    second = np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise SignificanceError(
            f"values of shapes {first.shape} and {second.shape}, expected one value per user for the same "
            "users"
        )
    if len(first) < 2:
        raise SignificanceError(f"{len(first)} users, expected at least 2 to compare")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise SignificanceError("NaN or infinity among the values, expected finite metrics of each user")
    if not 0 < confidence < 1:
        raise SignificanceError(f"confidence: {confidence}, expected between 0 and 1")
    return first - second
