"""The explorer's controls and where they stand, without what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import markup
from genrec_lab.viz.explorer.prefixes import Children
from genrec_lab.viz.explorer.state import EXPLORER_VIEWS, ExplorerState
from genrec_lab.viz.text import percent, shorten

NOTHING = ""
"""The value of a list of which nothing is chosen: of None a drop-down shows no text."""
_MOST_BELOW = 300
"""Codes in the list of those below: a browser is slow with thousands, and the largest come first."""


class Controls(widgets.VBox):
    """Buttons, lists and fields around a place for the open view."""

    def __init__(self, state: ExplorerState, methods: Sequence[str], *, dark: bool) -> None:
        catalogue = state.catalogue
        self.message, self.export = widgets.HTML(), widgets.HTML()
        self.path, self.options = widgets.HBox(), widgets.HBox()
        self.name = widgets.HTML(markup.piece("line", shorten(catalogue.name, 60), "genrec-name"))
        self.chips = _chips(state)
        self.back, self.forward = _button("◂", "back", "40px"), _button("▸", "forward", "40px")
        places = [("all domains", NOTHING), *((shorten(name, 30), name) for name in catalogue.domains)]
        self.domain = _list("150px", places)
        self.level = _list("90px", [(f"level {level + 1}", level) for level in range(catalogue.levels)])
        self.down = _list("240px")
        narrow = widgets.Layout(width="40px")
        self.dark = widgets.ToggleButton(value=dark, description="☾", tooltip="dark or light", layout=narrow)
        self.search = widgets.Text(
            placeholder="search: a part of a title, or codes as 12 › 4",
            continuous_update=False,
            layout=widgets.Layout(width="330px"),
        )
        self.hits = _list("470px")
        self.hits.layout.display = "none"
        self.tab = widgets.ToggleButtons(options=list(EXPLORER_VIEWS), style={"button_width": "auto"})
        self.method = widgets.Dropdown(options=list(methods), description="method")
        self.row = widgets.BoundedIntText(value=0, min=0, max=10**9, description="test user")
        self.go = widgets.Button(description="watch")
        self.group = widgets.BoundedIntText(value=0, min=0, max=10**9, description="group")
        self.csv = _button("CSV", "the numbers of this panel")
        self.python = _button("code", "the Python that makes this panel again")
        self.png = _button("PNG", "this panel's figures as pictures in the run folder")
        self.atlas = _button("atlas", "all items as a parquet file for embedding-atlas")
        self.slice_name = widgets.Text(placeholder="name of a slice", layout=widgets.Layout(width="180px"))
        why = "keep the gathered items, or else those of the prefix, under this name"
        self.keep = _button("save slice", why)
        self.slices = _list("180px")
        super().__init__()

    def _lay_out(self, canvas: widgets.Widget, side: widgets.Widget) -> None:
        """Put everything in its place; canvas: the open view, side: what stands beside it, or below it."""
        exports = [self.csv, self.python, self.png, self.atlas, self.slice_name, self.keep, self.slices]
        main = widgets.VBox([canvas, _row(exports), self.export]).add_class("genrec-main")
        self.children = [
            widgets.HTML(markup.style_sheet()),
            _row([self.name, *(chip for chip, _ in self.chips)]).add_class("genrec-chip"),
            _row([self.back, self.forward, self.path, self.down, self.domain, self.level, self.dark]),
            _row([self.search, self.hits]),
            self.message,
            self.tab,
            self.options,
            widgets.HBox([main, side]).add_class("genrec-columns"),
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
            button = _button(text, "", disabled=text == "*")
            button.on_click(lambda _, prefix=prefix: go(prefix))
            buttons.append(button)
        self.path.children = buttons
        for button in before:
            button.close()

    def _list_children(self, children: Children | None, labels: Mapping[int, Sequence[str]]) -> None:
        """The way down for those who use no mouse: the codes below, largest first, with their words."""
        options = [("go down to …", NOTHING)]
        sizes = [] if children is None else children.sizes.tolist()
        for negative, code in sorted((-size, code) for code, size in enumerate(sizes) if size)[:_MOST_BELOW]:
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
        controls = {"Beam": [self.method, self.row, self.go], "Collisions": [self.group]}
        self.options.children = controls.get(tab, [])
        self.options.layout.display = "" if tab in controls else "none"


def _chips(state: ExplorerState) -> list[tuple[widgets.Button, str]]:
    """The health of the codes in one line; each opens the view that has more of it."""
    health = state.health
    used = percent(sum(health.used) / (sum(health.used) + sum(health.dead)))
    texts = {
        f"{state.catalogue.n_items:,} items": "Codes",
        f"used {used}": "Training",
        f"perplexity {' · '.join(f'{value:.0f}' for value in health.perplexity)}": "Training",
        f"dead {sum(health.dead)}": "Training",
        f"collisions {percent(health.collision_rate)}": "Collisions",
        f"Gini {' · '.join(f'{value:.2f}' for value in health.gini)}": "Codes",
    }
    chips = [(widgets.Button(description=text, tooltip=f"open {tab}"), tab) for text, tab in texts.items()]
    return [(chip.add_class("genrec-chip"), tab) for chip, tab in chips]


def _button(text: str, tooltip: str, width: str = "auto", **options: Any) -> widgets.Button:
    layout = widgets.Layout(width=width)
    return widgets.Button(description=text, tooltip=tooltip, layout=layout, **options)


def _list(width: str, options: Sequence[tuple[str, Any]] = ()) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, layout=widgets.Layout(width=width))


def _row(children: Sequence[widgets.Widget]) -> widgets.HBox:
    return widgets.HBox(list(children)).add_class("genrec-wrap")
