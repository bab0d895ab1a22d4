"""k-core, leave-one-out and neighbours against plain Python written from their definitions."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    load_dataset,
    split_of,
    ties,
)
from genrec_lab.data.preparation import with_choices, with_ties

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
    with pytest.raises(DataError, match="none of the 1 users of 'A' has 3 items, the longest sequence has 1"):
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
    dataset = load_dataset("lcrec", folder=f"{real_data}/{folder}", allow_missing_text=True)
    assert (dataset.n_users, dataset.n_items, dataset.n_interactions) == counts
    # The published sequences are a 5-core already.
    long = dataset.sequences.select("user", item="items").explode("item")
    assert k_core(long, 5).height == counts[2]
    split = leave_one_out(dataset)
    assert (split.train.height, split.valid.height, split.test.height) == (pairs, counts[0], counts[0])
    assert split.train["history"].list.len().max() == 20
    assert split.repairs == {}


# ties and time


def timed(sequences: list[list[tuple[int, int]]], n_items: int = 8) -> Dataset:
    """A dataset of sequences of (item, time)."""
    plain = dataset_of([[item for item, _ in events] for events in sequences], n_items=n_items)
    times = pl.Series([[time for _, time in events] for events in sequences], dtype=pl.List(pl.Int64))
    return replace(plain, times=times)


def test_ties_are_counted_or_unknown() -> None:
    dataset = timed([[(0, 1), (1, 5), (2, 5)], [(0, 1), (1, 1), (2, 3)], [(3, 7)], [(1, 2), (2, 2), (3, 2)]])
    (row,) = ties(dataset).iter_rows(named=True)
    assert {name: row[name] for name in row if name != "domain"} == {
        "users": 4, "timed": 4, "test_tied": 2, "valid_tied": 2, "interactions_tied": 4,
    }  # fmt: skip
    unknown = ties(dataset_of([[0, 1, 2]])).row(0, named=True)
    assert (unknown["users"], unknown["timed"], unknown["test_tied"]) == (1, 0, None)


def test_ties_on_real_data(real_data: Path) -> None:
    """The README of the data: 38 to 49 % of users have their last two items at the same time."""
    for name in ("Beauty", "Toys"):
        folder = real_data / "amazon2014" / name
        dataset = load_dataset(
            "frames", interactions=folder / "interactions.parquet", items=folder / "items.parquet"
        )
        row = ties(dataset).row(0, named=True)
        assert row["timed"] == dataset.n_users
        assert 0.38 <= row["test_tied"] / row["users"] <= 0.495


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), min_size=1, max_size=6), min_size=1)
)
def test_the_rule_orders_ties_and_nothing_else(sequences: list[list[tuple[int, int]]]) -> None:
    dataset = timed([sorted(events, key=lambda event: event[1]) for events in sequences])
    assert with_ties(dataset, "file order") is dataset
    by_key, drawn, again = (with_ties(dataset, rule, 3) for rule in ("item key", "seeded", "seeded"))
    assert drawn.sequences.equals(again.sequences)
    assert dataset.times is not None
    columns = (one.sequences["items"].to_list() for one in (dataset, by_key, drawn))
    for whole, keyed, seeded, times in zip(*columns, dataset.times.to_list(), strict=True):
        events = list(zip(times, whole, strict=True))
        assert list(zip(times, keyed, strict=True)) == sorted(
            events, key=lambda event: (event[0], str(event[1]))
        )
        assert sorted(zip(times, seeded, strict=True)) == sorted(events)
        assert [time for time, _ in zip(times, seeded, strict=True)] == times


@pytest.mark.parametrize("kind", [pl.Int64, pl.Float64])
def test_users_without_times_keep_their_order(kind: type[pl.DataType]) -> None:
    dataset = dataset_of([[3, 1, 2], [7, 6, 5, 4]])
    dataset = replace(dataset, times=pl.Series([[1, 1, 1], None], dtype=pl.List(kind)))
    assert with_ties(dataset, "item key").sequences["items"].to_list() == [[1, 2, 3], [7, 6, 5, 4]]
    for seed in range(4):
        drawn = with_ties(dataset, "seeded", seed).sequences["items"].to_list()
        assert (sorted(drawn[0]), drawn[1]) == ([1, 2, 3], [7, 6, 5, 4])


def test_seeds_draw_other_orders_and_options_reach_the_source() -> None:
    tied = pl.DataFrame({"user": ["u"] * 6, "item": list("fbdace"), "timestamp": [1] * 6})
    items = pl.DataFrame({"item": list("abcdef")})

    def read(**choices: Any) -> str:
        dataset = load_dataset("frames", interactions=tied, items=items, **choices)
        return "".join(dataset.items["key"].gather(dataset.sequences["items"][0]))

    assert (read(), read(ties="file order"), read(ties="item key")) == ("fbdace", "fbdace", "abcdef")
    orders = {read(ties="seeded", ties_seed=seed) for seed in range(8)}
    assert len(orders) > 4 and all(sorted(order) == list("abcdef") for order in orders)
    for choices, message in (
        ({"ties": "item_key"}, r"ties is 'item_key' \(did you mean 'item key'"),
        ({"ties_seed": -1}, "ties_seed is -1; expected a whole number"),
        ({"split": "tme"}, "split is 'tme'; expected 'leave one out', 'time', 'given', or {by: time"),
        ({"split": {"by": "time", "until": 3}}, "expected 'leave one out'"),
        ({"split": "given"}, "split is 'given', but the source has no split of its own"),
    ):
        with pytest.raises(DataError, match=message):
            read(**choices)


def split_by_brute_force(
    sequences: list[list[tuple[int, int]]], valid_from: int, test_from: int, history: int
) -> list[list[Pair]]:
    """Train, validation and test rows by the definition."""
    parts: list[list[Pair]] = [[], [], []]
    for user, events in enumerate(sequences):
        for place in range(1, len(events)):
            before = [item for item, _ in events[:place]][-history:]
            item, time = events[place]
            parts[(time >= valid_from) + (time >= test_from)].append((user, before, item))
    return parts


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), min_size=1, max_size=8), min_size=1),
    st.integers(1, 5),
    st.integers(6, 9),
    st.integers(1, 4),
)
def test_a_split_by_time_is_that_of_the_definition(
    sequences: list[list[tuple[int, int]]], valid_from: int, test_from: int, history: int
) -> None:
    sequences = [sorted(events, key=lambda event: event[1]) for events in sequences]
    dataset = timed(sequences)
    expected = split_by_brute_force(sequences, valid_from, test_from, history)
    choice = {"split": {"by": "time", "valid_from": valid_from, "test_from": test_from}}
    times = [time for events in sequences for _, time in events]
    parts = [(time >= valid_from) + (time >= test_from) for time in times]
    if set(parts) != {0, 1, 2} or not (expected[1] and expected[2]):
        with pytest.raises(DataError, match="split"):
            split_of(with_choices(dataset, choice), history)
        return
    split = split_of(with_choices(dataset, choice), history)
    assert [rows(split.train), rows(split.valid), rows(split.test)] == expected


def test_a_split_by_time_takes_dates_and_shares() -> None:
    day = 86_400
    events = [(place % 8, 1_500_000_000 + place * day) for place in range(10)]
    dataset = timed([events])
    by_share = with_choices(dataset, {"split": "time"})
    assert by_share.parts is not None and by_share.parts.rows() == [(8, 9)]
    for factor in (1, 1000, 10**9):
        assert dataset.times is not None
        scaled = replace(dataset, times=dataset.times.list.eval(pl.element() * factor))
        dated = with_choices(
            scaled, {"split": {"by": "time", "valid_from": "2017-07-20", "test_from": "2017-07-22T12:00"}}
        )
        assert dated.parts is not None and dated.parts.rows() == [(6, 9)]
        assert dated.fingerprint() != scaled.fingerprint()
    for split, message in (
        ({"valid_from": "soon"}, "split.valid_from is 'soon'; expected a number or a date"),
        ({"valid_from": 9e9}, "is not before test_from"),
        ({"valid_from": 1, "test_from": 2}, "no interaction is in the training part"),
    ):
        with pytest.raises(DataError, match=message):
            with_choices(dataset, {"split": {"by": "time", **split}})
    with pytest.raises(DataError, match="the times of 1 of 1 users are unknown"):
        with_choices(dataset_of([[0, 1, 2]]), {"split": "time"})


def test_times_change_no_fingerprint_and_are_kept(tmp_path: Path) -> None:
    dataset = timed([[(0, 1), (1, 5), (2, 5)], [(3, 2)]])
    assert dataset.fingerprint() == dataset_of([[0, 1, 2], [3]], n_items=8).fingerprint()
    dataset.write(tmp_path)
    kept = Dataset.read(tmp_path)
    assert kept.times is not None and kept.times.to_list() == [[1, 5, 5], [2]]
    with pytest.raises(DataError, match="a user has more or fewer times than items"):
        replace(dataset, times=pl.Series([[1], [2]]))
