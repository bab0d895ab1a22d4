"""The chain over short notebooks: what is kept, what runs again, what a failure or a kill leaves behind."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

from genrec_lab import registry
from genrec_lab.cli import main
from genrec_lab.lab import (
    RunError,
    chain,
    existing_run,
    open_run,
    prepare_data,
    rank_test_users,
    train_recommenders,
)
from genrec_lab.lab.files import read_log
from tests.nightly import AT_NIGHT

REPOSITORY = Path(__file__).parents[2]
DATA, TRAINING, RANKING = "01_data_preparation", "05_recommender_training", "07_evaluation"
OPEN = """
import os
from genrec_lab.lab import open_run
opened = open_run(run, dataset=dataset, preset=preset, overrides=overrides, seed=seed)
"""
PREPARE = """
from genrec_lab.lab import prepare_data
print("items", prepare_data(opened).dataset.n_items)
print(os.environ["PLOTLY_RENDERER"], os.path.basename(os.getcwd()))
"""
TRAIN = """
from genrec_lab.lab import train_recommenders
trained = train_recommenders(opened)
"""
DRAW = """
from plotly.graph_objects import Figure
for name in NAMES:
    opened.figure(name, Figure())
"""
RANK = """
from genrec_lab.lab import rank_test_users
rank_test_users(opened)
"""
TOY = (Path(__file__).parent / "toy.py").read_text()
RUN_FILE = """
run: demo
dataset: {name: 'toy.py:toy', items: 12}
preset: baselines_tiny
overrides: {compare: [slow], rows.slow.model.kind: 'toy.py:Slow'}
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with the notebooks 01 and 05 in which the working directory is, and a run file in it."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "genrec_lab"\n')
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path, DATA, OPEN, PREPARE)
    write_notebook(tmp_path, TRAINING, OPEN, TRAIN)
    (tmp_path / "demo.yaml").write_text(RUN_FILE)
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENREC_RUNS", raising=False)
    monkeypatch.setattr(registry, "_base", None)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(signal, "signal", lambda *handler: None)  # main's handlers are not for this process
    return tmp_path


def write_notebook(checkout, name, *cells, parameters="", prose="What it does."):
    values = f'run = "x"\ndataset = None\npreset = None\noverrides = None\nseed = None\n{parameters}'
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[
            nbformat.v4.new_markdown_cell(prose),
            nbformat.v4.new_code_cell(values, metadata={"tags": ["parameters"]}),
            *(nbformat.v4.new_code_cell(cell.strip()) for cell in cells),
        ],
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
    """What became of each result of the first run, and of each page: `{"05 slow": "run", "05": "run"}`."""
    steps = next(iter(result.steps.values()))
    return {f"{step.stage[:2]} {step.row}".strip(): step.action for step in steps}


