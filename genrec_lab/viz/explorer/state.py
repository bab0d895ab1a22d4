"""The explorer without widgets: one selection, and an answer to every view's question about it.

Every answer is a frozen result with a `frame`; views draw it, panels export it. Nothing here knows of a run
folder or a browser: the lab fills a state from a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.evaluation import CodeHealth, code_health
from genrec_lab.registry import Registry
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.collisions import Collisions, collisions
from genrec_lab.viz.explorer.compare import TwoTokenizers
from genrec_lab.viz.explorer.recommendations import Exposure, exposure, shown_counts
from genrec_lab.viz.explorer.remedies import EXPORTS, REMEDIES, write_variant
from genrec_lab.viz.explorer.selection import (
    Found,
    NamedSlice,
    Selection,
    breadcrumb,
    load_slice,
    moved,
    named_slice,
    save_slice,
    search,
    slice_names,
)
from genrec_lab.viz.explorer.sharing import similarity_by_level
from genrec_lab.viz.projection import Projection

IntArray = npt.NDArray[np.int64]

_LABELS_KEPT = 64
_MOST_STEPS = 500


@dataclass(frozen=True, eq=False)
class Told:
    """What a tokenizer's decoders make of a prefix: words, the most telling first, and a picture.

    picture: (S, S, 3) in 0..1, None from a tokenizer that saw none in training.
    """

    words: tuple[str, ...]
    picture: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class RunRecords:
    """What a run has besides the codes; everything may be missing.

    epochs: the tokenizer's epoch records by scope, sizes: codes a level in one scope. neighbours: frame of
    `neighbour_code_overlap`. recommended: by method, the lists (U, K). users: their `domain, history,
    target`, a row a list. folder: where slices are kept. decode: what the tokenizer's decoders make of a
    prefix, where it has such. settings: of the tokenizer, by the key that a run file has for it. others:
    finds, by run of these data, its settings and measures. run: the parameters of the run, as a run file has
    them.
    """

    epochs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    neighbours: pl.DataFrame | None = None
    recommended: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    folder: Path | None = None
    decode: Callable[[tuple[int, ...]], Told] | None = None
    users: pl.DataFrame | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    others: Callable[[], Mapping[str, tuple[Mapping[str, Any], Mapping[str, float]]]] = dict
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Table:
    """A table whose rows select something.

    go: a row each, the fields of the selection that a click on it sets, None for nothing. title and note
    stand above it. shares, bars: columns shown as percentages, and with a bar behind their number.
    """

    frame: pl.DataFrame
    go: Sequence[dict[str, Any] | None] = ()
    title: str = ""
    note: str = ""
    shares: Sequence[str] = ()
    bars: Sequence[str] = ()


@dataclass(frozen=True)
class Choice:
    """A list of which one value is chosen: its name, what is written and meant, and what stands chosen."""

    name: str
    values: Sequence[tuple[str, str]]
    value: str


@dataclass(frozen=True)
class Shown:
    """What a view shows of a selection.

    figures: plotly figures, their titles are written above them. tables: below the figures. said: lines of
    plain text. choices: lists above them; what is chosen is in `state.choices`. frame: the numbers behind it,
    for the CSV; by default those of the first table. click: from the id of what was clicked on in a figure (a
    trace's `ids`) to the fields of the selection that it changes. beside: items to show as cards.
    """

    figures: Sequence[go.Figure] = ()
    said: Sequence[str] = ()
    frame: pl.DataFrame | None = None
    click: Callable[[str], dict[str, Any]] | None = None
    tables: Sequence[Table] = ()
    choices: Sequence[Choice] = ()
    beside: tuple[str, Sequence[tuple[int, str]]] | None = None


T = TypeVar("T")
_HERE = "genrec_lab.viz.explorer"
_VIEWS = ("Sharing", "Collisions", "Recommender", "Exposure", "Compare", "Training", "Remedies")

EXPLORER_VIEWS: Registry[Callable[[ExplorerState], Shown]] = Registry(
    "explorer view", declared={name: f"{_HERE}.views:show_{name.lower()}" for name in _VIEWS}
)
"""The tabs of the explorer by what is written on them: functions from a state to what is shown of it."""


def register_explorer_view(name: str) -> Callable[[T], T]:
    """Register the decorated function, from the state to a `Shown`, as a tab of the explorer.

    >>> @register_explorer_view("Titles")
    ... def show_titles(state):
    ...     titles = [state.catalogue.titles[item] for item in state.items()]
    ...     return Shown(said=titles)
    >>> "Titles" in EXPLORER_VIEWS
    True
    """
    return EXPLORER_VIEWS.register(name)


class ExplorerState:
    """One selection over a catalogue, and what every view says about it; a second catalogue to compare with.

    source: Python lines that make this state again under the name `state`, for the exports. maps: projections
    of the residuals by name, or functions that make one when it is first looked at. choices: what is chosen
    in the views' lists. watchable: methods whose beam the watcher can search. beam: the search for a user
    that was last watched.
    """

    def __init__(
        self,
        catalogue: CodedCatalogue,
        other: CodedCatalogue | None = None,
        *,
        records: RunRecords | None = None,
        source: str = "state = ...  # the state that this came from",
    ) -> None:
        self.catalogue, self.source = catalogue.prepare(), source
        self.records = records or RunRecords()
        self.two = None if other is None else TwoTokenizers(catalogue, other.prepare())
        self.maps: dict[str, Projection | Callable[[], Projection]] = {}
        self.choices: dict[str, str] = {}
        self.watcher: Callable[[str, int], tuple[BeamTree, str]] | None = None
        self.watchable: tuple[str, ...] = tuple(self.records.recommended)
        self.beam: BeamTree | None = None
        self.beam_source = ""
        self._steps, self._place = [Selection()], 0
        self._watchers: list[Callable[[Selection], None]] = []
        self._shown: dict[str, IntArray] = {}
        self._alike: dict[tuple[object, ...], pl.DataFrame] = {}
        _ = self.health  # shown at once, and the slowest number of all
        if self.two is not None and self.two.n_items:
            _ = [(self.two.level(level), self.two.company(level + 1)) for level in range(self.two.levels)]

    # --- the selection

    @property
    def selection(self) -> Selection:
        """What is selected."""
        return self._steps[self._place]

    @property
    def can_go_back(self) -> bool:
        """Whether there is a selection before this one."""
        return self._place > 0

    @property
    def can_go_forward(self) -> bool:
        """Whether one went back from a later selection."""
        return self._place + 1 < len(self._steps)

    def watch(self, on_selection: Callable[[Selection], None]) -> None:
        """Call this after every change of the selection."""
        self._watchers.append(on_selection)

    def select(self, **changes: Any) -> Selection:
        """Change fields of the selection, the others follow (see `moved`); ValueError keeps what stood.

        After going back, a new selection drops those that lay ahead.
        """
        new = moved(self.selection, self.catalogue, **changes)
        if new == self.selection:
            return new
        self._steps = [*self._steps[: self._place + 1], new][-_MOST_STEPS:]
        return self._go(len(self._steps) - 1, changed=True)

    def back(self) -> Selection:
        """Go back one step, if there is one."""
        return self._go(max(self._place - 1, 0), changed=self.can_go_back)

    def forward(self) -> Selection:
        """Go forward one step, if there is one."""
        return self._go(min(self._place + 1, len(self._steps) - 1), changed=self.can_go_forward)

    @contextmanager
    def looking(self, selection: Selection) -> Iterator[None]:
        """Have another selection for a while, without a step in the history and without telling anybody."""
        before, self._steps[self._place] = self.selection, selection
        try:
            yield
        finally:
            self._steps[self._place] = before

    def breadcrumb(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return what the path shows, and the prefix that each part of it selects."""
        return breadcrumb(self.selection, self.catalogue.levels)

    def search(self, text: str, most: int = 20) -> Found:
        """Search titles and codes in the selected domain."""
        return search(self.catalogue, text, most, self.selection.domain)

    def items(self) -> IntArray:
        """Return the selected items in the order of their codes: all that prefix, domain and lasso leave."""
        selected, order = self.selection, self.catalogue.order
        if selected.everywhere is None:
            items = order.members(selected.prefix, self._domain)
        else:
            items = order.items[order.with_code(*selected.everywhere)]
            if self._domain is not None:
                items = items[self.catalogue.codes.domain_index[items] == self._domain]
        if selected.lasso is not None:
            gathered = np.zeros(self.catalogue.n_items, dtype=bool)
            gathered[list(selected.lasso)] = True
            items = items[gathered[items]]
        return items

    # --- the views

    @cached_property
    def health(self) -> CodeHealth:
        """Use of each level and collisions of the whole catalogue, whatever is selected."""
        codes = self.catalogue.codes
        return code_health(codes.codes, codes.known_sizes, codes.domains)

    @cached_property
    def ambiguous(self) -> npt.NDArray[np.bool_]:
        """(N,) whether another item of the same domain has the same codes."""
        found = np.zeros(self.catalogue.n_items, dtype=bool)
        found[collisions(self.catalogue).items] = True
        return found

    def labels(self) -> dict[int, list[str]]:
        """Return the words that set each used child of the prefix apart from its siblings, of all domains."""
        return self._labels(self.selection.prefix)

    def place(self) -> tuple[int, int]:
        """Return the level (0-based) and the code that is selected last; some code must be."""
        selection = self.selection
        return selection.everywhere or (len(selection.prefix) - 1, selection.prefix[-1])

    @lru_cache(_LABELS_KEPT)  # noqa: B019 - a state lives as long as its explorer
    def words_everywhere(self, level: int) -> dict[int, list[str]]:
        """Return the words of each used code of a level, whatever the codes before it are."""
        places, starts = self.catalogue.order.by_code(level)
        used = np.flatnonzero(np.diff(starts))
        borders = np.append(starts[used], places.size)
        return dict(zip(used.tolist(), self.catalogue.words.labels(borders, places=places), strict=True))

    def write_remedy(self, setting: str, value: str) -> Path:
        """Write the run file that sets what `remedy_table` says, the value as it is written there."""
        remedies = (remedy for group in REMEDIES.values() for remedy in group if remedy.setting == setting)
        known = {str(one): one for remedy in remedies for one in remedy.values}
        if value not in known or not self.records.run:
            raise ValueError(f"remedy: {setting!r} to {value!r}, expected one of the table, of a run")
        return write_variant(self.records.run, setting, known[value], self._folder() / EXPORTS)

    def told(self) -> Told | None:
        """Return what the decoders make of the selected prefix; None without decoders or a prefix."""
        return self._told(self.selection.prefix) if self.selection.prefix else None

    def watch_beam(self, beam: BeamTree, source: str = "") -> None:
        """Show one user's beam; source: the Python line that makes it again."""
        self.beam, self.beam_source = beam, source

    def alike_by_level(self) -> pl.DataFrame:
        """Return `similarity_by_level` of the selected items, kept: it takes a second for 100,000."""
        selected = self.selection
        key = (selected.prefix, selected.everywhere, selected.domain, selected.lasso)
        if key not in self._alike and self.catalogue.unit is not None:
            items, order = self.items(), self.catalogue.order
            groups = [order.group_numbers(length)[items] for length in range(1, self.catalogue.levels + 1)]
            domains = self.catalogue.codes.domain_index[items]
            self._alike[key] = similarity_by_level(self.catalogue.unit[items], groups, domains)
        return self._alike.get(key, pl.DataFrame())

    def collisions(self) -> Collisions:
        """Return the ambiguous identifiers of the selected items."""
        return collisions(self.catalogue, self.items())

    def shown(self, method: str) -> IntArray:
        """Return how often a method recommends each item, (N,); ValueError naming the methods there are."""
        if method not in self.records.recommended:
            raise ValueError(f"method: {method!r}, expected one of {sorted(self.records.recommended)}")
        if method not in self._shown:
            lists = self.records.recommended[method]
            self._shown[method] = shown_counts(lists, self.catalogue.n_items)
        return self._shown[method]

    def exposure(self, method: str) -> Exposure:
        """Return how a method's recommendations spread over the selected items."""
        level = min(len(self.selection.prefix), self.catalogue.levels - 1)
        if self.selection.everywhere is not None:
            level = self.selection.everywhere[0]
        return exposure(self.catalogue, self.shown(method), self.items(), level)

    # --- exports

    def view(self, name: str) -> Shown:
        """Return what a view shows of the selection, by the name of its tab."""
        return EXPLORER_VIEWS.find(name)(self)

    def numbers(self, view: str = "") -> pl.DataFrame:
        """Return the numbers of a view, or by default what lies below the selection.

        Raises ValueError with the reason where a view has none.
        """
        from genrec_lab.viz.explorer.code_tables import below

        if not view:
            return below(self).frame
        shown = self.view(view)
        if shown.frame is None and not shown.tables:
            raise ValueError(" ".join(shown.said) or f"The view {view!r} has no numbers.")
        return shown.tables[0].frame if shown.frame is None else shown.frame

    def python(self, view: str = "") -> str:
        """Return the Python that makes `numbers` again, as `frame`."""
        # Names are written as Python literals, so that nothing in them can be read as code.
        chosen = ", ".join(f"{name}={value!r}" for name, value in vars(self.selection).items())
        lines = [self.source, f"state.select({chosen})", f"frame = state.numbers({view!r})"]
        if view and self.choices:
            lines.insert(1, f"state.choices = {self.choices!r}")
        if view and self.beam_source:
            lines.insert(1, self.beam_source)
        return "\n".join(lines) + "\n"

    def choice(self, name: str, values: Sequence[tuple[str, str]]) -> Choice:
        """Return a list of a view with what stands chosen, by default its first value."""
        known = [value for _, value in values]
        chosen = self.choices.get(name, "")
        return Choice(name, values, chosen if chosen in known else known[0])

    def save_slice(self, name: str, items: npt.ArrayLike | None = None) -> NamedSlice:
        """Keep items (by default those selected) under a name in the run folder; ValueError without one."""
        own, selected = self.catalogue, self.selection
        kept = self.items() if items is None else items
        chosen = named_slice(name, own.name, own.n_items, kept, selected.prefix, selected.domain)
        save_slice(self._folder(), chosen)
        return chosen

    def load_slice(self, name: str) -> NamedSlice:
        """Read a slice of this run; ValueError where there is none, or where it is of another catalogue."""
        read = load_slice(self._folder(), name)
        if read.n_items != self.catalogue.n_items:
            raise ValueError(
                f"slice {name!r} was made of {read.n_items} items, {self.catalogue.name} has "
                f"{self.catalogue.n_items}; open the catalogue {read.catalogue!r} to read it"
            )
        return read

    def slice_names(self) -> list[str]:
        """Return the names of the run's slices; none where there is no run folder."""
        return [] if self.records.folder is None else slice_names(self.records.folder)

    # ---

    @property
    def _domain(self) -> int | None:
        return self.catalogue.domain_number(self.selection.domain)

    def _go(self, place: int, changed: bool) -> Selection:
        self._place = place
        for on_selection in self._watchers if changed else ():
            on_selection(self.selection)
        return self.selection

    def _folder(self) -> Path:
        if self.records.folder is None:
            raise ValueError("slices: this state has no run folder; give RunRecords(folder=...)")
        return self.records.folder

    @lru_cache(_LABELS_KEPT)  # noqa: B019
    def _told(self, prefix: tuple[int, ...]) -> Told | None:
        return None if self.records.decode is None else self.records.decode(prefix)

    @lru_cache(_LABELS_KEPT)  # noqa: B019
    def _labels(self, prefix: tuple[int, ...]) -> dict[int, list[str]]:
        order = self.catalogue.order
        if len(prefix) == self.catalogue.levels:
            return {}
        low, high = order.span(prefix)
        starts = order.starts[len(prefix)]
        first, last = np.searchsorted(starts, [low, high])
        borders = np.append(starts[first:last], high)
        codes = order.columns[len(prefix)][starts[first:last]].tolist()
        return dict(zip(codes, self.catalogue.words.labels(borders), strict=True))
