"""The floor and the ceiling of a run's results, both known before anything is trained."""

from __future__ import annotations

import numpy as np
import polars as pl

from genrec_lab.bazaar import best_possible
from genrec_lab.bazaar.oracle import MAX_ORACLE_ITEMS
from genrec_lab.evaluation import metrics_table
from genrec_lab.lab.stages.evaluating import BEST_POSSIBLE
from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.stages.recommending import popularity_of
from genrec_lab.lab.stages.training import part_of
from genrec_lab.lab.store import Run

_KS = (5, 10)


def floor_and_ceiling(run: Run, users: int = 2_000) -> pl.DataFrame:
    """What popularity reaches on validation users and, on Bazaar, what the best ranking can expect there.

    Frame `method, domain, metric, k, value, users`. At most `users` of them, a seeded sample. The methods are
    "popularity" and, where the generator is known and has at most 100,000 items, "best possible", whose
    values are expectations over the generator's chance.
    """
    data = load_prepared(run)
    valid = data.split.valid
    if valid.height > users:
        valid = valid.sample(users, seed=run.seed).sort("user")
    items = np.empty((valid.height, max(_KS)), dtype=np.int64)
    for (domain,), rows in valid.with_row_index("row").group_by("domain", maintain_order=True):
        histories = part_of(valid, (str(domain),))["history"].to_list()
        items[rows["row"].to_numpy()] = popularity_of(data, str(domain)).recommend(histories, max(_KS)).items
    known = [_named("popularity", metrics_table(items, valid["target"], valid["domain"], _KS))]
    if run.dataset["name"] == "bazaar" and data.dataset.n_items <= MAX_ORACLE_ITEMS:
        expected = best_possible(run.dataset, valid, _KS).metrics
        known.append(_named(BEST_POSSIBLE, expected.rename({"expected": "value"}).drop("realised")))
    return pl.concat(known)


def _named(method: str, metrics: pl.DataFrame) -> pl.DataFrame:
    return metrics.select(
        pl.lit(method).alias("method"), "domain", "metric", "k", "value", pl.col("users").cast(pl.Int64)
    )
