"""The one door to all data: a source's name and its options, one domain or several."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from genrec_lab.data.amazon import read_amazon2014, read_amazon2018, read_amazon2023
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.frames import read_frames
from genrec_lab.data.movielens import read_movielens
from genrec_lab.data.paths import expanded
from genrec_lab.data.research_files import read_lcrec, read_recbole
from genrec_lab.data.rules import DataError, nearest
from genrec_lab.registry import Registry

READERS: dict[str, Callable[..., Dataset]] = {
    "lcrec": read_lcrec,
    "recbole": read_recbole,
    "movielens": read_movielens,
    "frames": read_frames,
    "amazon2014": read_amazon2014,
    "amazon2018": read_amazon2018,
    "amazon2023": read_amazon2023,
}
EMBEDDED = "bazaar"
SOURCES: Registry[Callable[..., Dataset]] = Registry(
    "data source", declared={EMBEDDED: "genrec_lab.bazaar:make_bazaar"}
)
# Options that mean one domain and so cannot hold for several.
PER_DOMAIN = {"domain", "folder", "category", "interactions", "items", "posters"}


def datasets() -> tuple[str, ...]:
    """The names that `load_dataset` knows."""
    return (EMBEDDED, *READERS)


def load_dataset(name: str, **options: Any) -> Dataset:
    """The Dataset of a source ("bazaar", "lcrec", "recbole", "movielens", "frames", "amazon2014",
    "amazon2018", "amazon2023") with its own options.

    Several domains at once, of one source or of several: `domains={"Scientific": folder, "Movies": {"name":
    "frames", "interactions": ..., "items": ...}}`. A value is a folder, or a mapping of options that may name
    another source; options beside `domains` hold for every domain whose source knows them, unless its own
    mapping says otherwise. `${VAR}` in a path is taken from the environment. Raises DataError for an unknown
    name or option, naming the nearest, and for what the sources' readers refuse.
    """
    _require_known(name)
    if name == EMBEDDED:
        return _bazaar(options)
    if "domains" not in options:
        return _read(name, options, f"load_dataset({name!r})")
    shared = {option: value for option, value in options.items() if option != "domains"}
    domains = options["domains"]
    if not isinstance(domains, Mapping) or not domains:
        raise DataError(
            f'domains: {domains!r} is no mapping of at least one domain; write {{"Scientific": "folder"}}'
        )
    own = {domain: _own_options(name, domain, value) for domain, value in domains.items()}
    for option in shared:
        known = sorted(
            {known for source, _ in own.values() for known in _options_of(READERS[source])} - PER_DOMAIN
        )
        if option not in known:
            raise DataError(
                f"load_dataset({name!r}): unknown option {option!r} beside domains{nearest(option, known)}"
            )
    parts = []
    for domain, (source, given) in own.items():
        inherited = {key: value for key, value in shared.items() if key in _options_of(READERS[source])}
        parts.append(_read(source, {**inherited, **given, "domain": domain}, f"domains[{domain!r}]"))
    return Dataset.concat(parts) if len(parts) > 1 else parts[0]


def _own_options(name: str, domain: object, value: object) -> tuple[str, dict[str, Any]]:
    """The source of one domain and its own options."""
    if not isinstance(domain, str) or not domain:
        raise DataError(f"domains: {domain!r} is no name for a domain; give text that is not empty")
    if isinstance(value, (str, os.PathLike)):
        if name == "frames":
            raise DataError(
                f"domains[{domain!r}]: frames need tables, not a folder; write "
                '{"interactions": "ratings.csv", "items": "items.csv", "columns": {...}}'
            )
        return name, {"folder": value}
    if not isinstance(value, Mapping):
        raise DataError(f"domains[{domain!r}]: {value!r}, expected a folder or a mapping of options")
    source = value.get("name", name)
    _require_known(source)
    if source == EMBEDDED:
        raise DataError(
            f'domains[{domain!r}]: {EMBEDDED} makes its domains itself; load it by load_dataset("bazaar")'
        )
    if "domain" in value:
        raise DataError(
            f"domains[{domain!r}]: `domain` is set twice; the key {domain!r} is the domain's name"
        )
    return source, {option: given for option, given in value.items() if option != "name"}


def _read(source: str, options: dict[str, Any], where: str) -> Dataset:
    reader = READERS[source]
    _require_options(reader, options, where)
    try:
        return reader(**options)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _bazaar(options: dict[str, Any]) -> Dataset:
    make_bazaar = SOURCES.find(EMBEDDED)
    _require_options(make_bazaar, options, f"load_dataset({EMBEDDED!r})")
    if isinstance(options.get("images"), str):
        options = {**options, "images": expanded(options["images"], "images")}
    return make_bazaar(**options)


def _require_known(name: object) -> None:
    if name not in datasets():
        raise DataError(f"unknown dataset {name!r}{nearest(str(name), datasets())}")


def _options_of(reader: Callable[..., Dataset]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(reader).parameters)


def _require_options(reader: Callable[..., Dataset], options: Mapping[str, Any], where: str) -> None:
    parameters = _options_of(reader)
    known = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    if len(known) == len(parameters):
        for option in options:
            if option not in known:
                raise DataError(f"{where}: unknown option {option!r}{nearest(option, known)}")
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in options:
            several = ", or domains={...} for several domains" if name == "folder" else ""
            raise DataError(f"{where}: the option {name!r} is missing; give it{several}")
