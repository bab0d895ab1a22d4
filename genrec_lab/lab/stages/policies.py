"""All conflict policies on the same codes, to see what each one costs before choosing one."""

from __future__ import annotations

import polars as pl

from genrec_lab.codes import CONFLICT_POLICIES
from genrec_lab.lab.stages.tokenizing import Identified
from genrec_lab.lab.store import Run


def compare_policies(run: Run, own: Identified) -> pl.DataFrame:
    """What each conflict policy would make of a tokenizer's codes, a row a policy.

    Frame `policy, moved, cost, displaced, unsolved, levels, vocabulary, collision_rate`: the first four as
    `Resolution` has them, the others of the identifiers afterwards. Sinkhorn's settings are the run's.
    """
    codebooks = own.last_codewords
    rows = []
    for policy in CONFLICT_POLICIES:
        config = run.config.identifiers.model_copy(update={"policy": policy, "options": {}})
        found = own.raw.resolve_with_cost(config, own.residuals, codebooks, run.seed)
        rows.append({
            "policy": policy, "moved": found.moved, "cost": float(found.cost), "displaced": found.displaced,
            "unsolved": found.unsolved, "levels": found.codes.levels,
            "vocabulary": found.codes.vocabulary_size, "collision_rate": found.codes.collision_rate(),
        })  # fmt: skip
    return pl.DataFrame(rows)
