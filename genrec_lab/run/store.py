"""The run folder: what every notebook of a chain reads from and writes to.

A stage is one notebook's work. Its key is a hash of the parameters it uses, of its input stages' outputs and
of the package version. While the key stays the same a finished stage is not run again; when it changes the
stage is stale, and reading it is an error that names the notebook to run again.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from plotly.graph_objects import Figure

import genrec_lab
from genrec_lab.run import results
from genrec_lab.run.files import (
    FileLock,
    RunError,
    damage,
    hash_folder,
    hash_json,
    is_disk_full,
    read_json,
    write_json,
)
from genrec_lab.run.keys import StageState, differences, select_parameters, stage_key
from genrec_lab.run.manifest import circumstances

__all__ = ["Run", "RunError", "Stage", "StageState", "existing_run", "open_run", "runs_root"]

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STAGE_NAME = re.compile(r"[0-9]{2}_[a-z0-9_]+")
_MANIFEST_FORMAT = 1
_LOCK_PATIENCE_SECONDS = 3.0  # a kernel whose starter was killed needs about a second to notice and end
_WRITE_PATIENCE_SECONDS = 30.0
_LEAST_FREE_BYTES = 64 * 2**20  # below this a stage does not start: better now than after its training


def runs_root() -> Path:
    """The folder of all runs: $GENREC_RUNS, or else papermill_runs/out of the checkout one works in."""
    named = os.environ.get("GENREC_RUNS")
    if named:
        return Path(named).expanduser().resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        project = folder / "pyproject.toml"
        if project.is_file():
            name = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name", "")
            if name.replace("-", "_") == "genrec_lab":
                return folder / "papermill_runs" / "out"
    return here / "papermill_runs" / "out"


def load_config(preset: str, overrides: Mapping[str, Any]) -> Any:
    """The preset's validated config with the overrides; imported here since presets import every method."""
    from genrec_lab import presets

    return presets.load(preset, dict(overrides))


