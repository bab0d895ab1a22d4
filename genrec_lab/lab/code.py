"""The code that a result depends on: every definition that a function or class can reach, as a digest.

The search starts at a task's function and at the component classes that were looked up for it, and follows
names through this package and through strangers' files, definition by definition. Comments, docstrings,
annotations of functions and layout do not count. Registries are not followed: their entries are looked up by
name, and what was looked up is given as a root of its own. Where a name cannot be resolved, the whole module
counts: making too much again is allowed, making too little never.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from genrec_lab.data.whole_files import whole_file
from genrec_lab.lab.files import RunError

PACKAGE = "genrec_lab"
_STRANGER = "genrec_file_"  # modules that the registry imported from a file's path
_WHOLE = "*"  # a whole module instead of one of its definitions
_EFFECTS = "<module>"  # statements of a module that define no name
_SHORT = 12
_PROCESS_STARTED = time.time()
_OWN_SOURCE = Path(__file__).read_bytes()
# Fields of syntax trees that hold no meaning, or that not every Python version has.
_MEANINGLESS = {"ctx", "type_comment", "kind", "type_ignores"}
_ANNOTATIONS = {ast.FunctionDef: "returns", ast.AsyncFunctionDef: "returns", ast.arg: "annotation"}


@dataclass(frozen=True)
class Code:
    """What a result's code is. digest: of all; functions: the digest of each definition by its name."""

    digest: str
    functions: dict[str, str]


def code_of(*roots: Any) -> Code:
    """Return the digest of all code that functions and classes can reach.

    Raises RunError if a file was changed after this process had loaded it: its digest would be that of
    code which does not run here.
    """
    known = _codes.get(roots)
    if known is not None and all(_stamp(file) == stamp for file, stamp in known[0].items()):
        return known[1]
    reached: dict[str, str] = {}
    waiting: list[_Place] = []
    _looked_at.clear()
    for given in roots:
        root: Any = getattr(given, "func", given)  # of a partial, its function
        if root.__module__ == "__main__":
            waiting.extend(_of_cell(root, reached))
        else:
            waiting.append(_Place(root.__module__, root.__qualname__.partition(".")[0]))
            _followed.add(root.__module__.partition(".")[0])
    _follow(waiting, reached)
    code = _code(reached)
    if not any(getattr(root, "__module__", "") == "__main__" for root in roots):
        _codes[roots] = {_modules[name].file: _modules[name].stamp for name in _looked_at}, code
    return code


def code_of_source(source: str) -> Code:
    """Return the digest of a notebook's code cells, joined, and of all code that they can reach."""
    tree = ast.parse(source)
    _looked_at.clear()
    notebook = _Definitions.of_tree(tree, "__notebook__", is_package=False)
    reached = {"__notebook__": _digest("".join(_written(node) for node in tree.body))}
    waiting = [place for name in notebook.parts if name != _WHOLE for place in notebook.used_by(name)]
    _follow(waiting, reached)
    return _code(reached)


def _of_cell(root: Any, reached: dict[str, str]) -> list[_Place]:
    """What a class or function that was written in a notebook uses; its own digest is put into `reached`."""
    name = f"__main__.{root.__qualname__}"
    if name in reached:
        return []
    tree = ast.parse(textwrap.dedent(inspect.getsource(root)))
    reached[name] = _digest("".join(map(_written, tree.body)))
    known = vars(sys.modules["__main__"])
    found: list[_Place] = []
    for chain in (chain for node in tree.body for chain in _chains(node)):
        value: Any = known.get(chain[0])
        place = _origin(value)
        if place is not None and place.module == "__main__":
            found.extend(_of_cell(value, reached))
        elif place is not None:
            found.append(_Place(place.module, chain[1]) if place.name == _WHOLE and chain[1:] else place)
        elif isinstance(value, str | int | float | bool | tuple):
            reached[f"__main__.{chain[0]}"] = _digest(repr(value))
    return found


def _code(reached: dict[str, str]) -> Code:
    functions = dict(sorted(reached.items()))
    return Code(_digest("\n".join(f"{name} {digest}" for name, digest in functions.items())), functions)


class _Place(NamedTuple):
    """A definition: its module and its name in there."""

    module: str
    name: str


def _follow(waiting: list[_Place], reached: dict[str, str]) -> None:
    seen: set[_Place] = set()
    while waiting:
        place = waiting.pop()
        if place in seen or not _is_followed(place.module):
            continue
        seen.add(place)
        found = _resolved(place)
        if found is None:
            continue
        if found != place:
            waiting.append(found)
            continue
        module = _module(place.module)
        if _EFFECTS in module.parts:
            waiting.append(_Place(place.module, _EFFECTS))
        if digest := module.parts[place.name].digest:
            reached[f"{_shown(place.module)}.{place.name}"] = digest
        waiting.extend(module.used_by(place.name))


