"""Identifiers of items that come later: unique, near, and nobody else's changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.codes import CodesError, ItemCodes
from genrec_lab.codes.growing import with_new_items
from genrec_lab.encoders import TextConfig
from genrec_lab.encoders.text import text_encoder


@given(st.integers(0, 12), st.integers(0, 10_000), st.booleans())
def test_old_ones_stay_and_new_ones_are_unique(new: int, seed: int, extra: bool) -> None:
    rng, sizes = np.random.default_rng(seed), (3, 3, 3) if extra else (3, 9)
    names = rng.choice(["a", "b"], size=10).tolist()
    pool = {name: rng.permutation(27) for name in "ab"}
    numbers = [pool[name][place] for place, name in enumerate(names)]
    old = ItemCodes(np.stack(np.unravel_index(numbers, sizes), axis=1), sizes, names)
    raw = rng.integers(0, (3, 3) if extra else sizes, size=(new, 2))
    domains = rng.choice(["a", "b"], size=new).tolist()
    domains = [name if name in old.domain_names else old.domain_names[0] for name in domains]
    grown = with_new_items(old, raw, domains).codes
    assert np.array_equal(grown.codes[:10], old.codes) and grown.sizes == old.sizes
    assert grown.unique and grown.n_items == 10 + new


def test_a_taken_identifier_goes_to_the_nearest_free_code_by_hand() -> None:
    old = ItemCodes([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]], (2, 3))
    books = [np.array([[0.0], [10.0]]), np.array([[0.0], [1.0], [2.0]])]
    residuals = np.array([[[0.1], [0.1]], [[0.2], [0.0]], [[9.0], [1.0]], [[0.0], [2.0]]])
    raw = np.array([[0, 0], [0, 0], [1, 1], [0, 2]])
    with pytest.raises(CodesError, match="all has 6 items, and no identifier of sizes"):
        with_new_items(old, raw, ["all"] * 4, residuals, books)
    one = with_new_items(old, raw[:1], ["all"], residuals[:1], books)
    assert one.codes.codes[5:].tolist() == [[0, 2]] and one[1:] == (1, 0)
    # nothing is free under prefix 1, so the nearest code of the level before is taken
    other = with_new_items(old, raw[2:3], ["all"], residuals[2:3], books)
    assert other.codes.codes[5:].tolist() == [[0, 2]] and other[1:] == (1, 1)
    exact = with_new_items(old, raw[3:], ["all"], residuals[3:], books)
    assert exact.codes.codes[5:].tolist() == [[0, 2]] and exact[1:] == (0, 0)


def test_a_level_that_counts_counts_on() -> None:
    old = ItemCodes([[0, 0, 0], [0, 0, 1], [0, 1, 0]], (1, 2, 3))
    grown = with_new_items(old, np.array([[0, 0], [0, 0], [0, 1]]), ["all"] * 3)
    assert grown.codes.codes[3:].tolist() == [[0, 0, 2], [0, 1, 1], [0, 1, 2]] and grown.moved == 1


def test_codes_of_another_kind_are_refused() -> None:
    old = ItemCodes([[0, 0, 0]], (1, 2, 3))
    with pytest.raises(CodesError, match="gives 1 codes, the identifiers have 3 levels"):
        with_new_items(old, np.array([[0]]), ["all"])
    with pytest.raises(CodesError, match="outside the sizes"):
        with_new_items(old, np.array([[1, 0]]), ["all"])


def test_tfidf_encodes_later_texts_where_the_catalogues_are() -> None:
    words = ["red", "rake", "steel", "lamp", "blue", "oak", "round", "vase", "tall", "chair"]
    texts = [" ".join(words[(number * step) % 10] for step in (1, 3, 7)) for number in range(40)]
    encoder = text_encoder(TextConfig(kind="tfidf", dimensions=6))
    before = encoder.encode(texts)
    np.testing.assert_allclose(encoder.encode_more(texts, texts[::3]), before[::3], atol=1e-5)
    assert not np.allclose(encoder.encode([*texts, "a blue spade"])[:40], before, atol=1e-3)
