"""Figures that notebooks save for the report, each with the results that it shows.

`figures/<name>.json` is a figure, `figures/index.json` says of each its caption, its stage, its hash and the
digests of the results that had been read when it was saved.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from genrec_lab.data.whole_files import sha256_of
from genrec_lab.lab.files import RunError, read_checked, write_checked, write_text
from genrec_lab.lab.files import damage as file_damage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def save(
    folder: Path, name: str, figure: Figure, caption: str, stage: str | None, reads: Mapping[str, str]
) -> None:
    """Store a plotly figure with its caption; the caller holds the write lock."""
    if not _NAME.fullmatch(name):
        raise RunError(
            f"A figure's name is letters, digits, '_' and '-', such as 'utilisation'; got {name!r}."
        )
    if not isinstance(figure, Figure):
        raise RunError(f"run.figure({name!r}, …) takes a plotly Figure; got {type(figure).__name__}.")
    (folder / "figures").mkdir(exist_ok=True)
    file = folder / "figures" / f"{name}.json"
    write_text(file, str(figure.to_json()))
    entry = {
        "caption": caption, "stage": stage, "saved_at": time.time(), "sha256": sha256_of(file),
        "reads": dict(reads),
    }  # fmt: skip
    write_checked(folder / "figures" / "index.json", index(folder) | {name: entry})


def index(folder: Path) -> dict[str, dict[str, Any]]:
    """`{name: {"caption", "stage", "saved_at", "sha256", "reads"}}` of figures, in the order of first saving.

    An index that cannot be read counts as empty: the notebooks save their figures again.
    """
    file = folder / "figures" / "index.json"
    try:
        content = read_checked(file) if file.is_file() else {}
    except RunError:
        return {}
    return {name: entry for name, entry in content.items() if isinstance(entry, dict) and "caption" in entry}


def damage(folder: Path, name: str, entry: Mapping[str, Any]) -> str:
    """Say what is wrong with a figure's file; nothing if it is as it was saved."""
    return file_damage(folder / "figures" / f"{name}.json", entry.get("sha256"), f"its figure {name}")


def remove(folder: Path, names: list[str]) -> None:
    """Remove figures; the caller holds the write lock."""
    if names:
        kept = {name: entry for name, entry in index(folder).items() if name not in names}
        write_checked(folder / "figures" / "index.json", kept)
    for name in names:
        (folder / "figures" / f"{name}.json").unlink(missing_ok=True)
