"""Clusters of bounded size, against every assignment that the bounds allow."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.models.tokenizers.kmeans import bounded_assignment, constrained_clusters


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(1, 3), st.integers(0, 3), st.integers(0, 9999))
def test_the_assignment_is_the_cheapest_of_all_that_are_allowed(
    points: int, clusters: int, least: int, seed: int
) -> None:
    least = min(least, points // clusters)
    most = max(least, -(-points // clusters)) + seed % 2
    costs = np.random.default_rng(seed).uniform(0, 100, size=(points, clusters))
    allowed = (
        labels
        for labels in product(range(clusters), repeat=points)
        if all(least <= labels.count(cluster) <= most for cluster in range(clusters))
    )
    cheapest = min(sum(costs[point, label] for point, label in enumerate(labels)) for labels in allowed)
    labels = bounded_assignment(costs, least, most)
    assert all(least <= (labels == cluster).sum() <= most for cluster in range(clusters))
    assert costs[np.arange(points), labels].sum() == pytest.approx(cheapest)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 10), st.integers(0, 9999))
def test_sizes_keep_to_their_bounds_whatever_the_points(clusters: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Most points in one heap, which k-means without bounds would leave in one cluster.
    points = np.concatenate([np.zeros((40, 3)), 50 + generator.normal(size=(8, 3))])
    least, most = 48 // (2 * clusters), 4 * (48 // (2 * clusters))
    sizes = np.bincount(constrained_clusters(points, clusters, least, most, generator), minlength=clusters)
    assert sizes.sum() == 48 and sizes.min() >= least and sizes.max() <= most


def test_loose_bounds_find_heaps_that_lie_apart() -> None:
    generator = np.random.default_rng(0)
    heaps = np.repeat(np.arange(3), [10, 14, 6])
    points = 100 * np.eye(3)[heaps] + generator.normal(size=(30, 3))
    labels = constrained_clusters(points, 3, 2, 20, generator)
    assert {tuple(np.unique(heaps[labels == label])) for label in range(3)} == {(0,), (1,), (2,)}


def test_sizes_that_cannot_hold_the_points_are_refused() -> None:
    with pytest.raises(ValueError, match="3 clusters of 2 to 3 points cannot hold 10 points"):
        constrained_clusters(np.zeros((10, 2)), 3, 2, 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="5 clusters of 3 to 9 points cannot hold 10 points"):
        constrained_clusters(np.zeros((10, 2)), 5, 3, 9, np.random.default_rng(0))
