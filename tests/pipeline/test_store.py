"""The store: a result is kept while its settings, inputs, code and files are what they were."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from genrec_lab.lab import results
from genrec_lab.lab.store import Run, RunError, Task, Work, existing_run, open_run, unopened_run

MADE: list[str] = []  # places of results that were made, in order


def write_number(work: Work, number: int) -> None:
    MADE.append(work.title)
    (work.folder / "number.txt").write_text(str(number))
    (work.beside / "log.txt").write_text(os.urandom(4).hex())


def add_one(work: Work, before: Path) -> None:
    MADE.append(work.title)
    (work.folder / "number.txt").write_text(str(int((before / "number.txt").read_text()) + 1))


def parity(work: Work, before: Path) -> None:
    MADE.append(work.title)
    (work.folder / "number.txt").write_text(str(int((before / "number.txt").read_text()) % 2))


def fail_once(work: Work) -> None:
    MADE.append(work.title)
    seen = work.scratch / "checkpoint"
    if not seen.is_file():
        seen.write_text("half of it")
        raise RuntimeError("the power went")
    (work.folder / "number.txt").write_text(seen.read_text())


@pytest.fixture
def run(runs_root: Path) -> Run:
    MADE.clear()
    return open_run("toy", dataset={"name": "bazaar"}, preset="gmc_tiny")


def chain(number: int = 1, function=add_one) -> tuple[Task, Task, Task]:
    first = Task("01_first", "one", write_number, {"number": number}, row="one")
    second = Task("02_second", "two", function, inputs={"before": first}, row="two")
    return first, second, Task("03_third", "three", add_one, inputs={"before": second}, row="three")


def make(run: Run, tasks: tuple[Task, ...]) -> list[str]:
    MADE.clear()
    for task in tasks:
        run.make(task)
    return list(MADE)


def number_of(run: Run, task: Task) -> str:
    return (run.read(task) / "number.txt").read_text()


def test_what_is_there_is_not_made_again(run: Run) -> None:
    assert make(run, chain()) == ["one", "two", "three"]
    assert make(run, chain()) == []
    assert number_of(run, chain()[2]) == "3"


def test_a_changed_setting_makes_anew_what_depends_on_it_and_says_why(run: Run) -> None:
    make(run, chain())
    state = run.state(chain(number=5)[0])
    assert state.action == "run"
    assert "number: 1 before, 5 now" in state.reason
    assert make(run, chain(number=5)) == ["one", "two", "three"]
    assert number_of(run, chain(number=5)[2]) == "7"


def test_an_equal_result_stops_what_follows(run: Run) -> None:
    make(run, chain(1, parity))
    assert make(run, chain(3, parity)) == ["one", "two"]  # 3 has the parity of 1, so the third is kept


def test_former_results_come_back_with_their_settings(run: Run) -> None:
    make(run, chain(1))
    make(run, chain(5))
    assert make(run, chain(1)) == []
    assert number_of(run, chain(1)[2]) == "3"


def test_reading_before_making_names_the_notebook(run: Run) -> None:
    with pytest.raises(RunError, match=r"01_first/one .* has not been made yet.* 01_first\.ipynb"):
        run.read(chain()[0])


def test_reading_a_stale_result_is_refused(run: Run) -> None:
    make(run, chain())
    with pytest.raises(RunError, match="number: 1 before, 2 now"):
        run.read(chain(2)[0])


@pytest.mark.parametrize("path", ["number.txt", "beside/log.txt", "result.json"])
def test_one_changed_byte_costs_that_result_alone(run: Run, path: str) -> None:
    make(run, chain())
    file = run.folder / ("01_first/one" if path == "beside/log.txt" else "02_second/two") / path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    results.forget_hashes()
    assert make(run, chain()) == (["one"] if path == "beside/log.txt" else ["two"])


@pytest.mark.parametrize("kind", ["missing", "foreign", "folder"])
def test_missing_and_foreign_files_are_noticed(run: Run, kind: str) -> None:
    make(run, chain())
    folder = run.folder / "02_second/two"
    if kind == "missing":
        (folder / "number.txt").unlink()
    elif kind == "foreign":
        (folder / "other.parquet").write_text("x")
    else:
        shutil.rmtree(folder)
    assert make(run, chain()) == ["two"]
    assert not (folder / "other.parquet").exists()


def test_timings_beside_the_outputs_change_nothing_that_follows(run: Run) -> None:
    make(run, chain())
    shutil.rmtree(run.folder / "01_first")
    shutil.rmtree(run.folder / "replaced", ignore_errors=True)
    assert make(run, chain()) == ["one"]  # its random log differs, its number does not


def test_a_failed_task_goes_on_from_its_checkpoint(run: Run) -> None:
    task = Task("01_first", "once", fail_once, row="once")
    with pytest.raises(RuntimeError, match="the power went"):
        run.make(task)
    assert run.state(task).status == "unfinished"
    assert "the power went" in run.state(task).reason
    assert (run.make(task) / "number.txt").read_text() == "half of it"
    record = results.Record.read(run.folder / task.place)
    assert record is not None
    assert record.made["attempts"] == 2
    assert not (run.folder / "scratch" / task.place).joinpath(record.key[:16]).exists()


def test_checkpoints_of_other_settings_are_removed(run: Run) -> None:
    old = run.folder / "scratch/01_first/one/0123456789abcdef"
    old.mkdir(parents=True)
    make(run, chain())
    assert not old.exists()


def test_a_finished_result_that_a_kill_kept_from_its_place_is_put_there(run: Run) -> None:
    first = chain()[0]
    run.make(first)
    (run.folder / "making/01_first").mkdir(parents=True, exist_ok=True)
    (run.folder / "01_first/one").rename(run.folder / "making/01_first/one")
    assert make(run, (first,)) == []
    assert number_of(run, first) == "1"


def test_an_equal_result_of_another_row_is_taken_over_under_the_new_name(run: Run) -> None:
    run.make(Task("01_first", "one", write_number, {"number": 1}, row="one"))
    other = Task("01_first", "twin", write_number, {"number": 1}, row="twin")
    assert make(run, (other,)) == []
    record = results.Record.read(run.folder / other.place)
    assert record is not None
    assert (record.row, record.name) == ("twin", "twin")
    assert run.state(Task("01_first", "one", write_number, {"number": 1})).usable


def test_a_second_stage_in_the_same_folder_is_refused_while_one_works(run: Run) -> None:
    def inside(work: Work) -> None:
        with pytest.raises(RunError, match=r"in use.*this same process"):
            run.make(chain()[0])
        (work.folder / "number.txt").write_text("1")

    run.make(Task("01_first", "outer", inside))


def test_parameters_default_to_those_of_the_run(runs_root: Path) -> None:
    open_run("kept", dataset={"name": "bazaar", "items": 400}, preset="gmc_tiny", seed=3)
    again = open_run("kept")
    assert again.dataset == {"name": "bazaar", "items": 400}
    assert again.seed == 3
    assert open_run("fresh").parameters["preset"] == "gmc_demo"


def test_other_parameters_are_refused_with_the_difference(runs_root: Path) -> None:
    open_run("kept", dataset={"name": "bazaar"}, preset="gmc_tiny")
    with pytest.raises(RunError, match=r"preset: gmc_tiny before, gmc_small now.*change=True"):
        open_run("kept", preset="gmc_small")
    assert open_run("kept", preset="gmc_small", change=True).config.name == "gmc_small"
    assert existing_run("kept").config.name == "gmc_small"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "cache", "x" * 101, "-x", 7])
def test_impossible_names_are_refused(runs_root: Path, name: str) -> None:
    with pytest.raises(RunError, match="run is"):
        unopened_run(name)


def test_a_run_of_another_version_opens_for_reading_only(runs_root: Path) -> None:
    folder = runs_root / "old"
    folder.mkdir(parents=True)
    parameters = {"dataset": {"name": "bazaar"}, "preset": "gmc_tiny", "overrides": {}, "seed": 0}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "parameters": parameters}))
    before = (folder / "manifest.json").read_bytes()
    run = open_run("old")
    assert run.read_only
    with pytest.raises(RunError, match=r"another version.*Choose another name"):
        run.make(chain()[0])
    assert (folder / "manifest.json").read_bytes() == before


def test_a_damaged_manifest_names_the_doctor(run: Run) -> None:
    (run.folder / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="genrec doctor toy"):
        existing_run("toy")
