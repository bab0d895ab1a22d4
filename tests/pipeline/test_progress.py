"""What a chain shows while it runs: whole lines in a log, a table in a terminal, durations for people."""

import io

import pytest
from rich.console import Console

from genrec_lab.lab import progress
from genrec_lab.lab.progress import LogProgress, StepOutput, TerminalProgress, clock


@pytest.fixture
def log():
    """A progress that writes into a text, and that text."""
    stream = io.StringIO()
    return LogProgress(Console(file=stream, width=80)), stream


def written(file, pieces, shown):
    with StepOutput(file, "02_tokens", shown) as output:
        for piece in pieces:
            output.write(piece)
    return file.read_text().splitlines()[1:]  # the first line is the time


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["one\ntwo\n"], ["one", "two"]),
        (["on", "e\nt", "wo"], ["one", "two"]),
        (["epoch 1\repoch 2\r", "epoch 3\ndone"], ["epoch 3", "done"]),
        (["epoch 1\r", "epoch 2\r"], ["epoch 2"]),
        (["\r50 %", "\r100 %\n"], ["100 %"]),
        (["windows\r\nlines\r\n"], ["windows", "lines"]),
    ],
)
def test_output_is_kept_in_lines_as_a_terminal_would_show_them(tmp_path, log, pieces, expected):
    shown, stream = log
    assert written(tmp_path / "02.log", pieces, shown) == expected
    assert [line.strip() for line in stream.getvalue().splitlines()] == [f"02 | {line}" for line in expected]


def test_output_of_further_attempts_is_added(tmp_path, log):
    written(tmp_path / "02.log", ["first\n"], log[0])
    assert "first" in written(tmp_path / "02.log", ["second\n"], log[0])


def test_markup_in_output_is_printed_as_it_is(tmp_path, log):
    shown, stream = log
    written(tmp_path / "02.log", ["[red]x[/red] [/nothing] " + "long " * 30], shown)
    assert "[red]x[/red] [/nothing] " + "long " * 29 in stream.getvalue()


def test_a_progress_bar_shows_in_a_log_once_a_minute(log, monkeypatch):
    shown, stream = log
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown.begin("demo", ["02_tokens"])
    shown.step("02_tokens", "runs")
    shown.line("02_tokens", "starts")
    for second in range(150):
        now[0] += 1
        shown.unfinished_line("02_tokens", f"{second} of 150")
    bars = [line for line in stream.getvalue().splitlines() if "of 150" in line]
    assert bars == ["  02 | 60 of 150", "  02 | 121 of 150"]


def test_a_log_says_which_step_it_is_and_how_long_it_took(log, monkeypatch):
    shown, stream = log
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown.begin("demo", ["01_data", "02_tokens"])
    shown.step("01_data", "skipped", "finished yesterday.")
    shown.step("02_tokens", "runs", "it has not been run yet.")
    now[0] += 185
    shown.step("02_tokens", "done")
    lines = [line.partition("] ")[2] for line in stream.getvalue().splitlines()]
    assert lines == [
        "demo",
        "01_data (1 of 2) skipped: finished yesterday.",
        "02_tokens (2 of 2) runs: it has not been run yet.",
        "02_tokens (2 of 2) done after 3 min 05 s",
    ]


def test_a_terminal_shows_every_step_with_its_last_line():
    stream = io.StringIO()
    shown = TerminalProgress(Console(file=stream, width=100, force_terminal=True))
    shown.begin("demo", ["01_data", "02_tokens"])
    shown.step("01_data", "skipped")
    shown.step("02_tokens", "runs")
    shown.line("02_tokens", "[bold]epoch 3")
    shown.end()
    last = stream.getvalue().rpartition("demo")[2]
    assert "01_data" in last
    assert "skipped" in last
    assert "[bold]epoch 3" in last


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.97, "1 min 00 s"), (3599.7, "1 h 00 min"), (8040, "2 h 14 min")],
)
def test_durations(seconds, shown):
    assert clock(seconds) == shown
