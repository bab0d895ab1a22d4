"""What a run keeps beside its results: manifest, figures, log, read back whole after crashes and rivals."""

import json
import os
from pathlib import Path

import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.lab import RunError, chain, existing_run, files, prepare_data, runs_root

DATA = "01_data_preparation"


RECORD = """
import sys
from pathlib import Path
from plotly.graph_objects import Figure
from genrec_lab.lab.store import Run
run = Run(Path(sys.argv[1]) / "demo", {}, None)
for number in range(10):
    name = f"{sys.argv[2]}-{number}"
    with run.edited_manifest() as manifest:
        manifest["pages"][name] = {}
    run.figure(name, Figure())
    run.log("recorded", name=name)
"""


def test_processes_that_record_at_once_lose_nothing(opened, run_in_process, tmp_path):
    run = opened()
    with run.edited_manifest() as manifest:
        manifest["pages"] = {}
    rivals = [run_in_process(RECORD, tmp_path, letter) for letter in "ab"]
    assert [rival.wait(timeout=600) for rival in rivals] == [0, 0]
    expected = sorted(f"{letter}-{number}" for letter in "ab" for number in range(10))
    assert sorted(run.manifest()["pages"]) == expected
    assert sorted(run.figures()) == expected
    events, broken = files.read_log(run.folder)
    assert (sorted(event["name"] for event in events), broken) == (expected, [])


def test_each_result_says_how_it_was_made(opened):
    run = opened(overrides={"tokenizer.levels": 4}, seed=7)
    fingerprint = prepare_data(run).dataset.fingerprint()
    assert run.manifest()["parameters"]["seed"] == 7
    (task,) = chain.tasks_of(run, DATA)
    record = run.state(task).record
    assert record.parameters["overrides"] == {"tokenizer.levels": 4}
    assert {"cpu", "cores", "memory_gb", "gpus"} <= set(record.made["hardware"])
    assert (
        record.outputs["test.parquet"]["bytes"] == (run.folder / task.place / "test.parquet").stat().st_size
    )
    (made,) = run.provenance()
    assert (made["stage"], made["data"], made["threads"]) == (DATA, fingerprint, record.made["threads"])
    assert made["versions"]["polars"] == pl.__version__
    assert made["kept_despite"] == []


def test_existing_runs_are_read_as_they_were_last_used(opened, tmp_path):
    opened(seed=3)
    assert existing_run("demo", root=tmp_path).seed == 3
    with pytest.raises(RunError, match="no run 'dmo'"):
        existing_run("dmo", root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "../elsewhere"}, "run is '../elsewhere'"),
        ({"run": ""}, "run is ''"),
        ({"dataset": {"domains": {}}}, "lacks a name"),
        ({"dataset": {"name": "lcrec", "folder": Path("x")}}, "paths as text"),
        ({"overrides": {"training.rate": float("nan")}}, "finite numbers"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_impossible_parameters_are_refused(opened, changes, message):
    with pytest.raises(RunError, match=message):
        opened(**changes)


@pytest.mark.parametrize("name", ["", "../x", "a b", "x.json"])
def test_impossible_figure_names_are_refused(opened, name):
    with pytest.raises(RunError, match="figure's name"):
        opened().figure(name, go.Figure())


def test_a_figure_must_be_one_of_plotly(opened):
    with pytest.raises(RunError, match="takes a plotly Figure; got dict"):
        opened().figure("curve", {})


def test_figures_stay_in_the_order_of_their_first_saving(opened):
    run = opened()
    for name in ("first", "last", "first"):
        run.figure(name, go.Figure())
    assert list(run.figures()) == ["first", "last"]


def test_a_crash_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch):
    file = tmp_path / "manifest.json"
    files.write_json(file, {"old": 1})

    def crash(source, target):
        raise OSError("the power went")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="the power went"):
        files.write_json(file, {"new": 2})
    assert files.read_json(file) == {"old": 1}


def test_malformed_json_is_named_with_its_line(opened):
    run = opened()
    (run.folder / "manifest.json").write_text('{"format": 1,\n "stages": oops}')
    with pytest.raises(RunError, match=r"manifest\.json is not readable JSON \(.*line 2.*genrec doctor demo"):
        opened()


def test_an_edited_manifest_is_noticed(opened):
    run = opened()
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["parameters"]["seed"] = 5
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"was changed after it was written.*genrec doctor demo"):
        opened()


def test_a_log_line_cut_off_by_a_kill_is_left_out_and_a_changed_one_is_named(opened):
    run = opened()
    run.log("first", what=1)
    run.log("second", what=1)
    with (run.folder / "log.jsonl").open("a") as stream:
        stream.write('{"event": "thi')
    events, broken = files.read_log(run.folder)
    assert ([event["event"] for event in events], broken) == (["first", "second"], [])
    text = (run.folder / "log.jsonl").read_text()
    (run.folder / "log.jsonl").write_text(text.replace('"what": 1', '"what": 2', 1))
    assert files.read_log(run.folder)[1] == [1]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=6))
def test_the_hash_of_parameters_does_not_depend_on_their_order(content):
    turned = dict(reversed(list(content.items())))
    assert files.hash_json({"a": content}) == files.hash_json({"a": turned})
    assert files.hash_json({"a": content}) != files.hash_json({"a": {**content, "another key": 1}})


def test_runs_are_kept_in_the_checkout_or_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("GENREC_RUNS", raising=False)
    inner = tmp_path / "checkout" / "notebooks"
    inner.mkdir(parents=True)
    (tmp_path / "checkout" / "pyproject.toml").write_text('[project]\nname = "genrec-lab"\n')
    monkeypatch.chdir(inner)
    assert runs_root() == tmp_path / "checkout" / "papermill_runs" / "out"
    monkeypatch.setenv("GENREC_RUNS", str(tmp_path / "elsewhere"))
    assert runs_root() == tmp_path / "elsewhere"
