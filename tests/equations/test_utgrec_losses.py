"""UTGRec Eqs 3 to 13 against float64 twins that follow the paper item by item, values and gradients.

The twins of Eq. 9, the diffusion loss, stand in tests/unit/test_diffusion.py.
"""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import multiprocessing, nn

from genrec_lab.losses import (
    co_occurrence_alignment_loss,
    gather_rows,
    text_reconstruction_loss,
    tree_code_loss,
    utgrec_objective,
)
from genrec_lab.models.tokenizers.tree_quantizer import TreeQuantizer, TreeQuantizerConfig, prefix_residual
from tests.equations.gradients import leaf, numeric_gradient

seeds = st.integers(0, 2**32 - 1)


def squared(vector: np.ndarray) -> float:
    return sum(float(x) ** 2 for x in vector)


def half_of_code_loss(h: np.ndarray, e: np.ndarray) -> float:
    """Eqs 5 to 7 with one of the two squares of each level: what one side of the stop-gradients moves."""
    batch, levels, _ = h.shape
    total = 0.0
    for i in range(batch):
        root = squared(h[i, 0] - e[i, 0])
        shared = sum(squared(h[i, level] - e[i, level]) for level in range(1, levels)) / (levels - 1)
        total += 0.5 * (root + shared)
    return total / batch


def text_twin(logits: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> list[float]:
    """Eq. 8 for each item: minus the sum of log P(x) over its tokens."""
    losses = []
    for item in range(len(ids)):
        loss = 0.0
        for place in np.flatnonzero(mask[item]):
            weights = [np.exp(value) for value in logits[item, place]]
            loss -= np.log(weights[ids[item, place]] / sum(weights))
        losses.append(loss)
    return losses


def alignment_twin(h: np.ndarray, positive: np.ndarray, temperature: float) -> float:
    """Eq. 11, mean over the items of the batch."""

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b) / float(np.sqrt(a @ a) * np.sqrt(b @ b))

    total = 0.0
    for item in range(len(h)):
        for level in range(h.shape[1]):
            batch = [np.exp(cosine(h[item, level], other[level]) / temperature) for other in positive]
            total -= np.log(batch[item] / sum(batch))
    return total / len(h)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, levels=st.integers(2, 5))
def test_eq3_prefix_residual(seed: int, levels: int) -> None:
    h = np.random.default_rng(seed).normal(size=(3, levels, 4))
    expected = h.copy()
    for level in range(1, levels):
        expected[:, level] = h[:, level] - h[:, level - 1]
    np.testing.assert_allclose(prefix_residual(torch.tensor(h)), expected, rtol=1e-15)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, levels=st.integers(2, 4))
def test_eq4_codes_and_the_restored_content(seed: int, levels: int) -> None:
    """Codes, increments' codewords and h-hat from E and W alone, in float64."""
    config = TreeQuantizerConfig(levels=levels, root_size=5, leaf_size=7, dimension=3)
    quantizer = TreeQuantizer(config, torch.Generator().manual_seed(seed % 2**31))
    h = np.random.default_rng(seed).normal(size=(6, levels, 3)).astype(np.float32)
    given_ = quantizer(torch.tensor(h))
    root, shared = (
        book.matrix.detach().double().numpy() @ book.projection.detach().double().numpy()
        for book in quantizer.books
    )
    for item in range(len(h)):
        restored = np.zeros(3)
        for level in range(levels):
            h64 = h[item].astype(np.float64)
            increment = h64[level] - (h64[level - 1] if level else 0)
            book = shared if level else root
            distances = [squared(increment - codeword) for codeword in book]
            code = int(given_.codes[item, level])
            assert distances[code] <= min(distances) + 1e-5
            restored = restored + book[code]
            np.testing.assert_allclose(given_.residuals[item, level], increment, atol=1e-6)
            np.testing.assert_allclose(given_.vectors[item, level].detach(), restored, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, beta=st.floats(0, 2), levels=st.integers(2, 4))
def test_eqs5_to_7_value_and_which_side_each_half_moves(seed: int, beta: float, levels: int) -> None:
    h, e = np.random.default_rng(seed).normal(size=(2, 4, levels, 3))
    residuals, codewords = leaf(h), leaf(e)
    loss = tree_code_loss(residuals, codewords, beta)
    loss.backward()
    assert loss.item() == pytest.approx((1 + beta) * half_of_code_loss(h, e), rel=1e-12)
    np.testing.assert_allclose(
        codewords.grad, numeric_gradient(lambda x: half_of_code_loss(h, x), e), atol=1e-7
    )
    np.testing.assert_allclose(
        residuals.grad, numeric_gradient(lambda x: beta * half_of_code_loss(x, e), h), atol=1e-7
    )


def test_eq5_by_hand() -> None:
    residuals = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]])
    codewords = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 4.0]]])
    # root 1, leaf (4 + 16) / 2, both times 1 + beta
    assert tree_code_loss(residuals, codewords, 0.25).item() == 0.5 * (1 + 10) * 1.25
    assert tree_code_loss(residuals, codewords, 0.25, "code").item() == 0.5 * (1 + 10) * 1.25 / 2


