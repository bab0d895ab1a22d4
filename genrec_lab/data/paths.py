"""Resolves and checks users' paths, and reads JSON with errors that name file and line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from genrec_lab.data.rules import DataError
from genrec_lab.registry import base_folder

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def expanded(text: str, option: str) -> str:
    """Return `text` with each `${VAR}` replaced from the environment; raises DataError if it is not set."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise DataError(
                f"{option}: {text!r} needs the environment variable {name}, which is not set; set it (export "
                f"{name}=/path/to/your/data) or write the path itself"
            )
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def absolute_path(path: object, option: str) -> Path:
    """Return the absolute path of an option; raises DataError if it is not a path.

    `${VAR}` and `~` are expanded. A relative path starts at `genrec_lab.registry.base_folder()`: the run
    file's folder in a run, otherwise the working directory.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise DataError(f"{option}: {path!r} is not a path; give a path as text")
    return (base_folder() / Path(expanded(os.fspath(path), option)).expanduser()).absolute()


def existing_folder(path: str | os.PathLike[str], option: str) -> Path:
    """Return the absolute path of an existing folder; raises DataError otherwise."""
    folder = absolute_path(path, option)
    if not folder.is_dir():
        what = "a file, expected a folder" if folder.exists() else "not there"
        raise DataError(f"{option}: {folder} is {what}; give the folder that holds the data files")
    return folder


def existing_file(path: str | os.PathLike[str], option: str) -> Path:
    """Return the absolute path of an existing, non-empty file; raises DataError otherwise."""
    file = absolute_path(path, option)
    if not file.is_file():
        what = "a folder, expected a file" if file.exists() else "not there"
        raise DataError(f"{option}: {file} is {what}; check the path")
    if file.stat().st_size == 0:
        raise DataError(f"{option}: {file} is empty; fetch or write it again")
    return file


def read_utf8(file: Path) -> str:
    """Return the text of a file, without a byte order mark; raises DataError if it is not UTF-8."""
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def read_json_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`, with whole numbers as text (ids may be written either way).

    Raises DataError with file, line and column for malformed JSON, for a repeated key in one object, for JSON
    that is not an object, and for an empty file.
    """
    text = read_utf8(existing_file(file, "file"))

    def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [key for key, _ in pairs]
            twin = next(key for key in found if names.count(key) > 1)
            places = list(re.finditer(re.escape(json.dumps(twin)) + r"\s*:", text))
            line = f", line {text.count(chr(10), 0, places[1].start()) + 1}" if len(places) > 1 else ""
            raise DataError(f"{file}{line}: key {twin!r} occurs twice; keep one or rename it")
        return found

    def no_constant(constant: str) -> Any:
        raise DataError(f"{file}: {constant} is not a JSON value; replace it")

    try:
        found = json.loads(text, parse_int=str, parse_constant=no_constant, object_pairs_hook=without_twins)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}, line {error.lineno}, column {error.colno}: malformed JSON ({error.msg}); correct the "
            "file or fetch it again"
        ) from error
    except RecursionError as error:
        raise DataError(
            f"{file}: malformed JSON (nested too deeply); correct the file or fetch it again"
        ) from error
    if "\\u" in text:  # an escape can name half of a character, which cannot be stored as text
        try:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            line = text.count("\n", 0, text.lower().find(half)) + 1
            raise DataError(
                f"{file}, line {line}: {half} is half of a character; replace or remove it"
            ) from error
    if not isinstance(found, dict):
        raise DataError(f"{file}: holds a {type(found).__name__}, expected an object in braces")
    if not found:
        raise DataError(f"{file}: the object is empty; fetch or write it again")
    return found
