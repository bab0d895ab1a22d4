"""Two-dimensional maps of residuals by t-SNE and UMAP: seeded, from a stratified sample, and saved to disk.

Shapes: N items of the catalogue, n of them in the sample, L levels, d dimensions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from genrec_lab.data.whole_files import HeadedTable
from genrec_lab.viz import Float32Array, FloatArray, IntArray
from genrec_lab.viz.layout import MAX_POINTS, domains_of

Method = Literal["tsne", "umap"]

_FILE = HeadedTable("projection", "genrec_lab.projection.1", "a projection", "Projection.write")
# The authors of t-SNE first reduce vectors of more than 50 dimensions by principal components.
_MOST_DIMENSIONS = 50
_PERPLEXITY = 30.0
_NEIGHBOURS = 15
_MIN_DISTANCE = 0.1


@dataclass(frozen=True, eq=False)
class Projection:
    """The map of a sample of items at every level.

    coordinates: (n, L, 2) float32, each level scaled to unit mean square distance from its centre.
    items: (n,) int64, the items' indices in the catalogue, ascending. method: "tsne" or "umap".
    seed: seed of the sample and of the map. n_items: N, the size of the catalogue.
    """

    coordinates: Float32Array
    items: IntArray
    method: str
    seed: int
    n_items: int

    def write(self, file: str | Path) -> Path:
        """Write a parquet file with `item` and `x_0`, `y_0`, `x_1`, … by level; the rest is metadata."""
        levels = self.coordinates.shape[1]
        columns = dict(zip(_names(levels), self.coordinates.reshape(len(self.items), -1).T, strict=True))
        header = {"levels": levels, "method": self.method, "seed": self.seed, "n_items": self.n_items}
        return _FILE.write(file, pl.DataFrame({"item": self.items} | columns), header)

    @classmethod
    def read(cls, file: str | Path) -> Self:
        """Read a file that `write` wrote; raises ValueError if it is missing or is not a projection."""
        frame, header = _FILE.read(file)
        points = frame.select(_names(header["levels"])).to_numpy().astype(np.float32)
        coordinates = points.reshape(frame.height, header["levels"], 2)
        rest = (header[name] for name in ("method", "seed", "n_items"))
        return cls(coordinates, frame["item"].to_numpy(), *rest)


def _names(levels: int) -> list[str]:
    return [name for level in range(levels) for name in (f"x_{level}", f"y_{level}")]


def stratified_sample(strata: Sequence[object] | ArrayLike, size: int, seed: int) -> IntArray:
    """Draw `size` of N indices without replacement so that each stratum keeps its share; (size,) ascending.

    strata: (N,) names. If `size` allows it, each stratum gets at least one draw. If N <= size, all indices
    are returned. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size: {size}, expected at least 1")
    _, groups = domains_of(strata)
    total = groups.size
    if total <= size:
        return np.arange(total, dtype=np.int64)
    generator, parts = np.random.default_rng(seed), []
    for stratum, quota in enumerate(_quotas(np.bincount(groups), size).tolist()):
        parts.append(generator.choice(np.flatnonzero(groups == stratum), quota, replace=False))
    return np.sort(np.concatenate(parts)).astype(np.int64)


