"""Your own data: tables of interactions and of items, csv or parquet, with a mapping of their columns."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import polars as pl

from genrec_lab.data.assembly import TEXT_COLUMNS, Faults, ReadingRules, assemble, undescribed_items
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.item_text import DEFAULT_TEMPLATE, as_text, listed_text, parse_template, without_entities
from genrec_lab.data.paths import existing_file
from genrec_lab.data.rules import ITEM_TYPES, DataError, count_repair, nearest, noted, require_one_of
from genrec_lab.data.sources import one_domain

Table = str | os.PathLike[str] | pl.DataFrame | pl.LazyFrame
ColumnMapping = Mapping[str, str | Sequence[str] | None]

# The roles in a mapping. `key` is the item's id in the table of items, if its name differs from that in the
# table of interactions.
ROLES = ("user", "item", "timestamp", "rating", "key", *TEXT_COLUMNS)
# Common spellings of a missing id.
_NOTHING = ("nan", "NaN", "null", "NULL", "None", "<NA>")
_ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
_DAY_AND_MONTH = r"^(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})(.*)$"


@one_domain("items")
def read_frames(
    interactions: Table,
    items: Table | None = None,
    *,
    columns: ColumnMapping | None = None,
    images: str | None = None,
    domain: str | None = None,
    text_template: str = DEFAULT_TEMPLATE,
    k_core: int | None = None,
    keep_unseen_items: bool = False,
    allow_missing_text: bool = False,
    min_rating: float | None = None,
    duplicates: Literal["keep", "first", "last"] = "keep",
    time_format: str | None = None,
    separator: str | None = None,
    encoding: str = "utf-8",
    on_error: Literal["refuse", "drop"] = "refuse",
) -> Dataset:
    """Read a Dataset of one domain from two tables, each a csv, tsv, jsonl or parquet file or a polars frame.

    `columns` maps roles (`user`, `item`, `timestamp`, `rating`, `key`, `title`, `description`, `brand`,
    `categories`) to columns; a missing role uses the column of its name. A list of columns of 0 and 1 gives
    the names of those that are 1: `{"categories": ["Action", "Comedy"]}`. `{"timestamp": None}` states that
    the rows are in time order. `images` is a column of paths or a template such as "posters/{key}.jpg",
    relative to the table of items; missing pictures are null (counted as `items_without_image`). All other
    item columns may be used in `text_template` and are kept as attributes, named `source_<name>` if the
    Dataset already has a column of that name.

    Times may be numbers, dates or text of dates in `time_format`, such as "%m/%d/%Y". `min_rating` leaves out
    interactions with a lower `rating`. `duplicates`: keep all of a user's interactions with one item, or only
    the first or last. `separator`, `encoding`: of csv files. `on_error="drop"` leaves out unreadable rows,
    counts them by reason and lists them in `Dataset.dropped`; "refuse" raises DataError with all problems.
    """
    mapping = checked_mapping(columns or {})
    require_one_of("duplicates", duplicates, ("keep", "first", "last"))
    require_one_of("on_error", on_error, ("refuse", "drop"))
    interactions_file = _file(interactions, "interactions")
    items_file = None if items is None else _file(items, "items")
    origin = str(interactions_file or "interactions")
    items_origin = str(items_file or ("interactions" if items is None else "items"))
    faults, repairs = Faults(on_error == "drop"), dict[str, int]()
    raw, raw_items = pl.DataFrame(), pl.DataFrame()
    with noted(faults.problems):
        table = _table(interactions, interactions_file, separator, encoding, faults)
        raw = raw_interactions_of(table, mapping, origin, time_format, faults, rated=min_rating is not None)
        raw = _filtered(raw, min_rating, duplicates, repairs)
    if items is not None:
        with noted(faults.problems), reading(items_origin):
            items_table = _table(items, items_file, separator, encoding, faults).collect()
            items_table = items_table if items_file is None else _typed(items_table)
            raw_items = raw_items_of(items_table, mapping, items_origin, repairs)
    elif allow_missing_text and raw.width:
        raw_items = undescribed_items(raw, repairs)
    elif not allow_missing_text:
        faults.problems.append(
            "items: no table given; give one, or set allow_missing_text=True for models without text"
        )
    if not (raw.width and raw_items.width):
        faults.settle()
    said = {part.name for part in parse_template(text_template)}
    unsaid = [
        name for name, kind in raw_items.schema.items() if kind == pl.String and name not in {*said, "key"}
    ]
    return assemble(
        domain or (interactions_file.name.split(".")[0] if interactions_file else "frames"),
        raw,
        raw_items,
        ReadingRules(text_template, k_core, keep_unseen_items, allow_missing_text),
        origin=origin,
        items_origin=items_origin,
        images=images,
        images_base=next((file.parent for file in (items_file, interactions_file) if file), None),
        repairs=repairs,
        sources={Path(items_origin).name: {"columns_not_in_text": unsaid}} if unsaid else None,
        faults=faults,
    )


def raw_interactions_of(
    table: pl.LazyFrame,
    columns: ColumnMapping,
    origin: str,
    time_format: str | None = None,
    faults: Faults | None = None,
    *,
    rated: bool = False,
) -> pl.DataFrame:
    """Return `row` from 1, `user` and `item` as text, and `timestamp` as a number, rows as in `table`.

    `timestamp` is missing if the mapping says None; `rating` is included on request. Raises DataError for
    missing columns; rows with an unreadable time or rating are noted in `faults`, or else raise DataError.
    """
    kept = faults or Faults()
    with reading(origin):
        known = table.collect_schema().names()
    hints = {"user": "", "item": "", "rating": ""}
    if columns.get("timestamp", "timestamp") is not None:
        hints["timestamp"] = ', or say that rows are in time order with columns={"timestamp": None}'
    wanted, lacking = dict[str, str](), Faults()
    for role in hints if rated else [role for role in hints if role != "rating"]:
        with noted(lacking.problems):
            wanted[role] = _column(known, columns, role, origin, hints[role])
    lacking.settle()
    numbered = [name for name in known if name == "row"]
    with reading(origin):
        read = table.select(*dict.fromkeys([*wanted.values(), *numbered])).collect()
    found = {"row": read["row"] if numbered else pl.int_range(1, read.height + 1, eager=True)}
    for role in ("user", "item"):
        text = as_text(read[wanted[role]])
        found[role] = text.set(text.is_in(_NOTHING), "")
    bad: dict[str, pl.Series] = {}
    if "timestamp" in wanted:
        found["timestamp"], bad["timestamp"] = _times(read[wanted["timestamp"]], origin, time_format)
    if rated:
        found["rating"] = read[wanted["rating"]].cast(pl.Float64, strict=False).fill_nan(None)
        bad["rating"] = found["rating"].is_null()
    mends = {
        "timestamp": "which is not a time; write numbers or dates such as 2024-05-17 12:30:00, in the same "
        "form in all rows, or give time_format",
        "rating": "which is not a number; correct it or remove the row",
    }
    frame = pl.DataFrame(found).with_row_index("place")
    for role, unreadable in bad.items():
        rows = unreadable.gather(frame["place"])
        for first in frame["place"].filter(rows)[:1]:
            shown, number = read[wanted[role]].cast(pl.String)[first], found["row"][first]
            problem = f"column {wanted[role]!r} has {shown!r} in row {number}, {mends[role]}"
            frame = kept.without(frame, rows, f"unreadable {role}", origin, problem)
    if faults is None:
        kept.settle()
    return frame.drop("place")


def _filtered(
    frame: pl.DataFrame, min_rating: float | None, duplicates: str, repairs: dict[str, int]
) -> pl.DataFrame:
    """Return interactions without lower ratings and, on request, without repeated ones."""
    kept = frame
    if min_rating is not None:
        kept = frame.filter(pl.col("rating") >= min_rating)
        count_repair(repairs, "interactions_below_min_rating", frame.height - kept.height)
        if not kept.height and frame.height:
            raise DataError(f"min_rating is {min_rating}, and no rating is that high; lower it")
    if duplicates != "keep":
        in_time = kept.sort("timestamp", maintain_order=True) if "timestamp" in kept.columns else kept
        once = in_time.unique(["user", "item"], keep="first" if duplicates == "first" else "last")
        count_repair(repairs, "repeated_interactions_removed", kept.height - once.height)
        kept = once.sort("row")
    return kept.drop("rating", strict=False)


def raw_items_of(
    table: pl.DataFrame, columns: ColumnMapping, origin: str, repairs: dict[str, int] | None = None
) -> pl.DataFrame:
    """Return the table of items with `key` and the text columns by role, and other columns as attributes.

    HTML entities are decoded, and lists in cells of `categories` become comma-separated; changed cells are
    counted in `repairs`. Raises DataError for a missing column, and for flags other than 0 and 1.
    """
    key_role = "key" if "key" in columns else "item"
    key = _column(
        table.columns, columns, key_role, origin, ', or the role "key" if the items use another name'
    )
    roles: dict[str, pl.Series] = {"key": as_text(table[key])}
    used = {key}
    for role in TEXT_COLUMNS:
        source = columns.get(role, role)
        if isinstance(source, str) and (role in columns or source in table.columns):
            name = _column(table.columns, columns, role, origin)
            roles[role] = without_entities(as_text(table[name]), repairs)
            if role == "categories":
                roles[role] = listed_text(roles[role])
            used.add(name)
        elif source is not None and not isinstance(source, str):
            roles[role] = _names_of_flags(table, source, role, origin)
            used.update(source)
    taken = {*ITEM_TYPES, *roles}
    for values in (one for one in table if one.name not in used):
        name = f"source_{values.name}" if values.name in taken else values.name
        roles[name] = without_entities(values, repairs) if values.dtype == pl.String else values
    return pl.DataFrame([values.rename(name) for name, values in roles.items()])


def checked_mapping(columns: ColumnMapping) -> ColumnMapping:
    """Return the mapping; raises DataError for an unknown role and for a role without a required column."""
    if not isinstance(columns, Mapping):
        raise DataError(
            f'columns: {columns!r} is not a mapping; write it as {{"user": "user_id", "item": "item_id"}}'
        )
    for role, source in columns.items():
        if role not in ROLES:
            raise DataError(f"columns: unknown role {role!r}{nearest(role, ROLES)}")
        if source is None and role in ("user", "item", "key"):
            raise DataError(f"columns: {role} is None, it needs the name of a column")
        if not isinstance(source, (str, type(None))) and role not in TEXT_COLUMNS:
            raise DataError(f"columns: {role} is {source!r}, it needs the name of one column")
    return columns


def _file(given: Table, option: str) -> Path | None:
    """Return the path in `given`, None if it is a frame; raises DataError for anything else."""
    if isinstance(given, (pl.DataFrame, pl.LazyFrame)):
        return None
    if not isinstance(given, (str, os.PathLike)):
        raise DataError(
            f"{option}: a {type(given).__name__}, expected a path or a polars frame (pl.from_pandas)"
        )
    file = existing_file(given, option)
    if not file.name.lower().removesuffix(".gz").endswith(_ENDINGS):
        raise DataError(f"{option}: {file.name} has an unknown ending; give {', '.join(_ENDINGS)}, also .gz")
    return file


def _table(
    given: Table, file: Path | None, separator: str | None, encoding: str, faults: Faults
) -> pl.LazyFrame:
    """Return the table; csv columns stay text, so that ids keep their spelling: "007" is not 7."""
    if file is None:
        return given.lazy() if isinstance(given, pl.DataFrame) else cast(pl.LazyFrame, given)
    name = file.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return pl.scan_parquet(file)
    if name.endswith(".jsonl"):
        return pl.scan_ndjson(file, infer_schema_length=None)
    return read_csv(file, separator or ("\t" if name.endswith(".tsv") else ","), encoding, faults).lazy()


def read_table(file: Path, separator: str | None = None) -> pl.DataFrame:
    """Read a table from a file, csv as text; raises DataError if it cannot be read."""
    faults = Faults()
    with reading(file):
        table = _table(file, _file(file, "table"), separator, "utf-8", faults).collect()
    faults.settle()
    return table


def read_csv(
    file: Path, separator: str = ",", encoding: str = "utf-8", faults: Faults | None = None
) -> pl.DataFrame:
    """Read a csv file with a header, packed or not, with all columns as text; empty cells are null.

    Rows with more fields than the header are noted in `faults`. Raises DataError for other files.
    """
    source: Path | io.BytesIO = file
    with reading(file):
        try:
            if encoding.lower().replace("-", "") != "utf8":
                raw = file.read_bytes()
                raw = gzip.decompress(raw) if file.name.endswith(".gz") else raw
                source = io.BytesIO(raw.decode(encoding).encode())
            table = pl.read_csv(source, separator=separator, infer_schema=False)
        except (LookupError, UnicodeDecodeError) as error:
            raise DataError(
                f"{file}: encoding is {encoding!r}: {error}; give another, such as 'latin-1'"
            ) from error
        except pl.exceptions.ComputeError as error:
            if "utf8" in str(error).lower().replace("-", ""):
                known = "cannot be read as UTF-8; give encoding, such as 'latin-1'"
                raise DataError(f"{file}: {known}") from error
            table = _even_rows(file, separator, encoding, faults or Faults(), error)
    header = table.columns[0]
    if "\x00" in header or "\ufffd" in header:
        raise DataError(f"{file}: cannot be read as {encoding.upper()}; give encoding, such as 'utf-16'")
    other = next((one for one in ";\t|," if one != separator and one in header), None)
    if table.width == 1 and other is not None:
        raise DataError(
            f"{file}: only one column, {header!r}; name the separator of the columns, separator={other!r}"
        )
    return table


def _even_rows(file: Path, separator: str, encoding: str, faults: Faults, error: Exception) -> pl.DataFrame:
    """Return the rows of a csv file with the header's number of fields; others are noted in `faults`."""
    opened = gzip.open if file.name.endswith(".gz") else open
    with opened(file, "rt", encoding=encoding, newline="") as text:
        header, *rows = csv.reader(text, delimiter=separator)
    widths = pl.Series([len(row) for row in rows], dtype=pl.Int64)
    longer = widths > len(header)
    if not longer.any():
        raise error
    first = int(longer.arg_max() or 0)
    problem = (
        f"cannot be read: row {first + 1} has {widths[first]} fields, the header {len(header)} "
        f"({longer.sum()} such rows); put fields that hold {separator!r} into quotes"
    )
    numbers = pl.DataFrame({"row": range(1, len(rows) + 1)})
    kept = faults.without(numbers, longer, "too many fields", file, problem)["row"]
    cells = [[cell or None for cell in rows[row - 1]] for row in kept]
    padded = [row + [None] * (len(header) - len(row)) for row in cells]
    table = pl.DataFrame(padded, schema=dict.fromkeys(header, pl.String), orient="row")
    return table if "row" in header else table.with_columns(kept)


