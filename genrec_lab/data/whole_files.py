"""Atomic writes of files and folders: they are written under another name, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

_ENDING = ".partial"


@contextmanager
def whole_file(file: Path, *, several_writers: bool = False) -> Iterator[Path]:
    """Yield a path to write to; it replaces `file` when the block ends, and is removed if it fails.

    The folder must exist. If the process is killed, the old or the new file is complete, and at most one
    `<name>.partial` is left, which the next writer overwrites. several_writers: use a new path each time, for
    files that several processes may write at once.
    """
    if several_writers:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.", suffix=_ENDING)
        os.close(handle)
        beside = Path(name)
    else:
        beside = _beside(file)
    try:
        yield beside
        os.replace(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; it replaces `folder` when the block ends, and is removed if it fails.

    If the process is killed, the old or the new folder is left or, between removal and renaming, neither.
    """
    beside = _beside(folder)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@dataclass(frozen=True)
class HeadedTable:
    """A type of parquet file: a table with a JSON header under `key` in the file's metadata."""

    key: str
    format: str  # the header's value of "format"
    what: str  # "item codes"
    writer: str  # the function that writes such files, for messages
    error: type[ValueError] = ValueError

    def write(self, file: str | Path, frame: pl.DataFrame, header: dict[str, Any]) -> Path:
        """Write a file atomically, and return its path."""
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            frame.write_parquet(partial, metadata={self.key: json.dumps({"format": self.format, **header})})
        return path

    def read(self, file: str | Path) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Read what `write` wrote; raises `error` for a missing file, another kind or another format."""
        path = Path(file)
        if not path.is_file():
            raise self.error(f"{path}: no such file; expected {self.what} written by {self.writer}")
        try:
            header = json.loads(pl.read_parquet_metadata(path)[self.key])
            frame = pl.read_parquet(path)
        except (KeyError, ValueError, pl.exceptions.PolarsError) as error:
            raise self.error(
                f"{path}: not a file of {self.what} ({error}); write one with {self.writer}"
            ) from error
        if header.get("format") != self.format:
            raise self.error(
                f"{path}: format {header.get('format')!r}, expected {self.format!r}; write it again with "
                f"{self.writer}"
            )
        return frame, header


def _beside(place: Path) -> Path:
    return place.with_name(place.name + _ENDING)
