"""Where notebooks and runs are: in a checkout, in a folder that `genrec init` made, or elsewhere."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import genrec_lab
from genrec_lab.lab.files import RunError
from genrec_lab.registry import base_folder

MARKER = "genrec.toml"  # in a folder that `genrec init` made
_OURS = re.compile(rb"""^name *= *["']genrec[-_]lab["']""", re.MULTILINE)
_RUN_FILES = ("smoke.yaml", "demo.yaml")
_WRITTEN = {
    MARKER: "# This file marks a working folder of genrec_lab. Runs go to the folder runs next to it.\n",
    ".gitignore": "runs/\n",
}


def project_root(start: Path | None = None) -> Path | None:
    """Return the checkout, or the folder that `genrec init` made, around a folder; None if there is none.

    start: by default the working directory, then the folder of the run file.
    """
    for begin in (start,) if start is not None else (Path.cwd(), base_folder()):
        here = begin.resolve()
        for folder in (here, *here.parents):
            if (folder / MARKER).is_file() or _is_checkout(folder):
                return folder
    return None


def runs_root() -> Path:
    """Return the folder of all runs.

    $GENREC_RUNS where it is set; else `runs` of the folder that `genrec init` made, or papermill_runs/out of
    the checkout (or of the working directory where there is neither).
    """
    named = os.environ.get("GENREC_RUNS")
    if named:
        return Path(named).expanduser().resolve()
    root = project_root()
    if root is not None and (root / MARKER).is_file():
        return root / "runs"
    return (root or Path.cwd().resolve()) / "papermill_runs" / "out"


def shipped(name: str) -> Path:
    """Return the folder `notebooks` or `papermill_runs` that came with the package."""
    package = Path(genrec_lab.__file__).parent
    inside = package / name  # in a wheel; a checkout has it beside the package
    return inside if inside.is_dir() else package.parent / name


def make_folder(folder: Path, extra: Mapping[str, str] | None = None) -> str:
    """Make a folder to work in: notebooks, run files, a place for data; returns what to do next.

    extra: texts of further files by their names. Raises RunError if one of its files is there already.
    """
    sources = {f"notebooks/{file.name}": file for file in sorted(shipped("notebooks").glob("*.ipynb"))}
    sources |= {name: shipped("papermill_runs") / name for name in _RUN_FILES}
    sources["data/README.md"] = Path(__file__).parent / "templates" / "data.md"
    files = {name: file.read_text(encoding="utf-8") for name, file in sources.items()} | _WRITTEN
    files |= extra or {}
    if there := [name for name in files if (folder / name).exists()]:
        raise RunError(f"{folder} already has {there[0]}, which would be overwritten. Name another folder.")
    try:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{folder} cannot be created ({error}). Name a folder in which you may write."
        ) from error
    return (
        f"{folder} is ready. The whole chain on small generated data:\n"
        f"  cd {shlex.quote(str(folder))}\n  genrec run smoke.yaml\n"
        "Your own data: see data/README.md. The notebooks: jupyter lab notebooks"
    )


def _is_checkout(folder: Path) -> bool:
    project = folder / "pyproject.toml"
    return project.is_file() and _OURS.search(project.read_bytes()) is not None
