"""The run folder: results, each with the record of what made it, and the one way to make and to read them.

A `Task` says which function makes a result, from which settings and which other results. Its key is a hash of
those settings, of the digests of those results, and of all code that the function can reach. A result whose
record has the key of its task, and whose files are what was recorded, is kept; any other one is made again.
Nothing is declared by hand: a function is given what its key is made of, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from plotly.graph_objects import Figure
from pydantic import BaseModel

from genrec_lab import registry
from genrec_lab.lab import figures, processes
from genrec_lab.lab.code import Code, code_of
from genrec_lab.lab.files import (
    RunError,
    append_log,
    as_json,
    disk_full_message,
    hash_json,
    held,
    is_disk_full,
    read_checked,
    read_json,
    require_folder,
    run_name_problem,
    write_checked,
    write_json,
)
from genrec_lab.lab.folders import runs_root
from genrec_lab.lab.provenance import circumstances
from genrec_lab.lab.results import (
    BESIDE,
    RECORD,
    SCHEMA,
    Record,
    changed,
    differences,
    digest_of,
    folders_of_results,
    hashes,
    listed,
    move,
)

_LOCK_PATIENCE_SECONDS = 3.0  # a kernel whose starter was killed needs about a second to notice and end
_LEAST_FREE_BYTES = 64 * 2**20  # below this nothing is begun: better now than after a training
_LONGEST_ERROR = 2000
_CLOCK = "%Y-%m-%d %H:%M:%S"
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
KEEP_OLD_CODE = "GENREC_KEEP_OLD_CODE"  # set in kernels by --keep-old-code


@dataclass(frozen=True, eq=False)
class Task:
    """How a result is made.

    stage: the notebook that makes it. name: its folder below the stage's. function: is called with the
    `Work`, with `given`, and with the folders of `inputs`, each a task or a mapping of tasks. components:
    classes and functions that the function looks up in registries; their code counts. row, scope: for people.
    of: the run that the task belongs to, if it is not the one that asks.
    """

    stage: str
    name: str
    function: Callable[..., None]
    given: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    components: tuple[Any, ...] = ()
    row: str = ""
    scope: str = ""
    of: Run | None = None

    @property
    def place(self) -> str:
        """Where in the run's folder the result is."""
        return f"{self.stage}/{self.name}"

    @property
    def title(self) -> str:
        """Row and scope, as "tiger Garden"; the name where it is no row's."""
        return f"{self.row} {self.scope}".strip() or self.name

    def flat_inputs(self) -> dict[str, Task]:
        """The tasks whose results are read, by argument; those of a mapping as "argument/key"."""
        found: dict[str, Task] = {}
        for argument, value in self.inputs.items():
            if isinstance(value, Task):
                found[argument] = value
            else:
                found |= {f"{argument}/{key}": task for key, task in value.items()}
        return found

    def first_equal(self, known: list[Task]) -> Task:
        """Return the first known task that makes the same from the same, else this one, known from now on."""
        for other in known:
            if self._essence() == other._essence():
                return other
        known.append(self)
        return self

    def belonging_to(self, run: Run) -> Task:
        """The same task, to be read by other runs than the one that makes it."""
        return self if self.of is not None else replace(self, of=run)

    def _essence(self) -> tuple[Any, ...]:
        places = {name: id(task) for name, task in self.flat_inputs().items()}
        return self.stage, self.function, dict(self.given), places, self.components


@dataclass
class Work:
    """What a task's function works with.

    folder: for outputs. scratch: for checkpoints; it survives a kill and is removed when the result is there.
    title: row and scope, for people. seed: the run's. summary: facts about the result for its record.
    """

    folder: Path
    scratch: Path
    title: str = ""
    seed: int = 0
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """A folder that all runs share, for what frozen networks found: it only saves time."""
        return runs_root() / "cache"

    def curves(self, title: str, n_items: int | None = None) -> Any:
        """Return the live curves of a training: a tokenizer's if `n_items` is given, else a recommender's."""
        from genrec_lab.viz.live import LiveCurves

        how: dict[str, Any] = {"title": title, "seed": self.seed, "keep": False}
        if n_items is None:
            return LiveCurves.recommender(**how)
        return LiveCurves.tokenizer(n_items=n_items, **how)

    @property
    def beside(self) -> Path:
        """A folder for timings and logs, which do not count as outputs."""
        (self.folder / BESIDE).mkdir(exist_ok=True)
        return self.folder / BESIDE


