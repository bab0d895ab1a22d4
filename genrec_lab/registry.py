"""Registries: components that a run file names, ours and yours found in the same way.

A tokenizer, recommender, encoder, conflict policy, data source, metric, figure or explorer view is found by
the name under which it was registered, or by its place: `package.module:Class`, or `file.py:Class` with a
path relative to the run file. This package declares its own names as texts, so that nothing is imported
before it is needed.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

T = TypeVar("T")
_Registered = TypeVar("_Registered")

_PLACE = re.compile(r"(?P<module>[^:]+):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
# Where relative paths of the run file begin; None: the working directory. Threads share it.
_base: Path | None = None


class ComponentConfig(BaseModel):
    """The settings of a component; `kind` is the name or the place by which a run file names its class."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: str = ""


class RegistryError(ValueError):
    """A name that is not registered, or a place at which there is no such component."""


class Registry(Generic[T]):
    """Components of one kind by name.

    noun: what one of them is called in messages, as "tokenizer". required: attributes that each must have.

        >>> metrics = Registry("metric")
        >>> @metrics.register("always_one")
        ... def always_one(ranked, targets):
        ...     return 1.0
        >>> metrics.find("always_one")(None, None)
        1.0
    """

    def __init__(
        self, noun: str, *, required: Iterable[str] = (), declared: Mapping[str, str] | None = None
    ) -> None:
        self.noun, self._one = noun, f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
        self.required = tuple(required)
        self._declared = dict(declared or {})
        self._components: dict[str, T] = {}

    def register(self, name: str) -> Callable[[_Registered], _Registered]:
        """Register the decorated class or function under a name.

        Raises RegistryError where another component has the name, or the component lacks what is required.
        """
        if not name or ":" in name:
            raise RegistryError(f"{self._one} cannot be called {name!r}; use text without a colon")

        def keep(component: _Registered) -> _Registered:
            taken = self._components.get(name)
            if name in self._declared or (taken is not None and _place(taken) != _place(component)):
                raise RegistryError(
                    f"the {self.noun} {name!r} exists twice: {self._declared.get(name) or _place(taken)} and "
                    f"{_place(component)}; give one of them another name"
                )
            self._components[name] = self._checked(component, name)
            return component

        return keep

    def names(self) -> tuple[str, ...]:
        """Return the registered names, this package's first."""
        return (*self._declared, *(name for name in self._components if name not in self._declared))

    def find(self, name: str) -> T:
        """Return the component of a name, or the one at `package.module:Class` or `file.py:Class`.

        Raises RegistryError for an unknown name, naming the nearest, and for a module that fails on import.
        """
        if not isinstance(name, str):
            raise RegistryError(f"{self.noun}: {name!r} is a {type(name).__name__}; expected text")
        if name in self._components:
            return self._components[name]
        place = self._declared.get(name, name)
        if ":" not in place:
            raise RegistryError(
                f"there is no {self.noun} {name!r}{did_you_mean(name, self.names())}; expected one of "
                f"{', '.join(self.names())}, or package.module:Class"
            )
        component = self._checked(_imported(place, self.noun), name)
        if name in self._declared:
            self._components[name] = component
        return component

    def __contains__(self, name: object) -> bool:
        return name in self._components or name in self._declared

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _checked(self, component: Any, name: str) -> T:
        lacking = [attribute for attribute in self.required if not hasattr(component, attribute)]
        if lacking:
            raise RegistryError(
                f"{self.noun} {name!r}: {_place(component)} lacks {', '.join(lacking)}; {self._one} has "
                f"{', '.join(self.required)}"
            )
        return component


def component_config(registry: Registry[Any], given: Any) -> ComponentConfig:
    """Return the config that a run file gives a component: the class's own `Config`, with its `kind`.

    given: such a config, or a mapping with `kind` and the settings of `Config`. A `Config` without a field
    `kind` gets one. Raises RegistryError where there is no such component or its `Config` is no pydantic
    model, ValidationError where the `Config` refuses a setting; both name a class of yours.
    """
    settings: Any = given.model_dump() if isinstance(given, ComponentConfig) else given
    if not isinstance(settings, Mapping):
        raise RegistryError(
            f"{given!r} is a {type(given).__name__}; expected `kind`, the name of the {registry.noun}, and "
            "its settings"
        )
    if not settings.get("kind"):
        raise RegistryError(
            f"kind is missing; expected one of {', '.join(registry.names())}, or package.module:Class"
        )
    component, config = registry.find(settings["kind"]), config_class(registry, settings["kind"])
    if isinstance(given, config):
        return given
    try:
        # By JSON, whose lists are tuples where a field asks for them, whatever else is strict.
        return config.model_validate_json(pydantic_core.to_json(dict(settings), inf_nan_mode="constants"))
    except ValidationError as error:
        if component.__module__.startswith("genrec_lab."):
            raise
        raise _naming(component, error) from None


