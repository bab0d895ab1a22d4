"""Objectives of models over items: softmax over the catalogue, sampled negatives, in-batch contrast.

Letters: M positions that predict, D width, N items of the domain, S sampled negatives, R rows of a batch that
each have a target (a few rows at a time in `catalogue_cross_entropy`), B users, T positions of a sequence.
Negatives are sampled uniformly from the domain with torch's generator, like dropout's masks. If several
processes share a batch, rows are compared with those of all processes, and samples are drawn for all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from genrec_lab.data import NO_ITEM
from genrec_lab.training.processes import drawn_for_all, gather_rows, places_of_rows, same_in_all

# Bytes of scores in fp32 that are held at a time: the size of a core's cache, or a small part of a GPU.
_ON_CPU, _ON_GPU = 4 << 20, 256 << 20
_FEWEST_ROWS = 64  # with fewer, the products are too small to be fast


def catalogue_cross_entropy(
    states: Tensor, items: Tensor, wanted: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of the wanted items (M,) among all N.

    Scores are inner products of `states` (M, D) and `items` (N, D) plus `bias` (N,). NaN if M is 0, as in
    torch. It has no second derivative.
    """
    if not len(wanted):
        return (states.sum() + items.sum()) * torch.nan
    return _loss(states, items, wanted, bias, None, None)


