"""Atomic writes and content hashes: what makes a run folder survive a kill at any moment."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec_lab.data.whole_files import whole_file

_HASH_CHUNK_BYTES = 1 << 20
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows knows no quota error


class RunError(RuntimeError):
    """What is wrong with a run folder, a run file or a stage, and how to mend it."""


def write_text(file: Path, text: str) -> None:
    """Write UTF-8 text so that after a crash the file holds either the old content or the new, never a part.

    Two writers of one file must be kept apart by a lock, since the temporary name is fixed (a fixed name
    leaves no litter behind after a kill).
    """
    with whole_file(file) as partial, partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    if sys.platform != "win32":  # a rename is only durable once its directory is on disk
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_json(file: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused with a ValueError, since JSON has none."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(file: Path) -> Any:
    """Read a JSON file; raises `RunError` with file and line where it is malformed."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else f"byte {error.start}"
        raise RunError(
            f"{file} is not readable JSON ({where}: {error}). Restore it from a copy, or delete the "
            f"folder {file.parent} and run again."
        ) from error


def as_json(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it is read back from JSON, tuples as lists; raises `RunError` at what JSON cannot hold.

    What was written and what is given can then be compared by `==`.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{name}={content!r} cannot be kept in the manifest ({error}). Use texts, finite "
            "numbers, booleans, None, lists and mappings only; paths as texts."
        ) from error
    return plain


def hash_file(file: Path) -> str:
    """SHA-256 of a file's content in hex, read in pieces so that its size does not matter."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(content: Any) -> str:
    """SHA-256 in hex of a JSON value, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """`{relative path: {"sha256", "bytes"}}` of every file below `folder`, sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): {"sha256": hash_file(file), "bytes": file.stat().st_size}
        for file in files
    }


def damage(folder: Path, outputs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say how the files below `folder` differ from their recorded sizes and hashes; None: they do not."""
    for path, recorded in outputs.items():
        file = folder / path
        if not file.is_file():
            return f"its file {path} is missing"
        if file.stat().st_size != recorded["bytes"]:
            return f"its file {path} has {file.stat().st_size:,} bytes instead of {recorded['bytes']:,}"
        if hash_file(file) != recorded["sha256"]:
            return f"the content of its file {path} was changed after the stage finished"
    return None


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or the one that caused it, comes from a full disk or an exhausted quota.

    Native writers (parquet, safetensors) wrap the system's error in their own type, so its text is read too.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
