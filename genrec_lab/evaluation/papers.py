"""Compares the papers' published results with results measured here on the same data.

`paper_results.csv` holds GMC's Table 3 and UTGRec's Table 2 as printed, with the users of each data set from
their Tables 2 and 1. Data sets count as the same if name and number of users are equal. `paper_ablations.csv`
holds GMC's Table 4 and UTGRec's Table 3 as printed, under our row names.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import polars as pl

# Rows whose names differ from the papers'; case, hyphens and underscores are ignored.
_ALIASES = {"tigermultimodal": "tigerm"}
# Presets with other sizes are the same method: gmc_cpu, utgrec_small.
_SIZES = ("cpu", "small", "tiny", "code")
_KEYS = ("name", "users", "metric", "k")


@cache
def paper_results(name: str = "paper_results.csv") -> pl.DataFrame:
    """Return the papers' results: frame `paper, table, domain, users, row, metric, k, value`."""
    return pl.read_csv(files("genrec_lab.evaluation").joinpath(name).read_bytes())


@cache
def paper_ablations() -> pl.DataFrame:
    """Return the papers' ablation results.

    Frame `paper, table, domain, row, metric, k, value, change`: the change in percent relative to the full
    method, negative if removing the part hurts.
    """
    whole = pl.col("value").first().over("paper", "domain", "metric", "k")  # the first of each group
    return paper_results("paper_ablations.csv").with_columns(change=100 * (pl.col("value") / whole - 1))


def beside_papers(metrics: pl.DataFrame) -> pl.DataFrame:
    """Join measured results with the papers' results on the same data.

    `metrics` has the columns `method, domain, metric, k, value, users`; several seeds are averaged. Frame
    `paper, domain, method, metric, k, ours, theirs, difference`: difference in percent of theirs, in the
    order of the paper's table. Empty if no paper has the data.
    """
    ours = (
        _named(metrics.filter(pl.col("k").is_not_null()))
        .with_columns(key=pl.col("method").map_elements(_key, return_dtype=pl.String))
        .group_by(*_KEYS, "domain", "method", "key")
        .agg(ours=pl.col("value").mean())
    )
    theirs = (
        _named(paper_results())
        .with_columns(key=pl.col("row").map_elements(_key, return_dtype=pl.String))
        .with_row_index("place")
        .rename({"value": "theirs"})
        .drop("domain")
    )
    return (
        theirs.join(ours, on=[*_KEYS, "key"], how="inner")
        .sort("place", "method")
        .with_columns(difference=100 * (pl.col("ours") / pl.col("theirs") - 1))
        .select(
            pl.concat_str("paper", "table", separator=" ").alias("paper"),
            *("domain", "method", "metric", "k", "ours", "theirs", "difference"),
        )
    )


def other_data(metrics: pl.DataFrame) -> list[str]:
    """Return a sentence for each domain with the name of a paper's data set but other users."""
    measured = _named(metrics).select("name", "domain", "users").drop_nulls().unique(maintain_order=True)
    printed = _named(paper_results()).select("paper", "name", "users").unique(maintain_order=True)
    pairs = measured.join(printed, on="name", suffix="_theirs")
    unlike = pairs.filter(pl.col("users") != pl.col("users_theirs"))
    return [
        f"{row['domain']} has {row['users']:,} users here and {row['users_theirs']:,} in the table of "
        f"{row['paper']}: these are other data, so the numbers cannot be compared."
        for row in unlike.iter_rows(named=True)
    ]


def _named(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(name=pl.col("domain").str.to_lowercase(), k=pl.col("k").cast(pl.Int64))


def _key(row: str) -> str:
    """Return a normalised row name: equal for "S3-Rec" and "s3_rec", and for "GMC" and "gmc_cpu"."""
    words = [word for word in re.split(r"[^a-z0-9]+", row.lower()) if word]
    while len(words) > 1 and words[-1] in _SIZES:
        words.pop()
    key = "".join(words)
    return _ALIASES.get(key, key)