def batch_cross_entropy(states: Tensor, targets: Tensor, ids: Tensor, fakes: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of each row's target (M, D) among the targets of all rows.

    Other targets with the same one of the `ids` (M,) do not count. `fakes` (M,) holds the score of an
    additional negative for each row.
    """
    return _loss(states, gather_rows(targets), own_places(ids), None, gather_rows(ids), fakes)


def own_places(ids: Tensor) -> Tensor:
    """Return the positions (M,) of this process's `ids` (M,) among those from `gather_rows`."""
    first, _ = places_of_rows(len(ids))
    return first + torch.arange(len(ids), device=ids.device)


def _loss(states: Tensor, items: Tensor, wanted: Tensor, *more: Tensor | None) -> Tensor:
    device = states.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    with torch.autocast(device, enabled=False):  # only the large products use `product`
        loss: Tensor = _CrossEntropy.apply(product, states, items, wanted, *more)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy on a few rows at a time, so that their scores stay in the cache.

    A plain implementation reads and writes the scores of all positions and items about eight times, which
    takes longer than the network. Here the gradients of some rows are computed while their scores are in the
    cache, and only the gradients are kept (the idea of Wijmans et al. 2025, "Cut your losses", for language
    models). The result equals `F.cross_entropy((states @ items.T).float(), wanted)` up to rounding:
    exponentials and sums use fp32, products use autocast's type if it is on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        product: torch.dtype,
        states: Tensor,
        items: Tensor,
        wanted: Tensor,
        bias: Tensor | None,
        ids: Tensor | None,
        further: Tensor | None,
    ) -> Tensor:
        held = _ON_CPU if states.device.type == "cpu" else _ON_GPU
        rows = min(len(states), max(_FEWEST_ROWS, held // (4 * len(items))))
        read, table = states.to(product), items.to(product)
        columns = table.T.contiguous()
        losses = torch.empty(len(states), device=states.device)
        of_states = torch.empty_like(states, dtype=torch.float32)
        of_items = torch.zeros_like(items, dtype=torch.float32)
        of_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        of_further = None if further is None else torch.empty_like(further, dtype=torch.float32)
        for start in range(0, len(states), rows):
            part = slice(start, start + rows)
            scores = (read[part] @ columns).float()
            if bias is not None:
                scores += bias
            own = scores.gather(1, wanted[part, None])
            if ids is not None:
                again = ids[wanted[part], None] == ids
                scores.masked_fill_(again.scatter_(1, wanted[part, None], False), -torch.inf)
            highest = scores.amax(1, keepdim=True)
            if further is not None:
                highest = torch.maximum(highest, further[part, None])
            # exp(score - highest); divided by its sum later, with D instead of N divisions
            weights = scores.sub_(highest).exp_()
            total = weights.sum(1, keepdim=True)
            if further is not None and of_further is not None:
                weight = (further[part, None].float() - highest).exp()
                total = total + weight
                of_further[part] = (weight / total).squeeze(1)
            losses[part] = (total.log() + highest - own).squeeze(1)
            rounded = weights.to(product)
            of_states[part] = (rounded @ table).float() / total
            of_items += rounded.T @ (read[part] / total).to(product)
            if of_bias is not None:
                of_bias += total.reciprocal().T.mm(weights).squeeze(0)
        of_states -= table[wanted]
        of_items.index_add_(0, wanted, read.float(), alpha=-1)
        if of_bias is not None:
            of_bias.index_add_(0, wanted, torch.ones_like(losses), alpha=-1)
        ctx.save_for_backward(of_states, of_items, None, of_bias, None, of_further)
        ctx.types = [
            None if given is None else given.dtype for given in (states, items, None, bias, None, further)
        ]
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        share = gradient / len(ctx.saved_tensors[0])
        needed = ctx.needs_input_grad[1:]
        found = zip(ctx.saved_tensors, ctx.types, needed, strict=True)
        return None, *(
            (part * share).to(kind) if asked and part is not None else None for part, kind, asked in found
        )


def in_batch_contrast(
    states: Tensor, targets: Tensor, ids: Tensor, temperature: float, fakes: Tensor | None = None
) -> Tensor:
    """Return the mean negative log-probability of each row's target among the targets of all rows.

    Scores are cosines of states and targets (R, D) divided by the temperature. Rows with the same one of the
    ids (R,) are not negatives of each other. fakes (R, D): one more negative per row. This is the
    pre-training loss of UniSRec, VQ-Rec (with fakes) and MISSRec.
    """
    states, targets = for_cosine(states, targets, temperature)
    if fakes is not None:
        fakes = (states * F.normalize(fakes.float(), dim=-1)).sum(-1)
    return batch_cross_entropy(states, targets, ids, fakes)


def for_cosine(states: Tensor, items: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return states (R, D) and items (N, D) whose inner products are cosines divided by the temperature."""
    return F.normalize(states.float(), dim=-1) / temperature, F.normalize(items.float(), dim=-1)


def in_batch_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy of (R, R or more) logits in which row i belongs to column i.

    Other columns with the same one of the ids (R,) do not count. With several processes, the columns are the
    rows of all of them.
    """
    places, of_all = own_places(ids), gather_rows(ids)
    again = (ids[:, None] == of_all).scatter_(1, places[:, None], False)
    again = F.pad(again, (0, logits.shape[1] - len(of_all)))
    return F.cross_entropy(logits.masked_fill(again, -torch.inf), places)


def kept_at_random(sequences: Tensor, drop: float) -> Tensor:
    """Return (B, T) bool for sequences (B, T), false at each position with probability `drop`."""
    width, device = sequences.shape[1], sequences.device
    return drawn_for_all(lambda rows: torch.rand(rows, width, device=device), len(sequences)) >= drop


def shortened(sequences: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Remove items from sequences; return the shorter sequences and the new positions.

    sequences (B, T) padded on the right with -1, keep (B, T) bool -> (B, T) padded in the same way, and (B,
    T): for each old position, the new position of the last kept item up to it. The first item is always kept.
    """
    keep = keep & (sequences != NO_ITEM)
    keep[:, 0] = True
    last = keep.cumsum(1) - 1
    width = sequences.shape[1]
    left = sequences.new_full((len(sequences), width + 1), NO_ITEM)
    left.scatter_(1, torch.where(keep, last, width), torch.where(keep, sequences, NO_ITEM))
    return left[:, :width], last


def binary_cross_entropy(states: Tensor, embeddings: Tensor, wanted: Tensor) -> Tensor:
    """SASRec Eq. (7): the wanted item against one other item, drawn for each position."""
    positive, negative = _with_one_other(states, embeddings, wanted)
    return (F.softplus(-positive) + F.softplus(negative)).mean()


def bpr(states: Tensor, embeddings: Tensor, wanted: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009) with one other item, drawn for each position."""
    positive, negative = _with_one_other(states, embeddings, wanted)
    return F.softplus(negative - positive).mean()


def bpr_max(
    states: Tensor, embeddings: Tensor, wanted: Tensor, samples: int, regularisation: float
) -> Tensor:
    """GRU4Rec's BPR-max (Hidasi and Karatzoglou 2018): BPR weighted towards the highest negatives.

    The `samples` negatives are shared by all positions; a negative that equals the wanted item does not
    count.
    """
    positive, negative, weight = _with_samples(states, embeddings, wanted, samples)
    ranked = (weight * torch.sigmoid(positive - negative)).sum(1)
    return (-(ranked + 1e-24).log() + regularisation * (weight * negative**2).sum(1)).mean()


def top1_max(states: Tensor, embeddings: Tensor, wanted: Tensor, samples: int) -> Tensor:
    """GRU4Rec's TOP1-max (Hidasi and Karatzoglou 2018), negatives as in `bpr_max`."""
    positive, negative, weight = _with_samples(states, embeddings, wanted, samples)
    return (weight * (torch.sigmoid(negative - positive) + torch.sigmoid(negative**2))).sum(1).mean()


def others(wanted: Tensor, n_items: int) -> Tensor:
    """Return a different item, drawn uniformly, for each wanted item (M,); the same one if N is 1."""
    if n_items == 1:
        return wanted.clone()
    step = drawn_for_all(lambda rows: torch.randint(1, n_items, (rows,), device=wanted.device), len(wanted))
    return (wanted + step) % n_items


def _with_one_other(states: Tensor, embeddings: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    positive, negative = embeddings[wanted], embeddings[others(wanted, len(embeddings))]
    return (states * positive).sum(-1).float(), (states * negative).sum(-1).float()


def _with_samples(
    states: Tensor, embeddings: Tensor, wanted: Tensor, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (M, 1) of the wanted items, (M, S) of negatives, and the negatives' softmax weights."""
    drawn = torch.randint(len(embeddings), (samples,), device=states.device)
    same_in_all([drawn])
    positive = (states * embeddings[wanted]).sum(-1, keepdim=True).float()
    negative = (states @ embeddings[drawn].T).float()
    same = drawn == wanted[:, None]
    # If only the wanted item was drawn, the weights are 0 instead of NaN.
    weight = negative.masked_fill(same, -torch.inf).softmax(1).nan_to_num(0.0)
    return positive, negative, weight.masked_fill(same, 0.0)
