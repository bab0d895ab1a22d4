"""Linear layers whose weights come from a given generator."""

from __future__ import annotations

import torch
from torch import nn


def drawn_linear(
    inputs: int, outputs: int, generator: torch.Generator | None = None, scale: float = 1.0
) -> nn.Linear:
    """Return a layer with weights ~ N(0, scale² / inputs) and no offset at first.

    The layer keeps the variance of its input (times scale²) whatever its width. UTGRec's code draws from
    N(0, 0.02²), which is nearly the same at its width of 1,536.
    """
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # nn.Linear draws from the global generator
    nn.init.normal_(linear.weight, std=scale * inputs**-0.5, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear
