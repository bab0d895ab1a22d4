"""Stages of a run: when results are used again, and what a crash, a rival or a full disk leaves behind."""

import errno
import json
import shutil
import signal
import time

import plotly.graph_objects as go
import pytest

from genrec_lab.lab import RunError, results
from genrec_lab.lab.execution import disk_full_message

DATA, TOKENS, TRAINING = "01_data_preparation", "02_tokenizer_training", "05_recommender_training"


def work(run, name, content="result", inputs=(), uses=None):
    """Finish a stage whose one output is `content`; say whether it had to be worked on."""
    with run.stage(name, inputs=inputs, uses=uses) as stage:
        if stage.is_finished:
            return False
        (stage.folder / "output.txt").write_text(content)
        return True


def stop(run, name, error, checkpoint="", seconds=0.0, uses=None):
    """Begin a stage without former metrics, write a checkpoint and half an output, and raise an error."""
    with run.stage(name, uses=uses) as stage:
        assert run.metrics().is_empty()
        (stage.scratch / "step-3").write_text(checkpoint)
        (stage.folder / "half-written").write_text("x")
        time.sleep(seconds)
        raise error


def chain(run, content="data"):
    """Three stages, each using what it says; which of them had to be worked on."""
    return [
        work(run, DATA, content, uses=("dataset", "seed")),
        work(run, TOKENS, inputs=(DATA,), uses=("tokenizer", "seed")),
        work(run, TRAINING, inputs=(DATA, TOKENS), uses=("recommender", "seed")),
    ]


def test_finished_stages_are_not_run_again(opened):
    assert chain(opened()) == [True, True, True]
    assert chain(opened()) == [False, False, False]


def test_the_pictures_that_bazaar_writes_are_no_source(opened, tmp_path):
    dataset = {"name": "bazaar", "images": str(tmp_path / "pictures")}
    assert work(opened(dataset=dataset), DATA, uses=("dataset",))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_text("drawn by the stage")
    assert not work(opened(dataset=dataset), DATA, uses=("dataset",))


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"overrides": {"recommender.layers": 4}}, [False, False, True]),
        # the tokens come out the same under other settings, so what reads them need not run again
        ({"overrides": {"tokenizer.levels": 4}}, [False, True, False]),
        ({"dataset": {"name": "bazaar", "items": 9}}, [True, False, False]),
        ({"seed": 1}, [True, True, True]),
        ({"preset": "tiny_again"}, [False, False, False]),
    ],
)
def test_only_stages_that_use_a_changed_parameter_run_again(opened, changes, again):
    chain(opened())
    assert chain(opened(**changes)) == again


def test_a_tuple_is_the_list_that_it_is_read_back_as(opened):
    assert chain(opened(dataset={"name": "bazaar", "domains": ("Garden", "Studio")})) == [True, True, True]
    assert chain(opened(dataset={"name": "bazaar", "domains": ("Garden", "Studio")})) == [False, False, False]
    assert chain(opened(dataset={"name": "bazaar", "domains": ["Garden", "Studio"]})) == [False, False, False]


def test_other_outputs_of_an_input_make_its_readers_stale(opened):
    chain(opened())
    run = opened(dataset={"name": "bazaar", "items": 9})
    work(run, DATA, "other data", uses=("dataset", "seed"))
    assert run.state(TOKENS).status == "stale"
    assert DATA in run.state(TOKENS).reason
    assert run.state(TRAINING).status == "stale"


def test_reading_a_stale_stage_names_the_notebook_and_the_change(opened):
    chain(opened())
    run = opened(overrides={"tokenizer.levels": 4})
    with pytest.raises(RunError, match=r"tokenizer\.levels: 3 before, 4 now.*02_tokenizer_training\.ipynb"):
        run.read_stage(TOKENS)
    assert run.read_stage(DATA).name == DATA


def test_a_stage_that_names_no_parameters_uses_all_of_them(opened):
    work(opened(), DATA)
    assert opened(overrides={"recommender.layers": 4}).state(DATA).status == "stale"
    assert opened(preset="tiny_again").state(DATA).usable


