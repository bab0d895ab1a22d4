"""Settings as they are compared and shown: nested mappings by dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MOST_SHOWN = 5
_UNSET = "not set"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changed values of two nested mappings as lines "tokenizer.levels: 3 before, 4 now"."""
    before, after = dict(flat(old)), dict(flat(new))
    return [
        f"{name}: {before.get(name, _UNSET)} before, {after.get(name, _UNSET)} now"
        for name in changed(before, after)
    ]


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names whose values differ in two mappings, or that only one of them has."""
    return [name for name in {**old, **new} if old.get(name, _UNSET) != new.get(name, _UNSET)]


def listed(things: Sequence[str]) -> str:
    """The first few of many, and how many more there are."""
    more = len(things) - _MOST_SHOWN
    return "; ".join(things[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted names."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