def open_run(
    run: str,
    *,
    dataset: Mapping[str, Any],
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    root: Path | None = None,
) -> Run:
    """Open the folder of a run, making it if need be, with the parameters that a notebook's first cell sets.

    Opening an existing run with other parameters is allowed: the stages that depend on a changed one become
    stale, the others stay. Raises `RunError` for an impossible name or dataset and what the preset raises.
    """
    if not _RUN_NAME.fullmatch(run):
        raise RunError(f"run={run!r} cannot name a folder; use letters, digits, '.', '_' and '-', as 'demo'.")
    if not isinstance(dataset, Mapping) or not isinstance(dataset.get("name"), str):
        raise RunError(f"dataset={dataset!r} lacks a name; write for example {{'name': 'bazaar'}}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise RunError(f"seed={seed!r} is not a whole number of at least 0.")
    overrides = dict(overrides or {})
    config = load_config(preset, overrides)
    opened = Run(
        folder=(root or runs_root()) / run,
        parameters={
            "run": run,
            "dataset": dict(dataset),
            "preset": preset,
            "overrides": overrides,
            "seed": seed,
        },
        config=config,
    )
    opened.folder.mkdir(parents=True, exist_ok=True)
    with opened._write_lock():
        manifest = opened.manifest()
        manifest.update(
            parameters=opened.parameters, config=config.model_dump(mode="json"), **circumstances()
        )
        write_json(opened.folder / "manifest.json", manifest)
    return opened


def existing_run(run: str, root: Path | None = None) -> Run:
    """Open a run as it was last used, to read from it; raises `RunError` when there is none of that name."""
    folder = (root or runs_root()) / run
    if not (folder / "manifest.json").is_file():
        raise RunError(
            f"There is no run {run!r} in {folder.parent}. Run the notebooks, or the chain, under that name."
        )
    parameters = read_json(folder / "manifest.json")["parameters"]
    return Run(folder, parameters, load_config(parameters["preset"], parameters["overrides"]))


@dataclass
class Stage:
    """A stage while it is being worked on.

    name: equal to the notebook's file name without ending. folder: for its outputs.
    scratch: for checkpoints; survives a kill, emptied when the stage finishes or its parameters change.
    is_finished: an earlier execution with the same key finished and its files are intact: skip the work.
    """

    name: str
    folder: Path
    scratch: Path
    is_finished: bool


class Run:
    """A run folder opened with one set of parameters; `config` is the preset's validated config."""

    def __init__(self, folder: Path, parameters: dict[str, Any], config: Any) -> None:
        self.folder = folder
        self.parameters = parameters
        self.config = config
        self._open_stage: str | None = None
        self._open_inputs: tuple[str, ...] = ()
        self._last_stage: str | None = None

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return str(self.parameters["run"])

    @property
    def seed(self) -> int:
        """The seed that every random step of the run starts from."""
        return int(self.parameters["seed"])

    @property
    def dataset(self) -> dict[str, Any]:
        """The `dataset` parameter as written; environment variables in it are expanded when it is loaded."""
        return dict(self.parameters["dataset"])

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands on disk; a new one where there is none."""
        file = self.folder / "manifest.json"
        if not file.is_file():
            return {"format": _MANIFEST_FORMAT, "stages": {}, "notebooks": {}}
        manifest: dict[str, Any] = read_json(file)
        if not isinstance(manifest, dict) or manifest.get("format") != _MANIFEST_FORMAT:
            raise RunError(f"{file} was not written by this version of genrec_lab. Use another run name.")
        return manifest

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        inputs: Sequence[str] = (),
        uses: Sequence[str] | None = None,
        also: Mapping[str, Any] | None = None,
    ) -> Iterator[Stage]:
        """Work on a stage: `with run.stage("02_tokenizer_training", inputs=(...)) as stage:`.

        inputs: stages whose outputs are read; they must be finished. uses: the parameters that the outputs
        depend on ("dataset", "seed", fields of the config as "tokenizer"); all of them when None. also: JSON
        values of the caller's own that outputs depend on, as a data file's hash.
        The run folder is locked for as long as the block lasts. An error marks the stage as failed and keeps
        `scratch`, from which the next execution resumes. Raises `RunError` when the folder is in use, an
        input is missing or stale, or the disk is (nearly) full.
        """
        _check_stage_name(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".stage.lock", name)
        self._take(lock, name)
        try:
            self._open_stage, self._open_inputs, self._last_stage = name, tuple(inputs), name
            record = self._new_record(inputs, uses, also)
            stage = self._start(name, record)
            started = time.monotonic()
            try:
                yield stage
                if stage.is_finished:
                    self._finish(stage, None)
                else:
                    self._finish(stage, time.monotonic() - started)
            except BaseException as error:
                self._fail(stage, error, time.monotonic() - started)
                if is_disk_full(error):
                    raise RunError(self._disk_full_message(name)) from error
                raise
        finally:
            self._open_stage, self._open_inputs = None, ()
            lock.release()

    def read_stage(self, name: str) -> Path:
        """The folder of a finished stage, files verified; else a `RunError` naming the notebook to run."""
        _check_stage_name(name)
        if self._open_stage is not None and name not in (self._open_stage, *self._open_inputs):
            raise RunError(
                f"{self._open_stage} reads {name} without declaring it: a change there would go unnoticed. "
                f"Add it: run.stage({self._open_stage!r}, inputs=({name!r}, …))."
            )
        state = self.state(name)
        if not state.usable:
            raise RunError(
                f"{name} of run {self.name!r} cannot be used: {state.reason} Run the notebook {name}.ipynb "
                f"{'again ' if state.status != 'missing' else ''}with the same parameters as this one."
            )
        return self.folder / name

    def state(self, name: str, verify: bool = True) -> StageState:
        """Whether a stage can be used with this run's parameters; `verify` also hashes its output files."""
        manifest = self.manifest()
        record = manifest["stages"].get(name)
        if record is None:
            return StageState(name, "missing", "it has not been run yet.")
        stale = self._why_stale(record)
        if stale is not None:
            return StageState(name, "stale", stale)
        if record["status"] != "finished":
            why = {"failed": f"it failed ({record['error']}).", "interrupted": "it was interrupted."}
            return StageState(name, "unfinished", why.get(record["status"], "it has not finished."))
        broken = damage(self.folder / name, record["outputs"]) if verify else None
        if broken is not None:
            return StageState(name, "damaged", f"{broken}.")
        return StageState(name, "finished", f"finished {record['finished_at']} in {record['seconds']:.0f} s.")

    def forget(self, name: str) -> None:
        """Remove a stage's outputs, checkpoints, metrics and figures, so that it runs anew."""
        _check_stage_name(name)
        lock = FileLock(self.folder / ".stage.lock", f"forgetting {name}")
        self._take(lock, name)
        try:
            with self._write_lock():
                self._clear(name, keep_scratch=False)
                manifest = self.manifest()
                manifest["stages"].pop(name, None)
                write_json(self.folder / "manifest.json", manifest)
        finally:
            lock.release()

    def log(self, event: str, **fields: Any) -> None:
        """Append an event with time and stage to log.jsonl."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        results.append_log(self.folder, {"time": stamp, "stage": self._open_stage, "event": event, **fields})

    def record_dataset(self, fingerprint: str, **summary: Any) -> None:
        """Put the dataset's fingerprint, and JSON values that sum it up, as repairs, in the manifest."""
        with self._write_lock():
            manifest = self.manifest()
            manifest["dataset"] = {"fingerprint": fingerprint, **summary}
            write_json(self.folder / "manifest.json", manifest)

    def record_metrics(
        self, method: str, rows: pl.DataFrame | Iterable[Mapping[str, Any]], **notes: Any
    ) -> None:
        """Put a method's metrics in metrics.json, in place of those it had.

        rows: a frame or records with `domain, metric, k, value, users`. notes: JSON values shown beside them.
        """
        records = results.metric_records(method, rows, self.seed)
        with self._write_lock():
            results.replace_metrics(self.folder, method, records, notes, self._last_stage)

    def metrics(self) -> pl.DataFrame:
        """All recorded metrics: `method, domain, metric, k, value, users, seed`."""
        return results.metrics_frame(self.folder)

    def figure(self, name: str, figure: Figure, caption: str = "") -> Figure:
        """Save a figure for the report, and hand it back so that it can be the last line of a cell."""
        with self._write_lock():
            results.save_figure(self.folder, name, figure, caption, self._last_stage)
        return figure

    def record_notebook(self, name: str, record: Mapping[str, Any] | None) -> None:
        """Note in the manifest how the chain executed a notebook; None forgets it."""
        with self._write_lock():
            manifest = self.manifest()
            manifest["notebooks"].pop(name, None)
            if record is not None:
                manifest["notebooks"][name] = dict(record)
            write_json(self.folder / "manifest.json", manifest)

    def _new_record(
        self, inputs: Sequence[str], uses: Sequence[str] | None, also: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        digests = {}
        for name in inputs:
            self.read_stage(name)
            digests[name] = self.manifest()["stages"][name]["digest"]
        parameters = self._parameters_of(uses)
        version, own = genrec_lab.__version__, dict(also or {})
        return {
            "status": "started", "key": stage_key(parameters, digests, own, version),
            "uses": None if uses is None else list(uses), "parameters": parameters, "inputs": digests,
            "also": own, "version": version,
        }  # fmt: skip

    def _parameters_of(self, uses: Sequence[str] | None) -> dict[str, Any]:
        config = self.config.model_dump(mode="json")
        return select_parameters(self.parameters["dataset"], config, self.seed, uses)

    def _why_stale(self, record: Mapping[str, Any]) -> str | None:
        try:
            parameters = self._parameters_of(record["uses"])
        except RunError as error:  # another kind of config, without a field that the stage used
            return f"it was made with another config. {error}"
        changed = differences(record["parameters"], parameters)
        if changed:
            shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
            return f"it was made with other parameters ({shown})."
        if record["version"] != genrec_lab.__version__:
            return f"it was made by genrec_lab {record['version']}, and this is {genrec_lab.__version__}."
        for name, digest in record["inputs"].items():
            state = self.state(name, verify=False)
            if not state.usable:
                return f"its input {name} cannot be used: {state.reason}"
            if self.manifest()["stages"][name]["digest"] != digest:
                return f"its input {name} has changed since."
        return None

    def _start(self, name: str, record: dict[str, Any]) -> Stage:
        folder, scratch = self.folder / name, self.folder / "scratch" / name
        with self._write_lock():
            manifest = self.manifest()
            earlier = manifest["stages"].get(name)
            same = earlier is not None and earlier["key"] == record["key"]
            if same and earlier["status"] == "finished" and damage(folder, earlier["outputs"]) is None:
                self.log("stage_already_finished")
                return Stage(name, folder, scratch, is_finished=True)
            if shutil.disk_usage(self.folder).free < _LEAST_FREE_BYTES:
                raise RunError(self._disk_full_message(name))
            resumed = same and earlier["status"] != "finished"
            self._clear(name, keep_scratch=resumed)
            folder.mkdir(parents=True)
            scratch.mkdir(parents=True, exist_ok=True)
            record |= {
                "started_at": time.strftime("%Y-%m-%d %H:%M:%S"),
                "attempts": earlier["attempts"] + 1 if resumed else 1,
                "seconds": earlier["seconds"] if resumed else 0.0,
                "revision": circumstances()["source"]["revision"], "error": None,
            }  # fmt: skip
            manifest["stages"][name] = record
            write_json(self.folder / "manifest.json", manifest)
        self.log("stage_resumed" if resumed else "stage_started")
        return Stage(name, folder, scratch, is_finished=False)

    def _finish(self, stage: Stage, seconds: float | None) -> None:
        outputs = hash_folder(stage.folder)
        with self._write_lock():
            manifest = self.manifest()
            record = manifest["stages"][stage.name]
            record |= {"status": "finished", "outputs": outputs, "digest": hash_json(outputs)}
            if seconds is not None:
                record["seconds"] = round(record["seconds"] + seconds, 3)
                record["finished_at"] = time.strftime("%Y-%m-%d %H:%M:%S")
            write_json(self.folder / "manifest.json", manifest)
        shutil.rmtree(stage.scratch, ignore_errors=True)
        if seconds is not None:
            self.log("stage_finished", seconds=round(seconds, 3))

    def _fail(self, stage: Stage, error: BaseException, seconds: float) -> None:
        if stage.is_finished:  # its files are what they were; the error came from looking at them
            return
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
        try:
            with self._write_lock():
                manifest = self.manifest()
                record = manifest["stages"][stage.name]
                record["status"] = "interrupted" if interrupted else "failed"
                record["error"] = f"{type(error).__name__}: {error}"[:2000]
                record["seconds"] = round(record["seconds"] + seconds, 3)
                write_json(self.folder / "manifest.json", manifest)
            self.log("stage_interrupted" if interrupted else "stage_failed", error=record["error"])
        except OSError:  # a full disk: the manifest on disk still says "started", which also means unfinished
            if not is_disk_full(error):
                raise

    def _clear(self, name: str, keep_scratch: bool) -> None:
        results.drop_stage_results(self.folder, name)
        for folder in [self.folder / name] + ([] if keep_scratch else [self.folder / "scratch" / name]):
            if folder.exists():
                shutil.rmtree(folder)

    def _disk_full_message(self, name: str) -> str:
        stages = self.manifest()["stages"]
        safe = [other for other, record in stages.items() if record["status"] == "finished" and other != name]
        free = shutil.disk_usage(self.folder).free / 2**20
        return (
            f"The disk that holds {self.folder} is full ({free:,.0f} MB free) in {name}. Safe on it: "
            f"{', '.join(safe) or 'no finished stage yet'}, and the last checkpoint of {name} if it wrote one. "
            "Free some space and run this again: it goes on from there. Or move the folder to another disk and "
            "set GENREC_RUNS to where its parent now is."
        )

    def _take(self, lock: FileLock, name: str) -> None:
        if not lock.acquire(_LOCK_PATIENCE_SECONDS):
            raise RunError(f"The run folder {self.folder} is in use, so {name} cannot start: {_who(lock)}")
        if lock.left_behind is not None:
            holder = lock.left_behind
            former, purpose = holder.get("pid"), holder.get("purpose")
            print(
                f"Taking over {self.folder.name} from process {former}, which ended without finishing {purpose}."
            )
            self.log("lock_taken_over", **{f"former_{key}": value for key, value in holder.items()})

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        lock = FileLock(self.folder / ".write.lock", "writing the manifest")
        if not lock.acquire(_WRITE_PATIENCE_SECONDS):
            raise RunError(
                f"{self.folder} has been written to for {_WRITE_PATIENCE_SECONDS:.0f} s: {_who(lock)}"
            )
        try:
            yield
        finally:
            lock.release()


def _who(lock: FileLock) -> str:
    holder = lock.holder() or {}
    if holder.get("pid") == os.getpid():
        return f"this same process is still inside {holder['purpose']}. Stages cannot be nested."
    return (
        f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'this machine')} has been in "
        f"{holder.get('purpose', 'it')} since {holder.get('since', 'a moment ago')}. "
        "Wait for it, end it, or use another run name."
    )


def _check_stage_name(name: str) -> None:
    if not _STAGE_NAME.fullmatch(name):
        raise RunError(f"A stage is named as its notebook, as '02_tokenizer_training'; got {name!r}.")
