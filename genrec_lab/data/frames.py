"""Your own data: tables of interactions and of items, csv or parquet, with a mapping of their columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import polars as pl

from genrec_lab.data.assembly import TEXT_COLUMNS, ReadingRules, assemble, undescribed_items
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.item_text import DEFAULT_TEMPLATE, as_text
from genrec_lab.data.paths import existing_file
from genrec_lab.data.rules import ITEM_TYPES, DataError, nearest
from genrec_lab.data.sources import one_domain

Table = str | os.PathLike[str] | pl.DataFrame | pl.LazyFrame
ColumnMapping = Mapping[str, str | Sequence[str] | None]

# What a mapping may name. `key` is the item's id in the table of items where it is called otherwise than in
# that of interactions.
ROLES = ("user", "item", "timestamp", "key", *TEXT_COLUMNS)


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
) -> Dataset:
    """A Dataset of one domain from two tables, each a csv, tsv or parquet file or a polars frame.

    `columns` says which column plays which role (`user`, `item`, `timestamp`, `key`, `title`, `description`,
    `brand`, `categories`); a role left out is a column of its own name. A list of columns of 0 and 1 gives
    the names of those that are 1: `{"categories": ["Action", "Comedy"]}`. `{"timestamp": None}` says that the
    rows are in time order. `images` is a column of paths or a template such as "posters/{key}.jpg", relative
    to the table of items; a picture that is not there is null (counted as `items_without_image`). All further
    item columns may be used in `text_template` and are kept as attributes, under `source_<name>` where the
    Dataset has a column of that name. Times may be numbers, dates or text of dates. Raises DataError as the
    messages say.
    """
    mapping = checked_mapping(columns or {})
    interactions_file = _file(interactions, "interactions")
    items_file = None if items is None else _file(items, "items")
    origin = str(interactions_file or "interactions")
    items_origin = str(items_file or ("interactions" if items is None else "items"))
    raw_interactions = raw_interactions_of(_table(interactions, interactions_file), mapping, origin)
    repairs: dict[str, int] = {}
    if items is not None:
        key = mapping.get("key", mapping.get("item", "item"))
        with reading(items_origin):
            items_table = _table(items, items_file, guess_types_but=str(key)).collect()
        raw_items = raw_items_of(items_table, mapping, items_origin)
    elif allow_missing_text:
        raw_items = undescribed_items(raw_interactions, repairs)
    else:
        raise DataError(
            "items: no table given; give one, or set allow_missing_text=True for models without text"
        )
    return assemble(
        domain or (interactions_file.name.split(".")[0] if interactions_file else "frames"),
        raw_interactions,
        raw_items,
        ReadingRules(text_template, k_core, keep_unseen_items, allow_missing_text),
        origin=origin,
        items_origin=items_origin,
        images=images,
        images_base=next((file.parent for file in (items_file, interactions_file) if file), None),
        repairs=repairs,
    )


def raw_interactions_of(table: pl.LazyFrame, columns: ColumnMapping, origin: str) -> pl.DataFrame:
    """The columns `user`, `item` as text and `timestamp` as a number, rows as in `table`.

    Without `timestamp` where the mapping says None. Raises DataError for a missing column or an unreadable
    time.
    """
    with reading(origin):
        known = table.collect_schema().names()
    wanted = {role: _column(known, columns, role, origin) for role in ("user", "item")}
    if columns.get("timestamp", "timestamp") is not None:
        hint = ', or say that rows are in time order with columns={"timestamp": None}'
        wanted["timestamp"] = _column(known, columns, "timestamp", origin, hint)
    with reading(origin):
        read = table.select(*dict.fromkeys(wanted.values())).collect()
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


def _file(given: Table, option: str) -> Path | None:
    """The file that `given` names, None where it is a frame; raises DataError for anything else."""
    if isinstance(given, (pl.DataFrame, pl.LazyFrame)):
        return None
    if not isinstance(given, (str, os.PathLike)):
        raise DataError(
            f"{option}: a {type(given).__name__}, expected a path or a polars frame (pl.from_pandas)"
        )
    file = existing_file(given, option)
    if not file.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".parquet")):
        raise DataError(
            f"{option}: {file.name} has an unknown ending; give .csv, .tsv (also .gz) or .parquet"
        )
    return file


def _table(given: Table, file: Path | None, guess_types_but: str | None = None) -> pl.LazyFrame:
    """The table, not yet read; a csv is all text unless types are to be guessed for all columns but one.

    Ids stay text, as they are written: "007" is not 7.
    """
    if file is None:
        return given.lazy() if isinstance(given, pl.DataFrame) else cast(pl.LazyFrame, given)
    if file.name.lower().endswith(".parquet"):
        return pl.scan_parquet(file)
    return pl.scan_csv(
        file,
        separator="\t" if ".tsv" in file.name.lower() else ",",
        infer_schema=guess_types_but is not None,
        infer_schema_length=None,
        schema_overrides=None if guess_types_but is None else {guess_types_but: pl.String},
    )


@contextmanager
def reading(origin: object) -> Iterator[None]:
    """Turn what polars raises for a table into a DataError that names it."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{origin}: not readable: {error}; mend it, or fetch or write it again") from error


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
    unread = filled
    for parsed in (text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False), _dates(text)):
        left = parsed.is_null() & filled
        if not left.any():
            return parsed.to_physical()
        # The kind of time that fits most rows shows best which row is wrong.
        unread = left if left.sum() < unread.sum() else unread
    row = int(unread.arg_max() or 0)
    raise DataError(
        f"{origin}: column {values.name!r} has {text[row]!r} in row {row + 1}, which is no time; write "
        "numbers or dates such as 2024-05-17 12:30:00, alike in all rows"
    )


def _dates(text: pl.Series) -> pl.Series:
    try:
        return text.str.to_datetime(strict=False)
    except pl.exceptions.PolarsError:
        # No format of dates fits the first value.
        return pl.repeat(None, len(text), dtype=pl.Datetime(), eager=True)


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
                "the names of flag columns, to join texts use text_template"
            )
        chosen.append(pl.when(pl.col(name).cast(pl.Float64) == 1).then(pl.lit(name)))
    if not chosen:
        raise DataError(
            f"columns: the list for {role!r} is empty; name at least one column, or None for no text"
        )
    return table.select(pl.concat_list(chosen).list.drop_nulls().list.join(", ").alias(role))[role]
