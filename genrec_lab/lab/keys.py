"""When a finished stage may be used again: the key of a stage, and why a key changed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genrec_lab.lab.files import RunError, hash_json

# Fields of a config that name it but change no result.
_DESCRIPTIVE_FIELDS = ("name", "provenance", "reference_codes")
_MOST_CHANGES_SHOWN = 5


@dataclass(frozen=True)
class StageState:
    """Whether a stage's results can be used, and if not, why.

    name: the stage. status: finished (usable), missing (never run), unfinished (killed, failed or running),
    stale (made with other parameters, inputs or package version), damaged (its files were changed).
    reason: one sentence for people.
    """

    name: str
    status: Literal["finished", "missing", "unfinished", "stale", "damaged"]
    reason: str

    @property
    def usable(self) -> bool:
        """Whether the stage's outputs may be read."""
        return self.status == "finished"


def select_parameters(
    dataset: Mapping[str, Any], config: Mapping[str, Any], seed: int, uses: Sequence[str] | None
) -> dict[str, Any]:
    """The parameters a stage's outputs depend on, as `{name: value}`.

    `uses` names them: "dataset", "seed", or fields of the config as "tokenizer" or "training.epochs".
    None means all of them, save what describes the config. Raises `RunError` at an unknown name.
    """
    if uses is None:
        kept = {name: value for name, value in config.items() if name not in _DESCRIPTIVE_FIELDS}
        return {"dataset": dict(dataset), "seed": seed, **kept}
    selected: dict[str, Any] = {}
    for name in uses:
        if name in ("dataset", "seed"):
            selected[name] = dict(dataset) if name == "dataset" else seed
            continue
        value: Any = config
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                known = ["dataset", "seed", *(str(key) for key in config)]
                raise RunError(f"A stage cannot use {name!r}: {unknown_name(part, known)}")
            value = value[part]
        selected[name] = value
    return selected


def stage_key(
    parameters: Mapping[str, Any], inputs: Mapping[str, str], also: Mapping[str, Any], version: str
) -> str:
    """Hash of everything that a stage's outputs follow from: equal keys mean that its results can be kept.

    `inputs` maps input stages to the digest of their outputs; `also` is what the stage itself declared.
    """
    return hash_json({"parameters": parameters, "inputs": inputs, "also": also, "version": version})


def source_signature(dataset: Any) -> str | None:
    """Hash of names, sizes and times of the files that a dataset parameter points to; None if there are none.

    Bazaar points to none: it is generated, and its folder of pictures is written, not read. Elsewhere every
    text that holds a path separator counts as a path, environment variables expanded. Of a folder
    the files directly inside count, subfolders (pictures) by name only. Content does not: it may be huge. Nor
    do folders that are downloaded into (`download` true): they fill while the stage runs.
    """
    if isinstance(dataset, Mapping) and dataset.get("name") == "bazaar":
        return None
    found: list[Any] = []
    given = dict(_flatten({"dataset": dataset}))
    for name, value in given.items():
        if any(given.get(f"{above}.download") is True for above in _above(name)):
            continue
        for text in value if isinstance(value, list | tuple) else [value]:
            path = (
                Path(os.path.expandvars(text)).expanduser() if isinstance(text, str) and "/" in text else None
            )
            if path is None or not path.exists():
                continue
            for file in [path] if path.is_file() else sorted(path.iterdir()):
                status = file.stat()
                found.append(
                    [name, file.name, [status.st_size, status.st_mtime_ns] if file.is_file() else None]
                )
    return hash_json(found) if found else None


def _above(name: str) -> list[str]:
    """The dotted names above this one, nearest last."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Changed values of two nested mappings as lines "tokenizer.levels: 3 before, 4 now"."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    lines = []
    for name in dict.fromkeys([*before, *after]):
        was, now = before.get(name, "not set"), after.get(name, "not set")
        if was != now:
            lines.append(f"{name}: {was} before, {now} now")
    return lines


def told(changes: Sequence[str]) -> str:
    """The first of many changes, and how many there are beside them."""
    more = len(changes) - _MOST_CHANGES_SHOWN
    return "; ".join(changes[:_MOST_CHANGES_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def unknown_name(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known name and then all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{name!r} is not known; {hint}Known: {', '.join(names) or 'none'}."


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
