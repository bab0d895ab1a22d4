"""Residual quantisation and residual k-means against brute force and hand-worked clusters."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.models.tokenizers.quantizers import ResidualQuantizer, nearest_codes, residual_kmeans
from genrec_lab.models.tokenizers.residual_kmeans import ResidualKMeans, ResidualKMeansConfig

seeds = st.integers(0, 2**32 - 1)


def brute_force_codes(x: np.ndarray, codebooks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and residuals by measuring every distance in float64."""
    residual, codes, residuals = x.astype(np.float64), [], []
    for codebook in codebooks.astype(np.float64):
        distance = np.linalg.norm(residual[:, None] - codebook[None], axis=2)
        codes.append(distance.argmin(axis=1))
        residuals.append(residual)
        residual = residual - codebook[codes[-1]]
    return np.stack(codes, axis=1), np.stack(residuals, axis=1)


def test_nearest_code_is_not_blurred_by_autocast() -> None:
    # 1.001 and 1.002 are the same number in bfloat16
    codebook, residual = torch.tensor([[1.001], [1.002]]), torch.tensor([[1.0021]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nearest_codes(residual, codebook).tolist() == [1]
        quantizer = ResidualQuantizer(1, 2, 1)
        quantizer.codebooks.data = codebook[None]
        quantized = quantizer(residual)
    assert quantized.codes.tolist() == [[1]]
    assert quantized.vectors.dtype == torch.float32


def test_nearest_code_ties_go_to_the_lowest_index() -> None:
    assert nearest_codes(torch.zeros(1, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])).tolist() == [
        0
    ]


def test_residual_kmeans_finds_planted_clusters_level_by_level() -> None:
    """Items at 4 far centres plus one of 3 near offsets: level 1 is the centre, level 2 the offset."""
    centres = np.array([[100, 0], [-100, 0], [0, 100], [0, -100]], dtype=np.float32)
    offsets = np.array([[1, 0], [-1, 1], [0, -1]], dtype=np.float32)
    centre, offset = (part.ravel() for part in np.meshgrid(np.arange(4), np.arange(3)))
    x = np.repeat(centres[centre] + offsets[offset], 5, axis=0)
    centre, offset = np.repeat(centre, 5), np.repeat(offset, 5)
    codebooks, codes, residuals = residual_kmeans(x, 2, 4, seed=0)
    assert codebooks.shape == (2, 4, 2) and codes.shape == (60, 2) and residuals.shape == (60, 2, 2)
    for planted, level in ((centre, 0), (offset, 1)):
        pairs = set(zip(planted.tolist(), codes[:, level].tolist(), strict=True))
        assert len(pairs) == len(set(planted.tolist()))  # one code a planted group, one group a code
    left = residuals[:, 1] - codebooks[1][codes[:, 1]]
    assert np.abs(left).max() < 1e-4


@given(seed=seeds, size=st.integers(1, 8), levels=st.integers(1, 3))
def test_residual_kmeans_codes_are_nearest_and_residuals_add_up(seed: int, size: int, levels: int) -> None:
    x = np.random.default_rng(seed).normal(size=(40, 3)).astype(np.float32)
    codebooks, codes, residuals = residual_kmeans(x, levels, size, seed=1)
    expected_codes, expected_residuals = brute_force_codes(x, codebooks)
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_allclose(residuals, expected_residuals, atol=1e-5)
    left = [np.square(residuals[:, level], dtype=np.float64).sum() for level in range(levels)]
    # With one code a level nothing is left for the second level, and equal sums differ by float32 rounding.
    rounding = 1 + np.finfo(np.float32).eps
    assert all(later <= earlier * rounding for earlier, later in itertools.pairwise(left))


def test_residual_kmeans_is_the_same_for_the_same_seed_only() -> None:
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    first, again, other = (residual_kmeans(x, 2, 16, seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_codes_than_different_items_is_refused_with_the_key_and_the_maximum() -> None:
    x = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 3.0], [2.0, 3.0]], dtype=np.float32)
    with pytest.raises(ValueError, match=r"tokenizer\.codebook_size = 3 .* at most 2 codes among 4 items"):
        residual_kmeans(x, 1, 3, seed=0)
    codebooks, codes, _ = residual_kmeans(x, 1, 2, seed=0)
    assert codes[:, 0].tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    assert {tuple(row) for row in codebooks[0].tolist()} == {(0.0, 1.0), (2.0, 3.0)}


