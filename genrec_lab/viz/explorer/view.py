"""The explorer in the browser: widgets around an `ExplorerState`, whose figures are the static twins.

One selection moves everything: the path, the codes below, the page, and whichever tab is open. Tabs are drawn
when they are looked at. Titles are data: every HTML here is made of escaped text.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from genrec_lab.viz import theme
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.state import ExplorerState
from genrec_lab.viz.explorer.tabs import TABS, Pick, Shown
from genrec_lab.viz.layout import percent, shorten, untitled
from genrec_lab.viz.projection import Projection

Watch = Callable[[str, int], tuple[BeamTree, str]]
_EVERYWHERE = "all domains"
_MOST_HITS = 20
_WIDTH = 850
"""Pixels of a figure: what a notebook of JupyterLab leaves at 1,280 pixels, its side bar open."""
_LARGEST_LINK = 8_000_000
"""Bytes of CSV that a link in the page may hold; a larger panel is exported by its Python."""


class ExplorerView(widgets.VBox):
    """The explorer as a widget.

    maps: projections of the residuals by name. watch: searches for a test user, by method and row of the
    test part, and says by which line of Python; None where there is no recommender. methods: those that can
    be watched. mode: "light" or "dark".
    """

    def __init__(
        self,
        state: ExplorerState,
        *,
        maps: Mapping[str, Projection] | None = None,
        watch: Watch | None = None,
        methods: Sequence[str] = (),
        mode: theme.Mode = "light",
    ) -> None:
        self.state, self.maps, self._watch_user, self.mode = state, dict(maps or {}), watch, mode
        self._quiet = False
        self.chips, self.message = widgets.HTML(), widgets.HTML()
        self.path = widgets.HBox()
        self.export = widgets.HTML()
        self.body = widgets.VBox()
        self._make_controls(methods)
        super().__init__(
            [
                self.chips,
                widgets.HBox([self.back, self.forward, self.path, self.domain, self.level, self.dark]),
                widgets.HBox([self.search, self.hits]),
                self.message,
                self.tab,
                self.options,
                self.body,
                widgets.HBox([self.csv, self.python, self.slice_name, self.keep]),
                self.export,
            ]
        )
        state.watch(lambda _: self.refresh())
        self.refresh()

    # --- what the user does

    def pick(self, chosen: Pick) -> None:
        """Select what was clicked on: a prefix, an item, or a group of a collision."""
        self._try(lambda: self.state.select(**chosen))

    def find(self, text: str) -> None:
        """Search, list the hits, and say what was found; codes of a prefix that items have are selected."""
        found = self.state.search(text, _MOST_HITS)
        self.message.value = _line(str(found))
        cards = self.state.catalogue.cards(found.items)
        rows = zip(cards["title"], cards["codes"], found.items.tolist(), strict=True)
        self.hits.options = [(f"{shorten(title, 60)}  ({codes})", item) for title, codes, item in rows]
        self.hits.value = None
        self.hits.layout.display = "" if found.items.size else "none"
        if found.prefix is not None and found.prefix_items:
            prefix = found.prefix
            self._try(lambda: self.state.select(prefix=prefix))
            self.message.value = _line(str(found))

    def watch(self, method: str, row: int) -> None:
        """Search for a test user and show the beam."""
        if self._watch_user is None:
            self.message.value = _line("There is no recommender to watch yet.")
            return
        watch, self.message.value = self._watch_user, ""
        self._try(lambda: self.state.watch_beam(*watch(method, row)))
        if not self.message.value:
            self.refresh()

    def refresh(self) -> None:
        """Draw everything anew from the state."""
        self._quiet = True
        try:
            selected = self.state.selection
            self.back.disabled, self.forward.disabled = (
                not self.state.can_go_back,
                not self.state.can_go_forward,
            )
            self.level.value, self.domain.value = selected.level, selected.domain or ""
        finally:
            self._quiet = False
        self.message.value, self.export.value = "", ""
        self._draw_chips()
        self._draw_path()
        self._draw_tab()

    # --- how it is put together

    def _make_controls(self, methods: Sequence[str]) -> None:
        catalogue, small = self.state.catalogue, widgets.Layout(width="40px")
        self.back = widgets.Button(description="◂", tooltip="back", layout=small)
        self.forward = widgets.Button(description="▸", tooltip="forward", layout=small)
        self.back.on_click(lambda _: self.state.back())
        self.forward.on_click(lambda _: self.state.forward())
        # "" is all domains: to a drop-down None means that nothing is chosen, and it would stand empty.
        places = [(_EVERYWHERE, ""), *((shorten(name, 30), name) for name in catalogue.domains)]
        self.domain = widgets.Dropdown(options=places, layout=widgets.Layout(width="180px"))
        levels = [(f"level {level + 1}", level) for level in range(catalogue.levels)]
        self.level = widgets.Dropdown(options=levels, layout=widgets.Layout(width="110px"))
        self.domain.observe(self._on(lambda value: self.state.select(domain=value or None)), "value")
        self.level.observe(self._on(lambda value: self.state.select(level=value)), "value")
        self.dark = widgets.ToggleButton(
            value=self.mode == "dark", description="☾", tooltip="dark", layout=small
        )
        self.dark.observe(self._on(self._turn), "value")
        self.search = widgets.Text(
            placeholder="a part of a title, or codes as 12 › 4", continuous_update=False
        )
        self.search.observe(self._on(self.find), "value")
        self.hits = widgets.Dropdown(options=[], layout=widgets.Layout(width="480px", display="none"))
        self.hits.observe(self._on(self._open_hit), "value")
        self.tab = widgets.ToggleButtons(options=list(TABS), style={"button_width": "auto"})
        self.tab.observe(self._on(lambda _: self.refresh()), "value")
        self.method = widgets.Dropdown(options=list(methods), description="method")
        self.row = widgets.BoundedIntText(value=0, min=0, max=10**9, description="test user")
        self.go = widgets.Button(description="watch")
        self.go.on_click(lambda _: self.watch(self.method.value, self.row.value))
        self.group = widgets.BoundedIntText(value=0, min=0, max=10**9, description="group")
        self.group.observe(self._on(lambda _: self.refresh()), "value")
        self.options = widgets.HBox()
        self.csv = widgets.Button(description="CSV", tooltip="the numbers of this panel")
        self.python = widgets.Button(description="code", tooltip="the Python that makes this panel again")
        self.slice_name = widgets.Text(placeholder="name of a slice")
        self.keep = widgets.Button(
            description="save slice", tooltip="keep the selected items under this name"
        )
        self.csv.on_click(lambda _: self._try(self._show_csv))
        self.python.on_click(lambda _: self._try(self._show_python))
        self.keep.on_click(lambda _: self._try(self._keep_slice))

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
            self.message.value = _line(str(error))

    def _turn(self, dark: bool) -> None:
        self.mode = "dark" if dark else "light"
        self.refresh()

    def _open_hit(self, item: int | None) -> None:
        if item is not None:
            self.state.select(item=item)

    def _draw_chips(self) -> None:
        health, name = self.state.health, self.state.catalogue.name
        used = percent(sum(health.used) / (sum(health.used) + sum(health.dead)))
        chips = [
            name,
            f"{self.state.catalogue.n_items:,} items",
            f"used {used}",
            f"perplexity {' · '.join(f'{value:.0f}' for value in health.perplexity)}",
            f"dead {sum(health.dead)}",
            f"collisions {percent(health.collision_rate)}",
            f"Gini {' · '.join(f'{value:.2f}' for value in health.gini)}",
        ]
        self.chips.value = " &nbsp;│&nbsp; ".join(html.escape(chip) for chip in chips)

    def _draw_path(self) -> None:
        buttons = []
        for text, prefix in self.state.breadcrumb():
            button = widgets.Button(description=text, layout=widgets.Layout(width="auto"))
            button.on_click(lambda _, prefix=prefix: self.pick({"prefix": prefix}))
            button.disabled = text == "*"
            buttons.append(button)
        self.path.children = buttons

    def _draw_tab(self) -> None:
        shown: Shown = TABS[self.tab.value].draw(self.state, self.maps, self.group.value)
        controls = {"Beam": [self.method, self.row, self.go], "Collisions": [self.group]}
        self.options.children = controls.get(self.tab.value, [])
        parts: list[widgets.Widget] = [widgets.HTML(_line(text)) for text in shown.said]
        for figure in shown.figures:
            bare, title, note = untitled(figure)
            parts.append(widgets.HTML(f"<b>{html.escape(title)}</b><br>{html.escape(note)}"))
            if figure.data and figure.data[0].type == "table":
                parts.append(widgets.HTML(_table(figure.data[0])))
                continue
            drawn = go.FigureWidget(theme.themed(bare, self.mode))
            # Drawn before it stands in the page, plotly would take 700 pixels, too few for a table.
            drawn.update_layout(width=_WIDTH, autosize=False)
            for trace in drawn.data if shown.click is not None else ():
                trace.on_click(self._click(shown.click))
            parts.append(drawn)
        self.body.children = parts

    def _click(self, click: Callable[[str], Pick] | None) -> Callable[..., None]:
        def clicked(trace: Any, points: Any, _: Any) -> None:
            if points.point_inds and trace.ids is not None and click is not None:
                self.pick(click(str(trace.ids[points.point_inds[0]])))

        return clicked

    def _options_of_panel(self) -> dict[str, Any]:
        return {"group": self.group.value} if TABS[self.tab.value].panel == "policies" else {}

    def _show_csv(self) -> None:
        panel = self.state.panel(TABS[self.tab.value].panel, **self._options_of_panel())
        content = panel.csv().encode()
        if not content or len(content) > _LARGEST_LINK:
            self.message.value = _line(panel.note or "This panel is too large for a link; run its Python.")
            return
        data = base64.b64encode(content).decode()
        rows = f"{panel.frame.height:,} rows"
        self.export.value = (
            f'<a download="{panel.name}.csv" href="data:text/csv;base64,{data}">{panel.name}.csv</a> {rows}'
        )

    def _show_python(self) -> None:
        panel = self.state.panel(TABS[self.tab.value].panel, **self._options_of_panel())
        self.export.value = f"<pre>{html.escape(panel.python)}</pre>"

    def _keep_slice(self) -> None:
        kept = self.state.save_slice(self.slice_name.value)
        self.export.value = _line(f"{len(kept.items):,} items kept as “{kept.name}”.")


def still(state: ExplorerState, mode: theme.Mode = "light") -> go.Figure:
    """The first view as a figure, for where no widget can live: two tokenizers matched, or the codes."""
    shown = TABS["Codes" if state.two is None else "Compare"].draw(state, {}, 0)
    return theme.themed(shown.figures[0], mode)


def _table(table: go.Table) -> str:
    """A table of plotly, whose texts are escaped, as HTML: plotly places cells by their drawn size too."""
    align = table.cells.align
    rows = [(table.header.values, "th"), *((row, "td") for row in zip(*table.cells.values, strict=True))]
    lines = [
        "".join(
            f'<{tag} style="text-align:{side};padding:2px 10px">{cell}</{tag}>'
            for cell, side in zip(row, align, strict=True)
        )
        for row, tag in rows
    ]
    return f'<table style="max-width:{_WIDTH}px">{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def _line(text: str) -> str:
    return f"<span>{html.escape(text)}</span>" if text else ""
