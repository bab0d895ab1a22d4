"""What can be made: a task, what its function works with, and the state of its result.

A `Task` says which function makes a result, from which settings and which other results. Its key is a hash of
those settings, of the digests of those results, and of all code that the function can reach. A result whose
record has the key of its task, and whose files are what was recorded, is kept; any other one is made again.
Nothing is declared by hand: a function is given what its key is made of, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from genrec_lab.lab.code import code_of
from genrec_lab.lab.files import as_json, hash_json
from genrec_lab.lab.folders import runs_root
from genrec_lab.lab.results import BESIDE, SCHEMA, Record

if TYPE_CHECKING:
    from genrec_lab.lab.making import Results


@dataclass(frozen=True, eq=False)
class Task:
    """How a result is made.

    stage: the notebook that makes it. name: its folder below the stage's. function: is called with the
    `Work`, with `given`, and with the folders of `inputs`, each a task or a mapping of tasks. components:
    classes and functions that the function looks up in registries; their code counts. row, scope: for people.
    of: the run that the task belongs to, if it is not the one that asks.
    """

    stage: str
    name: str
    function: Callable[..., None]
    given: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    components: tuple[Any, ...] = ()
    row: str = ""
    scope: str = ""
    of: Results | None = None

    @property
    def place(self) -> str:
        """Where in the run's folder the result is."""
        return f"{self.stage}/{self.name}"

    @property
    def identity(self) -> str:
        """Its place, with the name of its run if that is another one."""
        return self.place if self.of is None else f"{self.of.folder.name}:{self.place}"

    @property
    def title(self) -> str:
        """Row and scope, as "tiger Garden"; the name where it is no row's."""
        return f"{self.row} {self.scope}".strip() or self.name

    def flat_inputs(self) -> dict[str, Task]:
        """The tasks whose results are read, by argument; those of a mapping as "argument/key"."""
        found: dict[str, Task] = {}
        for argument, value in self.inputs.items():
            if isinstance(value, Task):
                found[argument] = value
            else:
                found |= {f"{argument}/{key}": task for key, task in value.items()}
        return found

    def first_equal(self, known: list[Task]) -> Task:
        """Return the first known task that makes the same from the same, else this one, known from now on."""
        for other in known:
            if self._essence() == other._essence():
                return other
        known.append(self)
        return self

    def belonging_to(self, run: Results) -> Task:
        """The same task, to be read by other runs than the one that makes it."""
        return self if self.of is not None else replace(self, of=run)

    def wanted(self, inputs: Mapping[str, str]) -> Record:
        """The record that a result made now would have, files aside; inputs: digests by argument."""
        code = code_of(self.function, *self.components)
        settings = as_json("given", {name: _jsonable(value) for name, value in self.given.items()})
        made_of = {"settings": settings, "inputs": dict(inputs), "code": code.digest}
        key = hash_json({**made_of, "schema": SCHEMA})
        who = {"stage": self.stage, "name": self.name, "row": self.row, "scope": self.scope}
        return Record(key=key, functions=code.functions, **who, **made_of)

    def _essence(self) -> tuple[Any, ...]:
        places = {name: id(task) for name, task in self.flat_inputs().items()}
        return self.stage, self.function, dict(self.given), places, self.components


@dataclass
class Work:
    """What a task's function works with.

    folder: for outputs. scratch: for checkpoints; it survives a kill and is removed when the result is there.
    title: row and scope, for people. seed: the run's. summary: facts about the result for its record.
    """

    folder: Path
    scratch: Path
    title: str = ""
    seed: int = 0
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """A folder that all runs share, for what frozen networks found: it only saves time."""
        return runs_root() / "cache"

    def curves(self, title: str, n_items: int | None = None) -> Any:
        """Return the live curves of a training: a tokenizer's if `n_items` is given, else a recommender's."""
        from genrec_lab.viz.live import LiveCurves

        how: dict[str, Any] = {"title": title, "seed": self.seed, "keep": False}
        if n_items is None:
            return LiveCurves.recommender(**how)
        return LiveCurves.tokenizer(n_items=n_items, **how)

    @property
    def beside(self) -> Path:
        """A folder for timings and logs, which do not count as outputs."""
        (self.folder / BESIDE).mkdir(exist_ok=True)
        return self.folder / BESIDE


@dataclass(frozen=True)
class State:
    """Whether a result can be used. action: what the store does about it; reason: a sentence for people.

    digest: of its outputs, also of damaged ones whose settings, inputs and code are unchanged; None if it is
    unknown before the work. record: of the result at its place, if it has one.
    """

    task: Task
    status: Literal["finished", "missing", "unfinished", "stale", "damaged"]
    reason: str
    digest: str | None = None
    record: Record | None = None
    elsewhere: Path | None = None  # an equal result that only has to be put in its place
    kept_despite: tuple[str, ...] = ()  # definitions that have changed since, of a result that is kept
    waits_for: State | None = None  # the first of its inputs that cannot be used, at whatever depth

    @property
    def usable(self) -> bool:
        """Whether the result may be read."""
        return self.status == "finished" and self.elsewhere is None

    @property
    def action(self) -> Literal["run", "keep"]:
        """What `make` does: "run", or "keep" where no work is needed."""
        return "keep" if self.status == "finished" else "run"


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): _jsonable(one) for name, one in value.items()}
    return [_jsonable(one) for one in value] if isinstance(value, tuple | list) else value
