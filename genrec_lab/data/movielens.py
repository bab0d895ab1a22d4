"""GroupLens folders as they are unpacked: ml-100k, ml-1m, and ml-latest-small with its larger sisters."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from genrec_lab.data.assembly import ReadingRules, assemble
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.frames import raw_interactions_of, raw_items_of, read_csv
from genrec_lab.data.item_text import DEFAULT_TEMPLATE
from genrec_lab.data.paths import existing_file, existing_folder
from genrec_lab.data.rules import DataError
from genrec_lab.data.sources import finds, one_domain

# The flags that end a line of ml-100k's u.item, in the order of its README.
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip

RATING_FIELDS = ("user", "item", "rating", "timestamp")


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
    """A Dataset from a GroupLens folder; every rating is an interaction, genres are the categories.

    The kind of folder is known by its files: u.data and u.item (ml-100k), ratings.dat and movies.dat (ml-1m),
    ratings.csv and movies.csv (ml-latest-small and others). `posters` is a folder with `<movie id>.jpg`;
    films without one are counted as `items_without_image`. `domain` is "Movies" unless given. Raises
    DataError for a folder without such files and for a line with a wrong number of fields, naming the line.
    """
    ratings_file, films_file = _files(folder)
    if ratings_file.name == "u.data":
        ratings, films = _lines(ratings_file, "\t", RATING_FIELDS), _films_100k(films_file)
    elif ratings_file.name == "ratings.dat":
        ratings = _lines(ratings_file, "::", RATING_FIELDS)
        films = _without_bars(_lines(films_file, "::", ("item", "title", "categories")))
    else:
        ratings = _csv(ratings_file).rename({"userId": "user", "movieId": "item"}, strict=False)
        films = _csv(films_file).rename({"movieId": "item", "genres": "categories"}, strict=False)
        films = _without_bars(films)
    repairs: dict[str, int] = {}
    return assemble(
        domain or "Movies",
        raw_interactions_of(ratings.lazy(), {}, str(ratings_file)),
        raw_items_of(films, {}, str(films_file), repairs),
        ReadingRules(text_template, k_core, keep_unseen_items),
        origin=ratings_file,
        items_origin=films_file,
        images=None if posters is None else "{key}.jpg",
        images_base=ratings_file.parent if posters is None else existing_folder(posters, "posters"),
        repairs=repairs,
    )


def _files(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The files of ratings and of films in a GroupLens folder."""
    source = existing_folder(folder, "folder")
    for ratings, films in (
        ("u.data", "u.item"),
        ("ratings.dat", "movies.dat"),
        ("ratings.csv", "movies.csv"),
    ):
        if (source / ratings).exists():
            return source / ratings, existing_file(source / films, "folder")
    raise DataError(
        f"folder: {source} is no GroupLens folder; expected u.data and u.item (ml-100k), ratings.dat and "
        "movies.dat (ml-1m), or ratings.csv and movies.csv (ml-latest-small)"
    )


def _lines(file: Path, separator: str, names: tuple[str, ...]) -> pl.DataFrame:
    """The fields of each line as text columns; blank lines are skipped.

    GroupLens writes its oldest data as latin-1, later ones and those saved again are UTF-8.
    """
    raw = existing_file(file, "folder").read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    # splitlines() would also break at control characters that may occur in a latin-1 title.
    lines = pl.DataFrame({"line": text.replace("\r\n", "\n").split("\n")}).with_row_index("number", offset=1)
    filled = lines.filter(pl.col("line").str.strip_chars() != "")
    parts = filled.with_columns(parts=pl.col("line").str.split(separator))
    wrong = parts.filter(pl.col("parts").list.len() != len(names))
    if wrong.height:
        raise DataError(
            f"{file}, line {wrong['number'][0]}: {wrong['parts'].list.len()[0]} fields between "
            f"{separator!r}, expected {len(names)} "
            f"({', '.join(names[:6])}{', ...' if len(names) > 6 else ''}); mend or fetch the file again"
        )
    return parts.select(pl.col("parts").list.get(place).alias(name) for place, name in enumerate(names))


def _films_100k(file: Path) -> pl.DataFrame:
    columns = ("item", "title", "release_date", "video_release_date", "address", *GENRES_100K)
    films = _lines(file, "|", columns)
    flags = [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in GENRES_100K if name != "unknown"]
    genres = pl.concat_list(flags).list.drop_nulls().list.join(", ")
    return films.select("item", "title", "release_date", categories=genres)


def _csv(file: Path) -> pl.DataFrame:
    try:
        existing_file(file, "folder").read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return read_csv(file, encoding="latin-1")
    return read_csv(file)


def _without_bars(films: pl.DataFrame) -> pl.DataFrame:
    if "categories" not in films.columns:
        return films
    genres = pl.col("categories").replace("(no genres listed)", "").str.replace_all("|", ", ", literal=True)
    return films.with_columns(categories=genres)
