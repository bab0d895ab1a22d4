"""Parts of networks: dropout from a pool of masks, initialised linear layers, and a search for NaN."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache

import torch
from torch import Generator, Tensor, nn

_POOL_SIZE = 1 << 23
_LARGEST_SLICE = _POOL_SIZE // 2  # so that a slice can start anywhere in half of the pool


class PooledDropout(nn.Module):
    """Dropout that multiplies by a slice of a pool of masks, at a random offset in every call.

    On a CPU, the generator draws one number per element on one thread; for the feed-forward layers of a small
    T5 that takes sixty times as long as the multiplication. The pool is drawn once. The offset of a slice
    comes from torch's generator, so a seed determines the masks, and a layer gets a different mask at each
    step. On other devices, and when torch compiles the model, this is plain dropout.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout is {p}; it must be at least 0 and below 1")
        self.p = p

    def extra_repr(self) -> str:
        """Return the rate for the printed model."""
        return f"p={self.p}"

    def forward(self, x: Tensor) -> Tensor:
        """Zero each element with probability p and scale the others by 1 / (1 - p), in training only."""
        if not self.training or self.p == 0.0 or x.numel() == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return nn.functional.dropout(x, self.p, training=True)
        pool, slices = _pool(self.p, x.dtype), []
        for start in range(0, x.numel(), _LARGEST_SLICE):
            size = min(_LARGEST_SLICE, x.numel() - start)
            offset = int(torch.randint(_POOL_SIZE - size, (1,)))
            slices.append(pool[offset : offset + size])
        return x * (slices[0] if len(slices) == 1 else torch.cat(slices)).view(x.shape)


@cache
def _pool(p: float, dtype: torch.dtype) -> Tensor:
    """Return the masks of a rate in a type, which all layers of that rate share."""
    # A separate generator: whether the pool already exists must not change what a layer draws.
    generator = torch.Generator().manual_seed(0x5EED)
    # Outside inference mode, whose tensors cannot be used in later training.
    with torch.inference_mode(False):
        keep = torch.rand(_POOL_SIZE, generator=generator) >= p
        return (keep / (1.0 - p)).to(dtype)


def drawn_linear(
    inputs: int, outputs: int, generator: Generator | None = None, scale: float = 1.0
) -> nn.Linear:
    """Return a layer with weights ~ N(0, scale² / inputs) and zero bias.

    The layer keeps the variance of its input (times scale²) at any width. UTGRec's code draws from
    N(0, 0.02²), which is nearly the same at its width of 1,536.
    """
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # nn.Linear uses the global generator
    nn.init.normal_(linear.weight, std=scale * inputs**-0.5, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


def source_of_nan(model: nn.Module, run: Callable[[], object]) -> str:
    """Name the first weight that is not finite, or else the first layer of `run()` with such an output."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            return f"the weight {name} is not finite"
    first: list[str] = []

    def watching(name: str) -> Callable[[nn.Module, object, object], None]:
        def watch(module: nn.Module, inputs: object, output: object) -> None:
            if not first and isinstance(output, Tensor) and not torch.isfinite(output).all():
                first.append(name)

        return watch

    with ExitStack() as hooks:
        for name, layer in model.named_modules():
            hooks.callback(layer.register_forward_hook(watching(name)).remove)
        run()
    return f"the output of {first[0]} is not finite" if first else "the output of every layer is finite"
