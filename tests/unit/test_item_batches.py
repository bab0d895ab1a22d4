"""What models over items are trained on: prefixes, cloze, users; and what they know of items."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.data import NO_ITEM
from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.batches import DrawnPrefixes, SequenceBatches, last_of
from genrec_lab.models.sequential.bert4rec import Cloze
from genrec_lab.models.sequential.fmlp_rec import at_the_end
from genrec_lab.models.sequential.sasrec import SASRec, SASRecConfig

ITEMS = np.array([3, 4, 8, 10, 11, 17, 20, 23])
SEQUENCES = st.lists(st.lists(st.sampled_from(ITEMS.tolist()), max_size=12), min_size=1, max_size=6).filter(
    lambda sequences: max(map(len, sequences)) > 1
)


def items_of(row: list[int]) -> list[int]:
    return [int(ITEMS[place]) for place in row if place != NO_ITEM]


@given(
    sequences=SEQUENCES,
    max_history=st.integers(1, 6),
    batch_size=st.integers(1, 7),
    like_length=st.booleans(),
)
def test_every_prefix_is_learnt_once_with_its_next_item(
    sequences: list[list[int]], max_history: int, batch_size: int, like_length: bool
) -> None:
    batches = DrawnPrefixes(ITEMS, sequences, batch_size, max_history, like_length=like_length)
    drawn = list(batches(3, 1))
    assert len(drawn) == len(batches)
    learnt = Counter(
        (*items_of(row), int(ITEMS[wanted]))
        for batch in drawn
        for row, wanted in zip(batch["sequences"].tolist(), batch["wanted"].tolist(), strict=True)
    )
    expected = Counter(
        tuple(s[max(0, end - max_history) : end + 1]) for s in sequences for end in range(1, len(s))
    )
    assert learnt == expected


def test_prefixes_of_like_length_share_a_batch() -> None:
    sequences = [ITEMS[:length].tolist() for length in (2, 3, 5, 8)] * 16  # prefixes of 1 to 7 items
    batches = DrawnPrefixes(ITEMS, sequences, 16, 20, like_length=True)
    spreads = []
    for batch in batches(0, 0):
        lengths = (batch["sequences"] != NO_ITEM).sum(1)
        spreads.append(int(lengths.max() - lengths.min()))
    assert max(spreads) <= 2 < 6, spreads
    order = [batch["sequences"].shape[1] for batch in batches(0, 0)]
    assert order != sorted(order), "long prefixes would always come last"
    assert order != [batch["sequences"].shape[1] for batch in batches(1, 0)]


@settings(max_examples=50)
@given(sequences=SEQUENCES, masked=st.floats(0.05, 0.95), last_only=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_cloze_hides_at_least_one_item_and_knows_it(
    sequences: list[list[int]], masked: float, last_only: float
) -> None:
    prefixes = DrawnPrefixes(ITEMS, sequences, 4, 5)
    for plain, batch in zip(prefixes(2, 9), Cloze(prefixes, 8, masked, last_only)(2, 9), strict=True):
        hidden = batch["wanted"] != NO_ITEM
        assert hidden.any(1).all()
        told = torch.where(hidden, batch["wanted"], batch["sequences"])
        for row, history, wanted in zip(
            told.tolist(), plain["sequences"].tolist(), plain["wanted"].tolist(), strict=True
        ):
            assert [p for p in row if p != NO_ITEM] == [*(p for p in history if p != NO_ITEM), wanted]
        assert (batch["sequences"][hidden] == 8).all()
        if last_only == 1.0:
            assert (hidden.sum(1) == 1).all()
            assert (last_of(hidden[..., None], told)).all()


def test_a_cloze_masks_its_share_anew_in_each_epoch() -> None:
    prefixes = DrawnPrefixes(ITEMS, [ITEMS.tolist()] * 2000, 14_000, 20)
    cloze = Cloze(prefixes, 8, 0.3, 0.0)
    (first,), (again,), (next_epoch,) = cloze(0, 0), cloze(0, 0), cloze(1, 0)
    real = first["sequences"] != NO_ITEM
    lengths = real.sum(1)
    share = ((first["wanted"] != NO_ITEM).sum(1) / lengths)[lengths == 8].mean().item()
    assert share == pytest.approx(0.3 + 0.7**8 / 8, abs=0.02)  # one item more where none was drawn
    assert torch.equal(first["wanted"], again["wanted"])
    assert not torch.equal(first["wanted"], next_epoch["wanted"])


def test_users_stay_beside_the_pieces_of_their_sequences() -> None:
    sequences = [[3, 4, 8, 10, 11], [17], [20, 23]]
    batches = SequenceBatches(ITEMS, sequences, 10, 2, users=np.array([7, 8, 9]))
    (batch,) = batches(0, 0)
    rows = [items_of(row) for row in batch["sequences"].tolist()]
    assert sorted(zip(rows, batch["users"].tolist(), strict=True)) == [
        ([3, 4, 8], 7), ([8, 10, 11], 7), ([20, 23], 9)
    ]  # fmt: skip


def test_a_window_holds_the_most_recent_items_at_its_end() -> None:
    sequences = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1], [7, -1, -1, -1]])
    assert at_the_end(sequences, 3).tolist() == [[2, 3, 4], [-1, 5, 6], [-1, -1, 7]]
    assert at_the_end(sequences, 5).tolist() == [[-1, 1, 2, 3, 4], [-1, -1, -1, 5, 6], [-1, -1, -1, -1, 7]]


# --- what is known of a domain's items


def test_domain_items_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="items are not ascending and distinct"):
        DomainItems(np.array([3, 3, 4]))
    with pytest.raises(ValueError, match="users are not ascending and distinct"):
        DomainItems(ITEMS, np.array([2, 1]))
    with pytest.raises(ValueError, match="the domain has no items"):
        DomainItems(np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="text has 7 rows for 8 items; expected one row per item"):
        DomainItems(ITEMS, text=np.zeros((7, 4), np.float32))
    with pytest.raises(
        ValueError, match=r"UniX needs pictures of its items; .* DomainItems\(…, pictures=…\)"
    ):
        DomainItems(ITEMS, text=np.zeros((8, 4), np.float32)).require(("text", "pictures"), "UniX")


def test_only_what_is_needed_of_a_domain_is_written(tmp_path) -> None:
    words = pl.DataFrame({"item": ITEMS, "title": [f"title {item}" for item in ITEMS]})
    text = np.arange(16, dtype=np.float32).reshape(8, 2)
    domain = DomainItems(ITEMS, np.array([1, 5]), text=text, pictures=text, words=words)
    for needs in ((), ("text",), ("words", "pictures")):
        folder = tmp_path / "-".join(("needs", *needs))
        folder.mkdir()
        domain.write(folder, needs)
        found = DomainItems.read(folder)
        assert found.items.tolist() == ITEMS.tolist()
        assert found.users.tolist() == [1, 5]
        assert (found.text is not None) == ("text" in needs)
        assert (found.pictures is not None) == ("pictures" in needs)
        assert (found.words is not None) == ("words" in needs)
        for need in needs:
            before, after = getattr(domain, need), getattr(found, need)
            assert before.equals(after) if need == "words" else np.array_equal(before, after)


def test_users_that_are_not_known_have_no_place() -> None:
    domain = DomainItems(ITEMS, np.array([2, 5, 6]))
    assert domain.user_places([5, 2, 3, 99, -1, 6]).tolist() == [1, 0, -1, -1, -1, 2]
    assert DomainItems(ITEMS).user_places([5, -1]).tolist() == [-1, -1]


# --- starting from a pre-trained model


def test_a_pretrained_model_gives_all_weights_but_those_of_its_items() -> None:
    config = SASRecConfig(width=8, heads=2, feed_forward=8, max_history=5)
    torch.manual_seed(1)
    pretrained, model = (
        SASRec(config).build(DomainItems(np.arange(30))),
        SASRec(config).build(DomainItems(ITEMS)),
    )
    own = model.embedding.weight.detach().clone()
    model.start_from(pretrained)
    assert torch.equal(model.embedding.weight, own)
    for name, weight in model.state_dict().items():
        assert name == "embedding.weight" or torch.equal(weight, pretrained.state_dict()[name])


def test_models_of_other_sizes_cannot_start_from_each_other() -> None:
    small = SASRecConfig(width=8, heads=2, feed_forward=8, layers=1)
    with pytest.raises(
        ValueError, match=r"cannot start from another SASRec: 'blocks\.1\..* in only one of them"
    ):
        SASRec(small.model_copy(update={"layers": 2})).build(DomainItems(ITEMS)).start_from(
            SASRec(small).build(DomainItems(ITEMS))
        )


# --- whole sequences


def pieces_of(sequences: list[list[int]], max_history: int, batch_size: int = 4) -> list[list[int]]:
    batches = SequenceBatches(ITEMS, sequences, batch_size, max_history)
    drawn = [row for batch in batches(0, 0) for row in batch["sequences"].tolist()]
    return [[int(ITEMS[place]) for place in row if place != -1] for row in drawn]


@given(
    lengths=st.lists(st.integers(0, 25), min_size=1, max_size=8).filter(lambda n: max(n) > 1),
    max_history=st.integers(1, 7),
    batch_size=st.integers(1, 5),
)
def test_every_next_item_is_learnt_once_with_all_the_history_that_fits(
    lengths: list[int], max_history: int, batch_size: int
) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.choice(ITEMS, length).tolist() for length in lengths]
    pieces = pieces_of(sequences, max_history, batch_size)
    assert all(2 <= len(piece) <= max_history + 1 for piece in pieces)
    learnt = Counter((piece[place - 1], piece[place]) for piece in pieces for place in range(1, len(piece)))
    expected = Counter((s[place - 1], s[place]) for s in sequences for place in range(1, len(s)))
    assert learnt == expected
    batches = SequenceBatches(ITEMS, sequences, batch_size, max_history)
    assert len(list(batches(0, 0))) == len(batches)


def test_a_long_sequence_is_cut_from_its_end() -> None:
    # Five items are read at most: the last piece is whole, the first is what is left; they share one item.
    sequence = [3, 4, 8, 10, 11, 17, 20, 23]
    assert sorted(pieces_of([sequence], 5)) == [[3, 4, 8], [8, 10, 11, 17, 20, 23]]


def test_the_order_is_drawn_from_seed_and_epoch() -> None:
    sequences = [[a, b] for a in ITEMS.tolist() for b in ITEMS.tolist()]

    def epoch(number: int, seed: int) -> list[list[list[int]]]:
        batches = SequenceBatches(ITEMS, sequences, 8, 5)
        return [batch["sequences"].tolist() for batch in batches(number, seed)]

    assert epoch(1, 4) == epoch(1, 4)
    assert epoch(1, 4) != epoch(2, 4)
    assert epoch(1, 4) != epoch(1, 5)


def test_padding_is_on_the_right() -> None:
    (batch,) = SequenceBatches(ITEMS, [[3, 4, 8], [10, 11]], 2, 5)(0, 0)
    assert sorted(batch["sequences"].tolist()) == [[0, 1, 2], [3, 4, -1]]
