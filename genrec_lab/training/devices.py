"""Where a model computes: the accelerator, the number type of its products, its memory, its layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genrec_lab.training import processes

DEVICE_VARIABLE = "GENREC_DEVICE"
Module = TypeVar("Module", bound=nn.Module)
_chosen: torch.device | None = None  # by `computing_on`


class TrainingMemoryError(RuntimeError):
    """A batch that the device cannot hold; the message says what to lower."""


# --- placement


def device() -> torch.device:
    """Return the device on which this process computes: the accelerator where there is one, else the CPU.

    The environment variable GENREC_DEVICE names another one, as "cpu" or "cuda:1", and `computing_on` chooses
    one for a block. Several processes have an accelerator each. Raises ValueError for a variable that names
    no device.
    """
    named = os.environ.get(DEVICE_VARIABLE, "auto")
    if _chosen is not None:
        return _chosen
    if named not in ("", "auto"):
        try:
            wanted = torch.device(named)
        except RuntimeError as error:
            raise ValueError(
                f'{DEVICE_VARIABLE} is {named!r}; expected "auto", "cpu", or a device such as "cuda:0"'
            ) from error
        # Of several processes each has an accelerator of its own, whatever number the variable names.
        if wanted.type == "cpu" or not processes.several():
            return wanted
    return processes.own_device()


@contextmanager
def computing_on(wanted: str | torch.device) -> Iterator[None]:
    """Let everything that is loaded, prepared or trained within the block compute on this device.

    >>> with computing_on("cpu"):
    ...     print(device())
    cpu
    """
    global _chosen
    before, _chosen = _chosen, torch.device(wanted)
    try:
        yield
    finally:
        _chosen = before


def placed(module: Module, where: torch.device | None = None) -> Module:
    """Move a module to a device, by default `device()`, and return it; whatever loads a model calls this."""
    where = where or device()
    return module.to(where, non_blocking=where.type != "cpu")


def moved(batch: Any, where: torch.device) -> Any:
    """Return a tensor, or mappings and tuples of tensors, on a device; no copy to it is waited for."""
    if isinstance(batch, Mapping):
        return {name: moved(part, where) for name, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(moved(part, where) for part in batch)
    if isinstance(batch, Tensor):
        # From the device to the CPU a copy must be waited for, or the tensor would be read too early.
        return batch.to(where, non_blocking=where.type != "cpu")
    return batch


# --- number types


def bf16_is_native(where: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware, so that autocast gains time."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if where.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def product_type(where: torch.device, precision: str) -> torch.dtype:
    """Return the type in which matrix products run under a precision setting."""
    is_bf16 = precision == "bf16" or (precision == "auto" and bf16_is_native(where))
    return torch.bfloat16 if is_bf16 else torch.float32


def autocast(where: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision setting."""
    enabled = product_type(where, precision) is torch.bfloat16
    return torch.autocast(where.type, dtype=torch.bfloat16, enabled=enabled)


# --- memory


@contextmanager
def batch_must_fit(samples: int, epoch: int, at_once: int | None, world: int = 1) -> Iterator[None]:
    """Turn a lack of device memory in a step of so many samples into a TrainingMemoryError with advice.

    at_once: the config's `samples_at_once`; world: the processes that share a batch.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        share = -(-samples // world)
        held = share if at_once is None else min(share, at_once)
        raise TrainingMemoryError(
            f"the device's memory ran out at a batch of {samples} samples in epoch {epoch}, {held} of them "
            f"at one time on this device; lower this training's samples_at_once (now {at_once}) to "
            f"{max(1, held // 2)} or less, which leaves the batch as it is, or set gradient_checkpointing, "
            f"or else lower its batch_size or pairs.max_history. Finished epochs are kept where there are "
            f"checkpoints, but only for the same settings ({str(error)[:200]})"
        ) from error


# --- stacked layers: the members of a model's ModuleLists


def recomputed_layers(model: nn.Module, wanted: bool = True) -> AbstractContextManager[None]:
    """Within the block, let the model's stacked layers keep their inputs only.

    What happens inside them is computed again for the backward pass, dropout included: the same numbers for
    less memory and about a third more time (Chen et al. 2016, Training deep nets with sublinear memory cost).
    """
    return _with_forward(model, wanted, lambda own: partial(checkpoint, own, use_reentrant=False))


def compiled_layers(model: nn.Module, wanted: bool = True) -> AbstractContextManager[None]:
    """Within the block, let torch compile the model's stacked layers, with shapes left open.

    They are compiled one by one, not the whole model: equal layers are compiled once, and what is around
    them, which reads numbers from tensors and differs from batch to batch, stays as it is.
    """
    return _with_forward(model, wanted, lambda own: torch.compile(own, dynamic=True))


@contextmanager
def _with_forward(
    model: nn.Module, wanted: bool, change: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> Iterator[None]:
    """Replace each layer's `forward` by one made of it, and take the replacement away at the end."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    stacked = {layer for one in lists for layer in one if not isinstance(layer, nn.ModuleList)}
    before = {layer: vars(layer).get("forward") for layer in stacked} if wanted else {}
    for layer in before:
        layer.forward = change(layer.forward)
    try:
        yield
    finally:
        for layer, own in before.items():
            if own is None:
                del layer.forward  # the class's own is found again
            else:
                layer.forward = own
