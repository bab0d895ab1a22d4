"""Results that several processes make together: the first one writes, the others only compute.

`torch`, which takes seconds to import, is left alone where the environment names one process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def several() -> bool:
    """Whether the environment names several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that writes: the only one, or the first of several."""
    if not several():
        return True
    from genrec_lab.training import processes

    return processes.number() == 0


def wait() -> None:
    """Wait until all processes are here."""
    if several():
        from genrec_lab.training import processes

        processes.wait()


def send_scratch(scratch: Path | None) -> None:
    """Send the other processes the folder of a task's checkpoints, or None if there is no work."""
    if several():
        from genrec_lab.training import processes

        processes.of_the_first(None if scratch is None else str(scratch))


@contextmanager
def beside_the_first(place: str) -> Iterator[tuple[Path, Path] | None]:
    """Give any process but the first a temporary folder, and the folder of the checkpoints.

    None if there is no work. The block ends when the first process has finished the task.
    """
    from genrec_lab.training import processes

    scratch = processes.of_the_first(None)
    if scratch is None:
        yield None
    else:
        with tempfile.TemporaryDirectory(prefix="genrec-beside-") as thrown_away:
            folder = Path(thrown_away) / place
            folder.mkdir(parents=True)
            yield folder, Path(scratch)
            processes.wait()
    processes.wait()
