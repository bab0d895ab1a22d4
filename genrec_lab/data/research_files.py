"""Reads common published formats: LC-Rec pairs, RecBole atomic files, GroupLens folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

from genrec_lab.data.assembly import TEXT_COLUMNS, ReadingRules, assemble, undescribed_items
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.frames import (
    ColumnMapping,
    checked_mapping,
    raw_interactions_of,
    raw_items_of,
    read_csv,
    reading,
)
from genrec_lab.data.item_text import DEFAULT_TEMPLATE, without_entities
from genrec_lab.data.paths import existing_file, existing_folder, read_json_object
from genrec_lab.data.rules import ITEM_TYPES, DataError, count_repair
from genrec_lab.data.sources import finds, one_domain

ATOMIC_TYPES = ("token", "token_seq", "float", "float_seq")
# Names of title and categories in RecBole's published data sets.
ATOMIC_NAMES = {"title": ("movie_title", "name"), "categories": ("class", "genre", "genres", "category")}


@finds(lambda options: _lcrec_pair(options["folder"], bool(options.get("allow_missing_text"))))
def read_lcrec(
    folder: str | os.PathLike[str],
    *,
    domain: str | None = None,
    text_template: str = DEFAULT_TEMPLATE,
    k_core: int | None = None,
    keep_unseen_items: bool = True,
    allow_missing_text: bool = False,
) -> Dataset:
    """Read a folder with the pair `<Name>.inter.json` and `<Name>.item.json`.

    They hold {user: [item, ...] oldest first} and {item: {title, description, brand, categories}}.
    `domain` is Name unless given. Users and items keep the order of the files, items in the order of their
    numbers if all ids are numbers. The published item file is the catalogue, so items without interactions
    stay. `allow_missing_text=True` reads a folder without an item file, for models that need only ids. Users
    without items are left out (counted as `users_without_items`). Raises DataError for invalid files.
    """
    name, inter_file, item_file = _lcrec_pair(folder, allow_missing_text)
    repairs: dict[str, int] = {}
    interactions = _lcrec_interactions(inter_file, repairs)
    items = undescribed_items(interactions, repairs) if item_file is None else lcrec_items(item_file, repairs)
    rules = ReadingRules(text_template, k_core, keep_unseen_items, allow_missing_text)
    files: Any = {"origin": inter_file, "items_origin": item_file}
    return assemble(domain or name, interactions, in_number_order(items), rules, repairs=repairs, **files)


@finds(lambda options: _recbole_files(options["folder"], bool(options.get("allow_missing_text"))))
def read_recbole(
    folder: str | os.PathLike[str],
    *,
    columns: ColumnMapping | None = None,
    domain: str | None = None,
    text_template: str = DEFAULT_TEMPLATE,
    k_core: int | None = None,
    keep_unseen_items: bool = False,
    allow_missing_text: bool = False,
) -> Dataset:
    """Read a folder with RecBole's atomic files `<name>.inter` and `<name>.item`.

    They are tab separated under a header `field:type`. Ids are `user_id` and `item_id`, times `timestamp`;
    title and categories are also found under RecBole's other names (`movie_title`, `class`, `genre`,
    `genres`). `columns` maps roles to fields as `read_frames` does. `domain` is the files' name unless given.
    `allow_missing_text=True` reads a folder without `.item`.

    Benchmark files, such as `<name>.train.inter`, are read with their split, as in `read_splits`. In a
    file with a field `item_id_list:token_seq` a row is a history and the item after it.
    """
    from genrec_lab.data.given_splits import dataset_of_histories, read_splits

    given = checked_mapping(columns or {})
    if _is_split(folder):
        if k_core is not None:
            raise DataError("k_core: a given split is used as it is; leave k_core out")
        return read_splits(
            folder, columns=given, domain=domain, text_template=text_template,
            keep_unseen_items=keep_unseen_items, allow_missing_text=allow_missing_text,
        )  # fmt: skip
    name, inter_file, item_file = _pair(folder, ".inter", ".item", allow_missing_text)
    rules = ReadingRules(text_template, k_core, keep_unseen_items, allow_missing_text)
    if "item_id_list" in read_atomic(inter_file).columns:
        return dataset_of_histories(inter_file, item_file, domain or name, given, rules)
    defaults = {"user": "user_id", "item": "item_id"}
    interactions = raw_interactions_of(read_atomic(inter_file).lazy(), {**defaults, **given}, str(inter_file))
    repairs: dict[str, int] = {}
    if item_file is None:
        items = undescribed_items(interactions, repairs)
    else:
        table = read_atomic(item_file)
        for role, others in ATOMIC_NAMES.items():
            found = [name for name in (role, *others) if name in table.columns]
            if found:
                defaults[role] = found[0]
        items = raw_items_of(table, {**defaults, **given}, str(item_file), repairs)
    files: Any = {"origin": inter_file, "items_origin": item_file}
    return assemble(domain or name, interactions, items, rules, repairs=repairs, **files)


def _is_split(folder: str | os.PathLike[str]) -> bool:
    return any(existing_folder(folder, "folder").glob("*.train.inter"))


def _recbole_files(folder: str | os.PathLike[str], allow_missing_text: bool) -> object:
    from genrec_lab.data.given_splits import split_files

    if _is_split(folder):
        return list(split_files(folder).values())
    return _pair(folder, ".inter", ".item", allow_missing_text)


def _lcrec_pair(folder: str | os.PathLike[str], allow_missing_text: bool) -> tuple[str, Path, Path | None]:
    name, inter_file, item_file = _pair(folder, ".inter.json", ".item.json", allow_missing_text)
    if item_file is not None and item_file.name.removesuffix(".item.json") != name:
        raise DataError(
            f"folder: {inter_file.name} and {item_file.name} in {item_file.parent} are not a pair; give them "
            "the same name"
        )
    return name, inter_file, item_file


def _pair(
    folder: str | os.PathLike[str], inter: str, item: str, allow_missing_text: bool
) -> tuple[str, Path, Path | None]:
    """Return the name of the data in a folder, the file of interactions, and that of the items or None."""
    source = existing_folder(folder, "folder")
    inter_file, item_file = _only_file(source, inter), _only_file(source, item)
    if inter_file is None:
        names = sorted(path.name for path in source.iterdir())
        found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
        raise DataError(f"folder: no *{inter} in {source} (found: {found}); give the folder of both files")
    name = inter_file.name.removesuffix(inter)
    if item_file is None and not allow_missing_text:
        raise DataError(
            f"folder: {source} has {inter_file.name} but no {name}{item}; add it, or set "
            "allow_missing_text=True for models that need no text"
        )
    return name, inter_file, item_file


def _only_file(folder: Path, suffix: str) -> Path | None:
    found = sorted(path for path in folder.iterdir() if path.name.endswith(suffix) and path.name != suffix)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"folder: {folder} has {len(found)} *{suffix} files ({names}); give each a folder of its own"
        )
    return found[0] if found else None


def read_atomic(file: Path) -> pl.DataFrame:
    """Return an atomic file's table, without types in column names: `float` as numbers, others as text."""
    existing_file(file, "folder")
    with reading(file):
        table = pl.read_csv(file, separator="\t", quote_char=None, infer_schema=False)
    columns = []
    for field, values in zip(table.columns, table, strict=True):
        name, _, kind = field.rpartition(":")
        if not name or kind not in ATOMIC_TYPES:
            raise DataError(
                f"{file}, line 1: field {field!r} is not of the form name:type; types are "
                f"{', '.join(ATOMIC_TYPES)}"
            )
        # Times stay text here: as 64-bit floats, late ones in nanoseconds would become equal.
        typed = values.cast(pl.Float64, strict=False) if kind == "float" and name != "timestamp" else values
        if typed.null_count() > values.null_count():
            row = int((typed.is_null() & values.is_not_null()).arg_max() or 0)
            raise DataError(
                f"{file}, line {row + 2}: {name} is {values[row]!r}, its header says float; correct it"
            )
        columns.append(typed.rename(name))
    return pl.DataFrame(columns)


