"""k-core, leave-one-out and neighbours against plain Python written from their definitions."""

from __future__ import annotations

import itertools

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.data import (
    DataError,
    Dataset,
    co_occurrence_neighbours,
    every_prefix,
    k_core,
    leave_one_out,
)

Pair = tuple[int, list[int], int]

pairs_of_ids = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)
sequences_of_items = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=9), min_size=1, max_size=8)


def dataset_of(sequences: list[list[int]], n_items: int = 8) -> Dataset:
    items = pl.DataFrame({"item": range(n_items), "domain": "A", "title": "t", "text": "t"})
    users = pl.DataFrame({"user": range(len(sequences)), "domain": "A", "items": sequences})
    return Dataset("A", items, users)


def rows(frame: pl.DataFrame) -> list[Pair]:
    assert frame.columns == ["user", "domain", "history", "target"]
    assert frame.schema["history"] == pl.List(pl.Int64)
    assert (frame.schema["user"], frame.schema["target"]) == (pl.Int64, pl.Int64)
    return [(user, history, target) for user, _, history, target in frame.iter_rows()]


# k-core


def core_by_hand(pairs: list[tuple[int, int]], k: int) -> list[tuple[int, int]]:
    while True:
        users = [user for user, _ in pairs]
        items = [item for _, item in pairs]
        kept = [(user, item) for user, item in pairs if users.count(user) >= k and items.count(item) >= k]
        if kept == pairs:
            return kept
        pairs = kept


@given(pairs_of_ids, st.integers(1, 4))
def test_k_core_is_that_of_repeated_filtering(pairs: list[tuple[int, int]], k: int) -> None:
    frame = pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")
    with_order = frame.with_columns(timestamp=pl.int_range(pl.len(), dtype=pl.Int64))
    core = k_core(with_order, k)
    assert [(user, item) for user, item, _ in core.iter_rows()] == core_by_hand(pairs, k)
    assert core["timestamp"].is_sorted()


@given(pairs_of_ids, st.integers(1, 4))
def test_k_core_of_text_ids_and_lazy_frames_is_the_same(pairs: list[tuple[int, int]], k: int) -> None:
    frame = pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")
    text = frame.select(pl.all().cast(pl.String)).lazy()
    assert k_core(text, k).select(pl.all().cast(pl.Int64)).equals(k_core(frame, k))


def test_k_core_repeats_until_nothing_changes() -> None:
    # A chain: each removal makes the next user or item too small; one pass would leave six rows.
    chain = pl.DataFrame({"user": [1, 1, 2, 2, 3, 3, 4], "item": [1, 2, 2, 3, 3, 4, 4]})
    assert k_core(chain, 2).height == 0


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "5"])
def test_k_core_refuses_what_is_no_count(k: object) -> None:
    with pytest.raises(DataError, match="expected a whole number of at least 1"):
        k_core(pl.DataFrame({"user": [1], "item": [1]}), k)  # type: ignore[arg-type]


def test_k_core_refuses_missing_columns_and_null_ids() -> None:
    with pytest.raises(DataError, match=r"no column 'item' \(did you mean 'items'"):
        k_core(pl.DataFrame({"user": [1], "items": [1]}), 2)
    with pytest.raises(DataError, match="1 rows have no user"):
        k_core(pl.DataFrame({"user": [None, 1], "item": [1, 1]}), 2)


# leave one out


def split_by_hand(
    sequences: list[list[int]], history: int, most: int | None
) -> tuple[list[Pair], list[Pair], list[Pair]]:
    train, valid, test = [], [], []
    for user, whole in enumerate(sequences):
        items = whole if most is None else whole[-most:]
        learn = items
        if len(items) >= 3:
            learn = items[:-2]
            valid.append((user, items[:-2][-history:], items[-2]))
            test.append((user, items[:-1][-history:], items[-1]))
        for place in range(1, len(learn)):
            train.append((user, learn[max(0, place - history) : place], learn[place]))
    return train, valid, test


@given(sequences_of_items, st.integers(1, 6), st.none() | st.integers(3, 6))
def test_leave_one_out_is_that_of_the_definition(
    sequences: list[list[int]], history: int, most: int | None
) -> None:
    dataset = dataset_of(sequences)
    if all(len(items) < 3 for items in sequences):
        with pytest.raises(DataError, match="has 3 items"):
            leave_one_out(dataset, history, most)
        return
    split = leave_one_out(dataset, history, most)
    train, valid, test = split_by_hand(sequences, history, most)
    assert rows(split.train) == train
    assert rows(split.valid) == valid
    assert rows(split.test) == test
    assert split.max_history == history
    expected = {
        "users_too_short": sum(len(items) < 3 for items in sequences),
        "sequences_shortened": sum(len(items) > most for items in sequences) if most else 0,
        "interactions_left_out": sum(max(0, len(items) - most) for items in sequences) if most else 0,
    }
    assert split.repairs == {what: count for what, count in expected.items() if count}


