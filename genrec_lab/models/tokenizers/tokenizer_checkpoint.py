"""The file from which a killed tokenizer training goes on: tensors and counters in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec_lab.data.whole_files import whole_file

_COUNTERS, _HASH, _CODES = "counters", "sha256", "codes"


class DamagedCheckpoint(ValueError):
    """A checkpoint that is not what was written; the message names the file."""


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
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(file) as partial:
        save_file(contiguous, partial, {_COUNTERS: json.dumps(counters), _HASH: _hash(contiguous)})


def read_checkpoint(
    file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any], np.ndarray | None]:
    """Put weights and moments back, return the best weights, the counters and the codes.

    The codes are None where nothing was reported yet, or in a file of an older version. Raises
    DamagedCheckpoint where the file is not what was written, by its hash, and ValueError where its counters'
    "identity" differs from this one.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            counters = json.loads(stored.metadata()[_COUNTERS])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            written = stored.metadata().get(_HASH)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{file} is not a readable checkpoint ({error})") from error
    if written not in (None, _hash(tensors)):  # without a hash it is of a version that wrote none
        raise DamagedCheckpoint(
            f"{file} is not what was written, by its hash: a failing disk, or a change by hand"
        )
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


def _hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over all tensors in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")
    }
