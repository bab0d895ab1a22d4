"""Your own tables: the mapping of columns, times, pictures, the k-core, and what is refused."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_lab.data import DataError, Dataset, load_dataset


def by_key(dataset: Dataset) -> dict[str, list[str]]:
    """Each user's sequence in the source's own ids."""
    keys = dataset.items["key"].to_list()
    return {key: [keys[item] for item in items] for _, _, items, key in dataset.sequences.iter_rows()}


RATINGS = pl.DataFrame(
    {"reader": ["b", "a", "b", "a"], "book": [7, 7, 8, 9], "when": [40, 20, 30, 10], "stars": [5, 4, 3, 2]}
)
BOOKS = pl.DataFrame(
    {
        "book": [9, 7, 8],
        "name": ["Nine", "Seven", "Eight"],
        "year": [1999.0, None, 2008.0],
        "text": ["t9", "t7", "t8"],
        "Crime": [1, 0, 1],
        "Poetry": [1, 0, 0],
        "cover": ["9.png", None, "8.png"],
    }
)
COLUMNS: dict[str, Any] = {
    "user": "reader",
    "item": "book",
    "timestamp": "when",
    "title": "name",
    "categories": ["Crime", "Poetry"],
}


def test_frames_are_read_by_a_mapping() -> None:
    dataset = load_dataset(
        "frames",
        interactions=RATINGS,
        items=BOOKS.lazy(),
        columns=COLUMNS,
        domain="Books",
        text_template="{title} ({year}): {categories} {source_text}",
    )
    assert by_key(dataset) == {"b": ["8", "7"], "a": ["9", "7"]}
    assert dataset.items["text"].to_list() == [
        "Nine (1999): Crime, Poetry t9",
        "Seven t7",
        "Eight (2008): Crime t8",
    ]
    assert dataset.items.columns[:6] == ["item", "domain", "title", "text", "image", "key"]
    assert set(dataset.items.columns[6:]) == {
        "description",
        "brand",
        "categories",
        "year",
        "source_text",
        "cover",
    }


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "csv.gz"])
def test_files_read_as_frames_do(tmp_path: Path, ending: str) -> None:
    for table, name in ((RATINGS, "ratings"), (BOOKS, "books")):
        file = tmp_path / f"{name}.{ending}"
        if ending == "parquet":
            table.write_parquet(file)
        else:
            text = table.write_csv(separator="\t" if ending == "tsv" else ",").encode()
            file.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    given = {"interactions": tmp_path / f"ratings.{ending}", "items": str(tmp_path / f"books.{ending}")}
    dataset = load_dataset("frames", **given, columns=COLUMNS)
    expected = load_dataset("frames", interactions=RATINGS, items=BOOKS, columns=COLUMNS, domain="ratings")
    assert dataset.domains == ("ratings",)
    assert dataset.fingerprint() == expected.fingerprint()


def test_ids_in_csv_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user,item,timestamp\n01,007,1\n1,7,2\n")
    (tmp_path / "i.csv").write_text("item,title\n007,Bond\n7,Seven\n")
    dataset = load_dataset("frames", interactions=tmp_path / "r.csv", items=tmp_path / "i.csv")
    assert by_key(dataset) == {"01": ["007"], "1": ["7"]}


@pytest.mark.parametrize(
    "times",
    [
        [3, 1, 2],
        [3.5, 1.5, 2.5],
        [datetime(2024, 3, 1), datetime(2023, 3, 1), datetime(2024, 2, 1)],
        ["2024-03-01 10:00:00", "2023-03-01 11:00:00", "2024-02-01 12:00:00"],
        ["2024-03-01", "2023-12-31", "2024-02-01"],
        ["10", "8", "9"],
        ["10.5", "8.25", "9"],
    ],
)
def test_times_of_many_kinds_order_the_sequence(times: list[Any]) -> None:
    ratings = pl.DataFrame({"user": ["u"] * 3, "item": ["c", "a", "b"], "timestamp": times})
    items = pl.DataFrame({"item": ["a", "b", "c"], "title": ["A", "B", "C"]})
    assert by_key(load_dataset("frames", interactions=ratings, items=items)) == {"u": ["a", "b", "c"]}


def test_frames_without_times_are_in_row_order_only_if_said() -> None:
    ratings = pl.DataFrame({"user": ["u"] * 3, "item": ["c", "a", "b"]})
    items = pl.DataFrame({"item": ["a", "b", "c"], "title": ["A", "B", "C"]})
    with pytest.raises(DataError, match="no column 'timestamp' for the role 'timestamp'"):
        load_dataset("frames", interactions=ratings, items=items)
    dataset = load_dataset("frames", interactions=ratings, items=items, columns={"timestamp": None})
    assert by_key(dataset) == {"u": ["c", "a", "b"]}


def test_items_may_call_their_id_otherwise() -> None:
    items = BOOKS.rename({"book": "isbn"})
    dataset = load_dataset("frames", interactions=RATINGS, items=items, columns={**COLUMNS, "key": "isbn"})
    assert dataset.items["key"].to_list() == ["9", "7", "8"]


def test_pictures_by_template_and_by_column(tmp_path: Path) -> None:
    BOOKS.write_parquet(tmp_path / "books.parquet")
    (tmp_path / "8.png").write_bytes(b"a picture")
    given: dict[str, Any] = {"interactions": RATINGS, "items": tmp_path / "books.parquet", "columns": COLUMNS}
    for images in ("{key}.png", "cover", f"{tmp_path}/{{key}}.png"):
        dataset = load_dataset("frames", **given, images=images)
        assert dataset.items["image"].to_list() == [None, None, str(tmp_path / "8.png")]
        assert dataset.repairs == {"items_without_image": 2}
    assert "cover" not in load_dataset("frames", **given, images="cover").items.columns


@pytest.mark.parametrize("way", ["up", "absolute", "link", "linked folder", "by key"])
def test_a_table_cannot_lead_to_pictures_outside_its_folder(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"a picture")
    (folder / "link.png").symlink_to(secret)
    (folder / "covers").symlink_to(tmp_path)
    cover = {
        "up": "../secret.png", "absolute": str(secret), "link": "link.png",
        "linked folder": "covers/secret.png", "by key": "",
    }[way]  # fmt: skip
    key = "../secret" if way == "by key" else "7"
    books = pl.DataFrame({"book": [key], "title": ["A"], "cover": [cover]})
    books.write_parquet(folder / "books.parquet")
    ratings = pl.DataFrame({"reader": ["u", "v"], "book": [key] * 2, "when": [1, 2]})
    names = {"user": "reader", "item": "book", "timestamp": "when"}
    given: dict[str, Any] = {"interactions": ratings, "columns": names}
    images = "{key}.png" if way == "by key" else "cover"
    with pytest.raises(DataError, match=r"leads to .*, outside .*shop; move the pictures there"):
        load_dataset("frames", items=folder / "books.parquet", images=images, **given)
    if way == "absolute":  # a table in memory is its author's own
        assert load_dataset("frames", items=books, images="cover", **given).items["image"][0] == cover


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("covr", r"no column 'covr' \(did you mean 'cover'"),
        ("{kee}.png", r"names no column \(did you mean 'key'"),
        ("covers/{key}.png", "none of 3 pictures exists"),
        ("https://x.org/{key}.png", "is an address on the web"),
        (5, "expected the name of a column or a template"),
    ],
)
def test_pictures_that_are_refused(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset("frames", interactions=RATINGS, items=BOOKS, columns=COLUMNS, images=images)


def test_identical_item_rows_are_merged_and_unlike_ones_refused() -> None:
    twice = pl.concat([BOOKS, BOOKS[1:2]])
    dataset = load_dataset("frames", interactions=RATINGS, items=twice, columns=COLUMNS)
    assert dataset.n_items == 3
    assert dataset.repairs == {"identical_item_rows_merged": 1}
    unlike = pl.concat([BOOKS, BOOKS[1:2].with_columns(name=pl.lit("Sept"))])
    with pytest.raises(DataError, match=r"items: item '7' has 2 rows that differ \(1 such items\)"):
        load_dataset("frames", interactions=RATINGS, items=unlike, columns=COLUMNS)


def test_k_core_takes_users_and_items_out_and_counts_them() -> None:
    items = pl.DataFrame({"item": ["a", "b", "c", "d"], "title": ["A", "B", "C", "D"]})
    pairs = [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"), ("w", "a"), ("w", "c")]
    ratings = pl.DataFrame(pairs, schema=["user", "item"], orient="row").with_row_index("timestamp")
    dataset = load_dataset("frames", interactions=ratings, items=items, k_core=2, keep_unseen_items=True)
    assert by_key(dataset) == {"u": ["a", "b"], "v": ["a", "b"]}
    # The unseen item d stays on demand, c went with the core.
    assert dataset.items["key"].to_list() == ["a", "b", "d"]
    assert dataset.repairs == {
        "interactions_removed_by_k_core": 2,
        "users_removed_by_k_core": 1,
        "items_removed_by_k_core": 1,
    }


def test_k_core_that_empties_a_domain_names_it_and_k() -> None:
    with pytest.raises(DataError, match="domain 'Books': the 5-core of its 4 interactions is empty"):
        load_dataset("frames", interactions=RATINGS, items=BOOKS, columns=COLUMNS, k_core=5, domain="Books")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"columns": {**COLUMNS, "user": "readr"}},
            r"no column 'readr' for the role 'user' \(did you mean 'reader'",
        ),
        (
            {"columns": {**COLUMNS, "title": "nam"}},
            r"no column 'nam' for the role 'title' \(did you mean 'name'",
        ),
        ({"columns": {**COLUMNS, "usr": "reader"}}, r"unknown role 'usr' \(did you mean 'user'"),
        ({"columns": {**COLUMNS, "user": None}}, "user is None, it needs the name of a column"),
        ({"columns": {**COLUMNS, "item": ["book"]}}, r"item is \['book'\], it needs the name of one column"),
        ({"columns": "user"}, "'user' is not a mapping"),
        (
            {"columns": {**COLUMNS, "categories": ["Crime", "year"]}},
            "column 'year' .* holds values other than 0 and 1",
        ),
        ({"columns": {**COLUMNS, "categories": ["Crim"]}}, r"no column 'Crim' .*\(did you mean 'Crime'"),
        ({"columns": {**COLUMNS, "categories": []}}, "the list for 'categories' is empty"),
        ({"items": None}, "items: no table given"),
        ({"items": BOOKS.head(1)}, r"user 'b' has item '7', which items does not contain \(2 such items, 3"),
        ({"interactions": RATINGS.head(0)}, "interactions: it has no interactions"),
        (
            {"interactions": RATINGS.with_columns(reader=pl.lit(None, pl.String))},
            "4 interactions have no user",
        ),
        (
            {"interactions": RATINGS.with_columns(when=pl.lit(float("nan")))},
            "4 interactions have no timestamp",
        ),
        ({"interactions": RATINGS.with_columns(when=pl.lit(True))}, "'when' has type Boolean; times are"),
        ({"interactions": {"user": [1]}}, "a dict, expected a path or a polars frame"),
        ({"items": BOOKS.with_columns(book=pl.lit(""))}, "item number 1 has no id"),
        ({"items": BOOKS.with_columns(extra=pl.struct("book"))}, "'extra' has type Struct"),
        ({"text_template": "{titel}"}, r"no column 'titel' \(did you mean 'title'"),
        ({"k_core": "5"}, "k is '5', expected a whole number"),
        ({"keep_unseen_items": "yes"}, "keep_unseen_items is 'yes', expected true or false"),
    ],
)
def test_frames_that_are_refused(change: dict[str, Any], message: str) -> None:
    options = {"interactions": RATINGS, "items": BOOKS, "columns": COLUMNS, **change}
    with pytest.raises(DataError, match=message):
        load_dataset("frames", **options)


def test_a_time_that_is_none_is_named_with_its_row() -> None:
    times = ["2024-03-01", "yesterday", "2024-03-01", "2024-03-02"]
    with pytest.raises(DataError, match="'when' has 'yesterday' in row 2, which is not a time"):
        load_dataset(
            "frames", interactions=RATINGS.with_columns(when=pl.Series(times)), items=BOOKS, columns=COLUMNS
        )


def test_files_that_are_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {"items": BOOKS, "columns": COLUMNS}
    with pytest.raises(DataError, match=r"interactions: .*r\.csv is not there"):
        load_dataset("frames", interactions=tmp_path / "r.csv", **given)
    (tmp_path / "r.csv").touch()
    with pytest.raises(DataError, match=r"interactions: .*r\.csv is empty"):
        load_dataset("frames", interactions=tmp_path / "r.csv", **given)
    (tmp_path / "r.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"r\.parquet: cannot be read"):
        load_dataset("frames", interactions=tmp_path / "r.parquet", **given)
    (tmp_path / "r.csv").write_text("reader,book,when\nb,7,1,9,9\n")
    with pytest.raises(DataError, match=r"r\.csv: cannot be read"):
        load_dataset("frames", interactions=tmp_path / "r.csv", **given)
    (tmp_path / "r.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"r\.xlsx has an unknown ending; give \.csv"):
        load_dataset("frames", interactions=tmp_path / "r.xlsx", **given)


def test_frames_without_items_on_demand() -> None:
    dataset = load_dataset("frames", interactions=RATINGS, columns=COLUMNS, allow_missing_text=True)
    assert dataset.items["text"].to_list() == ["7", "8", "9"]
    assert dataset.repairs == {"items_not_described": 3, "items_without_text": 3}


def test_one_user_and_one_item_are_a_dataset() -> None:
    ratings = pl.DataFrame({"user": ["u"], "item": ["i"], "timestamp": [1]})
    dataset = load_dataset("frames", interactions=ratings, items=pl.DataFrame({"item": ["i"]}))
    assert (dataset.n_users, dataset.n_items, dataset.n_interactions) == (1, 1, 1)
    assert dataset.items["text"].to_list() == ["i"]


# Real data


@pytest.mark.real_data
def test_movies_with_posters_load_as_frames(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVIES", str(real_data / "movies_ml100k"))
    options: dict[str, Any] = {
        "interactions": "${MOVIES}/ratings.csv",
        "items": "${MOVIES}/items.csv",
        "images": "posters/{key}.jpg",
        "columns": {
            "user": "user_id",
            "item": "movie_id",
            "timestamp": "unix_timestamp",
            "categories": ["Action", "Adventure", "Animation", "Children", "Comedy", "SciFi"],
        },
        "text_template": "{title} {categories}. {overview}",
    }
    movies = load_dataset("frames", domain="Movies", **options)
    assert (movies.n_users, movies.n_items, movies.n_interactions) == (943, 1663, 99815)
    assert movies.items["image"].null_count() == 0
    assert movies.repairs == {
        "texts_with_html_entities": 8,
        "identical_item_rows_merged": 64,
        "items_without_interactions_removed": 19,
    }
    toy_story = movies.items.filter(key="1").to_dicts()[0]
    assert toy_story["text"].startswith(
        "Toy Story (1995) Animation, Children, Comedy. Led by Woody, Andy's toys"
    )
    core = load_dataset("frames", k_core=5, **options)
    lengths = core.sequences["items"].list.len()
    uses = core.sequences["items"].explode().value_counts()["count"]
    assert min(lengths.min(), uses.min()) >= 5  # type: ignore[type-var]
    assert core.n_interactions + core.repairs["interactions_removed_by_k_core"] == 99815
