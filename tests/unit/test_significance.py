"""Paired tests against scipy, against resampling users one by one, and on cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genrec_lab.evaluation import SignificanceError, paired_bootstrap, paired_t_test, paired_wilcoxon


def two_models(seed: int, users: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Per-user hits of two models, the first with `gain` more of them."""
    rng = np.random.default_rng(seed)
    return (rng.random(users) < 0.3 + gain).astype(float), (rng.random(users) < 0.3).astype(float)


# --- bootstrap


def test_the_bootstrap_agrees_with_resampling_users_one_by_one() -> None:
    a, b = two_models(seed=0, users=300, gain=0.08)
    result = paired_bootstrap(a, b, seed=1, samples=20_000)
    rng = np.random.default_rng(2)
    differences = a - b
    means = np.array([differences[rng.integers(0, 300, 300)].mean() for _ in range(20_000)])
    low, high = np.quantile(means, [0.025, 0.975])
    assert result.difference == pytest.approx(differences.mean())
    # Both are estimates from 20,000 draws, whose Monte Carlo errors the tolerances allow for.
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.004)
    assert result.statistic == pytest.approx(means.std(), rel=0.03)
    assert result.p_value == pytest.approx(2 * (means <= 0).mean(), abs=0.025)


def test_the_bootstrap_is_seeded_and_indifferent_to_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two_models(seed=3, users=100, gain=0.1)
    result = paired_bootstrap(a, b, seed=7, samples=500)
    assert paired_bootstrap(a, b, seed=7, samples=500) == result
    assert paired_bootstrap(a, b, seed=8, samples=500) != result
    monkeypatch.setattr("genrec_lab.evaluation.significance._LARGEST_BATCH", 64)
    assert paired_bootstrap(a, b, seed=7, samples=500) == result


@given(st.integers(0, 1000), st.integers(2, 40))
def test_swapping_the_models_turns_the_sign(seed: int, users: int) -> None:
    a, b = two_models(seed, users, gain=0.2)
    assert paired_t_test(a, b).difference == -paired_t_test(b, a).difference
    assert paired_t_test(a, b).p_value == pytest.approx(paired_t_test(b, a).p_value)
    forth, back = paired_bootstrap(a, b, samples=200), paired_bootstrap(b, a, samples=200)
    assert forth.difference == -back.difference
    assert forth.low - 1e-12 <= forth.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 200 experiments without any difference: at 90 % about 20 intervals miss zero, 35 would be 3.5 sigma.
    misses = 0
    for seed in range(200):
        a, b = two_models(seed, users=200, gain=0.0)
        result = paired_bootstrap(a, b, seed=seed, samples=400, confidence=0.9)
        misses += not result.low <= 0 <= result.high
    assert 8 <= misses <= 35


def test_equal_models_are_not_different() -> None:
    values = np.array([0.0, 1.0, 0.5])
    for result in (paired_bootstrap(values, values), paired_t_test(values, values)):
        assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)
    assert paired_wilcoxon(values, values).p_value == 1


def test_a_constant_gain_is_certain() -> None:
    b = np.array([0.1, 0.2, 0.7, 0.3])
    bootstrap, t_test = paired_bootstrap(b + 0.1, b, samples=999), paired_t_test(b + 0.25, b)
    assert (bootstrap.low, bootstrap.high) == pytest.approx((0.1, 0.1))
    assert bootstrap.p_value == pytest.approx(2 / 1000)
    assert t_test.p_value < 1e-12
    assert (t_test.low, t_test.high) == pytest.approx((0.25, 0.25))


# --- t-test and Wilcoxon


@given(st.integers(0, 1000), st.integers(3, 60), st.sampled_from([0.9, 0.95, 0.99]))
def test_the_t_test_is_scipys(seed: int, users: int, confidence: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.2, 1, users), rng.normal(0, 1, users)
    ours, theirs = paired_t_test(a, b, confidence), stats.ttest_rel(a, b)
    assert ours.statistic == pytest.approx(theirs.statistic)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(confidence)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    assert (ours.users, ours.confidence) == (users, confidence)


def test_wilcoxon_by_hand() -> None:
    # Differences 1, 2, 3, 4, 5, -6 have ranks 1 to 6: the smaller rank sum is 6 of 21.
    # Of the 64 signings of six ranks, 14 have a sum of at most 6, so the two-sided p is 28 / 64.
    result = paired_wilcoxon([1, 2, 3, 4, 5, 0, 9], [0, 0, 0, 0, 0, 6, 9])
    assert (result.unequal, result.users) == (6, 7)
    assert result.statistic == 6
    assert result.p_value == pytest.approx(28 / 64)


# --- refusals


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], r"shapes \(2,\) and \(1,\)"),
        ([[1.0], [2.0]], [[1.0], [2.0]], r"shapes \(2, 1\)"),
        ([1.0], [2.0], "1 users, expected at least 2"),
        ([1.0, float("nan")], [1.0, 2.0], "NaN or infinity"),
    ],
)
def test_values_that_cannot_be_paired_are_refused(a: list[float], b: list[float], message: str) -> None:
    for test in (paired_bootstrap, paired_t_test, paired_wilcoxon):
        with pytest.raises(SignificanceError, match=message):
            test(a, b)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SignificanceError, match=r"confidence: 95, expected between 0 and 1"):
        paired_t_test([1.0, 2.0], [1.0, 3.0], confidence=95)
    with pytest.raises(SignificanceError, match="samples: 10, expected at least 100"):
        paired_bootstrap([1.0, 2.0], [1.0, 3.0], samples=10)
