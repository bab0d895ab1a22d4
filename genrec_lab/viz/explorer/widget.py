"""The explorer in the browser: one widget around an `ExplorerState`; the page is in `static`.

The page sends `{"act": …}` and Python answers with `{"kind": …}`. A single selection controls all parts.
Titles are data: they are sent as JSON and written as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import answers, html_file, points
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.code_tables import below, prefix_bars
from genrec_lab.viz.explorer.compare import tokenizer_match
from genrec_lab.viz.explorer.state import EXPLORER_VIEWS, ExplorerState, Shown
from genrec_lab.viz.layout import untitled
from genrec_lab.viz.projection import Projection
from genrec_lab.viz.text import counted

Watch = Callable[[str, int], tuple[BeamTree, str]]
IntArray = npt.NDArray[np.int64]
Answer = dict[str, Any]

_MOST_ROWS, _NOWHERE = 20, -1
_STILL = ("code", "prefix", "words", "title", "items", "interactions")


class Explorer(anywidget.AnyWidget):
    """The explorer as a widget.

    maps: projections of the residuals by name, or functions that compute one. watch: function from a method
    and a row of the test part to a beam search and the line of Python that recreates it, or None without a
    recommender. mode: "light", "dark", or None to follow the page that contains the widget.
    """

    _esm = traitlets.Unicode(html_file.script()).tag(sync=True)
    _css = traitlets.Unicode(html_file.style_sheet()).tag(sync=True)
    shell = traitlets.Unicode(html_file.shell()).tag(sync=True)
    mode = traitlets.Unicode("page").tag(sync=True)

    def __init__(
        self,
        state: ExplorerState,
        *,
        maps: Mapping[str, Projection | Callable[[], Projection]] | None = None,
        watch: Watch | None = None,
        mode: theme.Mode | None = None,
    ) -> None:
        self.state, self.shown, self._dark = state, Shown(), mode == "dark"
        state.maps, state.watcher = {**state.maps, **(maps or {})}, watch or state.watcher
        self.tab, self.method, self.colour = (
            "",
            points.methods(state)[0],
            next(iter(points.colourings(state))),
        )
        self._drawn: tuple[str, int] | None = None
        self._places = points.places(state, points.BY_CODES, 0)
        super().__init__(mode=mode or "page")
        self.on_msg(lambda _, content, buffers: self.handle(content, buffers))
        state.watch(lambda _: self.refresh())

    def handle(self, content: Any, buffers: Sequence[Any] = ()) -> None:
        """Handle a request of the page; errors are shown on the page."""
        act = content.get("act") if isinstance(content, dict) else None
        if not isinstance(act, str) or act not in _ACTS:
            return
        try:
            _ACTS[act](self, content, buffers)
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError, OSError) as error:
            self.answer({"kind": "said", "text": str(error)})

    def answer(self, content: Answer, *buffers: bytes) -> None:
        """Send an answer to the page."""
        self.send(content, list(buffers))

    def refresh(self, said: str = "") -> None:
        """Redraw everything from the state."""
        self.answer(answers.selected(self.state, said))
        self._draw_map()
        self._draw_tab()

    def show_view(self, name: str) -> None:
        """Open a view below; an empty name closes it."""
        if name:
            EXPLORER_VIEWS.find(name)
        self.tab = name
        self._draw_tab()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Add a table to the widget for pages without a kernel: a saved notebook, a viewer, a repository."""
        bundle = super()._repr_mimebundle_(**options)
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle or {},)
        data = {**data, "text/html": self._still_table()}
        return (data, *metadata) if metadata else data

    def _still_table(self) -> str:
        frame = below(self.state).frame
        if "items" in frame.columns:
            frame = frame.filter(frame["items"] > 0).sort("items", descending=True, maintain_order=True)
        shown = [name for name in _STILL if name in frame.columns]
        rows = frame.select(shown).head(_MOST_ROWS).rows()
        return html_file.page("still.html", name=self.state.catalogue.name, columns=shown, rows=rows)

    # --- requests of the page

    def _start(self, content: Answer, _: object) -> None:
        self._dark, self._drawn = bool(content.get("dark")), None
        self.answer(answers.start(self.state))
        self.refresh()

    def _select(self, content: Answer, _: object) -> None:
        known = {"prefix", "level", "domain", "item", "everywhere", "lasso"}
        changes = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
            if name in known
        }
        self.state.select(**changes)

    def _lasso(self, _: object, buffers: Sequence[Any]) -> None:
        # With counts, numpy sorts, which is much faster here than the hash table that it uses without them.
        items, _ = np.unique(np.frombuffer(buffers[0], dtype=np.int32), return_counts=True)
        gathered = tuple(items.tolist()) if items.size else None
        self.state.select(lasso=gathered)

    def _search(self, content: Answer, _: object) -> None:
        self.answer(answers.hits(self.state, str(content["text"])))

    def _hover(self, content: Answer, _: object) -> None:
        if 0 <= int(content["item"]) < self.state.catalogue.n_items:
            self.answer(answers.hover(self.state, int(content["item"])))

    def _choose(self, content: Answer, _: object) -> None:
        self.state.choices[str(content["name"])] = str(content["value"])
        self._draw_tab()

    def _epoch(self, content: Answer, _: object) -> None:
        """Show the codes of an epoch, or the final ones, everywhere."""
        self.state.show_epoch(int(content["value"]) if content["value"] else None)
        known = points.colourings(self.state)
        self.colour = self.colour if self.colour in known else next(iter(known))
        self._drawn = self._drawn and (self._drawn[0], _NOWHERE)  # places by codes have changed
        self.answer(answers.start(self.state) | {"kind": "codes"})
        self.refresh()

    def _mark(self, content: Answer, _: object) -> None:
        if self.shown.click is not None:
            self.state.select(**self.shown.click(str(content["id"])))

    def _theme(self, content: Answer, _: object) -> None:
        self._dark = bool(content.get("dark"))
        self._draw_tab()

    def _map(self, content: Answer, _: object) -> None:
        self.method = _one_of(points.methods(self.state), "map", str(content["method"]))
        self._draw_map()

    def _colour(self, content: Answer, _: object) -> None:
        self.colour = _one_of(points.colourings(self.state), "colour", str(content["by"]))
        self._draw_map()

    def _watch(self, content: Answer, _: object) -> None:
        if self.state.watcher is None:
            raise ValueError("There is no recommender to watch yet.")
        before = self.state.selection
        self.state.watch_beam(*self.state.watcher(str(content["method"]), int(content["row"])))
        target = self.state.beam and self.state.beam.target_item
        if target is None or self.state.select(item=target) == before:
            self._draw_tab()

    def _csv(self, _: object, __: object) -> None:
        text = self.state.numbers(self.tab).write_csv(quote_style="non_numeric")
        self.answer({"kind": "download", "name": f"{self.tab.lower() or 'codes'}.csv", "text": text})

    def _python(self, _: object, __: object) -> None:
        self.answer({"kind": "code", "text": self.state.python(self.tab)})

    def _keep(self, content: Answer, _: object) -> None:
        kept = self.state.save_slice(str(content["name"]))
        self.refresh(f"{counted(len(kept.items), 'item')} kept as “{kept.name}”")

    def _slice(self, content: Answer, _: object) -> None:
        if content["name"]:
            self.state.select(prefix=(), lasso=self.state.load_slice(str(content["name"])).items)

    def _write(self, content: Answer, _: object) -> None:
        """Write a run file to try a remedy."""
        file = self.state.write_remedy(str(content["setting"]), str(content["value"]))
        self.answer({"kind": "said", "text": f"Written: {file}. Try it with genrec run."})

    def _script(self, content: Answer, _: object) -> None:
        if content.get("name") == "plotly":
            self.answer({"kind": "script", "name": "plotly", "text": get_plotlyjs()})

    # --- drawing

    def _draw_map(self) -> None:
        state, level = self.state, self.state.selection.level
        if self._drawn != (self.method, level):
            found = points.places(state, self.method, level)
            # A map that is the same at every level is not sent again.
            same = self._drawn is not None and self._drawn[0] == self.method
            if not same or not np.array_equal(found, self._places, equal_nan=True):
                both = np.ascontiguousarray(found.T, dtype=np.float32)
                self.answer({"kind": "points", "method": self.method}, both.tobytes())
            self._places, self._drawn = found, (self.method, level)
        coloured = points.coloured(state, self.colour, self._places)
        inside = np.zeros(state.catalogue.n_items, dtype=np.uint8)
        inside[state.items()] = 1
        content = {"kind": "colours", "by": self.colour, "palette": coloured.palette, "names": coloured.names}
        content |= {"labels": coloured.labels, "said": coloured.said}
        self.answer(content, coloured.values.astype(np.int16).tobytes(), inside.tobytes())

    def _draw_tab(self) -> None:
        self.shown = Shown()
        if not self.tab:
            return
        try:
            self.shown = self.state.view(self.tab)
        except Exception as error:
            # A user's view may raise any error; the rest of the page must still work.
            self.shown = Shown(said=[f"The view {self.tab!r} failed: {type(error).__name__}: {error}"])
            self.answer(tab_of(self.state, self.tab, self.shown, self._mode))
            raise RuntimeError(self.shown.said[0]) from error
        self.answer(tab_of(self.state, self.tab, self.shown, self._mode))

    @property
    def _mode(self) -> theme.Mode:
        return "dark" if self._dark else "light"


