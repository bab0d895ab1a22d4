"""The command `genrec`: run files executed, folders to work in made, runs compared and mended.

Nothing heavy is imported before it is needed: help, `init` and a refused run file take about a second.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from genrec_lab.lab.chain import ChainResult

FAILED, REFUSED = 1, 2
_LOG_WIDTH = 160


class _Target(click.Path):
    """A file or folder to write. Missing folders above it are made, except directly in the root."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, parameter, context)))
        above = [*path.absolute().parents][::-1]
        if wrong := next((folder for folder in above if folder.exists() and not folder.is_dir()), None):
            self.fail(f"{path}: {wrong} is a file, not a folder", parameter, context)
        if len(above) > 1 and not above[1].exists():
            self.fail(
                f"{path}: there is no folder {above[1]}; make it first if you mean it", parameter, context
            )
        return path


_PATH, _FILE = click.Path(path_type=Path), click.Path(path_type=Path, dir_okay=False)
_THERE = click.Path(exists=True, dir_okay=False)
_NEW_FOLDER, _NEW_FILE = _Target(path_type=Path), _Target(path_type=Path, dir_okay=False)
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


def main(arguments: Sequence[str] | None = None, command: str = "genrec", implied: Sequence[str] = ()) -> int:
    """Do what a command line asks for.

    Returns 0, 1 (a notebook failed), 2 (bad input), or 130, 143 or 129 (Ctrl-C, SIGTERM or SIGHUP came).
    command: how the program was called, for the hint how to go on. implied: arguments that this stands for.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # without --no-resume, which would make again what was made
    again = f"{command} {shlex.join(given)}".replace(" --no-resume", "")
    signals: list[int] = []
    try:
        with _ended_by(signals):
            answer = genrec.main([*implied, *given], prog_name="genrec", standalone_mode=False, obj=again)
            return int(answer or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say(f"\nInterrupted; finished stages and checkpoints are kept. Continue with: {again}")
        return 128 + (signals[0] if signals else signal.SIGINT)
    except Exception as error:
        from genrec_lab.lab.files import RunError, is_disk_full

        full = isinstance(error, OSError) and is_disk_full(error)
        if isinstance(error, RunError):
            said = str(error)
        elif full:
            said = (
                f"the disk is full ({error}); finished stages and checkpoints are kept. Free some space, "
                f"then continue with: {again}"
            )
        elif isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            said = (
                f"{error.filename}: {error.strerror}. Fix its permissions, or set GENREC_RUNS to a folder "
                "that may be written to."
            )
        elif isinstance(error, OSError) and error.filename is not None:
            said = f"{error.filename}: {error.strerror}; check the path."
        else:
            raise
        _say(f"error: {said}")
        return FAILED if full else REFUSED


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="genrec-lab", message="genrec_lab %(version)s")
def genrec() -> None:
    """Generative recommendation with semantic identifiers: from item texts to ranked items."""


def _names(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    if text is not None and not all(number.strip().isdigit() for number in text.split(",")):
        raise click.UsageError(
            f"--{option.name} {text!r}: expected numbers separated by commas, such as 256,256"
        )
    return None if text is None else [int(number) for number in text.split(",")]


@genrec.command()
@click.argument("file", type=_PATH, metavar="FILE.yaml")
@click.option("--from", "from_", metavar="STAGE", help="Start with this notebook, such as 05.")
@click.option("--only", callback=_names, metavar="STAGE", help="Run this notebook only, or several: 02,03.")
@click.option(
    "--resume/--no-resume", default=True, help="Keep finished results (default) or compute everything again."
)
@click.option("--dry-run", is_flag=True, help="Say what would run and why; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print the steps as JSON.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE",
    help="Set a key of the run file, such as seed=3 or overrides.tokenizer.levels=4. May be repeated.",
)  # fmt: skip
@click.option("--seeds", metavar="0,1,2", help="Run the chain once for each seed, then compare.")
@click.option("--keep-old-code", is_flag=True, help="Keep and mark results if only their code has changed.")
@click.option("--deterministic", is_flag=True, help="Refuse operations whose results vary from run to run.")
@click.pass_obj
def run(
    again: str, /, file: Path, sets: tuple[str, ...], seeds: str | None, as_json: bool, deterministic: bool,
    **how: Any,
) -> int:  # fmt: skip
    """Execute a run file's notebooks in order. Finished ones are skipped, killed ones resume."""
    from genrec_lab.lab.preflight import check_run
    from genrec_lab.registry import relative_to

    if as_json and not how["dry_run"]:
        raise click.UsageError("--json shows what --dry-run finds; add --dry-run, or leave --json out.")
    with relative_to(file.resolve().parent):
        checked = check_run(file, sets, seeds, only=how.pop("only"), from_=how.pop("from_"))
        for warning in checked.warnings:
            _say(f"warning: {warning}")
        if deterministic:  # the kernels inherit both
            os.environ["GENREC_DETERMINISTIC"] = "1"
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        from rich.console import Console

        from genrec_lab.lab import chain

        try:
            result = chain.run(checked, console=Console(quiet=as_json), **how)
        except chain.NotebookFailed as error:
            _say(f"\n{error}\n\nFix the cause, then continue with: {again}")
            return FAILED
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
        elif not how["dry_run"]:
            _show(result)
    return 0


