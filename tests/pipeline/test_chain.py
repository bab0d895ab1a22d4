"""The real notebooks from the wheel alone, outside the checkout: killed within a training, and resumed."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import yaml

from genrec_lab.lab.files import read_log
from genrec_lab.lab.store import open_run
from tests.pipeline.truth_chain import REPOSITORY, STAGES, make, metrics, tasks
from tests.pipeline.wheel import OUTSIDE

PREPARED, TOKENIZED, TRAINED = STAGES[:3]
ROWS = {"gmc_tiny", "gmc_without_lora", "tiger", "sasrec", "popularity", "best possible"}
SHOPS = ["Garden", "Kitchen"]
DOMAINS = {*SHOPS, "average"}
SMALLER = ("--set", "dataset.users=300", "--set", f"dataset.domains=[{', '.join(SHOPS)}]")

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


@contextmanager
def chain(genrec: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The chain in a process of its own, whose kernels and itself are gone when the block ends."""
    # What it prints goes to a file, because a full pipe that nobody reads would block it.
    command = [genrec, "run", "smoke.yaml", *SMALLER]
    with (folder / "printed.txt").open("w", encoding="utf-8") as printed:
        process = subprocess.Popen(command, cwd=folder, env=OUTSIDE, stdout=printed, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and its kernels, as when a machine goes down."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.kill()
    for child in started:
        child.kill()
    psutil.wait_procs(started)
    process.wait()


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def events(folder: Path, place: str) -> list[str]:
    """What the log says of the results below a place, in order."""
    return [event["event"] for event in read_log(folder)[0] if event.get("place", "").startswith(place)]


@dataclass(frozen=True)
class Resumed:
    """A run that was killed and resumed: its folder, what was there after the kill, what was printed."""

    folder: Path
    pages: dict[str, Any]
    records: dict[Path, bytes]
    printed: str


@pytest.fixture(scope="module")
def resumed(genrec: Path, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    """All notebooks of the smoke run; killed once when the recommender over all domains has a checkpoint."""
    outside = tmp_path_factory.mktemp("outside")
    subprocess.run([genrec, "init", "x"], cwd=outside, env=OUTSIDE, check=True, timeout=300)
    code = "import genrec_lab; print(genrec_lab.__file__)"
    python = [genrec.with_name("python"), "-c", code]
    imported = subprocess.run(python, cwd=outside, env=OUTSIDE, capture_output=True, text=True, check=True)
    assert str(genrec.parents[1]) in imported.stdout
    folder = outside / "x" / "runs" / "smoke"
    with chain(genrec, outside / "x") as process:
        deadline = time.monotonic() + 1800
        while not list((folder / "scratch" / TRAINED / "gmc_tiny" / "all").rglob("epoch-[0-9]")):
            assert process.poll() is None, (outside / "x" / "printed.txt").read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.01)
    pages = read(folder / "manifest.json")["pages"]
    assert pages[TRAINED]["status"] == "started"
    assert events(folder, f"{TRAINED}/gmc_tiny/all") == ["started"]
    assert not (folder / "report.html").exists()
    records = {file: file.read_bytes() for file in (folder / TRAINED).rglob("result.json")}
    with chain(genrec, outside / "x") as process:
        process.wait(timeout=1800)
    printed = (outside / "x" / "printed.txt").read_text(encoding="utf-8")
    assert process.returncode == 0, printed
    return Resumed(folder, pages, records, printed)


def test_after_the_kill_it_goes_on_in_the_training_that_was_killed(resumed: Resumed) -> None:
    folder = resumed.folder
    assert any("sasrec" in file.parts for file in resumed.records)
    # What was made before the kill is kept, times included, and so are the notebooks of earlier stages.
    assert {file: file.read_bytes() for file in resumed.records} == resumed.records
    pages = read(folder / "manifest.json")["pages"]
    for stage in (PREPARED, TOKENIZED):
        said = events(folder, stage)
        assert said.count("started") == said.count("finished") > 0
        assert "resumed" not in said
        assert pages[stage] == resumed.pages[stage]
        assert re.search(rf"{stage} .*skipped", resumed.printed)
    assert events(folder, f"{TRAINED}/gmc_tiny/all") == ["started", "resumed", "finished"]
    assert read(folder / TRAINED / "gmc_tiny" / "all" / "result.json")["made"]["attempts"] == 2
    assert not list((folder / "scratch").rglob("epoch-*"))


def test_its_results_are_those_of_the_stages_called_without_a_break(resumed: Resumed, tmp_path: Path) -> None:
    spec = yaml.safe_load((REPOSITORY / "papermill_runs" / "smoke.yaml").read_text(encoding="utf-8"))
    spec["dataset"] |= {"users": 300, "domains": SHOPS}
    run = open_run(**spec, root=tmp_path)
    make(run)
    digests = {task.place: run.state(task).digest for task in tasks(run)}
    assert sum(place.startswith(TRAINED) for place in digests) >= 5
    assert {place: read(resumed.folder / place / "result.json")["digest"] for place in digests} == digests
    assert read(resumed.folder / "metrics.json")["records"] == metrics(run)


def test_tables_say_what_the_training_of_each_row_took(resumed: Resumed) -> None:
    folder = resumed.folder
    notes = read(folder / "metrics.json")["notes"]
    pairs = pl.read_parquet(folder / PREPARED / "data" / "train.parquet").height
    # Each row goes through the pairs twice in one pass and once in whole histories; GMC's adapters once more.
    samples = {row: notes[row]["samples"] for row in ("tiger", "gmc_without_lora", "gmc_tiny")}
    assert samples == {"tiger": 3 * pairs, "gmc_without_lora": 3 * pairs, "gmc_tiny": 4 * pairs}
    assert notes["gmc_tiny"]["trainings"] == 1 + len(SHOPS)  # over all domains, and an adapter for each
    assert pairs / 256 < notes["gmc_tiny"]["steps"] / 4 < pairs / 256 + 3
    assert "What training took" in resumed.printed
    assert f"{4 * pairs:,}" in (folder / "report.html").read_text(encoding="utf-8")


def test_every_notebook_ran_and_the_report_holds_everything(resumed: Resumed) -> None:
    folder, printed = resumed.folder, resumed.printed
    notebooks = {file.stem for file in (REPOSITORY / "notebooks").glob("0[0-9]_*.ipynb")}  # 10 by name alone
    pages = read(folder / "manifest.json")["pages"]
    assert {name: page["status"] for name, page in pages.items()} == dict.fromkeys(notebooks, "finished")
    assert all(list((folder / stage).rglob("result.json")) for stage in STAGES)
    assert {file.stem for file in (folder / "notebooks").glob("*.ipynb")} == notebooks

    recorded = read(folder / "metrics.json")["records"]
    assert {(one["method"], one["domain"], one["metric"], one["k"]) for one in recorded} == {
        (row, domain, metric, k)
        for row in ROWS
        for domain in DOMAINS
        for metric in ("recall", "ndcg")
        for k in (5, 10)
    }
    assert all(0 <= one["value"] <= 1 for one in recorded)
    users = {one["domain"]: one["users"] for one in recorded}
    assert users["average"] == sum(count for domain, count in users.items() if domain != "average") == 300

    report = (folder / "report.html").read_text(encoding="utf-8")
    figures = read(folder / "manifest.json")["figures"]
    assert {entry["stage"] for entry in figures.values()} >= set(STAGES)
    for name in figures:
        data = re.search(
            rf'<script type="application/json" id="data-{name}">(.*?)</script>', report, re.DOTALL
        )
        assert data is not None, name
        assert json.loads(data[1])["data"] == read(folder / "figures" / f"{name}.json")["data"]
    assert not re.search(
        r'<(script|link|img)[^>]*(src|href)="(https?:)?//', report
    )  # it opens without a network
    assert all(row in report for row in ROWS)

    # The table on the terminal ranks the rows, and the last line says where the report is.
    assert all(re.search(rf"^ .*\b{row}\b.* [01]\.\d{{4}}", printed, re.MULTILINE) for row in ROWS)
    assert printed.rstrip().endswith(f"Report: {folder / 'report.html'}")
