"""A tokenizer's training as a table by epoch, and when its codes settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl


def training_frame(
    epochs: Mapping[str, Sequence[Mapping[str, Any]]], sizes: Mapping[str, Sequence[int]] | Sequence[int]
) -> pl.DataFrame:
    """The epochs that a run recorded: a row a scope, epoch and level; empty where it recorded none.

    epochs: by scope ("all", or a domain each) records with `epoch`, and where they have them `utilisation`
    and `perplexity` (a value a level), `collision_rate`, `loss`, `churn` (a value a level, share of items
    whose code changed since the record before). sizes: codes a level, alike for all scopes or by scope.
    Columns `scope, epoch, level` (from 1), `utilisation, perplexity, dead, churn, collision_rate, loss`;
    what a record lacks is null.
    """
    rows: list[dict[str, Any]] = []
    for scope, records in epochs.items():
        of_scope = sizes[scope] if isinstance(sizes, Mapping) else sizes
        for record in records:
            for level, size in enumerate(of_scope):
                used = _of_level(record, "utilisation", level)
                rows.append(
                    {
                        "scope": scope,
                        "epoch": int(record["epoch"]),
                        "level": level + 1,
                        "utilisation": used,
                        "perplexity": _of_level(record, "perplexity", level),
                        "dead": None if used is None else round(size * (1 - used)),
                        "churn": _of_level(record, "churn", level),
                        "collision_rate": record.get("collision_rate"),
                        "loss": record.get("loss"),
                    }
                )
    whole = dict.fromkeys(("epoch", "level"), pl.Int64)
    numbers = dict.fromkeys(("utilisation", "perplexity"), pl.Float64)
    rest = {"dead": pl.Int64, "churn": pl.Float64, "collision_rate": pl.Float64, "loss": pl.Float64}
    return pl.DataFrame(rows, schema={"scope": pl.String, **whole, **numbers, **rest})


def settled(frame: pl.DataFrame, share: float = 0.95) -> int | None:
    """The first epoch from which the least utilised level keeps at least `share` of its final utilisation.

    frame: of `training_frame`. None where nothing was recorded.
    """
    known = frame.drop_nulls("utilisation")
    if known.is_empty():
        return None
    by_epoch = known.group_by("epoch").agg(pl.col("utilisation").min()).sort("epoch")
    values, epochs = by_epoch["utilisation"].to_numpy(), by_epoch["epoch"].to_list()
    below = np.flatnonzero(values < share * values[-1])
    return int(epochs[0] if below.size == 0 else epochs[int(below[-1]) + 1])


def _of_level(record: Mapping[str, Any], name: str, level: int) -> float | None:
    values = record.get(name)
    if not isinstance(values, Sequence) or level >= len(values) or values[level] is None:
        return None
    return float(values[level])
