"""One user's beam as a tree: the prefixes kept level by level, and where the target left it.

Shapes: M beams, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True, eq=False)
class BeamTree:
    """What a beam search kept, as a tree, beside the way of the target.

    nodes: frame `level` (from 1), `prefix` (written "12 4"), `parent`, `code`, `rank` (from 1),
    `log_probability` of the prefix, `step` (what its last code added), `survives` (whether a prefix of the
    next level grows from it; true at the last), `on_target`, `example` (the title of an item below, if
    given). left_at: the first level (from 1) at which no
    beam holds the target's prefix; None where it stayed to the end. target: its codes. missed_by: how much
    its log-probability was below the last one kept there, None where it stayed or is not known. steps: the
    target's log-probability after each level, where known. history, target_item, results: item indices,
    oldest and best first, where the search was of items.
    """

    nodes: pl.DataFrame
    target: tuple[int, ...]
    left_at: int | None
    missed_by: float | None
    steps: tuple[float, ...] | None
    history: tuple[int, ...] = ()
    target_item: int | None = None
    results: tuple[int, ...] = ()

    @property
    def rank(self) -> int | None:
        """The place of the target among the beams at the end, from 1; None where it left."""
        last = self.nodes.filter((pl.col("level") == len(self.target)) & pl.col("on_target"))
        return int(last["rank"][0]) if last.height else None

    def told(self) -> str:
        """The way of the target in a sentence."""
        if self.left_at is None:
            return f"The target stays in the beam and ends at place {self.rank}"
        width = self.nodes.filter(pl.col("level") == self.left_at).height
        text = f"The target leaves the beam at level {self.left_at} of {len(self.target)}"
        if self.missed_by is None:
            return text
        return f"{text}: {self.missed_by:.2f} below the last of {width} kept"


def beam_tree(
    prefixes: Sequence[Sequence[Sequence[int]]],
    log_probabilities: Sequence[Sequence[float]],
    target: Sequence[int],
    target_log_probabilities: Sequence[float] | None = None,
    examples: Mapping[tuple[int, ...], str] | None = None,
) -> BeamTree:
    """Build the tree from what a beam search kept: for each level l the prefixes of l + 1 codes.

    log_probabilities: of those prefixes, in the same order. target: (L,) codes. target_log_probabilities:
    (L,) of the target's own prefixes. examples: titles by prefix. Raises ValueError where lengths
    do not fit or a parent was not kept.
    """
    wanted = tuple(int(code) for code in target)
    if not prefixes or len(prefixes) != len(wanted) or len(prefixes) != len(log_probabilities):
        raise ValueError(
            f"prefixes: {len(prefixes)} levels with {len(log_probabilities)} of log-probabilities for a "
            f"target of {len(wanted)} codes; expected as many of each"
        )
    before: dict[tuple[int, ...], float] = {(): 0.0}
    rows, left_at, missed_by = [], None, None
    for level, (kept, scores) in enumerate(zip(prefixes, log_probabilities, strict=True)):
        now = {
            tuple(int(code) for code in prefix): float(score)
            for prefix, score in zip(kept, scores, strict=True)
        }
        for prefix in now:
            if len(prefix) != level + 1 or prefix[:-1] not in before:
                raise ValueError(
                    f"prefixes: {list(prefix)} at level {level + 1}; expected {level + 1} codes that go on "
                    "from a prefix kept before"
                )
        grow = (
            {tuple(int(code) for code in prefix[:-1]) for prefix in prefixes[level + 1]}
            if level + 1 < len(prefixes)
            else set(now)
        )
        ordered = sorted(now, key=lambda prefix: (-now[prefix], prefix))
        for rank, prefix in enumerate(ordered, start=1):
            step = now[prefix] - before[prefix[:-1]]
            on_target = prefix == wanted[: level + 1]
            row = (level + 1, _text(prefix), _text(prefix[:-1]), prefix[-1], rank)
            example = (examples or {}).get(prefix)
            rows.append((*row, now[prefix], step, prefix in grow, on_target, example))
        if left_at is None and wanted[: level + 1] not in now:
            left_at = level + 1
            if target_log_probabilities is not None and now:
                missed_by = float(min(now.values()) - target_log_probabilities[level])
        before = now
    schema = {
        "level": pl.Int64,
        "prefix": pl.String,
        "parent": pl.String,
        "code": pl.Int64,
        "rank": pl.Int64,
        "log_probability": pl.Float64,
        "step": pl.Float64,
        "survives": pl.Boolean,
        "on_target": pl.Boolean,
        "example": pl.String,
    }
    steps = None
    if target_log_probabilities is not None:
        steps = tuple(float(np.float64(value)) for value in target_log_probabilities)
    return BeamTree(pl.DataFrame(rows, schema=schema, orient="row"), wanted, left_at, missed_by, steps)


def _text(prefix: tuple[int, ...]) -> str:
    return " ".join(str(code) for code in prefix)
