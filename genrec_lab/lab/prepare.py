"""Stages 00 and 01: what this machine is; from a data source to a Dataset and its leave-one-out split."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from genrec_lab.data import Dataset, Split, load_dataset, split_of, ties
from genrec_lab.data.checking import RESERVED as AVERAGE
from genrec_lab.data.preparation import FEWER_PAIRS, TIE_RULES
from genrec_lab.data.rules import DataError
from genrec_lab.data.sources import SOURCES
from genrec_lab.lab.files import hash_json
from genrec_lab.lab.provenance import hardware, package_versions
from genrec_lab.lab.results import checked_hash, flat
from genrec_lab.lab.store import Run, Task, Work

CHECK, PREPARATION = "00_setup_check", "01_data_preparation"
_PARTS = ("train", "valid", "test")
_LARGEST_HASHED_BYTES = 1 << 30  # of larger files size and time count, for reading them takes minutes
_MOST_HASHED_FILES = 5_000  # of a folder
# An item without a text has its key instead, for encoders that cannot read an empty text.
_HAS_TEXT = (pl.col("text").str.strip_chars() != "") & (pl.col("text") != pl.col("key"))


class Prepared(NamedTuple):
    """The data of a run."""

    dataset: Dataset
    split: Split


def prepared_task(run: Run) -> Task:
    """The dataset and its split as a task."""
    options = run.dataset
    named = {value for name, value in flat(options) if name.rpartition(".")[2] == "name"}
    components = tuple(SOURCES.find(name) for name in sorted(name for name in named if isinstance(name, str)))
    given = {"options": options, "max_history": run.config.pairs.max_history}
    given["files"] = data_files(options, run.base)
    return Task(PREPARATION, "data", _prepare, given, components=components)


def _prepare(work: Work, options: Mapping[str, Any], max_history: int, files: Mapping[str, Any]) -> None:
    given = dict(options)
    if given["name"] == "bazaar" and given.get("images") is True:
        # A generated catalogue has its pictures drawn once, for all runs of the same options.
        given["images"] = str(work.cache / "bazaar" / hash_json(dict(options))[:16])
    source = given.pop("name")
    dataset = load_dataset(source, **given)
    if AVERAGE in dataset.domains:
        raise DataError(
            f"dataset: a domain is called {AVERAGE!r}, which names the rows of averages; rename it"
        )
    split = split_of(dataset, max_history)
    dataset.write(work.folder / "dataset")
    for part in _PARTS:
        getattr(split, part).write_parquet(work.folder / f"{part}.parquet")
    work.summary = {
        "fingerprint": dataset.fingerprint(),
        "repairs": dataset.repairs | split.repairs,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": dataset.n_interactions,
        "sources": dataset.sources,
        "ties": {"rule": options.get("ties", TIE_RULES[0]), "domains": ties(dataset).to_dicts()},
        "facts": facts_in(dataset),
    }


def facts_in(dataset: Dataset) -> dict[str, Any]:
    """What must be known of a dataset to say which results a run has; see `rows.Facts`."""
    found = {
        domain: dataset.items.filter(domain=domain)
        .select(items=pl.len(), texts=_HAS_TEXT.any(), pictures=pl.col("image").is_not_null().any())
        .row(0, named=True)
        for domain in dataset.domains
    }
    kinds = ("items", "texts", "pictures")
    return {"domains": list(found)} | {kind: {of: one[kind] for of, one in found.items()} for kind in kinds}


def prepare_data(run: Run) -> Prepared:
    """Load the run's dataset, split it, and write both; what is there already is read instead."""
    from genrec_lab.data.amazon import lines_beside_paper

    run.make(prepared_task(run))
    prepared = load_prepared(run)
    for line in lines_beside_paper(prepared.dataset, run.dataset["name"], run.config.transfer.targets):
        print(line)
    return prepared


def load_prepared(run: Run) -> Prepared:
    """Read what stage 01 wrote; RunError naming the notebook where it has not run."""
    folder = run.read(prepared_task(run))
    train, valid, test = (pl.read_parquet(folder / f"{part}.parquet") for part in _PARTS)
    split = Split(train, valid, test, max_history=run.config.pairs.max_history)
    return Prepared(Dataset.read(folder / "dataset"), split)


def data_summary(run: Run) -> dict[str, Any]:
    """The dataset's fingerprint, repairs and sizes as stage 01 noted them; empty before it has run."""
    record = run.state(prepared_task(run), verify=False).record
    return {} if record is None else record.summary


