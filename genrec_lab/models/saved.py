"""Saving of models that keep everything in attributes: numpy arrays, lists of arrays, and plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel
from safetensors import safe_open
from safetensors import torch as torch_files
from safetensors.numpy import save_file
from torch import Tensor

from genrec_lab.registry import with_kind

_ARRAYS, _CONFIG = "model.safetensors", "config.json"


def write_weights(weights: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors, on any device, to a safetensors file."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    torch_files.save_file(held, file, metadata)


class SavedAttributes:
    """Provides `save` and `load` for a class that is constructed from its `Config` and learns attributes.

    A class with other attributes, such as a torch module, must define its own `save` and `load`.
    """

    Config: ClassVar[type[BaseModel]]
    config: Any
    not_saved: ClassVar[tuple[str, ...]] = ("config",)  # attributes that are not learned
    settings: ClassVar[tuple[str, ...]] = ()  # further attributes that the constructor sets

    def save(self, folder: Path) -> Any:
        """Write `model.safetensors`, with the arrays and plain values, and `config.json` into a folder.

        Raises ValueError for an attribute that is neither.
        """
        arrays: dict[str, np.ndarray] = {}
        plain: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name in self.not_saved or name in self.settings:
                continue
            if isinstance(value, np.ndarray):
                arrays[name] = np.ascontiguousarray(value)
            elif isinstance(value, list | tuple) and value and isinstance(value[0], np.ndarray):
                arrays |= {f"{name}.{place}": np.ascontiguousarray(one) for place, one in enumerate(value)}
            else:
                plain[name] = value
        try:
            metadata = {"plain": json.dumps(plain)}
        except TypeError as error:
            raise ValueError(
                f"{type(self).__name__} cannot be saved: {error}. Keep only numpy arrays and plain values in "
                "its attributes, or define its save and load"
            ) from error
        self.save_config(folder)
        save_file(arrays, folder / _ARRAYS, metadata)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a model that `save` wrote."""
        return cls(cls.load_config(folder)).read_attributes(folder)  # type: ignore[call-arg]

    def read_attributes(self, folder: Path) -> Self:
        """Set the attributes that `save` wrote."""
        with safe_open(folder / _ARRAYS, framework="numpy") as file:
            arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        for name, value in json.loads(metadata.get("plain", "{}")).items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        for name in dict.fromkeys(name.split(".")[0] for name in arrays):
            places = (f"{name}.{place}" for place in range(len(arrays)))
            setattr(self, name, [arrays[place] for place in places if place in arrays] or arrays[name])
        return self

    def save_config(self, folder: Path) -> None:
        """Write `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(self.config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load_config(cls, folder: Path) -> Any:
        """Read the `config.json` of a saved model."""
        return with_kind(cls.Config).model_validate_json((folder / _CONFIG).read_text())
