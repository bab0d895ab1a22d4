"""How a chain shows where it is: a live table in a terminal, plain lines in a headless log."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

_LONGEST_LINE = 200
_SIGN_OF_LIFE_SECONDS = 60.0
_STYLES = {
    "runs": "bold cyan",
    "done": "green",
    "skipped": "dim",
    "failed": "bold red",
    "interrupted": "yellow",
}


class Progress(Protocol):
    """What a chain tells whoever watches it."""

    def begin(self, title: str, steps: Sequence[str]) -> None:
        """A chain of these steps begins."""

    def step(self, name: str, state: str, note: str = "") -> None:
        """A step's state changed: runs, done, skipped, failed, interrupted."""

    def line(self, name: str, text: str) -> None:
        """A step printed a whole line."""

    def unfinished_line(self, name: str, text: str) -> None:
        """A step's last line as it stands, as a progress bar that is still being drawn."""

    def waiting(self) -> None:
        """Called several times a second while a step runs."""

    def end(self) -> None:
        """The chain ended, well or not."""


class LogProgress:
    """Plain lines with the time of day, for logs and pipes: what a notebook prints, without progress bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: list[str] = []
        self._started: dict[str, float] = {}
        self._bar: tuple[str, str] | None = None
        self._bar_shown = 0.0

    def begin(self, title: str, steps: Sequence[str]) -> None:
        """A chain of these steps begins."""
        self._steps = list(steps)
        self._say(title)

    def step(self, name: str, state: str, note: str = "") -> None:
        """A step's state changed."""
        place = f"{self._steps.index(name) + 1} of {len(self._steps)}"
        seconds = ""
        if state == "runs":
            self._started[name] = time.monotonic()
        elif name in self._started:
            seconds = f" after {clock(time.monotonic() - self._started[name])}"
        self._say(f"{name} ({place}) {state}{seconds}{': ' + note if note else ''}")

    def line(self, name: str, text: str) -> None:
        """A step printed a whole line."""
        self._bar, self._bar_shown = None, time.monotonic()
        self._console.print(f"  {name[:2]} | {text}", markup=False, highlight=False, soft_wrap=True)

    def unfinished_line(self, name: str, text: str) -> None:
        """A step's last line as it stands: shown once a minute, so that a long wait has a sign of life."""
        self._bar = (name, text)

    def waiting(self) -> None:
        """A step is still running."""
        bar = self._bar  # the notebook's thread may replace it meanwhile
        if bar is not None and time.monotonic() - self._bar_shown > _SIGN_OF_LIFE_SECONDS:
            self.line(*bar)

    def end(self) -> None:
        """The chain ended."""

    def _say(self, text: str) -> None:
        stamp = time.strftime("%H:%M:%S")
        self._console.print(f"[{stamp}] {text}", markup=False, highlight=False, soft_wrap=True)


class TerminalProgress:
    """A table that redraws itself: each step's state, its time, and the last line that it printed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._title = ""
        self._states: dict[str, tuple[str, str]] = {}
        self._started: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def begin(self, title: str, steps: Sequence[str]) -> None:
        """A chain of these steps begins."""
        self._title = title
        self._states = dict.fromkeys(steps, ("waits", ""))
        self._live = Live(self._table(), console=self._console, refresh_per_second=4)
        self._live.start()

    def step(self, name: str, state: str, note: str = "") -> None:
        """A step's state changed."""
        if state == "runs":
            self._started[name] = time.monotonic()
        elif name in self._started:
            self._seconds[name] = time.monotonic() - self._started.pop(name)
        self._states[name] = (state, note)
        self.waiting()

    def line(self, name: str, text: str) -> None:
        """A step printed a whole line."""
        self._states[name] = (self._states[name][0], text)

    def unfinished_line(self, name: str, text: str) -> None:
        """A step's last line as it stands."""
        self.line(name, text)

    def waiting(self) -> None:
        """A step is still running."""
        if self._live is not None:
            self._live.update(self._table())

    def end(self) -> None:
        """The chain ended."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            self._live.stop()
            self._live = None

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, show_header=False, expand=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        for name, (state, note) in self._states.items():
            running = self._started.get(name)
            seconds = self._seconds.get(name) if running is None else time.monotonic() - running
            took = "" if seconds is None else clock(seconds)
            table.add_row(name, Text(state, _STYLES.get(state, "dim")), took, Text(note, "dim"))
        return Group(Text(self._title, "bold"), table)


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
