"""Ranking a whole catalogue by its scores, against sorting in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.decoding import Ranked
from genrec_lab.models.recommenders.base import rank_by_score


@given(data=st.data())
def test_it_is_a_sort_by_score_and_item(data: st.DataObject) -> None:
    """Few different scores make many ties; items come in any order; batches of any size."""
    items = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True))
    users = data.draw(st.integers(0, 7))
    score = st.sampled_from([-1.5, 0.0, 0.25, 2.0])
    table = np.array(
        [[data.draw(score) for _ in items] for _ in range(users)], dtype=np.float32
    ).reshape(users, len(items))  # fmt: skip
    top_k = data.draw(st.integers(1, 14))
    ranked = rank_by_score(
        lambda histories: table[[history[0] for history in histories]],
        [[user] for user in range(users)],
        np.array(items),
        top_k,
        batch_size=data.draw(st.integers(1, 8)),
    )
    assert ranked.items.shape == ranked.scores.shape == (users, top_k)
    for user in range(users):
        best = sorted(zip(-table[user], items, strict=True))[:top_k]
        missing = top_k - len(best)
        assert ranked.items[user].tolist() == [item for _, item in best] + [-1] * missing
        assert ranked.scores[user].tolist() == [-score for score, _ in best] + [-np.inf] * missing


def test_one_user_with_many_ties_does_not_disturb_the_others() -> None:
    table = np.array([[0, 0, 0, 0, 0], [1, 2, 3, 4, 5]], dtype=np.float32)
    ranked = rank_by_score(lambda histories: table, [[], []], np.array([9, 3, 7, 1, 5]), 2)
    assert ranked.items.tolist() == [[1, 3], [5, 1]]


def test_no_item_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k is 0; expected 1 or more"):
        rank_by_score(lambda histories: np.zeros((1, 2)), [[]], np.array([0, 1]), 0)


@given(
    rows=st.lists(
        st.lists(st.tuples(st.sampled_from([-np.inf, -1.0, 0.0, 1e-9, 1.0]), st.integers(0, 20)), max_size=8),
        min_size=1,
        max_size=4,
    ).filter(lambda rows: len({len(row) for row in rows}) == 1),
    top_k=st.integers(1, 10),
)
def test_the_best_of_some_candidates(rows: list[list[tuple[float, int]]], top_k: int) -> None:
    scores = np.array([[score for score, _ in row] for row in rows]).reshape(len(rows), -1)
    items = np.array([[item for _, item in row] for row in rows], dtype=np.int64).reshape(len(rows), -1)
    ranked = Ranked.best(items, scores, top_k)
    for number, row in enumerate(rows):
        best = sorted((-np.float32(score), item) for score, item in row if score != -np.inf)[:top_k]
        expected = [item for _, item in best] + [-1] * (top_k - len(best))
        assert ranked.items[number].tolist() == expected
        assert np.isneginf(ranked.scores[number, len(best) :]).all()
    assert (ranked.items.dtype, ranked.scores.dtype) == (np.int64, np.float32)


def test_scores_that_read_as_equal_are_ordered_as_equal() -> None:
    """In float64 item 8 is ahead by 1e-12; in the float32 that is returned they are equal."""
    ranked = Ranked.best(np.array([[8, 3]]), np.array([[1.0 + 1e-12, 1.0]]), 2)
    assert ranked.items.tolist() == [[3, 8]]
