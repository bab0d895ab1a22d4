"""Builds one domain's Dataset from any source's tables of interactions and items."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from genrec_lab.data.dataset import Dataset
from genrec_lab.data.item_text import DEFAULT_TEMPLATE, as_text, filled_text, parse_template
from genrec_lab.data.paths import expanded
from genrec_lab.data.picture_files import PACK_SUFFIX, packed_names
from genrec_lab.data.preparation import k_core
from genrec_lab.data.rules import (
    ITEM_TYPES,
    DataError,
    count_repair,
    is_attribute_type,
    nearest,
    require_bool,
)
from genrec_lab.registry import base_folder

# Every source fills these columns, with "" if it has no value, so that one template fits all sources.
TEXT_COLUMNS = ("title", "description", "brand", "categories")


@dataclass(frozen=True)
class ReadingRules:
    """Options that all sources share."""

    text_template: str = DEFAULT_TEMPLATE
    # Repeatedly removes users and items with fewer interactions (None: keeps all).
    k_core: int | None = None
    # Whether items without interactions stay in the ranked catalogue.
    keep_unseen_items: bool = False
    # Whether items may have no description; their title is then "".
    allow_missing_text: bool = False

    def __post_init__(self) -> None:
        for option in ("keep_unseen_items", "allow_missing_text"):
            require_bool(option, getattr(self, option))


class Faults:
    """The invalid rows of tables: either all reported in one error, or dropped, counted and listed.

    Tables have a column `row` with row numbers from 1.
    """

    def __init__(self, drop: bool = False) -> None:
        self.drop = drop
        self.problems: list[str] = []
        self.repairs: dict[str, int] = {}
        self._dropped: list[pl.DataFrame] = []

    def without(
        self, table: pl.DataFrame, bad: pl.Series, reason: str, origin: object, problem: str
    ) -> pl.DataFrame:
        """Return the table without its bad rows; `reason` is e.g. "no user", `problem` a sentence."""
        if not bad.any():
            return table
        if self.drop:
            count_repair(self.repairs, f"rows_dropped_{reason.replace(' ', '_')}", int(bad.sum()))
            rows = table.filter(bad).select(
                pl.lit(Path(str(origin)).name).alias("file"),
                pl.col("row").cast(pl.Int64),
                reason=pl.lit(reason),
            )
            self._dropped.append(rows)
        else:
            self.problems.append(f"{origin}: {problem}")
        return table.filter(~bad)

    def settle(self) -> None:
        """Raise a DataError with all kept problems, if any."""
        if self.problems:
            raise DataError("; ".join(dict.fromkeys(self.problems)))

    @property
    def dropped(self) -> pl.DataFrame | None:
        """Return the dropped rows, `file, row, reason`, or None."""
        return pl.concat(self._dropped) if self._dropped else None


def assemble(
    domain: str,
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    rules: ReadingRules,
    *,
    origin: object,
    items_origin: object = None,
    images: str | None = None,
    images_base: Path | None = None,
    repairs: Mapping[str, int] | None = None,
    sources: Mapping[str, dict[str, Any]] | None = None,
    faults: Faults | None = None,
) -> Dataset:
    """Return one domain's Dataset: checked, filtered, in time order, with text, and with counted repairs.

    `interactions`: `user` and `item` ids as text and, unless the rows are in time order, `timestamp`; `part`
    (0 training, 1 validation, 2 test) if the source is split into consecutive parts. `items`: `key` (the ids
    in interactions), any of TEXT_COLUMNS, attributes. `origin` and `items_origin` (by default the same) name
    the tables in messages. `images`: a column or a template of paths, relative to `images_base`; see
    `found_images`.
    `repairs`: counts of earlier repairs. `sources`: facts about the raw files by name. `faults`: earlier
    invalid rows, and whether such rows are dropped.

    Interactions are ordered by timestamp, ties as in the source; repeated pairs stay
    (`repeated_interactions`). Users are numbered by first appearance, items as in their table. Raises
    DataError for null ids or times, differing rows of one item, an interaction with an unknown item, and a
    domain that the k-core empties.
    """
    repairs, faults, items_origin = dict(repairs or {}), faults or Faults(), items_origin or origin
    interactions = sound_interactions(_numbered(interactions), origin, faults)
    if "part" in interactions.columns and rules.k_core is not None:
        raise DataError("k_core: a given split is used as it is; leave k_core out")
    items = _unique_items(_numbered(items), items_origin, repairs, faults)
    known = interactions["item"].is_in(items["key"].implode())
    unknown = interactions.filter(~known)
    if unknown.height and rules.allow_missing_text:
        items = pl.concat([items, undescribed_items(unknown, repairs)], how="diagonal")
    elif unknown.height:
        user, item = unknown["user"][0], unknown["item"][0]
        problem = (
            f"user {user!r} has item {item!r}, which {items_origin} does not contain "
            f"({unknown['item'].n_unique()} such items, {unknown.height} interactions); add the item there, "
            "remove its interactions, or set allow_missing_text=True to keep it without text"
        )
        interactions = faults.without(interactions, ~known, "unknown item", origin, problem)
    faults.settle()
    if not interactions.height:
        raise DataError(f"{origin}: every row was dropped; see what is wrong with on_error='refuse'")
    for what, number in faults.repairs.items():
        count_repair(repairs, what, number)
    interactions, items = interactions.drop("row"), items.drop("row", strict=False)
    repeated = interactions.height - interactions.select("user", "item").n_unique()
    count_repair(repairs, "repeated_interactions", repeated)
    if rules.k_core is not None:
        before = interactions["item"]
        interactions = kept_core(interactions, rules.k_core, repairs, f"domain {domain!r}")
        items = items.filter(~_among(before) | _among(interactions["item"]))
    if not rules.keep_unseen_items:
        seen = items.filter(_among(interactions["item"]))
        count_repair(repairs, "items_without_interactions_removed", items.height - seen.height)
        items = seen
    if images is not None:
        items = found_images(items, images, images_base, repairs)
    catalogue = _catalogue(items, domain, rules.text_template, repairs)
    sources = {f"{domain}/{file}": known for file, known in (sources or {}).items()}
    users = _users(interactions, catalogue, domain)
    return Dataset.from_users(
        domain, catalogue, users, repairs=repairs, sources=sources, dropped=faults.dropped
    )


def kept_core(interactions: pl.DataFrame, k: int | None, repairs: dict[str, int], where: str) -> pl.DataFrame:
    """Return the k-core of interactions and count the removed ones; raises DataError if nothing is left."""
    if k is None:
        return interactions
    kept = k_core(interactions, k)
    if kept.height == 0:
        raise DataError(
            f"{where}: the {k}-core of its {interactions.height:,} interactions is empty; use a smaller "
            "k_core or more data, or leave the domain out"
        )
    count_repair(repairs, "interactions_removed_by_k_core", interactions.height - kept.height)
    for role in ("user", "item"):
        lost = interactions[role].n_unique() - kept[role].n_unique()
        count_repair(repairs, f"{role}s_removed_by_k_core", lost)
    return kept


def undescribed_items(interactions: pl.DataFrame, repairs: dict[str, int]) -> pl.DataFrame:
    """Return the items in interactions as a table of only their keys, counted as not described."""
    items = interactions.select(key="item").unique(maintain_order=True)
    count_repair(repairs, "items_not_described", items.height)
    return items


def found_images(
    items: pl.DataFrame, images: str, base: Path | None, repairs: dict[str, int]
) -> pl.DataFrame:
    """Return `items` with a column `image`: the absolute path of each picture, or null.

    `images` is a column of paths, or a template such as "posters/{key}.jpg". Relative paths start at `base`,
    and may lead into a packed file as if it were a folder: "Office.pictures/{key}.jpg". Paths from a table
    must stay within `base`, or within the folder that a template begins with, except for a table in memory,
    whose base is None. Items without a picture are counted in `repairs["items_without_image"]`. Raises
    DataError for an unknown column, a web address, a picture elsewhere, and if no picture is found.
    """
    if not isinstance(images, str) or not images:
        raise DataError(
            f'images is {images!r}, expected the name of a column or a template such as "posters/{{key}}.jpg"'
        )
    images = expanded(images, "images")
    column = next((name for name in (images, f"source_{images}") if name in items.columns), None)
    if "{" in images:
        named = _paths_by_template(images, items)
    elif column is not None:
        named = as_text(items[column])
        items = items.drop(column)
    else:
        raise DataError(
            f"images: no column {images!r}{nearest(images, items.columns)}; "
            'name a column of paths, or give a template such as "posters/{key}.jpg"'
        )
    web = named.filter(named.str.contains("^https?://"))
    if len(web):
        raise DataError(
            f"images: {web[0]!r} is an address on the web; fetch the pictures and give their files"
        )
    start = base_folder() if base is None else base
    paths = [str(start / Path(name).expanduser()) if name else None for name in named]
    begins = images[: images.partition("{")[0].rfind("/") + 1] if "{" in images else ""
    kept = _only_present(paths, None if base is None else start / Path(begins).expanduser())
    absent = kept.count(None)
    if absent == len(kept):
        looked = next((path for path in paths if path is not None), "missing")
        raise DataError(
            f"images: none of {len(kept)} pictures exists, the first path is {looked}; check images"
        )
    count_repair(repairs, "items_without_image", absent)
    return items.with_columns(pl.Series("image", kept, dtype=pl.String))


def _numbered(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table with a column `row`, from 1, if it has none."""
    return table if "row" in table.columns else table.with_row_index("row", offset=1)


