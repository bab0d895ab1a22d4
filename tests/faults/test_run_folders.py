"""Half a manifest, a lock whose owner is gone, no rights, a clock set back, a run folder that goes away."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from plotly.graph_objects import Figure

from genrec_lab.cli import main
from genrec_lab.lab import chain, store
from genrec_lab.lab.doctor import doctor
from genrec_lab.lab.store import Run, RunError, Task, Work, existing_run, open_run

DEAD = {"pid": 2**22 + 1, "host": "elsewhere", "purpose": "02_second/two", "since": "2000-01-01 00:00:00"}


def write_number(work: Work, number: int) -> None:
    (work.folder / "number.txt").write_text(str(number))


ONE = Task("01_first", "one", write_number, {"number": 1})


@pytest.fixture
def run(runs_root: Path) -> Run:
    opened = open_run("toy", dataset={"name": "bazaar"}, preset="gmc_tiny", seed=3)
    opened.make(ONE)
    return opened


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_manifest_half_written_is_rebuilt_from_the_results(run: Run, share: float) -> None:
    file = run.folder / "manifest.json"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RunError, match="genrec doctor toy"):
        existing_run("toy")
    assert [finding.place for finding in doctor("toy")] == ["manifest.json"]
    again = existing_run("toy")
    assert again.parameters == run.parameters
    assert again.state(ONE).usable


@pytest.mark.parametrize("lock", [".work", ".write", ".chain"])
def test_a_lock_whose_owner_is_gone_holds_nobody_up(run: Run, lock: str) -> None:
    (run.folder / f"{lock}.lock").touch()
    (run.folder / f"{lock}.holder").write_text(json.dumps(DEAD))
    run.figure("curve", Figure())
    assert run.make(Task("01_first", "two", write_number, {"number": 2})).is_dir()
    assert chain.run({"run": "toy"} | {key: run.parameters[key] for key in ("dataset", "preset", "seed")},
                     only=["00"], dry_run=True, quiet=True).runs  # fmt: skip


def test_a_clock_set_back_loses_no_figure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([2000.0, 1000.0, 500.0])
    monkeypatch.setattr(store.time, "time", lambda: next(times))
    run.set_stage("03_residual_atlas")
    run.figure("former", Figure())
    run.figure("kept", Figure())
    before = run.figures()
    run.figure("kept", Figure())
    assert chain._shown(run, "03_residual_atlas", before)["figures"] == ["kept"]
    assert list(run.figures()) == ["kept"]


@pytest.mark.parametrize("how", ["moved", "deleted"])
def test_a_folder_that_goes_while_a_result_is_made_is_said_and_not_made_again(run: Run, how: str) -> None:
    elsewhere = run.folder.with_name("elsewhere")

    def go(work: Work) -> None:
        (work.folder / "number.txt").write_text("1")
        shutil.move(run.folder, elsewhere) if how == "moved" else shutil.rmtree(run.folder)

    with pytest.raises(RunError, match=r"toy was moved or deleted while it was in use.*[Rr]un this again"):
        run.make(Task("01_first", "going", go))
    assert not run.folder.exists()
    if how == "moved":
        shutil.move(elsewhere, run.folder)
        assert existing_run("toy").state(ONE).usable


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/sys is a place where nobody makes a folder"
)
def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("run: x\ndataset: {name: bazaar}\npreset: gmc_tiny\n")
    monkeypatch.setenv("GENREC_RUNS", "/sys/genrec")
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["run", str(tmp_path / "run.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: /sys/genrec")
    assert "GENREC_RUNS" in said


def test_a_finished_run_is_read_without_writing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.folder.rglob("*")}
    again = open_run("toy")
    assert (again.read(ONE) / "number.txt").read_text() == "1"
    assert again.make(ONE) == again.read(ONE)
    assert {file: file.stat().st_mtime_ns for file in run.folder.rglob("*")} == before
