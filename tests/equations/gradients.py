"""Gradients by central differences, and tensors that want one: what the twins of the equations share."""

from collections.abc import Callable

import numpy as np
import torch


def numeric_gradient(
    function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6
) -> np.ndarray:
    """Central differences of a scalar function."""
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        offset = np.zeros_like(at)
        offset[index] = step
        gradient[index] = (function(at + offset) - function(at - offset)) / (2 * step)
    return gradient


def leaf(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, requires_grad=True)
