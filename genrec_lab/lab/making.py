"""The results in a run's folder: judged, read, and made where that is necessary."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from genrec_lab import registry
from genrec_lab.lab import processes
from genrec_lab.lab.code import code_of
from genrec_lab.lab.files import (
    RunError,
    append_log,
    disk_full_message,
    hash_json,
    held,
    is_disk_full,
    read_checked,
    read_json,
    require_folder,
    write_checked,
    write_json,
)
from genrec_lab.lab.provenance import circumstances
from genrec_lab.lab.results import (
    SCHEMA,
    Record,
    changed,
    differences,
    folders_of_results,
    hashes,
    listed,
    move,
)
from genrec_lab.lab.tasks import State, Task, Work

KEEP_OLD_CODE = "GENREC_KEEP_OLD_CODE"  # set in kernels by --keep-old-code
_LOCK_PATIENCE_SECONDS = 3.0  # a kernel whose starter was killed needs about a second to notice and end
_LEAST_FREE_BYTES = 64 * 2**20  # below this nothing is begun: better now than after a training
_LONGEST_ERROR = 2000
_CLOCK = "%Y-%m-%d %H:%M:%S"
_ATTEMPT = "attempt.json"  # beside a task's checkpoints: how often it was tried, for how long, and its error


class Results:
    """A run's folder with its manifest, its log and its results."""

    def __init__(self, folder: Path, parameters: dict[str, Any], base: Path | None = None) -> None:
        self.folder = folder
        self.parameters = parameters
        self.base = base or Path.cwd()
        self.keep_old_code = bool(os.environ.get(KEEP_OLD_CODE))
        self.reads: dict[str, str] = {}  # digests of the results that were read since the run was opened
        self.stage: str | None = None  # the one whose results are made

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.folder.name

    @property
    def seed(self) -> int:
        """The seed that every random step of the run starts from."""
        return int(self.parameters["seed"])

    @property
    def read_only(self) -> bool:
        """Whether another version wrote the folder, so that this one can only read it."""
        return bool(self.manifest().get("format") != SCHEMA)

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands on disk."""
        return read_manifest(self.folder)

    @contextlib.contextmanager
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

    def state(self, task: Task, verify: bool = True, known: dict[str, State] | None = None) -> State:
        """Whether a result can be used now, and what `make` does about it.

        verify: also hash its files and those of its inputs. known: states by place, taken from there, and
        put there with those of all inputs.
        """
        known = {} if known is None else known
        if task.identity not in known:
            owner = task.of or self
            inputs = {
                name: owner.state(one if task.of is None else one.belonging_to(owner), verify, known)
                for name, one in task.flat_inputs().items()
            }
            known[task.identity] = owner._judge(task, inputs, verify)
        return known[task.identity]

    def read(self, task: Task) -> Path:
        """The folder of a result, files verified; else a `RunError` that names the notebook to run."""
        owner = task.of or self
        state = self.state(task)
        if state.elsewhere is not None and task.of is None and processes.is_first():
            with self._work_lock(task.place):
                self._put_back(task, state.elsewhere)
            state = self.state(task)
        if not state.usable:
            again = "" if state.status == "missing" else "again "
            raise RunError(
                f"{task.place} of run {owner.name!r} cannot be used: {state.reason} Run the notebook "
                f"{task.stage}.ipynb {again}with the same parameters as this one."
            )
        self.reads[task.identity] = str(state.digest)
        return owner.folder / task.place

    def make(self, task: Task) -> Path:
        """The folder of a result, which is made first if necessary.

        Raises `RunError` when the folder is in use, an input cannot be used or the disk is (nearly) full. A
        killed task resumes from its checkpoints. Of several processes that share the work only the first
        writes; the others get a temporary folder.
        """
        self.stage = task.stage
        if not processes.is_first():
            with processes.beside_the_first(task.place) as beside:
                if beside is not None:
                    self._call(task, *beside)
            return self.read(task)
        state = self.state(task)
        if state.usable:
            processes.send_scratch(None)
        else:
            self.require_writable()
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._work_lock(task.place):
                state = self.state(task)  # another process may have made it while this one waited
                if state.elsewhere is not None:
                    self._put_back(task, state.elsewhere)
                if state.action == "keep":
                    processes.send_scratch(None)
                else:
                    self._work(task)
        if state.kept_despite:
            self.mark_kept(task)
        processes.wait()
        return self.read(task)

    def mark_kept(self, task: Task) -> None:
        """Note in the record of a result that it is kept although its code has changed (--keep-old-code)."""
        folder = self.folder / task.place
        record, code = Record.read(folder), code_of(task.function, *task.components)
        if record is not None and record.code != code.digest and record.kept_code != code.digest:
            record.kept_code = code.digest
            record.kept_despite = changed(record.functions, code.functions)
            record.write(folder)

    def forget(self, stage: str) -> None:
        """Remove a stage's results, those kept aside and the checkpoints, so that all is made again."""
        with self._work_lock(f"removing {stage}"):
            for place in ("", "replaced", "making", "scratch"):
                shutil.rmtree(self.folder / place / stage, ignore_errors=True)

    # -- judging ----------------------------------------------------------------------------------------

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
                status: Literal["missing", "stale"] = "missing" if record is None else "stale"
                return State(task, status, reason, record=record, waits_for=first)
        now = task.wanted({name: str(state.digest) for name, state in inputs.items()})
        if record is None or record.key != now.key:
            for place, equal in self._equal_results(task, now.key):
                reason = "an equal result exists and is put in its place."
                return State(task, "finished", reason, equal.digest, record, place)
        if record is None:
            attempt = _attempt(self._scratch(now))
            if attempt is None:
                return State(task, "missing", "it has not been made yet.")
            failed = attempt.get("error")
            return State(task, "unfinished", f"it failed ({failed})." if failed else "it was interrupted.")
        kept_despite: list[str] = []
        if record.key != now.key:
            kept_despite = changed(record.functions, now.functions)
            if other := differences(record.settings, now.settings):
                why = f"it was made with other settings ({listed(other)})."
            elif other := changed(record.inputs, now.inputs):
                why = f"what it reads has changed since ({listed(other)})."
            elif record.kept_code == now.code or self.keep_old_code:
                why = ""
            else:
                why = f"the code that made it has changed ({listed(kept_despite)})."
            if why:
                return State(task, "stale", why, record=record)
        if verify and (broken := record.damage(folder)):
            return State(task, "damaged", f"{broken}.", record.digest, record)
        reason = f"finished {record.made.get('finished_at', '')} in {record.made.get('seconds', 0):.0f} s."
        if kept_despite:
            reason = f"kept although its code has changed ({listed(kept_despite)})."
        return State(task, "finished", reason, record.digest, record, kept_despite=tuple(kept_despite))

    def _equal_results(self, task: Task, key: str) -> Iterator[tuple[Path, Record]]:
        """Intact results with a key: finished and not yet at their place, replaced, or another row's."""
        places = [self.folder / "making" / task.place, self.folder / "replaced" / task.place]
        for folder in (*places, *folders_of_results(self.folder / task.stage)):
            with contextlib.suppress(RunError, ValueError):
                record = Record.read(folder)
                if record is not None and record.key == key and not record.damage(folder):
                    yield folder, record

    # -- making -----------------------------------------------------------------------------------------

    def _call(self, task: Task, folder: Path, scratch: Path) -> dict[str, Any]:
        """Call a task's function; return the summary that it wrote."""
        work = Work(folder, scratch, task.title, self.seed)
        folders = {
            argument: self.read(value)
            if isinstance(value, Task)
            else {key: self.read(one) for key, one in value.items()}
            for argument, value in task.inputs.items()
        }
        with registry.relative_to(self.base):
            task.function(work, **task.given, **folders)
        return work.summary

    def _work(self, task: Task) -> None:
        inputs = task.flat_inputs()
        for one in inputs.values():
            self.read(one)
        record = task.wanted({name: self.reads[one.identity] for name, one in inputs.items()})
        if shutil.disk_usage(self.folder).free < _LEAST_FREE_BYTES:
            raise RunError(disk_full_message(self.folder, task.place))
        folder, scratch = self.folder / "making" / task.place, self._scratch(record)
        for former in scratch.parent.iterdir() if scratch.parent.is_dir() else ():
            if former != scratch:  # checkpoints under other settings or other code
                shutil.rmtree(former)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        scratch.mkdir(parents=True, exist_ok=True)
        attempt = _attempt(scratch)
        self.log("started" if attempt is None else "resumed", place=task.place)
        attempt = {"attempts": 0, "seconds": 0.0, **(attempt or {}), "error": None}
        attempt["attempts"] += 1
        write_json(scratch / _ATTEMPT, attempt)
        processes.send_scratch(scratch)
        before, began, clock = attempt["seconds"], time.strftime(_CLOCK), time.monotonic()
        try:
            record.summary = self._call(task, folder, scratch)
            processes.wait()
            attempt["seconds"] = round(before + time.monotonic() - clock, 3)
            record.made = circumstances(record.settings) | {
                "started_at": began, "finished_at": time.strftime(_CLOCK),
                "seconds": attempt["seconds"], "attempts": attempt["attempts"],
            }  # fmt: skip
            record.parameters = self.parameters
            record.outputs, record.beside = hashes(folder)
            record.digest = hash_json({path: entry["sha256"] for path, entry in record.outputs.items()})
            record.write(folder)
            self._place(folder, task.place)
        except BaseException as error:
            require_folder(self.folder)
            stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
            attempt["seconds"] = before + time.monotonic() - clock
            attempt["error"] = None if stopped else f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
            full = is_disk_full(error)
            with contextlib.suppress(OSError) if full else contextlib.nullcontext():
                write_json(scratch / _ATTEMPT, attempt)  # its checkpoints stay for the next time
                event = "interrupted" if stopped else "failed"
                self.log(event, place=task.place, error=attempt["error"])
            if full:
                raise RunError(disk_full_message(self.folder, task.place)) from error
            raise
        shutil.rmtree(scratch, ignore_errors=True)
        self.log("finished", place=task.place, seconds=attempt["seconds"])

    def _put_back(self, task: Task, elsewhere: Path) -> None:
        """Put an equal result, made earlier or for another row, in its place."""
        kept = self.folder / "making" / "put back"
        if elsewhere.is_relative_to(self.folder / task.stage):
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(elsewhere, kept)
        else:
            move(elsewhere, kept)
        record = Record.read(kept)
        assert record is not None  # noqa: S101 - it was read when the state was found
        record.stage, record.name, record.row, record.scope = task.stage, task.name, task.row, task.scope
        record.write(kept)
        self._place(kept, task.place)
        self.log("put_back", place=task.place)

    def _place(self, made: Path, place: str) -> None:
        """Put a finished result in its place; the one that was there is kept aside."""
        target = self.folder / place
        if target.exists():
            move(target, self.folder / "replaced" / place)
        move(made, target)

    def _scratch(self, record: Record) -> Path:
        return self.folder / "scratch" / record.stage / record.name / record.key[:16]

    def _work_lock(self, purpose: str) -> AbstractContextManager[None]:
        return held(self.folder / ".work.lock", purpose, _LOCK_PATIENCE_SECONDS)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a run's manifest; an empty one if there is none. Raises RunError if it was changed."""
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


def _attempt(scratch: Path) -> dict[str, Any] | None:
    """What is noted of the attempts to make a result so far; None before the first."""
    file = scratch / _ATTEMPT
    if not file.is_file():
        return None
    with contextlib.suppress(RunError, OSError):  # a kill or a full disk cut it off
        return dict(read_json(file))
    return {}
