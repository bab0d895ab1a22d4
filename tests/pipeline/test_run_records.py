"""What a run records: manifest, metrics, figures and log, read back whole after crashes and beside rivals."""

import json
import os
import time
from pathlib import Path

import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.lab import RunError, existing_run, files, results, runs_root

DATA = "01_data_preparation"


RECORD = """
import sys
from pathlib import Path
from genrec_lab.lab import open_run
run = open_run("demo", dataset={"name": "bazaar"}, preset="tiny", root=Path(sys.argv[1]))
for number in range(10):
    name = f"{sys.argv[2]}-{number}"
    run.record_metrics(name, [{"domain": "a", "metric": "ndcg", "k": 10, "value": 0.5}])
    run.log("recorded", name=name)
"""


def test_processes_that_record_at_once_lose_nothing(opened, run_in_process, tmp_path):
    rivals = [run_in_process(RECORD, tmp_path, letter) for letter in "ab"]
    assert [rival.wait(timeout=60) for rival in rivals] == [0, 0]
    expected = sorted(f"{letter}-{number}" for letter in "ab" for number in range(10))
    assert sorted(opened().metrics()["method"]) == expected
    assert sorted(event["name"] for event in results.read_log(opened().folder)) == expected


def test_the_manifest_tells_how_the_run_was_made(opened):
    run = opened(overrides={"tokenizer.levels": 4}, seed=7)
    run.record_dataset("abc123", users=3)
    with run.stage(DATA) as stage:
        (stage.folder / "output.txt").write_text("result")
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["parameters"]["seed"] == 7
    assert manifest["config"]["tokenizer"] == {"levels": 4}
    assert manifest["dataset"] == {"fingerprint": "abc123", "users": 3}
    assert {"cpu", "cores", "memory_gb", "gpus"} <= set(manifest["hardware"])
    assert manifest["packages"]["polars"] == pl.__version__
    assert manifest["stages"][DATA]["outputs"]["output.txt"]["bytes"] == len("result")


def test_existing_runs_are_read_as_they_were_last_used(opened, tmp_path):
    opened(seed=3)
    assert existing_run("demo", root=tmp_path).seed == 3
    with pytest.raises(RunError, match="no run 'dmo'"):
        existing_run("dmo", root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "../elsewhere"}, "cannot name a folder"),
        ({"run": ""}, "cannot name a folder"),
        ({"dataset": {"domains": {}}}, "lacks a name"),
        ({"dataset": {"name": "lcrec", "folder": Path("x")}}, "paths as texts"),
        ({"overrides": {"training.rate": float("nan")}}, "finite numbers"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed=True"),
    ],
)
def test_impossible_parameters_are_refused(opened, changes, message):
    with pytest.raises(RunError, match=message):
        opened(**changes)


def test_recording_a_method_again_replaces_it(opened):
    run = opened(seed=4)
    frame = pl.DataFrame(
        {"domain": ["a", "average"], "metric": "ndcg", "k": 10, "value": [0.1, 0.2], "users": 5}
    )
    run.record_metrics("gmc", frame)
    run.record_metrics("sasrec", frame)
    run.record_metrics("gmc", frame.head(1))
    assert run.metrics().select("method", "domain", "value", "seed").rows() == [
        ("sasrec", "a", 0.1, 4), ("sasrec", "average", 0.2, 4), ("gmc", "a", 0.1, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "empty"),
        ([{"domain": "a", "metric": "ndcg", "k": 10, "value": float("nan")}], "ndcg .* is nan"),
        ([{"domain": "a", "metric": "ndcg", "k": 10, "valeu": 0.1}], "did you mean 'value'"),
        ([{"domain": "a", "k": 10, "value": 0.1}], "lacks metric"),
        ([{"domain": "a", "metric": "ndcg", "k": 10, "value": 0.1}] * 2, "ndcg@10 of 'a' more than once"),
    ],
)
def test_metrics_that_cannot_be_compared_are_refused(opened, rows, message):
    with pytest.raises(RunError, match=message):
        opened().record_metrics("gmc", rows)


@pytest.mark.parametrize("name", ["", "../x", "a b", "x.json"])
def test_impossible_figure_names_are_refused(opened, name):
    with pytest.raises(RunError, match="figure's name"):
        opened().figure(name, go.Figure())


def test_figures_that_a_notebook_no_longer_makes_go(opened):
    run = opened()
    run.figure("of-no-stage", go.Figure())
    with run.stage(DATA):
        run.figure("former", go.Figure())
        run.figure("kept", go.Figure())
    moment = time.time()
    run.figure("kept", go.Figure())
    results.drop_figures_before(run.folder, DATA, moment)
    assert list(results.figure_index(run.folder)) == ["of-no-stage", "kept"]
    stored = sorted(file.name for file in (run.folder / "figures").iterdir())
    assert stored == ["index.json", "kept.json", "of-no-stage.json"]


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
    with pytest.raises(RunError, match=r"manifest\.json is not readable JSON \(line 2"):
        opened()


def test_a_log_line_cut_off_by_a_kill_is_left_out(opened):
    run = opened()
    run.log("first")
    with (run.folder / "log.jsonl").open("a") as stream:
        stream.write('{"event": "sec')
    assert [event["event"] for event in results.read_log(run.folder)] == ["first"]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=6))
def test_the_hash_of_parameters_does_not_depend_on_their_order(content):
    turned = dict(reversed(list(content.items())))
    assert files.hash_json({"a": content}) == files.hash_json({"a": turned})
    assert files.hash_json({"a": content}) != files.hash_json({"a": {**content, "another key": 1}})


def test_runs_are_kept_in_the_checkout_or_where_the_environment_says(tmp_path, monkeypatch, tiny_presets):
    inner = tmp_path / "checkout" / "notebooks"
    inner.mkdir(parents=True)
    (tmp_path / "checkout" / "pyproject.toml").write_text('[project]\nname = "genrec-lab"\n')
    monkeypatch.chdir(inner)
    assert runs_root() == tmp_path / "checkout" / "papermill_runs" / "out"
    monkeypatch.setenv("GENREC_RUNS", str(tmp_path / "elsewhere"))
    assert runs_root() == tmp_path / "elsewhere"