def test_leave_one_out_by_a_hand_worked_example() -> None:
    split = leave_one_out(dataset_of([[5, 3, 1, 4, 2], [6, 7]]), max_history=2)
    assert rows(split.train) == [(0, [5], 3), (0, [5, 3], 1), (1, [6], 7)]
    assert rows(split.valid) == [(0, [3, 1], 4)]
    assert rows(split.test) == [(0, [1, 4], 2)]
    assert split.repairs == {"users_too_short": 1}


def test_prefixes_of_sequences_without_a_second_item_are_none() -> None:
    nothing = pl.DataFrame(schema={"user": pl.Int64, "items": pl.List(pl.Int64)})
    single = pl.DataFrame({"user": [0, 1], "items": [[4], [5]]})
    assert every_prefix(nothing, 3).rows() == every_prefix(single, 3).rows() == []


def test_targets_of_validation_and_test_are_in_no_training_row() -> None:
    # Every item once, so that a leak would show.
    split = leave_one_out(dataset_of([[0, 1, 2, 3], [4, 5, 6, 7]]))
    learnt = set(split.train["target"]) | set(split.train["history"].explode())
    assert learnt == {0, 1, 4, 5}


def test_domains_without_a_test_user_are_counted() -> None:
    parts = [dataset_of([[0, 1, 2, 3]]), dataset_of([[0, 1]])]
    renamed = Dataset(
        "B", *(table.with_columns(domain=pl.lit("B")) for table in (parts[1].items, parts[1].sequences))
    )
    split = leave_one_out(Dataset.concat([parts[0], renamed]))
    assert split.repairs == {"users_too_short": 1, "domains_without_test": 1}
    assert split.train["domain"].to_list() == ["A", "B"]


def test_one_user_with_one_item_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match="none of the 1 users of 'A' has 3 items, the longest has 1"):
        leave_one_out(dataset_of([[0]], n_items=1))


def test_one_user_and_one_item_alone_are_enough_for_a_split() -> None:
    split = leave_one_out(dataset_of([[0, 0, 0, 0]], n_items=1))
    assert rows(split.train) == [(0, [0], 0)]
    assert rows(split.test) == [(0, [0, 0, 0], 0)]


def test_leave_one_out_refuses_impossible_lengths() -> None:
    dataset = dataset_of([[0, 1, 2]])
    for history in (0, -3, 2.5, True):
        with pytest.raises(DataError, match="max_history"):
            leave_one_out(dataset, history)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="max_sequence is 2"):
        leave_one_out(dataset, 20, 2)


# neighbours


@given(sequences_of_items)
def test_neighbours_are_those_of_the_definition(sequences: list[list[int]]) -> None:
    beside: dict[int, set[int]] = {item: set() for item in range(8)}
    for items in sequences:
        learn = items[:-2] if len(items) >= 3 else items
        for left, right in itertools.pairwise(learn):
            if left != right:
                beside[left].add(right)
                beside[right].add(left)
    found = co_occurrence_neighbours(dataset_of(sequences))
    assert found.schema == {"item": pl.Int64, "neighbours": pl.List(pl.Int64)}
    assert found["item"].to_list() == list(range(8))
    assert found["neighbours"].to_list() == [sorted(beside[item]) for item in range(8)]


def test_neighbours_do_not_reach_from_one_user_to_the_next() -> None:
    found = co_occurrence_neighbours(dataset_of([[0, 1, 6, 6], [2, 3, 6, 6]]))
    assert found["neighbours"].to_list() == [[1], [0], [3], [2], [], [], [], []]


# The published counts.


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "counts", "pairs"),
    [
        ("scientific_2018", (8317, 4344, 58492), 33541),
        ("office_2014", (4905, 2420, 53258), 38543),
        ("instruments_2018", (24772, 9922, 206153), 206153 - 3 * 24772),
    ],
)
def test_published_data_have_their_published_counts(
    real_data: object, folder: str, counts: tuple[int, int, int], pairs: int
) -> None:
    from genrec_lab.data import load_dataset

    dataset = load_dataset("lcrec", folder=f"{real_data}/{folder}", allow_missing_text=True)
    assert (dataset.n_users, dataset.n_items, dataset.n_interactions) == counts
    # The published sequences are a 5-core already.
    long = dataset.sequences.select("user", item="items").explode("item")
    assert k_core(long, 5).height == counts[2]
    split = leave_one_out(dataset)
    assert (split.train.height, split.valid.height, split.test.height) == (pairs, counts[0], counts[0])
    assert split.train["history"].list.len().max() == 20
    assert split.repairs == {}
