"""Floating-point operations: how many a computation has, and how many a second the device can do.

MFU, the model-FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B), is their ratio: the operations of
a step's matrix products, forwards and backwards, over its seconds and over the rate of one large product in
the same number type. Padding counts as work, because the device does it; element-wise work and the optimiser
do not. Where gradient checkpointing computes twice, both count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_COUNTED_STEPS = 4  # batches differ in length; counting costs some per cent of a step


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of large matrices, measured once a process, type and thread count.

    8,192 rows; on a CPU 512 or 1,024, whichever is faster.
    """
    return _rate(device, dtype, torch.get_num_threads())


@cache
def _rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    if device.type != "cpu":
        return product_rate(device, dtype, 8192)
    # Many short products: some of them are not interrupted by what else the machine does.
    return max(product_rate(device, dtype, 512, 20), product_rate(device, dtype, 1024, 4))


def product_rate(device: torch.device | str, dtype: torch.dtype, size: int, repeats: int = 3) -> float:
    """Operations a second of a product of two matrices of `size` rows: the best of some, after a first."""
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # reading a number waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])


class OperationCounter(TorchDispatchMode):
    """Adds up the `operations` of what runs within its block.

    Unlike torch's FlopCounterMode it takes none of them apart, and keeps no layer that is computed again.
    """

    operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        if count := flop_registry.get(func._overloadpacket):
            self.operations += count(*args, **given, out_val=out)
        return out


class StepMeter:
    """Counts the operations of the first steps, from which it tells the MFU of the others."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, counts: bool = True) -> None:
        """`dtype` is the matrix products', autocast's where it is on; without `counts` nothing is counted."""
        self.device, self.dtype = device, dtype
        self._left = _COUNTED_STEPS if counts else 0
        self._operations, self._samples = 0, 0

    @contextmanager
    def step(self, samples: int) -> Iterator[None]:
        """Stand around the forward and backward pass of a step over so many samples."""
        if not self._left:
            yield
            return
        with OperationCounter() as counter:
            yield
        self._left -= 1
        self._operations += counter.operations
        self._samples += samples

    @property
    def operations_per_sample(self) -> float | None:
        """Operations of a sample, the mean of the steps that were counted; None before the first."""
        return self._operations / self._samples if self._samples else None

    def mfu(self, samples_per_second: float) -> float | None:
        """Share of the device's rate that so many samples a second are; None where no step was counted."""
        each = self.operations_per_sample
        return None if each is None else each * samples_per_second / matrix_rate(self.device, self.dtype)
