"""The losses of the papers, one function per equation.

>>> x, x_hat = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
>>> reconstruction_loss(x, x_hat)
tensor(4.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from genrec_lab.training.processes import gather_rows

# UTGRec's paper and its published code reduce some losses differently: the paper sums, the code averages.
Reduction = Literal["paper", "code"]


def reconstruction_loss(x: Tensor, x_hat: Tensor) -> Tensor:
    """GMC Eq. 4: squared Euclidean distance between content vectors and their reconstructions.

    (B, D), (B, D) -> scalar: sum over the dimensions, mean over the batch.
    """
    return (x - x_hat).square().sum(dim=-1).mean()


def residual_quantization_loss(residuals: Tensor, codewords: Tensor, beta: float = 0.25) -> Tensor:
    """GMC Eq. 5: pulls codewords towards their residuals, and residuals (times beta) towards their codewords.

    (B, L, d), (B, L, d) -> scalar: sum over levels and dimensions, mean over the batch.
    """
    codebook = (residuals.detach() - codewords).square().sum(dim=(-2, -1))
    commitment = (residuals - codewords.detach()).square().sum(dim=(-2, -1))
    return (codebook + beta * commitment).mean()


def domain_contrastive_loss(z_hat: Tensor, domain: Tensor) -> Tensor:
    """GMC Eq. 6: contrasts quantised vectors of the same domain with all vectors of the batch.

    (B, d), (B,) int -> scalar. Uses inner products without a temperature. Both sums include the item itself,
    as in the paper. If the batch has a single domain, the loss and its gradient are exactly 0. Every process
    computes the loss over the rows of all processes.
    """
    with torch.autocast(z_hat.device.type, enabled=False):  # exp() of a bfloat16 inner product is too coarse
        z_hat = gather_rows(z_hat.to(torch.promote_types(z_hat.dtype, torch.float32)))
        domain = gather_rows(domain)
        similarity = z_hat @ z_hat.T
    same = domain[:, None] == domain[None, :]
    own = similarity.masked_fill(~same, -torch.inf).logsumexp(dim=1)
    return (similarity.logsumexp(dim=1) - own).mean()


def collaborative_alignment_loss(z_hat: Tensor, collaborative: Tensor) -> Tensor:
    """LETTER's L_CF: matches an item's quantised vector with its own collaborative vector among the batch's.

    (B, d), (B, d) -> scalar: cross-entropy over inner products without a temperature, mean over the batch of
    all processes.
    """
    with torch.autocast(z_hat.device.type, enabled=False):  # exp() of a bfloat16 inner product is too coarse
        z_hat = gather_rows(z_hat.to(torch.promote_types(z_hat.dtype, torch.float32)))
        similarity = z_hat @ gather_rows(collaborative.to(z_hat.dtype)).T
    return functional.cross_entropy(similarity, torch.arange(len(z_hat), device=z_hat.device))


def code_diversity_loss(codebook: Tensor, codes: Tensor, partners: Tensor) -> Tensor:
    """LETTER's L_Div of one level: pulls a codeword towards another of its cluster, away from all others.

    (K, d) codewords, (B,) int64 chosen codes, (B,) int64 other codes of the same clusters -> scalar:
    cross-entropy over inner products with all codewords except the chosen one, mean over the batch.
    """
    similarity = codebook[codes] @ codebook.T
    similarity = similarity.scatter(1, codes[:, None], -torch.inf)
    return functional.cross_entropy(similarity, partners)


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """UTGRec Eq. 11 for one level: row i of b is the positive of row i of a, all other rows are negatives.

    (B, d), (B, d) -> scalar: cosine similarity divided by the temperature, mean over the batch.
    """
    similarity = functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).T
    return functional.cross_entropy(similarity / temperature, torch.arange(len(a), device=a.device))


def code_cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """GMC Eq. 8 and UTGRec Eq. 14 as a loss: negative log-probability of the target's codes.

    (B, L, V) logits, (B, L) int64 tokens -> scalar: mean over batch and levels (the equations sum levels).
    """
    return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def tree_code_loss(
    residuals: Tensor, codewords: Tensor, beta: float = 0.25, reduction: Reduction = "paper"
) -> Tensor:
    """UTGRec Eqs 5 to 7: half the root's loss plus half the mean loss of the levels with the leaf codebook.

    (B, L, d), (B, L, d) -> scalar: sum over d ("paper") or mean over d ("code"), mean over the batch.
    Raises ValueError for fewer than two levels, since there is no leaf then.
    """
    if residuals.shape[1] < 2:
        raise ValueError(
            f"residuals have shape {tuple(residuals.shape)}: tree codebooks need at least 2 levels, a root "
            f"and a leaf"
        )
    # The paper's sg[]: the first term moves only the codewords, the second only the residuals.
    codebook = (residuals.detach() - codewords).square()
    commitment = (residuals - codewords.detach()).square()
    levels = (codebook + beta * commitment).sum(dim=-1).mean(dim=0)
    loss = (levels[0] + levels[1:].mean()) / 2
    return loss if reduction == "paper" else loss / residuals.shape[-1]


def text_reconstruction_loss(
    logits: Tensor, tokens: Tensor, items: int, reduction: Reduction = "paper"
) -> Tensor:
    """UTGRec Eq. 8: negative log-likelihood of the M true tokens of a group of items.

    (M, V) logits, (M,) int64 tokens -> scalar: sum over an item's tokens and mean over the `items` ("paper"),
    or mean over all M tokens ("code"). Without tokens, the loss is a zero that can be back-propagated.
    """
    total = functional.cross_entropy(logits, tokens, reduction="sum")
    return total / max(items if reduction == "paper" else len(tokens), 1)


def co_occurrence_alignment_loss(
    a: Tensor, b: Tensor, temperature: float = 0.1, reduction: Reduction = "paper"
) -> Tensor:
    """UTGRec Eq. 11: matches an item's content at each level with its neighbour's among all of the batch.

    (B, L, d), (B, L, d) -> scalar: sum ("paper") or mean ("code") over levels, mean over the batch. Every
    process computes the loss over the rows of all processes, so each row has the negatives of all.
    """
    with torch.autocast(a.device.type, enabled=False):  # exp(cos / 0.1) of a bfloat16 cosine is too coarse
        a, b = (gather_rows(x.to(torch.promote_types(x.dtype, torch.float32))) for x in (a, b))
        levels = [info_nce(a[:, level], b[:, level], temperature) for level in range(a.shape[1])]
    total = torch.stack(levels).sum()
    return total if reduction == "paper" else total / len(levels)


def utgrec_objective(
    text: Tensor,
    picture: Tensor,
    code: Tensor,
    alignment: Tensor,
    neighbour_text: Tensor,
    neighbour_picture: Tensor,
    *,
    alpha: float,
    lambda_code: float,
    mu: float,
    eta: float,
) -> Tensor:
    """UTGRec Eq. 13: L_Raw + lambda L_Code + mu L_Ali + eta L_Re, with L_Raw of Eq. 10 and L_Re of Eq. 12."""
    raw = text + alpha * picture
    neighbour = neighbour_text + alpha * neighbour_picture
    return raw + lambda_code * code + mu * alignment + eta * neighbour
