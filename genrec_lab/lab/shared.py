"""`accelerate launch -m genrec_lab.lab.shared FILE.yaml STAGE…`: several processes share the work of stages.

Without notebooks, for those run in one process. Afterwards `genrec run FILE.yaml` finds the results, and
makes the notebooks' pages and the report.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from genrec_lab.lab.chain import STAGES, tasks_of
from genrec_lab.lab.files import RunError
from genrec_lab.lab.processes import is_first
from genrec_lab.lab.rows import facts_of
from genrec_lab.lab.runfile import read_run_file
from genrec_lab.lab.store import open_run

SHARED = [stage for stage in STAGES if stage[:2] in ("01", "02", "05", "06", "07")]


@click.command()
@click.argument("file", type=Path)
@click.argument("stages", nargs=-1)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a key of the run file.")
def main(file: Path, stages: Sequence[str], sets: Sequence[str]) -> None:
    """Work on the stages of a run FILE in their order, all of them or those named, as 02."""
    try:
        chosen = [name for name in SHARED if any(name.startswith(given) for given in stages or SHARED)]
        if unknown := [given for given in stages if not any(name.startswith(given) for name in SHARED)]:
            raise RunError(
                f"{', '.join(unknown)} is not a stage that can be shared; known: {', '.join(SHARED)}"
            )
        parameters = read_run_file(file, list(sets)).parameters()
        run = open_run(**parameters, base=file.resolve().parent, change=True)
        for name in chosen:
            facts = None if name == SHARED[0] else facts_of(run)  # says where the data are not prepared
            for task in tasks_of(run, name, facts) or []:
                run.make(task)
            if is_first():
                print(f"{name} of {run.name} is finished", flush=True)
    except RunError as error:
        if is_first():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
