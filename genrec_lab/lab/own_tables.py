"""A user's own files: the two tables of `genrec init FOLDER --data`, histories, and lists of items.

The meaning of the tables' columns is guessed, and a run file written for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from genrec_lab.data import DataError, frames, load_dataset, ties
from genrec_lab.lab.files import RunError, safe_name

# What columns are called, in small letters without anything between them; the first that is there counts.
_NAMES = {
    "user": "user userid uid customerid customer reviewerid "
    "memberid visitorid accountid buyerid sessionid session",
    "item": "item itemid iid productid articleid asin parentasin "
    "movieid filmid bookid isbn sku trackid businessid product",
    "timestamp": "timestamp time unixtimestamp unixreviewtime date "
    "datetime tdat createdat eventtime ts reviewdate",
    "rating": "rating stars score overall",
    "title": "title name itemname productname prodname movietitle producttitle booktitle",
    "description": "description overview summary plot detaildesc abstract about",
    "brand": "brand store manufacturer author artist publisher",
    "categories": "categories category genres genre producttypename maincategory class tags",
}
_TEXTS = ("title", "description", "brand", "categories")
_RATED = "  # min_rating: 4  # leaves out rows with a lower rating; without it, all rows count"
_LONGEST_LINE = 1_000_000  # bytes of a history: about 100,000 items
_SCHEMA = pl.Schema({"user": pl.String(), "domain": pl.String(), "history": pl.List(pl.String())})


def run_file_for(folder: Path, interactions: Path, items: Path) -> tuple[str, str, list[str], str | None]:
    """Return a run file for two tables: its name, its text, what was understood, and what is wrong with it.

    The last is None unless the tables cannot be read as they seem, and the file is to be completed. Raises
    RunError if a file is no table, or no column looks like the user's or the item's id.
    """
    separator = _separator(interactions)
    tables = [read_table(file, separator) for file in (interactions, items)]
    columns, said = _columns(tables[0], tables[1], interactions, items)
    # Absolute where the tables are not in the folder, which may be moved without them.
    options: dict[str, Any] = {
        name: os.path.relpath(file.resolve(), folder.resolve())
        if folder.resolve() in file.resolve().parents
        else str(file.resolve())
        for name, file in (("interactions", interactions), ("items", items))
    }
    options |= {"separator": separator} if separator else {}
    options["columns"] = columns
    problem = None
    try:
        said += _what_is_read({**options, "interactions": interactions.absolute(), "items": items.absolute()})
    except DataError as error:
        problem = str(error).removeprefix("dataset: ")
    name = safe_name(interactions.name.split(".")[0])
    content = {"run": name, "dataset": {"name": "frames", **options}, "preset": "gmc_small", "seed": 0}
    wrong = [] if problem is None else [f"NOT READ YET: {problem}"]
    comment = "".join(f"# {line}\n" for line in ["What genrec understood of the tables:", *said, *wrong])
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if _named(tables[0].columns, "rating"):
        text = text.replace("\npreset:", f"\n{_RATED}\npreset:")
    return f"{name}.yaml", comment + text, said, problem


def _separator(file: Path) -> str | None:
    """What separates the columns of a text file, by its header; None if its ending says so already."""
    name = file.name.lower()
    if not file.is_file() or not name.endswith((".csv", ".tsv")):
        return None
    with file.open("rb") as content:
        header = content.readline(1 << 20).decode("utf-8", "replace")
    most = max(",;\t|", key=header.count)
    return None if most == ("\t" if name.endswith(".tsv") else ",") else most


def _columns(
    interactions: pl.DataFrame, items: pl.DataFrame, first: Path, second: Path
) -> tuple[dict[str, str | None], list[str]]:
    columns: dict[str, str | None] = {}
    said: list[str] = []

    def take(role: str, column: str, file: Path, more: str = "") -> None:
        said.append(f"{role}: column {column!r} of {file.name}{more}")
        columns.update({role: column} if column != role else {})

    for role in ("user", "item", "timestamp", "rating"):
        found = _named(interactions.columns, role)
        if found is not None:
            unused = "; not used, so rows with a low rating count as well, unless min_rating is set"
            take(role, found, first, unused if role == "rating" else "")
        elif role == "timestamp":
            said.append(
                f"timestamp: no column of {first.name} looks like one, so rows are taken to be in time order"
            )
            columns["timestamp"] = None
        elif role != "rating":
            raise RunError(
                f"{first.name}: no column looks like the {role}'s id; it has "
                f"{', '.join(interactions.columns)}. Name it {role}, or write the run file by hand with "
                f"columns: {{{role}: ...}}."
            )
    item = columns.get("item", "item")
    key = item if item in items.columns else _named(items.columns, "item")
    if key is None:
        raise RunError(
            f"{second.name}: no column looks like the item's id; it has {', '.join(items.columns)}. Call it "
            f"{item}, as {first.name} does."
        )
    said.append(f"key of the items: column {key!r} of {second.name}")
    columns |= {"key": key} if key != item else {}
    for role in _TEXTS:
        if found := _named([name for name in items.columns if name != key], role):
            take(role, found, second)
    return columns, said


def _named(columns: Sequence[str], role: str) -> str | None:
    plain = {"".join(sign for sign in name.lower() if sign.isalnum()): name for name in reversed(columns)}
    return next((plain[name] for name in _NAMES[role].split() if name in plain), None)


def _what_is_read(options: dict[str, Any]) -> list[str]:
    """Return sentences about the dataset that these options give."""
    dataset = load_dataset("frames", **options)
    sizes = f"{dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_interactions:,} interactions"
    said = [f"read: {sizes}"]
    said += [f"repaired: {what.replace('_', ' ')}: {count:,}" for what, count in dataset.repairs.items()]
    if "items_without_interactions_removed" in dataset.repairs:
        said.append("to keep items without interactions in the catalogue: keep_unseen_items: true")
    said.append(f"text of the first item: {dataset.items['text'][0][:100]!r}")
    for known in dataset.sources.values():
        if unsaid := known.get("columns_not_in_text"):
            example = f"'{{title}} {{{unsaid[0]}}}'"
            said.append(f"not in the text: {', '.join(unsaid)}; add them with text_template: {example}")
    row = ties(dataset).row(0, named=True)
    tied = "unknown" if row["test_tied"] is None else f"{row['test_tied']:,}"
    said.append(f"users whose last two items have the same time: {tied}; ties sets their order")
    return said


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