def test_reading_a_stage_that_never_ran_names_its_notebook(opened):
    with pytest.raises(RunError, match=r"has not been run yet\. Run the notebook 01_data_preparation\.ipynb"):
        opened().read_stage(DATA)


def test_a_stage_may_not_begin_before_its_inputs(opened):
    with pytest.raises(RunError, match=DATA), opened().stage(TOKENS, inputs=(DATA,)):
        pytest.fail("the stage began without its input")


def test_a_stage_may_only_read_what_it_declares(opened):
    run = opened()
    work(run, DATA)
    with pytest.raises(RunError, match=r"inputs=\('01_data_preparation'"), run.stage(TOKENS):
        run.read_stage(DATA)


@pytest.mark.parametrize("harm", ["change", "shorten", "remove"])
def test_damaged_outputs_are_noticed_and_made_again(opened, harm):
    run = opened()
    chain(run)
    output = run.folder / DATA / "output.txt"
    if harm == "remove":
        output.unlink()
    else:
        output.write_text("DATA" if harm == "change" else "da")
    with pytest.raises(RunError, match=r"output\.txt"):
        run.read_stage(DATA)
    assert chain(run) == [True, False, False]


def test_a_failed_stage_keeps_its_checkpoints_for_the_next_execution(opened):
    run = opened()
    with pytest.raises(ZeroDivisionError):
        stop(run, DATA, ZeroDivisionError("zero"), checkpoint="3")
    assert run.state(DATA).status == "unfinished"
    assert "ZeroDivisionError" in run.state(DATA).reason
    with opened().stage(DATA) as stage:
        assert stage.is_resumed
        assert not stage.is_finished
        assert (stage.scratch / "step-3").read_text() == "3"
        assert not list(stage.folder.iterdir())
    assert not stage.scratch.exists()
    assert run.manifest()["stages"][DATA]["attempts"] == 2


def test_checkpoints_of_other_parameters_are_never_resumed(opened):
    with pytest.raises(KeyboardInterrupt):
        stop(opened(), DATA, KeyboardInterrupt())
    assert opened().manifest()["stages"][DATA]["status"] == "interrupted"
    with opened(seed=1).stage(DATA) as stage:
        assert not stage.is_resumed
        assert not list(stage.scratch.iterdir())


def test_finished_outputs_come_back_when_a_change_is_taken_back(opened):
    run = opened()
    with run.stage(DATA, uses=("seed",)) as stage:
        (stage.folder / "output.txt").write_text("hours of work")
        run.record_metrics("gmc", [{"domain": "a", "metric": "ndcg", "k": 10, "value": 0.5}], beams=20)
    run.figure("curve", go.Figure(go.Scatter(y=[1, 2])), "a curve")
    other = opened(seed=1)
    with pytest.raises(ZeroDivisionError):
        stop(other, DATA, ZeroDivisionError("zero"), uses=("seed",))
    back = opened()
    assert not work(back, DATA, uses=("seed",))
    assert (back.read_stage(DATA) / "output.txt").read_text() == "hours of work"
    assert back.metrics()["value"].to_list() == [0.5]
    assert results.read_metrics(back.folder)["notes"] == {"gmc": {"beams": 20}}
    assert results.figure_index(back.folder)["curve"]["caption"] == "a curve"
    assert json.loads((back.folder / "figures" / "curve.json").read_text())["data"][0]["y"] == [1, 2]


def test_replaced_outputs_go_when_the_new_ones_are_finished(opened):
    work(opened(), DATA)
    work(opened(seed=1), DATA, "new")
    assert not list((opened().folder / "replaced").iterdir())
    assert work(opened(), DATA)


def test_forgetting_a_stage_makes_it_run_from_its_start(opened):
    run = opened()
    work(run, DATA)
    run.record_metrics("gmc", [{"domain": "a", "metric": "ndcg", "k": 10, "value": 0.5}])
    run.forget(DATA)
    assert run.state(DATA).status == "missing"
    assert run.metrics().is_empty()
    assert not (run.folder / DATA).exists()


