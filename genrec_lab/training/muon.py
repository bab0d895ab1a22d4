"""A faster Muon for many small matrices on a GPU and for CPUs without bf16."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from genrec_lab.training.devices import bf16_is_native


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan et al. 2024), which orthogonalises updates, with steps of AdamW's size.

    torch processes one matrix at a time, in bf16, on every device. On a GPU, a small model then spends most
    of a step on launching kernels; here, matrices of the same shape share each product, also in bf16. A CPU
    without bf16 instructions emulates them, about 70 times slower than float32; here, it uses float32. On a
    CPU with bf16, the step is identical to torch's.

        >>> layer = torch.nn.Linear(4, 2, bias=False)
        >>> layer(torch.ones(1, 4)).sum().backward()
        >>> Muon([layer.weight], lr=0.01).step()
    """

    def __init__(self, matrices: list[torch.nn.Parameter], *, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; all parameters must be on one device."""
        where = self.param_groups[0]["params"][0].device
        is_native, shared = bf16_is_native(where), shares_products(where)
        if is_native and not shared:
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
            if not matrices:
                continue
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            looking_ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
            updates = [update.T if update.shape[0] > update.shape[1] else update for update in looking_ahead]
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for place, update in enumerate(updates):
                groups[(*update.shape, 0 if shared else place)].append(place)
            for places in groups.values():
                own = [matrices[place] for place in places]
                stacked = torch.stack([updates[place] for place in places])
                wide = stacked.bfloat16() if is_native else stacked
                found = orthogonal(wide, group["ns_coefficients"], group["ns_steps"], group["eps"])
                turned = [
                    update.T if matrix.shape[0] > matrix.shape[1] else update
                    for matrix, update in zip(own, found.to(stacked.dtype), strict=True)
                ]
                size = 0.2 * math.sqrt(max(stacked.shape[1:]))
                torch._foreach_add_(own, turned, alpha=-group["lr"] * size)
        return loss


def shares_products(where: torch.device) -> bool:
    """Return whether batched matrix products are faster than single ones, which is not so on a CPU."""
    return where.type != "cpu"


def orthogonal(wide: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Return approximately U V^T of each matrix U S V^T (k, n, m), n <= m, by Newton-Schulz iteration."""
    a, b, c = coefficients
    # The iteration converges for singular values of at most 1.
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide
