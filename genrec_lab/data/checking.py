"""Checks the options of a dataset against its source's signature before any data are read."""

from __future__ import annotations

import inspect
import os
import typing
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from genrec_lab.data.paths import existing_file, existing_folder, expanded
from genrec_lab.data.preparation import choice_problems
from genrec_lab.data.rules import DataError, noted
from genrec_lab.data.sources import Part, parts_of

# The name of the average rows in all tables.
RESERVED = "average"
# Pydantic's error types in words.
_EXPECTED = {
    "int_type": "a whole number without quotes",
    "float_type": "a number without quotes",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "sequence_str": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
}
_FOLDERS = ("folder", "posters")


def dataset_problems(dataset: Mapping[str, Any]) -> list[str]:
    """Return the problems of a run's `dataset`, a source's name and its options, as sentences.

    Checks for unknown sources and options, missing or mistyped options, unset environment variables, missing
    files and folders, and invalid names of domains.
    """
    problems = [f"dataset.{problem}" for problem in choice_problems(dataset)]
    for part in parts_of(dataset, problems):
        problems += _option_problems(part)
        if inner := _inner(part):
            problems += [f"{part.where}.of: {problem}" for problem in dataset_problems(inner)]
    domains, folded = dataset.get("domains"), dict[str, str]()
    for domain in map(str, domains if isinstance(domains, Mapping) else ()):
        alike = folded.setdefault(unicodedata.normalize("NFC", domain).casefold(), domain)
        if alike != domain:
            both = f"dataset.domains.{domain} and dataset.domains.{alike}"
            problems.append(f"{both} are the same folder on some disks; rename one")
    return list(dict.fromkeys(problems))


def dataset_files(dataset: Mapping[str, Any]) -> list[Path]:
    """Return the existing files that a run's `dataset` will be read from."""
    files: list[Path] = []
    for part in parts_of(dataset, []):
        if inner := _inner(part):
            files += dataset_files(inner)
        if find := _finder(part):
            with suppress(DataError):
                files += [file for file in find(part.options) or () if isinstance(file, Path)]
        for option in ("interactions", "items"):
            if isinstance(part.options.get(option), str):
                with suppress(DataError):
                    files.append(existing_file(part.options[option], option))
    return files


def _inner(part: Part) -> Mapping[str, Any] | None:
    """Return the dataset that a source is derived from, if any, as for halves."""
    inner = part.options.get("of") if "of" in part.takes else None
    return inner if isinstance(inner, Mapping) and "name" in inner else None


def _finder(part: Part) -> Callable[..., Any] | None:
    """Return the function that finds a source's files, unless they will be fetched."""
    fetched = part.options.get("download") is True or "folder" not in part.options
    return None if fetched else getattr(part.source, "files", None)


def _option_problems(part: Part) -> Iterator[str]:
    where, _, source, options = part
    named, find = part.takes, _finder(part)
    model = getattr(source, "options", None) or inspect.unwrap(source)  # a class that checks options
    model = model if inspect.isclass(model) else None
    if options.get("domain") == RESERVED:
        yield f"{where}: a domain cannot be called {RESERVED}, which names the rows of averages; rename it"
    wrong = _wrong_types(named, options)
    if model:
        of_model = inspect.signature(model).parameters
        own = {key: value for key, value in options.items() if key in of_model}
        of_values = _refused(TypeAdapter(model), own, strict=None)
        wrong = {**of_values, **wrong} if "" not in of_values or not wrong else wrong
        wrong = {option: why for option, why in wrong.items() if option in ("", *options)}
    for option, why in wrong.items():
        yield f"{where}.{option} is {options[option]!r}; {why}" if option in options else f"{where}: {why}"
    problems = list[str]()
    for option, value in options.items():
        found_elsewhere = option == "folder" and find
        if option in named and option not in wrong and isinstance(value, str) and not found_elsewhere:
            with noted(problems):
                _require_path(f"{where}.{option}", option, value, named[option].annotation, options)
    yield from problems
    if find and "folder" not in wrong and not (model and wrong):
        try:
            find(options)
        except DataError as error:
            yield f"{where}.{error}"


def _wrong_types(named: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options whose values do not match the types in the signature, and what is expected."""
    wrong = {}
    for option, parameter in named.items():
        annotation = parameter.annotation
        if option not in options or annotation in (parameter.empty, Any) or isinstance(annotation, str):
            continue
        try:
            adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError):
            continue  # a type that only the source can check
        if reasons := _refused(adapter, options[option], strict=True):
            wrong[option] = " or ".join(reasons.values()).replace("or expected ", "or ")
    return wrong


def _refused(adapter: TypeAdapter[Any], value: Any, strict: bool | None) -> dict[str, str]:
    """Return why a value is rejected, by the key of the rejected part."""
    try:
        adapter.validate_python(value, strict=strict)
    except ValidationError as error:
        said: dict[str, list[str]] = {}
        for one in error.errors():
            if one["type"] not in ("is_instance_of", "none_required"):  # not possible in a run file
                said.setdefault(str(one["loc"][0]) if one["loc"] else "", []).append(_reason(one))
        return {key: " or ".join(dict.fromkeys(reasons)) for key, reasons in said.items()}
    return {}


def _reason(error: Any) -> str:
    """Return a pydantic error in words."""
    kind, bounds = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(bounds["error"])
    if kind == "greater_than_equal":
        return f"expected at least {bounds['ge']:,}"
    if kind == "less_than_equal":
        return f"expected at most {bounds['le']:,}"
    return f"expected {_EXPECTED.get(kind) or error['msg'].removeprefix('Input should be ')}"


def _require_path(where: str, option: str, value: str, annotation: Any, options: Mapping[str, Any]) -> None:
    """Raise DataError for an unset variable in an option, and for a path that leads nowhere."""
    is_path = os.PathLike in {typing.get_origin(one) or one for one in typing.get_args(annotation)}
    if not is_path or option == "images" or options.get("download") is True:
        expanded(value, where)
    elif option in _FOLDERS:
        existing_folder(value, where)
    else:
        existing_file(value, where)
