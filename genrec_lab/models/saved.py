"""Saving of models that keep everything in attributes: numpy arrays, lists of arrays, and plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.numpy import save_file

from genrec_lab.registry import with_kind

_ARRAYS, _CONFIG = "model.safetensors", "config.json"


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
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, folder / _ARRAYS, metadata)
        self.save_config(folder)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a model that `save` wrote."""
        model = cls(cls.load_config(folder))  # type: ignore[call-arg]
        model.read_attributes(folder)
        return model

    def read_attributes(self, folder: Path) -> None:
        """Set the attributes that `save` wrote."""
        with safe_open(folder / _ARRAYS, framework="numpy") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in names}
        plain = json.loads(metadata.get("plain", "{}"))
        for name, value in plain.items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        for name in dict.fromkeys(name.split(".")[0] for name in names):
            parts = [arrays[f"{name}.{place}"] for place in range(len(names)) if f"{name}.{place}" in arrays]
            setattr(self, name, parts or arrays[name])

    def save_config(self, folder: Path) -> None:
        """Write `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _CONFIG).write_text(self.config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load_config(cls, folder: Path) -> Any:
        """Read the `config.json` of a saved model."""
        return with_kind(cls.Config).model_validate_json((folder / _CONFIG).read_text())
