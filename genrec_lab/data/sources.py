"""Data sources: an open registry of functions that return a Dataset, and `load_dataset`, which calls them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import polars as pl

from genrec_lab.data.dataset import Dataset
from genrec_lab.data.preparation import CHOICES, choice_problems, with_choices
from genrec_lab.data.rules import DataError, nearest, noted
from genrec_lab.registry import Registry, RegistryError

Source = Callable[..., Dataset]
_Source = TypeVar("_Source", bound=Source)

# A source is a function of its options. With an option `domain`, it reads one domain, and `load_dataset` can
# call it for several; without, it creates its domains itself.
SOURCES: Registry[Source] = Registry(
    "dataset",
    declared={
        "bazaar": "genrec_lab.bazaar:make_bazaar",
        "lcrec": "genrec_lab.data.research_files:read_lcrec",
        "recbole": "genrec_lab.data.research_files:read_recbole",
        "movielens": "genrec_lab.data.research_files:read_movielens",
        "frames": "genrec_lab.data.frames:read_frames",
        "splits": "genrec_lab.data.given_splits:read_splits",
        "sequences": "genrec_lab.data.given_splits:read_sequences",
        "amazon2014": "genrec_lab.data.amazon:read_amazon2014",
        "amazon2018": "genrec_lab.data.amazon:read_amazon2018",
        "amazon2023": "genrec_lab.data.amazon:read_amazon2023",
        "halves": "genrec_lab.data.sources:read_halves",
    },
)


def register_source(name: str) -> Callable[[_Source], _Source]:
    """Register the decorated function as a data source, which takes keyword options and returns a Dataset.

    With an option `domain`, the name of its only domain, it can be one of several `domains`.

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
    """Declare which options of the decorated source belong to one domain and cannot be shared by several.

    Those without a default, and `domain`, never can.
    """

    def mark(source: _Source) -> _Source:
        source.__dict__["one_domain"] = options
        return source

    return mark


def finds(files: Callable[[Mapping[str, Any]], object]) -> Callable[[_Source], _Source]:
    """Declare how the decorated source finds its files: a function of its options that reads nothing.

    Its result holds their paths. It raises DataError if one is missing, so that a run file is rejected before
    a kernel starts.
    """

    def mark(source: _Source) -> _Source:
        source.__dict__["files"] = files
        return source

    return mark


def datasets() -> tuple[str, ...]:
    """Return the names that `load_dataset` accepts."""
    return SOURCES.names()


def load_dataset(name: str, **options: Any) -> Dataset:
    """Load the Dataset of a source with its options.

    `name` is a registered source ("bazaar", "lcrec", "recbole", "movielens", "frames", "splits",
    "sequences", "amazon2014", "amazon2018", "amazon2023", "halves" and those of `register_source`), or a
    function that returns a Dataset: `package.module:function`, or `file.py:function`.

    Several domains at once, of one source or of several: `domains={"Scientific": folder, "Movies": {"name":
    "frames", "interactions": ..., "items": ...}}`. A value is a folder, or a mapping of options that may name
    another source; options next to `domains` apply to every domain whose source accepts them, unless its own
    mapping overrides them. Paths may hold `${VAR}`, which is read from the environment; relative ones start
    at `genrec_lab.registry.base_folder()`. Every source also has `ties` ("file order", the default, "item
    key", or "seeded", by `ties_seed`), which orders a user's interactions of equal times, and `split`, see
    `genrec_lab.data.preparation.with_choices`. Raises DataError for an unknown name or option, naming the
    nearest, for a result that is not a Dataset, and for errors of the sources.

    >>> data = load_dataset("bazaar", items=300, users=300, domains=["Garden"])
    >>> data.n_items, data.n_users
    (300, 300)
    """
    problems = list(choice_problems(options))
    parts = parts_of({"name": name, **options}, problems)
    if problems:
        raise DataError("; ".join(problems))
    loaded = [_loaded(part) for part in parts]
    return with_choices(Dataset.concat(loaded) if len(loaded) > 1 else loaded[0], options)


class Part(NamedTuple):
    """One domain of a dataset, or all of it: its name in messages, and its source with options."""

    where: str
    name: str
    source: Source
    options: dict[str, Any]

    @property
    def takes(self) -> dict[str, inspect.Parameter]:
        """The named options in the signature of the source's function."""
        try:
            signature = inspect.signature(self.source, eval_str=True)
        except NameError:  # a source from outside the package with unreadable annotations
            signature = inspect.signature(self.source)
        named = signature.parameters.values()
        return {one.name: one for one in named if one.kind is not one.VAR_KEYWORD}

    @property
    def sharable(self) -> set[str]:
        """The options that several domains of the source may share."""
        alone = {"domain", *getattr(self.source, "one_domain", ())}
        return {one.name for one in self.takes.values() if one.default is not one.empty} - alone


def parts_of(dataset: Mapping[str, Any], problems: list[str]) -> list[Part]:
    """Return the sources of a dataset, given by `name` and options, each with its own options.

    Adds to `problems` a sentence for each invalid name of a source, domain or option.
    """
    name = dataset["name"]
    options = {key: value for key, value in dataset.items() if key not in ("name", *CHOICES)}
    with noted(problems):
        whole = _part("dataset", name, options)
        if "domains" not in options or "domains" in whole.takes:
            _note_options(whole, problems)
            return [whole]
        domains = options.pop("domains")
        if not isinstance(domains, Mapping) or not domains:
            raise DataError(
                f"dataset.domains is {domains!r}; expected at least one domain, such as {{Books: folder}}"
            )
        return _parts_of_domains(name, domains, options, problems)
    return []


