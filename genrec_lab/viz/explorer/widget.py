"""The explorer in the browser: widgets around an `ExplorerState`, whose figures are the static ones.

One selection moves everything: the path, the codes below, the cards, and whichever view is open. Views are
drawn when they are looked at. Titles are data: every HTML here is made of escaped text.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import markup
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.canvas import Canvas
from genrec_lab.viz.explorer.cards import Cards, of_beam, of_items, of_selection
from genrec_lab.viz.explorer.controls import NOTHING, Controls
from genrec_lab.viz.explorer.exports import ATLAS_FILE, EXPORTS, write_atlas, write_png
from genrec_lab.viz.explorer.state import EXPLORER_VIEWS, ExplorerState, Panel, Shown
from genrec_lab.viz.projection import Projection
from genrec_lab.viz.text import counted, shorten

Watch = Callable[[str, int], tuple[BeamTree, str]]
IntArray = npt.NDArray[np.int64]

_MOST_HITS = 20
_MOST_ROWS = 20
_LARGEST_LINK = 8_000_000
"""Bytes of CSV that a link in the page may hold; a larger panel is exported by its Python."""


class Explorer(Controls):
    """The explorer as a widget.

    maps: projections of the residuals by name. watch: searches for a test user, by method and row of the
    test part, and says by which line of Python; None where there is no recommender. methods: those that can
    be watched. mode: "light" or "dark", None for that of the page around it.
    """

    def __init__(
        self,
        state: ExplorerState,
        *,
        maps: Mapping[str, Projection] | None = None,
        watch: Watch | None = None,
        methods: Sequence[str] = (),
        mode: theme.Mode | None = None,
    ) -> None:
        self.state, self._watch_user = state, watch
        state.maps = dict(maps or {})
        self.gathered: tuple[str, IntArray] | None = None
        self.shown = Shown()
        self._quiet = False
        super().__init__(state, methods, dark=mode == "dark")
        self.canvas, self.cards = Canvas(), Cards()
        self.cards.on_msg(self._on_card)
        if mode is None:
            self.cards.observe(self._follow_page, "page_is_dark")
        self._lay_out(self.canvas, self.cards)
        self._listen()
        state.watch(lambda _: self.refresh())
        self.refresh()

    @property
    def mode(self) -> theme.Mode:
        """Light or dark, as the button says."""
        return "dark" if self.dark.value else "light"

    # --- what the user does

    def pick(self, chosen: dict[str, Any]) -> None:
        """Select what was clicked on, by fields of the selection: a prefix, or an item."""
        self._try(lambda: self.state.select(**chosen))

    def find(self, text: str) -> None:
        """Search, list the hits, and say what was found; codes of a prefix that items have are selected."""
        found = self.state.search(text, _MOST_HITS)
        if found.prefix is not None and found.prefix_items:
            self.pick({"prefix": found.prefix})
        self._say(str(found))
        cards = self.state.catalogue.cards(found.items)
        rows = zip(cards["title"], cards["codes"], found.items.tolist(), strict=True)
        self._list_hits([(f"{shorten(title, 60)}  ({codes})", item) for title, codes, item in rows])

    def watch(self, method: str, row: int) -> None:
        """Search for a test user and show the beam."""
        if self._watch_user is None:
            self._say("There is no recommender to watch yet.")
            return
        watch, self.message.value = self._watch_user, ""
        self._try(lambda: self.state.watch_beam(*watch(method, row)))
        if not self.message.value:
            self.refresh()

    def gather(self, items: IntArray, name: str = "In the lasso") -> None:
        """Show items beside the selection, to look at or to keep under a name; none lets go of them.

        Raises ValueError for items that the catalogue does not have.
        """
        n_items = self.state.catalogue.n_items
        if items.size and not (items.min() >= 0 and items.max() < n_items):
            raise ValueError(f"items: {items.min()}..{items.max()}, expected 0..{n_items - 1}")
        self.gathered = (name, np.sort(items)) if items.size else None
        self.export.value = ""
        self._draw_cards()

    def refresh(self) -> None:
        """Draw everything anew from the state."""
        self._quietly(self._set_controls)
        self.message.value, self.export.value, self.gathered = "", "", None
        self._dress(self.mode)
        self.state.group = self.group.value
        self._show_options(self.tab.value)
        self._draw_view(self.tab.value)
        self._draw_cards()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """Beside the widget a table, for pages without a kernel: a saved notebook, a viewer, a repository."""
        panel, names = self.state.panel("children"), ["code", "words", "items", "interactions"]
        rows: list[tuple[Any, ...]] = []
        if not panel.frame.is_empty():
            used = panel.frame.filter(pl.col("items") > 0).sort("items", "code", descending=[True, False])
            rows = used.head(_MOST_ROWS).select(names).rows()
        still = markup.piece("still", self.state.catalogue.name, panel.note, names, rows)
        return {**(super()._repr_mimebundle_(**options) or {}), "text/html": still}

    # --- how it listens

    def _listen(self) -> None:
        self.canvas.listen(self._on_canvas)
        self.back.on_click(lambda _: self.state.back())
        self.forward.on_click(lambda _: self.state.forward())
        self.go.on_click(lambda _: self.watch(self.method.value, self.row.value))
        acts: list[tuple[widgets.Widget, Callable[[Any], object]]] = [
            (self.domain, lambda value: self.state.select(domain=value or None)),
            (self.level, lambda value: self.state.select(level=value)),
            (self.down, self._go_down),
            (self.search, self.find),
            (self.hits, lambda item: item is None or self.state.select(item=item)),
            (self.slices, self._open_slice),
            *((control, lambda _: self.refresh()) for control in (self.dark, self.tab, self.group)),
        ]
        for control, act in acts:
            control.observe(self._on(act), "value")
        for button, export in (
            (self.csv, self._show_csv),
            (self.python, self._show_python),
            (self.png, self._write_png),
            (self.atlas, self._write_atlas),
            (self.keep, self._keep_slice),
        ):
            button.on_click(lambda _, export=export: self._try(export))
        for chip, tab in self.chips:
            chip.on_click(lambda _, tab=tab: setattr(self.tab, "value", tab))

    def _on(self, act: Callable[[Any], object]) -> Callable[[Any], None]:
        """An observer that keeps still while the explorer itself sets the controls."""

        def observe(change: Any) -> None:
            if not self._quiet:
                self._try(lambda: act(change["new"]))

        return observe

    def _quietly(self, act: Callable[[], object]) -> None:
        self._quiet = True
        try:
            act()
        finally:
            self._quiet = False

    def _try(self, act: Callable[[], object]) -> None:
        """Do what the user asked; what cannot be done is said above the tabs."""
        try:
            act()
        except (ValueError, KeyError, RuntimeError) as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self.message.value = markup.piece("line", text, "genrec-said")

    def _follow_page(self, change: Any) -> None:
        if change["new"] is not None:
            self.dark.value = change["new"]

    def _on_card(self, _: object, content: Any, __: object) -> None:
        # What the page sends is checked as an item of the catalogue by the selection itself.
        if isinstance(content, dict) and type(content.get("item")) is int:
            self.pick({"item": content["item"]})

    def _on_canvas(self, kind: str, found: list[str]) -> None:
        click = self.shown.click
        if kind == "lasso" and self.shown.lasso:
            self._try(lambda: self.gather(np.array([int(item) for item in found], dtype=np.int64)))
        elif kind == "click" and click is not None and found:
            self._try(lambda: self.state.select(**click(found[0])))

    def _go_down(self, code: str) -> None:
        if code != NOTHING:
            self.state.select(prefix=(*self.state.selection.prefix, int(code)))

    def _open_slice(self, name: str) -> None:
        if name != NOTHING:
            items = self.state.load_slice(name).items
            self.gather(np.array(items, dtype=np.int64), f"Slice “{name}”")

    # --- how it draws

    def _set_controls(self) -> None:
        selected = self.state.selection
        self.back.disabled = not self.state.can_go_back
        self.forward.disabled = not self.state.can_go_forward
        self.level.value, self.domain.value = selected.level, selected.domain or ""
        self._list_children(self.state.children(), self.state.labels())
        self._list_slices(self.state.slice_names())
        self._draw_path(self.state.breadcrumb(), lambda prefix: self.pick({"prefix": prefix}))

    def _draw_view(self, name: str) -> None:
        try:
            self.shown = EXPLORER_VIEWS.find(name)(self.state)
            self.canvas.show(self.shown, self.mode)
        except Exception as error:
            self.shown = Shown(said=[f"The view {name!r} failed: {type(error).__name__}: {error}"])
            self.canvas.show(self.shown, self.mode)
            raise RuntimeError(self.shown.said[0]) from error

    def _draw_cards(self) -> None:
        named, beam, catalogue = self.gathered or self.shown.beside, self.state.beam, self.state.catalogue
        if named is not None:
            name, items = named
            self.cards.show(of_items(catalogue, items, name))
        elif self.tab.value == "Beam" and beam is not None and beam.results:
            self.cards.show(of_beam(catalogue, beam, self.state.selection.item))
        else:
            self.cards.show(of_selection(self.state))

    # --- exports

    def _panel(self) -> Panel:
        if not self.shown.panel:
            raise ValueError(f"The view {self.tab.value!r} has no numbers to export.")
        gathered = self.gathered if self.shown.panel == "items" else None
        options = self.shown.options if gathered is None else {"items": tuple(gathered[1].tolist())}
        return self.state.panel(self.shown.panel, **options)

    def _folder(self, what: str, otherwise: str) -> Any:
        if self.state.records.folder is None:
            raise ValueError(f"{what}: this state has no run folder; {otherwise}")
        return self.state.records.folder

    def _show_csv(self) -> None:
        panel = self._panel()
        content = panel.csv().encode()
        if not content or len(content) > _LARGEST_LINK:
            self._say(panel.note or "This panel is too large for a link; run its Python.")
        else:
            data = base64.b64encode(content).decode()
            self.export.value = markup.piece("download", panel.name, data, f"{panel.frame.height:,}")

    def _show_python(self) -> None:
        self.export.value = markup.piece("code", self._panel().python)

    def _write_png(self) -> None:
        """The figures of the open view, as they stand there, with their titles."""
        folder = self._folder("PNG", "use the camera above a figure")
        if not self.shown.figures:
            raise ValueError("PNG: this tab has no figure now")
        self.export.value = markup.piece("line", "Drawing …")
        figures = [theme.themed(figure, self.mode) for figure in self.shown.figures]
        files = write_png(figures, folder / EXPORTS, self.tab.value.lower())
        self.export.value = markup.piece("line", f"Written: {', '.join(str(file) for file in files)}")

    def _write_atlas(self) -> None:
        """The whole catalogue for embedding-atlas, by the first map at the selected level."""
        file = self._folder("atlas", "use write_atlas(catalogue, file)") / ATLAS_FILE
        selected = self.state.selection
        length = max(1, len(selected.prefix))
        made = write_atlas(self.state.catalogue, file, self.state.maps, selected.level, length)
        mapped = f", {made.mapped:,} of them on the map" if made.mapped else ", without a map"
        said = markup.piece("line", f"{counted(made.items, 'item')} written{mapped}. Open them with:")
        self.export.value = said + markup.piece("code", made.command)

    def _keep_slice(self) -> None:
        items = None if self.gathered is None else self.gathered[1]
        kept = self.state.save_slice(self.slice_name.value, items)
        self._quietly(lambda: self._list_slices(self.state.slice_names()))
        self.export.value = markup.piece("line", f"{counted(len(kept.items), 'item')} kept as “{kept.name}”.")


class Explained(widgets.HTML):
    """A sentence in place of an explorer that cannot be opened."""

    def __init__(self, why: str) -> None:
        super().__init__(markup.piece("line", why))


def still(state: ExplorerState, mode: theme.Mode = "light") -> go.Figure:
    """Return the first view as a figure, where no widget can live: two tokenizers matched, or the codes."""
    shown = EXPLORER_VIEWS.find("Codes" if state.two is None else "Compare")(state)
    return theme.themed(shown.figures[0], mode)
