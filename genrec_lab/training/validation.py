"""The validation that selects epochs: its users and metrics.

It does not use `genrec_lab.evaluation` on purpose: changing a metric there recomputes it from rankings, but
does not retrain models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.training.processes import rank_in_shares


def validation_metrics(ranked: np.ndarray, targets: np.ndarray, k: int = 10) -> dict[str, float]:
    """Return `recall@k` and `ndcg@k` of rankings (U, K), best first, for users with one target each (U,)."""
    hits = ranked[:, :k] == targets[:, None]
    found = hits.any(1)
    gains = np.where(found, 1.0 / np.log2(hits.argmax(1) + 2.0), 0.0)
    return {f"recall@{k}": float(found.astype(np.float64).mean()), f"ndcg@{k}": float(gains.mean())}


def validator(
    recommend: Callable[[pl.DataFrame], Any], users: pl.DataFrame, most: int | None, seed: int
) -> Callable[[], dict[str, float]]:
    """Return the function that `fit` calls after an epoch: Recall and NDCG at 10 of (sampled) users.

    `recommend(rows)` ranks 10 items for each row of `users`, which has user, domain, history and target;
    several processes split the users.
    """
    if most is not None and users.height > most:
        users = users.sample(most, seed=seed)
    targets = users["target"].to_numpy()
    return lambda: validation_metrics(rank_in_shares(recommend, users).items, targets)