@pytest.mark.slow
def test_a_chain_runs_once_and_again_only_what_changed(checkout, capsys):
    write_notebook(checkout, TRAINING, OPEN, TRAIN, DRAW.replace("NAMES", "('former', 'kept')"))
    planned = chain.run("demo.yaml", dry_run=True)
    result = chain.run("demo.yaml")
    assert actions(result) == actions(planned) == {"01": "run", "05 slow": "run", "05": "run"}
    assert printed(checkout, DATA) == "items 12\nplotly_mimetype+notebook_connected notebooks\n"
    assert "  01 | items 12\n" in capsys.readouterr().out
    folder = checkout / "papermill_runs/out/demo"
    assert "items 12" in (folder / "notebooks" / f"{DATA}.log").read_text()
    assert result.report is not None
    assert f"stage-{TRAINING}" in result.report.read_text()
    assert actions(chain.run("demo.yaml")) == {"01": "keep", "05 slow": "keep", "05": "keep"}

    other = ["overrides.rows.slow.model.label=second"]
    planned = chain.run("demo.yaml", sets=other, dry_run=True)
    result = chain.run("demo.yaml", sets=other)
    assert actions(result) == actions(planned) == {"01": "keep", "05 slow": "run", "05": "run"}
    assert "label: first before, second now" in next(iter(result.steps.values()))[-2].why
    saved = folder / TRAINING / "slow" / "domains" / "A" / "model" / "model.json"
    assert json.loads(saved.read_text())["config"]["label"] == "second"

    # An edited text, and then an edited cell, are shown again; the finished work is not repeated.
    assert list(existing_run("demo").figures()) == ["former", "kept"]
    drawn = DRAW.replace("NAMES", "('former', 'kept')")
    write_notebook(checkout, TRAINING, OPEN, TRAIN, drawn, prose="Edited.")
    assert actions(chain.run("demo.yaml", sets=other, dry_run=True))["05"] == "run"
    write_notebook(checkout, TRAINING, OPEN, TRAIN, DRAW.replace("NAMES", "('kept',)"), "print('edited')")
    planned = chain.run("demo.yaml", sets=other, dry_run=True)
    result = chain.run("demo.yaml", sets=other)
    assert actions(result) == actions(planned) == {"01": "keep", "05 slow": "keep", "05": "run"}
    assert printed(checkout, TRAINING) == "edited\n"
    assert list(existing_run("demo").figures()) == [
        "kept"
    ]  # the notebook does not make the other one any more
    assert not (folder / "figures" / "former.json").exists()

    # A figure that is lost is saved again by its notebook, here in a run that repeats a whole stage.
    lost = (folder / "figures" / "kept.json").rename(folder / "lost")
    planned = chain.run("demo.yaml", sets=other, dry_run=True)
    assert actions(planned) == {"01": "keep", "05 slow": "keep", "05": "run"}
    assert planned.steps["demo"][-1].why == "its figure kept is missing."
    assert main(["run", "demo.yaml", "--set", *other, "--only", "05", "--no-resume"]) == 0
    assert "begins at epoch 0" in printed(checkout, TRAINING)
    assert (folder / "figures" / "kept.json").read_bytes() == lost.read_bytes()
    assert f"Report: {folder / 'report.html'}" in capsys.readouterr().out

    # A stranger's file: a comment changes nothing, a changed line repeats its rows, unless old code is kept.
    (checkout / "toy.py").write_text(
        TOY.replace("self.items, self.seed =", "# A comment.\n        self.items, self.seed =")
    )
    assert set(actions(chain.run("demo.yaml", sets=other, dry_run=True)).values()) == {"keep"}
    (checkout / "toy.py").write_text(TOY.replace("1 + self.seed", "2 + self.seed"))
    write_notebook(checkout, RANKING, OPEN, RANK)
    planned = chain.run("demo.yaml", sets=other, dry_run=True)
    assert actions(planned) == {"01": "keep", "05 slow": "run", "05": "run", "07 slow": "run", "07": "run"}
    (why,) = [step.why for step in planned.steps["demo"] if step.stage == TRAINING and step.row]
    assert "toy.Slow" in why
    assert main(["run", "demo.yaml", "--set", *other, "--keep-old-code"]) == 0
    shown = capsys.readouterr().out
    assert "slow †" in shown
    assert "kept by --keep-old-code" in shown
    assert "slow †" in (folder / "report.html").read_text()


def test_a_failing_notebook_stops_the_chain_with_its_cell_and_how_to_go_on(checkout, capsys):
    write_notebook(checkout, DATA, "wrong = 0\n1 / wrong")
    assert main(["run", "demo.yaml", "--set", "seed=1"]) == 1
    said = capsys.readouterr().err
    assert f"{DATA}.ipynb stopped in cell 3 with ZeroDivisionError: division by zero" in said
    assert "1 / wrong" in said
    assert "continue with: genrec run demo.yaml --set seed=1" in said
    folder = checkout / "papermill_runs/out/demo"
    assert not (folder / "notebooks" / f"{TRAINING}.ipynb").exists()
    assert existing_run("demo").manifest()["pages"][DATA]["status"] == "failed"
    assert (folder / "report.html").is_file()


def test_a_notebook_that_makes_other_results_than_its_own_is_refused(checkout):
    write_notebook(checkout, DATA, "print('nothing')")
    with pytest.raises(chain.NotebookFailed, match=rf"its end, but its result {DATA}/data cannot be used"):
        chain.run("demo.yaml", only=["01"])


