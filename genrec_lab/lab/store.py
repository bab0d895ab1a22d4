"""The run folder: what every notebook of a chain reads from and writes to.

A stage is one notebook's work. Its key is a hash of the parameters it uses, of its input stages' outputs and
of the package version. While the key stays the same a finished stage is not run again; when it changes the
stage is stale, and reading it is an error that names the notebook to run again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from plotly.graph_objects import Figure

import genrec_lab
from genrec_lab.lab import execution, results, sharing
from genrec_lab.lab.execution import Stage
from genrec_lab.lab.files import RunError, as_json, damage, is_disk_full, read_json
from genrec_lab.lab.folders import runs_root
from genrec_lab.lab.keys import (
    StageState,
    differences,
    select_parameters,
    source_signature,
    stage_key,
    told,
)
from genrec_lab.lab.locks import held, writing
from genrec_lab.lab.manifest import circumstances, edited_manifest, read_manifest

__all__ = ["Run", "RunError", "Stage", "StageState", "existing_run", "open_run", "runs_root"]

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STAGE_NAME = re.compile(r"[0-9]{2}_[a-z0-9_]+")
_LOCK_PATIENCE_SECONDS = 3.0  # a kernel whose starter was killed needs about a second to notice and end


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
    stale, the others stay. A stale stage that is run again keeps its former outputs aside until the new ones
    are finished, and takes them back when the former parameters return before that.
    Raises `RunError` for an impossible name or dataset and what the preset raises.
    """
    opened = unopened_run(run, dataset=dataset, preset=preset, overrides=overrides, seed=seed, root=root)
    if not sharing.is_first():
        sharing.wait()
        return opened
    opened.folder.mkdir(parents=True, exist_ok=True)
    with edited_manifest(opened.folder) as manifest:
        manifest["parameters"] = opened.parameters
        manifest["config"] = opened.config.model_dump(mode="json")
        manifest.update(circumstances())
    sharing.wait()
    return opened


