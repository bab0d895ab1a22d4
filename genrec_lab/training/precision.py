"""Where a model computes in bf16: on hardware that multiplies it natively."""

from __future__ import annotations

import torch


def bf16_is_native(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware, so that autocast gains time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def product_type(device: torch.device, precision: str) -> torch.dtype:
    """Return the type in which matrix products run under a precision setting."""
    is_bf16 = precision == "bf16" or (precision == "auto" and bf16_is_native(device))
    return torch.bfloat16 if is_bf16 else torch.float32


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision setting."""
    enabled = product_type(device, precision) is torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
