"""Product quantisation: nearest sub-codewords by brute force, what a rotation keeps, what is refused."""

import builtins
from pathlib import Path

import faiss
import numpy as np
import pytest

from genrec_lab.models.tokenizers.product_quantization import ProductQuantizationConfig, ProductQuantizer


def vectors(items: int = 240, dimensions: int = 12, seed: int = 0) -> np.ndarray:
    """Correlated vectors, most of their variance in the first dimensions: what a rotation is for."""
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(items, dimensions)) * np.linspace(3, 0.1, dimensions)
    return mixed.astype(np.float32)


def fitted(kind: str, x: np.ndarray, seed: int = 0) -> ProductQuantizer:
    return ProductQuantizer(ProductQuantizationConfig(kind=kind, levels=3, codebook_size=8)).fit(x, seed=seed)


def nearest_parts(x: np.ndarray, books: np.ndarray) -> np.ndarray:
    """For each vector and sub-space the nearest sub-codeword, one at a time in float64."""
    levels, size, width = books.shape
    codes = np.zeros((len(x), levels), dtype=int)
    for item, vector in enumerate(x.astype(np.float64)):
        for level in range(levels):
            part = vector[level * width : (level + 1) * width]
            codes[item, level] = min(range(size), key=lambda k: np.sum((part - books[level, k]) ** 2))
    return codes


@pytest.mark.parametrize("kind", ["pq", "opq"])
def test_codes_are_the_nearest_sub_codewords(kind: str) -> None:
    x = vectors()
    model = fitted(kind, x)
    tokenized = model.tokenize(x)
    turned = x if model.rotation is None else x @ model.rotation.T
    np.testing.assert_array_equal(tokenized.codes, nearest_parts(turned, model.codebooks))
    np.testing.assert_allclose(tokenized.residuals.reshape(len(x), -1), turned, atol=1e-5)
    chosen = np.stack([model.codebooks[level, tokenized.codes[:, level]] for level in range(3)], axis=1)
    error = np.square(tokenized.residuals - chosen).sum(axis=(1, 2)).mean()
    assert tokenized.loss == pytest.approx(error, rel=1e-5)
    # The restored vectors are in the space of the content vectors again, at the same distance.
    assert np.square(x - tokenized.vectors).sum(axis=1).mean() == pytest.approx(error, rel=1e-4)


def test_pq_is_what_faiss_makes_of_the_same_seed() -> None:
    x = vectors()
    book = faiss.ProductQuantizer(12, 3, 3)
    book.cp.seed, book.cp.niter, book.cp.min_points_per_centroid = 7, 25, 1
    book.train(x)
    np.testing.assert_array_equal(fitted("pq", x, seed=7).tokenize(x).codes, _unpacked(book, x))


def _unpacked(book: faiss.ProductQuantizer, x: np.ndarray) -> np.ndarray:
    """Faiss packs three bits a code, the first code in the lowest bits."""
    packed = np.unpackbits(book.compute_codes(x), axis=1, bitorder="little")[:, :9].reshape(-1, 3, 3)
    return packed @ np.array([1, 2, 4])


def test_a_rotation_keeps_distances_and_lowers_the_error() -> None:
    x = vectors()
    model = fitted("opq", x)
    assert model.rotation is not None
    np.testing.assert_allclose(model.rotation @ model.rotation.T, np.eye(12), atol=1e-4)
    assert model.tokenize(x).loss < 0.9 * fitted("pq", x).tokenize(x).loss


def test_a_rotation_of_fewer_vectors_than_dimensions() -> None:
    x = vectors(10, 24)
    model = ProductQuantizer(ProductQuantizationConfig(kind="opq", levels=2, codebook_size=8)).fit(x)
    assert model.rotation is not None
    np.testing.assert_allclose(model.rotation @ model.rotation.T, np.eye(24), atol=1e-4)
    assert model.tokenize(x).loss < np.square(x - x.mean(axis=0)).sum(axis=1).mean()


def test_the_seed_decides() -> None:
    x = vectors()
    np.testing.assert_array_equal(fitted("pq", x, 3).codebooks, fitted("pq", x, 3).codebooks)
    assert not np.array_equal(fitted("pq", x, 3).codebooks, fitted("pq", x, 4).codebooks)


@pytest.mark.parametrize("kind", ["pq", "opq"])
def test_a_saved_tokenizer_names_items_alike_without_faiss(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = vectors()
    model = fitted(kind, x)
    model.save(tmp_path)
    _without_faiss(monkeypatch)
    again = ProductQuantizer.load(tmp_path)
    assert again.config == model.config
    for one, other in zip(again.tokenize(x), model.tokenize(x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_cannot_be_quantised_is_refused() -> None:
    x = vectors()
    config = ProductQuantizationConfig(levels=5, codebook_size=8)
    with pytest.raises(ValueError, match=r"levels is 5, .* 12 dimensions .* one of \[1, 2, 3, 4, 6, 12\]"):
        ProductQuantizer(config).fit(x)
    with pytest.raises(ValueError, match=r"codebook_size is 12; .* power of two, such as 8"):
        ProductQuantizer(ProductQuantizationConfig(levels=3, codebook_size=12)).fit(x)
    with pytest.raises(ValueError, match=r"codebook_size = 8 is larger than the catalogue.*at most 5"):
        fitted("pq", x[:5])
    broken = x.copy()
    broken[17, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite values, first for item 17"):
        fitted("pq", broken)
    with pytest.raises(ValueError, match="have 11 dimensions, but this tokenizer was fitted on 12"):
        fitted("pq", x).tokenize(x[:, :11])


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_faiss(monkeypatch)
    with pytest.raises(ModuleNotFoundError, match=r"genrec-lab\[baselines\]"):
        fitted("pq", vectors())


def _without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: object, **more: object) -> object:
        if name == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
