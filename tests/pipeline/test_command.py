"""The command `genrec`: what it refuses before a kernel starts, folders to work in, its start."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genrec_lab.cli import main
from genrec_lab.lab.folders import runs_root
from tests.pipeline.broken_run_files import BROKEN, BROKEN_CONFIGS, text

REPOSITORY = Path(__file__).parents[2]
INTERACTIONS = "user,item,timestamp\n" + "".join(
    f"u{user},i{(user + step) % 9},{step}\n" for user in range(12) for step in range(6)
)
ITEMS = "item,title\n" + "".join(f"i{item},Item {item}\n" for item in range(9))
# In a process of its own: notes every program that is started, and at the end whether torch was loaded.
WATCHING = """
import atexit, os, subprocess, sys
note = lambda word: open(os.environ["WATCHED"], "a").write(word + "\\n")
class Popen(subprocess.Popen):
    def __init__(self, *args, **kwargs):
        note("started")
        super().__init__(*args, **kwargs)
subprocess.Popen = Popen
atexit.register(lambda: note("torch") if "torch" in sys.modules else None)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder made by `genrec init`, with a few tables beside the run files."""
    made = tmp_path_factory.mktemp("outside") / "work"
    assert main(["init", str(made)]) == 0
    (made / "data" / "inter.csv").write_text(INTERACTIONS)
    (made / "data" / "items.csv").write_text(ITEMS)
    (made / "empty").mkdir()
    (made / "broken.py").write_text("raise RuntimeError('on purpose')\n")
    return made


@pytest.fixture
def no_process(monkeypatch):
    """Any process that is started fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"a process was started: {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.parametrize("name", [*BROKEN, *BROKEN_CONFIGS])
