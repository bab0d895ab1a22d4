"""The explorer without widgets: one selection, and an answer to every view's question about it.

Every answer is a frozen result with a `frame`; views draw it, panels export it. Nothing here knows of a run
folder or a browser: `genrec_lab.lab.exploring` fills a state from a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.evaluation import CodeHealth, code_health
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.code_page import CodePage, code_page
from genrec_lab.viz.explorer.collisions import Collisions, collisions
from genrec_lab.viz.explorer.exposure import Exposure, exposure, shown_counts
from genrec_lab.viz.explorer.matching import TwoTokenizers
from genrec_lab.viz.explorer.panels import Panel, make_panel
from genrec_lab.viz.explorer.prefixes import Children
from genrec_lab.viz.explorer.selection import Found, Selection, SelectionHistory, breadcrumb, moved, search
from genrec_lab.viz.explorer.sharing import LevelSharing, PairSimilarity, level_sharing, pair_similarity
from genrec_lab.viz.explorer.slices import NamedSlice, load_slice, named_slice, save_slice, slice_names
from genrec_lab.viz.explorer.training import training_frame

IntArray = npt.NDArray[np.int64]

_LABELS_KEPT = 64


@dataclass(frozen=True, eq=False)
class Told:
    """What a tokenizer's decoders tell from a prefix: words, the most telling first, and a picture.

    picture: (S, S, 3) in 0..1, None from a tokenizer that saw none in training.
    """

    words: tuple[str, ...]
    picture: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class RunRecords:
    """What a run has besides the codes; everything may be missing.

    epochs: the tokenizer's epoch records by scope, sizes: codes a level in one scope. neighbours: frame of
    `neighbour_code_overlap`. recommended: by method, the lists (U, K). folder: where slices are kept.
    decode: what the tokenizer's decoders tell from a prefix, where it has such.
    """

    epochs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    sizes: Sequence[int] = ()
    neighbours: pl.DataFrame | None = None
    recommended: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    folder: Path | None = None
    decode: Callable[[tuple[int, ...]], Told] | None = None


class ExplorerState:
    """One selection over a catalogue, and what every view says about it; a second catalogue to compare with.

    source: Python lines that make this state again under the name `state`, for the exports.
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
        self.beam: BeamTree | None = None
        self.beam_source = ""
        self._history = SelectionHistory(Selection())
        self._watchers: list[Callable[[Selection], None]] = []
        self._shown: dict[str, IntArray] = {}
        self._pairs: PairSimilarity | None = None
        self._labels = lru_cache(_LABELS_KEPT)(self._find_labels)
        self._told_of = lru_cache(_LABELS_KEPT)(self._decode)
        _ = self.health  # shown at once, and the slowest number of all

    # --- the selection

    @property
    def selection(self) -> Selection:
        """What is selected."""
        return self._history.current

    @property
    def can_go_back(self) -> bool:
        """Whether there is a selection before this one."""
        return self._history.can_go_back

    @property
    def can_go_forward(self) -> bool:
        """Whether one went back from a later selection."""
        return self._history.can_go_forward

    def watch(self, on_selection: Callable[[Selection], None]) -> None:
        """Call this after every change of the selection."""
        self._watchers.append(on_selection)

    def select(self, **changes: Any) -> Selection:
        """Change fields of the selection, the others follow (see `moved`); ValueError keeps what stood."""
        return self._told(self._history.go(moved(self.selection, self.catalogue, **changes)))

    def back(self) -> Selection:
        """Go back one step."""
        before = self.selection
        return self._told(self._history.back() != before)

    def forward(self) -> Selection:
        """Go forward one step."""
        before = self.selection
        return self._told(self._history.forward() != before)

    def breadcrumb(self) -> list[tuple[str, tuple[int, ...]]]:
        """What the path shows, and the prefix that each part of it selects."""
        return breadcrumb(self.selection, self.catalogue.levels)

    def search(self, text: str, most: int = 20) -> Found:
        """Search titles and codes in the selected domain."""
        return search(self.catalogue, text, most, self.selection.domain)

    def items(self) -> IntArray:
        """The items below the selected prefix in the selected domain, in the order of their codes."""
        number = self.catalogue.domain_number(self.selection.domain)
        return self.catalogue.order.members(self.selection.prefix, number)

    # --- the views

    @cached_property
    def health(self) -> CodeHealth:
        """Use of each level and collisions of the whole catalogue, whatever is selected."""
        codes = self.catalogue.codes
        return code_health(codes.codes, codes.sizes, codes.domains)

    def children(self) -> Children | None:
        """The codes that may follow the selected prefix; None where it is a whole identifier."""
        if len(self.selection.prefix) == self.catalogue.levels:
            return None
        number = self.catalogue.domain_number(self.selection.domain)
        return self.catalogue.order.children(self.selection.prefix, number)

    def labels(self) -> dict[int, list[str]]:
        """The words that tell each used child of the selected prefix from its siblings, of all domains."""
        return self._labels(self.selection.prefix)

    def page(self, level: int | None = None, code: int | None = None, top: int = 5) -> CodePage | None:
        """The page of the last selected code under its prefix, or of any code of a level under any prefix.

        None where nothing is selected yet and no code is named.
        """
        prefix, domain = self.selection.prefix, self.selection.domain
        if code is not None:
            chosen = self.selection.level if level is None else level
            return code_page(self.catalogue, chosen, code, domain=domain, top=top)
        if not prefix:
            return None
        return code_page(self.catalogue, len(prefix) - 1, prefix[-1], prefix[:-1], domain=domain, top=top)

    def told(self) -> Told | None:
        """What the tokenizer's decoders tell from the selected prefix; None without decoders or a prefix."""
        return self._told_of(self.selection.prefix) if self.selection.prefix else None

    def watch_beam(self, beam: BeamTree, source: str = "") -> None:
        """Show one user's beam; source: the Python line that makes it again."""
        self.beam, self.beam_source = beam, source

    def sharing(self) -> LevelSharing:
        """Who uses the codes of the selected level."""
        return level_sharing(self.catalogue, self.selection.level)

    def pairs(self) -> PairSimilarity | None:
        """Common prefixes against similarity, of the whole catalogue; None without vectors."""
        if self._pairs is None:
            self._pairs = pair_similarity(self.catalogue)
        return self._pairs

    def collisions(self) -> Collisions:
        """The ambiguous identifiers below the selected prefix."""
        return collisions(self.catalogue, self.selection.prefix, self.selection.domain)

    def training(self) -> pl.DataFrame:
        """The tokenizer's epochs; empty where none were recorded."""
        return training_frame(self.records.epochs, self.records.sizes)

    def shown(self, method: str) -> IntArray:
        """(N,) how often a method recommends each item; ValueError naming the methods that there are."""
        if method not in self.records.recommended:
            raise ValueError(f"method: {method!r}, expected one of {sorted(self.records.recommended)}")
        if method not in self._shown:
            lists = self.records.recommended[method]
            self._shown[method] = shown_counts(lists, self.catalogue.n_items)
        return self._shown[method]

    def exposure(self, method: str) -> Exposure:
        """How a method's recommendations spread below the selected prefix."""
        selected = self.selection
        return exposure(self.catalogue, self.shown(method), selected.prefix, selected.domain)

    # --- exports

    def panel(self, name: str, **options: Any) -> Panel:
        """A panel's numbers by its name, with its CSV and its Python; ValueError naming the known ones.

        Options: `items` of "items", `method` of "exposure" and "popularity", `group` of "policies" and
        "distances", `level` and `code` of "page" and "words", `level` of "matching", `length` of "changes".
        """
        return make_panel(self, name, options)

    def save_slice(self, name: str, items: npt.ArrayLike | None = None) -> NamedSlice:
        """Keep items (by default those selected) under a name in the run folder; ValueError without one."""
        selected = self.selection
        chosen = named_slice(
            name,
            self.catalogue.name,
            self.catalogue.n_items,
            self.items() if items is None else items,
            selected.prefix,
            selected.domain,
        )
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
        """The names of the run's slices; none where there is no run folder."""
        return [] if self.records.folder is None else slice_names(self.records.folder)

    # ---

    def _told(self, changed: bool) -> Selection:
        if changed:
            for on_selection in self._watchers:
                on_selection(self.selection)
        return self.selection

    def _folder(self) -> Path:
        if self.records.folder is None:
            raise ValueError("slices: this state has no run folder; give RunRecords(folder=...)")
        return self.records.folder

    def _decode(self, prefix: tuple[int, ...]) -> Told | None:
        return None if self.records.decode is None else self.records.decode(prefix)

    def _find_labels(self, prefix: tuple[int, ...]) -> dict[int, list[str]]:
        order = self.catalogue.order
        if len(prefix) == self.catalogue.levels:
            return {}
        low, high = order.span(prefix)
        starts = order.starts[len(prefix)]
        first, last = np.searchsorted(starts, [low, high])
        borders = np.append(starts[first:last], high)
        codes = order.columns[len(prefix)][starts[first:last]].tolist()
        return dict(zip(codes, self.catalogue.words.labels(borders), strict=True))
