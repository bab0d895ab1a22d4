"""Stretches of sequences in batches: each next item once an epoch, after as much history as there is."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.data.batches import StretchBatches

Learnt = tuple[tuple[int, ...], int]


def learnt_in(batch: dict[str, torch.Tensor]) -> list[Learnt]:
    """Each item to learn, with all that stands before it in its row."""
    sequences = batch["sequences"].tolist()
    return [
        (tuple(sequences[row][:place]), sequences[row][place])
        for row, place in zip(batch["rows"].tolist(), batch["places"].tolist(), strict=True)
    ]


# Every place of every sequence holds an item of its own, so that a place is known by its item.
lengths = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(lambda many: max(many) > 1)


def sequences_of(many: list[int]) -> list[list[int]]:
    return [list(range(100 * user, 100 * user + length)) for user, length in enumerate(many)]


@settings(max_examples=80)
@given(many=lengths, batch_size=st.integers(1, 40), most=st.integers(1, 8), epoch=st.integers(0, 3))
def test_every_next_item_is_learnt_once_after_its_own_past(
    many: list[int], batch_size: int, most: int, epoch: int
) -> None:
    users = sequences_of(many)
    batches = StretchBatches(users, batch_size, most)
    drawn = [learnt for batch in batches(epoch, 0) for learnt in learnt_in(batch)]
    assert Counter(item for _, item in drawn) == Counter(item for items in users for item in items[1:])
    assert batches.samples == len(drawn)
    for history, item in drawn:
        place = item % 100
        assert list(history) == list(range(item - len(history), item))
        assert min(place, max(1, most // 2)) <= len(history) <= most


@given(many=lengths, batch_size=st.integers(1, 40), most=st.integers(1, 8))
def test_no_batch_is_empty_or_larger_than_one_stretch_more(
    many: list[int], batch_size: int, most: int
) -> None:
    batches = StretchBatches(sequences_of(many), batch_size, most)
    sizes = [len(batch["rows"]) for batch in batches(0, 0)]
    assert min(sizes) > 0
    assert max(sizes) < batch_size + most
    assert len(sizes) <= len(batches) == -(-sum(sizes) // batch_size)


def test_epoch_and_seed_fix_the_order_and_change_it() -> None:
    batches = StretchBatches(sequences_of([5] * 40), 16, 20)

    def order(epoch: int, seed: int) -> list[int]:
        return [item for batch in batches(epoch, seed) for _, item in learnt_in(batch)]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(2, 2) != order(2, 3)


def test_rows_are_padded_at_the_right_and_no_wider_than_their_longest() -> None:
    (batch,) = StretchBatches([[7, 8], [1, 2, 3, 4], [9]], 16, 20)(0, 0)
    assert sorted(batch["sequences"].tolist()) == [[1, 2, 3, 4], [7, 8, -1, -1]]


def test_sequences_of_single_items_leave_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match="no training sequence has two items"):
        StretchBatches([[1], [], [2]], 4, 20)


@settings(max_examples=60)
@given(many=lengths, most=st.integers(1, 8), per_user=st.integers(1, 3), batch_size=st.integers(1, 40))
def test_an_epoch_has_so_many_stretches_of_a_user_and_in_time_all_of_them(
    many: list[int], most: int, per_user: int, batch_size: int
) -> None:
    users = sequences_of(many)
    every = StretchBatches(users, batch_size, most)
    some = StretchBatches(users, batch_size, most, per_user=per_user)
    stretches = {tuple(row[row >= 0]): owner for row, owner in zip(every.items, every.owners, strict=True)}
    seen: set[tuple[int, ...]] = set()
    for epoch in range(60):
        rows = [tuple(row[row >= 0].tolist()) for batch in some(epoch, 0) for row in batch["sequences"]]
        of_user = Counter(stretches[row] for row in rows)
        assert of_user == {
            owner: min(per_user, count) for owner, count in Counter(stretches.values()).items()
        }
        seen.update(rows)
    longest = max(Counter(stretches.values()).values())
    assert longest > 8 or seen == set(stretches)
    learnt = [(len(items) - 1, Counter(stretches.values())[user]) for user, items in enumerate(users)]
    expected = sum(n * min(per_user, cuts) / cuts for n, cuts in learnt if n > 0)
    assert some.samples == pytest.approx(expected, abs=0.5 + 1e-9)