def _wide_console() -> Any:
    from rich.console import Console

    console = Console()  # a log has no edge at which a table would have to be cut
    return console if console.is_terminal else Console(width=_LOG_WIDTH)


def _show(result: ChainResult) -> None:
    from genrec_lab.lab.prepare import ties_in_short
    from genrec_lab.lab.tables import effort_table, kept_rows, notes_by_row, result_tables, terminal_table

    metrics, console = result.metrics(), _wide_console()
    made = [each for opened in result.runs for each in opened.provenance()]
    tables = result_tables(metrics, kept_rows(made, metrics["method"].unique(maintain_order=True)))
    if tables is not None:
        names = ", ".join(opened.name for opened in result.runs)
        (metric, by_domain), *_ = tables.by_domain.items()
        console.print(terminal_table(by_domain, f"{names}: {metric} by domain"))
        ties = dict.fromkeys(ties_in_short(opened) for opened in result.runs)
        note = "\n".join(text for text in (tables.note, *ties) if text)
        console.print(terminal_table(tables.averages, "Averages over users", note))
        if (effort := effort_table(notes_by_row(result.runs))).height:
            console.print(terminal_table(effort, "What training took"))
    console.print(f"Report: {result.report}", markup=False, highlight=False, soft_wrap=True)


@genrec.command()
@click.argument("folder", type=_NEW_FOLDER)
@click.option(
    "--data", nargs=2, type=_PATH, metavar="INTERACTIONS ITEMS",
    help="Your tables (csv, tsv, jsonl, parquet): writes a run file for them and says what was understood.",
)  # fmt: skip
def init(folder: Path, data: tuple[Path, Path] | None) -> int:
    """Make a folder to work in: the notebooks, two run files, a place for data."""
    from genrec_lab.lab.folders import make_folder

    if not data:
        click.echo(make_folder(folder))
        return 0
    from genrec_lab.lab.own_tables import run_file_for

    name, text, said, problem = run_file_for(folder, *data)
    ready = make_folder(folder, {name: text})
    for line in [*said, f"written: {folder / name}"]:
        click.echo(line)
    if problem is not None:
        _say(
            f"error: the tables cannot be read yet: {problem}. Complete `dataset` in {folder / name}, then "
            f"check it with: genrec run {shlex.quote(str(folder / name))} --dry-run"
        )
        return REFUSED
    click.echo(ready)
    return 0


@genrec.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
def compare(runs: tuple[str, ...]) -> None:
    """Compare runs: settings that differ, one table with intervals, codes side by side."""
    from genrec_lab.lab.compare import put_beside
    from genrec_lab.lab.store import existing_run
    from genrec_lab.lab.tables import effort_table, terminal_table, text_frame

    opened = [existing_run(name) for name in runs]
    found = put_beside(opened)
    noted = {f"{run.name}: {row}": [note] for run in opened for row, note in run.notes().items()}
    console = _wide_console()
    for note in found.notes:
        click.echo(f"NOTE: {note}")
    tables = {"Settings that differ": found.settings, "Rows over all test users": found.table}
    tables["What training took"] = effort_table(noted)
    for title, frame in {**tables, "Codes by level": found.codes}.items():
        if frame.height:
            console.print(terminal_table(text_frame(frame), title))
        else:
            click.echo(f"{title}: none")


@genrec.command()
@click.argument("run")
@click.option("--row", help="Only this row; by default all rows.")
@click.option("--to", "folder", required=True, type=_NEW_FOLDER, help="The folder to create.")
def export(run: str, row: str | None, folder: Path) -> None:
    """Write a run's codes, rankings, data and models for other tools, with the source's own keys."""
    from genrec_lab.lab.export import export_run
    from genrec_lab.lab.store import existing_run

    click.echo(export_run(existing_run(run), folder, row, _say))


@genrec.command()
@click.argument("source", metavar="RUN_OR_FOLDER")
@click.option(
    "--histories", required=True, type=_FILE, help=".parquet or .jsonl: user, history; .csv: user, item."
)
@click.option("--top-k", type=int, default=10, show_default=True, help="Number of items for each user.")
@click.option("--row", help="The row; by default the run's own.")
@click.option("--allow", type=_FILE, help="Only these items: one key per line, or a table's column 'item'.")
@click.option("--deny", type=_FILE, help="None of these items.")
@click.option("--exclude-seen", is_flag=True, help="Leave out the items that a user already has.")
@click.option("--beams", type=int, help="Width of the search; by default 20, or top-k.")
@click.option(
    "--unknown", type=click.Choice(["refuse", "drop"]), default="refuse", show_default=True,
    help="What to do with items in histories that the model does not know.",
)  # fmt: skip
@click.option(
    "--out", required=True, type=_NEW_FILE, help=".parquet or .csv: user, domain, rank, item, score."
)
def recommend(source: str, out: Path, **asked: Any) -> None:
    """Recommend items to every user of a file. A killed call resumes where it stopped."""
    from genrec_lab.lab.serving import recommend_to_file

    click.echo(recommend_to_file(source, out=out, **asked, say=_say))


