"""Faults of a codebook, the settings that affect them, and the effects of these settings in existing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import yaml

from genrec_lab.codes import CodeHealth
from genrec_lab.data.whole_files import whole_file
from genrec_lab.viz.text import counted, percent

DEAD, COLLAPSED, COLLIDING, UNBALANCED = "dead codes", "collapse", "collisions", "unbalanced levels"
_UNSET = "unset"
EXPORTS = Path("exports")
"""Where in a run's folder the explorer writes run files."""
_MOST_DEAD, _LEAST_EVEN, _MOST_COLLIDING, _MOST_APART = 0.05, 0.5, 0.01, 2.0


class Diagnosis(NamedTuple):
    """A fault of a codebook: its kind, its level (from 1; None for all levels) and its value."""

    problem: str
    level: int | None
    said: str


class Remedy(NamedTuple):
    """A setting of a run file that affects a fault: values to try, and why."""

    setting: str
    values: tuple[Any, ...]
    why: str


REMEDIES: dict[str, tuple[Remedy, ...]] = {
    DEAD: (
        Remedy("tokenizer.restart_dead_codes", (True,), "gives an unused codeword the place of a residual"),
        Remedy("tokenizer.kmeans_init", (True,), "starts every codeword among the items"),
        Remedy("tokenizer.codebook_size", (64, 128), "asks for no more codes than the items fill"),
    ),
    COLLAPSED: (
        Remedy("tokenizer.kmeans_init", (True,), "starts the codewords apart"),
        Remedy("tokenizer.beta", (0.1, 0.5), "weighs how hard vectors are pulled to their codeword"),
        Remedy("tokenizer.learning_rate", (1e-4, 3e-4), "lets the codewords follow the encoder"),
    ),
    COLLIDING: (
        Remedy("tokenizer.levels", (4, 5), "another level separates what is left"),
        Remedy("tokenizer.codebook_size", (256, 512), "more codes a level"),
        Remedy("identifiers.policy", ("nearest_free", "extra_level"), "separates them after training"),
        Remedy("tokenizer.contrastive_weight", (0.0, 0.1), "the contrast of domains competes with detail"),
    ),
    UNBALANCED: (
        Remedy("tokenizer.levels", (2, 3), "a level that separates nothing can go"),
        Remedy("tokenizer.kind", ("pq",), "sub-vectors share the variance among the levels"),
        Remedy("tokenizer.kmeans_init", (True,), "later levels start on real residuals"),
    ),
}  # fmt: skip
"""By fault, the settings that act on it."""


def diagnose(health: CodeHealth, sizes: Sequence[int]) -> list[Diagnosis]:
    """Return the faults of a codebook with their values; may be empty.

    Dead codes: more than 5 % of a level. Collapse: if used evenly, less than half of the used codes would be
    enough (perplexity / used). Collisions: more than 1 % of the items share their identifier. Unbalanced
    levels: the relative use (perplexity / size) of one level is more than twice that of another.
    """
    found = []
    for level, size in enumerate(sizes):
        dead, used, even = health.dead[level], health.used[level], health.perplexity[level]
        if dead > _MOST_DEAD * size:
            found.append(Diagnosis(DEAD, level + 1, f"{dead:,} of {counted(size, 'code')} have no item"))
        if even < _LEAST_EVEN * used:
            said = f"{counted(used, 'code')} in use do the work of {even:.1f} in even use"
            found.append(Diagnosis(COLLAPSED, level + 1, said))
    if health.collision_rate > _MOST_COLLIDING:
        said = f"{percent(health.collision_rate)} of the items share their identifier with another"
        found.append(Diagnosis(COLLIDING, None, said))
    shares = [even / size for even, size in zip(health.perplexity, sizes, strict=True)]
    least, most = min(shares), max(shares)
    if most > _MOST_APART * least:
        low, high = shares.index(least) + 1, shares.index(most) + 1
        said = f"level {low} uses its codes like {percent(least)} of them in even use, level {high} like "
        found.append(Diagnosis(UNBALANCED, low, said + percent(most)))
    return found


def effects(runs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, float]]]) -> pl.DataFrame:
    """Return the effect of each setting, from every pair of runs that differ only in this setting.

    runs: by name, the settings (flat, "tokenizer.levels": 4) and the measures ("collisions", "NDCG@10").
    Frame `setting, before, after` (as text), `run_before, run_after, measure, value_before, value_after,
    change`, in the order of the runs. A setting that one run lacks counts as a difference, shown as "unset".
    """
    rows = []
    for (first, (one, measured)), (second, (other, later)) in combinations(runs.items(), 2):
        apart = [name for name in {**one, **other} if one.get(name, _UNSET) != other.get(name, _UNSET)]
        if len(apart) != 1:
            continue
        texts = [str(each.get(apart[0], _UNSET)) for each in (one, other)]
        for measure in (name for name in measured if name in later):
            values = (float(measured[measure]), float(later[measure]))
            rows.append((apart[0], *texts, first, second, measure, *values, values[1] - values[0]))
    schema = dict.fromkeys(("setting", "before", "after", "run_before", "run_after", "measure"), pl.String)
    numbers = dict.fromkeys(("value_before", "value_after", "change"), pl.Float64)
    return pl.DataFrame(rows, schema={**schema, **numbers}, orient="row")


def remedy_table(
    found: Sequence[Diagnosis], tried: pl.DataFrame, settings: Mapping[str, Any] | None = None
) -> pl.DataFrame:
    """Return the settings that affect each fault, and their effects in runs that tried them.

    found: from `diagnose`. tried: from `effects`. settings: of this run; remedies that are already set, or
    that this tokenizer does not have, are left out. Frame `problem, level, said, setting, try, why, seen`;
    `seen` lists the changes of measures ("NDCG@10 +0.0012 (3 to 4)"), or is null.
    """
    rows = []
    for one in found:
        for setting, values, why in REMEDIES[one.problem]:
            if settings is not None:
                values = tuple(value for value in values if settings.get(setting, value) != value)
            if values:
                seen = [
                    f"{row['measure']} {row['change']:+.4g} ({row['before']} to {row['after']})"
                    for row in tried.filter(pl.col("setting") == setting).iter_rows(named=True)
                ]
                rows.append((*one, setting, " or ".join(map(str, values)), why, "; ".join(seen) or None))
    texts = dict.fromkeys(("said", "setting", "try", "why", "seen"), pl.String)
    return pl.DataFrame(rows, schema={"problem": pl.String, "level": pl.Int64, **texts}, orient="row")


def write_variant(run: Mapping[str, Any], setting: str, value: Any, folder: Path) -> Path:
    """Write a run file with one setting changed and a new name, and return its path."""
    short = f"{setting.rsplit('.', 1)[-1]}-{value}".replace("_", "-").lower()
    name = f"{run['run']}-{short}"
    changed = {**run, "run": name, "overrides": {**(run.get("overrides") or {}), setting: value}}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    with whole_file(file) as partial:
        text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
        partial.write_text(f"# {run['run']} with {setting} = {value}\n{text}", encoding="utf-8")
    return file