def test_a_kernel_that_dies_is_told_apart_from_an_error(checkout):
    write_notebook(checkout, DATA, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(chain.NotebookFailed, match="signal 9 usually means that memory ran out"):
        chain.run("demo.yaml", only=["01"])


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_signal_ends_the_command_with_its_code_and_how_to_go_on(monkeypatch, capsys, number, code):
    """And nothing is left of it: what it does to a chain and its kernel is the test below."""
    sent = getattr(signal, number)
    # Tests that run in the background may have been started with SIGINT or SIGHUP ignored.
    usual = {"SIGHUP": signal.SIG_DFL, "SIGINT": signal.default_int_handler}
    before = signal.signal(sent, usual.get(number, signal.getsignal(sent)))
    try:

        def killed(run):
            os.kill(os.getpid(), sent)
            time.sleep(60)

        monkeypatch.setattr("genrec_lab.lab.doctor.doctor", killed)
        handler = signal.getsignal(sent)
        assert main(["doctor", "demo"]) == code
        assert (
            "Interrupted" in (said := capsys.readouterr().err) and "Continue with: genrec doctor demo" in said
        )
        assert signal.getsignal(sent) is handler
    finally:
        signal.signal(sent, before)


EPOCHS = "overrides.rows.slow.model.epochs=4"
FIRST = "00_waiting"
WAIT = """
import os, time
while os.path.exists("../first_hold"):
    open("../first_held", "w").close()
    time.sleep(0.05)
"""


@contextmanager
def held_chain(checkout, work):
    """The chain in a process, and those of its kernel, which waits in the first notebook or in training."""
    hold, held = checkout / f"{work}_hold", checkout / f"{work}_held"
    hold.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "genrec_lab.run", "demo.yaml", "--set", EPOCHS],
        cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # tests that run in the background may ignore these signals, and so would the chain
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGHUP, signal.SIGINT)],
    )  # fmt: skip
    deadline = time.monotonic() + 400
    try:
        while not held.exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
        hold.unlink()
        held.unlink(missing_ok=True)


@pytest.mark.slow
def test_whatever_ends_a_chain_it_goes_on_in_the_stage_that_was_ended(checkout, capsys):
    (checkout / "notebooks" / f"{DATA}.ipynb").unlink()
    write_notebook(checkout, FIRST, WAIT)
    made_here("demo", prepare_data)
    ends = [
        ("SIGINT", 130, "first", FIRST),
        ("SIGHUP", 129, "first", FIRST),
        ("SIGTERM", 143, "training", TRAINING),
        ("SIGKILL", -9, "training", TRAINING),
    ]
    # Each starts a chain and a kernel, so a test run leaves out the two that end it before the training.
    for number, code, work, stage in ends if AT_NIGHT else ends[2:]:
        with held_chain(checkout, work) as (process, kernels):
            if number == "SIGTERM":
                assert main(["run", "demo.yaml", "--set", EPOCHS]) == 2
                said = capsys.readouterr().err
                assert f"is in use, so the chain demo cannot start: process {process.pid}" in said
            process.send_signal(getattr(signal, number))
            said = process.communicate(timeout=120)[0]
            assert process.returncode == code
            assert len(kernels) == (2 if sys.platform == "linux" else 1)
            # a chain ends its kernel; one that was killed leaves that to the kernel
            assert psutil.wait_procs(kernels, timeout=60 if number == "SIGKILL" else 0)[1] == []
        if number != "SIGKILL":
            assert "Traceback" not in said
            assert "Continue with: python -m genrec_lab.run demo.yaml" in said
            assert existing_run("demo").manifest()["pages"][stage]["status"] == "interrupted"
        if number == "SIGTERM":
            (task,) = chain.tasks_of(existing_run("demo"), TRAINING)
            state = existing_run("demo").state(task)
            assert (state.status, state.reason) == ("unfinished", "it was interrupted.")
    result = chain.run("demo.yaml", sets=[EPOCHS])
    assert actions(result) == {"00": "keep", "05 slow": "run", "05": "run"}
    assert printed(checkout, TRAINING) == "begins at epoch 2\n"
    opened = result.runs[0]
    rank_test_users(opened)
    (made,) = [one for one in opened.provenance() if one["stage"] == TRAINING]
    assert made["row"] == "slow"
    assert opened.state(task).record.made["attempts"] == 3
    events = [event["event"] for event in read_log(opened.folder)[0] if event.get("place") == task.place]
    assert events == ["started", "interrupted", "resumed", "resumed", "finished"]
    assert not list((opened.folder / "scratch").rglob("epoch"))
    unbroken = made_here("unbroken", overrides=opened.parameters["overrides"])
    assert opened.metrics().equals(unbroken.metrics())


