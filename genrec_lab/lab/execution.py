"""One execution of a stage: what happens to its folder and its record when it starts, finishes or fails."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_lab.lab import results
from genrec_lab.lab.files import RunError, damage, hash_folder, hash_json, is_disk_full
from genrec_lab.lab.manifest import circumstances, edited_manifest, read_manifest

_LEAST_FREE_BYTES = 64 * 2**20  # below this a stage does not start: better now than after its training
_LONGEST_ERROR = 2000
# In the folder of a whole part of a stage (`run.parts`): what it was made from, and its files' hashes.
PART_FILE = "part.json"
_PARTS = "parts"  # of the outputs set aside: those of executions that did not finish


@dataclass(frozen=True)
class Stage:
    """A stage while it is being worked on.

    name: equal to the notebook's file name without ending. folder: for its outputs.
    scratch: for checkpoints; survives a kill, removed when the stage finishes or its parameters change.
    is_finished: an earlier execution with the same key finished and its files are intact: skip the work.
    is_resumed: an earlier execution with the same key did not finish, and `scratch` is as it left it.
    """

    name: str
    folder: Path
    scratch: Path
    is_finished: bool
    is_resumed: bool


def start(run_folder: Path, name: str, record: dict[str, Any]) -> Stage:
    """Begin a stage whose `record` holds its key: keep what the same key left, put everything else away.

    The stage's folder is emptied unless it is finished, so that it never mixes two executions; checkpoints
    stay only with the key that they were made under. Finished outputs of another key, and whole parts of
    unfinished ones, are set aside until the new ones are finished. Raises `RunError` when the disk is nearly
    full.
    """
    folder, scratch = run_folder / name, run_folder / "scratch" / name
    with edited_manifest(run_folder) as manifest:
        earlier = manifest["stages"].get(name)
        if _finished(earlier, record, folder):
            return Stage(name, folder, scratch, is_finished=True, is_resumed=False)
        replaced = _replaced_folder(run_folder, name)
        if _finished(manifest["replaced"].get(name), record, replaced / "files"):
            clear(run_folder, name, keep_scratch=False)
            (replaced / "files").rename(folder)
            results.restore_stage_results(run_folder, replaced)
            manifest["stages"][name] = manifest["replaced"][name]
            discard_replaced(run_folder, name, manifest)
            return Stage(name, folder, scratch, is_finished=True, is_resumed=False)
        if shutil.disk_usage(run_folder).free < _LEAST_FREE_BYTES:
            raise RunError(disk_full_message(run_folder, name))
        same = earlier is not None and earlier["key"] == record["key"]
        if earlier is not None and earlier["status"] == "finished" and not same and folder.exists():
            _set_aside(run_folder, name, manifest)
        if earlier is not None and earlier["status"] != "finished":
            _keep_parts(run_folder, name)
        resumed = same and earlier["status"] != "finished"
        clear(run_folder, name, keep_scratch=resumed)
        folder.mkdir(parents=True)
        scratch.mkdir(parents=True, exist_ok=True)
        manifest["stages"][name] = record | {
            "status": "started",
            "started_at": time.strftime("%Y-%m-%d %H:%M:%S"),
            "attempts": earlier["attempts"] + 1 if resumed else 1,
            "seconds": earlier["seconds"] if resumed else 0.0,
            "revision": circumstances()["source"]["revision"],
            "error": None,
        }
    return Stage(name, folder, scratch, is_finished=False, is_resumed=resumed)


def finish(run_folder: Path, stage: Stage, seconds: float) -> None:
    """Record the hashes of a stage's files and that it finished; its checkpoints are not needed any more.

    `seconds` is this execution's time; a stage that was finished before keeps the time that it took then.
    """
    outputs = hash_folder(stage.folder)
    with edited_manifest(run_folder) as manifest:
        record = manifest["stages"][stage.name]
        record |= {"status": "finished", "outputs": outputs, "digest": hash_json(outputs)}
        if not stage.is_finished:
            record["seconds"] = round(record["seconds"] + seconds, 3)
            record["finished_at"] = time.strftime("%Y-%m-%d %H:%M:%S")
        discard_replaced(run_folder, stage.name, manifest)
    shutil.rmtree(stage.scratch, ignore_errors=True)


def fail(run_folder: Path, stage: Stage, error: BaseException, seconds: float) -> None:
    """Record why a stage did not finish; its checkpoints stay for the next execution."""
    interrupted = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
    try:
        with edited_manifest(run_folder) as manifest:
            record = manifest["stages"][stage.name]
            record["status"] = "interrupted" if interrupted else "failed"
            record["error"] = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
            record["seconds"] = round(record["seconds"] + seconds, 3)
    except OSError:  # on a full disk the manifest stays at "started", which means unfinished just as well
        if not is_disk_full(error):
            raise


def clear(run_folder: Path, name: str, keep_scratch: bool) -> None:
    """Remove a stage's files, metrics and figures; the caller holds the write lock."""
    results.drop_stage_results(run_folder, name)
    for folder in [run_folder / name] + ([] if keep_scratch else [run_folder / "scratch" / name]):
        if folder.exists():
            shutil.rmtree(folder)