def _resolved(place: _Place) -> _Place | None:
    """Where a name is defined; None if that is outside of what is followed."""
    if _file_of(place.module) is None:  # nothing that could run
        return None
    module = _module(place.module)
    if place.name in module.parts:
        return place
    if place.name in module.imports:
        target = module.imports[place.name]
        return target if _is_followed(target.module) else None
    if _file_of(f"{place.module}.{place.name}") is not None:
        return _Place(f"{place.module}.{place.name}", _WHOLE)
    # a module's __getattr__ may give it
    loaded: Any = getattr(importlib.import_module(place.module), place.name, None)
    found = _origin(loaded)
    return found if found is not None and found.module != place.module else _Place(place.module, _WHOLE)


def _origin(value: Any) -> _Place | None:
    """Where a function, class or module is defined; None for other values."""
    if isinstance(value, ModuleType):
        return _Place(value.__name__, _WHOLE)
    if hasattr(value, "__qualname__") and isinstance(getattr(value, "__module__", None), str):
        return _Place(value.__module__, value.__qualname__.partition(".")[0])
    return None


# They decide whether and where a task runs, and never what it computes.
_NOT_FOLLOWED = {
    f"{PACKAGE}.lab.{name}"
    for name in ("code", "folders", "making", "processes", "provenance", "store", "tasks")
}
# Top-level packages whose code counts: this one, and those of classes that were given as roots.
_followed = {PACKAGE}


def _is_followed(module: str) -> bool:
    return module.partition(".")[0] in _followed and module not in _NOT_FOLLOWED


def _shown(module: str) -> str:
    """A module's name as digests know it: a stranger's file without the digest in its name."""
    return module.rpartition("_")[0] if module.startswith(_STRANGER) else module


@functools.cache
def _file_of(module: str) -> Path | None:
    if module.partition(".")[0] != PACKAGE:
        loaded = sys.modules.get(module)
        file = getattr(loaded, "__file__", None)
        return Path(file) if file is not None and file.endswith(".py") else None
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


class _Part(NamedTuple):
    """A definition's digest, empty for a registry, and what it uses: module, name in it, and attributes."""

    digest: str
    uses: list[list[str]]


@dataclass
class _Definitions:
    """What a module imports, and its parts: each definition, all of them, and the other statements."""

    imports: dict[str, _Place]
    parts: dict[str, _Part]

    @classmethod
    def of_tree(cls, tree: ast.Module, name: str, *, is_package: bool) -> _Definitions:
        package = name.split(".") if is_package else name.split(".")[:-1]
        imports: dict[str, _Place] = {}
        found: dict[str, list[ast.stmt]] = {}
        for statement in tree.body:
            if isinstance(statement, ast.If) and {"TYPE_CHECKING", "__name__"} & _names(statement.test):
                continue
            bound = _bound(statement)
            if isinstance(statement, ast.Import | ast.ImportFrom | ast.If | ast.Try | ast.With):
                imports |= dict(_imported(statement, package))
            silent = ast.Import | ast.ImportFrom | ast.Pass
            if any(not (_bound(s) or _is_docstring(s) or isinstance(s, silent)) for s in _simple(statement)):
                bound = bound | {_EFFECTS}
            for one in bound:
                found.setdefault(one, []).append(statement)
        own = {one: _Place(name, one) for one in found}
        everything = [node for one, nodes in found.items() if one != _EFFECTS for node in nodes]
        parts = {
            one: _part(nodes, {**own, **imports}, package)
            for one, nodes in {**found, _WHOLE: everything}.items()
        }
        return cls(imports, parts)

    def used_by(self, name: str) -> Iterator[_Place]:
        """The definitions that a part names, those of other modules through what is imported."""
        for module, first, *rest in self.parts[name].uses:
            yield from _through(_Place(module, first), rest)


def _part(nodes: list[ast.stmt], known: Mapping[str, _Place], package: list[str]) -> _Part:
    text = "".join(map(_written, nodes))
    if not text or all(map(_is_registry, nodes)):
        return _Part("", [])
    uses: set[tuple[str, ...]] = set()
    for node in nodes:
        here = {**known, **dict(_imported(node, package))}
        for first, *rest in _chains(node):
            if first in here:
                uses.add((here[first].module, here[first].name, *rest))
    return _Part(_digest(text), sorted(map(list, uses)))


def _through(target: _Place, rest: Sequence[str]) -> Iterator[_Place]:
    """A name's definition behind an import: `processes.total` is `total` in the module `processes`."""
    if not _is_followed(target.module):
        return
    module = target.module if target.name == _WHOLE else f"{target.module}.{target.name}"
    is_module = target.name == _WHOLE or (
        _file_of(module) is not None and target.name not in _module(target.module).parts
    )
    if not is_module:
        yield target
    elif rest:
        yield from _through(_Place(module, rest[0]), rest[1:])
    else:
        yield _Place(module, _WHOLE)


