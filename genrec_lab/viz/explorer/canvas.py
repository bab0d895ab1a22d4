"""The place where a view is drawn: its figures, tables and words, as one widget.

plotly's own FigureWidget would send its 5 MB script with every figure and again after every click. This one
sends it once, and afterwards only what changed on the page.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import anywidget
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import markup
from genrec_lab.viz.explorer.state import Shown
from genrec_lab.viz.layout import untitled

_WIDTH = 822
"""Pixels of a figure: what a notebook of JupyterLab leaves at 1,280 pixels, its side bar open."""


class Canvas(anywidget.AnyWidget):
    """Shows one view at a time.

    parts: JSON, a list of `{html}` and `{figure, click, lasso}`. plotly: the script that draws the figures.
    """

    _esm = markup.script("canvas.js")
    plotly = traitlets.Unicode(get_plotlyjs()).tag(sync=True)
    parts = traitlets.Unicode("[]").tag(sync=True)
    config = traitlets.Dict(theme.CONFIG).tag(sync=True)

    def show(self, shown: Shown, mode: theme.Mode) -> None:
        """Draw a view in place of what is there."""
        parts = [_html(markup.piece("line", text)) for text in shown.said]
        for figure in shown.figures:
            bare, title, note = untitled(figure)
            parts.append(_html(markup.piece("finding", title, note)))
            if figure.data and figure.data[0].type == "table":
                header, cells = figure.data[0].header.values, figure.data[0].cells
                # plotly places the cells of a table by their drawn size, which there is none of yet.
                rows = list(zip(*cells.values, strict=True))
                parts.append(_html(markup.piece("table", header, rows, cells.align)))
            else:
                parts.append(_drawing(bare, shown, mode))
        self.parts = f"[{','.join(parts)}]"

    def listen(self, act: Callable[[str, list[str]], None]) -> None:
        """Call this with "click" or "lasso" and the ids of what was clicked on, or of what a lasso holds."""

        def heard(_: object, content: object, __: object) -> None:
            if isinstance(content, dict) and isinstance(content.get("ids"), list):
                act(str(content.get("kind")), [str(found) for found in content["ids"]])

        self.on_msg(heard)


def _html(text: str) -> str:
    return json.dumps({"html": text})


def _drawing(figure: go.Figure, shown: Shown, mode: theme.Mode) -> str:
    figure.update_layout(template=theme.template(mode), width=_WIDTH, autosize=False)
    if shown.lasso:
        figure.update_layout(dragmode="lasso", modebar={"remove": ["zoomin", "zoomout", "autoscale"]})
    options = json.dumps({"click": shown.click is not None, "lasso": shown.lasso})
    return f'{{"figure":{figure.to_json()},{options[1:]}'
