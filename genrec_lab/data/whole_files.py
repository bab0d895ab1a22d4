"""Files and folders that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ENDING = ".partial"


@contextmanager
def whole_file(file: Path, *, several_writers: bool = False) -> Iterator[Path]:
    """A path beside `file` to write to, which takes its place when the block ends, and goes when it fails.

    The folder must be there. A kill at any moment leaves the old file or the new one, and no more litter than
    one `<name>.partial`, which the next writer writes over. several_writers: the path has a name of its own
    each time, for files that several processes may write at once.
    """
    if several_writers:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.", suffix=_ENDING)
        os.close(handle)
        beside = Path(name)
    else:
        beside = _beside(file)
    try:
        yield beside
        os.replace(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder`, which takes its place when the block ends, and goes when it fails.

    A kill leaves the old folder, the new one or, between the removal of the old and the renaming, neither.
    """
    beside = _beside(folder)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _beside(place: Path) -> Path:
    return place.with_name(place.name + _ENDING)
