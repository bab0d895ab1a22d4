"""What the tests of runs share: tiny presets, and processes and kernels that see them too."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genrec_lab.lab import store

REPOSITORY = Path(__file__).parents[2]
TINY = Path(__file__).parent / "tiny_presets"


def _tiny_load():
    spec = importlib.util.spec_from_file_location("tiny_presets", TINY / "sitecustomize.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.meta_path)
    spec.loader.exec_module(module)
    sys.meta_path[:] = before  # only other processes look the presets up by import
    return module.load


@pytest.fixture
def tiny_presets(monkeypatch):
    """Presets "tiny" and "tiny_again" in this process, and in those that it starts."""
    monkeypatch.setattr(store, "load_config", _tiny_load())
    monkeypatch.setattr("genrec_lab.presets.names", lambda: ("tiny", "tiny_again"))
    monkeypatch.setattr(store, "_LOCK_PATIENCE_SECONDS", 0.2)
    paths = [str(TINY), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    monkeypatch.delenv("GENREC_RUNS", raising=False)


@pytest.fixture
def opened(tmp_path, tiny_presets):
    """Opens the run "demo" with some parameters changed."""

    def open_with(**changes):
        parameters = {"dataset": {"name": "bazaar"}, "preset": "tiny", "overrides": {}, "seed": 0, **changes}
        return store.open_run(parameters.pop("run", "demo"), root=tmp_path, **parameters)

    return open_with


@pytest.fixture
def run_in_process(tiny_presets):
    """Start `python -c code` with the tiny presets; what still runs at the end of the test is killed."""
    started = []

    def start(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
