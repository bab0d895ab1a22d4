"""The chain: a run's notebooks in order, each executed by papermill where it has something to do.

What a chain does follows from the tasks of its stages: `plan` surveys them, `run` executes the notebooks
whose results or page are out of date. Both use the same check.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from rich.console import Console

from genrec_lab.data.whole_files import sha256_of
from genrec_lab.lab import processes
from genrec_lab.lab.code import code_of_source
from genrec_lab.lab.files import NotebookFailed, RunError, damage, hash_json, held
from genrec_lab.lab.forked import KernelServer
from genrec_lab.lab.notebooks import cells_of
from genrec_lab.lab.preflight import Checked, check_run
from genrec_lab.lab.progress import LogProgress, Progress, StepOutput, TerminalProgress
from genrec_lab.lab.results import changed, listed
from genrec_lab.lab.rows import Facts, known_facts
from genrec_lab.lab.runfile import RunFile
from genrec_lab.lab.store import KEEP_OLD_CODE, Run, State, Task, open_run, unopened_run
from genrec_lab.presets import item_rows, methods, variants

__all__ = ["ChainResult", "NotebookFailed", "Step", "plan", "run"]

# Figures as data for JupyterLab, and as a page that loads plotly.js for an exported notebook.
_RENDERER = "plotly_mimetype+notebook_connected"
PREPARATION = "01_data_preparation"
OVER_SEEDS = ("08_ablations", "09_compare_runs")  # notebooks that read all seeds of a run
# The tasks of each stage, by the function that lists them: of the run, or of the run and its dataset's facts.
STAGES = {
    "00_setup_check": "prepare:check_tasks",
    PREPARATION: "prepare:prepared_task",
    "02_tokenizer_training": "tokenise:tokenizing_tasks",
    "03_residual_atlas": "explore:atlas_tasks",
    "04_codebook_explorer": "explore:survey_tasks",
    "05_recommender_training": "recommend:training_tasks",
    "06_domain_adaptation": "adapt:adaptation_tasks",
    "07_evaluation": "evaluate:ranking_tasks",
    "08_ablations": "compare:ablation_tasks",
    "09_compare_runs": "compare:comparison_tasks",
}
_OF_ALL_ROWS = ("05_recommender_training", "07_evaluation")  # the other stages look at codes
_WITHOUT_FACTS = ("00_setup_check", PREPARATION, *OVER_SEEDS)


@dataclass(frozen=True)
class Step:
    """What a chain does about a row of a stage; row is empty for the notebook itself, whose page is made.

    action: "run" makes it, "keep" leaves it as it is, "skip" means that the data or the run do not have it.
    why: a sentence. A planned "run" becomes "keep" if what it reads is made again and comes out equal.
    """

    stage: str
    row: str
    action: Literal["run", "keep", "skip"]
    why: str


@dataclass(frozen=True)
class ChainResult:
    """What a chain did.

    runs: one for each seed. steps: planned or done, by run name. report: that of the last run.
    """

    runs: tuple[Run, ...]
    steps: dict[str, tuple[Step, ...]]
    report: Path | None

    def metrics(self) -> pl.DataFrame:
        """The metrics of the runs, one below the other: `method, domain, metric, k, value, users, seed`."""
        return pl.concat([opened.metrics() for opened in self.runs]).unique(maintain_order=True)

    def to_json(self) -> list[dict[str, str]]:
        """The steps as a list of `{run, stage, row, action, why}`."""
        return [{"run": name, **asdict(step)} for name, steps in self.steps.items() for step in steps]


def tasks_of(run: Run, stage: str, facts: Facts | None = None) -> list[Task] | None:
    """The tasks of a stage; None if the dataset must be prepared before they can be listed."""
    if stage not in STAGES:
        return []
    module, _, name = STAGES[stage].partition(":")
    listing = getattr(importlib.import_module(f"genrec_lab.lab.{module}"), name)
    if stage in _WITHOUT_FACTS:
        found = listing(run)
    elif (facts := facts or known_facts(run)) is not None:
        found = listing(facts)
    else:
        return None
    return [found] if isinstance(found, Task) else list(found.values() if isinstance(found, dict) else found)


def run(
    source: Path | str | Mapping[str, Any] | Checked,
    *,
    only: Sequence[str] | None = None,
    from_: str | None = None,
    resume: bool = True,
    dry_run: bool = False,
    sets: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    keep_old_code: bool = False,
    notebooks: Path | None = None,
    root: Path | None = None,
    console: Console | None = None,
    quiet: bool = False,
) -> ChainResult:
    """Execute the notebooks of a run file (or a mapping of its keys) in order, skipping what is finished.

    only, from_: restrict which notebooks. resume: False makes the results of the chosen ones again. dry_run:
    say what would run and why, and touch nothing. sets: `key=value` laid over the file. seeds: the chain once
    for each seed, as runs `<run>-seed<s>`, then notebooks 08 and 09 over them as run `<run>`. keep_old_code:
    keep results whose code alone has changed, with a mark. notebooks, root: folders of the notebooks and of
    the runs. Everything that can be checked is checked before the first notebook starts. Raises `RunError`
    where something is wrong, and `NotebookFailed` where a notebook is.
    """
    console = console or Console()
    if processes.several():
        raise RunError(
            "A chain of notebooks runs in one process, but this is one of several (WORLD_SIZE is set). First "
            "run its stages in several processes with accelerate launch -m genrec_lab.lab.shared FILE.yaml, "
            "then run the chain alone."
        )
    checked = source if isinstance(source, Checked) else check_run(
        Path(source) if isinstance(source, str) else source, sets, seeds,
        only=only, from_=from_, root=root, notebooks=notebooks,
    )  # fmt: skip
    root, steps = checked.root, {}
    runs: list[Run] = []
    for part, files in _chains(checked.spec, checked.notebooks, checked.seeds):
        opening = unopened_run if dry_run else open_run
        opened = opening(**part.parameters(), root=root, base=part.base, change=True)
        opened.keep_old_code = opened.keep_old_code or keep_old_code
        if not dry_run:
            steps[opened.name] = tuple(_run_chain(opened, files, root, resume, console))
        else:
            opened.planned = {one.name: one for one in (*runs, opened)}
            steps[opened.name] = tuple(plan(opened, files, resume))
            lines = [f"  {s.action:4}  {f'{s.stage} {s.row}'.strip()}: {s.why}" for s in steps[opened.name]]
            for line in () if quiet else (f"{opened.name} in {opened.folder}", *lines):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        runs.append(opened)
    report = None if dry_run else runs[-1].folder / "report.html"
    return ChainResult(tuple(runs), steps, report)


def _chains(
    spec: RunFile, chosen: Sequence[Path], seeds: Sequence[int] | None
) -> list[tuple[RunFile, list[Path]]]:
    """The runs that a command makes, each with its notebooks."""
    if not seeds:
        return [(spec, list(chosen))]
    single = [notebook for notebook in chosen if notebook.stem not in OVER_SEEDS]
    chains = [(spec.with_seed(seed), single) for seed in seeds] if single else []
    over_seeds = [notebook for notebook in chosen if notebook.stem in OVER_SEEDS]
    return chains + ([(spec, over_seeds)] if over_seeds else [])


# -- what a chain would do -----------------------------------------------------------------------------------


def plan(run: Run, notebooks: Sequence[Path], resume: bool = True) -> list[Step]:
    """What a chain over notebooks would do about each row of each stage, and about each notebook's page."""
    states: dict[str, State] = {}
    remade: set[str] = set()
    return [step for notebook in notebooks for step in _plan_stage(run, notebook, resume, states, remade)]


