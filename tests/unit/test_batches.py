"""Batches of pairs, stretches and neighbours: each once an epoch, in orders drawn from seed and epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from genrec_lab.data.batches import NeighbourBatches, PairBatches, PairsConfig, StretchBatches, shuffled

Pair = tuple[tuple[int, ...], int]


def frame(users: list[list[int]], most: int = 20) -> pl.DataFrame:
    """Every prefix of each user's sequence and its next item, as `leave_one_out` makes them."""
    rows = [
        (user, items[max(0, place - most) : place], items[place])
        for user, items in enumerate(users)
        for place in range(1, len(items))
    ]
    return pl.DataFrame(
        rows,
        schema={"user": pl.Int64, "history": pl.List(pl.Int64), "target": pl.Int64},
        orient="row",
    )


def pairs_of(batch: dict[str, torch.Tensor]) -> list[Pair]:
    return [
        (tuple(item for item in history if item != -1), target)
        for history, target in zip(batch["histories"].tolist(), batch["targets"].tolist(), strict=True)
    ]


def epoch_of(batches: PairBatches, epoch: int = 0, seed: int = 0) -> list[Pair]:
    return [pair for batch in batches(epoch, seed) for pair in pairs_of(batch)]


sequences = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=9), min_size=1, max_size=30).filter(
    lambda users: any(len(items) > 1 for items in users)
)


@settings(max_examples=60)
@given(users=sequences, batch_size=st.integers(1, 20), epoch=st.integers(0, 5), seed=st.integers(0, 5))
def test_every_pair_comes_once_an_epoch(
    users: list[list[int]], batch_size: int, epoch: int, seed: int
) -> None:
    pairs = frame(users)
    batches = PairBatches(pairs, batch_size)
    expected = Counter(
        (tuple(history), target) for history, target in pairs.select("history", "target").iter_rows()
    )
    drawn = list(batches(epoch, seed))
    assert Counter(pair for batch in drawn for pair in pairs_of(batch)) == expected
    assert len(drawn) == len(batches)
    assert batches.samples == pairs.height
    sizes = [len(batch["targets"]) for batch in drawn]
    assert max(sizes) <= batch_size
    assert sum(size < batch_size for size in sizes) <= 1


@settings(max_examples=60)
@given(users=sequences, batch_size=st.integers(1, 20))
def test_padding_is_on_the_right_and_no_wider_than_the_longest(
    users: list[list[int]], batch_size: int
) -> None:
    for batch in PairBatches(frame(users), batch_size)(0, 0):
        histories = batch["histories"]
        assert histories.dtype == batch["targets"].dtype == torch.int64
        real = histories != -1
        assert torch.equal(real, real.sort(dim=1, descending=True).values)
        assert real.any(0).all()


@settings(max_examples=60)
@given(users=sequences, per_user=st.integers(1, 5), epoch=st.integers(0, 3))
def test_no_user_has_more_than_the_cap(users: list[list[int]], per_user: int, epoch: int) -> None:
    # Items carry their user, so that a pair tells whose it is.
    marked = [[100 * user + item for item in items] for user, items in enumerate(users)]
    pairs = frame(marked)
    batches = PairBatches(pairs, 7, per_user=per_user)
    drawn = epoch_of(batches, epoch)
    of_user = Counter(target // 100 for _, target in drawn)
    expected = {user: min(per_user, len(items) - 1) for user, items in enumerate(users) if len(items) > 1}
    assert of_user == expected
    assert batches.samples == len(drawn) == sum(expected.values())
    available = Counter((tuple(h), t) for h, t in pairs.select("history", "target").iter_rows())
    assert not Counter(drawn) - available


def long_users(count: int = 40, length: int = 12) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 1000, length).tolist() for _ in range(count)]


def test_different_epochs_draw_different_pairs_and_all_get_their_turn() -> None:
    pairs = frame(long_users())
    batches = PairBatches(pairs, 16, per_user=3)
    epochs = [set(epoch_of(batches, epoch)) for epoch in range(25)]
    assert epochs[0] != epochs[1]
    everything = {(tuple(h), t) for h, t in pairs.select("history", "target").iter_rows()}
    assert set.union(*epochs) == everything


def test_each_pair_of_a_user_is_as_likely() -> None:
    """3 of 11 in each of 600 epochs: each place 164 times, to 5 standard deviations (10.9)."""
    batches = PairBatches(frame([list(range(12))]), 16, per_user=3)
    drawn = Counter(target for epoch in range(600) for _, target in epoch_of(batches, epoch))
    assert all(abs(drawn[target] - 600 * 3 / 11) < 5 * 10.9 for target in range(1, 12))


