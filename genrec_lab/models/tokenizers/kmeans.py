"""K-means, plain or with bounds on the cluster sizes (Bradley, Bennett and Demiriz 2000).

The plain one uses k-means++ and Lloyd's iterations, in chunks that fit in the processor's cache.
Shapes: N points, K centres or C clusters, D or d dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# More points per centre cost time and hardly change the centres.
POINTS_PER_CENTRE = 256
# k-means++ uses only this many points per centre; Lloyd's iterations correct the rest.
_START_POINTS_PER_CENTRE = 32
_ROWS = 2048  # per chunk; its distances to 256 centres take 2 MB
_MOST_ITERATIONS = 100
_LEAST_GAIN = 1e-4  # relative improvement below which the iterations stop
_MOST_BOUNDED_ITERATIONS = 10  # each solves an assignment problem


def nearest_rows(points: Tensor, centres: Tensor) -> Tensor:
    """Return the index of the nearest centre of each point: (N, D), (K, D) float32 -> (N,) int64.

    Ties go to the lowest index.
    """
    # ||x||^2 is the same for every centre; without it, small differences are not lost to rounding.
    norms, transposed = centres.square().sum(dim=1), centres.T
    parts = [_lowest(torch.addmm(norms, part, transposed, alpha=-2.0)) for part in points.split(_ROWS)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _lowest(distances: Tensor) -> Tensor:
    """Return the index (B,) of the lowest distance in each row of (B, K); ties go to the lowest index."""
    if distances.device.type == "cpu" and not distances.requires_grad:
        return torch.from_numpy(distances.numpy().argmin(axis=1))  # several times as fast as torch's
    return distances.argmin(dim=1)


@torch.autocast("cpu", enabled=False)
def kmeans_centres(points: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Run k-means, always in float32, on at most 256 points per centre drawn by the generator.

    (N, D) -> (K, D) float32. With fewer different points than centres, each point is a centre and the spare
    centres lie near them.
    """
    if len(points) > size * POINTS_PER_CENTRE:
        points = points[np.sort(generator.choice(len(points), size * POINTS_PER_CENTRE, replace=False))]
    distinct = points[different_rows(points, size + 1)]
    if len(distinct) <= size:
        spare = generator.choice(len(distinct), size - len(distinct))
        noise = generator.normal(0, 0.01 * points.std() + 1e-6, (len(spare), points.shape[1]))
        return np.concatenate([distinct, distinct[spare] + noise]).astype(np.float32)
    x = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
    # Centred, so that products of nearby points keep their digits.
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
            # Move a centre without points to where the error is largest.
            centres[empty] = x[distances.topk(len(empty)).indices]
            last = np.inf
            continue
        error = float(distances.double().sum())
        if last - error <= _LEAST_GAIN * error:
            break
        last = error
    return (centres + mean).numpy()


def _spread_out(x: Tensor, size: int, generator: np.random.Generator) -> Tensor:
    """Choose K points of (N, D) by greedy k-means++ (Arthur and Vassilvitskii 2007).

    For each point, 2 + log(K) candidates are drawn with probabilities proportional to the squared distance to
    the nearest chosen point; the one that leaves the smallest sum of squared distances is chosen.
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
    """Return squared distances (C, N) from C chosen points to all points (N, D) with squared norms (N,)."""
    return (
        torch.addmm(squares, points[chosen], points.T, alpha=-2.0).add_(squares[chosen, None]).clamp_(min=0)
    )


def different_rows(points: np.ndarray, limit: int) -> list[int]:
    """Return the indices of the first `limit` rows that differ from all rows before them."""
    seen: dict[bytes, int] = {}
    for index, row in enumerate(points):
        seen.setdefault((row + 0.0).tobytes(), index)  # + 0.0 makes -0.0 the same as 0.0
        if len(seen) == limit:
            break
    return list(seen.values())


def constrained_clusters(
    points: np.ndarray, clusters: int, least: int, most: int, generator: np.random.Generator
) -> np.ndarray:
    """Cluster points (N, d) into C clusters of `least` to `most` points each; return labels (N,).

    Each iteration sets a cluster's centre to the mean of its points, then assigns all points with the
    smallest total squared distance that the sizes allow. It ends when nothing changes or after 10 iterations.
    Raises ValueError if such sizes cannot add up to N.
    """
    from scipy.spatial.distance import cdist  # slow to import

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
    """Assign each point (row) to a cluster (column) at the lowest total cost, (N, C) -> (N,).

    Each cluster gets `least` to `most` points. It is represented by `most` slots, of which the first `least`
    are mandatory: they are so cheap that the best assignment always uses all of them.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    count, clusters = costs.shape
    most = min(most, count)
    # One more mandatory slot outweighs any loss that it can cause for all points together.
    bonus = (costs.max() - costs.min() + 1) * (count + 1)
    places = np.repeat(costs, most, axis=1)
    mandatory = np.tile(np.arange(most) < least, clusters)
    _, taken = linear_sum_assignment(places - bonus * mandatory)
    labels: np.ndarray = taken // most
    return labels


def _spread_points(points: np.ndarray, clusters: int, generator: np.random.Generator) -> np.ndarray:
    """Choose points by k-means++: with probabilities proportional to the squared distance to those chosen."""
    from scipy.spatial.distance import cdist  # slow to import

    chosen = [int(generator.integers(len(points)))]
    for _ in range(clusters - 1):
        distances = cdist(points, points[chosen], "sqeuclidean").min(axis=1)
        total = float(distances.sum())
        weights = distances / total if total > 0 else None  # all points equal: any of them
        chosen.append(int(generator.choice(len(points), p=weights)))
    return points[chosen].astype(np.float64)
