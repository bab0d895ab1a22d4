"""Counts the floating-point operations of a computation, and measures the device's rate.

MFU, the model-FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B), is their ratio: the operations of
a step's matrix products, forward and backward, divided by its seconds and by the rate of one large product in
the same number type. Padding counts, because the device computes it; element-wise operations and the
optimiser do not. Recomputation by gradient checkpointing counts too.
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

_LONGEST_PRODUCT = 0.2  # seconds
_COUNTED_STEPS = 4  # several, because batches differ in length; counting takes a few per cent of a step


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return operations per second of a large matrix product, measured once per process, type and threads.

    Uses 8,192 rows; on a CPU 512 or 1,024, whichever is faster, and 512 alone if the CPU emulates the type.
    """
    return _rate(device, dtype, torch.get_num_threads())


@cache
def _rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    if device.type != "cpu":
        return product_rate(device, dtype, 8192)
    short = product_rate(device, dtype, 512, 2)
    if 2 * 1024**3 / short > _LONGEST_PRODUCT:
        return short
    # Many short products, so that some are not interrupted by other processes.
    return max(short, product_rate(device, dtype, 512, 18), product_rate(device, dtype, 1024, 4))


def product_rate(device: torch.device | str, dtype: torch.dtype, size: int, repeats: int = 3) -> float:
    """Return operations per second of a product of two `size` x `size` matrices: the best of several."""
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])


class OperationCounter(TorchDispatchMode):
    """Adds up the `operations` that run within its block.

    Unlike torch's FlopCounterMode, it does not decompose them or keep recomputed layers alive.
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
    """Counts the operations of the first steps to compute the MFU of all steps."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, counts: bool = True) -> None:
        """`dtype` is that of the matrix products (autocast's if it is on); `counts` turns counting on."""
        self.device, self.dtype = device, dtype
        self._left = _COUNTED_STEPS if counts else 0
        self._operations, self._samples = 0, 0

    @contextmanager
    def step(self, samples: int) -> Iterator[None]:
        """Wrap the forward and backward pass of a step over `samples` samples."""
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
        """Return the mean operations per sample of the counted steps; None before the first."""
        return self._operations / self._samples if self._samples else None

    def mfu(self, samples_per_second: float) -> float | None:
        """Return the MFU at a number of samples per second; None if no step was counted."""
        each = self.operations_per_sample
        return None if each is None else each * samples_per_second / matrix_rate(self.device, self.dtype)
