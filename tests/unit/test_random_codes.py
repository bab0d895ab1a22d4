"""Random codes: distinct, uniform, decided by the seed alone."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from genrec_lab.models.tokenizers import ItemContent
from genrec_lab.models.tokenizers.random_codes import RandomCodes, RandomCodesConfig


def codes_of(items: int, levels: int, size: int, seed: int = 0) -> np.ndarray:
    config = RandomCodesConfig(levels=levels, codebook_size=size)
    content = np.zeros((items, 3))
    return RandomCodes(config).fit(content, seed=seed).encode(content)


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
    RandomCodes(RandomCodesConfig()).fit(np.ones((50, 2)), seed=5).save(tmp_path)
    again = RandomCodes.load(tmp_path).encode(np.ones((50, 2)))
    np.testing.assert_array_equal(again, codes_of(50, 4, 256, 5))


def test_content_is_not_looked_at_and_nothing_is_quantised() -> None:
    x = np.random.default_rng(0).normal(size=(9, 4))
    model = RandomCodes(RandomCodesConfig(levels=2, codebook_size=8)).fit(x)
    np.testing.assert_array_equal(model.encode(x), model.encode(np.zeros((9, 4))))
    assert model.residuals(x) is None and len(model.codebooks) == 0 and model.sizes == (8, 8)


def test_a_part_of_the_items_has_its_codes_and_other_items_are_refused() -> None:
    x = np.zeros((9, 1))
    model = RandomCodes(RandomCodesConfig(levels=2, codebook_size=8)).fit(x, seed=3)
    some = ItemContent.of(x).select(np.array([2, 7]))
    np.testing.assert_array_equal(model.encode(some), model.encode(x)[[2, 7]])
    with pytest.raises(ValueError, match="RandomCodes was fitted on 9 items, without item 9 and 1 more"):
        model.encode(np.zeros((11, 1)))
    assert model.tokenize_unserved(np.zeros((11, 1))).codes.tolist() == codes_of(11, 2, 8, 3).tolist()


def test_too_few_identifiers_are_refused() -> None:
    with pytest.raises(ValueError, match="make 64 identifiers, too few for 65 items; use 9 codes or more"):
        codes_of(65, 2, 8)
