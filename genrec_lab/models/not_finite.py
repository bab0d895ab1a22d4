"""Where NaN or infinity comes from in a network, so that an error can name the layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn


def source_of_nan(model: nn.Module, run: Callable[[], object]) -> str:
    """Name the first weight that is not finite, or else the first layer of `run()` whose output is not."""
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
