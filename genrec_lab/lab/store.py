"""A run: a folder of results opened with one set of parameters."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from genrec_lab import registry
from genrec_lab.data.whole_files import sha256_of
from genrec_lab.lab import processes
from genrec_lab.lab.files import RunError, as_json, hash_json, write_text
from genrec_lab.lab.folders import runs_root
from genrec_lab.lab.making import KEEP_OLD_CODE, Results, read_manifest
from genrec_lab.lab.results import RECORD, differences, listed
from genrec_lab.lab.runfile import RunFileError, parameter_problems
from genrec_lab.lab.tasks import State, Task, Work

__all__ = [
    "KEEP_OLD_CODE",
    "RECORD",
    "Run",
    "RunError",
    "State",
    "Task",
    "Work",
    "existing_run",
    "open_run",
    "runs_root",
]

# What notebooks open where nothing is named, equal to papermill_runs/demo.yaml: two large shops and a small
# one whose users differ in taste alone, and a tenth of the items that nobody has had yet.
DEMO: dict[str, Any] = {
    "dataset": {
        "name": "bazaar",
        "items": 1050,
        "users": 2000,
        "user_shares": [6, 6, 1],
        "new_items": 0.1,
        "archetypes": 16,
        "taste_strength": 2.0,
        "popularity_exponent": 0.0,
        "transition_strength": 0.0,
        "style_carry_over": 0.0,
        "mean_length": 7.0,
        "text_template": "{colour} {style} {material}",
    },
    "preset": "gmc_demo",
    "overrides": {},
    "seed": 0,
}


_FIGURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def load_config(preset: str, overrides: Mapping[str, Any]) -> Any:
    """The preset's validated config with the overrides; imported here since presets import every method."""
    from genrec_lab import presets

    return presets.load(preset, dict(overrides))


def open_run(
    run: str,
    *,
    dataset: Mapping[str, Any] | None = None,
    preset: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int | None = None,
    root: Path | None = None,
    base: Path | None = None,
    change: bool = False,
) -> Run:
    """Open the run of a name for work: `open_run("demo")`.

    A parameter that is None stays as the run has it; a new run takes the demo's. Values that differ from the
    run's are refused with the difference, unless `change` is set: the run then has the new values, and
    results that depend on them are made again. base: the folder where relative paths of the dataset begin, by
    default the run's, or the working directory for a new one. Raises `RunError` for an impossible name,
    dataset or seed, and what the preset raises.

    >>> run = open_run("mine", dataset={"name": "bazaar", "items": 300}, preset="gmc_tiny", seed=3)
    >>> open_run("mine").dataset
    {'name': 'bazaar', 'items': 300}
    >>> open_run("mine", seed=4)
    Traceback (most recent call last):
    genrec_lab.lab.files.RunError: The run 'mine' has different parameters (seed: 3 before, 4 now). ...
    """
    given: dict[str, Any] = {"dataset": dataset, "preset": preset, "overrides": overrides, "seed": seed}
    opened = unopened_run(run, root=root, base=base, change=change, **given)
    has = {"parameters": opened.parameters, "base": str(opened.base)}
    if processes.is_first() and not opened.read_only and not has.items() <= opened.manifest().items():
        opened.folder.mkdir(parents=True, exist_ok=True)
        with opened.edited_manifest() as manifest:
            manifest |= has
    processes.wait()
    registry.set_base_folder(opened.base)
    return opened


def unopened_run(
    run: str, *, root: Path | None = None, base: Path | None = None, change: bool = False, **given: Any
) -> Run:
    """As `open_run`, but nothing is written: to check parameters and to ask for the state of results."""
    wanted = {
        name: as_json(name, value) if isinstance(value, Mapping) else value
        for name, value in given.items()
        if value is not None
    }
    if problems := parameter_problems({"run": run, **DEMO, **wanted}):
        raise RunFileError("The run's parameters", problems)
    folder = (root or runs_root()) / run
    kept = read_manifest(folder)
    has: dict[str, Any] = kept.get("parameters", {})
    if has and not change and (other := differences({name: has[name] for name in wanted}, wanted)):
        raise RunError(
            f"The run {run!r} has different parameters ({listed(other)}). Leave them out to use the run as "
            f"it is, choose another name, or change the run: open_run({run!r}, …, change=True), or `genrec "
            "run` with a run file that names it."
        )
    parameters = {"run": run, **DEMO, **{name: has[name] for name in DEMO if name in has}, **wanted}
    own = Path(kept["base"]) if base is None and "base" in kept else base
    # the folder of the run file may have been moved
    own = own if own is not None and own.is_dir() else Path.cwd()
    with registry.relative_to(own):
        config = load_config(parameters["preset"], parameters["overrides"])
    return Run(folder, parameters, config, own)


def existing_run(run: str, root: Path | None = None) -> Run:
    """Open a run as it was last used, to read from it; raises `RunError` when there is none of that name.

    >>> made = open_run("mine", preset="gmc_tiny")
    >>> existing_run("mine").parameters["preset"]
    'gmc_tiny'
    """
    folder = (root or runs_root()) / run
    if not (folder / "manifest.json").is_file():
        setting = "set by" if os.environ.get("GENREC_RUNS") else f"found from {Path.cwd()}, without"
        where = f" ({setting} GENREC_RUNS)" if root is None else ""
        raise RunError(
            f"There is no run {run!r} in {folder.parent}{where}. Run the notebooks under that name first; if "
            "the run is elsewhere, work in its folder, or set GENREC_RUNS to the folder that holds it."
        )
    opened = unopened_run(run, root=root)
    registry.set_base_folder(opened.base)
    return opened