@pytest.mark.parametrize("mode", [["--dry-run"], []], ids=["dry", "real"])
def test_a_broken_run_file_is_refused_in_sentences(folder, no_process, monkeypatch, capsys, name, mode):
    written, sentences = (BROKEN | BROKEN_CONFIGS)[name]
    (folder / "broken.yaml").write_text(written)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GENREC_RUNS", raising=False)
    assert main(["run", "broken.yaml", *mode]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: broken.yaml: ")
    assert "Traceback" not in said
    assert len(said) < 2000
    for sentence in sentences:
        assert sentence in said
    assert not (folder / "runs").exists()


@pytest.fixture
def watched(folder, tmp_path, monkeypatch):
    """Runs the command in a process of its own; gives it, what it noted (see WATCHING) and its seconds."""
    (tmp_path / "sitecustomize.py").write_text(WATCHING)
    (tmp_path / "noted").touch()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)]),
        "WATCHED": str(tmp_path / "noted"),
    }
    environment.pop("GENREC_RUNS", None)

    def run(*arguments, cwd=folder):
        began = time.monotonic()
        command = [sys.executable, "-m", "genrec_lab.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
        return done, (tmp_path / "noted").read_text().split(), time.monotonic() - began

    return run


@pytest.mark.parametrize(
    "name", ["bomb", "deep", "recursive", "number in quotes", "missing folder", "run cache", "unknown preset"]
)
def test_a_refusal_starts_no_process_and_loads_no_torch(folder, watched, name):
    (folder / "broken.yaml").write_text(BROKEN[name][0])
    done, noted, seconds = watched("run", "broken.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert BROKEN[name][1][0] in done.stderr
    assert noted == []
    assert seconds < 30  # about one where nothing else runs


def test_all_errors_of_a_file_and_of_the_command_come_at_once(folder, no_process, monkeypatch, capsys):
    (folder / "broken.yaml").write_text(
        text(
            "sed: 1\n",
            run="a/b",
            seed="-1",
            notebooks="[02_tok]",
            dataset="{name: bazaar, items: 1, itemz: 2}",
        )
    )
    monkeypatch.chdir(folder)
    assert main(["run", "broken.yaml", "--set", "overrides.a", "--seeds", "0,0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: broken.yaml: 8 errors:\n  ")
    for sentence in (
        "--set 'overrides.a': it is not of the form key=value",
        "run is 'a/b'",
        "seed is -1",
        "the key 'sed' is unknown",
        "dataset.itemz is unknown",
        "dataset.items is 1; expected at least 300",
        "notebooks names '02_tok'",
        "--seeds 0,0 names 0 twice",
    ):
        assert said.count(sentence) == 1


def test_merge_keys_and_keys_of_ones_own_are_read(folder, monkeypatch, capsys):
    (folder / "merge.yaml").write_text(
        text(dataset="{<<: *d, items: 300}").replace(
            "run:", "x-shared: &d {name: bazaar, users: 400}\nrun:", 1
        )
    )
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GENREC_RUNS", raising=False)
    assert main(["run", "merge.yaml", "--dry-run", "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    stages = dict.fromkeys(step["stage"] for step in steps)
    assert list(stages)[:2] == ["00_setup_check", "01_data_preparation"]
    assert {"run", "stage", "row", "action", "why"} <= set(steps[0])
    assert {step["action"] for step in steps} <= {"run", "keep", "skip"}
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("where", [".", "data", ".."])
def test_paths_of_a_run_file_begin_at_the_run_file(folder, monkeypatch, where):
    options = "{name: frames, interactions: data/inter.csv, items: data/items.csv}"
    (folder / "own.yaml").write_text(text(dataset=options))
    monkeypatch.chdir(folder / where)
    file = os.path.relpath(folder / "own.yaml")
    assert main(["run", file, "--dry-run"]) == 0
    (folder / "data" / "items.csv").rename(folder / "data" / "moved.csv")
    try:
        assert main(["run", file, "--dry-run"]) == 2
    finally:
        (folder / "data" / "moved.csv").rename(folder / "data" / "items.csv")


@pytest.mark.slow
def test_a_kernel_reads_the_data_beside_the_run_file_and_notices_their_change(
    folder, tmp_path, monkeypatch, capsys
):
    options = "{name: frames, interactions: data/own.csv, items: data/items.csv}"
    (folder / "data" / "own.csv").write_text(INTERACTIONS)
    (folder / "own.yaml").write_text(text(dataset=options, run="own", notebooks='["01"]'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENREC_RUNS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert main(["run", str(folder / "own.yaml")]) == 0
    capsys.readouterr()

    def actions():
        assert main(["run", str(folder / "own.yaml"), "--dry-run", "--json"]) == 0
        return {step["action"] for step in json.loads(capsys.readouterr().out)}

    assert actions() == {"keep"}
    (folder / "data" / "own.csv").write_text(INTERACTIONS + "u0,i8,99\n")
    assert "run" in actions()


def test_what_a_chosen_stage_reads_may_be_there_already(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GENREC_RUNS", str(tmp_path))
    (folder / "part.yaml").write_text(text(run="part", notebooks='["01", "05"]'))
    assert main(["run", "part.yaml", "--dry-run"]) == 2
    assert "leaves out 02_tokenizer_training" in capsys.readouterr().err
    (tmp_path / "part" / "02_tokenizer_training" / "gmc").mkdir(parents=True)
    assert main(["run", "part.yaml", "--dry-run"]) == 0
    (folder / "part.yaml").write_text(
        text(
            run="ids",
            preset="baselines_tiny",
            overrides="{compare: [sasrec, popularity]}",
            notebooks='["01", "05"]',
        )
    )
    assert main(["run", "part.yaml", "--dry-run"]) == 0  # no row has codes


def test_too_little_memory_is_a_warning(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("genrec_lab.lab.preflight.free_memory", lambda: 10**8)
    (folder / "large.yaml").write_text(text(dataset="{name: bazaar, items: 1000000}", preset="gmc_small"))
    assert main(["run", "large.yaml", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: the data and the row sasrec may need about ")
    assert "0.1 GB of this machine are free; use less data" in said


def test_a_folder_to_work_in_has_all_that_a_run_needs(folder, monkeypatch, capsys):
    monkeypatch.delenv("GENREC_RUNS", raising=False)
    there = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    notebooks = {f"notebooks/{file.name}" for file in (REPOSITORY / "notebooks").glob("*.ipynb")}
    assert notebooks | {"smoke.yaml", "demo.yaml", "genrec.toml", ".gitignore", "data/README.md"} <= there
    monkeypatch.chdir(folder / "notebooks")
    assert runs_root() == folder / "runs"
    assert main(["init", str(folder)]) == 2
    assert "already has notebooks/00_setup_check.ipynb" in capsys.readouterr().err
    (folder / "file").touch()
    assert main(["init", str(folder / "file")]) == 2
    assert "cannot be created" in capsys.readouterr().err


def test_help_and_init_load_neither_torch_nor_polars(watched, tmp_path):
    for arguments in (["--help"], ["run", "--help"], ["init", tmp_path / "new"], ["--version"]):
        done, noted, _ = watched(*arguments)
        assert (done.returncode, noted) == (0, [])
    assert watched("run")[0].returncode == 2
    done, _, _ = watched("run", "smoke.yaml", "--resum")
    assert (done.returncode, "--resume" in done.stderr) == (2, True)


@pytest.mark.parametrize(("given", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(given, policy):
    environment = {**os.environ, "OMP_DISPLAY_ENV": "true", "PYTHONPATH": str(REPOSITORY)}
    environment.pop("OMP_WAIT_POLICY", None)
    if given:
        environment["OMP_WAIT_POLICY"] = given
    code = "import genrec_lab.cli, os, torch; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == policy
    shown = [line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    assert all(f"'{policy}'" in line for line in shown)  # GNU's OpenMP says what it read
