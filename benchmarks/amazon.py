"""Seconds and peak memory from 10,000,000 raw reviews to sequences: `python -m benchmarks.amazon`.

Reviews and metadata are made up in the 2023 format, gzip JSON lines, as skewed as Amazon's: half of the
reviews come from users with a single one, items follow a power law, one review in fifty is repeated, one item
in fifty has no title. `--small` makes 20,000 of them, to see that it works. The reader runs in a process of
its own, whose peak of resident memory is the figure; what it returned is checked against the rules of a
5-core. Exits with 1 where memory passes 4 GB.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from benchmarks.measuring import MEGABYTE, Check, Comparison, Measured, Options, compare, main
from genrec_lab.data import load_dataset

REVIEWS, SMALL, PIECE, LIMIT_MEGABYTES = 10_000_000, 20_000, 500_000, 4_000.0
OURS, CATEGORY = "genrec_lab", "Musical_Instruments"
WORDS = (
    "warm",
    "strings",
    "sound",
    "the",
    "tuner",
    "is",
    "bright",
    "after",
    "years",
    "of",
    "use",
    "and",
    "case",
)


def write_reviews(folder: Path, reviews: int, seed: int = 0) -> None:
    """Write `Musical_Instruments.jsonl.gz` and its metadata into `folder`."""
    rng = np.random.default_rng(seed)
    items, regulars = max(reviews // 40, 50), max(reviews // 16, 20)
    texts = pl.Series([" ".join(rng.choice(WORDS, int(rng.integers(10, 60)))) for _ in range(5_000)])
    with gzip.open(folder / f"{CATEGORY}.jsonl.gz", "wb", compresslevel=1) as file:
        for start in range(0, reviews, PIECE):
            count = min(PIECE, reviews - start)
            single = rng.random(count) < 0.5
            user = np.where(single, regulars + start + np.arange(count), rng.integers(0, regulars, count))
            item = (items * rng.random(count) ** 3).astype(np.int64)
            # One in fifty says again what the row before it said.
            again = np.flatnonzero(rng.random(count) < 0.02)
            again = again[again > 0]
            user[again], item[again] = user[again - 1], item[again - 1]
            piece = pl.DataFrame({"user": user, "parent": item}).select(
                rating=pl.Series(rng.integers(1, 6, count).astype(np.float64)),
                title=pl.lit("Good"),
                text=texts.gather(rng.integers(0, len(texts), count)),
                images=pl.lit([], dtype=pl.List(pl.String)),
                asin=pl.format("B{}", pl.col("parent").cast(pl.String).str.zfill(9)),
                parent_asin=pl.format("B{}", pl.col("parent").cast(pl.String).str.zfill(9)),
                user_id=pl.format("AE{}", pl.col("user").cast(pl.String).str.zfill(26)),
                timestamp=pl.Series(rng.integers(1_300_000_000_000, 1_690_000_000_000, count)),
                helpful_vote=pl.lit(0),
                verified_purchase=pl.lit(True),
            )
            lines = io.BytesIO()
            piece.write_ndjson(lines)
            file.write(lines.getvalue())
    with gzip.open(folder / f"meta_{CATEGORY}.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as file:
        for number in range(items):
            features = [f"Feature {number % 97}", "Warm tone for stage and studio"]
            described = {
                "main_category": "Musical Instruments",
                "title": "" if number % 50 == 7 else f"Steel strings number {number}",
                "features": features,
                "description": ["Made of steel."],
                "images": [
                    {"thumb": "https://x/t.jpg", "large": f"https://x/{number}.jpg", "variant": "MAIN"}
                ],
                "store": "Oak",
                "categories": ["Musical Instruments", "Guitars", f"Strings {number % 13}"],
                "details": {"Package": {"Weight": number}},
                "parent_asin": f"B{number:09d}",
            }
            file.write(json.dumps(described) + "\n")


def run_here(folder: Path) -> None:
    """Read `folder` in this process and print its figures as JSON."""
    wall, processor = time.perf_counter(), time.process_time()
    dataset = load_dataset("amazon2023", folder=folder)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    lengths = dataset.sequences["items"].list.len()
    traffic = dataset.sequences["items"].explode().value_counts()["count"]
    least = [int(cast(int, lengths.min())), int(cast(int, traffic.min()))]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE
    counts = [dataset.n_users, dataset.n_items, dataset.n_interactions]
    print(json.dumps([dataset.fingerprint(), counts, least, wall, processor, peak]))


def measure(options: Options) -> list[Comparison]:
    """The reader, each run in a process of its own."""
    reviews = SMALL if options.small else REVIEWS
    with tempfile.TemporaryDirectory() as folder:
        write_reviews(Path(folder), reviews)

        def in_child() -> Measured:
            environment = {**os.environ, "POLARS_MAX_THREADS": os.environ.get("POLARS_MAX_THREADS", "2")}
            command = [sys.executable, "-m", "benchmarks.amazon", "--folder", folder]
            answer = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                cwd=Path(__file__).parents[1],
                check=False,
            )
            if answer.returncode:
                raise RuntimeError(f"the reader failed:\n{answer.stderr}")
            *found, wall, processor, peak = json.loads(answer.stdout)
            return Measured((*found, peak), wall, processor, peak)

        def agree(results: Mapping[str, Any]) -> Iterator[Check]:
            fingerprint, (users, items, interactions), least, peak = results[OURS]
            counted = f"{users:,} users, {items:,} items, {interactions:,} interactions"
            yield Check(f"{counted}: each user and item has 5 or more", min(least) >= 5)
            yield Check(
                "every run gives the same data set",
                fingerprints.setdefault("first", fingerprint) == fingerprint,
            )
            yield Check(f"memory stays below {LIMIT_MEGABYTES:,.0f} MB", peak < LIMIT_MEGABYTES)

        fingerprints: dict[str, str] = {}
        work = f"Amazon 2023: {reviews:,} raw reviews to 5-core sequences"
        return [compare(work, {OURS: in_child}, agree, options, unit="reviews", amount=reviews)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--folder", type=Path)
    known, others = parser.parse_known_args()
    if known.folder:
        run_here(known.folder)
        sys.exit(0)
    sys.exit(main(measure, others))
