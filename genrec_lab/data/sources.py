"""Data sources: an open registry of functions that return a Dataset, and `load_dataset`, which calls them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from genrec_lab.data.dataset import Dataset
from genrec_lab.data.rules import DataError, nearest
from genrec_lab.registry import Registry, RegistryError

Source = Callable[..., Dataset]
_Source = TypeVar("_Source", bound=Source)

# A source is a function of its options. One with the option `domain` reads one domain, and `load_dataset` can
# call it for several; one without it makes its domains itself.
SOURCES: Registry[Source] = Registry(
    "dataset",
    declared={
        "bazaar": "genrec_lab.bazaar:make_bazaar",
        "lcrec": "genrec_lab.data.research_files:read_lcrec",
        "recbole": "genrec_lab.data.research_files:read_recbole",
        "movielens": "genrec_lab.data.movielens:read_movielens",
        "frames": "genrec_lab.data.frames:read_frames",
        "amazon2014": "genrec_lab.data.amazon:read_amazon2014",
        "amazon2018": "genrec_lab.data.amazon:read_amazon2018",
        "amazon2023": "genrec_lab.data.amazon:read_amazon2023",
    },
)


def register_source(name: str) -> Callable[[_Source], _Source]:
    """Register the decorated function as a data source: it takes options by name and returns a Dataset.

    With an option `domain`, the name that its one domain gets, it can be one of several `domains`.

        >>> import polars as pl
        >>> from genrec_lab.data import Dataset, load_dataset, register_source
        >>> @register_source("two_books")
        ... def two_books(domain: str = "Books") -> Dataset:
        ...     titles = ["Dune", "Emma"]
        ...     items = {"item": [0, 1], "domain": domain, "title": titles, "text": titles}
        ...     users = {"user": [0], "domain": domain, "items": [[1, 0]]}
        ...     return Dataset("Books", pl.DataFrame(items), pl.DataFrame(users))
        >>> load_dataset("two_books", domain="Shop")
        Dataset('Books': Shop; 1 users, 2 items, 2 interactions)
    """
    return SOURCES.register(name)


def one_domain(*options: str) -> Callable[[_Source], _Source]:
    """Say which options of the decorated source hold for one domain alone and cannot be shared by several.

    Those without a default, and `domain`, never can.
    """

    def mark(source: _Source) -> _Source:
        source.__dict__["one_domain"] = options
        return source

    return mark


def finds(files: Callable[[Mapping[str, Any]], object]) -> Callable[[_Source], _Source]:
    """Say how the decorated source finds its files: a function of its options that reads nothing.

    What it returns holds their paths. It raises DataError where one is not there, so that a run file is
    refused before a kernel starts.
    """

    def mark(source: _Source) -> _Source:
        source.__dict__["files"] = files
        return source

    return mark


def datasets() -> tuple[str, ...]:
    """The names that `load_dataset` knows."""
    return SOURCES.names()


def load_dataset(name: str, **options: Any) -> Dataset:
    """The Dataset of a source with its own options.

    `name` is a registered source ("bazaar", "lcrec", "recbole", "movielens", "frames", "amazon2014",
    "amazon2018", "amazon2023" and those of `register_source`), or the place of a function that returns a
    Dataset: `package.module:function`, or `file.py:function`.

    Several domains at once, of one source or of several: `domains={"Scientific": folder, "Movies": {"name":
    "frames", "interactions": ..., "items": ...}}`. A value is a folder, or a mapping of options that may name
    another source; options beside `domains` hold for every domain whose source knows them, unless its own
    mapping says otherwise. Paths may hold `${VAR}`, which is taken from the environment; relative ones begin
    at `genrec_lab.registry.base_folder()`. Raises DataError for an unknown name or option, naming the
    nearest, for a result that is no Dataset, and for what the sources refuse.
    """
    source = _source(name)
    if "domains" not in options or "domains" in _options_of(source):
        return _loaded(name, options, f"load_dataset({name!r})")
    shared = {option: value for option, value in options.items() if option != "domains"}
    domains = options["domains"]
    if not isinstance(domains, Mapping) or not domains:
        raise DataError(
            f'domains: {domains!r} is no mapping of at least one domain; write {{"Scientific": "folder"}}'
        )
    own = {domain: _own_options(name, domain, value) for domain, value in domains.items()}
    sharable = {source_name: sharable_options(_source(source_name)) for source_name, _ in own.values()}
    known = sorted(set().union(*sharable.values()))
    for option in shared:
        if option not in known:
            raise DataError(
                f"load_dataset({name!r}): unknown option {option!r} beside domains{nearest(option, known)}"
            )
    parts = []
    for domain, (source_name, given) in own.items():
        inherited = {key: value for key, value in shared.items() if key in sharable[source_name]}
        asked = {**inherited, **given, "domain": domain}
        parts.append(_loaded(source_name, asked, f"domains[{domain!r}]"))
    return Dataset.concat(parts) if len(parts) > 1 else parts[0]


def _source(name: object) -> Source:
    try:
        return SOURCES.find(str(name))
    except RegistryError as error:
        if ":" in str(name):
            raise DataError(str(error)) from error
        known = nearest(str(name), datasets())
        raise DataError(f"unknown dataset {name!r}{known}, or package.module:function") from error


def _own_options(name: str, domain: object, value: object) -> tuple[str, dict[str, Any]]:
    """The source of one domain and its own options."""
    if not isinstance(domain, str) or not domain:
        raise DataError(f"domains: {domain!r} is no name for a domain; give text that is not empty")
    where = f"domains[{domain!r}]"
    if isinstance(value, str | os.PathLike):
        if "folder" not in _options_of(_source(name)):
            raise DataError(
                f"{where}: {name!r} has no option 'folder'; give a mapping of its options "
                f"{', '.join(_options_of(_source(name)))}"
            )
        value = {"folder": value}
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: {value!r}, expected a folder or a mapping of options")
    source_name = value.get("name", name)
    if "domain" not in _options_of(_source(source_name)):
        raise DataError(
            f"{where}: {source_name} makes its domains itself (it has no option `domain`); load it with "
            f"load_dataset({source_name!r})"
        )
    if "domain" in value:
        raise DataError(f"{where}: `domain` is set twice; the key {domain!r} is the domain's name")
    return source_name, {option: given for option, given in value.items() if option != "name"}


def _loaded(name: str, options: Mapping[str, Any], where: str) -> Dataset:
    source = _source(name)
    _require_options(source, options, where)
    try:
        dataset = source(**options)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:
        error.add_note(f"{where}: this came from the data source {name!r}")
        raise
    if not isinstance(dataset, Dataset):
        raise DataError(
            f"{where}: {name} returned a {type(dataset).__name__}; expected a genrec_lab.data.Dataset"
        )
    return dataset


def _options_of(source: Source) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(source).parameters


def sharable_options(source: Source) -> set[str]:
    """Return the options that several domains of a source may have in common."""
    alone = {"domain", *getattr(source, "one_domain", ())}
    named = (one for one in _options_of(source).values() if one.kind is not one.VAR_KEYWORD)
    return {one.name for one in named if one.default is not one.empty} - alone


def _require_options(source: Source, options: Mapping[str, Any], where: str) -> None:
    parameters = _options_of(source)
    known = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    if len(known) == len(parameters):
        for option in options:
            if option not in known:
                raise DataError(f"{where}: unknown option {option!r}{nearest(option, known)}")
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in options:
            several = ", or domains={...} for several domains" if name == "folder" else ""
            raise DataError(f"{where}: the option {name!r} is missing; give it{several}")
