"""SASRec: what may and may not change a score, its batches, what it learns, its files."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.batches import SequenceBatches
from genrec_lab.models.sequential.sasrec import SASRec, SASRecConfig
from genrec_lab.training import TrainingConfig, fit

ITEMS = np.array([3, 4, 8, 10, 11, 17, 20, 23])  # a domain's, scattered over the whole catalogue
SMALL = SASRecConfig(width=16, layers=2, heads=2, feed_forward=32, dropout=0.2, max_history=5)


@pytest.fixture(scope="module")
def model() -> SASRec:
    torch.manual_seed(0)
    model = SASRec(SMALL).build(DomainItems(ITEMS))
    with torch.no_grad():  # away from the small start, at which hardly anything matters
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


# --- scores


def test_scores_are_log_probabilities_of_the_domains_items(model: SASRec) -> None:
    scores = model.score([[3], [8, 10, 23]])
    assert scores.shape == (2, 8)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1.0, rtol=1e-5)


def test_a_future_item_changes_no_earlier_place(model: SASRec) -> None:
    places = torch.tensor([[0, 3, 5, 1, 7]])
    other = places.clone()
    other[0, 3] = 6
    with torch.no_grad():
        a, b = model.states(places), model.states(other)
    torch.testing.assert_close(a[:, :3], b[:, :3], atol=0, rtol=0)
    assert (a[:, 3:] - b[:, 3:]).abs().amax((0, 2)).min() > 1e-3  # and the later ones do see it


def test_padding_changes_no_score(model: SASRec) -> None:
    alone = model.score([[8, 10]])
    padded = model.score([[8, 10], [3, 4, 11, 17, 20]])
    np.testing.assert_allclose(padded[0], alone[0], atol=1e-5)


def test_padding_changes_no_loss(model: SASRec) -> None:
    with torch.no_grad():
        rows = [torch.tensor([[0, 3, 5, -1, -1, -1]]), torch.tensor([[0, 3, 5]])]
        assert model(rows[0]).item() == pytest.approx(model(rows[1]).item(), abs=1e-6)


def test_the_loss_is_the_mean_over_next_items(model: SASRec) -> None:
    sequences = [[3, 10, 17, 4], [8, 23]]
    by_hand = [
        -model.score([sequence[:place]])[0, ITEMS.tolist().index(sequence[place])]
        for sequence in sequences
        for place in range(1, len(sequence))
    ]
    with torch.no_grad():
        loss = model(torch.tensor([[0, 3, 5, 1], [2, 7, -1, -1]])).item()
    assert loss == pytest.approx(np.mean(by_hand), abs=1e-5)


def test_the_order_of_a_history_matters(model: SASRec) -> None:
    assert np.abs(model.score([[8, 10, 3]]) - model.score([[10, 8, 3]])).max() > 1e-3


def test_only_the_most_recent_items_are_read(model: SASRec) -> None:
    recent = [4, 8, 10, 11, 17]
    np.testing.assert_array_equal(model.score([[23, 20, 3, *recent]]), model.score([recent]))
    assert np.abs(model.score([[23, *recent[1:]]]) - model.score([recent])).max() > 1e-3


def test_recommendations_are_the_items_of_the_highest_scores(model: SASRec) -> None:
    histories = [[3], [8, 10, 23], [20, 20]]
    ranked, scores = model.recommend(histories, 10), model.score(histories)
    for row in range(3):
        assert ranked.items[row, :8].tolist() == ITEMS[np.argsort(-scores[row], kind="stable")].tolist()
        assert ranked.items[row, 8:].tolist() == [-1, -1]


def test_scoring_is_without_dropout(model: SASRec) -> None:
    expected = model.score([[3, 4]])
    model.train()
    np.testing.assert_array_equal(model.score([[3, 4]]), expected)


# --- batches


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


# --- learning


def test_it_learns_a_cycle() -> None:
    """Each item is followed by the next one of the domain, the last by the first."""
    cycle = ITEMS.tolist() * 3
    sequences = [cycle[start : start + 9] for start in range(8)]
    torch.manual_seed(0)
    model = SASRec(SMALL).build(DomainItems(ITEMS))
    config = TrainingConfig(epochs=80, learning_rate=0.01, precision="fp32")
    fit(model, SequenceBatches(ITEMS, sequences, 8, 5), config)
    histories = [cycle[start : start + 4] for start in range(8)]
    ranked = model.recommend(histories, 1)
    assert ranked.items[:, 0].tolist() == [cycle[start + 4] for start in range(8)]
    assert (np.exp(ranked.scores) > 0.9).all()


# --- files and refusals


def test_what_is_saved_is_loaded(tmp_path, model: SASRec) -> None:
    loaded = SASRec.load(model.save(tmp_path / "deep" / "folder"))
    assert loaded.config == SMALL
    assert loaded.items.tolist() == ITEMS.tolist()
    assert not loaded.training
    histories = [[3, 4], [23]]
    np.testing.assert_array_equal(loaded.score(histories), model.score(histories))


@pytest.mark.parametrize("item", [5, 24, -1, 10**9])
def test_an_item_of_another_domain_is_refused(model: SASRec, item: int) -> None:
    with pytest.raises(
        ValueError, match=f"history 1 holds item {item}, which is not among the 8 of the domain"
    ):
        model.recommend([[3], [4, item]], 3)
    with pytest.raises(ValueError, match=f"sequence 1 holds item {item}, which is not among the 8"):
        SequenceBatches(ITEMS, [[3, 4], [4, item, 8]], 4, 5)


def test_an_empty_history_is_refused(model: SASRec) -> None:
    with pytest.raises(ValueError, match="history 1 is empty; SASRec needs at least one item"):
        model.recommend([[3], []], 3)


def test_sequences_of_one_item_are_nothing_to_learn_from() -> None:
    with pytest.raises(ValueError, match="no training sequence has two items"):
        SequenceBatches(ITEMS, [[3], []], 4, 5)


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="width is 10, which is not divisible by 4 heads"):
        SASRec(SASRecConfig(width=10, heads=4)).build(DomainItems(ITEMS))