def project_residuals(
    residuals: ArrayLike,
    domains: Sequence[object] | ArrayLike,
    *,
    method: Method = "tsne",
    size: int = 5_000,
    seed: int = 0,
    cache: Path | None = None,
) -> Projection:
    """Map the residuals of a sample of items, stratified by domain, with the same items at each level.

    residuals: (N, L, d), the input of each level's quantisation. domains: (N,). size: of the sample, at most
    20,000; for 5,000 items, t-SNE takes about 25 s a level on one core. cache: a folder from which a map of
    the same residuals, sample and method is read. Raises ValueError for shapes that do not match, NaN, an
    unknown method, fewer than 3 items or a size out of range.
    """
    vectors = np.asarray(residuals, dtype=np.float32)
    if vectors.ndim != 3 or min(vectors.shape) == 0:
        raise ValueError(f"residuals: shape {vectors.shape}, expected (items, levels, dimensions), none 0")
    if len(vectors) < 3:
        raise ValueError(f"residuals: {len(vectors)} items; a map needs at least 3")
    if method not in get_args(Method):
        raise ValueError(f"method: {method!r}, expected one of {list(get_args(Method))}")
    if not 3 <= size <= MAX_POINTS:
        raise ValueError(f"size: {size}, expected 3 to {MAX_POINTS:,} items")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=(1, 2)))
    if bad.size:
        raise ValueError(f"residuals: item {bad[0]} has a NaN or an infinite value; {bad.size} items do")
    domains_of(domains, expected=len(vectors))
    items = stratified_sample(domains, size, seed)
    sample = np.ascontiguousarray(vectors[items])
    choices = [method, seed, len(vectors), _PERPLEXITY, _NEIGHBOURS, _MIN_DISTANCE, sample.shape]
    header = json.dumps([_FILE.format, *choices]).encode()
    digest = hashlib.sha256(header + sample.tobytes() + items.tobytes()).hexdigest()[:16]
    file = None if cache is None else cache / f"{method}_{digest}.parquet"
    if file is not None and file.is_file():
        return Projection.read(file)
    maps = [_project(sample[:, level], method, seed) for level in range(sample.shape[1])]
    made = Projection(np.stack(maps, axis=1), items, method, seed, len(vectors))
    if file is not None:
        made.write(file)
    return made


def _quotas(counts: IntArray, size: int) -> IntArray:
    exact = counts * (size / counts.sum())
    quota = np.floor(exact).astype(np.int64)
    if size >= len(counts):
        quota = np.maximum(quota, 1)
    while quota.sum() < size:
        quota[int(np.argmax(np.where(quota < counts, exact - quota, -np.inf)))] += 1
    while quota.sum() > size:
        quota[int(np.argmax(np.where(quota > 1, quota - exact, -np.inf)))] -= 1
    return quota


def _project(vectors: Float32Array, method: Method, seed: int) -> Float32Array:
    """Map (n, d) to (n, 2), centred and of unit mean square radius."""
    if min(vectors.shape) > _MOST_DIMENSIONS:
        from sklearn.decomposition import PCA

        vectors = PCA(_MOST_DIMENSIONS, svd_solver="randomized", random_state=seed).fit_transform(vectors)
    if not (vectors.std(axis=0) > 0).any():
        # All residuals are equal, so the methods would divide by zero.
        return np.zeros((len(vectors), 2), dtype=np.float32)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
        start = "pca" if vectors.shape[1] >= 2 else "random"
        flat = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(vectors)
    else:
        flat = _umap(vectors, seed)
    flat = flat - flat.mean(axis=0)
    radius = float(np.sqrt((flat**2).sum(axis=1).mean()))
    return (flat / (radius or 1.0)).astype(np.float32)


def _umap(vectors: Float32Array, seed: int) -> FloatArray:
    # Imported here because it takes several seconds, which t-SNE does not need.
    from umap import UMAP

    _keep_compiled()
    neighbours = min(_NEIGHBOURS, len(vectors) - 1)
    # Spectral initialisation needs more points than eigenvectors.
    start = "spectral" if len(vectors) > 2 * neighbours else "random"
    shape = {"n_neighbors": neighbours, "min_dist": _MIN_DISTANCE, "n_components": 2}
    mapper = UMAP(**shape, init=start, random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        # UMAP warns about how it initialises a disconnected neighbour graph; the warning is harmless.
        warnings.filterwarnings("ignore", module="umap")
        return np.asarray(mapper.fit_transform(vectors))


def _keep_compiled() -> None:
    """Make numba keep what it compiles of UMAP, which takes it half a minute or more in every process."""
    for name, module in list(sys.modules.items()):
        # What numba cannot keep, in pynndescent_, it would warn about.
        if name.startswith(("umap.", "pynndescent.")) and name != "pynndescent.pynndescent_":
            for function in vars(module).values():
                if hasattr(function, "enable_caching"):
                    with contextlib.suppress(RuntimeError):  # there is no folder to write to
                        function.enable_caching()
