"""Recommendations of several rows to the same users, and tests whether one row is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.evaluation.ranking import metric_per_user
from genrec_lab.evaluation.shared_identifiers import SharedRanking
from genrec_lab.evaluation.significance import paired_bootstrap, paired_t_test


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
    return _differences({name: own - per_user(rankings, name, metric, k) for name in others}, seed)


def differences_by_domain(
    rankings: Rankings, method: str, other: str, metric: str = "ndcg", k: int = 10, seed: int = 0
) -> pl.DataFrame:
    """Return the method minus one other row by domain, like `differences_to_rows`, with domains as `name`.

    A domain with fewer than two test users has no interval and is left out.
    """
    difference = per_user(rankings, method, metric, k) - per_user(rankings, other, metric, k)
    domains = rankings.users["domain"].to_numpy()
    members = {str(name): difference[domains == name] for name in dict.fromkeys(domains.tolist())}
    return _differences({name: values for name, values in members.items() if len(values) > 1}, seed)


def strongest_other(rankings: Rankings, method: str, metric: str = "ndcg", k: int = 10) -> str | None:
    """Return the other row with the highest mean over all test users; None if there is none."""
    others = [name for name in rankings.items if name != method]
    return max(others, key=lambda name: float(per_user(rankings, name, metric, k).mean()), default=None)


def per_user(rankings: Rankings, method: str, metric: str, k: int) -> npt.NDArray[np.float64]:
    """Return a row's metric, "ndcg" or "recall", for each test user."""
    ranked = rankings.shared.get(method, rankings.items[method])
    return metric_per_user(metric, ranked, rankings.users["target"].to_numpy(), k)


def _differences(of_users: Mapping[str, npt.NDArray[np.float64]], seed: int) -> pl.DataFrame:
    rows = []
    for name, differences in of_users.items():
        nothing = np.zeros_like(differences)
        result = paired_bootstrap(differences, nothing, seed=seed)
        kept = {field: getattr(result, field) for field in ("difference", "low", "high", "p_value", "users")}
        rows.append({"name": name, **kept, "t_test": paired_t_test(differences, nothing).p_value})
    numbers = dict.fromkeys(("difference", "low", "high", "p_value", "t_test"), pl.Float64)
    schema = {"name": pl.String, **numbers, "users": pl.Int64}
    return pl.DataFrame(rows, schema=schema).sort("difference", descending=True)
