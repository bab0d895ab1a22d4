"""The pictures of items: where they should be, and whether they are there."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from genrec_lab.data.item_text import TemplateField, as_text, parse_template
from genrec_lab.data.paths import expanded
from genrec_lab.data.picture_pack import SUFFIX, packed_names
from genrec_lab.data.rules import DataError, nearest


def found_images(items: pl.DataFrame, images: str, base: Path, repairs: dict[str, int]) -> pl.DataFrame:
    """`items` with the column `image`: the absolute path of each picture, null where there is none.

    `images` is a column of paths, or a template such as "posters/{key}.jpg"; relative paths start at `base`,
    and may lead into a packed file as if it were a folder: "Office.pictures/{key}.jpg".
    Items without a picture are counted in `repairs["items_without_image"]`. Raises DataError for an unknown
    column, for addresses on the web, and where not one picture is found.
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
    paths = [str(base / Path(name).expanduser()) if name else None for name in named]
    kept = _only_present(paths)
    absent = kept.count(None)
    if absent == len(kept):
        looked = next((path for path in paths if path is not None), "no path at all")
        raise DataError(
            f"images: not one of {len(kept)} pictures is there, first looked for: {looked}; check images"
        )
    if absent:
        repairs["items_without_image"] = repairs.get("items_without_image", 0) + absent
    return items.with_columns(pl.Series("image", kept, dtype=pl.String))


def _paths_by_template(template: str, items: pl.DataFrame) -> pl.Series:
    """The template filled in for each row, "" where a field of it is empty."""
    fields = parse_template(template)
    for part in fields:
        if part.name not in items.columns:
            raise DataError(f"images: {template!r} names no column{nearest(part.name, items.columns)}")
    values = items.select(as_text(items[name]) for name in dict.fromkeys(part.name for part in fields))
    pieces = [piece for part in fields for piece in _pieces(part)]
    complete = pl.all_horizontal(pl.all() != "")
    return values.select(path=pl.when(complete).then(pl.concat_str(pieces)).otherwise(pl.lit("")))["path"]


def _pieces(part: TemplateField) -> list[pl.Expr]:
    return [pl.lit(part.separator + part.label), pl.col(part.name), pl.lit(part.suffix)]


def _names_in(folder: Path) -> set[str]:
    """The names of the files of a folder, or of the pictures of a packed file."""
    if folder.suffix == SUFFIX and folder.is_file():
        return packed_names(folder)
    return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()


def _only_present(paths: list[str | None]) -> list[str | None]:
    """The paths with None for files that are not there; a folder is listed once, not asked for every file."""
    listings: dict[str, set[str]] = {}
    kept: list[str | None] = []
    for path in paths:
        folder, name = os.path.split(path or "")
        if folder not in listings:
            listings[folder] = _names_in(Path(folder))
        kept.append(path if name in listings[folder] else None)
    return kept
