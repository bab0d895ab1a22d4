"""Settings as they are compared and shown: nested mappings by dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MOST_SHOWN = 5


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changed values of two nested mappings as lines "tokenizer.levels: 3 before, 4 now"."""
    before, after = dict(flat(old)), dict(flat(new))
    lines = []
    for name in dict.fromkeys([*before, *after]):
        was, now = before.get(name, "not set"), after.get(name, "not set")
        if was != now:
            lines.append(f"{name}: {was} before, {now} now")
    return lines


def listed(things: Sequence[str]) -> str:
    """The first of many, and how many there are beside them."""
    more = len(things) - _MOST_SHOWN
    return "; ".join(things[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted names."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
