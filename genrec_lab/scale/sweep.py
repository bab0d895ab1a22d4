"""A sweep: papermill runs as Ray tasks, each with the processors, GPUs and memory that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from genrec_lab.lab.chain import OVER_SEEDS
from genrec_lab.lab.chain import run as run_chain
from genrec_lab.lab.files import RunError
from genrec_lab.lab.folders import project_root, runs_root
from genrec_lab.lab.preflight import check_run
from genrec_lab.registry import relative_to
from genrec_lab.scale.cluster import Cluster, connected, require_room


class RunResources(BaseModel):
    """What one run of a sweep takes of the machine that it comes to."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    processors: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0, description=".5 lets two runs share one")
    memory_gigabytes: float | None = Field(
        None, gt=0, description="that must be free; None: whatever there is"
    )
    restarts: int = Field(
        2, ge=0, description="times that a run resumes on another worker after its worker died"
    )


class Runs(BaseModel):
    """The runs that a run file makes: one for each seed, named as `genrec run FILE --seeds` does.

    Without seeds it is one run, under the file's name and seed.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    file: str | Path
    seeds: tuple[int, ...] = ()
    sets: tuple[str, ...] = Field((), description="key=value, as those of --set, over the file")
    resources: RunResources = RunResources()


@dataclass(frozen=True)
class SweptRun:
    """What became of one run; `failure` says what went wrong, None if it ended well."""

    run: str
    folder: Path
    failure: str | None


class _Chain(NamedTuple):
    """What a worker receives. asked: the arguments of `lab.chain.run`."""

    run: str
    base: Path
    asked: dict[str, Any]
    resources: RunResources


def sweep(runs: Sequence[Runs], cluster: Cluster | None = None, root: Path | None = None) -> list[SweptRun]:
    """Execute the notebooks of all runs side by side, as many at a time as their resources allow.

    root: the folder of all runs, by default that of the checkout. All machines must see it and the checkout.
    Finished runs are skipped, killed ones resume, and a run that fails does not stop the others. Raises
    RunError, before anything starts, for what `genrec run` refuses and for two runs of one name; ScaleError
    if a run asks for more than there is.
    """
    project = project_root()
    if project is None:
        raise RunError("A sweep needs the checkout's notebooks; go into the folder of its pyproject.toml.")
    root = (root or runs_root()).resolve()
    chains = [chain for part in runs for chain in _chains(part, project / "notebooks", root)]
    names = [chain.run for chain in chains]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"{', '.join(twice)} names two runs of the sweep; add run=<another name> to one.")
    with connected(cluster) as ray:
        for chain in chains:
            require_room(ray, f"runs as {chain.run}", chain.resources.processors, chain.resources.gpus)
        work = ray.remote(_outcome)
        tasks = []
        for chain in chains:
            asked = chain.resources
            options = {"num_cpus": asked.processors, "num_gpus": asked.gpus, "max_retries": asked.restarts}
            if asked.memory_gigabytes is not None:
                options["memory"] = int(asked.memory_gigabytes * 2**30)
            tasks.append(work.options(name=chain.run, **options).remote(chain))
        failures = [_answer(ray, task) for task in tasks]
    return [SweptRun(name, root / name, failure) for name, failure in zip(names, failures, strict=True)]


def _chains(runs: Runs, notebooks: Path, root: Path) -> list[_Chain]:
    checked = check_run(Path(runs.file), runs.sets, runs.seeds, root=root, notebooks=notebooks)
    spec, only = checked.spec, [notebook.stem for notebook in checked.notebooks]
    asked = {"source": spec.parameters(), "notebooks": notebooks, "root": root}
    if not runs.seeds:
        return [_Chain(spec.run, spec.base, {**asked, "only": only}, runs.resources)]
    # What compares the runs comes when all have ended.
    asked["only"] = [name for name in only if name not in OVER_SEEDS]
    return [
        _Chain(spec.with_seed(seed).run, spec.base, {**asked, "seeds": [seed]}, runs.resources)
        for seed in runs.seeds
    ]


def _answer(ray: Any, task: Any) -> str | None:
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:  # its worker died too often, or what no run should raise
        return str(error)


def _outcome(chain: _Chain) -> str | None:
    """Do the run on the worker's machine, where Ray has set which GPUs it sees; give what went wrong."""
    try:
        with relative_to(chain.base):
            run_chain(**chain.asked)
    except (RunError, OSError) as error:
        return str(error)
    return None
