"""`genrec doctor` and `genrec clean`: find and repair damage in a run, and free what it can spare."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from genrec_lab.lab.chain import STAGES, tasks_of
from genrec_lab.lab.files import RunError, damage, held, read_checked, read_log, write_checked
from genrec_lab.lab.report import build_report
from genrec_lab.lab.results import SCHEMA, forget_hashes, records_in
from genrec_lab.lab.store import Run, existing_run, runs_root

_SPARE = ("scratch", "making", "replaced")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run: where, what, and how it is repaired."""

    place: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}. {self.mend}"


def doctor(name: str, root: Path | None = None) -> list[Finding]:
    """Verify every file of a run, and rebuild manifest, metrics and report from its results.

    Returns what is wrong; the next `genrec run` makes damaged results again, and nothing else. Raises
    `RunError` if there is no run of that name, or nothing from which its manifest could be rebuilt.
    """
    folder = (root or runs_root()) / name
    if not folder.is_dir():
        raise RunError(f"There is no run {name!r} in {folder.parent}.")
    forget_hashes()
    found = list(_manifest(folder))
    run = existing_run(name, root)
    if run.read_only:
        raise RunError(
            f"Another version of genrec_lab made the run {name!r}; this one cannot verify its files."
        )
    found += [*_damaged_results(run), *_damaged_files(run)]
    build_report(run)  # and metrics.json
    return found


def clean(name: str, root: Path | None = None, *, dry_run: bool = False) -> dict[str, int]:
    """Free checkpoints, replaced results and results of rows that the run no longer has.

    Returns the bytes of each kind; `dry_run` only counts them. What the run shows stays as it is.
    """
    run = existing_run(name, root)
    found = {kind: [run.folder / kind] for kind in _SPARE if (run.folder / kind).is_dir()}
    current = {task.place for stage in STAGES for task in tasks_of(run, stage) or []}
    made = [folder for folder, *_ in records_in(run.folder)]
    orphans = [folder for folder in made if folder.relative_to(run.folder).as_posix() not in current]
    if orphans and tasks_of(run, "02_tokenizer_training") is not None:
        found["results with other settings"] = orphans
    sizes = {kind: sum(map(_size, folders)) for kind, folders in found.items()}
    if not dry_run:
        with held(run.folder / ".chain.lock", "cleaning", 0.0):
            for folders in found.values():
                for folder in folders:
                    shutil.rmtree(folder, ignore_errors=True)
    return sizes


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _manifest(folder: Path) -> Iterator[Finding]:
    """Check the manifest; one that is damaged or missing is rebuilt from what the results say of the run."""
    file, why = folder / "manifest.json", "it is missing"
    try:
        if file.is_file():
            read_checked(file)
            return
    except RunError as error:
        why = str(error).rstrip(".")
    records = [record for _, record, _ in records_in(folder) if record is not None]
    if not records:
        raise RunError(
            f"{file} cannot be read, and no result records the parameters of the run. Run its run file again "
            "under this name: results that fit are kept."
        )
    latest = max(records, key=lambda record: str(record.made.get("finished_at")))
    # The base folder is not in the results: relative paths begin at the working directory until the next run.
    write_checked(file, {"format": SCHEMA, "parameters": latest.parameters, "pages": {}})
    mend = "It was rebuilt from the results; the notebooks make their pages again."
    yield Finding("manifest.json", why, mend)


def _damaged_results(run: Run) -> Iterator[Finding]:
    owned = set()
    for folder, record, problem in records_in(run.folder):
        owned.add(folder)
        if broken := problem if record is None else record.damage(folder):
            where = folder.relative_to(run.folder).as_posix()
            yield Finding(
                where, broken, "`genrec run` computes it again, and what depends on it only if it differs."
            )
    for file in sorted(run.folder.glob("[0-9][0-9]_*/**/*")):
        if file.is_file() and not owned & set(file.parents):
            where = file.relative_to(run.folder).as_posix()
            yield Finding(where, "it belongs to no result", "Nothing reads it; you can delete it.")


def _damaged_files(run: Run) -> Iterator[Finding]:
    """Check what stands beside the results: figures, pages, the log and exports."""
    manifest = run.manifest()
    for name, entry in run.figures().items():
        if broken := damage(run.figure_file(name), entry["sha256"], f"its figure {name}"):
            yield Finding(f"figures/{name}.json", broken, f"{entry.get('stage')}.ipynb saves it again.")
    for stage, page in manifest.get("pages", {}).items():
        for ending, key in ((".ipynb", "sha256"), (".log", "log_sha256")):
            file = run.folder / "notebooks" / f"{stage}{ending}"
            if page.get("status") == "finished" and key in page and (what := damage(file, page[key])):
                yield Finding(f"notebooks/{file.name}", what, "`genrec run` makes the page again.")
    _, lines = read_log(run.folder)
    if lines:
        some = ", ".join(map(str, lines[:5])) + ("…" if len(lines) > 5 else "")
        yield Finding("log.jsonl", f"lines {some} were changed or cut off", "They are ignored.")
    for name, sha256 in manifest.get("exports", {}).items():
        if what := damage(run.folder / name, sha256):
            yield Finding(name, what, "It was written again from the rankings.")
