"""LETTER's two losses against float64 twins that follow the paper item by item, values and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.losses import code_diversity_loss, collaborative_alignment_loss
from genrec_lab.models.tokenizers.letter import LetterConfig, LetterNetwork
from tests.equations.gradients import leaf, numeric_gradient

seeds = st.integers(0, 2**32 - 1)


def alignment_twin(z_hat: np.ndarray, collaborative: np.ndarray) -> float:
    total, batch = 0.0, len(z_hat)
    for i in range(batch):
        weights = [np.exp(np.dot(z_hat[i], collaborative[j])) for j in range(batch)]
        total -= np.log(weights[i] / sum(weights))
    return total / batch


def diversity_twin(book: np.ndarray, codes: np.ndarray, partners: np.ndarray) -> float:
    total = 0.0
    for code, partner in zip(codes, partners, strict=True):
        others = sum(np.exp(np.dot(book[code], book[k])) for k in range(len(book)) if k != code)
        total -= np.log(np.exp(np.dot(book[code], book[partner])) / others)
    return total / len(codes)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 5))
def test_alignment(seed: int, batch: int, dimension: int) -> None:
    generator = np.random.default_rng(seed)
    z_hat, vectors = generator.normal(size=(2, batch, dimension))
    tensor = leaf(z_hat)
    loss = collaborative_alignment_loss(tensor, torch.from_numpy(vectors))
    loss.backward()
    assert loss.item() == pytest.approx(alignment_twin(z_hat, vectors), rel=1e-9, abs=1e-12)
    expected = numeric_gradient(lambda at: alignment_twin(at, vectors), z_hat)
    np.testing.assert_allclose(tensor.grad, expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(2, 6), st.integers(1, 4))
def test_diversity(seed: int, batch: int, size: int, dimension: int) -> None:
    generator = np.random.default_rng(seed)
    book = generator.normal(size=(size, dimension))
    codes = generator.integers(size, size=batch)
    partners = (codes + generator.integers(1, size, size=batch)) % size
    tensor = leaf(book)
    loss = code_diversity_loss(tensor, torch.from_numpy(codes), torch.from_numpy(partners))
    loss.backward()
    assert loss.item() == pytest.approx(diversity_twin(book, codes, partners), rel=1e-9, abs=1e-12)
    expected = numeric_gradient(lambda at: diversity_twin(at, codes, partners), book)
    np.testing.assert_allclose(tensor.grad, expected, atol=1e-6)


def test_the_objective_is_the_weighted_sum_of_its_parts() -> None:
    generator = np.random.default_rng(0)
    config = LetterConfig(
        hidden=(8,), dimension=4, levels=2, codebook_size=6, clusters=3,
        collaborative_weight=0.3, diversity_weight=0.7, beta=0.25,
    )  # fmt: skip
    vectors = generator.normal(size=(9, 4)).astype(np.float32)
    model = LetterNetwork(5, config, torch.Generator().manual_seed(0))
    model.start_epoch(1, seed=4)
    x = torch.from_numpy(generator.normal(size=(7, 5)).astype(np.float32))
    rows = torch.tensor([8, 1, 0, 3, 3, 5, 2])
    state = model._generator.get_state()
    step = model(x, torch.zeros(7, dtype=torch.long), torch.from_numpy(vectors)[rows])
    model._generator.set_state(state)
    partners = model.draw_partners(step.quantized.codes)

    codes, books = step.quantized.codes.numpy(), model.codebooks.astype(np.float64)
    latent = step.quantized.residuals.detach().numpy().astype(np.float64)[:, 0]
    z_hat = sum(books[level, codes[:, level]] for level in range(2))
    chosen, left, quantization = books[0, codes[:, 0]], latent, 0.0
    for level in range(2):
        chosen = books[level, codes[:, level]]
        quantization += 1.25 * np.mean((left - chosen) ** 2) / 2
        left = left - chosen
    restored = model.decoder(torch.from_numpy(z_hat).float()).detach().numpy()
    reconstruction = np.mean((x.numpy() - restored) ** 2)
    alignment = alignment_twin(z_hat, vectors[rows.numpy()].astype(np.float64))
    diversity = np.mean(
        [diversity_twin(books[level], codes[:, level], partners[:, level].numpy()) for level in range(2)]
    )
    assert step.reconstruction.item() == pytest.approx(reconstruction, rel=1e-5)
    assert step.quantization.item() == pytest.approx(quantization, rel=1e-5)
    assert step.collaborative is not None and step.collaborative.item() == pytest.approx(alignment, rel=1e-5)
    assert step.diversity is not None and step.diversity.item() == pytest.approx(diversity, rel=1e-5)
    expected = reconstruction + quantization + 0.3 * alignment + 0.7 * diversity
    assert step.loss.item() == pytest.approx(expected, rel=1e-5)
