"""K-means in memory, free or with bounds on the sizes of its clusters (Bradley, Bennett and Demiriz 2000).

The free one has a k-means++ start and Lloyd's iterations, in chunks that stay in the processor's cache.
Shapes: N points, K centres or C clusters, D or d dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

# More points than this for each centre do not move the centres noticeably, but cost time.
POINTS_PER_CENTRE = 256
# The start is drawn among so many points for each centre: Lloyd's iterations mend what that leaves uneven.
_START_POINTS_PER_CENTRE = 32
_ROWS = 2048  # of a chunk: its distances to 256 centres take 2 MB
_MOST_ITERATIONS = 100
_LEAST_GAIN = 1e-4  # share of the error that an iteration must win, else it is the last
_MOST_BOUNDED_ITERATIONS = 10  # each solves an assignment problem


def nearest_rows(points: Tensor, centres: Tensor) -> Tensor:
    """Index of the centre nearest to each point: (N, D), (K, D) float32 -> (N,) int64.

    Of equally near ones the first.
    """
    # ||x||^2 is the same for every centre: left out, it cannot round small differences away either.
    norms, transposed = centres.square().sum(dim=1), centres.T
    parts = [_lowest(torch.addmm(norms, part, transposed, alpha=-2.0)) for part in points.split(_ROWS)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _lowest(distances: Tensor) -> Tensor:
    """Index (B,) of the lowest distance in each row of (B, K), the first of equal ones."""
    if distances.device.type == "cpu" and not distances.requires_grad:
        return torch.from_numpy(distances.numpy().argmin(axis=1))  # several times as fast as torch's
    return distances.argmin(dim=1)


@torch.autocast("cpu", enabled=False)
def kmeans_centres(points: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Centres of k-means on at most 256 points a centre, drawn by the generator; in float32, always.

    (N, D) -> (K, D) float32. Fewer different points than centres: each is one, the spare ones lie nearby.
    """
    if len(points) > size * POINTS_PER_CENTRE:
        points = points[np.sort(generator.choice(len(points), size * POINTS_PER_CENTRE, replace=False))]
    distinct = points[different_rows(points, size + 1)]
    if len(distinct) <= size:
        spare = generator.choice(len(distinct), size - len(distinct))
        noise = generator.normal(0, 0.01 * points.std() + 1e-6, (len(spare), points.shape[1]))
        return np.concatenate([distinct, distinct[spare] + noise]).astype(np.float32)
    x = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
    # About their mean, where the products of near points lose no digits.
    mean = x.mean(dim=0)
    x = x - mean
    centres, last = _spread_out(x, size, generator), np.inf
    for _ in range(_MOST_ITERATIONS):
        nearest = nearest_rows(x, centres)
        distances = (x - centres[nearest]).square().sum(dim=1)
        counts = torch.bincount(nearest, minlength=size)
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = sums / counts.clamp(min=1)[:, None]
        if (empty := torch.nonzero(counts == 0).flatten()).numel():
            # A centre without points goes where the error is largest.
            centres[empty] = x[distances.topk(len(empty)).indices]
            last = np.inf
            continue
        error = float(distances.double().sum())
        if last - error <= _LEAST_GAIN * error:
            break
        last = error
    return (centres + mean).numpy()


def _spread_out(x: Tensor, size: int, generator: np.random.Generator) -> Tensor:
    """K points of (N, D) by greedy k-means++ (Arthur and Vassilvitskii 2007): each the best of some draws.

    A point is drawn with its squared distance to the nearest point before it; of 2 + log(K) draws the one is
    taken that leaves the smallest sum of squared distances.
    """
    some = min(len(x), size * _START_POINTS_PER_CENTRE)
    points = x[torch.from_numpy(np.sort(generator.choice(len(x), some, replace=False)))]
    squares = points.square().sum(dim=1)
    chosen = [int(generator.integers(some))]
    distances = _squared_distances(points, squares, chosen)[0]
    for draws in torch.from_numpy(generator.random((size - 1, 2 + int(np.log(size))))):
        shares = distances.double().cumsum(0)
        drawn = torch.searchsorted(shares, draws * shares[-1], right=True).clamp(max=some - 1)
        left = torch.minimum(distances, _squared_distances(points, squares, drawn.tolist()))
        best = int(left.sum(dim=1).argmin())
        chosen.append(int(drawn[best]))
        distances = left[best]
    return points[chosen]


def _squared_distances(points: Tensor, squares: Tensor, chosen: list[int]) -> Tensor:
    """Squared distances (C, N) of points (N, D), of the given squared norms (N,), to C of themselves."""
    return (
        torch.addmm(squares, points[chosen], points.T, alpha=-2.0).add_(squares[chosen, None]).clamp_(min=0)
    )


def different_rows(points: np.ndarray, limit: int) -> list[int]:
    """Indices of the first `limit` rows that differ from all before them, or of all such rows."""
    seen: dict[bytes, int] = {}
    for index, row in enumerate(points):
        seen.setdefault((row + 0.0).tobytes(), index)  # + 0.0 makes -0.0 the same as 0.0
        if len(seen) == limit:
            break
    return list(seen.values())


def constrained_clusters(
    points: np.ndarray, clusters: int, least: int, most: int, generator: np.random.Generator
) -> np.ndarray:
    """Labels (N,) of C clusters of `least` to `most` points each, from (N, d).

    Each iteration takes the mean of a cluster's points as its centre, then assigns all points at the least
    total squared distance that the sizes allow, until nothing changes, at most 10 times. Raises ValueError
    where no such sizes add up to N.
    """
    count = len(points)
    if clusters < 1 or not clusters * least <= count <= clusters * most or least < 0:
        raise ValueError(
            f"{clusters} clusters of {least} to {most} points cannot hold {count} points; expected "
            f"clusters * least <= {count} <= clusters * most"
        )
    centres = _spread_points(points, clusters, generator)
    labels = np.full(count, -1)
    for _ in range(_MOST_BOUNDED_ITERATIONS):
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
