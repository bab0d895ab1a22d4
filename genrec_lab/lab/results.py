"""One result on disk: a folder of outputs, timings and logs, and the record of what made them.

A folder `<run>/<stage>/<name>` holds the outputs. Its subfolder `beside/` holds timings and logs, which
change no number, and `result.json` the record: key, settings, inputs, code, hashes of all files, the
circumstances, and a checksum of itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from genrec_lab.data.whole_files import sha256_of
from genrec_lab.lab.files import RunError, hash_folder, read_checked, read_json, write_checked

RECORD = "result.json"
BESIDE = "beside"
SCHEMA = 2
_MOST_SHOWN = 5
_UNSET = "not set"


class Record(BaseModel):
    """What made a result, and the hashes of its files.

    key: of settings, inputs and code; digest: of the outputs alone, by which what follows knows them.
    """

    schema_version: int = SCHEMA
    stage: str
    name: str
    row: str
    scope: str
    key: str
    settings: dict[str, Any]  # what the function was given
    inputs: dict[str, str]  # by argument, the digests of the results that it was given
    code: str
    functions: dict[str, str]
    outputs: dict[str, dict[str, Any]] = {}  # {path: {"sha256", "bytes"}}
    beside: dict[str, dict[str, Any]] = {}
    digest: str = ""
    summary: dict[str, Any] = {}
    made: dict[str, Any] = {}  # revision, threads, device, versions, time: the circumstances
    parameters: dict[str, Any] = {}  # of the run at that time, from which a lost manifest is rebuilt
    kept_code: str | None = None  # of --keep-old-code: the code despite which the result was kept
    kept_despite: list[str] = []  # and the definitions that differ from it

    def write(self, folder: Path) -> None:
        """Write the record with its checksum; the last file of a result."""
        write_checked(folder / RECORD, self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """Read a folder's record; None if there is none. Raises RunError if it was changed."""
        file = folder / RECORD
        if not file.is_file():
            return None
        status = file.stat()
        stamp = status.st_mtime_ns, status.st_size
        known = _RECORDS.get(file)
        if known is None or known[0] != stamp:
            known = _RECORDS[file] = stamp, cls.model_validate(read_checked(file))
        return known[1].model_copy()

    def damage(self, folder: Path) -> str:
        """Say how a result's files differ from what was recorded; empty if they do not."""
        recorded = {**self.outputs, **self.beside}
        for path, entry in recorded.items():
            file = folder / path
            if not file.is_file():
                return f"its file {path} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"its file {path} has {file.stat().st_size:,} bytes instead of {entry['bytes']:,}"
            if checked_hash(file) != entry["sha256"]:
                return f"the content of its file {path} was changed"
        for file in sorted(folder.rglob("*")):
            path = file.relative_to(folder).as_posix()
            if file.is_file() and path != RECORD and path not in recorded:
                return f"it holds the file {path}, which does not belong to it"
        return ""


def hashes(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return `{path: {"sha256", "bytes"}}` of a folder's outputs, and of its timings and logs."""
    found = hash_folder(folder)
    beside = {path: entry for path, entry in found.items() if path.startswith(f"{BESIDE}/")}
    return {path: entry for path, entry in found.items() if path not in beside}, beside


def folders_of_results(stage: Path) -> Iterator[Path]:
    """Yield the folders below a stage's folder that hold a result."""
    for file in sorted(stage.rglob(RECORD)):
        yield file.parent


def records_in(run: Path) -> Iterator[tuple[Path, Record | None, str]]:
    """Yield the folder of each result of a run, and its record, or None and why it cannot be trusted."""
    for stage in sorted(run.glob("[0-9][0-9]_*")):
        for folder in folders_of_results(stage):
            try:
                yield folder, Record.read(folder), ""
            except (RunError, ValueError) as error:
                yield folder, None, f"its record cannot be trusted ({error})"


def move(source: Path, target: Path) -> None:
    """Put a result's folder in place of another one."""
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changed values of two nested mappings as lines "tokenizer.levels: 3 before, 4 now"."""
    before, after = dict(flat(old)), dict(flat(new))
    return [
        f"{name}: {before.get(name, _UNSET)} before, {after.get(name, _UNSET)} now"
        for name in changed(before, after)
    ]


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names whose values differ in two mappings, or that only one of them has."""
    return [name for name in {**old, **new} if old.get(name, _UNSET) != new.get(name, _UNSET)]


def listed(things: Sequence[str]) -> str:
    """The first few of many, and how many more there are."""
    more = len(things) - _MOST_SHOWN
    return "; ".join(things[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted names."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_RECORDS: dict[Path, tuple[tuple[int, int], Record]] = {}
_HASHED: dict[tuple[str, int, int], str] = {}


def checked_hash(file: Path) -> str:
    """Return a file's SHA-256; a file with the size and time of an earlier look is not read again."""
    status = file.stat()
    seen = str(file), status.st_size, status.st_mtime_ns
    if seen not in _HASHED:
        _HASHED[seen] = sha256_of(file)
    return _HASHED[seen]


def forget_hashes() -> None:
    """Read all files again at the next look."""
    _HASHED.clear()
    _RECORDS.clear()


# Fields of an epoch's record that say how long it took; they are kept apart from the outputs.
_TIMINGS = ("seconds", "samples_per_second", "items_per_second", "mfu")


def write_records(folder: Path, name: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the records of a training's epochs as `<name>.json`, and how long each took into `beside/`."""
    (folder / BESIDE).mkdir(parents=True, exist_ok=True)
    found = [{key: value for key, value in record.items() if key not in _TIMINGS} for record in records]
    timings = [{key: value for key, value in record.items() if key in _TIMINGS} for record in records]
    (folder / f"{name}.json").write_text(json.dumps(found))
    (folder / BESIDE / f"{name}.json").write_text(json.dumps(timings))


def read_records(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read what `write_records` wrote; no records where it wrote none. Raises RunError for damaged files."""
    file = folder / f"{name}.json"
    if not file.is_file():
        return []
    records, timings = (read_json(one) for one in (file, folder / BESIDE / f"{name}.json"))
    return [{**record, **timing} for record, timing in zip(records, timings, strict=True)]
