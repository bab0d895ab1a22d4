"""The explorer in the browser: widgets around an `ExplorerState`, whose figures are the static twins.

One selection moves everything: the path, the codes below, the cards, and whichever tab is open. Tabs are
drawn when they are looked at. Titles are data: every HTML here is made of escaped text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import markup
from genrec_lab.viz.explorer.atlas_file import ATLAS_FILE, write_atlas
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.canvas import Canvas
from genrec_lab.viz.explorer.cards import Cards, of_beam, of_items, of_selection
from genrec_lab.viz.explorer.controls import NOTHING, Controls
from genrec_lab.viz.explorer.exports import EXPORTS, download, write_png
from genrec_lab.viz.explorer.state import ExplorerState
from genrec_lab.viz.explorer.tabs import TABS, Pick, Shown
from genrec_lab.viz.layout import counted, shorten
from genrec_lab.viz.projection import Projection

Watch = Callable[[str, int], tuple[BeamTree, str]]
IntArray = npt.NDArray[np.int64]

_MOST_HITS = 20


class ExplorerView(Controls):
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
        self.state, self.maps, self._watch_user = state, dict(maps or {}), watch
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

    def pick(self, chosen: Pick) -> None:
        """Select what was clicked on: a prefix, an item, or a group of a collision."""
        self._try(lambda: self.state.select(**chosen))

    def find(self, text: str) -> None:
        """Search, list the hits, and say what was found; codes of a prefix that items have are selected."""
        found = self.state.search(text, _MOST_HITS)
        if found.prefix is not None and found.prefix_items:
            self.pick({"prefix": found.prefix})
        self.message.value = markup.line(str(found), "genrec-said")
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
        self._quiet = True
        try:
            self._set_controls()
        finally:
            self._quiet = False
        self.message.value, self.export.value, self.gathered = "", "", None
        self._dress(self.mode)
        self._draw_tab()
        self._draw_cards()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """Beside the widget a table, for pages without a kernel: a saved notebook, a viewer, a repository."""
        bundle = super()._repr_mimebundle_(**options) or {}
        return {
            **bundle,
            "text/html": markup.still_life(self.state.catalogue.name, self.state.panel("children")),
        }

    # --- how it listens

    def _listen(self) -> None:
        self.canvas.listen(self._clicked, self._lassoed)
        self.back.on_click(lambda _: self.state.back())
        self.forward.on_click(lambda _: self.state.forward())
        self.domain.observe(self._on(lambda value: self.state.select(domain=value or None)), "value")
        self.level.observe(self._on(lambda value: self.state.select(level=value)), "value")
        self.down.observe(self._on(self._go_down), "value")
        self.dark.observe(self._on(lambda _: self.refresh()), "value")
        self.search.observe(self._on(self.find), "value")
        self.hits.observe(self._on(self._open_hit), "value")
        self.tab.observe(self._on(lambda _: self.refresh()), "value")
        self.go.on_click(lambda _: self.watch(self.method.value, self.row.value))
        self.group.observe(self._on(lambda _: self.refresh()), "value")
        self.csv.on_click(lambda _: self._try(self._show_csv))
        self.python.on_click(lambda _: self._try(self._show_python))
        self.png.on_click(lambda _: self._try(self._write_png))
        self.atlas.on_click(lambda _: self._try(self._write_atlas))
        self.keep.on_click(lambda _: self._try(self._keep_slice))
        self.slices.observe(self._on(self._open_slice), "value")
        for chip, tab in self.chips:
            chip.on_click(lambda _, tab=tab: setattr(self.tab, "value", tab))

    def _on(self, act: Callable[[Any], object]) -> Callable[[Any], None]:
        """An observer that keeps still while the view itself sets the controls."""

        def observe(change: Any) -> None:
            if not self._quiet:
                self._try(lambda: act(change["new"]))

        return observe

    def _try(self, act: Callable[[], object]) -> None:
        """Do what the user asked; what cannot be done is said above the tabs."""
        try:
            act()
        except (ValueError, KeyError, RuntimeError) as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self.message.value = markup.line(text, "genrec-said")

    def _follow_page(self, change: Any) -> None:
        if change["new"] is not None:
            self.dark.value = change["new"]

    def _on_card(self, _: object, content: Any, __: object) -> None:
        # What the page sends is checked as an item of the catalogue by the selection itself.
        if isinstance(content, dict) and type(content.get("item")) is int:
            self.pick({"item": content["item"]})

    def _clicked(self, found: str) -> None:
        if self.shown.click is not None:
            click = self.shown.click
            self._try(lambda: self.state.select(**click(found)))

    def _lassoed(self, found: list[str]) -> None:
        if self.shown.lasso:
            self._try(lambda: self.gather(np.array([int(item) for item in found], dtype=np.int64)))

    def _open_hit(self, item: int | None) -> None:
        if item is not None:
            self.state.select(item=item)

    def _go_down(self, code: str) -> None:
        if code != NOTHING:
            self.state.select(prefix=(*self.state.selection.prefix, int(code)))

    def _open_slice(self, name: str) -> None:
        if name != NOTHING:
            items = self.state.load_slice(name).items
            self.gather(np.array(items, dtype=np.int64), f"Slice “{name}”")

    # --- how it draws

    def _set_controls(self) -> None:
        selected, children = self.state.selection, self.state.children()
        self.back.disabled = not self.state.can_go_back
        self.forward.disabled = not self.state.can_go_forward
        self.level.value, self.domain.value = selected.level, selected.domain or ""
        self._list_children(children, self.state.labels())
        self._list_slices(self.state.slice_names())
        self._draw_path(self.state.breadcrumb(), lambda prefix: self.pick({"prefix": prefix}))

    def _draw_cards(self) -> None:
        named, beam = self.gathered or self.shown.beside, self.state.beam
        if named is None and self.tab.value == "Beam" and beam is not None and beam.results:
            self.cards.show(of_beam(self.state.catalogue, beam, self.state.selection.item))
        elif named is None:
            self.cards.show(of_selection(self.state))
        else:
            name, items = named
            self.cards.show(of_items(self.state.catalogue, items, name))

    def _draw_tab(self) -> None:
        self._show_options(self.tab.value)
        self.shown = TABS[self.tab.value].draw(self.state, self.maps, self.group.value)
        self.canvas.show(self.shown, self.mode)

    # --- exports

    def _panel(self) -> Any:
        name = TABS[self.tab.value].panel
        if self.gathered is not None and name == "items":
            return self.state.panel(name, items=tuple(self.gathered[1].tolist()))
        return self.state.panel(name, **({"group": self.group.value} if name == "policies" else {}))

    def _show_csv(self) -> None:
        panel = self._panel()
        link = download(panel)
        if link is None:
            self._say(panel.note or "This panel is too large for a link; run its Python.")
        else:
            self.export.value = link

    def _show_python(self) -> None:
        self.export.value = markup.code(self._panel().python)

    def _write_png(self) -> None:
        """The figures of the open tab, as they stand there, with their titles."""
        folder = self.state.records.folder
        if folder is None:
            raise ValueError("PNG: this state has no run folder; use the camera above a figure")
        if not self.shown.figures:
            raise ValueError("PNG: this tab has no figure now")
        self.export.value = markup.line("Drawing …")
        figures = [theme.themed(figure, self.mode) for figure in self.shown.figures]
        files = write_png(figures, folder / EXPORTS, self.tab.value.lower())
        self.export.value = markup.line(f"Written: {', '.join(str(file) for file in files)}")

    def _write_atlas(self) -> None:
        """The whole catalogue for embedding-atlas, by the first map at the selected level."""
        folder = self.state.records.folder
        if folder is None:
            raise ValueError("atlas: this state has no run folder; use write_atlas(catalogue, file)")
        selected = self.state.selection
        length = max(1, len(selected.prefix))
        made = write_atlas(self.state.catalogue, folder / ATLAS_FILE, self.maps, selected.level, length)
        mapped = f", {made.mapped:,} of them on the map" if made.mapped else ", without a map"
        self.export.value = markup.line(f"{counted(made.items, 'item')} written{mapped}. Open them with:")
        self.export.value += markup.code(made.command)

    def _keep_slice(self) -> None:
        items = None if self.gathered is None else self.gathered[1]
        kept = self.state.save_slice(self.slice_name.value, items)
        self._quiet = True
        try:
            self._list_slices(self.state.slice_names())
        finally:
            self._quiet = False
        self.export.value = markup.line(f"{counted(len(kept.items), 'item')} kept as “{kept.name}”.")


class Explained(widgets.HTML):
    """A sentence in place of an explorer that cannot be opened."""

    def __init__(self, why: str) -> None:
        super().__init__(markup.line(why))


def still(state: ExplorerState, mode: theme.Mode = "light") -> go.Figure:
    """The first view as a figure, for where no widget can live: two tokenizers matched, or the codes."""
    shown = TABS["Codes" if state.two is None else "Compare"].draw(state, {}, 0)
    return theme.themed(shown.figures[0], mode)
