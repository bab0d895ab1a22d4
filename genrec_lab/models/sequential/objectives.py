"""What papers train models over items for, instead of the softmax over the catalogue that is common here.

Letters: M places that predict, D width, N items of the domain, S sampled negatives.
Negatives are drawn evenly from the domain with torch's generator, as dropout's masks are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def binary_cross_entropy(states: Tensor, embeddings: Tensor, wanted: Tensor) -> Tensor:
    """SASRec Eq. (7): the wanted item against one other, drawn for each place."""
    positive, negative = _with_one_other(states, embeddings, wanted)
    return (F.softplus(-positive) + F.softplus(negative)).mean()


def bpr(states: Tensor, embeddings: Tensor, wanted: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009) with one other item, drawn for each place."""
    positive, negative = _with_one_other(states, embeddings, wanted)
    return F.softplus(negative - positive).mean()


def bpr_max(
    states: Tensor, embeddings: Tensor, wanted: Tensor, samples: int, regularisation: float
) -> Tensor:
    """GRU4Rec's BPR-max (Hidasi and Karatzoglou 2018): BPR weighted to the highest negatives.

    The `samples` negatives are shared by all places; where one is the wanted item, it does not count.
    """
    positive, negative, weight = _with_samples(states, embeddings, wanted, samples)
    ranked = (weight * torch.sigmoid(positive - negative)).sum(1)
    return (-(ranked + 1e-24).log() + regularisation * (weight * negative**2).sum(1)).mean()


def top1_max(states: Tensor, embeddings: Tensor, wanted: Tensor, samples: int) -> Tensor:
    """GRU4Rec's TOP1-max (Hidasi and Karatzoglou 2018), negatives as in `bpr_max`."""
    positive, negative, weight = _with_samples(states, embeddings, wanted, samples)
    return (weight * (torch.sigmoid(negative - positive) + torch.sigmoid(negative**2))).sum(1).mean()


def others(wanted: Tensor, n_items: int) -> Tensor:
    """Return for each wanted item (M,) another one, all equally likely; itself where there is only one."""
    if n_items == 1:
        return wanted.clone()
    step = torch.randint(1, n_items, wanted.shape, device=wanted.device)
    return (wanted + step) % n_items


def _with_one_other(states: Tensor, embeddings: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    negative = others(wanted, len(embeddings))
    return (
        (states * embeddings[wanted]).sum(-1).float(),
        (states * embeddings[negative]).sum(-1).float(),
    )


def _with_samples(
    states: Tensor, embeddings: Tensor, wanted: Tensor, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (M, 1) of the wanted items, (M, S) of negatives, and the negatives' softmax weights."""
    drawn = torch.randint(len(embeddings), (samples,), device=states.device)
    positive = (states * embeddings[wanted]).sum(-1, keepdim=True).float()
    negative = (states @ embeddings[drawn].T).float()
    same = drawn == wanted[:, None]
    # Where all that was drawn is the wanted item itself, the weights are 0, and not NaN.
    weight = negative.masked_fill(same, -torch.inf).softmax(1).nan_to_num(0.0)
    return positive, negative, weight.masked_fill(same, 0.0)
