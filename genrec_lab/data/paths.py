"""Paths as run files write them: environment variables named in them, checked before they are read."""

from __future__ import annotations

import os
import re
from pathlib import Path

from genrec_lab.data.rules import DataError

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def expanded(text: str, option: str) -> str:
    """`text` with each `${VAR}` taken from the environment; raises DataError where it is not set."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise DataError(
                f"{option}: {text!r} needs the environment variable {name}, which is not set; set it (export "
                f"{name}=/path/to/your/data) or write the path itself"
            )
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def existing_folder(path: str | os.PathLike[str], option: str) -> Path:
    """The absolute path of a folder that is there; raises DataError otherwise."""
    folder = _absolute(path, option)
    if not folder.is_dir():
        what = "a file, expected a folder" if folder.exists() else "not there"
        raise DataError(f"{option}: {folder} is {what}; give the folder that holds the data files")
    return folder


def existing_file(path: str | os.PathLike[str], option: str) -> Path:
    """The absolute path of a file that is there and not empty; raises DataError otherwise."""
    file = _absolute(path, option)
    if not file.is_file():
        what = "a folder, expected a file" if file.exists() else "not there"
        raise DataError(f"{option}: {file} is {what}; check the path")
    if file.stat().st_size == 0:
        raise DataError(f"{option}: {file} is empty; fetch or write it again")
    return file


def only_file(folder: Path, suffix: str, option: str) -> Path | None:
    """The one file of `folder` that ends in `suffix` or None; raises DataError for several."""
    found = sorted(path for path in folder.iterdir() if path.name.endswith(suffix) and path.name != suffix)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"{option}: {folder} has {len(found)} *{suffix} files ({names}); give each a folder of its own"
        )
    return found[0] if found else None


def _absolute(path: str | os.PathLike[str], option: str) -> Path:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise DataError(f"{option}: {path!r} is no path; give a path as text")
    return Path(expanded(os.fspath(path), option)).expanduser().absolute()
