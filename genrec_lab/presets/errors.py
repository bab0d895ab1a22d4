"""What is said of a preset, key or row that does not exist."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

_OF_SEVERAL_KINDS = ("tokenizer", "content")


class PresetError(ValueError):
    """A preset or an override that does not exist or is impossible."""


def reasons(error: ValidationError) -> str:
    """Return a line for each value that pydantic refuses, with its dotted name."""
    lines = []
    for found in error.errors():
        # Where there are several kinds the path holds the kind too, which is no key of the config.
        path = [str(part) for part in found["loc"]]
        key = ".".join(path[:1] + path[2:] if path and path[0] in _OF_SEVERAL_KINDS else path)
        value = "" if isinstance(found["input"], dict | BaseModel) else f" = {found['input']!r}"
        message = found["msg"].removeprefix("Value error, ")
        lines.append(f"  {key}{value}: {message}" if key else f"  {message}")
    return "\n".join(lines)