def test_eq5_wants_a_leaf() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1, 3\).*at least 2 levels"):
        tree_code_loss(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3))


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_eq8_sums_an_items_tokens_or_averages_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits, ids = generator.normal(size=(3, 4, 6)), generator.integers(6, size=(3, 4))
    mask = generator.random((3, 4)) < 0.6
    mask[0, 0] = True
    tensor = leaf(logits)
    chosen, tokens = tensor[torch.tensor(mask)], torch.tensor(ids)[torch.tensor(mask)]
    items = text_twin(logits, ids, mask)
    loss = text_reconstruction_loss(chosen, tokens, 3)
    assert loss.item() == pytest.approx(sum(items) / 3, rel=1e-12)
    mean = text_reconstruction_loss(chosen, tokens, 3, "code")
    assert mean.item() == pytest.approx(sum(items) / mask.sum(), rel=1e-12)
    loss.backward()
    expected = numeric_gradient(lambda x: sum(text_twin(x, ids, mask)) / 3, logits)
    np.testing.assert_allclose(tensor.grad, expected, atol=1e-7)


@pytest.mark.parametrize("reduction", ["paper", "code"])
def test_eq8_without_any_token_is_a_zero_with_a_gradient(reduction: str) -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = text_reconstruction_loss(logits, torch.zeros(0, dtype=torch.int64), 2, reduction)
    loss.backward()
    assert loss.item() == 0.0 and logits.grad is not None


@settings(max_examples=20, deadline=None)
@given(seed=seeds, temperature=st.floats(0.05, 1), levels=st.integers(1, 3))
def test_eq11_value_and_gradient(seed: int, temperature: float, levels: int) -> None:
    h, positive = np.random.default_rng(seed).normal(size=(2, 4, levels, 3))
    a, b = leaf(h), leaf(positive)
    loss = co_occurrence_alignment_loss(a, b, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(alignment_twin(h, positive, temperature), rel=1e-9, abs=1e-12)
    mean = co_occurrence_alignment_loss(a, b, temperature, "code")
    assert mean.item() == pytest.approx(loss.item() / levels, rel=1e-12)
    moves = numeric_gradient(lambda x: alignment_twin(x, positive, temperature), h)
    np.testing.assert_allclose(a.grad, moves, rtol=1e-4, atol=1e-5)
    moves = numeric_gradient(lambda x: alignment_twin(h, x, temperature), positive)
    np.testing.assert_allclose(b.grad, moves, rtol=1e-4, atol=1e-5)


def test_eq11_of_a_single_item_is_zero() -> None:
    one = torch.randn(1, 3, 4, requires_grad=True)
    loss = co_occurrence_alignment_loss(one, torch.randn(1, 3, 4))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6) and torch.isfinite(one.grad).all()


def test_eq11_is_computed_in_float32_under_autocast() -> None:
    a, b = torch.randn(2, 8, 3, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        under = co_occurrence_alignment_loss(a, b)
    assert under.item() == co_occurrence_alignment_loss(a, b).item()


@given(values=st.lists(st.floats(-5, 5), min_size=10, max_size=10))
def test_eqs10_12_and_13(values: list[float]) -> None:
    text, picture, code, alignment, text_2, picture_2, alpha, lambda_code, mu, eta = values
    parts = [torch.tensor(value, dtype=torch.float64) for value in values[:6]]
    objective = utgrec_objective(*parts, alpha=alpha, lambda_code=lambda_code, mu=mu, eta=eta)
    raw = text + alpha * picture
    neighbour = text_2 + alpha * picture_2
    expected = raw + lambda_code * code + mu * alignment + eta * neighbour
    assert objective.item() == pytest.approx(expected, rel=1e-12, abs=1e-9)


# --- negatives from every process


ROWS = (3, 5)  # of the two processes: a last batch may be shorter


def small_case() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, sum(ROWS), 2, 4, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(4, 4, generator=generator))
    return model, a, b


def process(rank: int, folder: str) -> None:
    """One of two processes, on its own rows; writes its loss and the averaged gradient of the weights."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(ROWS)
    )
    try:
        model, a, b = small_case()
        own = slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1]))
        assert torch.equal(gather_rows(a[own]), a)
        loss = co_occurrence_alignment_loss(model(a[own]), model(b[own]), 0.1)
        loss.backward()
        gradient = model.weight.grad.clone()
        torch.distributed.all_reduce(gradient)  # as data-parallel training does
        np.savez(f"{folder}/{rank}.npz", loss=loss.item(), gradient=gradient.numpy() / len(ROWS))
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_have_the_loss_and_gradient_of_one_large_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
    model, a, b = small_case()
    loss = co_occurrence_alignment_loss(model(a), model(b), 0.1)
    loss.backward()
    multiprocessing.start_processes(process, (str(tmp_path),), nprocs=len(ROWS), start_method="spawn")
    for rank in range(len(ROWS)):
        found = np.load(tmp_path / f"{rank}.npz")
        assert float(found["loss"]) == pytest.approx(loss.item(), rel=1e-12)
        np.testing.assert_allclose(found["gradient"], model.weight.grad, rtol=1e-9)


def test_gather_rows_is_the_identity_in_one_process() -> None:
    x = torch.randn(3, 2)
    assert gather_rows(x) is x


def test_levels_of_a_batch_do_not_mix() -> None:
    """Eq. 11 compares a level with the same level only: a permutation of the others leaves its part alone."""
    a, b = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    whole = co_occurrence_alignment_loss(a, b)
    by_level = [co_occurrence_alignment_loss(a[:, [level]], b[:, [level]]) for level in range(3)]
    assert whole.item() == pytest.approx(sum(part.item() for part in by_level), rel=1e-6)
    for order in itertools.permutations(range(3)):
        moved = co_occurrence_alignment_loss(a[:, order], b[:, order])
        assert moved.item() == pytest.approx(whole.item(), rel=1e-6)
