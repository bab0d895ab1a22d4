"""What a chain will do: which of its notebooks have to run, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genrec_lab.lab.files import hash_file
from genrec_lab.lab.seeds import ABLATION, OVER_SEEDS, runs_of, signatures
from genrec_lab.lab.store import Run


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
