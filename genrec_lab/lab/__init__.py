"""Runs: the folder that notebooks share, the chain that executes them, and the report."""

from genrec_lab.lab.store import Run, RunError, Stage, StageState, existing_run, open_run, runs_root

__all__ = ["Run", "RunError", "Stage", "StageState", "existing_run", "open_run", "runs_root"]
