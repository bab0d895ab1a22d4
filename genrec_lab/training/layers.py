"""Other ways to run a model's stacked layers (every member of a ModuleList): recomputed, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed_layers(model: nn.Module, wanted: bool = True) -> AbstractContextManager[None]:
    """Let the model's stacked layers keep their inputs only, as long as the block lasts.

    What happens inside them is computed again for the backward pass, dropout included: the same numbers for
    less memory and about a third more time (Chen et al. 2016, Training deep nets with sublinear memory cost).
    """
    return _with_forward(model, wanted, lambda own: partial(checkpoint, own, use_reentrant=False))


def compiled_layers(model: nn.Module, wanted: bool = True) -> AbstractContextManager[None]:
    """Let torch compile the model's stacked layers, with shapes left open, as long as the block lasts.

    One by one, not the whole model: equal layers are compiled once, and what is around them, which reads
    numbers from tensors and differs from batch to batch, stays as it is.
    """
    return _with_forward(model, wanted, lambda own: torch.compile(own, dynamic=True))


@contextmanager
def _with_forward(
    model: nn.Module, wanted: bool, change: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> Iterator[None]:
    """Give each layer another `forward`, made of the one that it has, and take it away at the end."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    stacked = {layer for one in lists for layer in one if not isinstance(layer, nn.ModuleList)}
    before = {layer: vars(layer).get("forward") for layer in stacked} if wanted else {}
    for layer in before:
        layer.forward = change(layer.forward)
    try:
        yield
    finally:
        for layer, own in before.items():
            if own is None:
                del layer.forward  # the class's own stands again
            else:
                layer.forward = own
