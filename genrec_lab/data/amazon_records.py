"""The lines of Amazon's published files: reviews as ids and times, metadata as one record an item."""

from __future__ import annotations

import ast
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from genrec_lab.data.html_text import flat_text
from genrec_lab.data.paths import existing_file
from genrec_lab.data.rules import DataError

# The longest line of the published metadata is below 1 MB; a longer one is damage, or a trap for memory.
LONGEST_LINE = 8 * 2**20
_READABLE = (OSError, EOFError, zlib.error)
_ASIN_FIRST = re.compile(rb"\s*\{'asin': '([0-9A-Za-z]+)',")
# 2018: titles cut out of a page's script instead of its text, as the data set's own page warns.
_SCRIPT_IN_TITLE = "getTime"


@dataclass(frozen=True)
class ReviewFields:
    """What the fields of a review are called."""

    user: str
    item: str
    timestamp: str


def read_reviews(file: Path, fields: ReviewFields) -> pl.DataFrame:
    """User and item ids (Categorical) and times (Int64), a row a review, in the file's order.

    Streams the file: ids are kept once each. Raises DataError with the line for what is no JSON object, for
    an id or time that is missing or of a wrong type, and for a damaged gzip file.
    """
    existing_file(file, "reviews")
    names = {"user": fields.user, "item": fields.item, "timestamp": fields.timestamp}
    schema = {fields.user: pl.String, fields.item: pl.String, fields.timestamp: pl.Int64}
    numbered = [
        pl.col(name).cast(pl.Categorical(pl.Categories.random())).alias(role) for role, name in names.items()
    ]
    try:
        table = (
            pl.scan_ndjson(file, schema=schema)
            .select(*numbered[:2], pl.col(fields.timestamp).alias("timestamp"))
            .collect(engine="streaming")
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        _name_first_damage(file, names, error)
    if table.height == 0:
        raise DataError(f"{file}: no review in it; fetch it again")
    ids = (table[role].unique().cast(pl.String) for role in ("user", "item"))
    odd = any((known.str.contains(r'^\s*$|^[\[{]|\x00|^"')).any() for known in ids)
    if odd or any(table[role].null_count() for role in names):
        _name_first_damage(file, names, None)
    return table


def _name_first_damage(file: Path, names: dict[str, str], cause: Exception | None) -> NoReturn:
    """Read line by line until the line that is wrong; raises DataError that names it."""
    for number, line in numbered_lines(file):
        record = json_object(file, number, line)
        for role, name in names.items():
            value = record.get(name)
            whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
            sound = whole if role == "timestamp" else (isinstance(value, str) and _is_id(value))
            if not sound:
                expected = "a whole number" if role == "timestamp" else "an id as text"
                raise DataError(
                    f"{file}, line {number}: {name} is {str(value)[:80]!r}, expected {expected}; mend the "
                    "line or "
                    "fetch the file again"
                ) from cause
    raise DataError(f"{file}: not readable: {cause}; fetch it again") from cause


def _is_id(value: str) -> bool:
    return bool(value.strip()) and value[0] not in '[{"' and "\x00" not in value and value.isprintable()


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The filled lines of a file, gzip or not, numbered from 1; raises DataError where it is damaged."""
    number = 0
    try:
        with file.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if compressed else file.open("rb") as lines:
            while line := lines.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(
                        f"{file}, line {number}: longer than {LONGEST_LINE:,} bytes, which no published "
                        "line is; "
                        "fetch the file again"
                    )
                if line.strip():
                    yield number, line
    except _READABLE as error:
        raise DataError(
            f"{file}, after line {number}: damaged or cut short ({error}); delete it and fetch it again"
        ) from error


def json_object(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """The JSON object of a line; raises DataError naming file and line."""
    try:
        record = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file}, line {number}: malformed JSON ({error}); mend the line or fetch the file again"
        ) from error
    return _object(file, number, record)


def python_literal(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """The Python literal of a line, as 2014 metadata are written; nothing is executed.

    Raises DataError naming file and line.
    """
    try:
        record = ast.literal_eval(line.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(
            f"{file}, line {number}: no Python literal ({type(error).__name__}: {str(error)[:80]}); mend "
            "the line "
            "or fetch the file again"
        ) from error
    return _object(file, number, record)


def _object(file: Path, number: int, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise DataError(
            f"{file}, line {number}: a {type(record).__name__}, expected an object in braces; mend the line"
        )
    return record


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def read_metadata(
    file: Path,
    key: str,
    fields: dict[str, tuple[str, ...]],
    image: Callable[[dict[str, Any]], str],
    wanted: set[str],
    repairs: dict[str, int],
    literals: bool = False,
) -> pl.DataFrame:
    """The wanted items' texts: columns `key`, those of `fields`, and `image_url`, a row an item.

    `fields` maps a column to the field names that may hold it, the first filled one taken. An item described
    again is read once, its first record (`item_records_repeated` where the later one says the same,
    `item_records_differing` otherwise). A title that is a piece of a page's script is none
    (`titles_made_of_script`). Raises DataError with the line for what cannot be read.
    """
    existing_file(file, "metadata")
    parse = python_literal if literals else json_object
    columns: dict[str, list[str]] = {name: [] for name in ("key", *fields, "image_url")}
    places: dict[str, int] = {}
    for number, line in numbered_lines(file):
        first = _ASIN_FIRST.match(line) if literals else None
        if first and first[1].decode() not in wanted:
            continue
        record = parse(file, number, line)
        item = record.get(key)
        if not isinstance(item, str) or not _is_id(item):
            raise DataError(
                f"{file}, line {number}: {key} is {str(item)[:80]!r}, expected the item's id as text; mend "
                "the line"
            )
        if item not in wanted:
            continue
        row = _described(record, fields, f"{file}, line {number}: {{}} of item {item!r}")
        if _SCRIPT_IN_TITLE in row["title"]:
            row["title"] = ""
            repairs["titles_made_of_script"] = repairs.get("titles_made_of_script", 0) + 1
        row = {"key": item, **row, "image_url": image(record)}
        if item in places:
            same = all(columns[name][places[item]] == value for name, value in row.items())
            what = "item_records_repeated" if same else "item_records_differing"
            repairs[what] = repairs.get(what, 0) + 1
            continue
        places[item] = len(places)
        for name, value in row.items():
            columns[name].append(value)
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def _described(record: dict[str, Any], fields: dict[str, tuple[str, ...]], where: str) -> dict[str, str]:
    row = {}
    for column, names in fields.items():
        separator = ", " if column == "categories" else " "
        texts = (flat_text(record.get(name), separator, where.format(name)) for name in names)
        row[column] = next((text for text in texts if text), "")
    return row


def image_2014(record: dict[str, Any]) -> str:
    """The address of an item's picture, "" where there is none: `imUrl`."""
    return _address(record.get("imUrl"))


def image_2018(record: dict[str, Any]) -> str:
    """The address of an item's first picture: `imageURLHighRes`, else `imageURL`, lists in the files."""
    for name in ("imageURLHighRes", "imageURL"):
        value = record.get(name)
        found = next(
            (
                address
                for one in (value if isinstance(value, list) else [value])
                if (address := _address(one))
            ),
            "",
        )
        if found:
            return found
    return ""


def image_2023(record: dict[str, Any]) -> str:
    """The address of an item's `large` picture, the main one before its variants (UTGRec Section 3.1.1)."""
    pictures = record.get("images")
    if isinstance(pictures, dict):
        # The Hugging Face copy holds an object of lists instead of a list of objects.
        lists = {name: values for name, values in pictures.items() if isinstance(values, list)}
        count = max((len(values) for values in lists.values()), default=0)
        pictures = [
            {name: values[place] for name, values in lists.items() if place < len(values)}
            for place in range(count)
        ]
    if not isinstance(pictures, list):
        return ""
    known = [picture for picture in pictures if isinstance(picture, dict) and _address(picture.get("large"))]
    known.sort(key=lambda picture: picture.get("variant") != "MAIN")
    return _address(known[0]["large"]) if known else ""


def _address(value: Any) -> str:
    return (
        value.strip() if isinstance(value, str) and value.strip().startswith(("http://", "https://")) else ""
    )
