"""Muon whose products run in float32 where the hardware has no bf16."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genrec_lab.training.devices import bf16_is_native


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan et al. 2024), with steps of AdamW's size: a matrix's update is made orthogonal.

    torch makes it orthogonal in bf16 on every device. A CPU without bf16 instructions emulates them, about
    70 times slower than float32, and a training step then consists of little else. There the products run in
    float32 instead; on all other devices this is torch's step, bit for bit.

        >>> layer = torch.nn.Linear(4, 2, bias=False)
        >>> layer(torch.ones(1, 4)).sum().backward()
        >>> Muon([layer.weight], lr=0.01).step()
    """

    def __init__(self, matrices: list[torch.nn.Parameter], *, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; the parameters lie on one device."""
        if bf16_is_native(self.param_groups[0]["params"][0].device):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, matrices, gradients, momenta)
            for matrix, gradient, momentum in zip(matrices, gradients, momenta, strict=True):
                momentum.lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(momentum, group["momentum"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(
                    orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"]),
                    alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)),
                )
        return loss


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return about U V^T of a matrix U S V^T (n, m), of the same type, by Newton and Schulz's iteration."""
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=eps)  # singular values of at most 1, where the iteration converges
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
