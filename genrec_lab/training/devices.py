"""The device of a model: placement, number types, memory, and recomputed or compiled layers."""

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
    """Raised if a batch does not fit in the device's memory; the message says what to lower."""


# --- placement


def device() -> torch.device:
    """Return the device of this process: the accelerator if there is one, else the CPU.

    The environment variable GENREC_DEVICE selects another one, such as "cpu" or "cuda:1", and `computing_on`
    selects one for a block. Several processes use one accelerator each. Raises ValueError if the variable is
    not a device.
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
        # With several processes, each has its own accelerator, regardless of the number in the variable.
        if wanted.type == "cpu" or not processes.several():
            return wanted
    return processes.own_device()


@contextmanager
def computing_on(wanted: str | torch.device) -> Iterator[None]:
    """Within the block, load, prepare and train everything on this device.

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
    """Move a module to a device, by default `device()`, and return it; call this on every loaded model."""
    where = where or device()
    return module.to(where, non_blocking=where.type != "cpu")


def moved(batch: Any, where: torch.device) -> Any:
    """Move a tensor, or mappings and tuples of tensors, to a device without waiting for the copies."""
    if isinstance(batch, Mapping):
        return {name: moved(part, where) for name, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(moved(part, where) for part in batch)
    if isinstance(batch, Tensor):
        # Copies from the device to the CPU must be waited for, or the tensor would be read too early.
        return batch.to(where, non_blocking=where.type != "cpu")
    return batch


# --- number types


def bf16_is_native(where: torch.device) -> bool:
    """Return whether the device multiplies bf16 matrices in hardware, so that autocast saves time."""
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
    """Convert an out-of-memory error in a step of `samples` samples to a TrainingMemoryError with advice.

    at_once: the config's `samples_at_once`; world: the processes that share a batch.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        share = -(-samples // world)
        held = share if at_once is None else min(share, at_once)
        raise TrainingMemoryError(
            f"the device's memory ran out at a batch of {samples} samples in epoch {epoch}, {held} of them "
            f"at a time on this device; lower this training's samples_at_once (now {at_once}) to "
            f"{max(1, held // 2)} or less, which does not change the batch, or set gradient_checkpointing, "
            f"or lower its batch_size or pairs.max_history. Checkpoints keep finished epochs, but only for "
            f"the same settings ({str(error)[:200]})"
        ) from error


# --- stacked layers: the members of a model's ModuleLists


def recomputed_layers(model: nn.Module, wanted: bool = True) -> AbstractContextManager[None]:
    """Within the block, let the model's stacked layers store only their inputs.

    Their activations, including dropout, are recomputed for the backward pass. This gives the same numbers
    with less memory and about a third more time (Chen et al. 2016, Training deep nets with sublinear memory
    cost).
    """
    return _with_forward(model, wanted, lambda own: partial(checkpoint, own, use_reentrant=False))


def compiled_layers(model: nn.Module, wanted: bool = True) -> AbstractContextManager[None]:
    """Within the block, let torch compile the model's stacked layers with dynamic shapes.

    Layers are compiled individually, so equal layers are compiled once. The code around them is not compiled,
    because it reads numbers from tensors and differs between batches.
    """
    return _with_forward(model, wanted, lambda own: torch.compile(own, dynamic=True))


@contextmanager
def _with_forward(
    model: nn.Module, wanted: bool, change: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> Iterator[None]:
    """Wrap each layer's `forward`, and remove the wrapper at the end."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    stacked = {layer for one in lists for layer in one if not isinstance(layer, nn.ModuleList)}
    before = {layer: vars(layer).get("forward") for layer in stacked} if wanted else {}
    for layer in before:
        layer.forward = change(layer.forward)
    try:
        yield
    finally:
        for layer, own in before.items():
            del layer.forward  # restores the method of the class
            if own is not None:
                layer.forward = own