_ACTS: dict[str, Callable[[Explorer, Answer, Sequence[Any]], object]] = {
    name: getattr(Explorer, f"_{name}")
    for name in (
        *("start", "select", "lasso", "search", "hover", "choose", "mark"),
        *("theme", "map", "colour", "watch", "epoch"),
        *("csv", "python", "keep", "slice", "write", "script"),
    )
} | {
    "back": lambda self, *_: self.state.back(),
    "forward": lambda self, *_: self.state.forward(),
    "tab": lambda self, content, _: self.show_view(str(content["name"])),
}


def _one_of(known: Iterable[str], what: str, name: str) -> str:
    if name not in known:
        raise ValueError(f"{what}: {name!r}, expected one of {list(known)}")
    return name


@cache
def _template(mode: theme.Mode) -> Answer:
    made: Answer = theme.template(mode).to_plotly_json()
    return made


def tab_of(state: ExplorerState, name: str, shown: Shown, mode: theme.Mode) -> Answer:
    """Return a view in the page's format; titles and notes of figures are written above them."""
    parts: list[Answer] = []
    for one in shown.tables:
        parts.append({"title": one.title, "note": one.note, "table": answers.table(one)})
    for figure in shown.figures:
        content, title, note = untitled(figure)
        content["layout"]["template"] = _template(mode)
        click = shown.click is not None
        parts.append({"title": title, "note": note, "figure": content, "click": click, "wide": True})
    items: list[int] = []
    if shown.beside is not None:
        title, cards = shown.beside
        items = [item for item, _ in cards]
        parts.append({"title": title, "cards": [list(card) for card in cards]})
    choices = [vars(one) | {"values": list(one.values)} for one in shown.choices]
    return {
        "kind": "tab",
        "name": name,
        "said": list(shown.said),
        "choices": choices,
        "parts": parts,
        "items": answers.facts(state, items),
    }


class Explained(widgets.HTML):
    """A sentence shown if the explorer cannot be opened."""

    def __init__(self, why: str) -> None:
        super().__init__(html_file.page("still.html", note=why))


def still(state: ExplorerState, mode: theme.Mode = "light") -> go.Figure:
    """Return a figure to show where widgets do not work: two tokenizers matched, or the codes."""
    if state.two is not None:
        return theme.themed(tokenizer_match(state.two), mode)
    return theme.themed(prefix_bars(state, seed=state.catalogue.seed), mode)
