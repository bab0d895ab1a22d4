"""The chain over tiny notebooks: what is skipped, what runs again, what a failure or a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from genrec_lab.lab.locks import held

from genrec_lab.cli import main
from genrec_lab.lab import RunError, pipeline, results

OPEN = """
import os
from genrec_lab.lab import open_run
opened = open_run(run, dataset=dataset, preset=preset, overrides=overrides, seed=seed)
"""
DATA = """
with opened.stage("01_data", uses=("dataset", "seed")) as stage:
    if not stage.is_finished:
        print("preparing", dataset["items"])
        (stage.folder / "items").write_text(str(dataset["items"]))
print(os.environ["PLOTLY_RENDERER"], os.path.basename(os.getcwd()))
"""
TOKENS = """
import time
with opened.stage("02_tokens", inputs=("01_data",), uses=("tokenizer", "seed")) as stage:
    if not stage.is_finished:
        checkpoint = stage.scratch / "epoch"
        begun = int(checkpoint.read_text()) if checkpoint.exists() else 0
        print("begins at epoch", begun)
        for epoch in range(begun, dataset.get("epochs", 1)):
            time.sleep(0.2)
            checkpoint.write_text(str(epoch + 1))
        (stage.folder / "tokens").write_text(str(opened.config.tokenizer.levels))
opened.record_metrics("gmc", [
    {"domain": name, "metric": "ndcg", "k": 10, "value": (1 + seed) / 10, "users": 5}
    for name in ("A", "average")])
"""
COMPARE = 'print("compares the seeds of", run)'


@pytest.fixture
def checkout(tmp_path, tiny_presets, monkeypatch):
    """A checkout with the notebooks 01 and 02 in which the working directory is, and a run file in it."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "genrec_lab"\n')
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path, "01_data", OPEN, DATA)
    write_notebook(tmp_path, "02_tokens", OPEN, TOKENS)
    (tmp_path / "demo.yaml").write_text("run: demo\ndataset: {name: 'toy.py:toy', items: 3}\npreset: tiny\n")
    (tmp_path / "toy.py").write_text("def toy(items: int, epochs: int = 1): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *handler: None)  # main's handlers are not for this process
    return tmp_path


def write_notebook(checkout, name, *cells, parameters=""):
    values = (
        f'run = "x"\ndataset = {{"name": "y"}}\npreset = "tiny"\noverrides = {{}}\nseed = 0\n{parameters}'
    )
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[nbformat.v4.new_code_cell(values, metadata={"tags": ["parameters"]})]
        + [nbformat.v4.new_code_cell(cell.strip()) for cell in cells],
    )
    nbformat.write(notebook, checkout / "notebooks" / f"{name}.ipynb")


def printed(checkout, name, run="demo"):
    """What an executed notebook printed."""
    executed = nbformat.read(
        checkout / "papermill_runs/out" / run / "notebooks" / f"{name}.ipynb", as_version=4
    )
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output["text"] for output in outputs if output.output_type == "stream")


def actions(result):
    return [[step.action for step in steps] for steps in result.steps.values()]


@pytest.mark.slow
def test_a_chain_runs_once_and_again_only_what_changed(checkout, capsys):
    result = pipeline.run("demo.yaml")
    assert actions(result) == [["run", "run"]]
    assert printed(checkout, "01_data") == "preparing 3\nplotly_mimetype+notebook_connected notebooks\n"
    assert "  01 | preparing 3\n" in capsys.readouterr().out
    assert "preparing 3" in (checkout / "papermill_runs/out/demo/notebooks/01_data.log").read_text()
    assert result.report is not None
    assert "stage-02_tokens" in result.report.read_text()
    assert actions(pipeline.run("demo.yaml")) == [["skip", "skip"]]

    assert actions(pipeline.run("demo.yaml", sets=["overrides.tokenizer.levels=5"])) == [["skip", "run"]]
    folder = checkout / "papermill_runs/out/demo"
    assert (folder / "02_tokens" / "tokens").read_text() == "5"

    write_notebook(checkout, "02_tokens", OPEN, TOKENS, "print('edited')")
    planned = pipeline.run("demo.yaml", sets=["overrides.tokenizer.levels=5"], dry_run=True)
    assert actions(planned) == [["skip", "run"]]
    pipeline.run("demo.yaml", sets=["overrides.tokenizer.levels=5"])
    assert printed(checkout, "02_tokens") == "edited\n"  # shown anew; the finished work was not repeated

    assert main(["run", "demo.yaml", "--only", "02", "--no-resume"]) == 0
    assert "begins at epoch 0" in printed(checkout, "02_tokens")
    shown = capsys.readouterr().out
    assert "NDCG@10 by domain" in shown
    assert f"Report: {folder / 'report.html'}" in shown


