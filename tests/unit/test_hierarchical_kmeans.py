"""Hierarchical k-means: the tree behind the codes, and conflicts settled among the clusters of a prefix."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from genrec_lab.codes import CONFLICT_POLICIES, CodesError, ItemCodes, PrefixCodewords
from genrec_lab.models.tokenizers.hierarchical_kmeans import HierarchicalKMeans, HierarchicalKMeansConfig

CONFIG = HierarchicalKMeansConfig(levels=3, codebook_size=4)


def vectors(items: int = 200, dimensions: int = 6, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = 4 * generator.normal(size=(9, dimensions))
    return (centres[generator.integers(9, size=items)] + generator.normal(size=(items, dimensions))).astype(
        np.float32
    )


def prefixes(codes: np.ndarray, length: int) -> dict[tuple[int, ...], np.ndarray]:
    found: dict[tuple[int, ...], list[int]] = {}
    for item, row in enumerate(codes.tolist()):
        found.setdefault(tuple(row[:length]), []).append(item)
    return {prefix: np.array(items) for prefix, items in found.items()}


def test_an_item_goes_to_the_nearest_centre_below_its_prefix_and_to_no_other() -> None:
    """Every level by brute force: centres are the means of their items, an item is nearest to its own."""
    x = vectors()
    codes = HierarchicalKMeans(CONFIG).fit(x, seed=0).tokenize(x).codes
    for length in range(3):
        for prefix, items in prefixes(codes, length).items():
            below = {code: items[codes[items, length] == code] for code in np.unique(codes[items, length])}
            centres = {code: x[own].astype(np.float64).mean(axis=0) for code, own in below.items()}
            for item in items:
                distances = {code: np.linalg.norm(x[item] - centre) for code, centre in centres.items()}
                own = distances[int(codes[item, length])]
                assert own <= min(distances.values()) + 1e-3, (prefix, item)


def test_items_that_share_a_prefix_are_nearer_to_each_other_than_to_the_rest() -> None:
    x = vectors()
    codes = HierarchicalKMeans(CONFIG).fit(x, seed=0).tokenize(x).codes
    spread = [
        np.mean([np.square(x[items] - x[items].mean(axis=0)).sum() for items in parts.values()])
        * len(parts) / len(x)
        for parts in (prefixes(codes, length) for length in range(4))
    ]  # fmt: skip
    assert all(later < 0.8 * earlier for earlier, later in pairwise(spread))


def test_residuals_are_what_the_centres_before_leave_over() -> None:
    x = vectors()
    model = HierarchicalKMeans(CONFIG).fit(x, seed=0)
    tokenized = model.tokenize(x)
    left = x.copy()
    for number, level in enumerate(model.steps):
        np.testing.assert_allclose(tokenized.residuals[:, number], left, atol=1e-5)
        left = left - level.of(tokenized.codes[:, : number + 1])
    np.testing.assert_allclose(tokenized.vectors, x - left, atol=1e-5)
    assert tokenized.loss == pytest.approx(np.square(left).sum(axis=1).mean(), rel=1e-4)


def test_a_small_cluster_has_one_below_it_for_each_vector() -> None:
    x = np.repeat(vectors(12), 2, axis=0)  # twelve vectors, each of two items
    model = HierarchicalKMeans(CONFIG).fit(x, seed=0)
    tokenized = model.tokenize(x)
    assert tokenized.loss == pytest.approx(0, abs=1e-8)
    assert len(np.unique(tokenized.codes, axis=0)) == 12
    np.testing.assert_array_equal(tokenized.codes[::2], tokenized.codes[1::2])


def test_the_seed_decides_and_a_saved_tree_is_read_back(tmp_path: Path) -> None:
    x = vectors()
    model = HierarchicalKMeans(CONFIG).fit(x, seed=1)
    model.save(tmp_path)
    for again in (HierarchicalKMeans.load(tmp_path), HierarchicalKMeans(CONFIG).fit(x, seed=1)):
        for one, other in zip(again.tokenize(x), model.tokenize(x), strict=True):
            np.testing.assert_array_equal(one, other)
    other_seed = HierarchicalKMeans(CONFIG).fit(x, seed=2).tokenize(x)
    assert not np.array_equal(other_seed.codes, model.tokenize(x).codes)


def test_vectors_that_it_has_not_seen_go_down_the_same_tree() -> None:
    x = vectors()
    model = HierarchicalKMeans(CONFIG).fit(x, seed=0)
    near = model.tokenize(x + np.float32(1e-4)).codes
    assert (near == model.tokenize(x).codes).mean() > 0.98
    known = {tuple(row) for row in model.codebooks.paths.tolist()}
    assert {tuple(row) for row in model.tokenize(vectors(50, seed=9)).codes.tolist()} <= known


def test_what_cannot_be_clustered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"codebook_size = 4 is larger than the catalogue.*at most 3"):
        HierarchicalKMeans(CONFIG).fit(vectors(3), seed=0)
    broken = vectors()
    broken[5, 0] = np.nan
    with pytest.raises(ValueError, match="first for item 5"):
        HierarchicalKMeans(CONFIG).fit(broken, seed=0)
    model = HierarchicalKMeans(CONFIG).fit(vectors(), seed=0)
    with pytest.raises(ValueError, match="have 5 dimensions, but this tokenizer was fitted on 6"):
        model.tokenize(vectors()[:, :5])


# --- conflicts where codewords differ from prefix to prefix


def crowded() -> tuple[ItemCodes, np.ndarray, PrefixCodewords]:
    """Four items that share an identifier under one prefix, one item under another with other codewords."""
    codes = ItemCodes([[0, 1], [0, 1], [0, 1], [1, 1]], (2, 4))
    residuals = np.array([[0.4, 0.2], [1.0, 0.0], [2.2, 0.1], [0.0, -3.0]])
    paths = np.array([[0, 0], [0, 1], [0, 2], [1, 1]])
    words = np.array([[9.0, 9.0], [1.0, 0.0], [2.0, 0.0], [0.0, -3.0]])
    return codes, residuals, PrefixCodewords(paths, words, 4)


def test_items_move_to_the_nearest_free_codeword_of_their_own_prefix() -> None:
    """By hand: item 1 lies on its codeword and keeps it; code 3 has no centre and stands at the origin."""
    codes, residuals, books = crowded()
    found = codes.resolve_with_cost("nearest_free", residuals, books)
    np.testing.assert_array_equal(found.codes.codes, [[0, 3], [0, 1], [0, 2], [1, 1]])
    to_origin = np.hypot(0.4, 0.2) - np.hypot(0.6, 0.2)
    to_two = np.hypot(0.2, 0.1) - np.hypot(1.2, 0.1)
    assert (found.moved, found.cost) == (2, pytest.approx(to_origin + to_two))


@pytest.mark.parametrize("policy", [policy for policy in CONFLICT_POLICIES if policy != "none"])
def test_every_policy_separates_the_items_of_a_tree(policy: str) -> None:
    x = np.repeat(vectors(60), 3, axis=0) + np.float32(1e-3) * vectors(180)
    config = HierarchicalKMeansConfig(levels=2, codebook_size=16)
    model = HierarchicalKMeans(config).fit(x, seed=0)
    tokenized = model.tokenize(x)
    raw = ItemCodes(tokenized.codes, (16, 16))
    assert raw.collision_rate() > 0.05  # else there is nothing to separate
    found = raw.resolve_with_cost(policy, tokenized.residuals, model.codebooks)
    assert found.codes.unique
    moved = (found.codes.codes[:, :2] != raw.codes).any(axis=1)
    assert found.moved == moved.sum()
    assert (found.codes.codes[moved][:, 0] == raw.codes[moved][:, 0]).all() or found.displaced


def test_prefix_codewords_that_do_not_fit_are_refused() -> None:
    codes, residuals, books = crowded()
    with pytest.raises(CodesError, match=r"last level is \(4, 2\), expected \(4, 3\)"):
        codes.resolve("nearest_free", np.zeros((4, 3)), books)
    with pytest.raises(CodesError, match="last codes 0 to 2, expected 0 to 1"):
        PrefixCodewords(books.paths, books.vectors, 2)
    with pytest.raises(CodesError, match=r"expected \(identifiers, levels\)"):
        PrefixCodewords(books.paths, books.vectors[:2], 4)
    two = ItemCodes(codes.codes, codes.sizes, ["a", "a", "b", "b"])
    with pytest.raises(CodesError, match="some domains have codewords of each prefix, others not"):
        two.resolve("nearest_free", residuals, {"a": books, "b": np.zeros((4, 2))})
