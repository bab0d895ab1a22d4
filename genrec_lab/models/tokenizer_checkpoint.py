"""The file from which a killed tokenizer training goes on: tensors and counters in one safetensors file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_COUNTERS = "counters"


def write_checkpoint(file: Path, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
    """Write tensors and JSON-able counters atomically: a kill leaves the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        partial,
        {_COUNTERS: json.dumps(counters)},
    )
    os.replace(partial, file)


def read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote; ValueError where the file is damaged."""
    try:
        with safe_open(file, framework="pt") as stored:
            counters = json.loads(stored.metadata()[_COUNTERS])
            return {name: stored.get_tensor(name) for name in stored.keys()}, counters  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a readable checkpoint ({error}); delete it to train anew") from error
