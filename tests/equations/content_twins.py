"""What the tests of the models with item content share: sizes, weights that matter, InfoNCE by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIZES: dict[str, Any] = {"width": 8, "feed_forward": 16, "layers": 1, "dropout": 0.0, "max_history": 5}
SEQUENCES = torch.tensor([[0, 3, 5, 1, 7, 2], [4, 4, 6, -1, -1, -1], [1, 2, -1, -1, -1, -1]])


def shaken(model: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def by_hand(states: Tensor, targets: Tensor, ids: list[int], temperature: float, fakes: Any = None) -> float:
    """InfoNCE, one row and one negative at a time."""
    total = 0.0
    s, t = states.detach().double().numpy(), targets.detach().double().numpy()
    for row in range(len(s)):
        own = math.exp(unit(s[row]) @ unit(t[row]) / temperature)
        everything = own
        for other in range(len(s)):
            if other != row and ids[other] != ids[row]:
                everything += math.exp(unit(s[row]) @ unit(t[other]) / temperature)
        if fakes is not None:
            everything += math.exp(unit(s[row]) @ unit(fakes[row].double().numpy()) / temperature)
        total -= math.log(own / everything)
    return total / len(s)
