"""What is said of a preset, key or row that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PresetError(ValueError):
    """A preset or an override that does not exist or is impossible."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the part of a message that names the nearest of the known names, empty where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
