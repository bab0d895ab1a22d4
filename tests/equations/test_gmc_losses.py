"""GMC Eqs 1 to 7 against float64 twins that follow the paper's text item by item, values and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.losses import (
    code_cross_entropy,
    domain_contrastive_loss,
    info_nce,
    reconstruction_loss,
    residual_quantization_loss,
)
from genrec_lab.models.tokenizers.quantizers import ResidualQuantizer
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig, RQVAENetwork
from tests.equations.gradients import leaf, numeric_gradient

seeds = st.integers(0, 2**32 - 1)


def reconstruction_twin(x: np.ndarray, x_hat: np.ndarray) -> float:
    return float(np.mean([np.linalg.norm(a - b) ** 2 for a, b in zip(x, x_hat, strict=True)]))


def codebook_half_twin(residuals: np.ndarray, codewords: np.ndarray) -> float:
    """sum_l || r_l - e_l ||^2, mean over the batch: both halves of Eq. 5 have this value, without beta."""
    batch, levels, _ = residuals.shape
    return (
        sum(
            np.linalg.norm(residuals[i, level] - codewords[i, level]) ** 2
            for i in range(batch)
            for level in range(levels)
        )
        / batch
    )


def contrastive_twin(z_hat: np.ndarray, domain: np.ndarray) -> float:
    total, batch = 0.0, len(z_hat)
    for i in range(batch):
        weights = [np.exp(np.dot(z_hat[i], z_hat[j])) for j in range(batch)]
        same = sum(weight for j, weight in enumerate(weights) if domain[j] == domain[i])
        total += np.log(same / sum(weights))
    return -total / batch


def quantize_twin(z: np.ndarray, codebooks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eqs 1 and 2 for one vector: codes (L,), residuals that the levels quantise (L, d), codewords (L, d)."""
    residual, codes, residuals, codewords = z, [], [], []
    for codebook in codebooks:
        code = min(range(len(codebook)), key=lambda k: np.linalg.norm(residual - codebook[k]))
        codes.append(code)
        residuals.append(residual)
        codewords.append(codebook[code])
        residual = residual - codebook[code]
    return np.array(codes), np.array(residuals), np.array(codewords)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_eq4_reconstruction(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, x_hat = generator.normal(size=(2, 5, 4))
    tensor = leaf(x_hat)
    loss = reconstruction_loss(torch.tensor(x), tensor)
    loss.backward()
    assert loss.item() == pytest.approx(reconstruction_twin(x, x_hat), rel=1e-12)
    np.testing.assert_allclose(
        tensor.grad, numeric_gradient(lambda a: reconstruction_twin(x, a), x_hat), atol=1e-7
    )


def test_eq4_by_hand() -> None:
    loss = reconstruction_loss(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
    assert loss.item() == (1 + 4 + 9) / 2


@settings(max_examples=20, deadline=None)
@given(seed=seeds, beta=st.floats(0, 2))
def test_eq5_value_and_which_side_each_half_moves(seed: int, beta: float) -> None:
    generator = np.random.default_rng(seed)
    residuals, codewords = generator.normal(size=(2, 4, 3, 2))
    r, e = leaf(residuals), leaf(codewords)
    loss = residual_quantization_loss(r, e, beta)
    loss.backward()
    assert loss.item() == pytest.approx((1 + beta) * codebook_half_twin(residuals, codewords), rel=1e-12)
    # the first half, with sg on the residual, is all that moves codewords
    moves_codewords = numeric_gradient(lambda a: codebook_half_twin(residuals, a), codewords)
    np.testing.assert_allclose(e.grad, moves_codewords, atol=1e-7)
    # the second half, with sg on the codeword, is all that moves residuals
    moves_residuals = numeric_gradient(lambda a: beta * codebook_half_twin(a, codewords), residuals)
    np.testing.assert_allclose(r.grad, moves_residuals, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, domains=st.integers(1, 4))
def test_eq6_value_and_gradient(seed: int, domains: int) -> None:
    generator = np.random.default_rng(seed)
    z_hat, domain = generator.normal(size=(6, 3)), generator.integers(domains, size=6)
    tensor = leaf(z_hat)
    loss = domain_contrastive_loss(tensor, torch.tensor(domain))
    loss.backward()
    assert loss.item() == pytest.approx(contrastive_twin(z_hat, domain), rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(
        tensor.grad, numeric_gradient(lambda a: contrastive_twin(a, domain), z_hat), atol=1e-6
    )


def test_eq6_by_hand_counts_the_item_itself_in_both_sums() -> None:
    z_hat = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    loss = domain_contrastive_loss(z_hat, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(-np.log(np.e / (np.e + 1)))


def test_eq6_of_one_domain_is_nothing_and_moves_nothing() -> None:
    z_hat = leaf(np.random.default_rng(0).normal(size=(5, 3)))
    loss = domain_contrastive_loss(z_hat, torch.zeros(5, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert z_hat.grad is not None and not z_hat.grad.any()


def test_eq6_stays_finite_where_its_exponentials_overflow() -> None:
    z_hat = leaf(np.array([[40.0, 0.0], [0.0, 40.0], [-40.0, 0.0]]))
    loss = domain_contrastive_loss(z_hat, torch.tensor([0, 1, 0]))
    loss.backward()
    assert loss.isfinite() and z_hat.grad is not None and z_hat.grad.isfinite().all()


def test_eq6_is_computed_in_float32_under_autocast() -> None:
    z_hat, domain = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = domain_contrastive_loss(z_hat, domain)
    assert loss.item() == pytest.approx(contrastive_twin(z_hat.double().numpy(), domain.numpy()), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_eqs1_2_5_through_the_quantizer(seed: int) -> None:
    """Codes, residuals, z_hat and loss; codebooks learn from their own level, z from every level."""
    generator = np.random.default_rng(seed)
    batch, levels, size, dimension, beta = 6, 3, 4, 2, 0.25
    z, books = generator.normal(size=(batch, dimension)), generator.normal(size=(levels, size, dimension))
    quantizer = ResidualQuantizer(levels, size, dimension, beta)
    quantizer.codebooks.data = torch.tensor(books, dtype=torch.float32)
    tensor = torch.tensor(z, dtype=torch.float32, requires_grad=True)
    quantized = quantizer(tensor)
    quantized.loss.backward()

    twins = [quantize_twin(row, books) for row in z]
    codes, residuals, codewords = (np.stack(part) for part in zip(*twins, strict=True))
    np.testing.assert_array_equal(quantized.codes, codes)
    np.testing.assert_allclose(quantized.residuals.detach(), residuals, atol=1e-5)
    np.testing.assert_allclose(quantized.vectors.detach(), codewords.sum(axis=1), atol=1e-5)
    assert quantized.loss.item() == pytest.approx(
        (1 + beta) * codebook_half_twin(residuals, codewords), rel=1e-4
    )

    to_codebooks, to_z = np.zeros_like(books), np.zeros_like(z)
    for i in range(batch):
        for level in range(levels):
            gap = codewords[i, level] - residuals[i, level]
            to_codebooks[level, codes[i, level]] += 2 * gap / batch
            to_z[i] -= 2 * beta * gap / batch
    np.testing.assert_allclose(quantizer.codebooks.grad, to_codebooks, atol=1e-5)
    np.testing.assert_allclose(tensor.grad, to_z, atol=1e-5)


def test_the_gradient_of_z_hat_goes_straight_through_to_z_and_not_to_the_codebooks() -> None:
    quantizer = ResidualQuantizer(3, 5, 4)
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    arriving = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))
    quantizer(z).vectors.backward(arriving)
    assert torch.equal(z.grad, arriving)
    assert quantizer.codebooks.grad is None or not quantizer.codebooks.grad.any()


def network_twin(layers: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """The MLP with ReLU between its layers (GMC section 5.1.4), from its weights in float64."""
    weights = [p.detach().double().numpy() for p in layers.parameters()]
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for number, (weight, bias) in enumerate(pairs):
        x = x @ weight.T + bias
        if number < len(pairs) - 1:
            x = np.maximum(x, 0)
    return x


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_eqs3_and_7_total_of_the_model(reduction: str, weight: float) -> None:
    generator = np.random.default_rng(3)
    x, domain = generator.normal(size=(9, 6)).astype(np.float32), generator.integers(3, size=9)
    config = RQVAEConfig(
        hidden=(5, 4), dimension=3, levels=2, codebook_size=4, contrastive_weight=weight, reduction=reduction
    )
    model = RQVAENetwork(6, config, torch.Generator().manual_seed(0))
    model.quantizer.codebooks.data.normal_(generator=torch.Generator().manual_seed(1))
    step = model(torch.tensor(x), torch.tensor(domain))

    z = network_twin(model.encoder, x.astype(np.float64))
    twins = [quantize_twin(row, model.quantizer.codebooks.detach().double().numpy()) for row in z]
    _, residuals, codewords = (np.stack(part) for part in zip(*twins, strict=True))
    z_hat = codewords.sum(axis=1)
    reconstruction = reconstruction_twin(x, network_twin(model.decoder, z_hat))
    quantization = 1.25 * codebook_half_twin(residuals, codewords)
    if reduction == "mean":
        reconstruction, quantization = reconstruction / 6, quantization / 3 / 2
    contrastive = contrastive_twin(z_hat, domain) if weight else 0.0  # without a weight it is not computed
    assert step.reconstruction.item() == pytest.approx(reconstruction, rel=1e-5)
    assert step.quantization.item() == pytest.approx(quantization, rel=1e-5)
    assert step.contrastive.item() == pytest.approx(contrastive, rel=1e-4)
    assert step.loss.item() == pytest.approx(reconstruction + quantization + weight * contrastive, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, temperature=st.floats(0.05, 2))
def test_info_nce_against_its_definition(seed: int, temperature: float) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 5, 3))
    total = 0.0
    for i in range(5):
        scores = [a[i] @ other / np.linalg.norm(a[i]) / np.linalg.norm(other) / temperature for other in b]
        total -= scores[i] - np.log(np.sum(np.exp(scores)))
    assert info_nce(torch.tensor(a), torch.tensor(b), temperature).item() == pytest.approx(
        total / 5, rel=1e-9
    )


def test_code_cross_entropy_against_its_definition() -> None:
    generator = np.random.default_rng(0)
    logits, tokens = generator.normal(size=(4, 3, 7)), generator.integers(7, size=(4, 3))
    probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    chosen = [probability[i, level, tokens[i, level]] for i in range(4) for level in range(3)]
    loss = code_cross_entropy(torch.tensor(logits), torch.tensor(tokens))
    assert loss.item() == pytest.approx(-np.mean(np.log(chosen)), rel=1e-12)
