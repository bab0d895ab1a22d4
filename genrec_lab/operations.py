"""Floating-point operations: how many a computation has, and how many a second the device can do.

MFU, the model-FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B), is their ratio: the operations of
a step's matrix products, forwards and backwards, over its seconds and over the rate of one large product in
the same number type. Padding counts as work, for the device does it; element-wise work and the optimiser do
not. Where gradient checkpointing computes twice, both count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

_COUNTED_STEPS = 4  # batches differ in length; counting costs some per cent of a step


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of large matrices: 1,024 rows on a CPU, 8,192 elsewhere.

    Measured once a process, device, type and number of threads.
    """
    return _rate(device, dtype, torch.get_num_threads())


@cache
def _rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    return product_rate(device, dtype, 1024 if device.type == "cpu" else 8192)


def product_rate(device: torch.device | str, dtype: torch.dtype, size: int) -> float:
    """Operations a second of a product of two matrices of `size` rows: the best of three, after a first."""
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # reading a number waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])


class StepMeter:
    """Counts the operations of the first steps, from which it tells the MFU of the others."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """`dtype` is that of the matrix products: autocast's where it is on."""
        self.device, self.dtype = device, dtype
        self._steps, self._operations, self._samples = 0, 0, 0

    @contextmanager
    def step(self, samples: int) -> Iterator[None]:
        """Stand around the forward and backward pass of a step over so many samples."""
        if self._steps == _COUNTED_STEPS:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self._steps += 1
        self._operations += counter.get_total_flops()
        self._samples += samples

    @property
    def operations_per_sample(self) -> float | None:
        """Operations of a sample, the mean of the steps that were counted; None before the first."""
        return self._operations / self._samples if self._samples else None

    def mfu(self, samples_per_second: float) -> float | None:
        """Share of the device's rate that so many samples a second are; None where no step was counted."""
        each = self.operations_per_sample
        return None if each is None else each * samples_per_second / matrix_rate(self.device, self.dtype)
