"""From reviews to 5-core sequences against the same in pandas: 10,000,000 generated reviews in a csv file.

Users and items follow power laws, as Amazon's do. Each run is a process of its own, which reads the file,
filters until every user and item has five reviews, and lists each user's items in the order of time. Only
that is timed, not the start of the process. Memory is the peak of what the process itself holds (anonymous
pages);
pages of the mapped file, which the system may drop at any time, are not counted for either. Sequences must
be identical, users in the order of their first review.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.measuring import MEGABYTE, Check, Comparison, Measured, Options, compare, held, main
from genrec_lab.data import k_core

CORE = 5
OURS, PEER = "genrec_lab", "pandas"


def write_reviews(file: Path, reviews: int, seed: int = 0) -> None:
    """Write so many reviews: columns user, item, rating and timestamp, ids of Amazon's length."""
    rng = np.random.default_rng(seed)
    users = np.minimum((rng.pareto(1.1, reviews) * reviews / 40).astype(np.int64), reviews)
    items = np.minimum(rng.zipf(1.2, reviews), max(reviews // 20, 10))
    numbers = pl.DataFrame({"user": users * 2_654_435_761 % 2**31, "item": items})
    texts = numbers.select(
        user=pl.format("A{}X", pl.col("user").cast(pl.String).str.zfill(12)),
        item=pl.format("B{}", pl.col("item").cast(pl.String).str.zfill(9)),
        rating=pl.lit(rng.integers(1, 6, reviews)),
        timestamp=pl.lit(rng.integers(1_300_000_000, 1_500_000_000, reviews)),
    )
    texts.write_csv(file)


def ours(file: Path) -> Iterable[tuple[str, list[str]]]:
    """Users and their items by polars and the package's k-core."""
    ids = pl.col("user", "item").cast(pl.Categorical)
    core = k_core(pl.scan_csv(file).select(ids, "timestamp"), CORE)
    in_time = core.lazy().sort("timestamp", maintain_order=True)
    lists = in_time.group_by("user", maintain_order=True).agg("item").collect()
    return lists.with_columns(
        pl.col("user").cast(pl.String), pl.col("item").cast(pl.List(pl.String))
    ).iter_rows()


def theirs(file: Path) -> Iterable[tuple[str, list[str]]]:
    """The same by pandas."""
    import pandas

    table = pandas.read_csv(file, usecols=["user", "item", "timestamp"])
    while True:
        of_user, of_item = (table[name].map(table[name].value_counts()) for name in ("user", "item"))
        kept = table[(of_user >= CORE) & (of_item >= CORE)]
        if len(kept) == len(table):
            break
        table = kept
    in_time = table.sort_values("timestamp", kind="stable")
    return in_time.groupby("user", sort=False)["item"].agg(list).items()


def watched(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the work returns and the peak of anonymous megabytes above those held before."""
    before, peak, over = held("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], held("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        over.set()
        watcher.join()
    return result, (max(peak[0], held("RssAnon")) - before) / MEGABYTE


def run_here(entrant: str, file: Path) -> None:
    """Run one entrant in this process and print its figures as JSON."""
    if entrant == PEER:
        import pandas  # noqa: F401 - before the clock starts

    wall, processor = time.perf_counter(), time.process_time()
    sequences, peak = watched(lambda: ours(file) if entrant == OURS else theirs(file))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    digest, users = hashlib.sha256(), 0
    for user, items in sequences:
        digest.update(f"{user} {' '.join(items)}\n".encode())
        users += 1
    print(json.dumps([digest.hexdigest(), users, wall, processor, peak]))


def measure(options: Options) -> list[Comparison]:
    """Both entrants, each run in a process of its own."""
    reviews = 20_000 if options.small else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reviews.csv"
        write_reviews(file, reviews)

        def in_child(entrant: str) -> Measured:
            command = [
                sys.executable,
                "-m",
                "benchmarks.preparation",
                "--entrant",
                entrant,
                "--file",
                str(file),
            ]
            answer = subprocess.run(
                command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False
            )
            if answer.returncode:
                raise RuntimeError(f"{entrant} failed:\n{answer.stderr}")
            digest, users, wall, processor, peak = json.loads(answer.stdout)
            return Measured(np.array([digest, str(users)]), wall, processor, peak)

        def agree(results: Mapping[str, Any]) -> Iterator[Check]:
            (one, users), (other, others) = results[OURS].tolist(), results[PEER].tolist()
            yield Check(
                f"sequences of {users} and {others} users, hashes {one[:8]} and {other[:8]}", one == other
            )

        compared = compare(
            f"Preparation: {reviews:,} reviews to {CORE}-core sequences",
            {OURS: lambda: in_child(OURS), PEER: lambda: in_child(PEER)},
            agree,
            options,
            unit="reviews",
            amount=reviews,
            peer=PEER,
            targets={OURS: 10.0},
        )
    ours_peak, peer_peak = (compared.timings[name].peak_megabytes or 0.0 for name in (OURS, PEER))
    compared.notes["share of the peer's memory (target below 0.25)"] = ours_peak / max(peer_peak, 1e-9)
    return [compared]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--entrant", choices=[OURS, PEER])
    parser.add_argument("--file", type=Path)
    known, others = parser.parse_known_args()
    if known.entrant:
        run_here(known.entrant, known.file)
        sys.exit(0)
    sys.exit(main(measure, others))
