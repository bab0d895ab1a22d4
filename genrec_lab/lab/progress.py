"""How a chain shows where it is: a live table in a terminal, plain lines in a headless log."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

_LONGEST_LINE = 200
_SIGN_OF_LIFE_SECONDS = 60.0
_CLOCK = "[%H:%M:%S] "
_STYLES = {"runs": "bold cyan", "done": "green", "failed": "bold red", "interrupted": "yellow"}  # else dim


class LogProgress:
    """Plain lines with the time of day, for logs and pipes.

    Of a progress bar its last form is shown, and how far it is once a minute, as a sign of life.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: list[str] = []
        self._started: dict[str, float] = {}
        self._shown = time.monotonic()

    def begin(self, title: str, steps: Sequence[str]) -> None:
        """A chain of these steps begins."""
        self._steps = list(steps)
        self._print(f"{time.strftime(_CLOCK)}{title}")

    def step(self, name: str, state: str, note: str = "") -> None:
        """A step's state changed: runs, done, skipped, failed, interrupted."""
        place = f"{self._steps.index(name) + 1} of {len(self._steps)}"
        seconds = ""
        if state == "runs":
            self._started[name] = time.monotonic()
        elif name in self._started:
            seconds = f" after {clock(time.monotonic() - self._started[name])}"
        note = f": {note}" if note else ""
        self._print(f"{time.strftime(_CLOCK)}{name} ({place}) {state}{seconds}{note}")

    def line(self, name: str, text: str) -> None:
        """A step printed a whole line."""
        self._print(f"  {name[:2]} | {text}")

    def unfinished_line(self, name: str, text: str) -> None:
        """A step's last line so far, such as a progress bar that is still being drawn."""
        if time.monotonic() - self._shown > _SIGN_OF_LIFE_SECONDS:
            self.line(name, text)

    def end(self) -> None:
        """The chain ended, well or not."""

    def _print(self, text: str) -> None:
        self._shown = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class TerminalProgress:
    """A table that redraws itself: each step's state, its time, and the last line that it printed."""

    def __init__(self, console: Console) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            TextColumn("[{task.fields[style]}]{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn(
                "{task.fields[note]}", style="dim", markup=False,
                table_column=Column(no_wrap=True, ratio=1, overflow="ellipsis"),
            ),
            console=console, expand=True, refresh_per_second=4,
        )  # fmt: skip

    def begin(self, title: str, steps: Sequence[str]) -> None:
        """A chain of these steps begins."""
        self._bars.console.print(Text(title, "bold"))
        for name in steps:
            self._tasks[name] = self._bars.add_task(name, start=False, state="waits", style="dim", note="")
        self._bars.start()

    def step(self, name: str, state: str, note: str = "") -> None:
        """A step's state changed."""
        change = self._bars.start_task if state == "runs" else self._bars.stop_task
        change(self._tasks[name])
        self._bars.update(self._tasks[name], state=state, style=_STYLES.get(state, "dim"), note=note)

    def line(self, name: str, text: str) -> None:
        """A step printed a line."""
        self._bars.update(self._tasks[name], note=text)

    unfinished_line = line

    def end(self) -> None:
        """The chain ended: the table stays as it is."""
        self._bars.stop()


Progress: TypeAlias = LogProgress | TerminalProgress
"""What a chain reports to whoever watches it."""


class StepOutput(io.TextIOBase):
    """What a notebook prints: kept whole in a log file, passed on line by line.

    A carriage return starts a line over, as progress bars do; only the line's last form is passed on.
    """

    def __init__(self, file: Path, name: str, progress: Progress) -> None:
        self._stream = file.open("a", encoding="utf-8")
        self._stream.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        self._name = name
        self._progress = progress
        self._rest = ""

    def write(self, text: str) -> int:
        """Take a piece of output; it need not end with a line."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._pass_on(line)
        if self._rest:
            self._progress.unfinished_line(self._name, _last_form(self._rest)[:_LONGEST_LINE])
            if self._rest.endswith("\r"):  # what comes next is drawn over it
                self._rest = _last_form(self._rest) + "\r"
        return len(text)

    def flush(self) -> None:
        """Bring the log file up to date."""
        if not self._stream.closed:
            self._stream.flush()

    def close(self) -> None:
        """Pass on what is left and close the log file."""
        if self._rest:
            self._pass_on(self._rest)
            self._rest = ""
        super().close()
        self._stream.close()

    def _pass_on(self, line: str) -> None:
        shown = _last_form(line)
        self._stream.write(shown + "\n")
        if shown.strip():
            self._progress.line(self._name, shown)


def clock(seconds: float) -> str:
    """A duration for people: "8.2 s", "3 min 05 s" or "2 h 14 min"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _last_form(line: str) -> str:
    # the bar redraws itself after each return; a line that ends in one was finished by it
    return line.rstrip("\r").rpartition("\r")[2]
