"""The losses of models over items against sums written out, negatives drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec_lab.models.sequential import objectives

STATES = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.4, 1.5], [0.0, 0.0]])
EMBEDDINGS = torch.tensor([[1.0, 0.2], [-0.5, 0.8], [0.3, 0.3], [1.5, -2.0], [-1.0, 0.4]])
WANTED = torch.tensor([3, 0, 1, 2])


def scores() -> np.ndarray:
    return STATES.double().numpy() @ EMBEDDINGS.double().numpy().T


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def fix_samples(monkeypatch, drawn: list[int]) -> None:
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(drawn))


@pytest.mark.parametrize("name", ["binary_cross_entropy", "bpr"])
def test_losses_of_one_negative(monkeypatch, name: str) -> None:
    negatives = [1, 4, 0, 3]
    monkeypatch.setattr(objectives, "others", lambda wanted, n: torch.tensor(negatives))
    by_hand = []
    for row, wanted, negative in zip(scores(), WANTED, negatives, strict=True):
        if name == "bpr":
            by_hand.append(-np.log(sigmoid(row[wanted] - row[negative])))
        else:
            by_hand.append(-np.log(sigmoid(row[wanted])) - np.log(1 - sigmoid(row[negative])))
    loss = getattr(objectives, name)(STATES, EMBEDDINGS, WANTED).item()
    assert loss == pytest.approx(np.mean(by_hand), abs=1e-6)


@pytest.mark.parametrize("name", ["bpr_max", "top1_max"])
def test_losses_of_shared_samples(monkeypatch, name: str) -> None:
    """Item 3 is drawn twice, and for the first place it is the wanted one: there it does not count."""
    drawn = [3, 1, 4, 3]
    fix_samples(monkeypatch, drawn)
    by_hand = []
    for row, wanted in zip(scores(), WANTED.tolist(), strict=True):
        negatives = [j for j in drawn if j != wanted]
        weights = np.exp([row[j] for j in negatives])
        weights /= weights.sum()
        pairs = list(zip(weights, negatives, strict=True))
        if name == "bpr_max":
            ranked = sum(s * sigmoid(row[wanted] - row[j]) for s, j in pairs)
            by_hand.append(-np.log(ranked) + 0.7 * sum(s * row[j] ** 2 for s, j in pairs))
        else:
            by_hand.append(sum(s * (sigmoid(row[j] - row[wanted]) + sigmoid(row[j] ** 2)) for s, j in pairs))
    rest = (0.7,) if name == "bpr_max" else ()
    loss = getattr(objectives, name)(STATES, EMBEDDINGS, WANTED, 4, *rest).item()
    assert loss == pytest.approx(np.mean(by_hand), abs=1e-6)


@pytest.mark.parametrize("name", ["bpr_max", "top1_max"])
def test_where_only_the_wanted_item_was_drawn_nothing_is_nan(monkeypatch, name: str) -> None:
    fix_samples(monkeypatch, [3, 3])
    states = STATES[:1].clone().requires_grad_()
    rest = (1.0,) if name == "bpr_max" else ()
    loss = getattr(objectives, name)(states, EMBEDDINGS, WANTED[:1], 2, *rest)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(states.grad).all()


def test_others_are_never_the_wanted_item_and_all_equally_likely() -> None:
    torch.manual_seed(0)
    wanted = torch.arange(5).repeat(4000)
    drawn = objectives.others(wanted, 5)
    table = np.zeros((5, 5))
    np.add.at(table, (wanted.numpy(), drawn.numpy()), 1)
    assert (np.diag(table) == 0).all()
    np.testing.assert_allclose(table[~np.eye(5, dtype=bool)], 1000, rtol=0.12)
    assert objectives.others(torch.tensor([0, 0]), 1).tolist() == [0, 0]
