"""Notebooks: which ones a chain executes, whether their parameters can be set, and classes in their cells."""

from __future__ import annotations

import ast
import builtins
import contextlib
import inspect
import json
import linecache
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genrec_lab.lab.files import RunError, write_text
from genrec_lab.lab.folders import project_root, shipped
from genrec_lab.lab.runfile import PARAMETERS, RunFileError
from genrec_lab.registry import did_you_mean

if TYPE_CHECKING:
    from genrec_lab.lab.store import Run

KERNEL = "python3"
_PATTERN = "[0-9][0-9]_*.ipynb"
# A place to try things, not a stage of a run: executed only if it is named.
_BY_NAME_ONLY = ("10_your_own_method",)


def notebooks_folder() -> Path:
    """Return the notebooks around the working directory or the run file, else those of the package.

    Around them is a checkout, or a folder that `genrec init` made, whose notebooks the user may have edited.
    """
    root = project_root()
    return shipped("notebooks") if root is None else root / "notebooks"


def choose_notebooks(
    folder: Path, listed: Sequence[str] | None, only: Sequence[str] | None, from_: str | None
) -> list[Path]:
    """Return the notebooks to run, in the order of their numbers; by default all that are stages of a run.

    `listed` restricts them as the run file says, then `only` or `from_` as the command says; each names a
    notebook in full or by its number, 05 or 5. Raises RunError with every name that is not there.
    """
    present = {file.stem: file for file in sorted(folder.glob(_PATTERN))}
    if not present:
        raise RunError(f"There are no notebooks in {folder}. `genrec init FOLDER` makes a folder with them.")
    if only is not None and from_ is not None:
        raise RunError("--only and --from exclude each other: name the notebooks, or the one to begin with.")
    asked = {"notebooks": listed, "--only": only, "--from": None if from_ is None else [from_]}
    chosen, named = list(present), set[str | None]()
    for where, names in asked.items():
        if names is None:
            continue
        found = {name: _resolved(name, chosen) for name in names}
        if problems := [
            f"{where} names {name!r}{did_you_mean(name, chosen)}; the notebooks are {', '.join(chosen)}"
            for name, known in found.items()
            if known is None
        ]:
            raise RunFileError("Notebooks", problems)
        named |= set(found.values())
        kept = [name for name in chosen if name in found.values()]
        chosen = chosen[chosen.index(kept[0]) :] if where == "--from" else kept
    return [present[name] for name in chosen if name in named or name not in _BY_NAME_ONLY]


def keep_cell(run: Run, component: Any) -> str:
    """Write the notebook cell that defines a class or function into a run's folder, and return its place.

    The place is what a run file's `kind` takes, `…/cells/directions.py:Directions`, as seen from the run's
    `base`: other kernels, the chain and the explorer then find the class without the notebook. Run the cell
    and this function again after a change. Raises RunError if the class was not written in a cell, and for
    names that its cell takes from another one.
    """
    name = component.__qualname__
    functions = [component, *vars(component).values()] if inspect.isclass(component) else [component]
    files = [one.__code__.co_filename for one in functions if inspect.isfunction(one)]
    source = "".join(linecache.getlines(files[0])) if files and component.__module__ == "__main__" else ""
    if not source:
        raise RunError(
            f"{component.__module__}:{name} was not written in a cell of this notebook. Name a class of a "
            "module by its place: package.module:Class, or file.py:Class."
        )
    if foreign := _foreign_names(ast.parse(source)):
        raise RunError(
            f"The cell of {name} uses {', '.join(foreign)}, which another cell defines or imports. Import or "
            f"define {foreign[0]} in the cell itself, which becomes a file of its own."
        )
    file = run.folder / "cells" / f"{name.lower()}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, source)
    return f"{Path(os.path.relpath(file, run.base)).as_posix()}:{name}"


def _foreign_names(cell: ast.Module) -> list[str]:
    """Names that a cell reads and neither defines nor imports."""
    known, read = set(dir(builtins)), set[str]()
    for node in ast.walk(cell):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, ast.alias):
            known.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            known.add(str(node.name))
        elif isinstance(node, ast.arg):
            known.add(node.arg)
    return sorted(read - known)


class Cell(NamedTuple):
    """A cell of a notebook. kind: "code" or "markdown"."""

    kind: str
    source: str
    tags: tuple[str, ...]


def cells_of(file: Path) -> list[Cell]:
    """Return the cells of a notebook; RunError if it cannot be read."""
    try:  # read as JSON: importing nbformat takes seconds
        return [
            Cell(cell["cell_type"], "".join(cell["source"]), tuple(cell["metadata"].get("tags", ())))
            for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file} is not a readable notebook: {str(error)[:300]}. Restore it.") from error


def check_notebook(file: Path) -> None:
    """Raise RunError unless a notebook has one tagged cell that sets just the known parameters to literals.

    papermill itself only warns of a parameter that a notebook does not have, and would run with its default.
    """
    sources = [cell.source for cell in cells_of(file) if "parameters" in cell.tags]
    if len(sources) != 1:
        raise RunError(
            f"{file} has {len(sources)} cells tagged 'parameters'; expected one, with literals only."
        )
    if problems := list(_parameter_problems(sources[0])):
        raise RunFileError("Notebooks", [f"{file.name}: {problem}" for problem in problems])


def check_kernel() -> None:
    """Raise RunError unless Jupyter knows the kernel that the notebooks name."""
    if find_spec("ipykernel") is not None:  # which is that kernel; asking Jupyter takes half a second
        return
    from jupyter_client.kernelspec import KernelSpecManager

    known = KernelSpecManager().find_kernel_specs()
    if KERNEL not in known:
        raise RunError(f"Jupyter has no kernel {KERNEL!r}, only {list(known)}. pip install ipykernel.")


def _resolved(name: str, known: Iterable[str]) -> str | None:
    stem = name.removesuffix(".ipynb")
    number = f"{stem.zfill(2)}_"
    fitting = [one for one in known if one == stem or (stem.isdigit() and one.startswith(number))]
    return fitting[0] if len(fitting) == 1 else None


def _parameter_problems(source: str) -> Iterator[str]:
    """Give what is wrong with a parameters cell."""
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        yield f"its parameters cell is not valid Python (line {error.lineno}: {error.msg}); fix it"
        return
    names: list[str] = []
    for statement in body:
        match statement:
            case ast.Expr(value=ast.Constant()):  # a docstring
                continue
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                with contextlib.suppress(ValueError):
                    ast.literal_eval(value)
                    names.append(name)
                    continue
        yield f"its parameters cell holds {ast.unparse(statement)!r}; expected name = literal"
    for name in names:
        if name not in PARAMETERS:
            near = did_you_mean(name, PARAMETERS)
            yield f"the parameter {name!r} is unknown{near}; expected {', '.join(PARAMETERS)}"
    for name in PARAMETERS:
        if name not in names:
            yield f"its parameters cell does not set {name!r}, so a run file could not either; add it"