def test_a_failing_notebook_stops_the_chain_with_its_cell_and_how_to_go_on(checkout, capsys):
    write_notebook(checkout, "01_data", OPEN, "wrong = 0\n1 / wrong")
    assert main(["run", "demo.yaml", "--set", "seed=1"]) == 1
    said = capsys.readouterr().err
    assert "01_data.ipynb stopped in cell 3 with ZeroDivisionError: division by zero" in said
    assert "    1 / wrong" in said
    assert "go on with: genrec run demo.yaml --set seed=1" in said
    folder = checkout / "papermill_runs/out/demo"
    assert not (folder / "notebooks" / "02_tokens.ipynb").exists()
    assert json.loads((folder / "manifest.json").read_text())["notebooks"]["01_data"]["status"] == "failed"
    assert (folder / "report.html").is_file()


def test_a_kernel_that_dies_is_told_apart_from_an_error(checkout):
    write_notebook(checkout, "01_data", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(pipeline.NotebookFailed, match="signal 9 mostly means that memory ran out"):
        pipeline.run("demo.yaml", only=["01"])


def start_chain(checkout):
    """The chain in a process of its own, once its second stage has written a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "genrec_lab.run", "demo.yaml", "--set", "dataset.epochs=20"],
        cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    checkpoint = checkout / "papermill_runs/out/demo/scratch/02_tokens/epoch"
    deadline = time.monotonic() + 180
    while not checkpoint.exists() or not checkpoint.read_text():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_after_kill_9_the_chain_goes_on_in_the_stage_that_was_killed(checkout):
    process = start_chain(checkout)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = pipeline.run("demo.yaml", sets=["dataset.epochs=20"])
    assert actions(result) == [["skip", "run"]]
    assert int(printed(checkout, "02_tokens").split("begins at epoch ")[1]) >= 1
    record = result.runs[0].manifest()["stages"]["02_tokens"]
    assert (record["status"], record["attempts"]) == ("finished", 2)
    events = [event["event"] for event in results.read_log(result.runs[0].folder)]
    assert events.count("stage_resumed") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_chain_ends_its_kernel_and_keeps_the_checkpoint(checkout, number, code):
    process = start_chain(checkout)
    process.send_signal(number)
    said = process.communicate(timeout=90)[0]
    assert process.returncode == code
    assert "Traceback" not in said
    folder = checkout / "papermill_runs/out/demo"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["stages"]["02_tokens"]["status"] == "interrupted"
    checkpoint = folder / "scratch" / "02_tokens" / "epoch"
    reached = checkpoint.read_text()
    time.sleep(0.5)
    assert checkpoint.read_text() == reached


@pytest.mark.slow
def test_seeds_run_apart_and_are_compared(checkout, capsys):
    write_notebook(checkout, "09_compare_runs", COMPARE)
    assert main(["run", "demo.yaml", "--seeds", "1,3"]) == 0
    for seed in (1, 3):
        recorded = json.loads((checkout / f"papermill_runs/out/demo-seed{seed}/metrics.json").read_text())
        assert {row["value"] for row in recorded["records"]} == {(1 + seed) / 10}
    assert printed(checkout, "09_compare_runs") == "compares the seeds of demo\n"
    assert "0.3000 ± 0.1414" in capsys.readouterr().out


def test_a_chain_in_use_is_refused(checkout):
    folder = checkout / "papermill_runs/out/demo"
    folder.mkdir(parents=True)
    with held(folder / ".chain.lock", "the chain demo", 0), pytest.raises(RunError, match="is in use"):
        pipeline.run("demo.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "overrides.tokeniser.levels=4"], "tokeniser"),
        (["--set", "preset=tini"], "did you mean 'tiny'"),
        (["--set", "run=../x"], "run is '../x'; a run's name has only letters"),
        (["--only", "07"], "--only names '07'; the notebooks are 01_data, 02_tokens"),
        (["--only", "01", "--from", "02"], "--only and --from exclude each other"),
        (["--seeds", "1,1"], "names 1 twice"),
        (["--seeds", "-1"], "--seeds -1 is no list of seeds"),
        (["--set", "notebooks=[03_residual_atlas]"], "notebooks names '03_residual_atlas'"),
        (["--json"], "add --dry-run"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_runs(checkout, capsys, arguments, message):
    assert main(["run", "demo.yaml", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (checkout / "papermill_runs").exists()


def test_a_notebook_with_another_parameter_is_refused_before_anything_runs(checkout):
    write_notebook(checkout, "02_tokens", TOKENS, parameters="levels = 4")
    with pytest.raises(RunError, match=r"02_tokens\.ipynb: the parameter 'levels' is unknown"):
        pipeline.run("demo.yaml")
    assert not (checkout / "papermill_runs").exists()


def test_a_dry_run_says_what_would_run_and_touches_nothing(checkout, capsys):
    assert main(["run", "demo.yaml", "--dry-run", "--seeds", "1,2"]) == 0
    said = capsys.readouterr().out
    assert said.count("run   01_data: it has not been run yet.") == 2
    assert "demo-seed2" in said
    assert not (checkout / "papermill_runs").exists()


def test_outside_a_checkout_it_says_where_to_go(checkout, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "demo.yaml").write_text((checkout / "demo.yaml").read_text())
    with pytest.raises(RunError, match="no notebooks around the working directory"):
        pipeline.run("demo.yaml")
    assert actions(pipeline.run(str(checkout / "demo.yaml"), dry_run=True)) == [["run", "run"]]
    assert os.listdir(elsewhere) == ["demo.yaml"]
