"""k-means whose clusters keep to sizes between two bounds (Bradley, Bennett and Demiriz 2000).

Shapes: N points, C clusters, d dimensions.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

_MOST_ROUNDS = 10


def constrained_clusters(
    points: np.ndarray, clusters: int, least: int, most: int, generator: np.random.Generator
) -> np.ndarray:
    """Labels (N,) of C clusters of `least` to `most` points each, from (N, d).

    In turns: each cluster's centre is the mean of its points, and all points are assigned at the least total
    squared distance that the sizes allow, until nothing changes, at most 10 times. Raises ValueError where no
    such sizes add up to N.
    """
    count = len(points)
    if clusters < 1 or not clusters * least <= count <= clusters * most or least < 0:
        raise ValueError(
            f"{clusters} clusters of {least} to {most} points cannot hold {count} points; expected "
            f"clusters * least <= {count} <= clusters * most"
        )
    centres = _spread_points(points, clusters, generator)
    labels = np.full(count, -1)
    for _ in range(_MOST_ROUNDS):
        before, labels = labels, bounded_assignment(cdist(points, centres, "sqeuclidean"), least, most)
        if np.array_equal(before, labels):
            break
        for cluster in np.unique(labels):
            centres[cluster] = points[labels == cluster].mean(axis=0)
    return labels


def bounded_assignment(costs: np.ndarray, least: int, most: int) -> np.ndarray:
    """Assign each point (row) to a cluster (column) at the least total cost, (N, C) -> (N,).

    Each cluster takes at least `least` and at most `most` points. A cluster becomes `most` places, the first
    `least` of which must be taken: they are made so cheap that an assignment without one is never best.
    """
    count, clusters = costs.shape
    most = min(most, count)
    # One mandatory place more outweighs whatever all points together can lose by it.
    bonus = (costs.max() - costs.min() + 1) * (count + 1)
    places = np.repeat(costs, most, axis=1)
    mandatory = np.tile(np.arange(most) < least, clusters)
    _, taken = linear_sum_assignment(places - bonus * mandatory)
    labels: np.ndarray = taken // most
    return labels


def _spread_points(points: np.ndarray, clusters: int, generator: np.random.Generator) -> np.ndarray:
    """k-means++: each next centre is a point drawn by its squared distance to those drawn before."""
    chosen = [int(generator.integers(len(points)))]
    for _ in range(clusters - 1):
        distances = cdist(points, points[chosen], "sqeuclidean").min(axis=1)
        total = float(distances.sum())
        weights = distances / total if total > 0 else None  # all points alike: any of them
        chosen.append(int(generator.choice(len(points), p=weights)))
    return points[chosen].astype(np.float64)
