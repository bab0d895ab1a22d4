"""Values of a preset that are set by dotted names, as in a run file or on a command line."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from genrec_lab.models.recommenders.kinds import KINDS as RECOMMENDERS
from genrec_lab.presets.errors import PresetError, did_you_mean
from genrec_lab.presets.tokenizers import KINDS as TOKENIZERS
from genrec_lab.training import TrainingConfig

# Keys that say which kind a part of the config is, and the configs of its kinds.
_OF_KINDS: dict[str, dict[str, type[BaseModel]]] = {
    "tokenizer.kind": TOKENIZERS,
    "recommender.kind": RECOMMENDERS,
}
# Parts that a config may leave out: keys below one begin from its defaults.
_LEFT_OUT: dict[str, type[BaseModel]] = {"one_pass": TrainingConfig}


def dotted(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested overrides by dotted names, as a run file may write them in blocks.

    Kinds come first, for they change which other keys there are.
    """
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": part for name, part in dotted(value).items()}
        else:
            flat[key] = value
    return dict(sorted(flat.items(), key=lambda pair: not pair[0].endswith(".kind")))


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key of a config written as nested dicts."""
    place, parts = content, key.split(".")
    if parts[0] == "rows" and len(parts) > 1 and parts[1] not in content["rows"]:
        _add_row(content["rows"], parts, value)
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        if not isinstance(place, dict):
            raise PresetError(f"overrides: {where} is a value and has no keys below it; got {key!r}")
        if part not in place:
            raise PresetError(
                f"overrides: {key!r} is unknown{did_you_mean(part, place)}; "
                f"{where or 'the config'} has {sorted(place)}"
            )
        if depth < len(parts) - 1:
            if place[part] is None and part in _LEFT_OUT:
                place[part] = _LEFT_OUT[part]().model_dump()
            place = place[part]
    if key in _OF_KINDS:
        _switch(content, parts[0], value)
    else:
        place[parts[-1]] = value


def _add_row(rows: dict[str, Any], parts: list[str], value: Any) -> None:
    """Make `rows.<name>.model.kind` a further row, at first a copy of the preset's row of that kind."""
    name = parts[1]
    if parts[2:] != ["model", "kind"] or value not in rows:
        raise PresetError(
            f"overrides: rows has no {name!r}{did_you_mean(name, rows)}; it has {sorted(rows)}. A new row "
            f"begins with one of these as its kind: rows.{name}.model.kind"
        )
    rows[name] = copy.deepcopy(rows[value])


def _switch(content: dict[str, Any], part: str, kind: Any) -> None:
    """Take the defaults of another kind, keeping the values that both have, as a tokenizer's levels.

    The settings of an RQ-VAE stay those of the rows that have one, as TIGER's.
    """
    kinds = _OF_KINDS[f"{part}.kind"]
    if kind not in kinds:
        raise PresetError(
            f"overrides: {part}.kind is {kind!r}{did_you_mean(str(kind), kinds)}; "
            f"expected one of {list(kinds)}"
        )
    before = content[part]
    if before["kind"] == "rqvae":
        content["rqvae"] = dict(before)
    shared = {name: value for name, value in before.items() if name in kinds[kind].model_fields}
    content[part] = kinds[kind](**(shared | {"kind": kind})).model_dump()


def with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    """Let JSON and YAML lists stand for tuples."""
    return {key: _tuples(value) for key, value in content.items()}


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(value) if isinstance(value, list) else value
