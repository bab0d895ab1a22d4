"""A small chain that is killed and resumed equals the unbroken one; `kill_loop` does so to a whole chain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genrec_lab.lab.files import write_checked
from tests.faults.kill_loop import half_written, kill_loop, results

CHAIN = [sys.executable, "-m", "tests.faults.small_chain"]


@pytest.mark.nightly
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the processes are looked for in /proc")
def test_killed_twice_it_gives_the_same_metrics(tmp_path: Path) -> None:
    outcome = kill_loop(CHAIN, tmp_path, kills=2, seed=4, span=(0.75, 0.98))
    assert outcome.faults == []
    assert outcome.kills == 2
    assert outcome.finished >= 1
    assert len(results(tmp_path / "broken")) == 2


def test_what_is_half_written_is_found(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    (run / "scratch" / "02" / "epoch-3.partial").mkdir(parents=True)
    write_checked(run / "manifest.json", {"pages": {}})
    made = run / "02_tokenizer_training" / "text"
    made.mkdir(parents=True)
    (made / "result.json").write_text("{")
    (run / "scratch" / "02" / "epoch-3.partial" / "counters.json").write_text('{"epo')  # in the making
    (run / "scratch" / "02" / "records.json").write_text('[{"epo')
    (run / "scratch" / "02" / "state.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 half")
    read, wrong = half_written(tmp_path)
    assert read == 1
    assert sorted(Path(line.split(":")[0]).name for line in wrong) == [
        "records.json", "state.safetensors", "text",
    ]  # fmt: skip


def test_other_metrics_are_a_fault(tmp_path: Path) -> None:
    code = (
        "import json, os, pathlib, random\n"
        "run = pathlib.Path(os.environ['GENREC_RUNS']) / 'demo'\n"
        "run.mkdir(exist_ok=True)\n"
        "record = dict(method='m', domain='d', metric='loss', k=None, seed=0, value=random.random())\n"
        "(run / 'metrics.json').write_text(json.dumps({'records': [record]}))\n"
    )
    outcome = kill_loop([sys.executable, "-c", code], tmp_path, kills=0, seed=0)
    assert len(outcome.faults) == 1
    assert "instead of" in outcome.faults[0]
