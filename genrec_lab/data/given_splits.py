"""Reads published splits: train, valid and test files of events, or of histories and their next items.

Supported are Amazon Reviews 2023's prepared csv, RecBole's benchmark files, csv like MiniOneRec's, and text
with one line per user. A split is used unchanged; overlaps are rejected or counted.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from genrec_lab.data.amazon_records import EDITIONS, read_metadata
from genrec_lab.data.assembly import Faults, ReadingRules, assemble, sound_interactions, undescribed_items
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.frames import ColumnMapping, raw_interactions_of, raw_items_of, read_table
from genrec_lab.data.item_text import DEFAULT_TEMPLATE, as_text, without_entities
from genrec_lab.data.paths import existing_file, existing_folder, read_utf8
from genrec_lab.data.research_files import in_number_order, lcrec_items, read_atomic
from genrec_lab.data.rules import DataError, count_repair, nearest, renumbered, require_one_of
from genrec_lab.data.sources import finds

PARTS = ("train", "valid", "test")
_NAMES = {"training": "train", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test"}
_PART = re.compile(rf"(?:^|[._/-])({'|'.join((*PARTS, *_NAMES))})(?=[._/-])", re.IGNORECASE)
_TABLES = (".csv", ".tsv", ".inter", ".parquet", ".jsonl", ".txt")
# Repositories' names of the columns: user; item and history, which belong together; and times.
_USERS = ("user_id", "session_id", "user", "userId", "reviewerID")
_PAIRS = (
    ("item_id", "history_item_id"), ("item_id", "item_id_list"), ("parent_asin", "history"),
    ("item_asin", "item_asins"), ("item", "history"),
)  # fmt: skip
_DIFFERING = "histories_other_than_their_sequences"
_DESCRIBED = ("meta_*.jsonl*", "*.item.json", "*.item", "*items.csv", "*items.tsv", "*items.parquet")


@finds(lambda options: list(split_files(options["folder"], options.get("stem")).values()))
def read_splits(
    folder: str | os.PathLike[str],
    *,
    stem: str | None = None,
    columns: ColumnMapping | None = None,
    items: str | os.PathLike[str] | None = None,
    domain: str | None = None,
    text_template: str = DEFAULT_TEMPLATE,
    keep_unseen_items: bool = False,
    allow_missing_text: bool = False,
    overlap: Literal["refuse", "keep"] = "refuse",
) -> Dataset:
    """Read a Dataset with its split from a folder with a train, a valid and a test file.

    These words are in the name of the file or its folder; `stem` is a part of the names to select one of
    several data sets. A row is an event (user, item and optionally a time) or a history and the next item.
    Common column names are recognised; `columns` sets others, for `user`, `item`, `history`, `timestamp`.
    Texts are read from `items` or from a file of items in the folder: meta_*.jsonl, *.item.json, *.item,
    *items.csv; else from the column `item_title`.

    A held-out row that is also in the training file is an error; overlap="keep" counts it instead. Held-out
    items in the user's training part, and held-out events before the last training event, are counted too.
    Raises DataError for invalid files.
    """
    require_one_of("overlap", overlap, ("refuse", "keep"))
    files, faults, repairs = split_files(folder, stem), Faults(), dict[str, int]()
    tables = [
        _part_of(file, columns or {}, faults).with_columns(part=pl.lit(number, pl.Int8))
        for number, file in enumerate(files.values())
    ]
    faults.settle()
    kinds = {tuple(sorted(set(table.columns) - {"title"})) for table in tables}
    if len(kinds) > 1:
        names = ", ".join(file.name for file in files.values())
        raise DataError(f"folder: {names} have different columns ({kinds}); give files of one kind")
    rows = pl.concat(tables, how="diagonal")
    for problem in _overlaps(rows, list(files.values()), overlap == "keep", repairs):
        faults.problems.append(problem)
    faults.settle()
    name = stem or _common_name(files["train"])
    place = existing_folder(folder, "folder")
    described = existing_file(items, "items") if items is not None else _described_file(place, stem)
    rules = ReadingRules(text_template, None, keep_unseen_items, allow_missing_text)
    return _dataset_of_rows(rows, domain or name, described, files["train"], rules, repairs)


@finds(lambda options: [existing_file(options["file"], "file")])
def read_sequences(
    file: str | os.PathLike[str],
    *,
    items: str | os.PathLike[str] | None = None,
    domain: str | None = None,
    text_template: str = DEFAULT_TEMPLATE,
    k_core: int | None = None,
    keep_unseen_items: bool = False,
    allow_missing_text: bool = False,
) -> Dataset:
    """Read a Dataset from a text file with a line `user item item ...` for each user, oldest first.

    S3-Rec, P5 (`sequential_data.txt`) and IDGenRec use this format. SASRec's file, a line `user item` for
    each interaction, is recognised by repeated users. `items` is a file of texts as in `read_splits`, or text
    of lines `item text`. Raises DataError for users that are repeated otherwise, and for invalid files.
    """
    source = existing_file(file, "file")
    described = None if items is None else existing_file(items, "items")
    rules = ReadingRules(text_template, k_core, keep_unseen_items, allow_missing_text)
    rows = _lines(source).with_row_index("row", offset=1)
    return _dataset_of_rows(rows, domain or source.name.split(".")[0], described, source, rules, {})


def dataset_of_histories(
    file: Path, described: Path | None, domain: str, columns: ColumnMapping, rules: ReadingRules
) -> Dataset:
    """Read a Dataset from a RecBole file without a split, whose rows are a history and the next item."""
    faults = Faults()
    rows = _rows_of(read_atomic(file), file, columns, faults)
    faults.settle()
    return _dataset_of_rows(rows, domain, described, file, rules, {})


def split_files(folder: str | os.PathLike[str], stem: str | None = None) -> dict[str, Path]:
    """Return the files of the three parts; raises DataError if one is missing or ambiguous."""
    place = existing_folder(folder, "folder")
    found: dict[str, list[Path]] = {part: [] for part in PARTS}
    for file in sorted([*place.glob("*"), *place.glob("*/*")]):
        inside = file.relative_to(place).as_posix()
        parts = _PART.findall(inside)
        if (
            parts
            and file.is_file()
            and file.name.removesuffix(".gz").endswith(_TABLES)
            and (stem or "") in inside
        ):
            word = parts[-1].lower()
            found[_NAMES.get(word, word)].append(file)
    for part, files in found.items():
        if len(files) != 1:
            names = ", ".join(file.relative_to(place).as_posix() for file in files[:6]) or "none"
            of = f" with {stem!r} in its name" if stem else ""
            raise DataError(
                f"folder: {place} has {len(files)} {part} files{of} ({names}); expected one, such as "
                f"<name>.{part}.csv, {part}.csv or {part}/<name>.csv; choose one with stem"
            )
    return {part: files[0] for part, files in found.items()}


def _dataset_of_rows(
    rows: pl.DataFrame,
    domain: str,
    described: Path | None,
    origin: Path,
    rules: ReadingRules,
    repairs: dict[str, int],
) -> Dataset:
    """Return a Dataset from rows `row, user, item` and optionally `part, timestamp, history, title`."""
    listed = "history" in rows.columns
    rows, events = _chained(rows, repairs) if listed else (rows, rows)
    if described is not None:
        texts, partly = _items_of(described, set(events["item"].unique()), repairs)
    elif "title" in rows.columns:
        texts = rows.select(key="item", title="title").unique("key", maintain_order=True)
        partly = True
    elif rules.allow_missing_text:
        texts, partly = undescribed_items(events, repairs), True
    else:
        raise DataError(
            f"items: no item file beside {origin.name}; give items=..., or set allow_missing_text=True for "
            "models without text"
        )
    known = ("row", "user", "item", "part") if listed else ("row", "user", "item", "part", "timestamp")
    dataset = assemble(
        domain,
        events.select(name for name in known if name in events.columns),
        in_number_order(texts),
        replace(rules, allow_missing_text=rules.allow_missing_text or partly),
        origin=origin,
        items_origin=described or origin,
        repairs=repairs,
    )
    return _with_given(dataset, rows, events) if listed else dataset


def _part_of(file: Path, columns: ColumnMapping, faults: Faults) -> pl.DataFrame:
    """Return one part: `row, user, item`, and optionally `timestamp, history, history_times, title`."""
    if file.name.removesuffix(".gz").endswith(".txt"):
        return _lines(file).with_row_index("row", offset=1)
    table = read_atomic(file) if file.name.endswith(".inter") else read_table(file)
    return _rows_of(table, file, columns, faults)


def _rows_of(table: pl.DataFrame, file: Path, columns: ColumnMapping, faults: Faults) -> pl.DataFrame:
    for role in columns:
        if role not in (known := ("user", "item", "history", "timestamp")):
            raise DataError(f"columns: unknown role {role!r}{nearest(role, known)}")
    there = table.columns
    pairs = [pair for pair in _PAIRS if pair[0] in there]
    item, history = next((pair for pair in pairs if pair[1] in there), pairs[0] if pairs else ("item", ""))
    mapping: dict[str, Any] = {
        "user": next((name for name in _USERS if name in there), "user"),
        "item": item,
        "timestamp": "timestamp" if "timestamp" in there else None,
    } | {role: name for role, name in columns.items() if role != "history"}
    history = str(columns.get("history", history))
    if "history" in columns and history not in there:
        raise DataError(f"{file}: no column {history!r} for the role 'history'{nearest(history, there)}")
    rows = raw_interactions_of(table.lazy(), mapping, str(file), faults=faults)
    rows = sound_interactions(rows, file, faults)
    beside: dict[str, pl.Series] = {}
    if history in there:
        beside["history"] = as_lists(table[history])
        if f"history_{mapping['timestamp']}" in there:
            beside["history_times"] = as_lists(table[f"history_{mapping['timestamp']}"]).cast(
                pl.List(pl.Float64)
            )
    if "item_title" in there:
        beside["title"] = as_text(table["item_title"])
    numbers = rows["row"] - 1
    return rows.with_columns(values.gather(numbers).alias(name) for name, values in beside.items())


def as_lists(values: pl.Series) -> pl.Series:
    """Parse cells as lists of ids: real lists, "A B C", "A,B" and "['A', 'B']"."""
    if isinstance(values.dtype, pl.List):
        return values.cast(pl.List(pl.String)).fill_null([])
    return values.fill_null("").str.extract_all(r"""[^\s,\[\]'"]+""")


def _lines(file: Path) -> pl.DataFrame:
    """Return the interactions `user, item` of a text file with one line per user or per interaction."""
    lines = pl.DataFrame({"line": read_utf8(file).splitlines()}).with_row_index("number", offset=1)
    ids = pl.col("line").str.extract_all(r"\S+")
    lines = lines.select("number", user=ids.list.first(), item=ids.list.slice(1)).drop_nulls("user")
    short = lines.filter(pl.col("item").list.len() == 0)
    if short.height or not lines.height:
        place = "it has no lines"
        if short.height:
            place = f"line {short['number'][0]}: user {short['user'][0]!r} has no item"
        raise DataError(f"{file}, {place}; expected lines such as 'user item item ...'")
    twice = lines.filter(pl.col("user").is_duplicated())
    if twice.height and (lines["item"].list.len() > 1).any():
        raise DataError(
            f"{file}, line {twice['number'][1]}: user {twice['user'][0]!r} occurs again; expected one line "
            "per user, or lines of one user and one item"
        )
    return lines.explode("item").drop("number")


def _overlaps(rows: pl.DataFrame, files: list[Path], keep: bool, repairs: dict[str, int]) -> list[str]:
    """Return sentences about held-out rows that are also in the training file; count them if kept."""
    same = [name for name in ("user", "item", "timestamp", "history") if name in rows.columns]
    train, found = rows.filter(part=0), []
    for number in (1, 2):
        part, own = PARTS[number], rows.filter(part=number)
        known = own.join(train, on=["user", "item"], how="semi")
        count_repair(repairs, f"{part}_items_also_trained_on", known.height)
        if "timestamp" in same:
            last = train.group_by("user").agg(last=pl.col("timestamp").max())
            earlier = own.join(last, on="user").filter(pl.col("timestamp") < pl.col("last")).height
            count_repair(repairs, f"{part}_earlier_than_training", earlier)
        again = own.join(train, on=same, how="semi", maintain_order="left")
        if len(same) == 2 or not again.height:  # a user may have an item twice
            continue
        if keep:
            count_repair(repairs, f"{part}_rows_also_in_training", again.height)
            continue
        user, item = again["user"][0], again["item"][0]
        found.append(
            f"{files[number]}: {again.height:,} of its {own.height:,} rows are also in {files[0].name}, the "
            f"first has user {user!r} and item {item!r}; remove them from one of the two, or set "
            "overlap='keep'"
        )
    return found


def _chained(rows: pl.DataFrame, repairs: dict[str, int]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows with the positions of their items in the users' sequences, and these as events.

    A sequence is the history of its first row and the items of all rows. Rows of a user are ordered by part,
    time and length of history, with ties in the order of the file, or reversed if that fits better.
    """
    users = rows.select("user").unique(maintain_order=True).with_row_index("number")
    known = {"part": pl.lit(0, pl.Int8), "timestamp": pl.lit(None, pl.Float64), "history_times": pl.lit(None)}
    rows = rows.join(users, on="user", maintain_order="left").with_columns(
        length=pl.col("history").list.len(),
        **{name: value for name, value in known.items() if name not in rows.columns},
    )
    directions = (rows, rows.reverse())
    differing, ordered, events = min(map(_laid_out, directions), key=lambda found: found[0])
    count_repair(repairs, _DIFFERING, differing)
    return ordered, events if rows["part"].n_unique() > 1 else events.drop("part")


def _laid_out(rows: pl.DataFrame) -> tuple[int, pl.DataFrame, pl.DataFrame]:
    """Return how many histories are not what precedes their items, the rows in order, and their events."""
    ordered = rows.sort("number", "part", "timestamp", "length", maintain_order=True)
    first = ordered.group_by("number", maintain_order=True).first()
    times = pl.col("history_times").cast(pl.List(pl.Float64))
    unknown = pl.col("history").list.eval(pl.lit(None, pl.Float64))
    before = first.filter(pl.col("length") > 0).select(
        "number",
        "user",
        "row",
        # Earlier items of a user without training rows are context and belong to no part.
        part=pl.when(part=0).then(0).otherwise(-1).cast(pl.Int8),
        item="history",
        timestamp=pl.when(times.list.len() == pl.col("length")).then(times).otherwise(unknown),
    )
    after = ordered.select("number", "user", "row", "part", "item", pl.col("timestamp").cast(pl.Float64))
    events = pl.concat([before.explode("item", "timestamp"), after]).sort("number", maintain_order=True)
    sequences = events.group_by("number", maintain_order=True).agg(whole="item")
    turns_left = pl.len().over("number") - pl.int_range(pl.len(), dtype=pl.Int64).over("number")
    ordered = ordered.join(sequences, on="number", maintain_order="left").with_columns(
        place=pl.col("whole").list.len().cast(pl.Int64) - turns_left
    )
    start = pl.max_horizontal(0, pl.col("place") - pl.col("length").cast(pl.Int64))
    fits = pl.col("whole").list.slice(start, pl.col("place") - start) == pl.col("history")
    return ordered.select((~fits.fill_null(False)).sum()).item(), ordered.drop("whole"), events


def _with_given(dataset: Dataset, rows: pl.DataFrame, events: pl.DataFrame) -> Dataset:
    """Return the dataset with the given rows, and the times of the events if all are known."""
    order = dataset.sequences.select("key").with_row_index("new")
    timed = events.group_by(key="user").agg(
        times=pl.when(pl.col("timestamp").is_not_null().all()).then(pl.col("timestamp").implode())
    )
    times = order.join(timed, on="key", how="left", maintain_order="left")["times"]
    dataset = replace(dataset, times=None if times.null_count() == len(times) else times)
    if dataset.parts is None:
        return dataset
    keys = pl.Enum(dataset.items["key"])
    rows = rows.filter(pl.col("length") > 0).select(
        "part",
        "place",
        "length",
        user=pl.col("user").replace_strict(order["key"], order["new"]),
        history=pl.col("history").list.eval(pl.element().cast(keys).to_physical().cast(pl.Int64)),
        target=pl.col("item").cast(keys).to_physical().cast(pl.Int64),
    )
    lengths = dataset.sequences["items"].list.len().cast(pl.Int64)
    learnt, validated = dataset.parts["learnt"], dataset.parts["validated"]
    ends, given = (0 * learnt, learnt, validated, lengths), dict[str, pl.DataFrame]()
    same = np.arange(max(dataset.n_users, dataset.n_items))
    for number, name in enumerate(PARTS):
        own = rows.filter(part=number).sort("user", maintain_order=True)
        # Rows that follow from the sequences: every item after the first with all items before it.
        whole = (own["length"] == own["place"]).all() and not dataset.repairs.get(_DIFFERING)
        places = (ends[number + 1] - ends[number].clip(1)).clip(0).sum()
        if own.height and not (whole and own.height == places):
            given[name] = renumbered(own, same, same)
    return replace(dataset, given=given)


def _described_file(folder: Path, stem: str | None) -> Path | None:
    found = [
        file
        for pattern in _DESCRIBED
        for file in sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")])
    ]
    return next((file for file in found if (stem or "") in file.name), None)


def _items_of(file: Path, wanted: set[str], repairs: dict[str, int]) -> tuple[pl.DataFrame, bool]:
    """Return a file's items with `key` and texts, and whether items may be missing in it."""
    name = file.name.removesuffix(".gz")
    if name.startswith("meta_"):
        return read_metadata(file, EDITIONS["amazon2023"], wanted, repairs).sort("key"), True
    if name.endswith(".json"):
        return lcrec_items(file, repairs), False
    if name.endswith(".txt"):
        lines = pl.DataFrame({"line": file.read_text(encoding="utf-8-sig").splitlines()})
        parts = lines.filter(pl.col("line").str.strip_chars() != "")["line"].str.extract_groups(
            r"^(\S+)\s*(.*)$"
        )
        table = parts.struct.unnest().rename({"1": "key", "2": "title"})
        return table.with_columns(without_entities(table["title"], repairs)), False
    table = read_atomic(file) if name.endswith(".item") else read_table(file)
    key = next(
        (one for one in ("item_id", "parent_asin", "item", "asin", "movieId") if one in table.columns), "item"
    )
    title = next(
        (one for one in ("title", "movie_title", "name", "item_title") if one in table.columns), None
    )
    return raw_items_of(table, {"key": key, "title": title}, str(file), repairs), False


def _common_name(train: Path) -> str:
    """Return the data set's name: the file's name before the word for the part, else the whole name."""
    if found := _PART.search(train.name):
        return train.name[: found.start()].strip("._-") or train.parent.name
    return train.name.removesuffix(".gz").rpartition(".")[0]