def _typed(table: pl.DataFrame) -> pl.DataFrame:
    """Convert text columns to numbers if all values round-trip; "09" and "1.10" stay text."""

    def typed(values: pl.Series) -> pl.Series:
        filled = values.drop_nulls()
        for kind in (pl.Int64, pl.Float64) if len(filled) else ():
            again = filled.cast(kind, strict=False).cast(pl.String)
            if ((again == filled) | (again == filled + ".0")).fill_null(False).all():
                return values.cast(kind)
        return values

    return table.with_columns(typed(one) for one in table if one.dtype == pl.String)


@contextmanager
def reading(origin: object) -> Iterator[None]:
    """Convert polars' errors to a DataError that names the table."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{origin}: cannot be read: {error}; correct it, or fetch or write it again"
        ) from error


def _column(known: Sequence[str], columns: ColumnMapping, role: str, origin: str, hint: str = "") -> str:
    name = columns.get(role, role)
    if not isinstance(name, str):
        raise DataError(f"columns: {role} is {name!r}, it needs the name of one column")
    if name not in known:
        raise DataError(
            f"{origin}: no column {name!r} for the role {role!r}{nearest(name, known)}; "
            f'name it with columns={{"{role}": ...}}{hint}'
        )
    return name


def _times(values: pl.Series, origin: str, time_format: str | None) -> tuple[pl.Series, pl.Series]:
    """Return times as numbers, and which of them could not be read."""
    dtype = values.dtype
    none_bad = pl.Series([False]).new_from_index(0, len(values))
    if dtype.is_temporal():
        values = values if dtype == pl.Time else values.cast(pl.Datetime("us"))
        return values.to_physical(), none_bad
    if dtype.is_numeric() and time_format is None:
        return values, none_bad
    if not isinstance(dtype, pl.String):
        raise DataError(
            f"{origin}: column {values.name!r} has type {dtype}; times are numbers, dates or text of dates"
        )
    text = values.str.strip_chars()
    text = text.set(text.is_in(_NOTHING), "")
    filled = text.is_not_null() & (text != "")
    if time_format is not None:
        readings = [_dates(text, time_format)]
    elif text.str.contains(_DAY_AND_MONTH).any():
        readings = [_dates(_year_first(text, values.name, origin))]
    else:
        readings = [text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False), _dates(text)]
    # The format that fits most rows identifies the invalid rows best.
    read = min(readings, key=lambda parsed: int((parsed.is_null() & filled).sum()))
    return read.to_physical(), read.is_null() & filled


def _dates(text: pl.Series, time_format: str | None = None) -> pl.Series:
    try:
        return text.str.to_datetime(time_format, strict=False, time_unit="us")
    except pl.exceptions.PolarsError:
        if time_format is not None:  # a format of a date alone
            return text.str.to_date(time_format, strict=False).cast(pl.Datetime("us"))
        # No format of dates fits the first value.
        return pl.repeat(None, len(text), dtype=pl.Datetime(), eager=True)


def _year_first(text: pl.Series, name: str, origin: str) -> pl.Series:
    """Dates as 17/05/2018 with the year first; raises DataError where day and month may be either."""
    groups = [text.str.extract(_DAY_AND_MONTH, group) for group in (1, 2, 3, 4)]
    first, second = (group.cast(pl.Int64) for group in groups[:2])
    may_be_day_first, may_be_month_first = bool((second <= 12).all()), bool((first <= 12).all())
    if may_be_day_first and may_be_month_first and (first != second).any():
        row = int((first != second).arg_max() or 0)
        mark = text[row][len(groups[0][row])]
        raise DataError(
            f"{origin}: column {name!r} has {text[row]!r} in row {row + 1}, which is day {second[row]} of "
            f"month {first[row]} or day {first[row]} of month {second[row]}; say which with "
            f"time_format='%m{mark}%d{mark}%Y' (month first) or time_format='%d{mark}%m{mark}%Y' (day first)"
        )
    day, month = (1, 0) if may_be_month_first else (0, 1)
    padded = [groups[part].str.zfill(2) for part in (month, day)]
    return pl.select(
        pl.concat_str(groups[2], pl.lit("-"), padded[0], pl.lit("-"), padded[1], groups[3])
    ).to_series()


def _names_of_flags(table: pl.DataFrame, names: Sequence[str], role: str, origin: str) -> pl.Series:
    chosen = []
    for name in names:
        if name not in table.columns:
            raise DataError(
                f"{origin}: no column {name!r} for the role {role!r}{nearest(name, table.columns)}"
            )
        values = table[name].drop_nulls()
        flag = values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.String)
        if not flag or not values.cast(pl.Float64, strict=False).is_in([0.0, 1.0]).fill_null(False).all():
            raise DataError(
                f"{origin}: column {name!r} in the list for {role!r} holds values other than 0 and 1; a list "
                "joins the names of flag columns, to join texts use text_template"
            )
        chosen.append(pl.when(pl.col(name).cast(pl.Float64) == 1).then(pl.lit(name)))
    if not chosen:
        raise DataError(
            f"columns: the list for {role!r} is empty; name at least one column, or None for no text"
        )
    return table.select(pl.concat_list(chosen).list.drop_nulls().list.join(", ").alias(role))[role]