def ties_in_short(run: Run) -> str:
    """Say in a sentence for how many users the test item is tied in time with the one before it.

    For the tables of results: where many are tied, another order of ties gives other test items, so other
    figures. Also says what ordered them, and if rows learn from different numbers of targets, because a
    training file was published. Empty before stage 01 has run.
    """
    found = data_summary(run)
    if not (ties := found.get("ties", {"domains": ()}))["domains"]:
        return ""
    said = "Ties in time are unknown: the source gives no times."
    if any(row["test_tied"] is not None for row in ties["domains"]):
        shares = ", ".join(
            f"{row['domain']} unknown"
            if row["test_tied"] is None
            else f"{row['domain']} {row['test_tied'] / row['timed']:.1%} of users"
            for row in ties["domains"]
        )
        said = f"Test items that are tied in time with the item before: {shares}; ordered by {ties['rule']}."
    if fewer := found.get("repairs", {}).get(FEWER_PAIRS):
        said += (
            f" Rows do not learn from the same targets: the training sequences have {fewer:,} targets more "
            "than the published training pairs. Models over items and rows that learn in one pass learn from "
            "the sequences, all others from the pairs."
        )
    return said


def data_files(options: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The files that a dataset's options name, with the hash of their content, by how they are written.

    Every text that is the path of something there counts, beginning at `base`, environment variables
    expanded. Of a folder the files directly inside count, subfolders by name alone. Of a file over 1 GB its
    size and time count. Folders that are downloaded into (`download` true, there or above) do not: they fill
    while the stage runs.
    """
    found: dict[str, Any] = {}
    given = dict(flat(options))
    if options.get("name") == "bazaar":  # generated; its folder of pictures is written, not read
        return found
    for name, value in given.items():
        parts = name.split(".")
        downloads = (".".join([*parts[:level], "download"]) for level in range(len(parts)))
        if parts[-1] == "name" or any(given.get(download) is True for download in downloads):
            continue
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or not text or len(text) > 4096:
                continue
            path = base / Path(os.path.expandvars(text)).expanduser()
            if os.path.exists(path):  # Path.exists raises where a text is too long for a name
                found[text] = dict(_signatures(path))
    return found


def _signatures(path: Path) -> Iterator[tuple[str, Any]]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    for file in files:
        if not file.is_file():
            yield f"{file.name}/", "folder"
            continue
        status = file.stat()
        if status.st_size > _LARGEST_HASHED_BYTES or len(files) > _MOST_HASHED_FILES:
            yield file.name, [status.st_size, status.st_mtime_ns]
        else:
            yield file.name, checked_hash(file)


@dataclass(frozen=True)
class Machine:
    """What a run finds on a machine."""

    packages: dict[str, str]  # version by name, Python first
    hardware: dict[str, Any]  # system, cpu, cores, memory_gb, gpus, free_disk_gb
    device: str  # where models are trained: "cuda", "mps" or "cpu"
    bf16_is_native: bool  # whether that device multiplies bf16 in hardware
    text_model: str  # what turns texts into vectors, and where it was found

    def table(self) -> pl.DataFrame:
        """What training depends on, as `what, found`."""
        found = {
            "processor": f"{self.hardware['cpu']}, {self.hardware['cores']} cores",
            "memory": f"{self.hardware['memory_gb'] or 'unknown'} GB",
            "free disk for runs": f"{self.hardware['free_disk_gb']:,} GB",
            "GPU": ", ".join(self.hardware["gpus"] or ()) or "none",
            "trains on": self.device,
            "bf16": "native" if self.bf16_is_native else "emulated, so training stays in fp32",
            "text model": self.text_model,
        }
        return pl.DataFrame({"what": list(found), "found": list(found.values())})


def check_tasks(run: Run) -> list[Task]:
    """What stage 00 makes: a look at the machine, again on another machine."""
    found = {"packages": {"python": platform.python_version(), **package_versions()}, "hardware": hardware()}
    found["hardware"] = {name: value for name, value in found["hardware"].items() if name != "gpus"}
    return [Task(CHECK, "machine", _look, given={"text": run.config.text, "found": found})]


def check_machine(run: Run) -> Machine:
    """Look at the machine and find the text model of the run.

    Raises TextModelError if the run's text model is neither here nor on the model hub.
    """
    (task,) = check_tasks(run)
    return Machine(**json.loads((run.make(task) / "machine.json").read_text()))


def _look(work: Work, text: Any, found: dict[str, Any]) -> None:
    from genrec_lab.training import bf16_is_native, device

    here, free = device(), round(shutil.disk_usage(work.folder).free / 2**30)
    has = {**hardware(), "free_disk_gb": free}
    machine = Machine(found["packages"], has, here.type, bf16_is_native(here), text_model_of(text))
    (work.folder / "machine.json").write_text(json.dumps(asdict(machine), indent=2))


def text_model_of(config: Any) -> str:
    """Return what encodes texts, and where it was found; raises TextModelError where it is not there."""
    from genrec_lab.encoders import TEXT_ENCODERS

    encoder = TEXT_ENCODERS.find(config.kind)
    return str(encoder.found(config)) if hasattr(encoder, "found") else str(config.kind)
