"""One tiny run made and asked about in a process of its own, so that a copy of the package can be asked too.

`python truth_chain.py COMMAND RUN [OPTIONS]` with PYTHONPATH at the package that is meant. It prints one
line of JSON. make: works on all stages. look: what would be done about each result, what made
it, and the metrics.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = (
    "01_data_preparation",
    "02_tokenizer_training",
    "05_recommender_training",
    "06_domain_adaptation",
    "07_evaluation",
)
TRAINING = STAGES[1:4]
PARAMETERS: dict[str, Any] = {
    "dataset": {"name": "bazaar", "domains": ["Garden", "Kitchen"], "items": 300, "users": 300},
    "preset": "gmc_tiny",
    "overrides": {"compare": ["popularity", "sasrec", "tiger"], "tokenizer.epochs": 2, "one_pass": None},
    "seed": 0,
}


def bazaar_with(names: list[str], poisoned: str = "", users: int = 300) -> Any:
    """Bazaar as a data source of ours, with other names of domains, or other targets.

    poisoned: "test" or "valid", the targets that are replaced by the item next to them in their domain.
    """
    import polars as pl

    from genrec_lab.bazaar import make_bazaar
    from genrec_lab.data import Dataset

    shops = ("Garden", "Kitchen", "Studio", "Workshop", "Wardrobe", "Playroom")[: len(names)]
    made = make_bazaar(items=150 * len(names), users=users, domains=shops)
    called = dict(zip(shops, names, strict=True))
    place = {"": 0, "test": -1, "valid": -2}[poisoned]
    following: dict[int, int] = {}
    for (_,), of_domain in made.items.group_by("domain"):
        items = of_domain["item"].to_list()
        following |= dict(zip(items, [*items[1:], items[0]], strict=True))
    sequences = made.sequences["items"].to_list()
    for items in sequences if place else ():
        items[place] = following[items[place]]
    return Dataset(
        "Shops",
        made.items.with_columns(pl.col("domain").replace_strict(called)),
        made.sequences.with_columns(
            pl.col("domain").replace_strict(called), items=pl.Series(sequences, dtype=pl.List(pl.Int64))
        ),
    )


def plan(run: Any) -> dict[str, dict[str, str]]:
    """What would be done about every result of a run that is open, by place."""
    from genrec_lab.lab import results

    results.forget_hashes()
    found: dict[str, Any] = {}
    for task in tasks(run):
        run.state(task, known=found)
    return {
        place: {"action": state.action, "why": state.reason, "row": state.task.row, "stage": state.task.stage}
        for place, state in found.items()
    }


def tasks(run: Any) -> list[Any]:
    """All that a run has, in order; of a run that is not prepared the dataset alone."""
    from genrec_lab.lab.chain import tasks_of

    return [task for stage in STAGES for task in tasks_of(run, stage) or []]


def make(run: Any) -> None:
    """Work on all stages of a run that is open."""
    from genrec_lab import lab

    for stage in (
        lab.prepare_data,
        lab.train_tokenizers,
        lab.train_recommenders,
        lab.adapt_to_domains,
        lab.rank_test_users,
    ):
        stage(run)


def metrics(run: Any) -> list[dict[str, Any]]:
    """The run's metrics as records."""
    found: list[dict[str, Any]] = run.metrics().to_dicts()
    return found


def copy_of_package(folder: Path) -> Path:
    """Copy the package into a folder that PYTHONPATH can name."""
    shutil.copytree(REPOSITORY / "genrec_lab", folder / "genrec_lab")
    return folder


def ask(command: str, run: str, root: Path, package: Path, **changes: Any) -> Any:
    """Run this file in a process that imports the package from a folder; what it printed last, read."""
    environment = os.environ | {
        "PYTHONPATH": str(package),
        "GENREC_RUNS": str(root),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), command, run, json.dumps(changes)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def to_run(planned: Mapping[str, Mapping[str, str]]) -> set[str]:
    """The places of a plan that are made."""
    return {place for place, step in planned.items() if step["action"] == "run"}


def main(command: str, name: str, changes: str) -> None:
    """Answer one command about a run."""
    from genrec_lab.lab import open_run

    run = open_run(name, **json.loads(changes), change=True)
    if command == "make":
        make(run)
    print(json.dumps({"plan": plan(run), "metrics": metrics(run), "provenance": run.provenance()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
