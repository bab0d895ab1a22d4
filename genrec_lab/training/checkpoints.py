"""The state of a training on disk, of which a kill at any moment leaves one whole copy."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor


class Checkpoint:
    """The newest state of a training in a folder, replaced as a whole: safetensors and json."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Write beside the old state and swap, so that a kill at any moment leaves one whole state."""
        epoch = counters["epoch"]
        partial, final = self.folder / f"epoch-{epoch}.partial", self.folder / f"epoch-{epoch}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            partial / "state.safetensors",
        )
        (partial / "counters.json").write_text(json.dumps(counters))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for _, old in self._states():
            if old != final:
                shutil.rmtree(old)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest whole state, or None."""
        states = sorted(self._states())
        if not states:
            return None
        newest = states[-1][1]
        return load_file(newest / "state.safetensors"), json.loads((newest / "counters.json").read_text())

    def _states(self) -> Iterator[tuple[int, Path]]:
        for path in list(self.folder.glob("epoch-*")):
            number = path.name.removeprefix("epoch-")
            if number.isdigit():
                yield int(number), path
