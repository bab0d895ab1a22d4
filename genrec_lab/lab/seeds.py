"""The runs of one name: `<run>` itself and, a seed each, `<run>-seed<s>` as the option --seeds makes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from genrec_lab.lab.files import RunError, hash_json
from genrec_lab.lab.results import read_metrics
from genrec_lab.lab.store import Run, existing_run

ABLATION, COMPARISON = "08_ablations", "09_compare_runs"
OVER_SEEDS = (ABLATION, COMPARISON)  # notebooks that read the evaluated runs of a name, all its seeds
EVALUATION = "07_evaluation"  # what is compared is what this stage recorded


class SeedRuns(NamedTuple):
    """runs: evaluated ones, one a seed, by seed. left_out: the others by name, with a sentence why."""

    runs: tuple[Run, ...]
    left_out: dict[str, str]


def runs_of(name: str, root: Path) -> SeedRuns:
    """Find the evaluated runs of a name among the folders of `root`.

    A folder `<name>` that only holds a comparison is passed over. Where two runs have the same seed, the one
    named after it is kept.
    """
    pattern = re.compile(re.escape(name) + r"-seed([0-9]+)")
    seeded = sorted((int(found[1]), found[0]) for found in map(pattern.fullmatch, _folders(root)) if found)
    by_seed: dict[int, Run] = {}
    left_out: dict[str, str] = {}
    for candidate in [*(folder for _, folder in seeded), *([name] if name in _folders(root) else [])]:
        try:
            run = existing_run(candidate, root)
        except (RunError, ValueError) as error:  # a preset or key that this version does not know
            left_out[candidate] = f"it cannot be opened: {error}"
            continue
        state = run.state(EVALUATION, verify=False)
        if state.status == "missing" and candidate == name:
            continue
        if not state.usable:
            left_out[candidate] = f"{EVALUATION} cannot be used: {state.reason}"
        elif run.seed in by_seed:
            left_out[candidate] = f"{by_seed[run.seed].name} has its seed, {run.seed}, already."
        else:
            by_seed[run.seed] = run
    return SeedRuns(tuple(by_seed[seed] for seed in sorted(by_seed)), left_out)


def signatures(runs: Iterable[Run]) -> dict[str, str]:
    """By run, a hash of everything that a comparison shows of it: metrics, parameters, dataset, durations."""
    return {run.name: hash_json(_shown(run)) for run in runs}


def own_records(run: Run) -> list[dict[str, object]]:
    """A run's metric records, without those that a comparison put there."""
    return [record for record in read_metrics(run.folder)["records"] if record.get("stage") != COMPARISON]


def _shown(run: Run) -> list[object]:
    manifest = run.manifest()
    stages = manifest["stages"].items()
    seconds = {name: record["seconds"] for name, record in stages if name not in OVER_SEEDS}
    return [own_records(run), manifest["parameters"], manifest.get("dataset"), seconds]


def _folders(root: Path) -> list[str]:
    return [file.parent.name for file in root.glob("*/manifest.json")]
