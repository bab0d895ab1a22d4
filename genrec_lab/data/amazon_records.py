"""Reads Amazon's review data, published by McAuley's group in editions of 2014, 2018 and 2023.

File names and fields follow the data sets' own pages: jmcauley.ucsd.edu/data/amazon (2014),
cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2 (2018), amazon-reviews-2023.github.io (2023).
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from genrec_lab.data.item_text import flat_text
from genrec_lab.data.paths import existing_file
from genrec_lab.data.rules import DataError, count_repair

# The longest published metadata line is below 1 MB; a much longer one is damaged or malicious.
LONGEST_LINE = 8 * 2**20
_READABLE = (OSError, EOFError, zlib.error)
_ASIN_FIRST = re.compile(rb"\s*\{'asin': '([0-9A-Za-z]+)',")
# 2018: some titles are parts of a page's script, as the data set's page warns.
_SCRIPT_IN_TITLE = "getTime"


@dataclass(frozen=True)
class Edition:
    """File names, addresses and fields of one edition."""

    # Base addresses of the published paths, tried in order.
    mirrors: tuple[str, ...]
    # Paths below a mirror: all reviews, the published 5-core ("" if there is none), metadata.
    reviews: str
    five_core: str
    metadata: str
    # The fields of a review; the item's field is also the key of the metadata.
    user: str
    item: str
    timestamp: str
    # The text columns, and the metadata fields that may hold each of them.
    texts: dict[str, tuple[str, ...]]
    # Whether metadata lines are Python literals instead of JSON.
    literals: bool = False


def read_reviews(file: Path, edition: Edition) -> pl.DataFrame:
    """Return user and item ids (Categorical) and times (Int64), one row per review, in the file's order.

    The file is streamed and each id is stored once. Raises DataError, naming the line, if it is not a JSON
    object or an id or time is missing or has a wrong type, and for a damaged gzip file.
    """
    existing_file(file, "reviews")
    names = {"user": edition.user, "item": edition.item, "timestamp": edition.timestamp}
    schema = {edition.user: pl.String, edition.item: pl.String, edition.timestamp: pl.Int64}
    ids = [
        pl.col(names[role]).cast(pl.Categorical(pl.Categories.random())).alias(role)
        for role in ("user", "item")
    ]
    try:
        times = pl.col(edition.timestamp).alias("timestamp")
        table = pl.scan_ndjson(file, schema=schema).select(*ids, times).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        _name_first_damage(file, names, error)
    if table.height == 0:
        raise DataError(f"{file}: it has no reviews; fetch it again")
    found = (table[role].unique().cast(pl.String) for role in ("user", "item"))
    odd = any((known.str.contains(r'^\s*$|^[\[{]|\x00|^"')).any() for known in found)
    if odd or any(table[role].null_count() for role in names):
        _name_first_damage(file, names, None)
    return table


def _name_first_damage(file: Path, names: dict[str, str], cause: Exception | None) -> NoReturn:
    """Read line by line and raise DataError for the first invalid line."""
    for number, line in numbered_lines(file):
        record = _parsed(file, number, line)
        for role, name in names.items():
            value = record.get(name)
            whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
            sound = whole if role == "timestamp" else (isinstance(value, str) and _is_id(value))
            if not sound:
                expected = "a whole number" if role == "timestamp" else "an id as text"
                raise DataError(
                    f"{file}, line {number}: {name} is {str(value)[:80]!r}, expected {expected}; correct the "
                    "line or fetch the file again"
                ) from cause
    raise DataError(f"{file}: cannot be read: {cause}; fetch it again") from cause


def _is_id(value: str) -> bool:
    return bool(value.strip()) and value[0] not in '[{"' and "\x00" not in value and value.isprintable()


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-empty lines of a file, numbered from 1; raises DataError if a gzip file is damaged."""
    number = 0
    try:
        with file.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if compressed else file.open("rb") as lines:
            while line := lines.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(
                        f"{file}, line {number}: longer than {LONGEST_LINE:,} bytes, and no published line "
                        "is that long; fetch the file again"
                    )
                if line.strip():
                    yield number, line
    except _READABLE as error:
        raise DataError(
            f"{file}, after line {number}: damaged or cut short ({error}); delete it and fetch it again"
        ) from error


