"""Run files: the small YAML that holds a run's parameters, checked before anything is executed."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from genrec_lab.lab.files import RunError
from genrec_lab.lab.keys import unknown_name

PARAMETERS = ("run", "dataset", "preset", "overrides", "seed")  # what a notebook's parameters cell holds
_KEYS = (*PARAMETERS, "notebooks")
_BARE_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")


@dataclass(frozen=True)
class RunFile:
    """The parameters of a chain: those of every notebook, and which `notebooks` to run (None: all)."""

    run: str
    dataset: dict[str, Any]
    preset: str
    overrides: dict[str, Any]
    seed: int
    notebooks: tuple[str, ...] | None

    def parameters(self) -> dict[str, Any]:
        """The values that papermill puts in a notebook's parameters cell."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def with_seed(self, seed: int) -> RunFile:
        """The same run under another seed, in a folder of its own."""
        return replace(self, run=f"{self.run}-seed{seed}", seed=seed)


def read_run_file(source: Path | Mapping[str, Any], sets: Sequence[str] = ()) -> RunFile:
    """Read and check a run file (or a mapping of the same keys), with `key=value` settings laid over it.

    Raises `RunError` naming file, key, value and what is allowed.
    """
    if isinstance(source, Mapping):
        content, where = dict(source), "the run's parameters"
    else:
        content, where = _read_yaml(source), str(source)
    for setting in sets:
        _apply(content, setting)
    for key in content:
        if key not in _KEYS:
            raise RunError(f"{where}: the key {unknown_name(str(key), _KEYS)}")
    for key in ("run", "dataset", "preset"):
        if key not in content:
            raise RunError(f"{where}: the key {key!r} is missing. Needed: run, dataset, preset.")
    defaults: dict[str, Any] = {"overrides": {}, "seed": 0, "notebooks": None}
    content = defaults | content
    kinds = {"run": str, "dataset": dict, "preset": str, "overrides": dict, "seed": int}
    for key, kind in kinds.items():
        value = content[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            expected = {str: "a text", dict: "a mapping", int: "a whole number"}[kind]
            raise RunError(f"{where}: {key} is {value!r}; expected {expected}.")
    for key in ("dataset", "overrides"):
        _check_values(where, key, content[key])
    if content["notebooks"] is not None:
        names = content["notebooks"]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise RunError(f"{where}: notebooks is {names!r}; expected a list as [01_data_preparation, …].")
        content["notebooks"] = tuple(names)
    return RunFile(**content)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader, stricter
    except FileNotFoundError as error:
        near = sorted(other.name for other in file.parent.glob("*.yaml"))
        raise RunError(f"The run file {file} does not exist. {unknown_name(file.name, near)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{file} holds no keys. Write at least: run, dataset, preset.")
    return content


def _apply(content: dict[str, Any], setting: str) -> None:
    """Lay `overrides.tokenizer.levels=4` over the content; the value is read as YAML."""
    path, equals, text = setting.partition("=")
    top, _, rest = path.strip().partition(".")
    if not equals or not top:
        raise RunError(
            f"--set {setting!r} is not of the form key=value, as --set overrides.tokenizer.levels=4."
        )
    if top not in _KEYS:
        raise RunError(f"--set {setting!r}: the key {unknown_name(top, _KEYS)}")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, stricter
    except yaml.YAMLError as error:
        raise RunError(f"--set {setting!r}: the value is not valid YAML: {error}") from error
    if not rest:
        content[top] = value
    elif top == "overrides":
        content[top] = {**(content.get(top) or {}), rest: value}
    elif top == "dataset":
        content[top] = _with_value(content.get(top) or {}, rest.split("."), value)
    else:
        raise RunError(f"--set {setting!r}: {top} has no parts; write --set {top}=value.")


def _with_value(content: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**content, path[0]: value}
    inner = content.get(path[0], {})
    if not isinstance(inner, Mapping):
        raise RunError(f"--set: {path[0]} is {inner!r}, which has no part {'.'.join(path[1:])!r}.")
    return {**content, path[0]: _with_value(inner, path[1:], value)}


def _check_values(where: str, key: str, value: Any) -> None:
    """Refuse what neither papermill nor JSON can hold, and numbers that YAML reads as text."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise RunError(f"{where}: {key} has the key {name!r}; expected a text, so put it in quotes.")
            _check_values(where, f"{key}.{name}", inner)
    elif isinstance(value, list):
        for inner in value:
            _check_values(where, key, inner)
    elif isinstance(value, str) and _BARE_EXPONENT.fullmatch(value):
        mantissa, exponent = re.split("[eE]", value)
        raise RunError(
            f"{where}: {key} is {value}, which YAML reads as a text. As a number write "
            f"{mantissa}.0e{'' if exponent[0] in '+-' else '+'}{exponent}."
        )
    elif value is not None and not isinstance(value, str | int | float | bool):
        raise RunError(f"{where}: {key} is {value!r}, a {type(value).__name__}; put it in quotes.")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