def sound_interactions(frame: pl.DataFrame, origin: object, faults: Faults) -> pl.DataFrame:
    """Return the interactions that have a user, an item and a time; the others are noted."""
    if frame.height == 0 and not faults.problems and faults.dropped is None:
        raise DataError(f"{origin}: it has no interactions; at least one is needed")
    for name in ("user", "item", "timestamp"):
        if name not in frame.columns:
            continue
        bad = frame[name].is_null()
        if name != "timestamp":
            bad |= frame[name] == ""
        elif frame[name].dtype.is_float():
            bad |= frame[name].is_nan()
        problem = (
            f"{bad.sum()} interactions have no {name}, the first is number "
            f"{frame['row'][int(bad.arg_max() or 0)] if len(bad) else 0}; fill it in or remove them"
        )
        frame = faults.without(frame, bad, f"no {name}", origin, problem)
    return frame


def _unique_items(
    items: pl.DataFrame, origin: object, repairs: dict[str, int], faults: Faults
) -> pl.DataFrame:
    without = items["key"].is_null() | (items["key"] == "")
    if without.any():
        problem = f"item number {items.filter(without)['row'][0]} has no id; fill it in or remove the item"
        items = faults.without(items, without, "item without id", origin, problem)
    distinct = items.unique(items.drop("row").columns, keep="first", maintain_order=True)
    count_repair(repairs, "identical_item_rows_merged", items.height - distinct.height)
    twice = distinct.filter(distinct["key"].is_duplicated())["key"]
    if len(twice):
        problem = (
            f"item {twice[0]!r} has {(twice == twice[0]).sum()} rows that differ ({twice.n_unique()} such "
            "items); keep one row per item"
        )
        later = ~distinct["key"].is_first_distinct()
        distinct = faults.without(distinct, later, "item again, otherwise", origin, problem)
    return distinct


