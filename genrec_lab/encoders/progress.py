"""Progress of a long encoding: a bar in a terminal, otherwise occasional log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

Progress = bool | Callable[[int, int], None]


@contextmanager
def reporter(progress: Progress, total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number done; `what` names the unit, such as "text vectors".

    `progress=True` draws a bar in a terminal and otherwise logs a line every half minute, False is silent,
    and a callable receives (done, all).
    """
    if callable(progress):
        yield lambda done: progress(done, total)
    elif not progress:
        yield lambda done: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{total:,} {what}", total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield _log_every_half_minute(total, what)


def _log_every_half_minute(total: int, what: str) -> Callable[[int], None]:
    start = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 30.0:
            last = now
            left = (now - start) / done * (total - done)
            log.info("%s: %d of %d (%.0f %%), about %.0f s left", what, done, total, 100 * done / total, left)

    return report