@genrec.command(name="add-items")
@click.argument("source", metavar="RUN_OR_FOLDER")
@click.option("--items", required=True, type=_FILE, help=".csv, .tsv or .parquet: key, title, domain …")
@click.option("--row", help="The row; by default the run's own.")
@click.option("--out", required=True, type=_NEW_FOLDER, help="The folder to create.")
def add_items(source: str, items: Path, row: str | None, out: Path) -> None:
    """Encode new items with the frozen tokenizer, so that they can be recommended; no old code changes."""
    from genrec_lab.lab.growing import add_items as grow

    click.echo(grow(source, items, out, row, _say))


@genrec.command()
@click.argument("run_or_codes", metavar="RUN|CODES.json")
@click.option(
    "--items", type=_THERE,
    help="Titles and attributes of the codes' items: .json, .jsonl, .csv, .tsv, .parquet or RecBole's .item.",
)  # fmt: skip
@click.option("--vectors", type=_THERE, help="Their content vectors, .npy or .safetensors.")
@click.option(
    "--sizes", callback=_numbers, metavar="256,256",
    help="Number of codes of each level, which files do not state.",
)  # fmt: skip
@click.option("--row", help="For a run: the row whose tokenizer is opened; by default its own.")
@click.option(
    "--map", "maps", multiple=True, metavar="NAME", help="Include a map, such as UMAP. May be repeated."
)
@click.option(
    "--html", type=_NEW_FILE, help="The file to write; by default NAME-explorer.html in this folder."
)
def explore(
    run_or_codes: str, items: str | None, vectors: str | None, sizes: list[int] | None, row: str | None,
    maps: tuple[str, ...], html: Path | None,
) -> None:  # fmt: skip
    """Write the codebook explorer of a run, or of anybody's codes, as one HTML file.

    The file needs neither a kernel nor a network. In a notebook, genrec_lab.explore opens the whole explorer.
    """
    from genrec_lab.lab.explore import opened_state
    from genrec_lab.lab.files import RunError
    from genrec_lab.registry import relative_to
    from genrec_lab.viz.explorer.html_file import write_html

    try:
        with relative_to(Path.cwd()):  # until a run is opened, whose own folder holds for what it loads later
            state, notes = opened_state(run_or_codes, items, vectors, sizes, method=row)
            for note in notes:
                _say(f"NOTE: {note}")
            name = Path(run_or_codes).name.split(".")[0]
            # A map by t-SNE takes about half a minute, and shows what principal components do not.
            ready = [kind for kind, made in state.maps.items() if kind == "t-SNE" or not callable(made)]
            kinds = list(maps) or sorted(ready, key=lambda kind: kind != "t-SNE")
            file = write_html(state, html or Path(f"{name}-explorer.html"), maps=kinds)
    except ValueError as error:
        raise RunError(f"{error}.") from error
    click.echo(f"written: {file} ({file.stat().st_size / 1e6:.1f} MB)")


@genrec.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print a list of {place, what, mend}.")
def doctor(run: str, as_json: bool) -> int:
    """Verify a run, say what is damaged, and rebuild its manifest, metrics and report.

    Exits with 1 if something is damaged; `genrec run` then computes only that again.
    """
    from genrec_lab.lab.doctor import doctor as verify

    findings = verify(run)
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(str(finding))
        places = f"{len(findings)} place{'s are' if len(findings) > 1 else ' is'} damaged"
        click.echo(f"{run}: {places if findings else 'nothing is damaged'}")
    return FAILED if findings else 0


@genrec.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask before files are removed.")
def clean(run: str, yes: bool) -> None:
    """Free the disk of a run's checkpoints and replaced results, after saying how much there is."""
    from genrec_lab.lab.doctor import clean as free

    sizes = free(run, dry_run=True)
    for kind, size in sizes.items():
        click.echo(f"{kind}: {size / 1e6:,.1f} MB")
    if sizes and (yes or click.confirm(f"Remove {sum(sizes.values()) / 1e6:,.1f} MB?")):
        free(run)


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _ended_by(caught: list[int]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does, so that its kernel ends too; note which came.

    A second signal is ignored while the first is obeyed. So is one that was ignored before, as nohup does it.
    """
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    former = {number: signal.getsignal(number) for number in numbers}
    obeyed = [number for number in numbers if former[number] is not signal.SIG_IGN]

    def end(number: int, frame: FrameType | None) -> None:
        for other in obeyed:
            signal.signal(other, signal.SIG_IGN)
        caught.append(number)
        raise KeyboardInterrupt

    for number in obeyed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in obeyed:
            signal.signal(number, former[number])


def entry() -> None:
    """Run the console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