class Run(Results):
    """A run folder opened with one set of parameters; `config` is the preset's validated config.

    >>> run = open_run("mine", preset="gmc_tiny", overrides={"training.epochs": 3})
    >>> run.name, run.seed, run.config.training.epochs
    ('mine', 0, 3)
    """

    def __init__(
        self, folder: Path, parameters: dict[str, Any], config: Any, base: Path | None = None
    ) -> None:
        super().__init__(folder, parameters, base)
        self.config = config
        self.planned: dict[str, Run] = {}  # what a dry run takes in place of the runs on disk, by name

    @property
    def dataset(self) -> dict[str, Any]:
        """The `dataset` parameter as written; environment variables in it are expanded when it is loaded."""
        return dict(self.parameters["dataset"])

    def figure(self, name: str, figure: Figure, caption: str = "") -> Figure:
        """Save a figure for the report, and return it so that it can be the last line of a cell.

        The report leaves the figure out once one of the results that were read so far has changed.
        """
        if not _FIGURE.fullmatch(name):
            raise RunError(
                f"A figure's name is letters, digits, '_' and '-', such as 'utilisation'; got {name!r}."
            )
        if not isinstance(figure, Figure):
            raise RunError(f"run.figure({name!r}, …) takes a plotly Figure; got {type(figure).__name__}.")
        if processes.is_first():
            file = self.figure_file(name)
            with self.edited_manifest() as manifest:
                file.parent.mkdir(exist_ok=True)
                write_text(file, str(figure.to_json()))
                manifest.setdefault("figures", {})[name] = {
                    "caption": caption, "stage": self.stage, "saved_at": time.time(),
                    "sha256": sha256_of(file), "reads": self.reads,
                }  # fmt: skip
        return figure

    def figures(self) -> dict[str, dict[str, Any]]:
        """The saved figures by name, in their order: `caption, stage, saved_at, sha256, reads`.

        reads: the digests of the results that had been read when the figure was saved.
        """
        return dict(self.manifest().get("figures", {}))

    def figure_file(self, name: str) -> Path:
        """Where a figure is stored."""
        return self.folder / "figures" / f"{name}.json"

    def set_stage(self, stage: str) -> None:
        """Assign figures that are saved from now on to a stage that makes no results."""
        self.stage = stage

    def metrics(self) -> Any:
        """All metrics, computed from the rankings: frame `method, domain, metric, k, value, users, seed`."""
        from genrec_lab.lab.evaluate import run_metrics

        return run_metrics(self)

    def compare(self, *others: Run) -> Any:
        """This run beside others: settings that differ, a table with paired intervals, and their codes."""
        from genrec_lab.lab.compare import put_beside

        return put_beside([self, *others])

    def codes(self, row: str | None = None) -> Any:
        """The identifiers of all items by a row's tokenizer, by default the run's own row: ItemCodes."""
        from genrec_lab.lab.tokenise import load_identified

        return load_identified(self, row).codes

    def recommender(self, domain: str, row: str | None = None) -> Any:
        """The trained recommender that serves a domain in a row, by default the first one."""
        from genrec_lab.lab.evaluate import load_serving

        return load_serving(self, domain, row)

    def notes(self) -> dict[str, dict[str, Any]]:
        """What is noted with the metrics of each row."""
        from genrec_lab.lab.evaluate import run_notes

        return run_notes(self)

    def skipped(self) -> dict[str, str]:
        """Which rows the data cannot feed, and why; empty before stage 01."""

        from genrec_lab.lab.rows import known_facts

        facts = known_facts(self)
        return {} if facts is None else facts.skipped

    def provenance(self) -> list[dict[str, Any]]:
        """What made each result of the run, stage by stage.

        A dict for each result that is there, with `stage, row, scope, revision, dirty, code, settings, data,
        threads, precision, device, versions, made_at, seconds, kept_despite`. The last one names definitions
        that have changed since, for a result that `--keep-old-code` kept.
        """
        from genrec_lab.lab.chain import STAGES, tasks_of
        from genrec_lab.lab.prepare import data_summary

        fingerprint = data_summary(self).get("fingerprint")
        found: dict[str, dict[str, Any]] = {}
        for task in (task for stage in STAGES for task in tasks_of(self, stage) or []):
            record = self.state(task, verify=False).record
            if record is not None and task.of is None:
                source, made = record.made["source"], record.made
                found[task.place] = {
                    "stage": task.stage, "row": task.row or None, "scope": task.scope or None,
                    "revision": source["revision"], "dirty": source["dirty"], "code": record.code,
                    "settings": hash_json(record.settings)[:12], "data": fingerprint,
                    "threads": made["threads"], "precision": made["precision"], "device": made["device"],
                    "versions": {"python": made["python"], **made["packages"]},
                    "made_at": made["finished_at"], "seconds": made["seconds"],
                    "kept_despite": record.kept_despite,
                }  # fmt: skip
        return list(found.values())
