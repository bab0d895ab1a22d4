"""The chain over the real notebooks at their smallest sizes: unbroken, and killed within a training."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
CHAIN = [sys.executable, "-m", "genrec_lab.run", "papermill_runs/smoke.yaml"]
PREPARED, TOKENIZED, TRAINED = "01_data_preparation", "02_tokenizer_training", "05_recommender_training"
# What metrics follow from; the others only look at what these have made.
NEEDED = [PREPARED, TOKENIZED, TRAINED, "06_domain_adaptation", "07_evaluation"]
ROWS = {"gmc_tiny", "gmc_without_lora", "tiger", "sasrec", "popularity", "best possible"}
DOMAINS = {"Garden", "Kitchen", "Studio", "average"}

pytestmark = pytest.mark.slow


@contextmanager
def chain(root: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The chain in a process of its own, whose kernels and itself are gone when the block ends."""
    # What it prints goes to a file, for a pipe that nobody reads would stop it when it is full.
    with (root / "printed.txt").open("w", encoding="utf-8") as printed:
        process = subprocess.Popen(
            [*CHAIN, *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"GENREC_RUNS": str(root)},
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
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


def finished(root: Path, *arguments: str) -> tuple[Path, str]:
    """Run the chain to its end; its run folder and what it printed."""
    with chain(root, *arguments) as process:
        process.wait(timeout=900)
    printed = (root / "printed.txt").read_text(encoding="utf-8")
    assert process.returncode == 0, printed
    return root / "smoke", printed


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def events(folder: Path, place: str) -> list[str]:
    """What the log says of the results below a place, in order."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines() if folder.exists() else []
    return [event["event"] for event in map(json.loads, lines) if event.get("place", "").startswith(place)]


def metrics(folder: Path) -> dict[tuple[object, ...], float]:
    records = read(folder / "metrics.json")["records"]
    return {
        tuple(record[name] for name in ("method", "domain", "metric", "k", "users", "seed")): record["value"]
        for record in records
    }


def weights(folder: Path) -> dict[str, str]:
    """Hashes of all trained weights by their path in the run folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for stage in NEEDED
        for file in sorted((folder / stage).rglob("*model.safetensors"))
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder of every notebook executed once, and what the chain printed."""
    return finished(tmp_path_factory.mktemp("unbroken"))


def test_every_notebook_runs_and_the_report_holds_everything(unbroken: tuple[Path, str]) -> None:
    folder, printed = unbroken
    notebooks = {file.stem for file in (REPOSITORY / "notebooks").glob("0[0-9]_*.ipynb")}  # 10 by name alone
    pages = read(folder / "manifest.json")["pages"]
    assert {name: page["status"] for name, page in pages.items()} == dict.fromkeys(notebooks, "finished")
    assert all(list((folder / stage).rglob("result.json")) for stage in NEEDED)
    assert {file.stem for file in (folder / "notebooks").glob("*.ipynb")} == notebooks

    recorded = metrics(folder)
    assert {key[:4] for key in recorded} == {
        (row, domain, metric, k)
        for row in ROWS
        for domain in DOMAINS
        for metric in ("recall", "ndcg")
        for k in (5, 10)
    }
    assert all(0 <= value <= 1 for value in recorded.values())
    users = {key[1]: key[4] for key in recorded}
    assert users["average"] == sum(count for domain, count in users.items() if domain != "average") == 600

    report = (folder / "report.html").read_text(encoding="utf-8")
    figures = read(folder / "figures" / "index.json")
    del figures["checksum"]
    assert {entry["stage"] for entry in figures.values()} >= set(NEEDED)
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


def test_after_kill_9_in_the_middle_of_a_training_it_goes_on_and_gives_the_same_numbers(
    unbroken: tuple[Path, str], tmp_path: Path
) -> None:
    arguments = ["--set", f"notebooks=[{', '.join(NEEDED)}]"]
    folder = tmp_path / "smoke"
    scratch = folder / "scratch" / TRAINED
    with chain(tmp_path, *arguments) as process:
        deadline = time.monotonic() + 600
        # The recommender over all domains has a checkpoint; those of single domains are still to come.
        while not list((scratch / "gmc_tiny" / "all").rglob("epoch-[0-9]")):
            assert process.poll() is None, (tmp_path / "printed.txt").read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.01)
        kill(process)
    killed = read(folder / "manifest.json")["pages"]
    assert killed[TRAINED]["status"] == "started"
    assert events(folder, f"{TRAINED}/gmc_tiny/all") == ["started"]
    assert not (folder / "report.html").exists()
    before = {file: file.read_bytes() for file in (folder / TRAINED).rglob("result.json")}
    assert any("sasrec" in file.parts for file in before)

    again, printed = finished(tmp_path, *arguments)
    assert again == folder
    pages = read(folder / "manifest.json")["pages"]
    assert {page["status"] for page in pages.values()} == {"finished"}
    # Earlier stages are left alone, and their notebooks too.
    for stage in (PREPARED, TOKENIZED):
        said = events(folder, stage)
        assert said.count("started") == said.count("finished") > 0
        assert "resumed" not in said
        assert pages[stage] == killed[stage]
        assert re.search(rf"{stage} .*skipped", printed)
    # What was trained before the kill is kept, times included; the killed training goes on.
    assert {file: file.read_bytes() for file in before} == before
    assert events(folder, f"{TRAINED}/gmc_tiny/all") == ["started", "resumed", "finished"]
    assert read(folder / TRAINED / "gmc_tiny" / "all" / "result.json")["made"]["attempts"] == 2
    assert not list((folder / "scratch").rglob("epoch-*"))
    assert (folder / "report.html").is_file()

    # Tokenizers, recommenders of each row, adapters; GMC without LoRA has copies of GMC's first two.
    assert len(weights(folder)) == 5 + 2 + 3 + 3 + 3
    assert weights(folder) == weights(unbroken[0])
    assert metrics(folder) == metrics(unbroken[0])