@dataclass(frozen=True)
class State:
    """Whether a result can be used. action: what the store does about it; reason: a sentence for people.

    digest: of its outputs, also of damaged ones whose settings, inputs and code are unchanged; None if it is
    unknown before the work. record: of the result at its place, if it has one.
    """

    task: Task
    status: Literal["finished", "missing", "unfinished", "stale", "damaged"]
    reason: str
    digest: str | None = None
    record: Record | None = None
    elsewhere: Path | None = None  # an equal result that only has to be put in its place
    kept_despite: tuple[str, ...] = ()  # definitions that have changed since, of a result that is kept
    waits_for: State | None = None  # the first of its inputs that cannot be used, at whatever depth

    @property
    def usable(self) -> bool:
        """Whether the result may be read."""
        return self.status == "finished" and self.elsewhere is None

    @property
    def action(self) -> Literal["run", "keep"]:
        """What `make` does: "run", or "keep" where no work is needed."""
        return "keep" if self.status == "finished" else "run"


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
    problem = run_name_problem(run) if isinstance(run, str) else f"it is a {type(run).__name__}, not text"
    if problem:
        raise RunError(f"run={run!r} cannot name a run's folder: {problem}.")
    folder = (root or runs_root()) / run
    kept = _manifest(folder)
    has: dict[str, Any] = kept.get("parameters", {})
    wanted = {name: value for name, value in given.items() if value is not None}
    _check(**wanted)
    wanted = {
        name: as_json(name, value) if isinstance(value, Mapping) else value for name, value in wanted.items()
    }
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


