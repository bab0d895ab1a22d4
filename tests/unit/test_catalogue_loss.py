"""The cross-entropy in parts against sums written out and against torch's, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lab.models.sequential import objectives
from genrec_lab.models.sequential.objectives import batch_cross_entropy, catalogue_cross_entropy

PLACES, WIDTH, ITEMS = 70, 8, 30


@pytest.fixture(autouse=True)
def several_parts(monkeypatch) -> None:
    """16 rows at a time: the 70 places take five parts, the last of them smaller."""
    monkeypatch.setattr(objectives, "_FEWEST_ROWS", 16)
    monkeypatch.setattr(objectives, "_ON_CPU", 0)


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return numbers.requires_grad_()


def wanted_items() -> Tensor:
    return torch.randint(ITEMS, (PLACES,), generator=torch.Generator().manual_seed(1))


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


def test_catalogue_by_hand() -> None:
    states = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.4, 1.5], [0.0, 0.0]])
    items = torch.tensor([[1.0, 0.2], [-0.5, 0.8], [0.3, 0.3], [1.5, -2.0], [-1.0, 0.4]])
    wanted = [3, 0, 1, 2]
    scores = states.double().numpy() @ items.double().numpy().T
    by_hand = [-np.log(np.exp(row[w]) / np.exp(row).sum()) for row, w in zip(scores, wanted, strict=True)]
    loss = catalogue_cross_entropy(states, items, torch.tensor(wanted)).item()
    assert loss == pytest.approx(np.mean(by_hand), abs=1e-6)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 60.0])  # 60: scores of some thousands, whose exponentials overflow
def test_catalogue_equals_torch(with_bias: bool, scale: float) -> None:
    states, items, wanted = drawn(PLACES, WIDTH, scale=scale), drawn(ITEMS, WIDTH, seed=2), wanted_items()
    bias = drawn(ITEMS, seed=3) if with_bias else None
    learnt = [states, items, *([] if bias is None else [bias])]
    scores = states @ items.T if bias is None else states @ items.T + bias
    theirs = F.cross_entropy(scores, wanted)
    ours = catalogue_cross_entropy(states, items, wanted, bias)
    torch.testing.assert_close(ours, theirs)
    # A factor, so that the gradient that comes in is not 1.
    for mine, other in zip(gradients(3 * ours, *learnt), gradients(3 * theirs, *learnt), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6 * scale, rtol=1e-4)


@pytest.mark.parametrize("with_fakes", [False, True])
def test_batch_equals_torch(with_fakes: bool) -> None:
    """Ten ids over seventy rows: most rows have others with the same target, which must not count."""
    states, targets = drawn(PLACES, WIDTH), drawn(PLACES, WIDTH, seed=2)
    ids = torch.randint(10, (PLACES,), generator=torch.Generator().manual_seed(4))
    fakes = drawn(PLACES, seed=5, scale=4.0) if with_fakes else None
    learnt = [states, targets, *([] if fakes is None else [fakes])]
    again = (ids[:, None] == ids[None, :]) & ~torch.eye(PLACES, dtype=torch.bool)
    scores = (states @ targets.T).masked_fill(again, -torch.inf)
    if fakes is not None:
        scores = torch.cat([scores, fakes[:, None]], dim=1)
    theirs = F.cross_entropy(scores, torch.arange(PLACES))
    ours = batch_cross_entropy(states, targets, ids, fakes)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(ours, *learnt), gradients(theirs, *learnt), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-4)


def test_under_autocast_it_is_no_further_from_fp32_than_torch() -> None:
    states, items, wanted = drawn(PLACES, WIDTH), drawn(ITEMS, WIDTH, seed=2), wanted_items()
    exact = gradients(F.cross_entropy(states @ items.T, wanted), states, items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = gradients(F.cross_entropy((states @ items.T).float(), wanted), states, items)
        ours = gradients(catalogue_cross_entropy(states, items, wanted), states, items)
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - true).norm() < 1.2 * (other - true).norm()


def test_what_needs_no_gradient_has_none() -> None:
    items = drawn(ITEMS, WIDTH, seed=2).detach()
    states = drawn(PLACES, WIDTH)
    catalogue_cross_entropy(states, items, wanted_items()).backward()
    assert items.grad is None and states.grad is not None


def test_nothing_wanted_is_nan_as_in_torch() -> None:
    nothing = catalogue_cross_entropy(drawn(0, WIDTH), drawn(ITEMS, WIDTH), torch.zeros(0, dtype=torch.int64))
    assert nothing.isnan()