def _parsed(file: Path, number: int, line: bytes, literal: bool = False) -> dict[str, Any]:
    """Return the JSON object or Python literal of a line; nothing is executed.

    Raises DataError, naming file and line.
    """
    try:
        record: Any
        if literal:
            record = ast.literal_eval(line.decode("utf-8").strip())
        else:
            record = json.loads(line, parse_constant=_no_constant)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        problem = "not a Python literal" if literal else "malformed JSON"
        raise DataError(
            f"{file}, line {number}: {problem} ({type(error).__name__}: {str(error)[:80]}); correct the line "
            "or fetch the file again"
        ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{file}, line {number}: a {type(record).__name__}, expected an object in braces; correct the "
            "line"
        )
    return record


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def read_metadata(file: Path, edition: Edition, wanted: set[str], repairs: dict[str, int]) -> pl.DataFrame:
    """Return the wanted items' texts: columns `key`, those of `edition.texts`, and `image_url`.

    There is one row per item. The first non-empty field that may hold a text is used. Of several records of
    an item, the first is used (counted as `item_records_repeated` if they are equal, `item_records_differing`
    otherwise). A title that is part of a page's script becomes empty (`titles_made_of_script`). Raises
    DataError, naming the line, if a line cannot be read.
    """
    existing_file(file, "metadata")
    rows: dict[str, tuple[str, ...]] = {}
    for number, line in numbered_lines(file):
        first = _ASIN_FIRST.match(line) if edition.literals else None
        if first and first[1].decode() not in wanted:
            continue
        record = _parsed(file, number, line, edition.literals)
        item = record.get(edition.item)
        if not isinstance(item, str) or not _is_id(item):
            raise DataError(
                f"{file}, line {number}: {edition.item} is {str(item)[:80]!r}, expected the item's id as "
                "text; correct the line"
            )
        if item not in wanted:
            continue
        texts = _described(record, edition.texts, f"{file}, line {number}: {{}} of item {item!r}")
        if _SCRIPT_IN_TITLE in texts["title"]:
            texts["title"] = ""
            count_repair(repairs, "titles_made_of_script", 1)
        row = (item, *texts.values(), _picture_address(record))
        if item in rows:
            what = "item_records_repeated" if rows[item] == row else "item_records_differing"
            count_repair(repairs, what, 1)
        rows.setdefault(item, row)
    names = ("key", *edition.texts, "image_url")
    return pl.DataFrame(list(rows.values()), schema=dict.fromkeys(names, pl.String), orient="row")


def _described(record: dict[str, Any], fields: dict[str, tuple[str, ...]], where: str) -> dict[str, str]:
    row = {}
    for column, names in fields.items():
        separator = ", " if column == "categories" else " "
        texts = (flat_text(record.get(name), separator, where.format(name)) for name in names)
        row[column] = next((text for text in texts if text), "")
    return row


def _picture_address(record: dict[str, Any]) -> str:
    """Return the first web address of a picture in the metadata of any edition, or "".

    Of the large pictures of 2023, the main one counts (UTGRec Section 3.1.1).
    """
    pictures = record.get("images")
    if isinstance(pictures, dict):
        # The Hugging Face copy has an object of lists instead of a list of objects.
        lists = {name: values for name, values in pictures.items() if isinstance(values, list)}
        rows = zip_longest(*lists.values())
        pictures = [dict(zip(lists, row, strict=True)) for row in rows]
    listed = pictures if isinstance(pictures, list) else []
    known = [picture for picture in listed if isinstance(picture, dict)]
    known.sort(key=lambda picture: picture.get("variant") != "MAIN")
    named = [record.get(name) for name in ("imUrl", "imageURLHighRes", "imageURL")]
    values = [one for value in named for one in (value if isinstance(value, list) else [value])]
    values += [picture.get("large") for picture in known]
    texts = (value.strip() for value in values if isinstance(value, str))
    return next((text for text in texts if text.startswith(("http://", "https://"))), "")


_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
_UCSD_2 = "https://datarepo.eng.ucsd.edu/mcauley_group/data"
_TEXTS: dict[str, tuple[str, ...]] = {"title": ("title",), "description": ("description",)}
EDITIONS = {
    "amazon2014": Edition(
        mirrors=("https://snap.stanford.edu/data/amazon/productGraph",),
        reviews="categoryFiles/reviews_{}.json.gz",
        five_core="categoryFiles/reviews_{}_5.json.gz",
        metadata="categoryFiles/meta_{}.json.gz",
        user="reviewerID",
        item="asin",
        timestamp="unixReviewTime",
        texts={**_TEXTS, "brand": ("brand",), "categories": ("categories",)},
        literals=True,
    ),
    "amazon2018": Edition(
        mirrors=(f"{_UCSD}/amazon_v2", f"{_UCSD_2}/amazon_v2", "https://jmcauley.ucsd.edu/data/amazon_v2"),
        reviews="categoryFiles/{}.json.gz",
        five_core="categoryFilesSmall/{}_5.json.gz",
        metadata="metaFiles2/meta_{}.json.gz",
        user="reviewerID",
        item="asin",
        timestamp="unixReviewTime",
        texts={**_TEXTS, "brand": ("brand",), "categories": ("category",), "features": ("feature",)},
    ),
    "amazon2023": Edition(
        mirrors=(f"{_UCSD}/amazon_2023/raw", f"{_UCSD_2}/amazon_2023/raw"),
        reviews="review_categories/{}.jsonl.gz",
        five_core="",
        metadata="meta_categories/meta_{}.jsonl.gz",
        user="user_id",
        item="parent_asin",
        timestamp="timestamp",
        texts={
            **_TEXTS,
            "brand": ("store",),
            "categories": ("categories", "main_category"),
            "features": ("features",),
        },
    ),
}
