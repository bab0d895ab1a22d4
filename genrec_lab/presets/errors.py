"""What is said of a preset, key or row that does not exist."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

_OF_SEVERAL_KINDS = ("content",)


class PresetError(ValueError):
    """A preset or an override that does not exist or is impossible; `problems` has a sentence for each."""

    def __init__(self, *problems: str, where: str = "") -> None:
        self.problems = problems
        lines = [where, *(f"  {problem}" for problem in problems)] if where else problems
        super().__init__("\n".join(lines))


def reasons(error: ValidationError) -> list[str]:
    """Return a sentence for each value that pydantic refuses, with its dotted name."""
    lines = []
    for found in error.errors():
        # Where there are several kinds the path holds the kind too, which is no key of the config.
        path = [str(part) for part in found["loc"]]
        key = ".".join(path[:1] + path[2:] if path and path[0] in _OF_SEVERAL_KINDS else path)
        value = "" if isinstance(found["input"], dict | BaseModel) else f" = {found['input']!r}"
        message = found["msg"].removeprefix("Value error, ")
        lines.append(f"{key}{value}: {message}" if key else message)
    return lines
