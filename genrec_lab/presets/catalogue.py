"""The presets by name, and the application of a run file's overrides."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from genrec_lab.encoders import ENCODERS, TEXT_ENCODERS
from genrec_lab.models.recommenders.base import ITEM_MODELS, RECOMMENDERS
from genrec_lab.models.tokenizers import TOKENIZERS
from genrec_lab.presets import PRESETS, PresetError
from genrec_lab.presets.config import MethodConfig
from genrec_lab.presets.rows import ABLATIONS, check_names
from genrec_lab.registry import Registry, RegistryError, config_class, did_you_mean
from genrec_lab.training import TrainingConfig

# Parts of the config that have a `kind`, and their registries.
_OF_KINDS: dict[str, Registry[Any]] = {
    "text": TEXT_ENCODERS,
    "content": ENCODERS,
    "tokenizer": TOKENIZERS,
    "recommender": RECOMMENDERS,
    "rows.*.model": ITEM_MODELS,
}
# Optional parts of a config; keys below one start from its defaults.
_LEFT_OUT: dict[str, type[BaseModel]] = {"one_pass": TrainingConfig}
# Parts in whose error paths the kind appears, which is not a key of the config.
_OF_SEVERAL_KINDS = ("content",)


def preset(name: str) -> MethodConfig:
    """Return a preset of `PRESETS` unchanged."""
    module, _, function = PRESETS[name].partition(":")
    if not function:
        return ABLATIONS[name](preset(module))
    found: MethodConfig = getattr(importlib.import_module(f"genrec_lab.presets.{module}"), function)()
    return found


def load(name: str, overrides: Mapping[str, Any] | None = None) -> MethodConfig:
    """Return a preset with overrides, by dotted names such as `{"tokenizer.levels": 3}` or nested.

    Raises PresetError for an unknown preset or key, naming the nearest, and for an invalid value, naming the
    allowed ones.
    """
    if name not in PRESETS:
        raise PresetError(f"preset is {name!r}{did_you_mean(name, PRESETS)}; expected one of {list(PRESETS)}")
    config = preset(name)
    if not overrides:
        return config
    content, problems = config.model_dump(), []
    for key, value in dotted(overrides).items():
        try:
            set_key(content, key, value)
        except PresetError as error:
            problems.append(str(error))
    where = f"preset {name!r} with overrides {dict(overrides)} is impossible:"
    try:
        config = MethodConfig.model_validate(with_tuples(content))
        check_names(config)
    except ValidationError as error:
        raise PresetError(*problems, *reasons(error), where=where) from None
    except PresetError as error:
        raise PresetError(*problems, *error.problems, where=where) from None
    if problems:
        raise PresetError(*problems)
    return config


def dotted(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested overrides to dotted names.

    Kinds come first, because they determine the other keys.
    """
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        if not isinstance(key, str):
            raise PresetError(f"overrides has the key {key!r}; expected text")
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
        return
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
    part = "rows.*.model" if parts[0] == "rows" else ".".join(parts[:-1])
    if parts[-1] == "kind" and part in _OF_KINDS:
        if part == "tokenizer" and place["kind"] == "rqvae":
            content["rqvae"] = dict(place)  # rows with an RQ-VAE keep its settings
        switched = _switched(place, key, value, _OF_KINDS[part])
        place.clear()
        place |= switched
    else:
        place[parts[-1]] = value


def _add_row(rows: dict[str, Any], parts: list[str], kind: Any) -> None:
    """Add a row for `rows.<name>.model.kind`.

    It copies the preset's row of that name, or else uses the model's defaults and the budget of the preset's
    first row.
    """
    name, key = parts[1], ".".join(parts)
    if parts[2:] != ["model", "kind"]:
        raise PresetError(
            f"overrides: rows has no {name!r}{did_you_mean(name, rows)}; it has {sorted(rows)}. A new row "
            f"begins with rows.{name}.model.kind, the name of a model over items or its place, such as "
            "my_models.py:MyModel"
        )
    if kind in rows:
        rows[name] = copy.deepcopy(rows[kind])
        return
    model = _config_of_kind(key, kind, ITEM_MODELS)(kind=kind).model_dump()
    budget: dict[str, Any] = copy.deepcopy(next(iter(rows.values()), {}))
    rows[name] = {"model": model} | {
        part: budget[part] for part in ("training", "pretraining") if part in budget
    }


def _switched(before: dict[str, Any], key: str, kind: Any, kinds: Registry[Any]) -> dict[str, Any]:
    """Return the defaults of another kind with the shared values, such as a tokenizer's levels.

    Values that the other kind rejects have a different meaning under the same name and are not kept.
    """
    config = _config_of_kind(key, kind, kinds)
    shared = {name: value for name, value in before.items() if name in config.model_fields} | {"kind": kind}
    try:
        return config(**shared).model_dump()
    except ValidationError as error:
        refused = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
        return config(**{name: shared[name] for name in shared if name not in refused}).model_dump()


def _config_of_kind(key: str, kind: Any, kinds: Registry[Any]) -> type[BaseModel]:
    try:
        return config_class(kinds, kind)
    except RegistryError as error:
        raise PresetError(f"overrides: {key} is {kind!r}: {error}") from error


def with_tuples(value: Any) -> Any:
    """Convert JSON and YAML lists to tuples."""
    if isinstance(value, dict):
        return {key: with_tuples(part) for key, part in value.items()}
    return tuple(value) if isinstance(value, list) else value


def reasons(error: ValidationError) -> list[str]:
    """Return a sentence for each value that pydantic rejects, with its dotted name."""
    lines = []
    for found in error.errors():
        path = [str(part) for part in found["loc"]]
        key = ".".join(path[:1] + path[2:] if path and path[0] in _OF_SEVERAL_KINDS else path)
        value = "" if isinstance(found["input"], dict | BaseModel) else f" = {found['input']!r}"
        message = found["msg"].removeprefix("Value error, ")
        lines += [f"{key}{value}: {message}"] if key else message.splitlines()  # of a whole config: several
    return lines
