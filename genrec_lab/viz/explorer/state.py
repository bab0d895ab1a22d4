"""The explorer without widgets, run folders or a browser: one selection, and every view's contents for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike, NDArray

from genrec_lab.codes import ItemCodes
from genrec_lab.registry import Registry
from genrec_lab.viz import Float32Array, FloatArray, IntArray, kept
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.catalogue import CodedCatalogue, PrefixOrder
from genrec_lab.viz.explorer.collisions import Collisions, collisions
from genrec_lab.viz.explorer.compare import TwoTokenizers
from genrec_lab.viz.explorer.recommendations import Exposure, exposure, shown_counts
from genrec_lab.viz.explorer.remedies import EXPORTS, REMEDIES, write_variant
from genrec_lab.viz.explorer.selection import (
    Found,
    NamedSlice,
    Selection,
    load_slice,
    moved,
    save_slice,
    search,
    slice_names,
)
from genrec_lab.viz.explorer.sharing import PairMeans, group_similarity, pair_sums, similarity_by_level
from genrec_lab.viz.projection import Projection

_OF_FINAL_CODES = ("Recommender", "Exposure", "Remedies")
_MOST_STEPS = 500
_MOST_COMPARED = 10_000


@dataclass(frozen=True, eq=False)
class Decoded:
    """The decoded words, most characteristic first, and picture of a prefix."""

    words: tuple[str, ...]
    picture: Float32Array | None = None  # (S, S, 3) in 0..1; None if trained without pictures


@dataclass(frozen=True)
class RunRecords:
    """The data of a run besides the codes; all fields are optional.

    epochs: the tokenizer's epoch records by scope. sizes: codes per level in one scope. neighbours: frame of
    `neighbour_code_overlap`. recommended: by method, the lists (U, K). users: frame `domain, history,
    target`, one row per list. folder: of the run. decode: of a prefix, if the tokenizer has decoders.
    settings: of the tokenizer, by the key in a run file. others: returns settings and measures of all runs on
    the same data. run: its parameters as in a run file. codes_by_epoch: reads the codes of some epochs.
    """

    epochs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    neighbours: pl.DataFrame | None = None
    recommended: Mapping[str, IntArray] = field(default_factory=dict)
    folder: Path | None = None
    decode: Callable[[tuple[int, ...]], Decoded] | None = None
    users: pl.DataFrame | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    others: Callable[[], Mapping[str, tuple[Mapping[str, Any], Mapping[str, float]]]] = dict
    run: Mapping[str, Any] = field(default_factory=dict)
    codes_by_epoch: Callable[[], Mapping[int, ItemCodes]] = dict


@dataclass(frozen=True, eq=False)
class Table:
    """A table, and for each row the fields of the selection that a click sets, or None (`go`).

    shares, bars: columns shown as percentages, and columns with a bar behind the number.
    """

    frame: pl.DataFrame
    go: Sequence[dict[str, Any] | None] = ()
    title: str = ""
    note: str = ""
    shares: Sequence[str] = ()
    bars: Sequence[str] = ()


@dataclass(frozen=True)
class Choice:
    """A drop-down list, or a slider, of pairs of label and value; act: what the page asks for a new value."""

    name: str
    values: Sequence[tuple[str, str]]
    value: str
    act: str = "choose"
    slider: bool = False


@dataclass(frozen=True)
class Shown:
    """The contents of a view for a selection: choices, plain text, figures and tables, in this order.

    frame: the data for the CSV export, by default that of the first table. click: from the id of a clicked
    point (a trace's `ids`) to the fields of the selection that it changes. beside: a title, and items with
    notes to show as cards. `state.choices` contains the chosen values.
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
    """Register the decorated function, which maps a state to a `Shown`, as a tab of the explorer.

    >>> @register_explorer_view("Titles")
    ... def show_titles(state):
    ...     titles = [state.catalogue.titles[item] for item in state.items()]
    ...     return Shown(said=titles)
    >>> "Titles" in EXPLORER_VIEWS
    True
    """
    return EXPLORER_VIEWS.register(name)


class ExplorerState:
    """One selection in a catalogue, the contents of every view for it, and optionally a second catalogue.

    other: the catalogue to compare with. source: Python lines that recreate this state as `state`, for the
    exports. maps: projections of the residuals by name, or functions that compute one on first use. choices:
    the chosen values of the views' lists. watcher: from one of the `watchable` methods and a row of the test
    part to a beam search and the line of Python that recreates it. beam: the last one.
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
        # The codes that the recommenders use; `catalogue` has those of `epoch`, if one is shown.
        self.final = self.catalogue
        self.epoch: int | None = None
        self.records = records or RunRecords()
        self.two = None if other is None else TwoTokenizers(catalogue, other)
        self._opened_with = self.two
        self._decode = self.records.decode and lru_cache(64)(self.records.decode)
        self._at_epoch = lru_cache(4)(self._with_codes_of)
        self.maps: dict[str, Projection | Callable[[], Projection]] = {}
        self.choices: dict[str, str] = {}
        self.watcher: Callable[[str, int], tuple[BeamTree, str]] | None = None
        self.watchable: tuple[str, ...] = tuple(self.records.recommended)
        self.beam: BeamTree | None = None
        self.beam_source = ""
        self._steps, self._place = [Selection()], 0
        self._watchers: list[Callable[[Selection], None]] = []
        self._placed: tuple[Selection, PrefixOrder, slice | IntArray] | None = None
        if self.two is not None and self.two.n_items:
            _ = [(self.two.level(level), self.two.company(level + 1)) for level in range(self.two.levels)]

    @property
    def selection(self) -> Selection:
        """The current selection."""
        return self._steps[self._place]

    @property
    def can_go_back(self) -> bool:
        """Whether there is an earlier selection."""
        return self._place > 0

    @property
    def can_go_forward(self) -> bool:
        """Whether there is a later selection to return to."""
        return self._place + 1 < len(self._steps)

    def watch(self, on_selection: Callable[[Selection], None]) -> None:
        """Call `on_selection` after every change of the selection."""
        self._watchers.append(on_selection)

    def select(self, **changes: Any) -> Selection:
        """Change fields of the selection and update the others (see `moved`); discard later selections.

        A ValueError leaves the selection unchanged.
        """
        new = moved(self.selection, self.catalogue, **changes)
        if new != self.selection:
            self._steps = [*self._steps[: self._place + 1], new][-_MOST_STEPS:]
            self._go(len(self._steps) - 1)
        return new

    def back(self) -> Selection:
        """Go back one step, if there is one."""
        return self._go(self._place - 1) if self.can_go_back else self.selection

    def forward(self) -> Selection:
        """Go forward one step, if there is one."""
        return self._go(self._place + 1) if self.can_go_forward else self.selection

    @contextmanager
    def looking(self, selection: Selection) -> Iterator[None]:
        """Use another selection temporarily, without a step in the history and without callbacks."""
        before, self._steps[self._place] = self.selection, selection
        try:
            yield
        finally:
            self._steps[self._place] = before

    def search(self, text: str) -> Found:
        """Search titles and codes in the selected domain."""
        return search(self.catalogue, text, domain=self.selection.domain)

    def items(self) -> IntArray:
        """Return the items selected by prefix, domain and lasso, in the order of their codes."""
        return self.catalogue.order.items[self._selected_places()]

    def codes_at(self, level: int) -> NDArray[np.int32]:
        """Return the code of each of the selected items at a level, (n,)."""
        return self.catalogue.order.columns[level][self._selected_places()]

    def _selected_places(self) -> slice | IntArray:
        """Return the places of the selected items in the order of the codes."""
        selected, order = self.selection, self.catalogue.order
        if self._placed is not None and self._placed[0] is selected and self._placed[1] is order:
            return self._placed[2]
        code = selected.everywhere
        places: slice | IntArray
        places = slice(*order.span(selected.prefix)) if code is None else order.with_code(*code)
        wanted = []
        if self._domain is not None:
            wanted.append(order.domain_index[places] == self._domain)
        if selected.lasso is not None:
            wanted.append(np.isin(order.items[places], np.array(selected.lasso)))
        if wanted:
            at = np.flatnonzero(np.logical_and.reduce(wanted))
            places = places.start + at if isinstance(places, slice) else places[at]
        self._placed = (selected, order, places)
        return places

    @cached_property
    def codes_by_epoch(self) -> Mapping[int, ItemCodes]:
        """The codes after some epochs of the tokenizer's training, in order; empty if none were kept."""
        return self.records.codes_by_epoch()

    def show_epoch(self, epoch: int | None) -> None:
        """Show the codes after an epoch of the tokenizer's training in all views, or the final ones for None.

        `Compare` then shows what became of them, unless another tokenizer is open. A selected item stays
        selected. Raises ValueError for an epoch whose codes were not kept.
        """
        if epoch is not None and epoch not in self.codes_by_epoch:
            raise ValueError(f"epoch: {epoch}, expected one of {list(self.codes_by_epoch)} or None")
        self.epoch, self.catalogue = epoch, self.final if epoch is None else self._at_epoch(epoch)
        self.two = self._opened_with
        if self.two is None and epoch is not None:
            self.two = TwoTokenizers(self.catalogue, self.final)
        item = self.selection.item
        if item is not None:
            self._steps[self._place] = moved(self.selection, self.catalogue, item=item)

    def _with_codes_of(self, epoch: int) -> CodedCatalogue:
        return self.final.with_codes(f"{self.final.name} · epoch {epoch}", self.codes_by_epoch[epoch])

    def words(self, codes: Iterable[int], level: int | None = None) -> list[str]:
        """Return the characteristic words of codes of a level, by default the selected one.

        For codes that follow the prefix, these words distinguish them from its other children.
        """
        level, prefix = self.selection.level if level is None else level, self.selection.prefix
        follows = level == len(prefix)
        known = self.catalogue.labels(prefix) if follows else self.catalogue.words_everywhere(level)
        return [", ".join(known.get(int(code), ())) for code in codes]

    def goes_to(self, level: int, codes: Iterable[int]) -> list[dict[str, Any] | None]:
        """Return what a click on each code selects: a longer prefix if it follows, else the code anywhere."""
        prefix = self.selection.prefix
        if level <= len(prefix):
            return [{"prefix": [*prefix[:level], int(code)]} for code in codes]
        return [{"everywhere": [level, int(code)]} for code in codes]

    def place(self) -> tuple[int, int]:
        """Return the level (0-based) and the last selected code; requires a selected code."""
        selection = self.selection
        return selection.everywhere or (len(selection.prefix) - 1, selection.prefix[-1])

    def write_remedy(self, setting: str, value: str) -> Path:
        """Write a run file with a setting of `remedy_table`, and the value as written there."""
        remedies = (remedy for group in REMEDIES.values() for remedy in group if remedy.setting == setting)
        known = {str(one): one for remedy in remedies for one in remedy.values}
        if value not in known or not self.records.run:
            raise ValueError(f"remedy: {setting!r} to {value!r}, expected one of the table, of a run")
        return write_variant(self.records.run, setting, known[value], self._folder() / EXPORTS)

    def decoded(self) -> Decoded | None:
        """Return the decoded words and picture of the selected prefix, if it is of the final codes."""
        prefix = self.selection.prefix
        return self._decode(prefix) if self._decode and prefix and self.epoch is None else None

    def watch_beam(self, beam: BeamTree, source: str = "") -> None:
        """Show one user's beam search; source: the Python line that recreates it."""
        self.beam, self.beam_source = beam, source

    def compared(self) -> IntArray:
        """Return the selected items; of a lasso or a code under any prefix, at most 10,000 at random.

        These are the items whose similarities are measured; for all other selections, the sums are known.
        """
        items = self.items()
        if self._of_prefix or items.size <= _MOST_COMPARED:
            return items
        return np.random.default_rng(self.catalogue.seed).choice(items, _MOST_COMPARED, replace=False)

    def alike(self, *lengths: int) -> list[PairMeans]:
        """Return the similarity of pairs of `compared` items with the same first codes, for each length.

        Raises ValueError without content vectors.
        """
        catalogue, prefix, order = self.catalogue, self.selection.prefix, self.catalogue.order
        if self._of_prefix:
            longer = [max(length, len(prefix)) for length in lengths]
            groups = [order.groups_below(prefix, length) for length in longer]
            pairs = zip(map(catalogue.prefix_pairs, longer), groups, strict=True)
            return [sums.means(*span, self._domain) for sums, span in pairs]
        items = self.compared()
        domains, unit = catalogue.codes.domain_index[items], catalogue.known_unit[items]
        return [pair_sums(unit, order.group_numbers(length)[items], domains).means() for length in lengths]

    def alike_by_level(self) -> pl.DataFrame:
        """Return `similarity_by_level` of the `compared` items; empty without content vectors."""
        if self.catalogue.unit is None:
            return pl.DataFrame()
        whole, *levels = self.alike(*range(self.catalogue.levels + 1))
        return similarity_by_level(whole, levels)

    def alike_by_code(self, level: int) -> FloatArray:
        """Return the mean similarity of each code's `compared` items at a level, (K,), NaN without pairs."""
        catalogue, order, prefix = self.catalogue, self.catalogue.order, self.selection.prefix
        size = catalogue.codes.sizes[level]
        if self._of_prefix and level == len(prefix):
            below, found = slice(*order.groups_below(prefix, level + 1)), np.full(size, np.nan)
            codes = order.columns[level][order.starts[level][below]]
            found[codes] = catalogue.prefix_pairs(level + 1).by_group(self._domain)[below]
            return found
        if self._of_prefix and not prefix:
            return catalogue.code_pairs(level).by_group(self._domain)
        items = self.compared()
        return group_similarity(catalogue.known_unit, items, catalogue.codes.codes[items, level], size)

    def collisions(self) -> Collisions:
        """Return the ambiguous identifiers of the selected items."""
        return collisions(self.catalogue, self.items())

    @kept
    def shown(self, method: str) -> IntArray:
        """Return how often a method recommends each item, (N,); raises ValueError for an unknown method."""
        if method not in self.records.recommended:
            raise ValueError(f"method: {method!r}, expected one of {sorted(self.records.recommended)}")
        return shown_counts(self.records.recommended[method], self.final.n_items)

    def exposure(self, method: str) -> Exposure:
        """Return the distribution of a method's recommendations over the selected items."""
        code, prefix = self.selection.everywhere, self.selection.prefix
        level = code[0] if code else min(len(prefix), self.catalogue.levels - 1)
        return exposure(self.catalogue, self.shown(method), self.items(), level)

    def view(self, name: str) -> Shown:
        """Return the contents of a view for the selection, by the name of its tab."""
        if self.epoch is not None and name in _OF_FINAL_CODES:
            return Shown(said=[f"{name} belongs to the final codes; this shows those of epoch {self.epoch}."])
        return EXPLORER_VIEWS.find(name)(self)

    def numbers(self, view: str = "") -> pl.DataFrame:
        """Return a view's data, by default the table below the selection; raises ValueError without data."""
        from genrec_lab.viz.explorer.code_tables import below

        if not view:
            return below(self).frame
        shown = self.view(view)
        if shown.frame is None and not shown.tables:
            raise ValueError(" ".join(shown.said) or f"The view {view!r} has no numbers.")
        return shown.tables[0].frame if shown.frame is None else shown.frame

    def python(self, view: str = "") -> str:
        """Return Python code that recreates `numbers` as `frame`."""
        # Names are written as Python literals, so that they cannot be executed as code.
        chosen = ", ".join(f"{name}={value!r}" for name, value in vars(self.selection).items())
        lines = [self.source, f"state.select({chosen})", f"frame = state.numbers({view!r})"]
        if self.epoch is not None:
            lines.insert(1, f"state.show_epoch({self.epoch})")
        if view:
            chosen = f"state.choices = {self.choices!r}" if self.choices else ""
            lines[1:1] = filter(None, [self.beam_source, chosen])
        return "\n".join(lines) + "\n"

    def choice(self, name: str, values: Sequence[tuple[str, str]]) -> Choice:
        """Return a view's list with its chosen value, by default the first."""
        known = [value for _, value in values]
        chosen = self.choices.get(name, "")
        return Choice(name, values, chosen if chosen in known else known[0])

    def save_slice(self, name: str, items: ArrayLike | None = None) -> NamedSlice:
        """Save items (by default the selected ones) in the run folder; raises ValueError without a folder."""
        own, selected = self.catalogue, self.selection
        held = np.asarray(self.items() if items is None else items).tolist()
        chosen = NamedSlice(name, own.name, own.n_items, held, selected.prefix, selected.domain)
        save_slice(self._folder(), chosen)
        return chosen

    def load_slice(self, name: str) -> NamedSlice:
        """Read a slice of this run; raises ValueError if it is missing or belongs to another catalogue."""
        read = load_slice(self._folder(), name)
        if read.n_items != self.catalogue.n_items:
            raise ValueError(
                f"slice {name!r} was made of {read.n_items} items, {self.catalogue.name} has "
                f"{self.catalogue.n_items}; open the catalogue {read.catalogue!r} to read it"
            )
        return read

    def slice_names(self) -> list[str]:
        """Return the names of the run's slices; empty without a run folder."""
        return [] if self.records.folder is None else slice_names(self.records.folder)

    @property
    def _domain(self) -> int | None:
        return self.catalogue.domain_number(self.selection.domain)

    @property
    def _of_prefix(self) -> bool:
        return self.selection.everywhere is None and self.selection.lasso is None

    def _go(self, place: int) -> Selection:
        self._place = place
        for on_selection in self._watchers:
            on_selection(self.selection)
        return self.selection

    def _folder(self) -> Path:
        if self.records.folder is None:
            raise ValueError("slices: this state has no run folder; give RunRecords(folder=...)")
        return self.records.folder