def _imported(node: ast.AST, package: list[str]) -> Iterator[tuple[str, _Place]]:
    """The names that imports in a statement bind, and what they stand for."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            for alias in part.names:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, _Place(alias.name if alias.asname else top, _WHOLE)
        elif isinstance(part, ast.ImportFrom):
            kept = package[: len(package) - part.level + 1] if part.level else []
            module = ".".join([*kept, *([part.module] if part.module else [])])
            for alias in part.names:
                yield alias.asname or alias.name, _Place(module, _WHOLE if alias.name == "*" else alias.name)


class _Module(NamedTuple):
    """A module as it was read; stamp is its size and time."""

    file: Path
    stamp: tuple[int, int]
    definitions: _Definitions


_modules: dict[str, _Module] = {}
_looked_at: set[str] = set()  # modules whose files were looked at since a search began
_codes: dict[tuple[Any, ...], tuple[dict[Path, tuple[int, int]], Code]] = {}


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _module(name: str) -> _Definitions:
    known = _modules.get(name)
    if known is not None and name in _looked_at:
        return known.definitions
    file = _file_of(name)
    if file is None:
        raise RunError(f"The source of the module {name} cannot be found, so its results have no key.")
    _looked_at.add(name)
    stamp = _stamp(file)
    if known is not None and known.stamp == stamp:
        return known.definitions
    definitions = _read(file, name)
    if known is None:
        changed = _is_newer_than_loaded(name, stamp[0] / 1e9)
    else:
        changed = known.definitions != definitions
    if changed:
        raise RunError(
            f"{file.name} was changed after this kernel had loaded it, so what it computes would be recorded "
            "under code that did not run. Restart the kernel and run the notebook from its start."
        )
    _modules[name] = _Module(file, stamp, definitions)
    return definitions


def _read(file: Path, name: str) -> _Definitions:
    """Read a module's definitions, those of this package from beside its bytecode if they were kept there.

    Each process needs about a hundred modules, and to parse them would take it seconds.
    """
    source, ours = file.read_bytes(), name.partition(".")[0] == PACKAGE
    of = hashlib.sha256(b"\0".join([name.encode(), _OWN_SOURCE, source])).hexdigest()
    kept = Path(importlib.util.cache_from_source(str(file))).with_suffix(".definitions")
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # absent, or cut off
        content = json.loads(kept.read_bytes()) if ours else {}
        if content["of"] == of:
            places = {one: _Place(*place) for one, place in content["imports"].items()}
            return _Definitions(places, {one: _Part(*part) for one, part in content["parts"].items()})
    found = _Definitions.of_tree(ast.parse(source), name, is_package=file.name == "__init__.py")
    if ours and not sys.dont_write_bytecode:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(exist_ok=True)
            with whole_file(kept, several_writers=True) as partial:
                partial.write_text(json.dumps({"of": of, "imports": found.imports, "parts": found.parts}))
    return found


def _is_newer_than_loaded(name: str, changed_at: float) -> bool:
    # a file from the future says that the clock was set back, not that somebody edited it
    if name.startswith(_STRANGER) or name not in sys.modules or changed_at > time.time():
        return False
    return changed_at > _PROCESS_STARTED


def _chains(node: ast.AST, in_function: bool = False) -> Iterator[tuple[str, ...]]:
    """Names that a statement reads, with the attributes behind them: `processes.total` is one chain.

    Annotations of functions and of their local variables are left out; those of fields count.
    """
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = node.args
        before = (*node.decorator_list, *arguments.defaults, *filter(None, arguments.kw_defaults))
        children, in_function = (*before, *node.body), True
    elif isinstance(node, ast.AnnAssign) and in_function:
        children = (node.target, *([node.value] if node.value is not None else []))
    elif isinstance(node, ast.Name):
        yield (node.id,)
    elif isinstance(node, ast.Attribute):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield (inner.id, *reversed(parts))
            return
        children = (inner,)
    for child in children:
        yield from _chains(child, in_function)


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement defines or changes."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.If | ast.Try | ast.With):
        return {name for part in _simple(statement) for name in _bound(part)}
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    found: set[str] = set()
    for target in targets:
        # KINDS["x"] = … and model.options |= … change what stands behind the first name
        while isinstance(target, ast.Subscript | ast.Attribute):
            target = target.value
        found |= _names(target)
    return found


def _simple(statement: ast.stmt) -> Iterator[ast.stmt]:
    """A statement, or those inside of it where it is an `if`, `try` or `with`."""
    if not isinstance(statement, ast.If | ast.Try | ast.With):
        yield statement
        return
    for part in ast.iter_child_nodes(statement):
        for inner in part.body if isinstance(part, ast.ExceptHandler) else [part]:
            if isinstance(inner, ast.stmt):
                yield from _simple(inner)


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _is_registry(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
    return isinstance(value, ast.Call) and "Registry" in _names(value.func)


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _written(node: Any) -> str:
    """A syntax tree as text without docstrings, annotations of functions and positions.

    `ast.dump` differs between Python versions, so this is ours: what is empty is left out.
    """
    if isinstance(node, list):
        return f"[{''.join(_written(part) for part in node)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.stmt) and _is_docstring(node):
        return ""
    annotation = _ANNOTATIONS.get(type(node))
    parts = [
        f"{name}={_written(value)}"
        for name, value in ast.iter_fields(node)
        if name not in _MEANINGLESS and name != annotation and value is not None and value != []
    ]
    # a constant None is a value, not an absent field
    if isinstance(node, ast.Constant) and node.value is None:
        parts = ["value=None"]
    return f"{type(node).__name__}({','.join(parts)})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT]
