"""The Sinkhorn policy against Sinkhorn-Knopp by the book, and where balance cannot separate items."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.codes import IdentifierConfig, ItemCodes
from genrec_lab.codes.sinkhorn import balanced_log_plan


def twin_plan(distances: list[list[float]], epsilon: float, iterations: int) -> np.ndarray:
    """Sinkhorn-Knopp by the book, without logarithms, one entry at a time."""
    items, codes = len(distances), len(distances[0])
    plan = [[np.exp(-value / epsilon) for value in row] for row in distances]
    for _ in range(iterations):
        for row in plan:
            total = sum(row)
            row[:] = [value / total / items for value in row]
        for code in range(codes):
            total = sum(row[code] for row in plan)
            for row in plan:
                row[code] = row[code] / total / codes
    return np.array(plan)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 100), st.sampled_from([0.05, 0.3]))
def test_the_balanced_plan_agrees_with_a_twin_without_logarithms(
    items: int, codes: int, seed: int, epsilon: float
) -> None:
    distances = np.random.default_rng(seed).uniform(-1, 1, (2, items, codes))
    plan = np.exp(balanced_log_plan(-distances / epsilon, 30))
    for group in range(2):
        np.testing.assert_allclose(plan[group], twin_plan(distances[group].tolist(), epsilon, 30), rtol=1e-7)


def test_codes_carry_equal_mass_at_the_published_epsilon() -> None:
    distances = np.random.default_rng(0).uniform(-1, 1, (3, 40, 16))
    plan = np.exp(balanced_log_plan(-distances / 0.003, 50))
    assert np.isfinite(plan).all()
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 16, rtol=1e-9)


def test_one_round_gives_each_colliding_item_its_largest_share() -> None:
    rng = np.random.default_rng(8)
    residuals, codebook = rng.normal(size=(4, 2)), rng.normal(size=(6, 2))
    codes = ItemCodes([[0, 5], [0, 5], [0, 5], [1, 5]], (2, 6))
    config = IdentifierConfig(policy="sinkhorn", sinkhorn_epsilon=0.3, sinkhorn_rounds=1)
    squared = [[float(((r - c) ** 2).sum()) for c in codebook] for r in residuals[:3]]
    low, high = min(map(min, squared)), max(map(max, squared))
    middle = (low + high) / 2
    scaled = [[(value - middle) / (high - middle + 1e-5) for value in row] for row in squared]
    assert np.argmin(squared, axis=1).tolist() == [5, 5, 5]
    expected = twin_plan(scaled, 0.3, 50).argmax(axis=1)
    assert expected.tolist() == [5, 0, 4]
    resolution = codes.resolve_with_cost(config, residuals, codebook)
    assert resolution.codes.codes.tolist() == [[0, 5], [0, 0], [0, 4], [1, 5]]
    assert resolution.unsolved == 0


def test_items_that_sinkhorn_cannot_tell_apart_are_counted_and_separated() -> None:
    # Two pairs of equal vectors: balance gives equal vectors equal rows, whatever the number of rounds.
    residuals = np.array([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0], [5.0, 5.0]])
    codebook = np.random.default_rng(0).normal(size=(8, 2))
    codes = ItemCodes([[0, 0], [0, 0], [1, 1], [1, 1]], (2, 8))
    resolution = codes.resolve_with_cost("sinkhorn", residuals, codebook)
    assert resolution.unsolved == 4
    assert resolution.codes.unique
    assert "4 still collided after Sinkhorn" in str(resolution)