def _catalogue(items: pl.DataFrame, domain: str, template: str, repairs: dict[str, int]) -> pl.DataFrame:
    items = items.with_columns(
        (as_text(items[name]) if name in items.columns else pl.lit("")).alias(name) for name in TEXT_COLUMNS
    )
    items = items.with_columns(filled_text(items, template, repairs), domain=pl.lit(domain))
    if "image" not in items.columns:
        items = items.with_columns(image=pl.lit(None, dtype=pl.String))
    attributes = [
        one if is_attribute_type(one.dtype) else as_text(one).rename(one.name)
        for one in items
        if one.name not in ITEM_TYPES
    ]
    number = pl.int_range(items.height, dtype=pl.Int64).alias("item")
    return items.select(number, *[name for name in ITEM_TYPES if name != "item"], *attributes)


def _users(interactions: pl.DataFrame, catalogue: pl.DataFrame, domain: str) -> pl.DataFrame:
    by = [name for name in ("part", "timestamp") if name in interactions.columns]
    in_time = interactions.lazy().sort(by, maintain_order=True) if by else interactions.lazy()
    kept = {"times": pl.col("timestamp")} if "timestamp" in by else {}
    if "part" in by:
        bounds = {"learnt": pl.col("part") == 0, "validated": pl.col("part") < 2}
        kept |= {name: inside.sum().cast(pl.Int64) for name, inside in bounds.items()}
    numbers = catalogue.lazy().select(item="key", items="item")
    placed = in_time.rename({"user": "key"}).join(numbers, on="item", maintain_order="left")
    lists = placed.group_by("key", maintain_order=True).agg("items", **kept)
    first_seen = interactions.lazy().select(key="user").unique(maintain_order=True)
    users = first_seen.join(lists, on="key", how="left", maintain_order="left").collect()
    number = pl.int_range(users.height, dtype=pl.Int64)
    return users.select(number.alias("user"), pl.lit(domain).alias("domain"), "items", *kept, "key")


def _among(values: pl.Series) -> pl.Expr:
    return pl.col("key").is_in(values.unique().implode())


def _paths_by_template(template: str, items: pl.DataFrame) -> pl.Series:
    """Return the template filled in for each row, or "" if a field is empty."""
    fields = parse_template(template)
    for part in fields:
        if part.name not in items.columns:
            raise DataError(f"images: {template!r} names no column{nearest(part.name, items.columns)}")
    values = items.select(as_text(items[name]) for name in dict.fromkeys(part.name for part in fields))
    pieces: list[pl.Expr] = []
    for part in fields:
        pieces += [pl.lit(part.separator + part.label), pl.col(part.name), pl.lit(part.suffix)]
    complete = pl.all_horizontal(pl.all() != "")
    return values.select(path=pl.when(complete).then(pl.concat_str(pieces)).otherwise(pl.lit("")))["path"]


def _names_in(folder: Path) -> frozenset[str]:
    """Return the names of the files in a folder or packed file."""
    if folder.suffix == PACK_SUFFIX and folder.is_file():
        return frozenset(packed_names(folder))
    return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()


def _only_present(paths: list[str | None], root: Path | None) -> list[str | None]:
    """Return the paths, with None for missing files; each folder is listed only once.

    Raises DataError for a path that leads out of `root`, also by links.
    """
    top = None if root is None else os.path.realpath(root)
    listed, kept = cache(_names_in), list[str | None]()
    for path in paths:
        folder, name = os.path.split(path or "")
        names = listed(Path(folder)) if path else frozenset[str]()
        if path and top is not None and names:
            leads_to = os.path.realpath(path)
            if os.path.commonpath([leads_to, top]) != top:
                raise DataError(
                    f"images: {path} leads to {leads_to}, outside {top}; move the pictures there, or write "
                    'images as a template that begins with their folder, such as "/pictures/{key}.jpg"'
                )
        kept.append(path if name in names else None)
    return kept