def _plan_stage(
    run: Run, notebook: Path, resume: bool, states: dict[str, State], remade: set[str]
) -> list[Step]:
    stage = notebook.stem
    if stage == OVER_SEEDS[0] and not variants(run.config):
        why = "compare names no row without one of the method's parts, such as gmc_without_lora for GMC."
        return [Step(stage, "", "skip", why)]
    tasks = tasks_of(run, stage)
    if tasks is None:
        over_items = item_rows(run.config) if stage in _OF_ALL_ROWS else ()
        rows = [*methods(run.config), *over_items] if stage > PREPARATION else []
        why = f"{PREPARATION} runs first."
        return [*(Step(stage, row, "run", why) for row in rows), Step(stage, "", "run", why)]
    for task in tasks:
        run.state(task, known=states)
    by_row: dict[str, list[State]] = {}
    for task in tasks:
        by_row.setdefault(task.row, []).append(states[task.place])
    steps = []
    for row, of_row in by_row.items():
        shown = next((state for state in of_row if state.action == "run"), of_row[0])
        why = shown.reason if resume else "asked to run again."
        steps.append(Step(stage, row, shown.action if resume else "run", why))
    remade |= {task.place for task in tasks if states[task.place].action == "run" or not resume}
    skipped = run.skipped() if stage not in _WITHOUT_FACTS else {}
    steps += [Step(stage, row, "skip", f"{why}.") for row, why in skipped.items()]
    page = _why_page_is_made(run, notebook, states, remade) if resume else "asked to run again."
    if any(step.action == "run" for step in steps):
        page = page or "one of its results is computed."
    return [*steps, Step(stage, "", "run" if page else "keep", page or "its page is up to date.")]


