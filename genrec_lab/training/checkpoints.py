"""The state of a training on disk, of which a kill at any moment leaves one whole copy."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec_lab.data.whole_files import whole_folder

_HASH = "sha256"


class Checkpoint:
    """The newest state of a training in a folder, replaced as a whole: safetensors and json."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Write beside the old state and swap, so that a kill at any moment leaves one whole state."""
        final = self.folder / f"epoch-{counters['epoch']}"
        with whole_folder(final) as partial:
            save_file(
                {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
                partial / "state.safetensors",
            )
            described = {**counters, _HASH: _sha256(partial / "state.safetensors")}
            (partial / "counters.json").write_text(json.dumps(described))
        for _, old in self._states():
            if old != final:
                shutil.rmtree(old)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the newest state that is what was written, or None; says which ones are not."""
        for _, folder in sorted(self._states(), reverse=True):
            try:
                return _verified(folder)
            except (OSError, ValueError) as error:
                print(f"{folder} is damaged ({error}): going on from what was before it", flush=True)
        return None

    def _states(self) -> Iterator[tuple[int, Path]]:
        for path in list(self.folder.glob("epoch-*")):
            number = path.name.removeprefix("epoch-")
            if number.isdigit():
                yield int(number), path


def _verified(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state; ValueError where it is not what was written."""
    counters = json.loads((folder / "counters.json").read_text())
    found = _sha256(folder / "state.safetensors")
    # Without a hash it is of a version that wrote none.
    if not isinstance(counters, dict) or counters.pop(_HASH, found) != found:
        raise ValueError("not what was written, by its hash: a failing disk, or a change by hand")
    return load_file(folder / "state.safetensors"), counters


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