def earlier_parts(run_folder: Path, name: str, part: str) -> list[Path]:
    """Where earlier executions of a stage left a part, the latest first."""
    replaced = _replaced_folder(run_folder, name)
    found = (replaced / _PARTS / part, replaced / "files" / part)
    return [folder for folder in found if (folder / PART_FILE).is_file()]


def discard_replaced(run_folder: Path, name: str, manifest: dict[str, Any]) -> None:
    """Remove the outputs that were set aside for a stage; the manifest is being edited."""
    manifest["replaced"].pop(name, None)
    replaced = _replaced_folder(run_folder, name)
    if replaced.exists():
        shutil.rmtree(replaced)


def _replaced_folder(run_folder: Path, name: str) -> Path:
    return run_folder / "replaced" / name


def _keep_parts(run_folder: Path, name: str) -> None:
    """Put the whole parts of a stage that did not finish where the next execution finds them."""
    for file in (run_folder / name).glob(f"*/{PART_FILE}"):
        kept = _replaced_folder(run_folder, name) / _PARTS / file.parent.name
        if kept.exists():
            shutil.rmtree(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        file.parent.rename(kept)


def _set_aside(run_folder: Path, name: str, manifest: dict[str, Any]) -> None:
    discard_replaced(run_folder, name, manifest)
    replaced = _replaced_folder(run_folder, name)
    replaced.mkdir(parents=True)
    (run_folder / name).rename(replaced / "files")
    results.drop_stage_results(run_folder, name, into=replaced)
    manifest["replaced"][name] = manifest["stages"][name]


def _finished(former: dict[str, Any] | None, record: dict[str, Any], folder: Path) -> bool:
    """Whether a former record finished under the same key, its files being what they were."""
    if former is None or former["key"] != record["key"] or former["status"] != "finished":
        return False
    return damage(folder, former["outputs"]) is None


def disk_full_message(run_folder: Path, name: str) -> str:
    """What to tell whoever's disk filled up in a stage: what is safe, and how to go on."""
    stages = read_manifest(run_folder)["stages"]
    safe = [other for other, record in stages.items() if record["status"] == "finished" and other != name]
    free = shutil.disk_usage(run_folder).free / 2**20
    return (
        f"The disk that holds {run_folder} is full ({free:,.0f} MB free) in {name}. Safe on it: "
        f"{', '.join(safe) or 'no finished stage yet'}, and the last checkpoint of {name} if it wrote one. "
        "Free some space and run this again: it goes on from there. Or move the run's folder to another disk "
        "and set GENREC_RUNS to the folder that holds it there."
    )
