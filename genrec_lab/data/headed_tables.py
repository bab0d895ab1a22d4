"""Tables in parquet files that say in their own metadata what they are, and in which format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from genrec_lab.data.whole_files import whole_file


@dataclass(frozen=True)
class HeadedTable:
    """A kind of file: a table with a header of JSON under `key` in the metadata."""

    key: str
    format: str  # of the header, in which it stands too
    what: str  # "item codes"
    writer: str  # who writes such a file, for messages
    error: type[ValueError] = ValueError

    def write(self, file: str | Path, frame: pl.DataFrame, header: dict[str, Any]) -> Path:
        """Write a file whole or not at all, and return its path."""
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            frame.write_parquet(partial, metadata={self.key: json.dumps({"format": self.format, **header})})
        return path

    def read(self, file: str | Path) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Read what `write` wrote; raises `error` where the file is missing, something else or of old."""
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
                f"{path}: format {header.get('format')!r}, expected {self.format!r}; write it anew with "
                f"{self.writer}"
            )
        return frame, header
