"""The validation that chooses epochs: the users that are ranked, and what is measured.

It does not call `genrec_lab.evaluation`, on purpose: a metric that is changed there is computed anew from
rankings, and no model is trained anew for it.
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
    """Return what `fit` calls after an epoch: Recall and NDCG at 10 over (a seeded sample of) the users.

    `recommend(rows)` ranks 10 items for each row of `users`, which has user, domain, history and target;
    several processes rank a share each.
    """
    if most is not None and users.height > most:
        users = users.sample(most, seed=seed)
    targets = users["target"].to_numpy()
    return lambda: validation_metrics(rank_in_shares(recommend, users).items, targets)