@pytest.mark.parametrize("per_user", [None, 3])
def test_order_is_fixed_by_seed_and_epoch(per_user: int | None) -> None:
    pairs = frame(long_users())
    one, other = (PairBatches(pairs, 16, per_user=per_user) for _ in range(2))
    assert epoch_of(one, 2, 7) == epoch_of(other, 2, 7)
    assert epoch_of(one, 3, 7) != epoch_of(other, 2, 7)
    assert epoch_of(one, 2, 8) != epoch_of(other, 2, 7)


def test_samples_of_like_length_share_a_batch() -> None:
    """Sorted by length little is padded: in random batches of 32 most of the matrix would be."""
    rng = np.random.default_rng(1)
    users = [rng.integers(0, 99, int(length)).tolist() for length in rng.integers(2, 21, 300)]
    cells = real = 0
    lengths = []
    for batch in PairBatches(frame(users), 32)(0, 0):
        cells += batch["histories"].numel()
        real += int((batch["histories"] != -1).sum())
        lengths.append(batch["histories"].shape[1])
    assert real / cells > 0.9
    assert lengths != sorted(lengths)  # and yet short and long batches alternate


def test_more_pairs_than_a_pool() -> None:
    """Lengths are sorted within pools of batches: a small batch size makes many of them."""
    users = long_users(30, 8)
    drawn = epoch_of(PairBatches(frame(users), 1))
    assert len(drawn) == len(set(drawn)) == 30 * 7


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no training pair: every user has fewer than two training items"):
        PairBatches(frame([[1], [2]]), 8)


@pytest.mark.parametrize("settings", [{"max_history": 0}, {"per_user": 0}, {"per_users": 3}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        PairsConfig.model_validate(settings)


# --- items beside their neighbours

NEIGHBOURS = pl.DataFrame(
    {"item": [0, 1, 2, 3, 4], "neighbours": [[1, 2], [0], [0, 3], [2], []]},
    schema={"item": pl.Int64, "neighbours": pl.List(pl.Int64)},
)


def beside(items: list[int], batch_size: int = 2) -> NeighbourBatches:
    return NeighbourBatches(
        np.array(items), NEIGHBOURS, lambda rows, _: {"id": torch.from_numpy(rows)}, batch_size
    )


def test_every_item_comes_once_an_epoch_beside_one_of_its_neighbours() -> None:
    batches, seen = beside([0, 1, 2, 3, 4]), set()
    for epoch in range(40):
        drawn = list(batches(epoch, 3))
        assert [len(b["items"]["id"]) for b in drawn] == [2, 2, 1] and len(batches) == 3
        items = torch.cat([b["items"]["id"] for b in drawn]).tolist()
        others = torch.cat([b["neighbours"]["id"] for b in drawn]).tolist()
        assert sorted(items) == [0, 1, 2, 3, 4]
        seen |= set(zip(items, others, strict=True))
    # all pairs in the end, and the one without neighbours beside itself
    assert seen == {(0, 1), (0, 2), (1, 0), (2, 0), (2, 3), (3, 2), (4, 4)}


def test_neighbours_are_drawn_alike_often_and_anew_each_epoch() -> None:
    drawn = [
        dict(zip(*(side.tolist() for side in beside([0, 2]).pairs(e, 0)), strict=True)) for e in range(2000)
    ]
    assert np.mean([one[0] == 1 for one in drawn]) == pytest.approx(0.5, abs=0.05)
    assert drawn[:50] == [
        dict(zip(*(side.tolist() for side in beside([0, 2]).pairs(e, 0)), strict=True)) for e in range(50)
    ]


def test_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="no item to learn from"):
        beside([])


@given(count=st.integers(0, 50), batch_size=st.integers(1, 60), seed=st.integers(0, 9))
def test_shuffled_batches_hold_each_number_once(count: int, batch_size: int, seed: int) -> None:
    batches = list(shuffled(count, batch_size, np.random.default_rng(seed)))
    assert sorted(np.concatenate([[], *batches]).tolist()) == list(range(count))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert all(len(batch) for batch in batches)


def test_the_order_is_drawn_before_anything_that_a_batch_draws() -> None:
    rng = np.random.default_rng(3)
    whole = np.concatenate([(rng.random(4), batch)[1] for batch in shuffled(9, 2, rng)])
    assert whole.tolist() == np.random.default_rng(3).permutation(9).tolist()


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
