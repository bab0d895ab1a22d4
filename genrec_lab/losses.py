"""The losses of the papers, one function an equation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def reconstruction_loss(x: Tensor, x_hat: Tensor) -> Tensor:
    """GMC Eq. 4: squared Euclidean distance between content vectors and their reconstructions.

    (B, D), (B, D) -> scalar: sum over the dimensions, mean over the batch.
    """
    return (x - x_hat).square().sum(dim=-1).mean()


def residual_quantization_loss(residuals: Tensor, codewords: Tensor, beta: float = 0.25) -> Tensor:
    """GMC Eq. 5: codewords move to the residuals they quantise, residuals (times beta) to their codewords.

    (B, L, d), (B, L, d) -> scalar: sum over levels and dimensions, mean over the batch.
    """
    codebook = (residuals.detach() - codewords).square().sum(dim=(-2, -1))
    commitment = (residuals - codewords.detach()).square().sum(dim=(-2, -1))
    return (codebook + beta * commitment).mean()


def domain_contrastive_loss(z_hat: Tensor, domain: Tensor) -> Tensor:
    """GMC Eq. 6: quantised vectors of one domain attract each other, against all vectors of the batch.

    (B, d), (B,) int -> scalar. Inner products without a temperature; an item counts itself in both sums, as
    the paper writes it. With a single domain in the batch the loss is exactly 0, and so is its gradient.
    """
    with torch.autocast(z_hat.device.type, enabled=False):  # exp() of a bfloat16 inner product is too coarse
        z_hat = z_hat.to(torch.promote_types(z_hat.dtype, torch.float32))
        similarity = z_hat @ z_hat.T
    same = domain[:, None] == domain[None, :]
    own = similarity.masked_fill(~same, -torch.inf).logsumexp(dim=1)
    return (similarity.logsumexp(dim=1) - own).mean()


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """UTGRec Eq. 11 for one level: row i of a belongs to row i of b, all other rows of b are its negatives.

    (B, d), (B, d) -> scalar: cosine similarity over the temperature, mean over the batch.
    """
    similarity = functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).T
    return functional.cross_entropy(similarity / temperature, torch.arange(len(a), device=a.device))


def code_cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """GMC Eq. 8 and UTGRec Eq. 14 as a loss: negative log-probability of the target's codes.

    (B, L, V) logits, (B, L) int64 tokens -> scalar: mean over batch and levels (the equations sum levels).
    """
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
