"""How long the recommenders take to reach a quality on Amazon "Scientific": T5, T5 in one pass, causal.

Each is trained once with Muon over so many epochs, on the same identifiers, and ranks the same validation
users after every second epoch. Printed is the time of training at which each first reaches the best
validation NDCG@10 of the T5 that reads whole histories. Validation takes no part in the time.
The runs follow one another, because one takes many minutes: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from benchmarks.measuring import RESULTS
from benchmarks.training import HISTORY, codes_of, scientific
from genrec_lab.data import leave_one_out
from genrec_lab.data.batches import PairBatches, StretchBatches
from genrec_lab.evaluation import ndcg_at_k
from genrec_lab.models import T5Config
from genrec_lab.models.recommenders.base import RECOMMENDERS
from genrec_lab.models.recommenders.causal import CausalConfig
from genrec_lab.training import Callback, EpochRecord, TrainingConfig, autocast, fit

# Batch (pairs, or sequences) and Muon's step: the best of each that were tried (docs/benchmarks.md).
STEPS = {"T5": (256, 1e-3), "T5, one pass": (512, 1e-3), "causal": (256, 2e-3)}


def entrants(small: bool) -> dict[str, T5Config | CausalConfig]:
    """The models that are compared, of about the same number of parameters."""
    if small:
        tiny = {"d_model": 32, "d_kv": 8, "heads": 2, "d_ff": 64}
        t5 = T5Config(**tiny, encoder_layers=1, decoder_layers=1)
        causal = CausalConfig(**tiny, layers=1)
    else:
        t5 = T5Config(d_model=192, d_kv=64, heads=6, d_ff=1536, encoder_layers=2, decoder_layers=2)
        causal = CausalConfig(d_model=192, d_kv=64, heads=6, d_ff=1536, layers=3)
    return {"T5": t5, "T5, one pass": t5.model_copy(update={"reads": "past"}), "causal": causal}


class Clock(Callback):
    """Keeps the seconds of training, without validation, at which each quality was measured."""

    def __init__(self, name: str, samples: int) -> None:
        self.name, self.samples, self.seconds = name, samples, 0.0
        self.points: list[tuple[float, float]] = []  # seconds of training, NDCG@10

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Add the epoch's own seconds: its samples over its rate."""
        self.seconds += self.samples / record.samples_per_second
        if record.metrics:
            self.points.append((self.seconds, record.metrics["ndcg@10"]))
            print(
                f"{self.name:14} epoch {record.epoch:3}/{epochs}  {self.seconds:7.0f} s  "
                f"NDCG@10 {record.metrics['ndcg@10']:.4f}",
                flush=True,
            )

    def reached(self, quality: float) -> float | None:
        """The seconds at which a quality was first measured, None where it never was."""
        return next((seconds for seconds, value in self.points if value >= quality), None)


def run(epochs: int, users: int, small: bool) -> dict[str, Clock]:
    """Train every entrant; return what each was worth when."""
    dataset = scientific(small)
    split, codes = leave_one_out(dataset, HISTORY), codes_of(dataset, small)
    valid = split.valid.sample(min(users, split.valid.height), seed=0)
    histories, targets = valid["history"].to_list(), valid["target"].to_numpy()
    sequences = [items[:-2] for items in dataset.sequences["items"].to_list()]
    clocks = {}
    for name, sizes in entrants(small).items():
        torch.manual_seed(0)
        model = RECOMMENDERS.find(sizes.kind)(codes, sizes)
        one_pass = sizes.learns_in_one_pass
        size, rate = STEPS[name]
        batches: Any = (
            StretchBatches(sequences, size, HISTORY) if one_pass else PairBatches(split.train, size)
        )
        config = TrainingConfig(
            epochs=epochs,
            batch_size=batches.batch_size,
            optimizer="muon",
            learning_rate=rate,
            validate_every=2,
        )

        def validate(model: Any = model) -> dict[str, float]:
            with autocast(torch.device("cpu"), "auto"):
                ranked = model.recommend(histories, 10, beams=10)
            return {"ndcg@10": ndcg_at_k(ranked, targets, 10)}

        clocks[name] = Clock(name, batches.samples)
        fit(model, batches, config, validate=validate, callbacks=[clocks[name]])
    return clocks


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print the times to the T5's best quality, write the curves."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_quality")
    parser.add_argument("--small", action="store_true", help="Bazaar and two epochs: shows that it works")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--users", type=int, default=2000, help="validation users")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for torch (all)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results' JSON")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    clocks = run(2 if given.small else given.epochs, given.users, given.small)
    best = max(value for _, value in clocks["T5"].points)
    base = clocks["T5"].reached(best) or 0.0
    rows = pl.DataFrame(
        {
            "model": list(clocks),
            "best NDCG@10": [max(value for _, value in clock.points) for clock in clocks.values()],
            "seconds to the T5's best": [clock.reached(best) for clock in clocks.values()],
            "share of the T5's time": [
                None if (seconds := clock.reached(best)) is None else seconds / base
                for clock in clocks.values()
            ],
        }
    )
    print(f"\nThe T5's best is {best:.4f}, after {base:.0f} s of training.\n{rows}")
    content = {
        "threads": given.threads,
        "rows": rows.to_dicts(),
        "curves": {name: clock.points for name, clock in clocks.items()},
    }
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"time_to_quality{'_small' if given.small else ''}.json"
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
