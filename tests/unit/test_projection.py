"""Maps of residuals: a stratified, seeded sample; repeatable maps, saved; bad input is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.viz.figures import map_purity
from genrec_lab.viz.projection import Projection, project_residuals, stratified_sample

Strata = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def residuals_of_two_domains(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Level 1 holds two far clouds, level 2 one cloud, level 3 nothing."""
    generator = np.random.default_rng(0)
    domain = np.repeat([0, 1], n // 2)
    apart = generator.normal(size=(n, 8)) + 50 * domain[:, None]
    mixed = generator.normal(size=(n, 8))
    return np.stack([apart, mixed, np.ones((n, 8))], axis=1), domain


@given(Strata, st.integers(1, 200), st.integers(0, 3))
def test_sample_is_stratified_distinct_sorted_and_seeded(counts: list[int], size: int, seed: int) -> None:
    strata = np.random.default_rng(7).permutation(np.repeat(np.arange(len(counts)), counts))
    sample = stratified_sample(strata, size, seed)
    total = sum(counts)
    assert len(sample) == min(size, total)
    assert (np.diff(sample) > 0).all()
    assert np.array_equal(sample, stratified_sample(strata, size, seed))
    found = Counter(strata[sample].tolist())
    if size >= len(counts):
        # A place for each stratum first; beyond it nobody is further than that from the exact share.
        assert set(found) == set(range(len(counts)))
        for stratum, count in enumerate(counts):
            exact = count * min(1, size / total)
            assert exact - len(counts) <= found[stratum] <= max(exact + 1, 1)


def test_large_strata_keep_their_shares() -> None:
    strata = np.repeat(["Garden", "Kitchen", "Studio"], [70_000, 29_900, 100])
    sample = stratified_sample(strata, 20_000, seed=1)
    assert Counter(strata[sample].tolist()) == {"Garden": 14_000, "Kitchen": 5_980, "Studio": 20}
    assert not np.array_equal(sample, stratified_sample(strata, 20_000, seed=2))


def test_sample_of_everything_is_everything() -> None:
    assert stratified_sample(["a", "b", "a"], 5, seed=0).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 1"):
        stratified_sample(["a"], 0, seed=0)


def test_tsne_map_is_repeatable_and_keeps_clouds_apart() -> None:
    residuals, domain = residuals_of_two_domains()
    made = project_residuals(residuals, domain, seed=3)
    again = project_residuals(residuals, domain, seed=3)
    assert made.coordinates.shape == (60, 3, 2)
    assert np.array_equal(made.coordinates, again.coordinates)
    assert map_purity(made.coordinates[:, 0], domain) == 1.0
    assert map_purity(made.coordinates[:, 1], domain) < 0.75
    # Every level has the same scale, whatever the method's own; a level of equal vectors stays one point.
    radii = np.sqrt((made.coordinates**2).sum(axis=2).mean(axis=0))
    assert radii == pytest.approx([1, 1, 0], abs=1e-5)


@pytest.mark.slow
@pytest.mark.nightly
def test_umap_map_is_repeatable_and_keeps_clouds_apart() -> None:
    residuals, domain = residuals_of_two_domains()
    made = project_residuals(residuals, domain, method="umap", seed=3)
    assert np.array_equal(
        made.coordinates, project_residuals(residuals, domain, method="umap", seed=3).coordinates
    )
    assert map_purity(made.coordinates[:, 0], domain) == 1.0
    # What numba has compiled is kept for the next process.
    from umap.umap_ import smooth_knn_dist

    assert smooth_knn_dist.stats.cache_path
    assert list(Path(smooth_knn_dist.stats.cache_path).glob("umap_.smooth_knn_dist*.nbi"))


def test_sample_is_the_same_items_at_each_level() -> None:
    residuals, domain = residuals_of_two_domains(200)
    made = project_residuals(residuals, domain, size=30, seed=5)
    assert made.items.tolist() == stratified_sample(domain, 30, 5).tolist()
    assert Counter(domain[made.items].tolist()) == {0: 15, 1: 15}
    assert made.n_items == 200


def test_projection_round_trip(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    made = Projection(
        generator.normal(size=(7, 3, 2)).astype(np.float32), np.arange(7, dtype=np.int64) * 2, "umap", 11, 99
    )
    read = Projection.read(made.write(tmp_path / "maps" / "map.parquet"))
    assert np.array_equal(read.coordinates, made.coordinates)
    assert np.array_equal(read.items, made.items)
    assert (read.method, read.seed, read.n_items) == ("umap", 11, 99)


def test_cache_is_read_for_the_same_input_only(tmp_path: Path) -> None:
    residuals, domain = residuals_of_two_domains(20)
    made = project_residuals(residuals, domain, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    # A changed file shows whether it is read.
    Projection(made.coordinates + 1, made.items, made.method, made.seed, made.n_items).write(file)
    cached = project_residuals(residuals, domain, cache=tmp_path)
    assert np.array_equal(cached.coordinates, made.coordinates + 1)
    project_residuals(residuals + 0.5, domain, cache=tmp_path)
    project_residuals(residuals, domain, seed=1, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_something_else_in_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        Projection.read(tmp_path / "absent.parquet")
    other = tmp_path / "other.parquet"
    other.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="not a file of a projection"):
        Projection.read(other)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "pca"}, "'tsne', 'umap'"),
        ({"size": 20_001}, "20,000"),
        ({"size": 2}, "3 to"),
        ({"residuals": np.zeros((5, 4))}, "expected \\(items, levels, dimensions\\)"),
        ({"residuals": np.zeros((2, 1, 4))}, "at least 3"),
        ({"residuals": np.where(np.eye(60)[:, :1, None], np.nan, np.zeros((60, 3, 8)))}, "item 0 has a NaN"),
        ({"domains": [0, 1]}, "2 values for 60 items"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    residuals, domain = residuals_of_two_domains()
    arguments: dict[str, object] = {"residuals": residuals, "domains": domain} | change
    with pytest.raises(ValueError, match=message):
        project_residuals(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("dimensions", [1, 2, 60])
def test_few_items_and_any_dimension_can_be_mapped(dimensions: int) -> None:
    residuals = np.random.default_rng(0).normal(size=(5, 1, dimensions))
    assert np.isfinite(project_residuals(residuals, ["a"] * 5).coordinates).all()
