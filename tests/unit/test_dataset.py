"""The Dataset: what it refuses, how it is cut and joined, and that its fingerprint is its content's."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.data import DataError, Dataset

Sequences = list[list[int]]


def make(domain: str, n_items: int, sequences: Sequences, name: str | None = None) -> Dataset:
    items = pl.DataFrame(
        {
            "item": range(n_items),
            "domain": domain,
            "title": [f"{domain} {item}" for item in range(n_items)],
            "text": [f"text of {domain} {item}" for item in range(n_items)],
            "image": [f"/pictures/{domain}/{item}.png" if item % 2 else None for item in range(n_items)],
            "key": [f"B{item:03d}" for item in range(n_items)],
            "price": [item / 2 for item in range(n_items)],
        }
    )
    users = pl.DataFrame(
        {
            "user": range(len(sequences)),
            "domain": domain,
            "items": sequences,
            "key": [f"U{user}" for user in range(len(sequences))],
        },
        schema_overrides={"items": pl.List(pl.Int64)},
    )
    return Dataset(name or domain, items, users, {"mended": 1})


@pytest.fixture
def garden() -> Dataset:
    return make("Garden", 4, [[0, 1, 2], [2, 1], [3, 3, 0, 1]])


@pytest.fixture
def kitchen() -> Dataset:
    return make("Kitchen", 3, [[2, 0], [1, 2, 0, 1]])


def test_counts_domains_and_repr(garden: Dataset, kitchen: Dataset) -> None:
    both = Dataset.concat([garden, kitchen])
    assert (both.n_items, both.n_users, both.n_interactions) == (7, 5, 15)
    assert both.domains == ("Garden", "Kitchen")
    assert both.item_domains().tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert both.item_domains().dtype == np.int64
    assert both.domain_items("Kitchen").tolist() == [4, 5, 6]
    assert repr(both) == "Dataset('Garden+Kitchen': Garden, Kitchen; 5 users, 7 items, 15 interactions)"


def test_domains_keep_the_order_of_the_items_not_of_the_alphabet(garden: Dataset, kitchen: Dataset) -> None:
    assert Dataset.concat([kitchen, garden]).domains == ("Kitchen", "Garden")


def test_statistics_are_those_of_a_hand_count(garden: Dataset, kitchen: Dataset) -> None:
    unseen = make("Studio", 5, [[0, 1], [1, 0]])
    table = Dataset.concat([garden, kitchen, unseen]).statistics()
    assert table.to_dicts() == [
        {
            "domain": "Garden",
            "users": 3,
            "items": 4,
            "interactions": 9,
            "sparsity": pytest.approx(1 - 9 / 12),
            "mean_length": pytest.approx(3.0),
            "items_without_interactions": 0,
        },
        {
            "domain": "Kitchen",
            "users": 2,
            "items": 3,
            "interactions": 6,
            "sparsity": pytest.approx(0.0),
            "mean_length": pytest.approx(3.0),
            "items_without_interactions": 0,
        },
        {
            "domain": "Studio",
            "users": 2,
            "items": 5,
            "interactions": 4,
            "sparsity": pytest.approx(1 - 4 / 10),
            "mean_length": pytest.approx(2.0),
            "items_without_interactions": 3,
        },
    ]


def test_concat_moves_items_and_never_merges_users(garden: Dataset, kitchen: Dataset) -> None:
    # Both have users with the keys U0 and U1: they are other people.
    both = Dataset.concat([garden, kitchen], name="shop")
    assert both.name == "shop"
    assert both.sequences["user"].to_list() == [0, 1, 2, 3, 4]
    assert both.sequences["key"].to_list() == ["U0", "U1", "U2", "U0", "U1"]
    assert both.sequences["items"].to_list() == [[0, 1, 2], [2, 1], [3, 3, 0, 1], [6, 4], [5, 6, 4, 5]]
    assert both.repairs == {"mended": 2}


def test_concat_fills_attributes_that_one_part_lacks(garden: Dataset, kitchen: Dataset) -> None:
    bare = Dataset(kitchen.name, kitchen.items.drop("price"), kitchen.sequences)
    assert Dataset.concat([garden, bare]).items["price"].to_list() == [0.0, 0.5, 1.0, 1.5, None, None, None]


def test_concat_refuses_a_domain_twice_and_nothing(garden: Dataset) -> None:
    with pytest.raises(DataError, match="'Garden' is in 'Garden' and in 'again'"):
        Dataset.concat([garden, make("Garden", 2, [[0, 1]], name="again")])
    with pytest.raises(DataError, match="no dataset given"):
        Dataset.concat([])


def test_concat_refuses_attributes_of_unlike_types(garden: Dataset, kitchen: Dataset) -> None:
    lists = kitchen.items.with_columns(price=pl.lit([1.0, 2.0], dtype=pl.List(pl.Float64)))
    with pytest.raises(DataError, match="have different types"):
        Dataset.concat([garden, Dataset("Kitchen", lists, kitchen.sequences)])


@given(st.permutations(["A", "B", "C"]), st.sets(st.sampled_from(["A", "B", "C"]), min_size=1))
def test_select_undoes_concat(order: list[str], wanted: set[str]) -> None:
    parts = {
        "A": make("A", 3, [[0, 2], [1]]),
        "B": make("B", 1, [[0, 0]]),
        "C": make("C", 4, [[3, 1, 0]]),
    }
    selected = Dataset.concat([parts[name] for name in order]).select(sorted(wanted))
    again = Dataset.concat([parts[name] for name in order if name in wanted])
    assert selected.fingerprint() == again.fingerprint()
    assert selected.domains == tuple(name for name in order if name in wanted)


def test_select_refuses_unknown_domains_and_none(garden: Dataset, kitchen: Dataset) -> None:
    both = Dataset.concat([garden, kitchen])
    with pytest.raises(DataError, match="did you mean 'Kitchen'"):
        both.select(["Kitchn"])
    with pytest.raises(DataError, match="choose from Garden, Kitchen"):
        both.select([])
    with pytest.raises(DataError, match="unknown domain 'Attic'"):
        both.domain_items("Attic")


def test_items_of_interleaved_domains_are_selected_by_index() -> None:
    items = pl.DataFrame({"item": range(4), "domain": ["A", "B", "A", "B"], "title": "t", "text": "t"})
    users = pl.DataFrame({"user": [0, 1], "domain": ["B", "A"], "items": [[3, 1], [0, 2, 0]]})
    chosen = Dataset("mixed", items, users).select("B")
    assert chosen.items["key"].to_list() == ["1", "3"]
    assert chosen.sequences["items"].to_list() == [[1, 0]]


def test_without_key_and_image_the_numbers_are_the_keys() -> None:
    items = pl.DataFrame({"item": [0, 1], "domain": "A", "title": "t", "text": "t"})
    users = pl.DataFrame({"user": [0], "domain": "A", "items": [[0, 1]]})
    dataset = Dataset("small", items, users)
    assert dataset.items.columns == ["item", "domain", "title", "text", "image", "key"]
    assert dataset.items["key"].to_list() == ["0", "1"]
    assert dataset.items["image"].null_count() == 2


# What the constructor refuses.


def items_with(garden: Dataset, **columns: object) -> pl.DataFrame:
    return garden.items.with_columns(**{name: pl.Series(values) for name, values in columns.items()})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item": [0, 1, 1, 3]}, "item 1 appears more than once"),
        ({"item": [0, 1, 3, 2]}, r"must be 0\.\.3 in order, row 2 has 3"),
        ({"item": [1, 2, 3, 4]}, r"must be 0\.\.3 in order, row 0 has 1"),
        ({"item": [0.0, 1.0, 2.0, 3.0]}, "'item' has type Float64, expected Int64"),
        ({"key": ["a", "b", "a", "c"]}, "key 'a' appears more than once in domain 'Garden'"),
        ({"title": ["a", None, "b", "c"]}, "'title' is null in row 1"),
        ({"text": [1, 2, 3, 4]}, "'text' has type Int64, expected String"),
        ({"domain": ["Garden", "", "Garden", "Garden"]}, "empty name"),
        ({"price": [{"a": 1}] * 4}, "'price' has type Struct"),
    ],
)
def test_items_that_are_refused(garden: Dataset, columns: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset("bad", items_with(garden, **columns), garden.sequences)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([[0, 4], [1], [2]], r"user 0 has item 4, but items are 0\.\.3"),
        ([[0], [-1], [2]], "user 1 has item -1"),
        ([[0], [1, None], [2]], "user 1 has item None"),
        ([[0], [], [2]], "1 users have no item, the first is key 'U1'"),
    ],
)
def test_sequences_that_are_refused(garden: Dataset, items: list[list[int | None]], message: str) -> None:
    bad = garden.sequences.with_columns(items=pl.Series(items, dtype=pl.List(pl.Int64)))
    with pytest.raises(DataError, match=message):
        Dataset("bad", garden.items, bad)


def test_a_sequence_with_an_item_of_another_domain_is_refused(garden: Dataset, kitchen: Dataset) -> None:
    both = Dataset.concat([garden, kitchen])
    crossed = both.sequences.with_columns(
        items=pl.when(pl.col("user") == 1).then(pl.lit([2, 5], dtype=pl.List(pl.Int64))).otherwise("items")
    )
    with pytest.raises(DataError, match="user 1 of domain 'Garden' has item 5 of domain 'Kitchen'"):
        Dataset("bad", both.items, crossed)


def test_empty_and_incomplete_tables_are_refused(garden: Dataset) -> None:
    with pytest.raises(DataError, match="items: the table is empty"):
        Dataset("bad", garden.items.head(0), garden.sequences)
    with pytest.raises(DataError, match="sequences: the table is empty"):
        Dataset("bad", garden.items, pl.DataFrame())
    with pytest.raises(DataError, match="items: column 'title' is missing"):
        Dataset("bad", garden.items.drop("title"), garden.sequences)
    with pytest.raises(DataError, match="unknown column 'weight'"):
        Dataset("bad", garden.items, garden.sequences.with_columns(weight=pl.lit(1)))
    with pytest.raises(DataError, match="`name` is empty"):
        Dataset("", garden.items, garden.sequences)
    with pytest.raises(DataError, match="user 0 appears more than once"):
        Dataset("bad", garden.items, garden.sequences.with_columns(user=pl.lit(0)))


def test_data_error_is_a_value_error() -> None:
    assert issubclass(DataError, ValueError)


# On disk.


def test_what_is_written_is_read_again(garden: Dataset, kitchen: Dataset, tmp_path: Path) -> None:
    both = Dataset.concat([garden, kitchen])
    both.write(tmp_path / "deep" / "folder")
    again = Dataset.read(tmp_path / "deep" / "folder")
    assert again.items.equals(both.items)
    assert again.sequences.equals(both.sequences)
    assert (again.name, again.repairs) == (both.name, both.repairs)
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [
        "dataset.json",
        "items.parquet",
        "sequences.parquet",
    ]


def test_altered_missing_and_foreign_folders_are_refused(
    garden: Dataset, kitchen: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"items\.parquet is missing"):
        Dataset.read(tmp_path)
    garden.write(tmp_path)
    kitchen.sequences.with_columns(domain=pl.lit("Garden")).write_parquet(tmp_path / "sequences.parquet")
    with pytest.raises(DataError, match="the files were altered"):
        Dataset.read(tmp_path)
    (tmp_path / "sequences.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="parquet files cannot be read"):
        Dataset.read(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        Dataset.read(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        Dataset.read(tmp_path)


def test_a_disk_that_fills_up_leaves_the_old_dataset(
    garden: Dataset, kitchen: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    garden.write(tmp_path)

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        kitchen.write(tmp_path)
    monkeypatch.undo()
    assert Dataset.read(tmp_path).fingerprint() == garden.fingerprint()
    assert not list(tmp_path.glob("*.partial"))


# The fingerprint.


def test_fingerprint_does_not_see_chunks_names_repairs_or_folders_of_pictures(garden: Dataset) -> None:
    chunked = pl.concat([garden.items[:1], garden.items[1:3], garden.items[3:]], rechunk=False)
    moved = chunked.with_columns(pl.col("image").str.replace("/pictures/", "C:\\my\\", literal=True))
    other = Dataset(
        "other name", moved, pl.concat([garden.sequences[:1], garden.sequences[1:]], rechunk=False), {}
    )
    assert other.fingerprint() == garden.fingerprint()


def changed(dataset: Dataset) -> list[Dataset]:
    """Datasets that differ from the first in one thing each."""
    items, sequences = dataset.items, dataset.sequences
    nulls = pl.lit(None, dtype=pl.String)
    return [
        Dataset("x", items.with_columns(title=pl.col("title") + " "), sequences),
        Dataset("x", items.with_columns(text=pl.col("text").str.replace("of", "fo")), sequences),
        Dataset("x", items.with_columns(image=nulls), sequences),
        Dataset("x", items.with_columns(image=pl.col("image").str.replace("png", "jpg")), sequences),
        Dataset("x", items.with_columns(key=pl.col("key").reverse()), sequences),
        Dataset("x", items.with_columns(price=pl.col("price") + 1e-12), sequences),
        Dataset("x", items.drop("price"), sequences),
        Dataset("x", items.rename({"price": "cost"}), sequences),
        Dataset("x", items, sequences.with_columns(pl.col("items").list.reverse())),
        Dataset("x", items, sequences.with_columns(items=pl.Series([[0, 1], [2, 2, 1], [3, 3, 0, 1]]))),
        Dataset("x", items, sequences.with_columns(key=pl.col("key").str.to_lowercase())),
        Dataset("x", *(table.with_columns(domain=pl.lit("Gardens")) for table in (items, sequences))),
    ]


def test_fingerprint_sees_every_change_of_content(garden: Dataset) -> None:
    prints = [dataset.fingerprint() for dataset in [garden, *changed(garden)]]
    assert len(set(prints)) == len(prints)


def test_fingerprint_keeps_neighbouring_texts_apart(garden: Dataset) -> None:
    def titled(*titles: str) -> str:
        return Dataset("x", items_with(garden, title=titles), garden.sequences).fingerprint()

    assert titled("ab", "c", "d", "e") != titled("a", "bc", "d", "e")
    assert titled("", "abc", "d", "e") != titled("abc", "", "d", "e")


def test_fingerprint_is_the_same_in_another_process(garden: Dataset, tmp_path: Path) -> None:
    garden.write(tmp_path)
    program = f"from genrec_lab.data import Dataset; print(Dataset.read({str(tmp_path)!r}).fingerprint())"
    environment = {"PYTHONHASHSEED": "4321", "POLARS_MAX_THREADS": "2"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=root
    )
    assert done.stdout.strip() == garden.fingerprint()


def test_fingerprint_is_the_one_of_this_release(garden: Dataset) -> None:
    # Golden: results tables name data by it, so it must not change without FORMAT_VERSION.
    assert garden.fingerprint() == "2f4bf21472cce8e6812a60b1091750dc602e475791bc09d32de2852d9b30c894"
