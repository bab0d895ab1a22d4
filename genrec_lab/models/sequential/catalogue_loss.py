"""Cross-entropy over a catalogue or a batch, a few rows at a time, so that their scores stay in the cache.

Written plainly, the scores of all places by all items are made, read and written some eight times, which
takes more time than the network before them. Here the gradients of some rows are computed while their
scores are at hand, and no more than those is ever kept (the idea is that of Wijmans et al. 2025, "Cut your
losses", for language models). The result is that of `F.cross_entropy((states @ items.T).float(), wanted)`,
to rounding: exponentials and sums are in fp32, products in autocast's type where it is on.
Letters: M places that predict, D width, N items of the domain, R rows at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Bytes of the scores that are held at a time, in fp32: what a core's cache holds, or a small part of a GPU.
_ON_CPU, _ON_GPU = 4 << 20, 256 << 20
_FEWEST_ROWS = 64  # fewer and the products are too small to be fast


def catalogue_cross_entropy(
    states: Tensor, items: Tensor, wanted: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of the wanted items (M,) among all N.

    `states` (M, D) are compared with `items` (N, D) by inner products, to which `bias` (N,) is added. NaN
    where M is 0, as torch has it. It has no second derivative.
    """
    if not len(wanted):
        return (states.sum() + items.sum()) * torch.nan
    return _loss(states, items, wanted, bias, None, None)


def batch_cross_entropy(states: Tensor, targets: Tensor, ids: Tensor, fakes: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of each row's own target (M, D) among the targets of all rows.

    Another target with the same of the `ids` (M,) does not count. `fakes` (M,) are scores that each row has
    in addition, of what it does not want.
    """
    own = torch.arange(len(ids), device=ids.device)
    return _loss(states, targets, own, None, ids, fakes)


def _loss(states: Tensor, items: Tensor, wanted: Tensor, *more: Tensor | None) -> Tensor:
    device = states.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    with torch.autocast(device, enabled=False):  # only the large products are in `product`
        loss: Tensor = _CrossEntropy.apply(product, states, items, wanted, *more)
    return loss


class _CrossEntropy(torch.autograd.Function):
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
        rows = _rows_at_once(len(states), len(items), states.device)
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
                again = ids[part, None] == ids
                scores.masked_fill_(again.scatter_(1, wanted[part, None], False), -torch.inf)
            highest = scores.amax(1, keepdim=True)
            if further is not None:
                highest = torch.maximum(highest, further[part, None])
            # exp(score - highest); divided by its sum only where that takes D and not N divisions
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


def _rows_at_once(places: int, items: int, device: torch.device) -> int:
    held = _ON_CPU if device.type == "cpu" else _ON_GPU
    return min(places, max(_FEWEST_ROWS, held // (4 * items)))
