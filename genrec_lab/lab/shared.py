"""`accelerate launch -m genrec_lab.lab.shared FILE.yaml STAGE…`: several processes share the work of stages.

Without notebooks, for those run in one process. Afterwards `genrec run FILE.yaml` finds the
stages finished, and makes their pages and the report.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genrec_lab.lab.files import RunError
from genrec_lab.lab.runfile import base_of, read_run_file
from genrec_lab.lab.sharing import is_first
from genrec_lab.lab.stages import (
    adapt_to_domains,
    prepare_data,
    rank_test_users,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.lab.store import Run, open_run
from genrec_lab.registry import set_base_folder

STAGES: dict[str, Callable[[Run], Any]] = {
    "01_data_preparation": prepare_data,
    "02_tokenizer_training": train_tokenizers,
    "05_recommender_training": train_recommenders,
    "06_domain_adaptation": adapt_to_domains,
    "07_evaluation": rank_test_users,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Work on stages in their order; returns 0, or 2 where the run file or a stage is refused."""
    parser = argparse.ArgumentParser(prog="accelerate launch -m genrec_lab.lab.shared", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE.yaml")
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="STAGE", help="as 02; all of them")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    try:
        chosen = [name for name in STAGES if any(name.startswith(given) for given in options.stages)]
        unknown = [given for given in options.stages if not any(name.startswith(given) for name in STAGES)]
        if unknown:
            raise RunError(
                f"{', '.join(unknown)} names no stage that can be shared; known: {', '.join(STAGES)}"
            )
        set_base_folder(base_of(options.file))
        run = open_run(**read_run_file(options.file, options.set).parameters())
        for name in chosen:
            STAGES[name](run)
            if is_first():
                print(f"{name} of {run.name} is finished", flush=True)
    except RunError as error:
        if is_first():
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
