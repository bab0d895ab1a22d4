"""The chain: a run's notebooks in order, each executed by papermill, finished ones left alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from genrec_lab.lab import sharing
from genrec_lab.lab.files import RunError, hash_file
from genrec_lab.lab.folders import runs_root
from genrec_lab.lab.kernel import NotebookFailed, execute_notebook
from genrec_lab.lab.locks import held, writing
from genrec_lab.lab.manifest import edited_manifest
from genrec_lab.lab.notebooks import check_kernel, check_notebook, choose_notebooks, notebooks_folder
from genrec_lab.lab.plan import Step, plan_step
from genrec_lab.lab.progress import LogProgress, Progress, StepOutput, TerminalProgress
from genrec_lab.lab.report import build_report
from genrec_lab.lab.results import drop_figures_before
from genrec_lab.lab.runfile import RunFile, base_of, read_run_file
from genrec_lab.lab.seeds import OVER_SEEDS
from genrec_lab.lab.store import Run, open_run, unopened_run
from genrec_lab.registry import relative_to

__all__ = ["ChainResult", "NotebookFailed", "run"]

# Figures as data for JupyterLab, and as a page that loads plotly.js for an exported notebook.
_RENDERER = "plotly_mimetype+notebook_connected"
_CHAIN_PATIENCE_SECONDS = 0.0


@dataclass(frozen=True)
class ChainResult:
    """What a chain did. runs: one a seed. steps: planned or done, by run name. report: of the last run."""

    runs: tuple[Run, ...]
    steps: dict[str, tuple[Step, ...]]
    report: Path | None

    def metrics(self) -> pl.DataFrame:
        """What the runs recorded, one below the other: `method, domain, metric, k, value, users, seed`.

        A comparison holds the records of its runs once more; each is given once.
        """
        return pl.concat([opened.metrics() for opened in self.runs]).unique(maintain_order=True)


def run(
    source: Path | str | Mapping[str, Any],
    *,
    only: Sequence[str] | None = None,
    from_: str | None = None,
    resume: bool = True,
    dry_run: bool = False,
    sets: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    notebooks: Path | None = None,
    root: Path | None = None,
    console: Console | None = None,
) -> ChainResult:
    """Execute the notebooks of a run file (or a mapping of its keys) in order, skipping what is finished.

    only, from_: restrict which notebooks. resume: False runs the chosen ones anew from their start. dry_run:
    say what would run and why, and touch nothing. sets: `key=value` laid over the file. seeds: the chain once
    a seed, as runs `<run>-seed<s>`, then notebooks 08 and 09 over them as run `<run>`. notebooks, root:
    folders of the notebooks and of the runs, by default those of the checkout.
    Everything that can be checked is checked before the first notebook starts. Raises `RunError` where
    something is wrong, and `NotebookFailed` where a notebook is.
    """
    file = Path(source) if isinstance(source, str) else source
    with relative_to(base_of(file)):
        return _run(file, only, from_, resume, dry_run, sets, seeds, notebooks, root, console or Console())


def _run(
    file: Path | Mapping[str, Any],
    only: Sequence[str] | None,
    from_: str | None,
    resume: bool,
    dry_run: bool,
    sets: Sequence[str],
    seeds: Sequence[int] | None,
    notebooks: Path | None,
    root: Path | None,
    console: Console,
) -> ChainResult:
    if sharing.several():
        raise RunError(
            "A chain of notebooks is one process, and this is one of several (WORLD_SIZE is set). Share its "
            "stages first, accelerate launch -m genrec_lab.lab.shared FILE.yaml, then run the chain alone."
        )
    spec = read_run_file(file, sets)
    folder = notebooks or notebooks_folder()
    chosen = choose_notebooks(folder, spec.notebooks, only, from_)
    root = root or runs_root()
    chains = _chains(spec, chosen, seeds)
    check_kernel()
    for notebook in chosen:
        check_notebook(notebook)
    for part, _ in chains:
        _unopened(part, root)
    if dry_run:
        return _dry(chains, root, resume, console)
    results = [_run_chain(part, files, root, resume, console) for part, files in chains]
    return ChainResult(
        runs=tuple(opened for opened, _ in results),
        steps={opened.name: steps for opened, steps in results},
        report=results[-1][0].folder / "report.html",
    )


def _chains(
    spec: RunFile, chosen: Sequence[Path], seeds: Sequence[int] | None
) -> list[tuple[RunFile, list[Path]]]:
    """The runs that a command makes, each with its notebooks."""
    if not seeds:
        return [(spec, list(chosen))]
    if len(set(seeds)) != len(seeds):
        raise RunError(f"--seeds {','.join(map(str, seeds))} names a seed twice.")
    single = [notebook for notebook in chosen if notebook.stem not in OVER_SEEDS]
    chains = [(spec.with_seed(seed), single) for seed in seeds] if single else []
    over_seeds = [notebook for notebook in chosen if notebook.stem in OVER_SEEDS]
    return chains + ([(spec, over_seeds)] if over_seeds else [])


def _unopened(spec: RunFile, root: Path) -> Run:
    """The run before anything of it is written; what its config refuses becomes a `RunError`."""
    try:
        return unopened_run(**spec.parameters(), root=root)
    except ValueError as error:  # pydantic's errors are ValueErrors too
        raise RunError(str(error)) from error


def _dry(
    chains: Sequence[tuple[RunFile, list[Path]]], root: Path, resume: bool, console: Console
) -> ChainResult:
    planned: dict[str, tuple[Step, ...]] = {}
    runs = []
    for spec, notebooks in chains:
        opened = _unopened(spec, root)
        steps = tuple(plan_step(opened, notebook, resume) for notebook in notebooks)
        console.print(f"{opened.name} in {opened.folder}", markup=False, highlight=False, soft_wrap=True)
        for step in steps:
            line = f"  {step.action:4}  {step.name}: {step.reason}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        planned[opened.name] = steps
        runs.append(opened)
    return ChainResult(tuple(runs), planned, None)


def _run_chain(
    spec: RunFile,
    notebooks: Sequence[Path],
    root: Path,
    resume: bool,
    console: Console,
) -> tuple[Run, tuple[Step, ...]]:
    opened = open_run(**spec.parameters(), root=root)
    (opened.folder / "notebooks").mkdir(exist_ok=True)
    progress: Progress = TerminalProgress(console) if console.is_terminal else LogProgress(console)
    with held(opened.folder / ".chain.lock", f"the chain {opened.name}", _CHAIN_PATIENCE_SECONDS):
        progress.begin(f"{opened.name} in {opened.folder}", [notebook.stem for notebook in notebooks])
        opened.log("chain_started", notebooks=[notebook.stem for notebook in notebooks], resume=resume)
        steps = []
        try:
            for notebook in notebooks:
                step = plan_step(opened, notebook, resume)
                steps.append(step)
                if step.action == "skip":
                    progress.step(step.name, "skipped", step.reason)
                    continue
                if not resume:
                    opened.forget(step.name)
                _execute(opened, step, root, progress)
            opened.log("chain_finished")
        except BaseException:
            progress.end()
            with contextlib.suppress(OSError, RunError):  # what stopped the chain matters more
                build_report(opened)
            raise
        progress.end()
        build_report(opened)
    return opened, tuple(steps)


def _execute(opened: Run, step: Step, root: Path, progress: Progress) -> None:
    executed = opened.folder / "notebooks" / step.notebook.name
    record = {
        "source": hash_file(step.notebook),
        "parameters": opened.parameters,
        "started_at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    _record(opened, step, {**record, "status": "started", "seconds": None})
    progress.step(step.name, "runs", step.reason)
    began, started, status = time.time(), time.monotonic(), "interrupted"
    try:
        with StepOutput(executed.with_suffix(".log"), step.name, progress) as output:
            execute_notebook(
                step.notebook,
                executed,
                opened.parameters,
                environment={"PLOTLY_RENDERER": _RENDERER, "GENREC_RUNS": str(root)},
                output=output,
                waiting=progress.waiting,
            )
        _check_stage(opened, step)
        with writing(opened.folder):
            drop_figures_before(opened.folder, step.name, began)
        status = "finished"
    except NotebookFailed:
        status = "failed"
        raise
    finally:
        seconds = round(time.monotonic() - started, 3)
        _record(opened, step, {**record, "status": status, "seconds": seconds})
        progress.step(step.name, "done" if status == "finished" else status)


def _check_stage(opened: Run, step: Step) -> None:
    """A notebook that ends well has finished its stage, under the parameters that it was given."""
    if step.name not in opened.manifest()["stages"]:
        return
    state = opened.state(step.name, verify=False)
    if not state.usable:
        raise NotebookFailed(
            f"{step.notebook.name} ran to its end, but its stage cannot be used: {state.reason} "
            "Look for a cell that opens the run with other values than those of the parameters cell."
        )


def _record(opened: Run, step: Step, record: Mapping[str, Any]) -> None:
    with edited_manifest(opened.folder) as manifest:
        manifest["notebooks"][step.name] = dict(record)
