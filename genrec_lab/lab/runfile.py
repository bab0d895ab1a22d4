"""Run files: the small YAML that holds a run's parameters, checked before anything is executed."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from genrec_lab.lab.files import RunError, run_name_problem
from genrec_lab.registry import base_folder, did_you_mean

PARAMETERS = ("run", "dataset", "preset", "overrides", "seed")  # what a notebook's parameters cell holds
GREATEST_SEED = 2**32 - 1  # what every generator in use takes
# Bounds that no honest run file comes near, and within which any file is read in a moment.
_MOST_BYTES, _MOST_LEVELS, _MOST_ALIASES, _MOST_VALUES = 64 * 1024, 20, 200, 10_000
_GREATEST_NUMBER = 2**63 - 1
_LONGEST_SHOWN = 80
_UNREADABLE = object()  # a value that YAML could not give, which is noted
_BARE_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")
_ODD_NUMBER = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9_]+(:[0-9_]+)+")


def _named(dataset: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(dataset.get("name"), str):
        raise ValueError("it lacks a name, such as {name: bazaar}")
    return dataset


def _can_name_a_run(name: str) -> str:
    if problem := run_name_problem(name):
        raise ValueError(problem)
    return name


_Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) and value else value)


class _Keys(BaseModel):
    """The keys of a run file."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    run: Annotated[str, AfterValidator(_can_name_a_run)] = Field(description="text")
    dataset: Annotated[dict[str, Any], AfterValidator(_named)] = Field(
        description="a mapping, such as {name: bazaar}"
    )
    preset: str = Field(description="text")
    overrides: dict[str, Any] = Field({}, description="a mapping, such as {tokenizer.levels: 4}")
    seed: int = Field(
        0, ge=0, le=GREATEST_SEED, description=f"a whole number from 0 to {GREATEST_SEED:,}, without quotes"
    )
    notebooks: Annotated[tuple[str, ...] | None, _Listed] = Field(
        None, description="a list of names, such as [01_data_preparation, 02]"
    )


class RunFile(_Keys):
    """The parameters of a chain: those of every notebook, and which `notebooks` to run (None: all).

    base: the folder at which relative paths begin, the run file's own.
    """

    base: Path

    def parameters(self) -> dict[str, Any]:
        """Return the values that papermill puts in a notebook's parameters cell."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def with_seed(self, seed: int) -> RunFile:
        """Return the same run under another seed, in a folder of its own; RunError for an impossible one."""
        changed = {**dict(self), "run": f"{self.run}-seed{seed}", "seed": seed}
        if problems := parameter_problems({key: changed[key] for key in _KEYS}):
            raise RunFileError(f"--seeds {seed}", problems)
        return RunFile(**changed)


Source: TypeAlias = Path | Mapping[str, Any]  # a run file, or a mapping of its keys
_KEYS = tuple(_Keys.model_fields)


class RunFileError(RunError):
    """All that is wrong with a run file: `where` it is, and its `problems`, each in a sentence."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where, self.problems = where, tuple(problems)
        one = len(self.problems) == 1
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{where}: {problems[0]}" if one else f"{where}: {len(problems)} errors:{lines}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.where, self.problems)


def read_run_file(source: Source, sets: Sequence[str] = ()) -> RunFile:
    """Read and check a run file (or a mapping of the same keys), with `key=value` settings laid over it.

    Raises RunFileError with every problem: key, value and what is allowed.
    """
    content, problems = read_content(source, sets)
    if problems:
        raise RunFileError(place_of(source), problems)
    return RunFile(**content, base=base_of(source))


def base_of(source: Source) -> Path:
    """Return the folder at which the relative paths of a run file begin: its own."""
    return base_folder() if isinstance(source, Mapping) else source.resolve().parent


def seeds_of(text: str) -> tuple[int, ...]:
    """Return the seeds of an option such as `--seeds 1,2,3`; ValueError for anything else."""
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(f"--seeds {text} is not a list of seeds; write whole numbers such as 1,2,3")
    seeds = tuple(map(int, numbers))
    if twice := [seed for place, seed in enumerate(seeds) if seed in seeds[:place]]:
        raise ValueError(f"--seeds {text} names {twice[0]} twice; leave one out")
    return seeds


def place_of(source: Source) -> str:
    """Return how messages call a run file."""
    return "the run's parameters" if isinstance(source, Mapping) else str(source)


