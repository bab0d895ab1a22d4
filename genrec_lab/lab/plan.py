"""What a chain will do: which notebooks there are, whether they fit, and which of them have to run."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nbformat
from jupyter_client.kernelspec import KernelSpecManager

from genrec_lab.lab.files import RunError, hash_file
from genrec_lab.lab.keys import unknown_name
from genrec_lab.lab.runfile import PARAMETERS
from genrec_lab.lab.seeds import ABLATION, OVER_SEEDS, runs_of, signatures
from genrec_lab.lab.store import Run

KERNEL = "python3"
_PATTERN = "[0-9][0-9]_*.ipynb"


@dataclass(frozen=True)
class Step:
    """One notebook of a chain, and whether it has to run; `reason` is a sentence for people."""

    notebook: Path
    action: Literal["run", "skip"]
    reason: str

    @property
    def name(self) -> str:
        """The notebook's and its stage's name."""
        return self.notebook.stem


def choose_notebooks(
    folder: Path, listed: Sequence[str] | None, only: Sequence[str] | None, from_: str | None
) -> list[Path]:
    """The notebooks to run, in the order of their numbers.

    `listed` restricts them as the run file says, then `only` or `from_` as the command says; each names a
    notebook in full or by its two digits. Raises `RunError` at a name that is not there.
    """
    present = {file.stem: file for file in sorted(folder.glob(_PATTERN))}
    if not present:
        raise RunError(f"There are no notebooks in {folder}. Run this inside a checkout of genrec_lab.")
    if only is not None and from_ is not None:
        raise RunError("--only and --from exclude each other: name the notebooks, or the one to begin with.")
    chosen = list(present)
    if listed is not None:
        kept = {_resolve(name, chosen, "notebooks") for name in listed}
        chosen = [name for name in chosen if name in kept]
    if only is not None:
        kept = {_resolve(name, chosen, "--only") for name in only}
        chosen = [name for name in chosen if name in kept]
    if from_ is not None:
        chosen = chosen[chosen.index(_resolve(from_, chosen, "--from")) :]
    return [present[name] for name in chosen]


def check_notebook(file: Path) -> None:
    """Raise `RunError` unless a notebook has one tagged cell that sets just the known parameters to literals.

    papermill itself only warns of a parameter that a notebook does not have, and would run with its default.
    """
    try:
        content = nbformat.read(file, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is not a readable notebook: {str(error)[:300]}") from error
    cells = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", ())]
    if len(cells) != 1:
        raise RunError(f"{file} has {len(cells)} cells tagged 'parameters'; expected one, of literals only.")
    names = []
    for statement in ast.parse(cells[0].source).body:
        names += _assigned_literal(file, statement)
    for name in names:
        if name not in PARAMETERS:
            raise RunError(f"{file}: the parameter {unknown_name(name, PARAMETERS)}")
    for name in PARAMETERS:
        if name not in names:
            raise RunError(
                f"{file}: its parameters cell does not set {name!r}, so a run file could not either."
            )


def check_kernel() -> None:
    """Raise `RunError` unless Jupyter knows the kernel that the notebooks name."""
    known = KernelSpecManager().find_kernel_specs()
    if KERNEL not in known:
        raise RunError(
            f"Jupyter knows no kernel {KERNEL!r} ({', '.join(known) or 'none'}). pip install ipykernel."
        )


def plan_step(run: Run, notebook: Path, resume: bool) -> Step:
    """Whether a notebook has to run, as things stand now: later steps change with what earlier ones make."""
    name = notebook.stem
    if name == ABLATION and (nothing := _nothing_taken_out(run)):
        return Step(notebook, "skip", nothing)
    if not resume:
        return Step(notebook, "run", "asked to run again.")
    manifest = run.manifest()
    executed = manifest["notebooks"].get(name)
    if name in manifest["stages"]:
        state = run.state(name)
        if not state.usable:
            return Step(notebook, "run", state.reason)
        if name in OVER_SEEDS and _compared(run) != manifest["stages"][name]["also"].get("runs"):
            return Step(notebook, "run", "the runs that it compares have changed since.")
    elif executed is not None and executed["status"] == "finished":
        return Step(notebook, "run", "it keeps no results of its own, so it is run each time.")
    if executed is None:
        done = name in manifest["stages"]
        return Step(
            notebook,
            "run",
            "its pages are missing; its work is done." if done else "it has not been run yet.",
        )
    if executed["status"] != "finished" or not (run.folder / "notebooks" / notebook.name).is_file():
        return Step(notebook, "run", "it was not executed to its end.")
    if executed["source"] != hash_file(notebook):
        return Step(
            notebook, "run", "the notebook was edited since; work that stays the same is not repeated."
        )
    return Step(notebook, "skip", run.state(name, verify=False).reason)


def _nothing_taken_out(run: Run) -> str:
    """Why there is nothing to show of parts of the method; empty where there is."""
    from genrec_lab.presets import variants  # imported here since presets import every method

    if variants(run.config):
        return ""
    return "no row of compare is the run's method without one of its parts, as gmc_without_lora is GMC."


def _compared(run: Run) -> dict[str, str]:
    # the comparison reads other runs' folders, of which the record of its parameters and inputs knows nothing
    return signatures(runs_of(run.name, run.folder.parent).runs)


def _resolve(name: str, known: Sequence[str], where: str) -> str:
    stem = name.removesuffix(".ipynb")
    if stem in known:
        return stem
    numbered = [other for other in known if other.startswith(f"{stem}_")]
    if len(stem) == 2 and len(numbered) == 1:
        return numbered[0]
    raise RunError(f"{where}: the notebook {unknown_name(stem, known)}")


def _assigned_literal(file: Path, statement: ast.stmt) -> list[str]:
    """The names that a statement of the parameters cell sets; a docstring or comment sets none."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return []
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            pass
        else:
            if all(isinstance(target, ast.Name) for target in targets):
                return [target.id for target in targets if isinstance(target, ast.Name)]
    raise RunError(f"{file}: its parameters cell holds {ast.unparse(statement)!r}; expected name = literal.")
