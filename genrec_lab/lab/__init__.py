"""Runs: the folder that notebooks share, the chain that executes them, and the report."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec_lab.lab.store import Run, RunError, Stage, StageState, existing_run, open_run, runs_root

__all__ = ["Run", "RunError", "Stage", "StageState", "existing_run", "open_run", "runs_root"]


def __getattr__(name: str) -> Any:
    # not before it is asked for: the command refuses a run file in less time than the store takes to import
    if name in __all__:
        from genrec_lab.lab import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
