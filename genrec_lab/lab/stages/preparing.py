"""Stage 01: from a data source to a Dataset and its leave-one-out split."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from genrec_lab.data import Dataset, Split, leave_one_out, load_dataset
from genrec_lab.data.amazon import lines_beside_paper
from genrec_lab.lab.files import hash_json
from genrec_lab.lab.store import Run, runs_root

PREPARATION = "01_data_preparation"


class Prepared(NamedTuple):
    """The data of a run."""

    dataset: Dataset
    split: Split


def prepare_data(run: Run) -> Prepared:
    """Load the run's dataset, split it, and write both; a finished stage is read instead."""
    with run.stage(PREPARATION, uses=("dataset", "pairs.max_history")) as stage:
        if stage.is_finished:
            return _read(stage.folder, run)
        options = run.dataset
        if options["name"] == "bazaar" and options.get("images") is True:
            # A generated catalogue has its pictures drawn once, for all runs of the same options.
            options["images"] = str(runs_root() / "cache" / "bazaar" / hash_json(options)[:16])
        source = options.pop("name")
        dataset = load_dataset(source, **options)
        beside_paper = lines_beside_paper(dataset, source, run.config.transfer.targets)
        for line in beside_paper:
            print(line)
        split = leave_one_out(dataset, run.config.pairs.max_history)
        dataset.write(stage.folder / "dataset")
        for part in ("train", "valid", "test"):
            getattr(split, part).write_parquet(stage.folder / f"{part}.parquet")
        run.record_dataset(
            dataset.fingerprint(),
            repairs=dataset.repairs | split.repairs,
            users=dataset.n_users,
            items=dataset.n_items,
            interactions=dataset.n_interactions,
            sources=dataset.sources,
            beside_paper=beside_paper,
        )
        return Prepared(dataset, split)


def load_prepared(run: Run) -> Prepared:
    """Read what stage 01 wrote; RunError naming the notebook where it has not run."""
    return _read(run.read_stage(PREPARATION), run)


def _read(folder: Path, run: Run) -> Prepared:
    train, valid, test = (pl.read_parquet(folder / f"{part}.parquet") for part in ("train", "valid", "test"))
    split = Split(train, valid, test, max_history=run.config.pairs.max_history)
    return Prepared(Dataset.read(folder / "dataset"), split)
