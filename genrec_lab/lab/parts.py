"""Parts of a stage: folders of its outputs, a row's each, that stay when other rows of the run change.

A stage's key names everything that any of its rows follows from. A part names what it alone follows from, so
that a run with one row more trains that row, and takes the others over from its earlier execution.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

import genrec_lab
from genrec_lab.lab import sharing
from genrec_lab.lab.execution import PART_FILE, Stage, earlier_parts
from genrec_lab.lab.files import RunError, as_json, damage, hash_folder, hash_json, read_json, write_json
from genrec_lab.lab.keys import select_parameters
from genrec_lab.lab.manifest import circumstances
from genrec_lab.lab.store import Run


@contextmanager
def part(stage: Stage, name: str, made_from: Mapping[str, Any]) -> Iterator[bool]:
    """Make a part of a stage, the folder `name`: yields whether it is there already, so that none is left.

    It is where an earlier execution of the stage, finished or killed, made it from the same (`made_from`,
    JSON values) and its files are intact. A part without a folder is made each time. Several processes that
    share the work take nothing over, for they must all do the same.
    """
    folder = stage.folder / name
    key = hash_json(as_json("made_from", {**made_from, "version": genrec_lab.__version__}))
    taken = not sharing.several() and _take_over(stage, name, key)
    yield taken
    if not taken and folder.is_dir():
        outputs = hash_folder(folder)
        write_json(folder / PART_FILE, {"key": key, "outputs": outputs, "revision": _revision()})


def settings_of(run: Run, config: BaseModel, uses: Sequence[str]) -> dict[str, Any]:
    """What a row's own config has for the fields that a stage uses; other rows' names are none of it."""
    own = [name for name in uses if name != "compare"]
    return select_parameters(run.dataset, config.model_dump(mode="json"), run.seed, own)


def outputs_of(run: Run, stage: str, folder: str | None = None) -> dict[str, str]:
    """The hashes of a finished stage's files, or of those in one folder of it, by their path."""
    outputs = run.manifest()["stages"][stage]["outputs"]
    return {
        path: record["sha256"]
        for path, record in outputs.items()
        if folder is None or path.startswith(f"{folder}/")
    }


def _take_over(stage: Stage, name: str, key: str) -> bool:
    for folder in earlier_parts(stage.folder.parent, stage.name, name):
        try:
            record = read_json(folder / PART_FILE)
        except RunError:  # damaged: it is made again
            continue
        if record.get("key") == key and damage(folder, record["outputs"]) is None:
            shutil.copytree(folder, stage.folder / name)
            print(
                f"{name}: taken over, for nothing that it is made from has changed{_told(record)}", flush=True
            )
            return True
    return False


def _revision() -> str | None:
    revision: str | None = circumstances()["source"]["revision"]
    return revision


def _told(record: Mapping[str, Any]) -> str:
    """What to say of a part that other code made: settings and data are not all that it follows from."""
    made, now = record.get("revision"), _revision()
    if made is None or now is None or made == now:
        return ""
    return f"; revision {made[:12]} made it, and this is {now[:12]} (--no-resume makes all anew)"