def _why_page_is_made(run: Run, notebook: Path, states: Mapping[str, State], remade: set[str]) -> str:
    """Why a notebook's page is out of date; empty if it is not."""
    page = run.manifest().get("pages", {}).get(notebook.stem)
    if page is None:
        return "it has not been run yet."
    executed = run.folder / "notebooks" / notebook.name
    if page.get("status") != "finished":
        return "it was not executed to the end."
    if damage(executed, page.get("sha256")):
        return "its page is missing or was changed."
    printed = executed.with_suffix(".log")
    if (known := page.get("log_sha256")) and damage(printed, known):
        return "its printed output is missing or was changed."
    prose, functions = _source_of(notebook)
    if page.get("prose") != prose:
        return "its text has been edited since."
    if names := changed(page.get("functions", {}), functions):
        return f"the code that its cells use has changed ({listed(names)})."
    saved = run.figures()
    for name in page.get("figures", []):
        if broken := damage(run.figure_file(name), saved.get(name, {}).get("sha256"), f"its figure {name}"):
            return f"{broken}."
    for place, digest in page.get("reads", {}).items():
        if place in remade:
            return f"{place}, which it shows, is computed again."
        if place in states and states[place].digest != digest:
            return f"{place}, which it shows, has changed since."
    return ""


def _source_of(notebook: Path) -> tuple[str, dict[str, str]]:
    """A hash of a notebook's prose, and the digests of the code that its cells reach."""
    cells = cells_of(notebook)
    prose = [cell.source for cell in cells if cell.kind != "code"]
    code = [cell.source for cell in cells if cell.kind == "code" and "parameters" not in cell.tags]
    return hash_json(prose), code_of_source("\n".join(code)).functions


# -- doing it ------------------------------------------------------------------------------------------------


