"""A training step on a quiet and on a busy machine, with and without the thread policy of genrec_lab.

Threads that spin while they wait for one another take a core from whatever runs beside them, and wait long
where one of them lost its core. `OMP_WAIT_POLICY=PASSIVE`, which importing genrec_lab sets, lets them sleep.
Each entrant trains in a process of its own, for torch reads the policy when it is loaded; the busy machine
has one more process, which only counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measuring import Check, Comparison, Measured, Options, compare, main

OURS, PEER = "genrec_lab, then torch", "torch without a policy"
STEPS, SMALL = 60, 3
COUNTING = "while True: pass"


def train_here(steps: int, entrant: str) -> None:
    """Train the demo's T5 on Bazaar for some steps in this process; print seconds and last loss as JSON."""
    if entrant == OURS:
        import genrec_lab  # noqa: F401 - sets the policy
    import torch

    from genrec_lab.codes import ItemCodes
    from genrec_lab.data import leave_one_out, load_dataset
    from genrec_lab.data.batches import PairBatches
    from genrec_lab.models import Recommender
    from genrec_lab.presets import load

    torch.set_num_threads(max(2, os.cpu_count() or 2))
    torch.manual_seed(0)
    dataset = load_dataset("bazaar", items=300, users=2_000)
    numbers = torch.arange(300)
    codes = ItemCodes(
        torch.stack([numbers // 50, numbers % 50], dim=1).numpy(), (6, 50), dataset.items["domain"].to_list()
    )
    model = Recommender(codes, load("gmc_small").recommender)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    batches = iter(PairBatches(leave_one_out(dataset).train, 64)(0, 0))
    taken, loss = [], torch.zeros(())
    for step in range(steps + 1):
        wall, processor = time.perf_counter(), time.process_time()
        loss = model(**next(batches))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if step:  # the first allocates
            taken.append((time.perf_counter() - wall, time.process_time() - processor))
    print(json.dumps([sum(one[0] for one in taken), sum(one[1] for one in taken), loss.item()]))


def measure(options: Options) -> list[Comparison]:
    """The two policies on a quiet machine, then beside a process that is busy."""
    steps = SMALL if options.small else STEPS

    def in_child(entrant: str) -> Callable[[], Measured]:
        def run() -> Measured:
            environment = {**os.environ, "OMP_NUM_THREADS": str(max(2, os.cpu_count() or 2))}
            environment.pop("OMP_WAIT_POLICY", None)
            command = [sys.executable, "-m", "benchmarks.contention", "--steps", str(steps), entrant]
            answer = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                cwd=Path(__file__).parents[1],
                check=False,
            )
            if answer.returncode:
                raise RuntimeError(f"the training failed:\n{answer.stderr}")
            wall, processor, loss = json.loads(answer.stdout)
            return Measured(loss, wall, processor, None)

        return run

    def agree(results: Mapping[str, Any]) -> Iterator[Check]:
        yield Check("the loss is the same with and without the policy", results[OURS] == results[PEER])

    runs = {entrant: in_child(entrant) for entrant in (OURS, PEER)}
    found: list[Comparison] = []
    for where, others in (("a quiet machine", 0), ("a machine with one busy process", 1)):
        with busy(others):
            work = f"{steps} steps of the T5 of gmc_small on {where}"
            found.append(compare(work, runs, agree, options, unit="steps", amount=steps, peer=PEER))
    for entrant in runs:
        ratio = found[1].timings[entrant].median / found[0].timings[entrant].median
        found[1].notes[f"times as long as on the quiet machine, {entrant}"] = ratio
    return found


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Let processes that only count run beside the block."""
    started = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--steps", nargs=2)
    known, rest = parser.parse_known_args()
    if known.steps:
        train_here(int(known.steps[0]), known.steps[1])
        sys.exit(0)
    sys.exit(main(measure, rest))