HOLD = """
import sys, time
from pathlib import Path
from genrec_lab.lab import open_run
run = open_run("demo", dataset={"name": "bazaar"}, preset="tiny", root=Path(sys.argv[1]))
with run.stage("01_data_preparation") as stage:
    (stage.scratch / "step-7").write_text("7")
    print("inside", flush=True)
    time.sleep(60)
"""


def test_a_run_folder_in_use_is_refused_naming_the_process(opened, run_in_process, tmp_path):
    holder = run_in_process(HOLD, tmp_path)
    assert holder.stdout.readline() == "inside\n"
    with pytest.raises(RunError, match=rf"in use.*process {holder.pid} .*01_data_preparation"):
        work(opened(), TOKENS)
    assert work(opened(run="another"), DATA)


def test_after_kill_9_the_stage_goes_on_from_its_checkpoint(opened, run_in_process, tmp_path, capsys):
    holder = run_in_process(HOLD, tmp_path)
    assert holder.stdout.readline() == "inside\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    run = opened()
    assert run.state(DATA).status == "unfinished"
    with run.stage(DATA) as stage:
        assert stage.is_resumed
        assert (stage.scratch / "step-7").read_text() == "7"
    assert f"process {holder.pid}" in capsys.readouterr().out
    assert [event["event"] for event in results.read_log(run.folder)][1:] == [
        "lock_taken_over", "stage_resumed", "stage_finished",
    ]  # fmt: skip


def test_stages_cannot_be_nested(opened):
    run = opened()
    with run.stage(DATA), pytest.raises(RunError, match="cannot be nested"), run.stage(TOKENS):
        pytest.fail("the inner stage began")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_says_what_is_safe_and_how_to_go_on(opened, error):
    run = opened()
    work(run, DATA)
    with pytest.raises(RunError, match=rf"{TOKENS}\. Safe on it: {DATA},.*run this again"), run.stage(TOKENS):
        raise error
    assert run.state(DATA).usable
    assert run.state(TOKENS).status == "unfinished"


def test_a_nearly_full_disk_is_refused_before_work_begins(opened, monkeypatch):
    run = opened()
    full = shutil.disk_usage(run.folder)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(RunError, match="1 MB free"), run.stage(DATA):
        pytest.fail("the stage began on a full disk")
    assert "no finished stage yet" in disk_full_message(run.folder, DATA)


def test_changed_data_files_make_the_first_stage_stale(opened, tmp_path, monkeypatch):
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "items.json").write_text("{}")
    monkeypatch.setenv("SHOP_DATA", str(tmp_path))
    dataset = {"name": "lcrec", "domains": {"Shop": "${SHOP_DATA}/shop"}}
    run = opened(dataset=dataset)
    chain(run)
    assert str(tmp_path) not in json.dumps([run.manifest()["parameters"], run.manifest()["stages"]])
    (folder / "items.json").write_text('{"1": {}}')
    assert opened(dataset=dataset).state(DATA).status == "stale"
    # where the data cannot be seen, as with results taken to another machine, the results stay usable
    monkeypatch.delenv("SHOP_DATA")
    assert chain(opened(dataset=dataset)) == [False, False, False]


@pytest.mark.parametrize("name", ["data", "../01_data", "01-data", "1_data"])
def test_impossible_stage_names_are_refused(opened, name):
    with pytest.raises(RunError, match="named as its notebook"), opened().stage(name):
        pytest.fail("the stage began")


def test_a_stage_cannot_use_an_unknown_parameter(opened):
    with pytest.raises(RunError, match="did you mean 'tokenizer'"), opened().stage(DATA, uses=("tokeniser",)):
        pytest.fail("the stage began")


def test_durations_add_up_over_attempts(opened):
    run = opened()
    with pytest.raises(ZeroDivisionError):
        stop(run, DATA, ZeroDivisionError("zero"), seconds=0.2)
    with run.stage(DATA):
        time.sleep(0.2)
    assert 0.4 <= run.manifest()["stages"][DATA]["seconds"] < 5
