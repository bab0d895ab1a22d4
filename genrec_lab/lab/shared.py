"""`accelerate launch -m genrec_lab.lab.shared FILE.yaml STAGE…`: several processes share the work of stages.

Without notebooks, for those run in one process. Afterwards `genrec run FILE.yaml` finds the results, and
makes the notebooks' pages and the report.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from genrec_lab.lab.adapt import adapt_to_domains
from genrec_lab.lab.evaluate import rank_test_users
from genrec_lab.lab.files import RunError
from genrec_lab.lab.prepare import prepare_data
from genrec_lab.lab.processes import is_first
from genrec_lab.lab.recommend import train_recommenders
from genrec_lab.lab.runfile import read_run_file
from genrec_lab.lab.store import Run, open_run
from genrec_lab.lab.tokenise import train_tokenizers

SHARED: dict[str, Callable[[Run], Any]] = {
    "01_data_preparation": prepare_data,
    "02_tokenizer_training": train_tokenizers,
    "05_recommender_training": train_recommenders,
    "06_domain_adaptation": adapt_to_domains,
    "07_evaluation": rank_test_users,
}


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
                f"{', '.join(unknown)} names no stage that can be shared; known: {', '.join(SHARED)}"
            )
        parameters = read_run_file(file, list(sets)).parameters()
        run = open_run(**parameters, base=file.resolve().parent, change=True)
        for name in chosen:
            SHARED[name](run)
            if is_first():
                print(f"{name} of {run.name} is finished", flush=True)
    except RunError as error:
        if is_first():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