def test_deeper_levels_may_run_out_of_different_residuals() -> None:
    """Four items, four codes: level 1 leaves nothing over, so level 2 has one residual for its four codes."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    codebooks, codes, residuals = residual_kmeans(x, 2, 4, seed=0)
    assert sorted(codes[:, 0]) == [0, 1, 2, 3] and len(set(codes[:, 1])) == 1
    assert np.isfinite(codebooks).all()
    assert np.abs(residuals[:, 1] - codebooks[1][codes[:, 1]]).max() < 1e-5


def test_a_single_item() -> None:
    codebooks, codes, residuals = residual_kmeans(np.array([[3.0, 4.0]], dtype=np.float32), 3, 1, seed=0)
    assert codes.tolist() == [[0, 0, 0]]
    assert codebooks[0].tolist() == [[3.0, 4.0]] and residuals[0, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_names_the_first_item(value: float) -> None:
    x = np.ones((5, 2), dtype=np.float32)
    x[3, 1] = x[4, 0] = value
    with pytest.raises(ValueError, match=r"2 of 5 items .* item 3"):
        residual_kmeans(x, 1, 1, seed=0)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_vectors_of_an_impossible_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="content vectors have shape"):
        residual_kmeans(np.zeros(shape, dtype=np.float32), 1, 1, seed=0)


def test_large_catalogues_are_fitted_on_a_sample_and_coded_whole() -> None:
    x = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    codebooks, codes, _ = residual_kmeans(x, 1, 2, seed=0)  # 2 codes: 512 of the 2,000 vectors are looked at
    assert len(codes) == 2000
    np.testing.assert_array_equal(codes, brute_force_codes(x, codebooks)[0])
    assert not np.allclose(codebooks[0], residual_kmeans(x[:512], 1, 2, seed=0)[0][0])


class TestResidualKMeansTokenizer:
    def test_tokenizes_other_items_in_chunks_as_brute_force_does(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generator = np.random.default_rng(5)
        x, new = generator.normal(size=(200, 4)).astype(np.float32), generator.normal(size=(50, 4))
        model = ResidualKMeans(ResidualKMeansConfig(levels=3, codebook_size=8)).fit(x)
        monkeypatch.setattr("genrec_lab.models.tokenizers.residual_kmeans._AT_ONCE", 7)
        tokens = model.tokenize(new)
        codes, residuals = brute_force_codes(new.astype(np.float32), model.codebooks)
        np.testing.assert_array_equal(tokens.codes, codes)
        np.testing.assert_allclose(tokens.residuals, residuals, atol=1e-5)
        np.testing.assert_allclose(tokens.residuals[:, 0], new, atol=1e-6)
        z_hat = sum(model.codebooks[level][codes[:, level]] for level in range(3))
        np.testing.assert_allclose(tokens.vectors, z_hat, atol=1e-5)

    def test_refuses_vectors_of_another_text_model(self) -> None:
        model = ResidualKMeans(ResidualKMeansConfig(levels=1, codebook_size=2)).fit(np.eye(4))
        with pytest.raises(ValueError, match="have 3 dimensions, but this tokenizer was fitted on 4"):
            model.tokenize(np.ones((2, 3), dtype=np.float32))

    def test_comes_back_from_its_files(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        model = ResidualKMeans(ResidualKMeansConfig(levels=2, codebook_size=8)).fit(x)
        model.save(tmp_path / "model")
        again = ResidualKMeans.load(tmp_path / "model")
        assert again.config == model.config
        np.testing.assert_array_equal(again.tokenize(x).codes, model.tokenize(x).codes)


def test_kmeans_start_of_the_quantizer_is_residual_kmeans_of_its_input() -> None:
    z = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    quantizer = ResidualQuantizer(2, 8, 4)
    quantizer.start_from(z, seed=9)
    codebooks, codes, _ = residual_kmeans(z.numpy(), 2, 8, seed=9)
    np.testing.assert_array_equal(quantizer.codebooks.detach(), codebooks)
    np.testing.assert_array_equal(quantizer(z).codes, codes)
