"""Your own data: tables of interactions and of items, csv or parquet, with a mapping of their columns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from genrec_lab.data.assembly import TEXT_COLUMNS, RawDomain, ReadingRules, assemble
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.item_text import DEFAULT_TEMPLATE, as_text
from genrec_lab.data.paths import existing_file
from genrec_lab.data.rules import ITEM_TYPES, DataError, nearest

Table = str | os.PathLike[str] | pl.DataFrame | pl.LazyFrame
ColumnMapping = Mapping[str, str | Sequence[str] | None]

# What a mapping may name. `key` is the item's id in the table of items where it is called otherwise than in
# that of interactions.
ROLES = ("user", "item", "timestamp", "key", *TEXT_COLUMNS)


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
) -> Dataset:
    """A Dataset of one domain from two tables, each a csv, tsv or parquet file or a polars frame.

    `columns` says which column plays which role (`user`, `item`, `timestamp`, `key`, `title`, `description`,
    `brand`, `categories`); a role left out is a column of its own name. A list of columns of 0 and 1 gives
    the names of those that are 1: `{"categories": ["Action", "Comedy"]}`. `{"timestamp": None}` says that the
    rows are in time order. `images` is a column of paths or a template such as "posters/{key}.jpg", relative
    to the table of items; a picture that is not there is null (counted as `items_without_image`). All further
    item columns may stand in `text_template` and are kept as attributes, under `source_<name>` where the
    Dataset has a column of that name. Times may be numbers, dates or text of dates. Raises DataError as the
    messages say.
    """
    mapping = checked_mapping(columns or {})
    interactions_table, origin = _table(interactions, "interactions", guess_types=False)
    raw_interactions = raw_interactions_of(interactions_table, mapping, origin)
    repairs: dict[str, int] = {}
    items_origin = origin
    if items is not None:
        items_table, items_origin = _table(items, "items", guess_types=True)
        raw_items = raw_items_of(_collected(items_table, items_origin), mapping, items_origin)
    elif allow_missing_text:
        raw_items = raw_interactions.select(key="item").unique(maintain_order=True)
        repairs["items_not_described"] = raw_items.height
    else:
        raise DataError(
            "items: no table given; give one, or set allow_missing_text=True for models without text"
        )
    base = next((Path(given).parent for given in (items_origin, origin) if Path(given).is_file()), Path.cwd())
    name = domain or (Path(origin).name.split(".")[0] if Path(origin).is_file() else "frames")
    raw = RawDomain(name, raw_interactions, raw_items, origin, items_origin, images, base, repairs)
    return assemble(raw, ReadingRules(text_template, k_core, keep_unseen_items, allow_missing_text))


def raw_interactions_of(table: pl.LazyFrame, columns: ColumnMapping, origin: str) -> pl.DataFrame:
    """The columns `user`, `item` as text and `timestamp` as a number, rows as in `table`.

    Without `timestamp` where the mapping says None. Raises DataError for a missing column or an unreadable
    time.
    """
    known = _column_names(table, origin)
    wanted = {role: _column(known, columns, role, origin) for role in ("user", "item")}
    if columns.get("timestamp", "timestamp") is not None:
        hint = ', or say that rows are in time order with columns={"timestamp": None}'
        wanted["timestamp"] = _column(known, columns, "timestamp", origin, hint)
    read = _collected(table.select(*dict.fromkeys(wanted.values())), origin)
    found = {role: as_text(read[wanted[role]]) for role in ("user", "item")}
    if "timestamp" in wanted:
        found["timestamp"] = _times(read[wanted["timestamp"]], origin)
    return pl.DataFrame(found)


def raw_items_of(table: pl.DataFrame, columns: ColumnMapping, origin: str) -> pl.DataFrame:
    """The table of items with `key` and the text columns in their roles, and all other columns as attributes.

    Raises DataError for a column that the mapping names and the table lacks, and for flags other than 0 and
    1.
    """
    key_role = "key" if "key" in columns else "item"
    key = _column(
        table.columns, columns, key_role, origin, ', or the role "key" if the items call it otherwise'
    )
    roles: dict[str, pl.Series] = {"key": as_text(table[key])}
    used = {key}
    for role in TEXT_COLUMNS:
        source = columns.get(role, role)
        if isinstance(source, str) and (role in columns or source in table.columns):
            name = _column(table.columns, columns, role, origin)
            roles[role] = as_text(table[name])
            used.add(name)
        elif source is not None and not isinstance(source, str):
            roles[role] = _names_of_flags(table, source, role, origin)
            used.update(source)
    taken = {*ITEM_TYPES, *roles}
    others = {name: f"source_{name}" if name in taken else name for name in table.columns if name not in used}
    return pl.DataFrame([values.rename(role) for role, values in roles.items()]).hstack(
        table.select(pl.col(name).alias(kept) for name, kept in others.items())
    )


def checked_mapping(columns: ColumnMapping) -> ColumnMapping:
    """The mapping itself; raises DataError for an unknown role and for one that names no column it needs."""
    if not isinstance(columns, Mapping):
        raise DataError(
            f'columns: {columns!r} is no mapping; write it as {{"user": "user_id", "item": "item_id"}}'
        )
    for role, source in columns.items():
        if role not in ROLES:
            raise DataError(f"columns: unknown role {role!r}{nearest(role, ROLES)}")
        if source is None and role in ("user", "item", "key"):
            raise DataError(f"columns: {role} is None, it needs the name of a column")
        if not isinstance(source, (str, type(None))) and role not in TEXT_COLUMNS:
            raise DataError(f"columns: {role} is {source!r}, it needs the name of one column")
    return columns


def _table(given: Table, option: str, *, guess_types: bool) -> tuple[pl.LazyFrame, str]:
    """The table, not yet read, and how messages call it: a file's whole path, or the option's name.

    Without `guess_types` a csv is all text: ids stay as they are written ("007"), and no guess can go wrong.
    """
    if isinstance(given, (pl.DataFrame, pl.LazyFrame)):
        return given.lazy(), option
    if not isinstance(given, (str, os.PathLike)):
        raise DataError(
            f"{option}: a {type(given).__name__}, expected a path or a polars frame (pl.from_pandas)"
        )
    file = existing_file(given, option)
    name = file.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return pl.scan_parquet(file), str(file)
    if name.endswith((".csv", ".tsv")):
        separator = "\t" if name.endswith(".tsv") else ","
        try:
            table = pl.scan_csv(file, separator=separator, infer_schema=guess_types, infer_schema_length=None)
        except pl.exceptions.PolarsError as error:
            raise _unreadable(str(file), error) from error
        return table, str(file)
    raise DataError(f"{option}: {file.name} has an unknown ending; give .csv, .tsv (also .gz) or .parquet")


def _column_names(table: pl.LazyFrame, origin: str) -> list[str]:
    try:
        return table.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(origin, error) from error


def _collected(table: pl.LazyFrame, origin: str) -> pl.DataFrame:
    try:
        return table.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(origin, error) from error


def _unreadable(origin: str, error: Exception) -> DataError:
    return DataError(f"{origin}: not readable: {error}; mend it or write it again")


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


def _times(values: pl.Series, origin: str) -> pl.Series:
    dtype = values.dtype
    if dtype.is_numeric():
        return values
    if dtype.is_temporal():
        return values.to_physical()
    if not isinstance(dtype, pl.String):
        raise DataError(
            f"{origin}: column {values.name!r} has type {dtype}; times are numbers, dates or text of dates"
        )
    text = values.str.strip_chars()
    filled = text.is_not_null() & (text != "")
    for parsed in (text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False), _dates(text)):
        if parsed is not None and not (parsed.is_null() & filled).any():
            return parsed.to_physical()
    row = int((text.cast(pl.Float64, strict=False).is_null() & filled).arg_max() or 0)
    raise DataError(
        f"{origin}: column {values.name!r} has {text[row]!r} in row {row + 1}, which is no time; write "
        "numbers or "
        "dates such as 2024-05-17 12:30:00, alike in all rows"
    )


def _dates(text: pl.Series) -> pl.Series | None:
    try:
        return text.str.to_datetime(strict=False)
    except pl.exceptions.PolarsError:
        # No format of dates fits the first value.
        return None


def _names_of_flags(table: pl.DataFrame, names: Sequence[str], role: str, origin: str) -> pl.Series:
    chosen = []
    for name in names:
        if name not in table.columns:
            raise DataError(
                f"{origin}: no column {name!r} for the role {role!r}{nearest(name, table.columns)}"
            )
        values = table[name]
        numeric = values.dtype.is_numeric() or isinstance(values.dtype, pl.Boolean)
        if not numeric or not values.drop_nulls().cast(pl.Float64).is_in([0.0, 1.0]).all():
            raise DataError(
                f"{origin}: column {name!r} in the list for {role!r} holds more than 0 and 1; a list joins "
                "the names "
                "of flag columns, to join texts use text_template"
            )
        chosen.append(pl.when(pl.col(name).cast(pl.Float64) == 1).then(pl.lit(name)))
    if not chosen:
        raise DataError(
            f"columns: the list for {role!r} is empty; name at least one column, or None for no text"
        )
    return table.select(pl.concat_list(chosen).list.drop_nulls().list.join(", ").alias(role))[role]
