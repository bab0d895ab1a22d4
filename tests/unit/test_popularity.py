"""Popularity against counting in plain Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.models.popularity import Popularity


@given(data=st.data())
def test_items_come_by_count_and_at_equal_counts_by_index(data: st.DataObject) -> None:
    items = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=15, unique=True))
    sequences = data.draw(st.lists(st.lists(st.sampled_from(items), max_size=8), max_size=12))
    top_k = data.draw(st.integers(1, 18))
    counts = Counter(item for sequence in sequences for item in sequence)
    expected = sorted(items, key=lambda item: (-counts[item], item))[:top_k]
    ranked = Popularity().count(np.array(items), sequences).recommend([[], [items[0]]], top_k)
    assert ranked.items.shape == (2, top_k)
    for row in range(2):  # the same for everybody
        assert ranked.items[row].tolist() == expected + [-1] * (top_k - len(expected))
        assert ranked.scores[row, : len(expected)].tolist() == [counts[item] for item in expected]
        assert np.isneginf(ranked.scores[row, len(expected) :]).all()


def test_items_that_nobody_had_come_last() -> None:
    ranked = Popularity().count(np.array([4, 7, 9]), [[9, 7], [9]]).recommend([[7]], 3)
    assert ranked.items.tolist() == [[9, 7, 4]]
    assert ranked.scores.tolist() == [[2, 1, 0]]


def test_sequences_may_be_a_generator() -> None:
    model = Popularity().count(np.array([1, 2]), ((item for item in [2, 2]) for _ in range(3)))
    assert model.counts.tolist() == [0, 6]


def test_nobody_gets_no_row() -> None:
    assert Popularity().count(np.array([1]), [[1]]).recommend([], 2).items.shape == (0, 2)


def test_an_item_of_another_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="the sequences hold item 5, which is not among the 2 items"):
        Popularity().count(np.array([1, 2]), [[1], [2, 5]])