def _check(dataset: Any = None, seed: Any = 0, **_: Any) -> None:
    if dataset is not None and not (isinstance(dataset, Mapping) and isinstance(dataset.get("name"), str)):
        raise RunError(f"dataset={dataset!r} lacks a name; write, for example, {{'name': 'bazaar'}}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise RunError(f"seed={seed!r} is not a whole number from 0 to {2**32 - 1}.")


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / "manifest.json"
    if not file.is_file():
        return {"format": SCHEMA, "pages": {}}
    try:
        return read_checked(file)
    except RunError as error:
        with contextlib.suppress(RunError):  # an older version wrote no checksum
            content = read_json(file)
            if isinstance(content, dict) and content.get("format") not in (None, SCHEMA):
                return content
        raise RunError(f"{error} Fix it with: genrec doctor {folder.name}") from error


class Run:
    """A run folder opened with one set of parameters; `config` is the preset's validated config.

    >>> run = open_run("mine", preset="gmc_tiny", overrides={"training.epochs": 3})
    >>> run.name, run.seed, run.config.training.epochs
    ('mine', 0, 3)
    """

    def __init__(
        self, folder: Path, parameters: dict[str, Any], config: Any, base: Path | None = None
    ) -> None:
        self.folder = folder
        self.parameters = parameters
        self.config = config
        self.base = base or Path.cwd()
        self.keep_old_code = bool(os.environ.get(KEEP_OLD_CODE))
        self.planned: dict[str, Run] = {}  # what a dry run takes in place of the runs on disk, by name
        self.reads: dict[str, str] = {}  # digests of the results that were read since the run was opened
        self._stage: str | None = None

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

    @property
    def read_only(self) -> bool:
        """Whether another version wrote the folder, so that this one can only read it."""
        return bool(self.manifest().get("format") != SCHEMA)

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands on disk."""
        return _manifest(self.folder)

    @contextmanager
    def edited_manifest(self) -> Iterator[dict[str, Any]]:
        """The manifest to be changed in place: read, changed, written as one step; untouched on an error."""
        self.require_writable()
        with held(self.folder / ".write.lock", "writing the manifest", 30.0):
            manifest = self.manifest()
            yield manifest
            write_checked(self.folder / "manifest.json", manifest)

    def require_writable(self) -> None:
        """Raise `RunError` if another version of genrec_lab made the run."""
        if self.read_only:
            made = self.manifest().get("format")
            raise RunError(
                f"The run {self.name!r} was made by another version of genrec_lab (format {made}, this one "
                f"has {SCHEMA}), so it can only be read. Choose another name to run it again."
            )

    def log(self, event: str, **fields: Any) -> None:
        """Append an event with its time to log.jsonl."""
        if processes.is_first() and not self.read_only:
            append_log(self.folder, {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **fields})

    def figure(self, name: str, figure: Figure, caption: str = "") -> Figure:
        """Save a figure for the report, and return it so that it can be the last line of a cell.

        The report leaves the figure out once one of the results that were read so far has changed.
        """
        if processes.is_first():
            self.require_writable()
            with held(self.folder / ".write.lock", "saving a figure", 30.0):
                figures.save(self.folder, name, figure, caption, self._stage, self.reads)
        return figure

    def survey(self, tasks: Iterable[Task], found: dict[str, State], verify: bool = True) -> None:
        """Put into `found`, by place, what `make` would do about tasks and about all that they depend on."""
        for task in tasks:
            self._survey(task, found, verify)

    def state(self, task: Task, verify: bool = True) -> State:
        """Whether a result can be used now; `verify` also hashes its files and those of its inputs."""
        return self._survey(task, {}, verify)

    def forget(self, stage: str) -> None:
        """Remove a stage's results, those kept aside and the checkpoints, so that all is made again."""
        with self._work_lock(f"removing {stage}"):
            for place in ("", "replaced", "making", "scratch"):
                shutil.rmtree(self.folder / place / stage, ignore_errors=True)

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
        from genrec_lab.lab.prepare import known_facts
        from genrec_lab.lab.rows import skipped_rows

        facts = known_facts(self)
        return {} if facts is None else skipped_rows(self.config, facts)

    def read(self, task: Task) -> Path:
        """The folder of a result, files verified; else a `RunError` that names the notebook to run."""
        owner = task.of or self
        state = self.state(task)
        if state.elsewhere is not None and task.of is None and processes.is_first():
            with self._work_lock(task.place):
                self._put_back(task, state)
            state = self.state(task)
        if not state.usable:
            again = "" if state.status == "missing" else "again "
            raise RunError(
                f"{task.place} of run {owner.name!r} cannot be used: {state.reason} Run the notebook "
                f"{task.stage}.ipynb {again}with the same parameters as this one."
            )
        self.reads[_identity(task)] = str(state.digest)
        return owner.folder / task.place

    def make(self, task: Task) -> Path:
        """The folder of a result, which is made first if necessary.

        Raises `RunError` when the folder is in use, an input cannot be used or the disk is (nearly) full. A
        killed task resumes from its checkpoints. Of several processes that share the work only the first
        writes; the others get a temporary folder.
        """
        self._stage = task.stage
        if not processes.is_first():
            with processes.beside_the_first(task.place) as beside:
                if beside is not None:
                    self._call(task, Work(*beside, task.title, self.seed))
            return self.read(task)
        state = self.state(task)
        if state.usable:
            processes.send_scratch(None)
        else:
            self.require_writable()
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._work_lock(task.place):
                self._make(task)
        if state.kept_despite:
            self.mark_kept(task)
        processes.wait()
        return self.read(task)

    def _make(self, task: Task) -> None:
        state = self.state(task)  # somebody else may have made it while this process waited
        if state.elsewhere is not None:
            self._put_back(task, state)
        if state.status == "finished":
            processes.send_scratch(None)
            return
        for one in task.flat_inputs().values():
            self.read(one)
        self._work(task)

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

    def mark_kept(self, task: Task) -> None:
        """Note in the record of a result that it is kept although its code has changed (--keep-old-code)."""
        folder = self.folder / task.place
        record, code = Record.read(folder), code_of(task.function, *task.components)
        if record is not None and record.code != code.digest and record.kept_code != code.digest:
            record.kept_code = code.digest
            record.kept_despite = changed(record.functions, code.functions)
            record.write(folder)

    def set_stage(self, stage: str) -> None:
        """Assign figures that are saved from now on to a stage that makes no results."""
        self._stage = stage

    # -- what a task's key is made of ------------------------------------------------------------------

    def _survey(self, task: Task, found: dict[str, State], verify: bool) -> State:
        place = _identity(task)
        if place in found:
            return found[place]
        owner = task.of or self
        inputs = {
            name: owner._survey(one if task.of is None else one.belonging_to(owner), found, verify)
            for name, one in task.flat_inputs().items()
        }
        found[place] = owner._judge(task, inputs, verify)
        return found[place]

    def _judge(self, task: Task, inputs: Mapping[str, State], verify: bool) -> State:
        folder = self.folder / task.place
        try:
            record = Record.read(folder)
        except (RunError, ValueError) as error:
            return State(task, "damaged", f"its record cannot be trusted ({error})")
        for state in inputs.values():
            if state.digest is None:
                first = state.waits_for or state
                reason = f"{first.task.place} is made first: {first.reason}"
                return State(
                    task, "missing" if record is None else "stale", reason, record=record, waits_for=first
                )
        made_of = _MadeOf.of(task, {name: str(state.digest) for name, state in inputs.items()})
        if record is None or record.key != made_of.key:
            for place, equal in self._equal_results(task, made_of.key):
                reason = "an equal result exists and is put in its place."
                return State(task, "finished", reason, equal.digest, record, place)
        if record is None:
            return State(task, *self._why_unfinished(task, made_of.key))
        kept_despite: list[str] = []
        if record.key != made_of.key:
            if reason := self._why_stale(record, made_of):
                return State(task, "stale", reason, record=record)
            kept_despite = changed(record.functions, made_of.code.functions)
        if verify and (broken := record.damage(folder)):
            return State(task, "damaged", f"{broken}.", record.digest, record)
        reason = f"finished {record.made.get('finished_at', '')} in {record.made.get('seconds', 0):.0f} s."
        if kept_despite:
            reason = f"kept although its code has changed ({listed(kept_despite)})."
        return State(task, "finished", reason, record.digest, record, kept_despite=tuple(kept_despite))

    def _why_stale(self, record: Record, now: _MadeOf) -> str:
        """Why a result is stale; empty if it is kept although its code has changed."""
        if other := differences(record.settings, now.settings):
            return f"it was made with other settings ({listed(other)})."
        if other := changed(record.inputs, now.inputs):
            return f"what it reads has changed since ({listed(other)})."
        if record.kept_code == now.code.digest or self.keep_old_code:
            return ""
        return f"the code that made it has changed ({listed(changed(record.functions, now.code.functions))})."

    def _equal_results(self, task: Task, key: str) -> Iterator[tuple[Path, Record]]:
        """Intact results with a key: finished and not yet at their place, replaced, or another row's."""
        places = [self.folder / "making" / task.place, self.folder / "replaced" / task.place]
        for folder in (*places, *folders_of_results(self.folder / task.stage)):
            with contextlib.suppress(RunError, ValueError):
                record = Record.read(folder)
                if record is not None and record.key == key and not record.damage(folder):
                    yield folder, record

    def _why_unfinished(self, task: Task, key: str) -> tuple[Literal["missing", "unfinished"], str]:
        attempt = self.folder / "scratch" / task.place / key[:16] / "attempt.json"
        if not attempt.is_file():
            return "missing", "it has not been made yet."
        error = _attempt(attempt).get("error")
        return "unfinished", f"it failed ({error})." if error else "it was interrupted."

    # -- making -----------------------------------------------------------------------------------------

    def _call(self, task: Task, work: Work) -> None:
        folders = {
            argument: self.read(value)
            if isinstance(value, Task)
            else {key: self.read(one) for key, one in value.items()}
            for argument, value in task.inputs.items()
        }
        with registry.relative_to(self.base):
            task.function(work, **task.given, **folders)

    def _work(self, task: Task) -> None:
        inputs = task.flat_inputs().items()
        made_of = _MadeOf.of(task, {name: str(self.state(one).digest) for name, one in inputs})
        if shutil.disk_usage(self.folder).free < _LEAST_FREE_BYTES:
            raise RunError(disk_full_message(self.folder, task.place))
        folder, scratches = self.folder / "making" / task.place, self.folder / "scratch" / task.place
        scratch = scratches / made_of.key[:16]
        for former in scratches.iterdir() if scratches.is_dir() else ():
            if former != scratch:  # checkpoints under other settings or other code
                shutil.rmtree(former)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        scratch.mkdir(parents=True, exist_ok=True)
        attempt = scratch / "attempt.json"
        event = "resumed" if attempt.is_file() else "started"
        before = {"attempts": 0, "seconds": 0.0, **_attempt(attempt)}
        tried = {"attempts": before["attempts"] + 1, "seconds": before["seconds"], "error": None}
        write_json(attempt, tried)
        self.log(event, place=task.place)
        processes.send_scratch(scratch)
        work, began = Work(folder, scratch, task.title, self.seed), time.strftime(_CLOCK)
        clock = time.monotonic()
        try:
            self._call(task, work)
            processes.wait()
            seconds = round(tried["seconds"] + time.monotonic() - clock, 3)
            made = circumstances(made_of.settings) | {
                "started_at": began, "finished_at": time.strftime(_CLOCK),
                "seconds": seconds, "attempts": tried["attempts"],
            }  # fmt: skip
            outputs, beside = hashes(folder)
            Record(
                stage=task.stage, name=task.name, row=task.row, scope=task.scope, key=made_of.key,
                settings=made_of.settings, inputs=made_of.inputs, code=made_of.code.digest,
                functions=made_of.code.functions, outputs=outputs, beside=beside, digest=digest_of(outputs),
                summary=work.summary, made=made, parameters=self.parameters,
            ).write(folder)  # fmt: skip
            self._place(folder, task.place)
        except BaseException as error:
            require_folder(self.folder)
            self._failed(task, attempt, tried, error, time.monotonic() - clock)
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        self.log("finished", place=task.place, seconds=seconds)

    def _failed(
        self, task: Task, attempt: Path, tried: dict[str, Any], error: BaseException, seconds: float
    ) -> None:
        """Note why a task did not finish; its checkpoints stay for the next time."""
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
        message = None if stopped else f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
        try:
            write_json(attempt, tried | {"seconds": tried["seconds"] + seconds, "error": message})
            self.log("interrupted" if stopped else "failed", place=task.place, error=message)
        except OSError:
            if not is_disk_full(error):
                raise
        if is_disk_full(error):
            raise RunError(disk_full_message(self.folder, task.place)) from error

    def _put_back(self, task: Task, state: State) -> None:
        """Put an equal result, made earlier or for another row, in its place."""
        assert state.elsewhere is not None  # noqa: S101 - the caller's condition
        kept = self.folder / "making" / "put back"
        if state.elsewhere.is_relative_to(self.folder / task.stage):
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(state.elsewhere, kept)
        else:
            move(state.elsewhere, kept)
        record = Record.read(kept)
        assert record is not None  # noqa: S101 - it was read when the state was found
        own = {"stage": task.stage, "name": task.name, "row": task.row, "scope": task.scope}
        record.model_copy(update=own).write(kept)
        self._place(kept, task.place)
        self.log("put_back", place=task.place)

    def _place(self, made: Path, place: str) -> None:
        """Put a finished result in its place; the one that was there is kept aside."""
        target = self.folder / place
        if target.exists():
            move(target, self.folder / "replaced" / place)
        move(made, target)

    def _work_lock(self, purpose: str) -> AbstractContextManager[None]:
        return held(self.folder / ".work.lock", purpose, _LOCK_PATIENCE_SECONDS)


class _MadeOf(NamedTuple):
    """What a result's key is made of: settings as JSON values, digests of what it reads by argument, code."""

    settings: dict[str, Any]
    inputs: dict[str, str]
    code: Code

    @classmethod
    def of(cls, task: Task, inputs: dict[str, str]) -> _MadeOf:
        settings = {name: _jsonable(value) for name, value in task.given.items()}
        return cls(as_json("given", settings), inputs, code_of(task.function, *task.components))

    @property
    def key(self) -> str:
        made_of = {"settings": self.settings, "inputs": self.inputs, "code": self.code.digest}
        return hash_json({**made_of, "schema": SCHEMA})


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): _jsonable(one) for name, one in value.items()}
    return [_jsonable(one) for one in value] if isinstance(value, tuple | list) else value


def _identity(task: Task) -> str:
    return task.place if task.of is None else f"{task.of.name}:{task.place}"


def _attempt(file: Path) -> dict[str, Any]:
    with contextlib.suppress(RunError, OSError):  # there is none, or a kill or a full disk cut it off
        return dict(read_json(file))
    return {}


__all__ = ["RECORD", "Run", "RunError", "State", "Task", "Work", "existing_run", "open_run", "runs_root"]
