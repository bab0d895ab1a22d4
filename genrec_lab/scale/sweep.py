"""A sweep: papermill runs as Ray tasks, each with the processors, GPUs and memory that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from genrec_lab.run.files import RunError
from genrec_lab.run.runfile import read_run_file
from genrec_lab.run.store import project_root, runs_root
from genrec_lab.scale.cluster import Cluster, connected

_SAID = 4000  # characters of a failed run's last words


class RunResources(BaseModel):
    """What one run of a sweep takes of the machine that it comes to."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    processors: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    memory_gigabytes: float | None = Field(
        None, gt=0, description="that must be free; None: whatever there is"
    )
    retries: int = Field(
        2, ge=0, description="times that a run whose worker died is started again; it goes on"
    )


@dataclass(frozen=True)
class SweptRun:
    """What became of one run."""

    run: str
    folder: Path
    code: int  # 0 where it ended well, else that of `python -m genrec_lab.run`
    said: str  # its last words where it failed


def sweep(
    runs: Sequence[tuple[Path | str, Sequence[str]]],
    resources: RunResources | Mapping[str, RunResources] | None = None,
    cluster: Cluster | None = None,
    root: Path | None = None,
) -> list[SweptRun]:
    """Do `python -m genrec_lab.run FILE --set …` for each run file with its settings, side by side.

    resources: those of every run, or by the run's name. root: the folder of all runs, on a disk that all
    machines see. A run that was finished is skipped, a killed one goes on. Raises RunError for a file or a
    setting that is refused, and where two runs have one name.
    """
    folder = project_root()
    if folder is None:
        raise RunError("A sweep needs the checkout's notebooks; go into the folder of its pyproject.toml.")
    root = root or runs_root()
    names = [read_run_file(Path(file), list(sets)).parameters()["run"] for file, sets in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"{', '.join(twice)} names two runs of the sweep; add run=<another name> to one.")
    tasks = []
    with connected(cluster) as ray:
        work = ray.remote(_execute)
        for name, (file, sets) in zip(names, runs, strict=True):
            own = resources.get(name, RunResources()) if isinstance(resources, Mapping) else resources
            options = _options(own or RunResources())
            tasks.append(
                work.options(name=name, **options).remote(str(file), list(sets), str(root), str(folder))
            )
        answers = ray.get(tasks)
    return [
        SweptRun(name, root / name, code, said) for name, (code, said) in zip(names, answers, strict=True)
    ]


def _options(resources: RunResources) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_cpus": resources.processors,
        "num_gpus": resources.gpus,
        "max_retries": resources.retries,
    }
    if resources.memory_gigabytes is not None:
        options["memory"] = int(resources.memory_gigabytes * 2**30)
    return options


def _execute(file: str, sets: list[str], root: str, folder: str) -> tuple[int, str]:
    """Run a chain on the worker's machine; Ray has set which GPUs it sees."""
    settings = [part for one in sets for part in ("--set", one)]
    done = subprocess.run(
        [sys.executable, "-m", "genrec_lab.run", file, *settings],
        cwd=folder,
        env={**os.environ, "GENREC_RUNS": root},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, "" if done.returncode == 0 else (done.stdout + done.stderr)[-_SAID:]
