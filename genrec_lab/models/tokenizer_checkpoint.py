"""The file from which a killed tokenizer training goes on: tensors and counters in one safetensors file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

_COUNTERS = "counters"
_CODES = "codes"


def write_checkpoint(
    file: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    counters: dict[str, Any],
    codes: np.ndarray | None = None,
) -> None:
    """Write weights, optimiser moments, the best weights so far and counters that JSON can hold.

    codes: (N, L) of the last epoch that was reported, with which the next report compares. Atomic: a kill
    leaves the old file or the new one.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
    if codes is not None:
        tensors[_CODES] = torch.from_numpy(codes)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, partial, {_COUNTERS: json.dumps(counters)})
    os.replace(partial, file)


def read_checkpoint(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any], np.ndarray | None]:
    """Put weights and moments back, return the best weights, the counters and the codes.

    The codes are None where nothing was reported yet, or in a file of an older version. Raises
    ValueError where the file is damaged, or where its counters' "identity" differs from this one.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            counters = json.loads(stored.metadata()[_COUNTERS])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a readable checkpoint ({error}); delete it to train anew") from error
    there = counters["identity"]
    for key, here in identity.items():
        if there.get(key) != here:
            raise ValueError(
                f"{file} belongs to a training with {key} = {there.get(key)!r}, this one has {here!r}; "
                f"delete it to train anew, or give another checkpoint folder"
            )
    model.load_state_dict(_part(tensors, "model"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _part(tensors, "optimizer").items():
        number, key = name.split(".")
        moments.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    codes = tensors.get(_CODES)
    return _part(tensors, "best"), counters, None if codes is None else codes.numpy()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")
    }
