"""Random codes: distinct, uniform, decided by the seed alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from genrec_lab.models.tokenizers.random_codes import RandomCodes, RandomCodesConfig


def codes_of(items: int, levels: int, size: int, seed: int = 0) -> np.ndarray:
    config = RandomCodesConfig(levels=levels, codebook_size=size)
    return RandomCodes(config, seed).tokenize(np.zeros((items, 3))).codes


@settings(max_examples=40, deadline=None)
@given(levels=st.integers(1, 9), size=st.integers(1, 300), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_identifiers_are_distinct_and_in_range(levels: int, size: int, share: float, seed: int) -> None:
    items = max(1, int(share * min(size**levels, 200)))
    codes = codes_of(items, levels, size, seed)
    assert codes.shape == (items, levels)
    assert len(np.unique(codes, axis=0)) == items
    assert codes.min() >= 0 and codes.max() < size


def test_every_code_of_every_level_is_equally_likely() -> None:
    codes = codes_of(20_000, 4, 32)
    for column in codes.T:
        assert chisquare(np.bincount(column, minlength=32)).pvalue > 0.001
    # Nor does one level tell the next: all pairs of codes are as frequent.
    pairs = np.bincount(codes[:, 0] * 32 + codes[:, 1], minlength=1024)
    assert chisquare(pairs).pvalue > 0.001


def test_all_identifiers_are_given_out_where_there_are_as_many_items() -> None:
    assert sorted(codes_of(27, 3, 3) @ [9, 3, 1]) == list(range(27))


def test_the_seed_decides_and_is_kept(tmp_path: Path) -> None:
    np.testing.assert_array_equal(codes_of(50, 4, 256, 5), codes_of(50, 4, 256, 5))
    assert not np.array_equal(codes_of(50, 4, 256, 5), codes_of(50, 4, 256, 6))
    RandomCodes(RandomCodesConfig(), 5).save(tmp_path)
    again = RandomCodes.load(tmp_path).tokenize(np.ones((50, 2))).codes
    np.testing.assert_array_equal(again, codes_of(50, 4, 256, 5))


def test_content_is_not_looked_at_and_nothing_is_quantised() -> None:
    model = RandomCodes(RandomCodesConfig(levels=2, codebook_size=8), 0)
    one = model.tokenize(np.random.default_rng(0).normal(size=(9, 4)))
    np.testing.assert_array_equal(one.codes, model.tokenize(np.zeros((9, 4))).codes)
    assert one.residuals.shape == (9, 2, 0) and model.codebooks.shape == (2, 8, 0)


def test_too_few_identifiers_and_broken_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="make 64 identifiers, too few for 65 items; use 9 codes or more"):
        codes_of(65, 2, 8)
    with pytest.raises(ValueError, match="the first is item 1"):
        RandomCodes(RandomCodesConfig(), 0).tokenize(np.array([[0.0], [np.nan]]))