def _lcrec_interactions(file: Path, repairs: dict[str, int]) -> pl.DataFrame:
    found = read_json_object(file)
    for user, value in found.items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(
                f"{file}: user {user!r} has {str(value)[:80]}, expected a list of item ids (text or whole "
                "numbers)"
            )
    lists = pl.Series("item", list(found.values()), dtype=pl.List(pl.String))
    frame = pl.DataFrame({"user": list(found)}).with_columns(lists)
    empty = frame["item"].list.len() == 0
    count_repair(repairs, "users_without_items", int(empty.sum()))
    return frame.filter(~empty).explode("item")


def lcrec_items(file: Path, repairs: dict[str, int]) -> pl.DataFrame:
    """Return the items of LC-Rec's `<Name>.item.json`: `key` and the texts of their fields."""
    found = read_json_object(file)
    for key, fields in found.items():
        if not isinstance(fields, dict):
            raise DataError(
                f"{file}: item {key!r} has {str(fields)[:80]}, expected an object such as "
                '{"title": ..., "description": ..., "brand": ..., "categories": ...}'
            )
    names = dict.fromkeys((*TEXT_COLUMNS, *(name for fields in found.values() for name in fields)))
    columns = {"key": list(found)}
    for name in names:
        separator = ", " if name == "categories" else " "
        kept = f"source_{name}" if name in ITEM_TYPES and name != "title" else name
        columns[kept] = [
            _flat_text(fields.get(name), separator, f"{file}: item {key!r}") for key, fields in found.items()
        ]
    table = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return table.with_columns(without_entities(one, repairs) for one in table if one.name != "key")