def _run_chain(
    opened: Run, notebooks: Sequence[Path], root: Path, resume: bool, console: Console
) -> list[Step]:
    from genrec_lab.lab.report import build_report

    opened.require_writable()
    (opened.folder / "notebooks").mkdir(exist_ok=True)
    progress: Progress = TerminalProgress(console) if console.is_terminal else LogProgress(console)
    with held(opened.folder / ".chain.lock", f"the chain {opened.name}", 0.0):
        progress.begin(f"{opened.name} in {opened.folder}", [notebook.stem for notebook in notebooks])
        opened.log("chain_started", notebooks=[notebook.stem for notebook in notebooks], resume=resume)
        done: list[Step] = []
        server = _kernel_server()
        try:
            for notebook in notebooks:
                states: dict[str, State] = {}
                steps = _plan_stage(opened, notebook, resume, states, set())
                for kept in (state.task for state in states.values() if state.kept_despite):
                    if kept.of is None:  # other runs are marked by their own chains
                        opened.mark_kept(kept)
                done += steps
                page = steps[-1]
                if page.action != "run":
                    progress.step(page.stage, "skipped", page.why)
                    continue
                if not resume:
                    opened.forget(page.stage)
                rows = [step for step in steps if step.row and step.action == "run"]
                _execute(opened, notebook, root, progress, rows[0].why if rows else page.why, server)
            opened.log("chain_finished")
        except BaseException:
            progress.end()
            with contextlib.suppress(OSError, RunError):  # what stopped the chain matters more
                build_report(opened)
            raise
        finally:
            if server is not None:
                server.close()
        progress.end()
        build_report(opened)
    return done


def _kernel_server() -> KernelServer | None:
    """What forks the kernels: on Linux without an accelerator, for its libraries may not cross a fork."""
    import torch  # takes seconds to import

    return KernelServer() if sys.platform == "linux" and not torch.accelerator.is_available() else None


def _execute(
    opened: Run, notebook: Path, root: Path, progress: Progress, why: str, server: KernelServer | None
) -> None:
    from genrec_lab.lab.kernel import execute_notebook  # papermill takes seconds to import

    stage = notebook.stem
    executed = opened.folder / "notebooks" / notebook.name
    prose, functions = _source_of(notebook)
    started_at = time.strftime("%Y-%m-%d %H:%M:%S")
    record: dict[str, Any] = {"prose": prose, "functions": functions, "started_at": started_at}
    _record(opened, stage, {**record, "status": "started"})
    progress.step(stage, "runs", why)
    before, started, status = opened.figures(), time.monotonic(), "interrupted"
    environment = {"PLOTLY_RENDERER": _RENDERER, "GENREC_RUNS": str(root), "OMP_WAIT_POLICY": "PASSIVE"}
    if opened.keep_old_code:
        environment[KEEP_OLD_CODE] = "1"
    try:
        with StepOutput(executed.with_suffix(".log"), stage, progress) as output:
            execute_notebook(
                notebook, executed, opened.parameters,
                environment=environment, output=output, server=server,
            )  # fmt: skip
        record |= _shown(opened, stage, before)
        record |= {"sha256": sha256_of(executed), "log_sha256": sha256_of(executed.with_suffix(".log"))}
        status = "finished"
    except NotebookFailed:
        status = "failed"
        raise
    finally:
        seconds = round(time.monotonic() - started, 3)
        _record(opened, stage, {**record, "status": status, "seconds": seconds})
        progress.step(stage, "done" if status == "finished" else status)


def _shown(opened: Run, stage: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """What a page shows that was just made: its figures, and the results that it read.

    Figures whose entries are those of before were not saved again: the notebook does not make them any more.
    Raises NotebookFailed if the notebook made no results under its parameters.
    """
    reads: dict[str, str] = {}
    for task in tasks_of(opened, stage) or []:
        state = opened.state(task, verify=False)
        if not state.usable:
            raise NotebookFailed(
                f"{stage}.ipynb ran to its end, but its result {task.place} cannot be used: {state.reason} "
                "Look for a cell that opens the run with other values than those of the parameters cell."
            )
        reads[task.place] = str(state.digest)
    kept = []
    with opened.edited_manifest() as manifest:
        saved = manifest.setdefault("figures", {})
        for name in [name for name in saved if saved[name]["stage"] == stage]:
            if saved[name] == before.get(name):
                del saved[name]
                opened.figure_file(name).unlink(missing_ok=True)
            else:
                kept.append(name)
                reads = saved[name]["reads"] | reads
    return {"figures": kept, "reads": reads}


def _record(opened: Run, stage: str, record: Mapping[str, Any]) -> None:
    with opened.edited_manifest() as manifest:
        manifest.setdefault("pages", {})[stage] = dict(record)