def _parts_of_domains(
    name: object, domains: Mapping[Any, Any], options: dict[str, Any], problems: list[str]
) -> list[Part]:
    parts = list[Part]()
    for domain, value in domains.items():
        with noted(problems):
            parts.append(_own_part(name, domain, value))
    known = set().union(*(part.sharable for part in parts))
    for option in options if len(parts) == len(domains) else ():
        if option not in known:
            problems.append(
                f"dataset.{option} is not an option of these domains{nearest(option, sorted(known))}"
            )
    for part in parts:
        inherited = part.sharable & set(options) - set(part.options)
        part.options.update({option: options[option] for option in inherited})
        _note_options(part, problems)
    return parts


def _part(where: str, name: object, options: dict[str, Any]) -> Part:
    try:
        return Part(where, str(name), SOURCES.find(str(name)), options)
    except RegistryError as error:
        known = f"{where}.name is {name!r}{nearest(str(name), datasets())}, or package.module:function"
        raise DataError(f"{where}.name: {error}" if ":" in str(name) else known) from error


def _own_part(name: object, domain: object, value: object) -> Part:
    """Return one of several domains, with the options of its value."""
    where = f"dataset.domains.{domain}"
    if not isinstance(domain, str) or not domain:
        raise DataError(
            f"dataset.domains: {domain!r} is not a name for a domain; give text that is not empty"
        )
    given = {"folder": value} if isinstance(value, str | os.PathLike) else value
    if not isinstance(given, Mapping):
        raise DataError(f"{where} is {value!r}; expected a folder or a mapping of options")
    own = {option: one for option, one in given.items() if option != "name"}
    part = _part(where, given.get("name", name), {**own, "domain": domain})
    if "domain" in own:
        raise DataError(
            f"{where}.domain is {own['domain']!r}, but the domain's name is already its key; leave `domain` "
            "out"
        )
    if "domain" not in part.takes:
        raise DataError(
            f"{where}: {part.name} makes its domains itself (it has no option `domain`); load it alone"
        )
    if given is not value and "folder" not in part.takes:
        raise DataError(
            f"{where} is {value!r}, but {part.name} takes no folder; give a mapping of its options "
            f"{', '.join(part.takes)}"
        )
    return part


def _note_options(part: Part, problems: list[str]) -> None:
    """Add unknown and missing options to the problems."""
    where, takes = part.where, part.takes
    checked = getattr(part.source, "options", None)  # a class that defines the options in **
    known = dict.fromkeys([*takes, *(inspect.signature(checked).parameters if checked else ())])
    if checked or len(takes) == len(inspect.signature(part.source).parameters):
        for option in part.options:
            if option not in known:
                problems.append(f"{where}.{option} is unknown{nearest(option, known)}")
    for option, parameter in takes.items():
        if parameter.default is parameter.empty and option not in part.options:
            several = ", or domains: {...} for several domains" if option == "folder" else ""
            problems.append(f"{where} lacks {option}, which {part.name} needs; add {option}: ...{several}")


def _loaded(part: Part) -> Dataset:
    try:
        dataset = part.source(**part.options)
    except DataError as error:
        raise DataError(f"{part.where}: {error}") from error
    except Exception as error:
        error.add_note(f"{part.where}: this came from the data source {part.name!r}")
        raise
    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        raise DataError(f"{part.where}: {part.name} returned a {kind}; expected a genrec_lab.data.Dataset")
    return dataset


# --- a control with a known answer

HALVES = ("A", "B")


def read_halves(of: Mapping[str, Any], *, seed: int = 0) -> Dataset:
    """Return each domain of another dataset twice, each with a random half of its users.

    `of` holds a dataset's name and options, as in `load_dataset`. Its domain Garden becomes "Garden A" and
    "Garden B", with the same items and texts. What a method learns in one half is valid in the other, so a
    method that shares between domains must beat the same method on one half; otherwise its sharing does not
    work. A split of `of` and its times are kept. Raises DataError if `of` has no name, and for a domain with
    fewer than two users.

        >>> load_dataset("halves", of={"name": "bazaar", "domains": ["Garden"]}).domains
        ('Garden A', 'Garden B')
    """
    if not isinstance(of.get("name"), str):
        raise DataError(f"halves: of is {dict(of)}, which has no name; write, for example, {{name: bazaar}}")
    whole, parts = load_dataset(**of), list[Dataset]()
    rng = np.random.default_rng(seed)
    for domain in whole.domains:
        shop = whole.select(domain)
        if shop.n_users < len(HALVES):
            raise DataError(f"halves: {domain} has {shop.n_users} users; expected two or more")
        for half, users in zip(HALVES, np.array_split(rng.permutation(shop.n_users), 2), strict=True):
            drawn, name = shop.of_users(np.sort(users)), pl.lit(f"{domain} {half}").alias("domain")
            items, sequences = drawn.items.with_columns(name), drawn.sequences.with_columns(name)
            parts.append(replace(drawn, items=items, sequences=sequences))
    halves = Dataset.concat(parts, f"{whole.name} in halves")
    return replace(halves, repairs=whole.repairs, sources=whole.sources, dropped=whole.dropped)