def _flat_text(value: Any, separator: str, where: str) -> str:
    """Return text, numbers, and nested lists of these as one text."""
    if value is None:
        return ""
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, list):
        parts = (_flat_text(part, separator, where) for part in value)
        return separator.join(part for part in parts if part.strip())
    raise DataError(
        f"{where}: has an object inside a field ({str(value)[:80]}), expected text or a list of texts"
    )


def in_number_order(items: pl.DataFrame) -> pl.DataFrame:
    """Return the items in numeric order if all keys are whole numbers, else unchanged."""
    numbers = items["key"].cast(pl.Int64, strict=False)
    return items if numbers.null_count() else items.sort(numbers, maintain_order=True)


# The flags that end a line of ml-100k's u.item, in the order of its README.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip

RATING_FIELDS = ("user", "item", "rating", "timestamp")
FILM_FIELDS_100K = ("item", "title", "release_date", "video_release_date", "address", *GENRES_100K)


@finds(lambda options: _files(options["folder"]))
@one_domain("posters")
def read_movielens(
    folder: str | os.PathLike[str],
    *,
    posters: str | os.PathLike[str] | None = None,
    domain: str | None = None,
    text_template: str = DEFAULT_TEMPLATE,
    k_core: int | None = None,
    keep_unseen_items: bool = False,
) -> Dataset:
    """Read a Dataset from a GroupLens folder; every rating is an interaction, genres are the categories.

    The kind of folder is recognised by its files: u.data and u.item (ml-100k), ratings.dat and movies.dat
    (ml-1m), ratings.csv and movies.csv (ml-latest-small and others). `posters` is a folder with `<movie
    id>.jpg`; films without one are counted as `items_without_image`. `domain` is "Movies" unless given.
    Raises DataError for a folder without such files and for a line with a wrong number of fields, naming the
    line.
    """
    ratings_file, films_file = _files(folder)
    flags: ColumnMapping = {}
    if ratings_file.name == "u.data":
        ratings = _lines(ratings_file, "\t", RATING_FIELDS)
        films = _lines(films_file, "|", FILM_FIELDS_100K).drop("video_release_date", "address", "unknown")
        films, flags = films.with_columns(pl.col(GENRES_100K[1:]) == "1"), {"categories": GENRES_100K[1:]}
    elif ratings_file.name == "ratings.dat":
        ratings = _lines(ratings_file, "::", RATING_FIELDS)
        films = _lines(films_file, "::", ("item", "title", "categories"))
    else:
        names = {"userId": "user", "movieId": "item", "genres": "categories"}
        ratings, films = (
            read_csv(file, encoding=_encoding(file)).rename(names, strict=False)
            for file in (ratings_file, films_file)
        )
    films = films.with_columns(pl.col("^categories$").replace("(no genres listed)", ""))
    repairs: dict[str, int] = {}
    return assemble(
        domain or "Movies",
        raw_interactions_of(ratings.lazy(), {}, str(ratings_file)),
        raw_items_of(films, flags, str(films_file), repairs),
        ReadingRules(text_template, k_core, keep_unseen_items),
        origin=ratings_file,
        items_origin=films_file,
        images=None if posters is None else "{key}.jpg",
        images_base=ratings_file.parent if posters is None else existing_folder(posters, "posters"),
        repairs=repairs,
    )


def _files(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the files of ratings and of films in a GroupLens folder."""
    source = existing_folder(folder, "folder")
    pairs = (("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"))
    for ratings, films in pairs:
        if (source / ratings).exists():
            return source / ratings, existing_file(source / films, "folder")
    raise DataError(
        f"folder: {source} is not a GroupLens folder; expected u.data and u.item (ml-100k), ratings.dat and "
        "movies.dat (ml-1m), or ratings.csv and movies.csv (ml-latest-small)"
    )


def _lines(file: Path, separator: str, names: tuple[str, ...]) -> pl.DataFrame:
    """Return the fields of each line as text columns; blank lines are skipped."""
    text = existing_file(file, "folder").read_bytes().decode(_encoding(file)).removeprefix("\ufeff")
    # splitlines() would also break at control characters that may occur in a latin-1 title.
    lines = pl.DataFrame({"line": text.replace("\r\n", "\n").split("\n")}).with_row_index("number", offset=1)
    filled = lines.filter(pl.col("line").str.strip_chars() != "")
    parts = filled.with_columns(parts=pl.col("line").str.split(separator))
    wrong = parts.filter(pl.col("parts").list.len() != len(names))
    if wrong.height:
        raise DataError(
            f"{file}, line {wrong['number'][0]}: {wrong['parts'].list.len()[0]} fields separated by "
            f"{separator!r}, expected {len(names)} "
            f"({', '.join(names[:6])}{', ...' if len(names) > 6 else ''}); correct it or fetch the file again"
        )
    return parts.select(pl.col("parts").list.get(place).alias(name) for place, name in enumerate(names))


def _encoding(file: Path) -> str:
    """Return the encoding of GroupLens' files: the oldest are latin-1, later and re-saved ones UTF-8."""
    try:
        existing_file(file, "folder").read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"
