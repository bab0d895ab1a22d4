"""The explorer in the browser: one widget around an `ExplorerState`; the page is in `static`.

The page sends `{"act": …}` and Python answers with `{"kind": …}`. A single selection controls all parts.
Titles are data: they are sent as JSON and written as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import answers, html_file, points
from genrec_lab.viz.explorer.code_tables import below, prefix_bars
from genrec_lab.viz.explorer.compare import tokenizer_match
from genrec_lab.viz.explorer.state import EXPLORER_VIEWS, ExplorerState, Shown
from genrec_lab.viz.layout import untitled
from genrec_lab.viz.text import counted

Answer = dict[str, Any]

_MOST_ROWS, _NOWHERE = 20, -1
_STILL = ("code", "prefix", "words", "title", "items", "interactions")


class Explorer(anywidget.AnyWidget):
    """The explorer as a widget; mode: "light", "dark", or None to follow the page that contains it."""

    _esm = traitlets.Unicode(html_file.script()).tag(sync=True)
    _css = traitlets.Unicode(html_file.style_sheet()).tag(sync=True)
    shell = traitlets.Unicode(html_file.page("shell.html")).tag(sync=True)
    mode = traitlets.Unicode("page").tag(sync=True)

    def __init__(self, state: ExplorerState, *, mode: theme.Mode | None = None) -> None:
        self.state, self.shown, self._dark = state, Shown(), mode == "dark"
        self.tab, self.method = "", points.methods(state)[0]
        self.colour = next(iter(points.colourings(state)))
        self._drawn: tuple[str, int] | None = None
        self._places = points.places(state, points.BY_CODES, 0)
        super().__init__(mode=mode or "page")
        self.on_msg(lambda _, content, buffers: self.handle(content, buffers))
        state.watch(lambda _: self.refresh())

    def handle(self, content: Any, buffers: Sequence[Any] = ()) -> None:
        """Handle a request of the page; errors are shown on the page."""
        try:
            if isinstance(content, dict):
                self._act(content.get("act"), content, buffers)
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError, OSError) as error:
            self.answer({"kind": "said", "text": str(error)})

    def _act(self, act: object, content: Answer, buffers: Sequence[Any]) -> None:
        state = self.state
        match act:
            case "start":
                self._dark, self._drawn = bool(content.get("dark")), None
                self.answer(answers.start(state))
                self.refresh()
            case "select":
                known = {name: content[name] for name in vars(state.selection) if name in content}
                lists = {name: tuple(one) for name, one in known.items() if isinstance(one, list)}
                state.select(**known | lists)
            case "lasso":
                # With counts, numpy sorts, which is much faster here than the hash table that it uses
                # without them.
                items, _ = np.unique(np.frombuffer(buffers[0], dtype=np.int32), return_counts=True)
                state.select(lasso=tuple(items.tolist()) or None)
            case "back":
                state.back()
            case "forward":
                state.forward()
            case "search":
                self.answer(answers.hits(state, str(content["text"])))
            case "hover":
                if 0 <= int(content["item"]) < state.catalogue.n_items:
                    self.answer(answers.hover(state, int(content["item"])))
            case "tab":
                self.show_view(str(content["name"]))
            case "choose":
                state.choices[str(content["name"])] = str(content["value"])
                self._draw_tab()
            case "mark":
                if self.shown.click is not None:
                    state.select(**self.shown.click(str(content["id"])))
            case "theme":
                self._dark = bool(content.get("dark"))
                self._draw_tab()
            case "map":
                self.method = _one_of(points.methods(state), "map", str(content["method"]))
                self._draw_map()
            case "colour":
                self.colour = _one_of(points.colourings(state), "colour", str(content["by"]))
                self._draw_map()
            case "epoch":
                state.show_epoch(int(content["value"]) if content["value"] else None)
                colours = points.colourings(state)
                self.colour = self.colour if self.colour in colours else next(iter(colours))
                self._drawn = self._drawn and (self._drawn[0], _NOWHERE)  # places by codes have changed
                self.answer(answers.start(state) | {"kind": "codes"})
                self.refresh()
            case "watch":
                if state.watcher is None:
                    raise ValueError("There is no recommender to watch yet.")
                before = state.selection
                state.watch_beam(*state.watcher(str(content["method"]), int(content["row"])))
                target = state.beam and state.beam.target_item
                if target is None or state.select(item=target) == before:
                    self._draw_tab()
            case "csv":
                text = state.numbers(self.tab).write_csv(quote_style="non_numeric")
                self.answer({"kind": "download", "name": f"{self.tab.lower() or 'codes'}.csv", "text": text})
            case "python":
                self.answer({"kind": "code", "text": state.python(self.tab)})
            case "keep":
                kept = state.save_slice(str(content["name"]))
                self.refresh(f"{counted(len(kept.items), 'item')} kept as “{kept.name}”")
            case "slice":
                if content["name"]:
                    state.select(prefix=(), lasso=state.load_slice(str(content["name"])).items)
            case "write":
                file = state.write_remedy(str(content["setting"]), str(content["value"]))
                self.answer({"kind": "said", "text": f"Written: {file}. Try it with genrec run."})
            case "script":
                if content.get("name") == "plotly":
                    self.answer({"kind": "script", "name": "plotly", "text": get_plotlyjs()})

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
        mode: theme.Mode = "dark" if self._dark else "light"
        try:
            self.shown = self.state.view(self.tab)
        except Exception as error:
            # A user's view may raise any error; the rest of the page must still work.
            self.shown = Shown(said=[f"The view {self.tab!r} failed: {type(error).__name__}: {error}"])
            self.answer(tab_of(self.state, self.tab, self.shown, mode))
            raise RuntimeError(self.shown.said[0]) from error
        self.answer(tab_of(self.state, self.tab, self.shown, mode))


def _one_of(known: Iterable[str], what: str, name: str) -> str:
    if name not in known:
        raise ValueError(f"{what}: {name!r}, expected one of {list(known)}")
    return name


def tab_of(state: ExplorerState, name: str, shown: Shown, mode: theme.Mode) -> Answer:
    """Return a view in the page's format; titles and notes of figures are written above them."""
    parts: list[Answer] = []
    for one in shown.tables:
        parts.append({"title": one.title, "note": one.note, "table": answers.table(one)})
    for figure in shown.figures:
        content, title, note = untitled(figure)
        content["layout"]["template"] = theme.template(mode).to_plotly_json()
        click = shown.click is not None
        parts.append({"title": title, "note": note, "figure": content, "click": click, "wide": True})
    items: list[int] = []
    if shown.beside is not None:
        title, beside = shown.beside
        items = [item for item, _ in beside]
        parts.append({"title": title, "cards": [list(card) for card in beside]})
    choices = [vars(one) | {"values": list(one.values)} for one in shown.choices]
    said, cards = list(shown.said), answers.facts(state, items)
    return {"kind": "tab", "name": name, "said": said, "choices": choices, "parts": parts, "items": cards}


class Explained(widgets.HTML):
    """A sentence shown if the explorer cannot be opened."""

    def __init__(self, why: str) -> None:
        super().__init__(html_file.page("still.html", note=why))


def still(state: ExplorerState, mode: theme.Mode = "light") -> go.Figure:
    """Return a figure to show where widgets do not work: two tokenizers matched, or the codes."""
    two, seed = state.two, state.catalogue.seed
    return theme.themed(prefix_bars(state, seed=seed) if two is None else tokenizer_match(two), mode)