def read_content(source: Source, sets: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return a run file's keys and values with the settings laid over, and what is wrong with them.

    A key that is not text, or whose value could not be read, is left out. Raises RunFileError if the file
    cannot be read at all.
    """
    problems: list[str] = []
    content = dict(source) if isinstance(source, Mapping) else _read_file(source, problems)
    for setting in sets:
        try:
            _apply(content, setting)
        except ValueError as error:
            problems.append(f"--set {_shown(setting)}: {error}")
    content = {key: value for key, value in content.items() if not str(key).startswith("x-")}
    problems += parameter_problems(content)
    return content, problems


def parameter_problems(content: Mapping[Any, Any]) -> list[str]:
    """Return what is wrong with the parameters of a run, each in a sentence."""
    problems = []
    try:
        _Keys(**{str(key): value for key, value in content.items()})
    except ValidationError as error:
        found = {str(entry["loc"][0]): entry for entry in reversed(error.errors())}  # the first of each key
        ordered = dict.fromkeys((*_KEYS, *map(str, content)))
        problems = [_sentence(key, found[key]) for key in ordered if key in found]
    for key in ("dataset", "overrides"):
        problems += _value_problems(key, content.get(key))
    return problems


def _spoilt(value: Any) -> bool:
    return value is _UNREADABLE or (isinstance(value, list) and any(map(_spoilt, value)))


def _sentence(key: str, error: Any) -> str:
    """Put one of pydantic's complaints in words."""
    if error["type"] == "missing":
        return f"the key {key!r} is missing; run, dataset and preset are required"
    if error["type"] == "extra_forbidden":
        return (
            f"the key {_shown(key)} is unknown{did_you_mean(key, _KEYS)}; expected {', '.join(_KEYS)}, "
            "or keys of your own that begin with x-"
        )
    value = _shown(error["input"])
    if error["type"] == "value_error":
        return f"{key} is {value}; {error['ctx']['error']}"
    return f"{key} is {value}; expected {_Keys.model_fields[key].description}"


def _value_problems(key: str, value: Any) -> Iterator[str]:
    """Give what neither papermill nor JSON can hold, and numbers that YAML reads as something else."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _value_problems(f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _value_problems(key, inner)
    elif isinstance(value, str) and _BARE_EXPONENT.fullmatch(value):
        mantissa, exponent = re.split("[eE]", value)
        sign = "" if exponent[0] in "+-" else "+"
        yield f"{key} is {value}, which YAML reads as text; as a number, write {mantissa}.0e{sign}{exponent}"
    elif isinstance(value, int) and abs(value) > _GREATEST_NUMBER:
        yield f"{key} is {_shown(value)}; expected a number of at most {_GREATEST_NUMBER:,}"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key} is {value}; expected a finite number"
    elif not (value is None or isinstance(value, str | int | float | bool)):
        yield f"{key} is {_shown(value)}, a {type(value).__name__}; put it in quotes"


def _read_file(file: Path, problems: list[str]) -> dict[Any, Any]:
    try:
        if not file.exists():
            near = did_you_mean(file.name, sorted(other.name for other in file.parent.glob("*.yaml")))
            raise ValueError(f"it does not exist{near}; check the path")
        if not file.is_file():
            raise ValueError("it is not a file; name a run file such as smoke.yaml")
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes; the limit is {_MOST_BYTES:,}, so keep data elsewhere")
        content, found = _parsed(file.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict):
            raise ValueError("it holds no keys; write at least run, dataset and preset")
    except UnicodeDecodeError as error:
        why = f"it is not valid UTF-8 at byte {error.start:,}; save it as UTF-8"
    except OSError as error:
        why = f"it cannot be read ({error.strerror}); fix that and try again"
    except ValueError as error:
        why = str(error)
    else:
        problems += found
        return content
    raise RunFileError(str(file), [why])


def _parsed(text: str) -> tuple[Any, list[str]]:
    """Return the value of a YAML text, and what is wrong inside it; ValueError if it has none."""
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except _Bound as error:
        raise ValueError(str(error)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark is not None else ""
        if "recursive" in str(error.problem):
            raise ValueError(f"{place}a value contains itself; write it out without the alias") from error
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{place}this is not valid YAML ({what}); fix it") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(f"this is not valid YAML ({' '.join(str(error).split())}); fix it") from error
    if (size := _size(value, {})) > _MOST_VALUES:
        raise ValueError(
            f"it holds {size:,} values, aliases counted in full; a run file has at most {_MOST_VALUES:,}; "
            "remove some"
        )
    return value, loader.problems


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values a nested one holds, each alias counted in full."""
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        known[id(value)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(value)]


def _apply(content: dict[Any, Any], setting: str) -> None:
    """Lay `overrides.tokenizer.levels=4` over the content; the value is read as YAML."""
    path, equals, text = setting.partition("=")
    top, _, rest = path.strip().partition(".")
    if not equals or not top:
        raise ValueError("it is not of the form key=value, such as --set overrides.tokenizer.levels=4")
    if top not in _KEYS:
        raise ValueError(f"the key {top!r} is unknown{did_you_mean(top, _KEYS)}; expected {', '.join(_KEYS)}")
    value, problems = _parsed(text)
    if problems:
        raise ValueError("; ".join(problems))
    if not rest:
        content[top] = value
        return
    if top not in ("overrides", "dataset"):
        raise ValueError(f"{top} has no parts; write --set {top}=value")
    held = content.get(top) or {}
    if not isinstance(held, Mapping):
        return  # what it is instead is refused by itself
    content[top] = {**held, rest: value} if top == "overrides" else _with_value(held, rest.split("."), value)


def _with_value(content: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**content, path[0]: value}
    inner = content.get(path[0], {})
    if not isinstance(inner, Mapping):
        raise ValueError(f"{path[0]} is {_shown(inner)}, which has no part {'.'.join(path[1:])!r}")
    return {**content, path[0]: _with_value(inner, path[1:], value)}


def _shown(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, int) and abs(value) > 10**_LONGEST_SHOWN:
        return f"a number of more than {_LONGEST_SHOWN} digits"
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


class _Bound(yaml.YAMLError):
    """A YAML text that goes past one of the bounds."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with bounds; it refuses repeated keys, where YAML would silently keep the last.

    `problems` collects what is wrong with single keys and values, to report all of it at once.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[str] = []
        self.deep_construct = True  # so that a value that holds itself is noticed
        self._level = 0
        self._aliases = 0

    def get_single_data(self) -> Any:
        """Return the value of the only document."""
        node = self.get_single_node()
        return None if node is None else self.construct_object(node, deep=True)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node; refuses nesting that is too deep and too many aliases."""
        self._aliases += self.check_event(yaml.AliasEvent)
        self._level += 1
        line = f"line {self.peek_event().start_mark.line + 1}"
        if self._level > _MOST_LEVELS:
            raise _Bound(f"{line}: values are nested more than {_MOST_LEVELS} levels deep; nest them less")
        if self._aliases > _MOST_ALIASES:
            raise _Bound(f"{line}: there are more than {_MOST_ALIASES} aliases; write the values out")
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a node's value, or _UNREADABLE where it has none."""
        try:
            if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:int":
                if len(node.value) > _LONGEST_SHOWN:
                    raise ValueError(f"it has {len(node.value):,} digits; write a smaller number")
                if _ODD_NUMBER.fullmatch(node.value):
                    read = super().construct_object(node)
                    raise ValueError(f"YAML reads it as {read}; write that number, or put it in quotes")
            return super().construct_object(node, deep=True)
        except ValueError as error:  # also a day that no month has
            self._note(node, f"{_shown(node.value)} cannot be used: {error}")
            return _UNREADABLE

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping; keys that are repeated, or no text, or have no value, are noted and left out."""
        kept, seen = [], set()
        for key_node, value_node in node.value:
            is_merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = None if is_merge else self.construct_object(key_node)
            if not is_merge and not isinstance(key, str):
                self._note(key_node, f"the key {_shown(key)} is not text; write text, in quotes")
            elif not is_merge and key in seen:
                self._note(key_node, f"the key {_shown(key)} is given twice; leave one out")
            elif is_merge or not _spoilt(self.construct_object(value_node)):
                seen.add(key)
                kept.append((key_node, value_node))
        node.value = kept
        self.flatten_mapping(node)
        if len(node.value) > _MOST_VALUES:
            raise _Bound(f"line {node.start_mark.line + 1}: merges of too many keys; write them out")
        return super().construct_mapping(node, deep=True)

    def _note(self, node: yaml.Node, problem: str) -> None:
        self.problems.append(f"line {node.start_mark.line + 1}: {problem}")