def made_here(name, *stages, **changes):
    """The run of the run file under another name, worked on in this process."""
    parameters = {**yaml.safe_load(RUN_FILE), **changes, "run": name}
    opened = open_run(**parameters, base=Path.cwd())
    for stage in stages or (prepare_data, train_recommenders, rank_test_users):
        stage(opened)
    return opened


@pytest.mark.slow
def test_seeds_run_apart_and_are_compared(checkout, capsys):
    write_notebook(checkout, RANKING, OPEN, RANK)
    for seed in (1, 3):
        made_here(f"demo-seed{seed}", prepare_data, train_recommenders, seed=seed)
    assert main(["run", "demo.yaml", "--seeds", "1,3", "--only", "07"]) == 0
    for seed in (1, 3):
        found = existing_run(f"demo-seed{seed}").metrics().filter(metric="ndcg", k=10)
        assert set(found["seed"]) == {seed}
        assert found["value"].to_list() == pytest.approx([1 / math.log2(2 + seed)] * found.height)
    # The mean and standard deviation of 0.6309 and 0.4307.
    assert "0.5308 ± 0.1416" in capsys.readouterr().out


def test_a_folder_that_a_notebook_moves_is_said_and_no_other_is_made(checkout, capsys):
    write_notebook(checkout, DATA, "import os\nos.rename('../papermill_runs/out', '../papermill_runs/moved')")
    assert main(["run", "demo.yaml", "--only", "01"]) == 2
    assert "out/demo was moved or deleted while it was in use" in capsys.readouterr().err
    assert not (checkout / "papermill_runs/out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "overrides.tokeniser.levels=4"], "tokeniser"),
        (["--set", "preset=baseline_tiny"], "did you mean 'baselines_tiny'"),
        (["--set", "run=../x"], "run is '../x'; a run's name has only letters"),
        (["--only", "07"], "--only names '07'; the notebooks are 01_data_preparation, 05_recommender"),
        (["--only", "01", "--from", "05"], "--only and --from exclude each other"),
        (["--seeds", "1,1"], "names 1 twice"),
        (["--seeds", "-1"], "--seeds -1 is not a list of seeds"),
        (["--set", "notebooks=[03_residual_atlas]"], "notebooks names '03_residual_atlas'"),
        (["--set", "overrides.rows.slow.model.kind=toy.py:Fast"], "toy.py"),
        (["--json"], "add --dry-run"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_runs(checkout, capsys, arguments, message):
    assert main(["run", "demo.yaml", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (checkout / "papermill_runs").exists()


def test_a_notebook_with_another_parameter_is_refused_before_anything_runs(checkout):
    write_notebook(checkout, TRAINING, TRAIN, parameters="levels = 4")
    with pytest.raises(RunError, match=rf"{TRAINING}\.ipynb: the parameter 'levels' is unknown"):
        chain.run("demo.yaml")
    assert not (checkout / "papermill_runs").exists()


def test_a_dry_run_says_what_would_run_and_touches_nothing(checkout, capsys):
    assert main(["run", "demo.yaml", "--dry-run", "--seeds", "1,2"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"run   {DATA}: it has not been run yet.") == 2
    assert said.count(f"run   {TRAINING} slow: {DATA} runs first.") == 2
    assert "demo-seed2" in said
    assert not (checkout / "papermill_runs").exists()


def test_outside_a_checkout_the_notebooks_of_the_package_run(checkout, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "demo.yaml").write_text((checkout / "demo.yaml").read_text())
    (elsewhere / "toy.py").write_text(TOY)
    shipped = {file.stem[:2] for file in (REPOSITORY / "notebooks").glob("*.ipynb")} - {"10"}
    assert {name[:2] for name in actions(chain.run("demo.yaml", dry_run=True))} == shipped
    planned = chain.run(str(checkout / "demo.yaml"), dry_run=True)
    assert set(actions(planned).values()) == {"run"}
    assert set(os.listdir(elsewhere)) - {"__pycache__"} == {"demo.yaml", "toy.py"}