def config_class(registry: Registry[Any], kind: str) -> type[ComponentConfig]:
    """Return the `Config` of a component, with a field `kind` also where its own has none.

    Raises RegistryError where there is no such component, or its `Config` is no pydantic model.
    """
    component = registry.find(kind)
    config = component.Config
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise RegistryError(
            f"{registry.noun} {kind!r}: {_place(component)}.Config is {config!r}; expected a class of "
            "pydantic's BaseModel, or of genrec_lab.registry.ComponentConfig"
        )
    return with_kind(config)


@functools.cache
def with_kind(config: type[BaseModel]) -> type[ComponentConfig]:
    """Return a component's `Config`, with a field `kind` also where it has none of its own."""
    if issubclass(config, ComponentConfig):
        return config
    bases: Any = (config, ComponentConfig)
    return create_model(config.__name__, __base__=bases, __module__=config.__module__)


def _naming(component: Any, error: ValidationError) -> ValidationError:
    """Return the error with the component's class in each of its messages."""
    message, place = "{message} (Config of {place})", _place(component)
    found = [
        InitErrorDetails(
            type=PydanticCustomError("component", message, {"message": one["msg"], "place": place}),
            loc=one["loc"],
            input=one["input"],
        )
        for one in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, found)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the part of a message that names the nearest of the known names; empty where none is near.

    Upper and lower case count as equal.

    >>> did_you_mean("sasrek", ["sasrec", "hgn"])
    " (did you mean 'sasrec'?)"
    """
    by_lower = {str(one).lower(): str(one) for one in known}
    close = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.5)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


@contextmanager
def relative_to(folder: Path | None) -> Iterator[None]:
    """While the block lasts, relative paths of a run file begin at this folder."""
    former = _base
    set_base_folder(folder)
    try:
        yield
    finally:
        set_base_folder(former)


def set_base_folder(folder: Path | None) -> None:
    """Let relative paths begin at this folder from now on; None stands for the working directory."""
    global _base
    _base = folder


def base_folder() -> Path:
    """Return the folder at which relative paths of a run file begin, by default the working directory."""
    return _base or Path.cwd()


def _imported(place: str, noun: str) -> Any:
    found = _PLACE.fullmatch(place)
    if found is None:
        raise RegistryError(
            f"{noun}: {place!r} names no place; write package.module:Class or file.py:Class, such as "
            "'my_methods.py:MyTokenizer'"
        )
    module_name, name = found["module"], found["name"]
    imported = _of_file if module_name.endswith(".py") else importlib.import_module
    try:
        module = imported(module_name)
    except RegistryError:
        raise
    except Exception as error:
        raise RegistryError(
            f"{noun} {place!r}: {module_name} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if not hasattr(module, name):
        public = [one for one in vars(module) if not one.startswith("_")]
        raise RegistryError(f"{noun} {place!r}: {module_name} has no {name}{did_you_mean(name, public)}")
    return getattr(module, name)


def _of_file(written: str) -> ModuleType:
    """Import a file by its path, once for each content."""
    path = Path(os.path.expandvars(written)).expanduser()
    file = path if path.is_absolute() else base_folder() / path
    if not file.is_file():
        raise RegistryError(f"there is no file {written} in {base_folder()}")
    file = file.resolve()
    content = file.read_bytes()
    stem = re.sub(r"\W", "_", file.stem)
    name = f"genrec_file_{stem}_{hashlib.sha256(str(file).encode() + content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise RegistryError(f"{written} cannot be read as a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Not by the loader, which takes bytecode of a file that had the same size in the same second.
        exec(compile(content, file, "exec"), vars(module))  # noqa: S102 - the user's own file
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(component: Any) -> str:
    return f"{getattr(component, '__module__', '?')}:{getattr(component, '__qualname__', component)}"
