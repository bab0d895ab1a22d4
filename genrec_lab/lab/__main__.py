"""`python -m genrec_lab.run FILE.yaml`: execute a run's notebooks in order, and say what came of it."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from genrec_lab.lab import pipeline
from genrec_lab.lab.files import RunError, is_disk_full
from genrec_lab.lab.pipeline import ChainResult, NotebookFailed
from genrec_lab.lab.seeds import seeds_argument
from genrec_lab.lab.tables import kept_rows, provenance_of, result_tables, terminal_table

_LOG_WIDTH = 160
FAILED, REFUSED, INTERRUPTED, TERMINATED = 1, 2, 130, 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a chain from the command line; returns 0, or 1 (a notebook failed), 2 (bad input), 130 (Ctrl-C)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    errors = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    again = f"python -m genrec_lab.run {shlex.join(given)}"
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = pipeline.run(
            options.file,
            only=options.only,
            from_=options.from_,
            resume=options.resume,
            dry_run=options.dry_run,
            sets=options.set,
            seeds=options.seeds,
        )
    except NotebookFailed as error:
        errors.print(f"\n{error}\n\nMend the cause, then go on with: {_resuming(again)}")
        return FAILED
    except RunError as error:
        errors.print(f"error: {error}")
        return REFUSED
    except OSError as error:
        if not is_disk_full(error):
            raise
        errors.print(
            f"error: the disk is full ({error}); finished stages and checkpoints are kept. "
            f"Free some space, then go on with: {_resuming(again)}"
        )
        return FAILED
    except KeyboardInterrupt:
        errors.print(
            f"\nInterrupted; finished stages and checkpoints are kept. Go on with: {_resuming(again)}"
        )
        return INTERRUPTED
    if not options.dry_run:
        console = Console()
        if not console.is_terminal:  # a log has no edge at which a table would have to be cut
            console = Console(width=_LOG_WIDTH)
        _show(result, console)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m genrec_lab.lab",
        description="Execute a run file's notebooks in order. Finished ones are skipped, killed ones go on.",
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE.yaml", help="the run file, as papermill_runs/smoke.yaml"
    )
    parser.add_argument("--from", dest="from_", metavar="STAGE", help="begin with this notebook, as 05")
    parser.add_argument(
        "--only", type=_names, metavar="STAGE", help="run this notebook only, or several: 02,03"
    )
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave finished stages alone and go on with killed ones (the default), or run all anew",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why; touch nothing")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a key of the run file, as seed=3 or overrides.tokenizer.levels=4; may be repeated",
    )
    parser.add_argument(
        "--seeds", type=seeds_argument, metavar="1,2,3", help="the chain once a seed, then a comparison"
    )
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)  # unwinds as Ctrl-C does, so that the kernel is ended too


def _resuming(command: str) -> str:
    # what was asked to start anew is not to start anew again
    return command.replace(" --no-resume", "")


def _show(result: ChainResult, console: Console) -> None:
    metrics = result.metrics()
    made = [each for opened in result.runs for each in provenance_of(opened)]
    tables = result_tables(metrics, kept_rows(made, metrics["method"].unique(maintain_order=True)))
    if tables is not None:
        names = ", ".join(opened.name for opened in result.runs)
        (metric, by_domain), *_ = tables.by_domain.items()
        console.print(terminal_table(by_domain, f"{names}: {metric} by domain"))
        console.print(terminal_table(tables.averages, "Averages over users", tables.note))
    console.print(f"Report: {result.report}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
