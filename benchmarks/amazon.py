"""Seconds and peak memory from 10,000,000 raw reviews to sequences: `python -m benchmarks.amazon`.

Reviews and metadata are made up in the 2023 format, gzip JSON lines, as skewed as Amazon's: half of the
reviews come from users with a single one, items follow a power law, one review in fifty is repeated, one item
in fifty has no title. `--small` makes 200,000 of them, to see that it works. The reader runs in a process of
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
from pathlib import Path

import numpy as np
import polars as pl

from genrec_lab.data import load_dataset

REVIEWS, SMALL, LIMIT_GB, CATEGORY, PIECE = 10_000_000, 200_000, 4.0, "Musical_Instruments", 500_000
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
_READ = "from benchmarks.amazon import read; import sys; read(sys.argv[1])"


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


def read(folder: str) -> None:
    """Read `folder` in this process and print its figures as JSON."""
    began = time.perf_counter()
    dataset = load_dataset("amazon2023", folder=folder)
    seconds = time.perf_counter() - began
    lengths = dataset.sequences["items"].list.len()
    traffic = dataset.sequences["items"].explode().value_counts()["count"]
    assert lengths.min() >= 5 and traffic.min() >= 5  # type: ignore[operator]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    counts = {"users": dataset.n_users, "items": dataset.n_items, "interactions": dataset.n_interactions}
    print(json.dumps({"seconds": seconds, "peak_gb": peak, **counts, "repairs": dataset.repairs}))


def main() -> int:
    """Make the files, read them, print a line; 1 where memory passes the limit."""
    parser = argparse.ArgumentParser(description="Read made-up Amazon reviews: seconds and peak memory.")
    parser.add_argument("--reviews", type=int, default=REVIEWS)
    parser.add_argument("--small", action="store_true", help=f"{SMALL:,} reviews")
    options = parser.parse_args()
    reviews = SMALL if options.small else options.reviews
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_reviews(Path(folder), reviews)
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**30
        print(
            f"{reviews:,} reviews made up in {time.perf_counter() - began:.0f} s, {size:.2f} GB", flush=True
        )
        environment = {**os.environ, "POLARS_MAX_THREADS": os.environ.get("POLARS_MAX_THREADS", "2")}
        done = subprocess.run(
            [sys.executable, "-c", _READ, folder], env=environment, check=True, capture_output=True, text=True
        )
    found = json.loads(done.stdout)
    print(
        f"read in {found['seconds']:.0f} s with {environment['POLARS_MAX_THREADS']} threads, peak "
        f"{found['peak_gb']:.2f} GB: {found['users']:,} users, {found['items']:,} items, "
        f"{found['interactions']:,} interactions\n  {found['repairs']}"
    )
    return int(found["peak_gb"] > LIMIT_GB)


if __name__ == "__main__":
    sys.exit(main())
