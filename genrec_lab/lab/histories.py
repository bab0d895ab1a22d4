"""Files of histories and lists of items, by the keys of the source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from genrec_lab.data import DataError, frames
from genrec_lab.lab.files import RunError

_LONGEST_LINE = 1_000_000  # bytes of a history: about 100,000 items
_SCHEMA = pl.Schema({"user": pl.String(), "domain": pl.String(), "history": pl.List(pl.String())})


def read_keys(file: Path) -> list[str]:
    """Read a list of item keys, one a line, or the column `item` of a csv or parquet file."""
    if file.suffix in (".csv", ".tsv", ".parquet"):
        frame = read_table(file)
        if "item" not in frame.columns:
            raise RunError(f"{file} has the columns {frame.columns}; expected one called 'item'.")
        return frame["item"].cast(pl.String).to_list()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise RunError(f"There is no file {file}.") from error
    except UnicodeDecodeError as error:
        raise RunError(
            f"{file} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def read_histories(file: Path) -> pl.DataFrame:
    """Read histories of item keys, oldest first: frame `user, domain, history`; domain is null where unnamed.

    A parquet file or one of JSON lines has `user` and `history`, and may have `domain`; a csv or tsv has
    `user` and `item`, one item per row. Raises RunError for a line that cannot be read, naming it, and for a
    user who comes twice.
    """
    if not file.is_file():
        raise RunError(f"There is no file {file}.")
    if file.suffix == ".jsonl":
        frame = pl.DataFrame(list(_json_lines(file)), schema=_SCHEMA, orient="row")
    else:
        frame = read_table(file)
        wanted = ("user", "history") if file.suffix == ".parquet" else ("user", "item")
        if lacking := [name for name in wanted if name not in frame.columns]:
            raise RunError(f"{file} has the columns {frame.columns}; {lacking[0]!r} is missing.")
        if "domain" not in frame.columns:
            frame = frame.with_columns(domain=pl.lit(None, pl.String))
        if "item" in wanted:
            keys = pl.col("user", "domain", "item").cast(pl.String)
            by = frame.select(keys).group_by("user", "domain", maintain_order=True)
            frame = by.agg(pl.col("item").alias("history"))
        try:
            frame = frame.select(
                pl.col("user", "domain").cast(pl.String), pl.col("history").cast(pl.List(pl.String))
            )
        except pl.exceptions.PolarsError as error:
            raise RunError(f"{file}: 'history' is not a column of lists of items ({error}).") from error
        lacking_one = pl.col("user").is_null() | pl.col("history").is_null()
        if frame.filter(lacking_one | pl.col("history").list.contains(None, nulls_equal=True)).height:
            raise RunError(f"{file} has rows without a user, a history or an item; leave them out.")
    twice = frame.filter(pl.struct("user", "domain").is_duplicated())
    if twice.height:
        raise RunError(
            f"{file} has user {twice['user'][0]!r} in {twice.height} rows; give each user one history."
        )
    if not frame.height:
        raise RunError(f"{file} holds no histories.")
    return frame


def read_table(file: Path, separator: str | None = None) -> pl.DataFrame:
    """Read a table as `genrec_lab.data` does, a csv as texts; RunError if it cannot be read."""
    try:
        return frames.read_table(file.absolute(), separator)
    except DataError as error:
        raise RunError(f"{error}.") from error


class _Line(BaseModel):
    """A user of a file of JSON lines."""

    model_config = ConfigDict(strict=True)

    user: str | int
    domain: str | None = None
    history: list[str | int]


def _json_lines(file: Path) -> Iterator[tuple[str, str | None, list[str]]]:
    expected = 'expected {"user": "u1", "history": ["item", …]}, "domain" if there are several'
    with file.open("rb") as lines:
        number = 0
        while line := lines.readline(_LONGEST_LINE + 1):
            number += 1
            where = f"{file}, line {number}"
            if len(line) > _LONGEST_LINE:
                raise RunError(
                    f"{where}: longer than {_LONGEST_LINE:,} bytes; {expected}, one user per line."
                )
            if not line.strip():
                continue
            try:
                found = _Line.model_validate_json(line)
            except ValidationError as error:
                problem = error.errors()[0]
                why = problem["msg"].replace(" at line 1", "")
                what = f"not JSON ({why})" if problem["type"] == "json_invalid" else repr(line[:80])
                raise RunError(f"{where}: {what}; {expected}.") from error
            yield str(found.user), found.domain, [str(key) for key in found.history]
