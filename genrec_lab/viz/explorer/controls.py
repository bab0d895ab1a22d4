"""The explorer's controls and where they stand, without what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import markup
from genrec_lab.viz.explorer.prefixes import Children
from genrec_lab.viz.explorer.state import ExplorerState
from genrec_lab.viz.explorer.tabs import TABS
from genrec_lab.viz.layout import percent, shorten

NOTHING = ""
"""The value of a list of which nothing is chosen: of None a drop-down shows no text."""
_EVERYWHERE = "all domains"
_MOST_BELOW = 300
"""Codes in the list of those below: a browser is slow with thousands, and the largest come first."""


class Controls(widgets.VBox):
    """Buttons, lists and fields around a place for the open tab."""

    def __init__(self, state: ExplorerState, methods: Sequence[str], *, dark: bool) -> None:
        catalogue, small = state.catalogue, widgets.Layout(width="40px")
        self.message, self.export = widgets.HTML(), widgets.HTML()
        self.path, self.options = widgets.HBox(), widgets.HBox()
        self.name = widgets.HTML(markup.line(shorten(catalogue.name, 60), "genrec-name"))
        self.chips = _chips(state)
        self.back = widgets.Button(description="◂", tooltip="back", layout=small)
        self.forward = widgets.Button(description="▸", tooltip="forward", layout=small)
        places = [(_EVERYWHERE, NOTHING), *((shorten(name, 30), name) for name in catalogue.domains)]
        self.domain = widgets.Dropdown(options=places, layout=widgets.Layout(width="150px"))
        levels = [(f"level {level + 1}", level) for level in range(catalogue.levels)]
        self.level = widgets.Dropdown(options=levels, layout=widgets.Layout(width="90px"))
        self.down = widgets.Dropdown(options=[], layout=widgets.Layout(width="240px"))
        self.dark = widgets.ToggleButton(value=dark, description="☾", tooltip="dark or light", layout=small)
        self.search = widgets.Text(
            placeholder="search: a part of a title, or codes as 12 › 4",
            continuous_update=False,
            layout=widgets.Layout(width="330px"),
        )
        self.hits = widgets.Dropdown(options=[], layout=widgets.Layout(width="470px", display="none"))
        self.tab = widgets.ToggleButtons(options=list(TABS), style={"button_width": "auto"})
        self.method = widgets.Dropdown(options=list(methods), description="method")
        self.row = widgets.BoundedIntText(value=0, min=0, max=10**9, description="test user")
        self.go = widgets.Button(description="watch")
        self.group = widgets.BoundedIntText(value=0, min=0, max=10**9, description="group")
        narrow = widgets.Layout(width="auto")
        self.csv = widgets.Button(description="CSV", tooltip="the numbers of this panel", layout=narrow)
        self.python = widgets.Button(
            description="code", tooltip="the Python that makes this panel again", layout=narrow
        )
        self.png = widgets.Button(
            description="PNG", tooltip="this panel's figures as pictures in the run folder", layout=narrow
        )
        self.atlas = widgets.Button(
            description="atlas", tooltip="all items as a parquet file for embedding-atlas", layout=narrow
        )
        self.slice_name = widgets.Text(placeholder="name of a slice", layout=widgets.Layout(width="180px"))
        self.keep = widgets.Button(
            description="save slice",
            tooltip="keep the gathered items, or else those of the prefix, under this name",
            layout=narrow,
        )
        self.slices = widgets.Dropdown(options=[], layout=widgets.Layout(width="180px"))
        super().__init__()

    def _lay_out(self, canvas: widgets.Widget, side: widgets.Widget) -> None:
        """Put everything in its place; canvas: the open tab, side: what stands beside it, or below it."""
        chips = _row([self.name, *(chip for chip, _ in self.chips)], "genrec-chip")
        main = widgets.VBox(
            [
                canvas,
                _row([self.csv, self.python, self.png, self.atlas, self.slice_name, self.keep, self.slices]),
                self.export,
            ]
        )
        main.add_class("genrec-main")
        columns = widgets.HBox([main, side])
        columns.add_class("genrec-columns")
        self.children = [
            widgets.HTML(markup.style_sheet()),
            chips,
            _row([self.back, self.forward, self.path, self.down, self.domain, self.level, self.dark]),
            _row([self.search, self.hits]),
            self.message,
            self.tab,
            self.options,
            columns,
        ]
        self.add_class(markup.ROOT)

    def _dress(self, mode: theme.Mode) -> None:
        self.remove_class("genrec-light" if mode == "dark" else "genrec-dark")
        self.add_class(f"genrec-{mode}")

    def _draw_path(
        self, steps: Sequence[tuple[str, tuple[int, ...]]], go: Callable[[tuple[int, ...]], None]
    ) -> None:
        before, buttons = self.path.children, []
        for text, prefix in steps:
            button = widgets.Button(description=text, layout=widgets.Layout(width="auto"))
            button.on_click(lambda _, prefix=prefix: go(prefix))
            button.disabled = text == "*"
            buttons.append(button)
        self.path.children = buttons
        for button in before:
            button.close()

    def _list_children(self, children: Children | None, labels: Mapping[int, Sequence[str]]) -> None:
        """The way down for those who use no mouse: the codes below, largest first, with their words."""
        options = [("go down to …", NOTHING)]
        if children is not None:
            sizes = children.sizes
            order = sorted((-int(size), code) for code, size in enumerate(sizes.tolist()) if size)
            for negative, code in order[:_MOST_BELOW]:
                words = ", ".join(labels.get(code, ()))
                name = shorten(f"{code} · {words}" if words else str(code), 34)
                options.append((f"{name} ({-negative:,})", str(code)))
        self.down.options, self.down.value = options, NOTHING
        self.down.disabled = len(options) == 1

    def _list_hits(self, options: Sequence[tuple[str, int]]) -> None:
        self.hits.options = options
        self.hits.value = None
        self.hits.layout.display = "" if options else "none"

    def _list_slices(self, names: Sequence[str]) -> None:
        self.slices.options = [("open a slice …", NOTHING), *((shorten(name, 40), name) for name in names)]
        self.slices.value = NOTHING
        self.slices.layout.display = "" if names else "none"

    def _show_options(self, tab: str) -> None:
        controls: dict[str, list[Any]] = {
            "Beam": [self.method, self.row, self.go],
            "Collisions": [self.group],
        }
        self.options.children = controls.get(tab, [])
        self.options.layout.display = "" if tab in controls else "none"


def _chips(state: ExplorerState) -> list[tuple[widgets.Button, str]]:
    """The health of the codes in one line; each opens the tab that tells more."""
    health = state.health
    used = percent(sum(health.used) / (sum(health.used) + sum(health.dead)))
    perplexity = " · ".join(f"{value:.0f}" for value in health.perplexity)
    gini = " · ".join(f"{value:.2f}" for value in health.gini)
    texts = {
        f"{state.catalogue.n_items:,} items": "Codes",
        f"used {used}": "Training",
        f"perplexity {perplexity}": "Training",
        f"dead {sum(health.dead)}": "Training",
        f"collisions {percent(health.collision_rate)}": "Collisions",
        f"Gini {gini}": "Codes",
    }
    return [
        (widgets.Button(description=text, tooltip=f"open {tab}").add_class("genrec-chip"), tab)
        for text, tab in texts.items()
    ]


def _row(children: Sequence[widgets.Widget], *classes: str) -> widgets.HBox:
    box = widgets.HBox(list(children))
    for name in ("genrec-wrap", *classes):
        box.add_class(name)
    return box