def unopened_run(
    run: str,
    *,
    dataset: Mapping[str, Any],
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    root: Path | None = None,
) -> Run:
    """As `open_run`, but nothing is written: to check parameters and to ask for the state of stages."""
    if not _RUN_NAME.fullmatch(run):
        raise RunError(f"run={run!r} cannot name a folder; use letters, digits, '.', '_' and '-', as 'demo'.")
    if not isinstance(dataset, Mapping) or not isinstance(dataset.get("name"), str):
        raise RunError(f"dataset={dataset!r} lacks a name; write for example {{'name': 'bazaar'}}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise RunError(f"seed={seed!r} is not a whole number of at least 0.")
    parameters = {
        "run": run,
        "dataset": as_json("dataset", dataset),
        "preset": preset,
        "overrides": as_json("overrides", overrides or {}),
        "seed": seed,
    }
    config = load_config(preset, overrides or {})
    return Run((root or runs_root()) / run, parameters, config)


def existing_run(run: str, root: Path | None = None) -> Run:
    """Open a run as it was last used, to read from it; raises `RunError` when there is none of that name."""
    folder = (root or runs_root()) / run
    if not (folder / "manifest.json").is_file():
        raise RunError(
            f"There is no run {run!r} in {folder.parent}. Run the notebooks under that name first."
        )
    parameters = read_json(folder / "manifest.json")["parameters"]
    return Run(folder, parameters, load_config(parameters["preset"], parameters["overrides"]))


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
        return self.folder.name

    @property
    def seed(self) -> int:
        """The seed that every random step of the run starts from."""
        return int(self.parameters["seed"])

    @property
    def dataset(self) -> dict[str, Any]:
        """The `dataset` parameter as written; environment variables in it are expanded when it is loaded."""
        return dict(self.parameters["dataset"])

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands on disk."""
        return read_manifest(self.folder)

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
        values of the caller's own that outputs depend on.
        The run folder is locked for as long as the block lasts. An error marks the stage as failed and keeps
        `scratch`, from which the next execution resumes. Raises `RunError` when the folder is in use, an
        input is missing or stale, or the disk is (nearly) full. Of several processes that share the work only
        the first writes; the others have a folder that is thrown away.
        """
        _check_stage_name(name)
        if not sharing.is_first():
            self._open_stage, self._open_inputs, self._last_stage = name, tuple(inputs), name
            try:
                with sharing.beside_the_first(self.folder, name) as stage:
                    yield stage
            finally:
                self._open_stage, self._open_inputs = None, ()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._stage_lock(name):
            self._open_stage, self._open_inputs, self._last_stage = name, tuple(inputs), name
            try:
                stage = execution.start(self.folder, name, self._new_record(name, inputs, uses, also))
                sharing.tell_of(stage)
                yield from self._work(stage)
                sharing.wait()
            finally:
                self._open_stage, self._open_inputs = None, ()

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
            again = "" if state.status == "missing" else "again "
            raise RunError(
                f"{name} of run {self.name!r} cannot be used: {state.reason} Run the notebook {name}.ipynb "
                f"{again}with the same parameters as this one."
            )
        return self.folder / name

    def state(self, name: str, verify: bool = True) -> StageState:
        """Whether a stage can be used with this run's parameters; `verify` also hashes its output files."""
        record = self.manifest()["stages"].get(name)
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
        with self._stage_lock(name), edited_manifest(self.folder) as manifest:
            execution.clear(self.folder, name, keep_scratch=False)
            execution.discard_replaced(self.folder, name, manifest)
            manifest["stages"].pop(name, None)

    def log(self, event: str, **fields: Any) -> None:
        """Append an event with time and stage to log.jsonl."""
        if not sharing.is_first():
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        results.append_log(self.folder, {"time": stamp, "stage": self._open_stage, "event": event, **fields})

    def record_dataset(self, fingerprint: str, **summary: Any) -> None:
        """Put the dataset's fingerprint, and JSON values that sum it up, as repairs, in the manifest."""
        if not sharing.is_first():
            return
        with edited_manifest(self.folder) as manifest:
            manifest["dataset"] = {"fingerprint": fingerprint, **summary}

    def record_metrics(
        self, method: str, rows: pl.DataFrame | Iterable[Mapping[str, Any]], **notes: Any
    ) -> None:
        """Put a method's metrics in metrics.json, in place of those it had.

        rows: a frame or records with `domain, metric, k, value, users`. notes: JSON values shown beside them.
        """
        records = results.metric_records(method, rows, self.seed)
        if not sharing.is_first():
            return
        with writing(self.folder):
            results.replace_metrics(self.folder, method, records, notes, self._last_stage)

    def record_skipped(self, method: str, why: str) -> None:
        """Say in metrics.json that a method was not run with these data, and why, in place of its metrics."""
        if not sharing.is_first():
            return
        with writing(self.folder):
            results.record_skipped(self.folder, method, why, self._last_stage)

    def skipped(self) -> dict[str, str]:
        """Why methods were skipped, by method."""
        return {name: reason["why"] for name, reason in results.read_metrics(self.folder)["skipped"].items()}

    def metrics(self) -> pl.DataFrame:
        """All recorded metrics: `method, domain, metric, k, value, users, seed`."""
        return results.metrics_frame(self.folder)

    def figure(self, name: str, figure: Figure, caption: str = "") -> Figure:
        """Save a figure for the report, and hand it back so that it can be the last line of a cell."""
        if sharing.is_first():
            with writing(self.folder):
                results.save_figure(self.folder, name, figure, caption, self._last_stage)
        return figure

    def _work(self, stage: Stage) -> Iterator[Stage]:
        if stage.is_finished:
            self.log("stage_already_finished")
        else:
            self.log("stage_resumed" if stage.is_resumed else "stage_started")
        started = time.monotonic()
        try:
            yield stage
            execution.finish(self.folder, stage, time.monotonic() - started)
        except BaseException as error:
            if (
                not stage.is_finished
            ):  # else its files are what they were: the error came from looking at them
                execution.fail(self.folder, stage, error, time.monotonic() - started)
            if is_disk_full(error):
                raise RunError(execution.disk_full_message(self.folder, stage.name)) from error
            event = "stage_interrupted" if isinstance(error, KeyboardInterrupt) else "stage_failed"
            self.log(event, error=f"{type(error).__name__}: {error}")
            raise
        self.log("stage_finished", seconds=round(time.monotonic() - started, 3))

    def _new_record(
        self, stage: str, inputs: Sequence[str], uses: Sequence[str] | None, also: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        digests = {}
        for name in inputs:
            self.read_stage(name)
            digests[name] = self.manifest()["stages"][name]["digest"]
        parameters, version = self._parameters_of(uses), genrec_lab.__version__
        own = as_json("also", also or {})
        # a stage without input stages reads the dataset's own files, which may change under the same name;
        # where they cannot be seen (a run folder taken to another machine) they count as unchanged
        source = None if inputs else source_signature(parameters.get("dataset"))
        if source is None and not inputs:
            source = self.manifest()["stages"].get(stage, {}).get("source")
        return {
            "key": stage_key(parameters, digests, {"also": own, "source": source}, version),
            "uses": None if uses is None else list(uses), "parameters": parameters, "inputs": digests,
            "also": own, "source": source, "version": version,
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
            return f"it was made with other parameters ({told(changed)})."
        if record["version"] != genrec_lab.__version__:
            return f"it was made by genrec_lab {record['version']}, and this is {genrec_lab.__version__}."
        if record["source"] is not None:
            source = source_signature(parameters.get("dataset"))
            if source is not None and source != record["source"]:
                return "the dataset's files have changed since."
        for name, digest in record["inputs"].items():
            state = self.state(name, verify=False)
            if not state.usable:
                return f"its input {name} cannot be used: {state.reason}"
            if self.manifest()["stages"][name]["digest"] != digest:
                return f"its input {name} has changed since."
        return None

    @contextmanager
    def _stage_lock(self, name: str) -> Iterator[None]:
        with held(self.folder / ".stage.lock", name, _LOCK_PATIENCE_SECONDS) as died:
            if died is not None:
                former, purpose = died.get("pid", "unknown"), died.get("purpose", "its stage")
                print(f"Taking over {self.name} from process {former}, which ended inside {purpose}.")
                self.log("lock_taken_over", former_pid=former, former_stage=purpose)
            yield


def _check_stage_name(name: str) -> None:
    if not _STAGE_NAME.fullmatch(name):
        raise RunError(f"A stage is named as its notebook, as '02_tokenizer_training'; got {name!r}.")
