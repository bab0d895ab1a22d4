"""A stage whose work several processes share: the first one writes, the others only compute.

`torch`, which takes seconds to import, is left alone where the environment names one process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genrec_lab.lab.execution import Stage


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


def tell_of(stage: Stage) -> None:
    """Tell the other processes how the first one found a stage."""
    if several():
        from genrec_lab.training import processes

        processes.of_the_first((stage.is_finished, stage.is_resumed))


@contextmanager
def beside_the_first(run_folder: Path, name: str) -> Iterator[Stage]:
    """The stage for a process that is not the first: it writes into a folder that is thrown away.

    Checkpoints are read where the first process keeps them. The block ends when the first one has finished.
    """
    from genrec_lab.training import processes

    finished, resumed = processes.of_the_first(None)
    with tempfile.TemporaryDirectory(prefix="genrec-beside-") as thrown_away:
        folder = run_folder / name if finished else Path(thrown_away) / name
        folder.mkdir(exist_ok=True)
        yield Stage(name, folder, run_folder / "scratch" / name, finished, resumed)
        processes.wait()


def several() -> bool:
    """Whether the environment names several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
