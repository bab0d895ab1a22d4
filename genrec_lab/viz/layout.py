"""Layout of figures: `panels` (or `one_panel`), drawn into by number, and `Panels.finish` for the title."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike
from plotly.basedatatypes import BaseTraceType
from plotly.subplots import make_subplots

from genrec_lab.viz import FloatArray, IntArray, theme
from genrec_lab.viz.text import label, noted, wrapped

NARROW = 900
"""Pixels: the width at which everything must still fit."""
MAX_POINTS = 20_000
"""The most points that a figure draws."""

_TITLE_CHARACTERS, _TITLE_LINE = 74, 22
_NOTE_CHARACTERS, _NOTE_LINE = 118, 15.6
_PANEL_TITLE_LINE = 17
_LEGEND_LINE = 20
_AXIS_HEIGHT = 46
_CHARACTER = 7.3
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_BOTTOM = 56, 24, 12


def domains_of(
    domains: Sequence[object] | ArrayLike, expected: int | None = None
) -> tuple[tuple[str, ...], IntArray]:
    """Return the domains in order of first appearance, and the index of each object's domain, (N,).

    Raises ValueError for other than `expected` values.
    """
    values = [str(value) for value in np.asarray(domains).reshape(-1)]
    if expected is not None and len(values) != expected:
        raise ValueError(f"domains: {len(values)} values for {expected} items, expected one per item")
    place: dict[str, int] = {}
    index = np.array([place.setdefault(value, len(place)) for value in values], dtype=np.int64)
    return tuple(place), index


def require_columns(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    """Raise ValueError if a frame has no rows or lacks one of the columns."""
    if missing := [name for name in columns if name not in frame.columns]:
        there = f"columns {missing} are missing among {frame.columns}"
        raise ValueError(f"frame: {there}; expected {list(columns)}")
    if frame.height == 0:
        raise ValueError(f"frame: no rows; expected at least one, with columns {list(columns)}")


@dataclass(eq=False)
class Panels:
    """A grid of panels. Categories get styles in the order of drawing, and one legend entry each."""

    figure: go.Figure
    count: int
    columns: int
    plot_height: int
    title_lines: int
    _styles: dict[str, theme.Style] = field(default_factory=dict)
    _listed: set[str] = field(default_factory=set)

    def style(self, name: str) -> theme.Style:
        """Return the style of a category; a new name gets the next style."""
        if name not in self._styles:
            self._styles = theme.category_styles([*self._styles, name])
        return self._styles[name]

    def place(self, panel: int) -> dict[str, int]:
        """Return `row` and `col` of a panel, counted from 1 as in plotly."""
        return {"row": panel // self.columns + 1, "col": panel % self.columns + 1}

    def is_left(self, panel: int) -> bool:
        """Return whether a panel is in the first column."""
        return panel % self.columns == 0

    def is_bottom(self, panel: int) -> bool:
        """Return whether no panel is below this one."""
        return panel + self.columns >= self.count

    def x(self, panel: int | None = None, **settings: Any) -> None:
        """Set the horizontal axis of one panel or of all."""
        self.figure.update_xaxes(**settings, **({} if panel is None else self.place(panel)))

    def y(self, panel: int | None = None, **settings: Any) -> None:
        """Set the vertical axis of one panel or of all."""
        self.figure.update_yaxes(**settings, **({} if panel is None else self.place(panel)))

    def outer(self, panel: int, x: str, y: str = "") -> None:
        """Set the axis titles of a panel: x only at the bottom of a column, y only in the first column."""
        self.x(panel, title=x if self.is_bottom(panel) else None)
        if y:
            self.y(panel, title=y if self.is_left(panel) else None)

    def rows(
        self, panel: int, names: Sequence[str], limit: int = 30, *, above: float = 0.5, **axis: Any
    ) -> None:
        """Turn the vertical axis into named rows from the top; above: space above the first row."""
        ends = [max(len(names), 1) - 0.5, -above]
        settings = {"range": ends, "showticklabels": self.is_left(panel), "showgrid": False}
        self.y(panel, **numbered_axis(names, limit) | settings | axis)

    def add(self, panel: int, trace: BaseTraceType) -> None:
        """Add a trace to a panel."""
        self.figure.add_trace(trace, **self.place(panel))

    def line(self, panel: int, x: ArrayLike, y: ArrayLike, name: str, hover: str, **trace: Any) -> None:
        """Draw the line of a category, in its style or in another `style`; size: of the markers."""
        style, size = trace.pop("style", None) or self.style(name), trace.pop("size", 7)
        look = {"mode": "lines+markers", "line": style.line, "marker": {"symbol": style.symbol, "size": size}}
        self.add(panel, go.Scatter(x=x, y=y, hovertemplate=hover, **look | self._named(name) | trace))

    def bars(
        self, panel: int, values: ArrayLike, hover: str, name: str = "", *, flat: bool = False, **trace: Any
    ) -> None:
        """Draw bars of a category in its style, or in one colour, at 0, 1, 2, … or at other positions `at`.

        flat: whether the bars are horizontal. text: labels at the ends of the bars.
        """
        values = np.asarray(values)
        look: dict[str, Any] = {"marker": self.style(name).bar if name else {"color": theme.ACCENT}}
        if "text" in trace:
            look |= {"textposition": "outside", "cliponaxis": False}
        ends = (values, trace.pop("at", np.arange(len(values))))
        look |= {"x": ends[0], "y": ends[1], "orientation": "h"} if flat else {"x": ends[1], "y": ends[0]}
        self.add(panel, go.Bar(hovertemplate=hover, **look | self._named(name) | trace))

    def _named(self, name: str) -> dict[str, Any]:
        """Return a trace's name and legend settings; only a new name gets a legend entry."""
        if not name:
            return {"showlegend": False}
        new = name not in self._listed
        self._listed.add(name)
        return {"name": label(name), "legendgroup": label(name), "showlegend": new}

    def points(self, panel: int, x: ArrayLike, y: ArrayLike, name: str, hover: str, **trace: Any) -> None:
        """Draw the points of a category."""
        look = {"mode": "markers", "hovertemplate": hover}
        self.add(panel, go.Scatter(x=x, y=y, **look | self._named(name) | trace))

    def segments(
        self, panel: int, x: ArrayLike, y: ArrayLike, colour: str, width: float, **line: Any
    ) -> None:
        """Draw lines (n, 2) from point to point as one trace, without hover text or legend entry."""
        gap: Any = {"pad_width": ((0, 0), (0, 1)), "constant_values": np.nan}
        ends = {name: np.pad(np.asarray(at, dtype=float), **gap).ravel() for name, at in (("x", x), ("y", y))}
        look = {"mode": "lines", "line": {"color": colour, "width": width} | line}
        self.add(panel, go.Scatter(**ends, **look, hoverinfo="skip", showlegend=False))

    def write(self, panel: int, x: ArrayLike, y: ArrayLike, texts: Sequence[str], **trace: Any) -> None:
        """Write texts to the right of points, without hover text or legend entry."""
        look = {"mode": "text", "textposition": "middle right", "cliponaxis": False, "hoverinfo": "skip"}
        self.add(panel, go.Scatter(x=x, y=y, text=texts, showlegend=False, **look | trace))

    def note(self, text: str, x: float, y: float, **style: Any) -> None:
        """Write text at a position given as fractions of the plotting area."""
        place = {"x": x, "y": y, "xref": "paper", "yref": "paper"}
        self.figure.add_annotation(text=text, showarrow=False, **place, **style)

    def say(self, panel: int, text: str, width: int = 22) -> None:
        """Write text in the middle of an empty panel, and hide its axes."""
        (left, right), (low, high) = self._corners(panel)
        # By default, plotly would put the text to the right of this position in the left third.
        self.note(wrapped(text, width)[0], (left + right) / 2, (low + high) / 2, xanchor="center")
        self.x(panel, visible=False)
        self.y(panel, visible=False)

    def finish(self, title: str, *clauses: str, seed: int | None = None, **layout: Any) -> go.Figure:
        """Return the figure with its title (the finding) and note (clauses such as the sample size, seed).

        layout: other settings of plotly's layout. Title and clauses are plain text.
        """
        self.figure.update_layout(**layout)
        room = self.title_lines * _PANEL_TITLE_LINE
        return finish(self.figure, title, noted(*clauses, seed=seed), self.plot_height, room)

    def _corners(self, panel: int) -> tuple[tuple[float, float], tuple[float, float]]:
        place = self.place(panel)
        axes = self.figure.get_subplot(place["row"], place["col"])
        return axes.xaxis.domain, axes.yaxis.domain


def panels(
    titles: Sequence[str],
    *,
    columns: int = 3,
    row_height: int = 260,
    shared_x: bool = False,
    shared_y: bool = False,
    left_labels: int = 0,
    column_gap: float = 0.06,
    row_gap: int = 62,
) -> Panels:
    """Lay out one panel per title, in rows of at most `columns`; titles are wrapped to their panel's width.

    row_height, row_gap (for ticks and axis titles), left_labels (tick labels of the first column): in pixels.
    """
    count = len(titles)
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    width = (NARROW - _MARGIN_LEFT - _MARGIN_RIGHT - left_labels) / columns * (1 - column_gap)
    texts = [wrapped(title, max(int(width / 7.6), 12), most_lines=3) for title in titles]
    title_lines = max((lines for text, lines in texts if text), default=0)
    gap = row_gap + title_lines * _PANEL_TITLE_LINE
    plot_height = rows * row_height + (rows - 1) * gap
    spacing = (column_gap if columns > 1 else 0, gap / plot_height if rows > 1 else 0)
    figure = deepcopy(_grid(rows, columns, shared_x, shared_y, *spacing))
    made = Panels(figure, count, columns, plot_height, title_lines)
    head = {"xanchor": "left", "yanchor": "bottom", "yshift": 3, "align": "left"}
    for panel, (text, _) in enumerate(texts):
        (left, _), (_, high) = made._corners(panel)
        if text:
            made.note(text, left, high, font={"size": theme.PANEL_TITLE_SIZE}, **head)
    for empty in range(count, rows * columns):
        made.x(empty, visible=False)
        made.y(empty, visible=False)
    if shared_x:
        # If a cell of the last row is empty, the panel above it must show the labels.
        for panel in range(count):
            made.x(panel, showticklabels=made.is_bottom(panel))
    return made


@lru_cache(64)
def _grid(
    rows: int, columns: int, shared_x: bool, shared_y: bool, column_gap: float, row_gap: float
) -> go.Figure:
    """Return an empty figure in the light template; plotly takes long to make one, but not to copy it."""
    gaps = {"horizontal_spacing": column_gap, "vertical_spacing": row_gap}
    shared = {"shared_xaxes": "all" if shared_x else False, "shared_yaxes": "all" if shared_y else False}
    return make_subplots(rows, columns, **gaps, **shared).update_layout(template=theme.LIGHT)


def one_panel(height: int = 320) -> Panels:
    """Lay out a single panel without a panel title; height: in pixels."""
    return panels([""], row_height=height)


def finish(figure: go.Figure, title: str, note: str, plot_height: int, room: int = 0) -> go.Figure:
    """Set a figure's title, note and height; room: pixels for titles of panels above the plot."""
    title_text, title_lines = wrapped(title, _TITLE_CHARACTERS)
    note_text, note_lines = wrapped(note, _NOTE_CHARACTERS)
    # plotly centres a multi-line title and its subtitle at the position of a single line.
    extra_title, extra_note = _TITLE_LINE * (title_lines - 1), _NOTE_LINE * (note_lines - 1)
    top = 40 + extra_title + (38 + extra_note / 2 if note else 0) + room
    figure.update_layout(
        title={"text": title_text, "subtitle": {"text": note_text}, "pad": {"t": 8 + extra_title / 2}},
        margin={"t": top, "b": _MARGIN_BOTTOM, "l": _MARGIN_LEFT, "r": _MARGIN_RIGHT},
        height=round(top + plot_height + _AXIS_HEIGHT + _MARGIN_BOTTOM + _legend_height(figure)),
        autosize=True,
    )
    return figure


def untitled(figure: go.Figure) -> tuple[dict[str, Any], str, str]:
    """Return a finished figure as JSON without its title and note, lower by these, and the two as plain text.

    Widgets write both texts above the figure, because plotly positions the note by the size of the rendered
    title, which is unknown for a figure drawn before it is in the page.
    """
    # A changed copy of the figure would be validated again, which takes longer than drawing it.
    bare: dict[str, Any] = json.loads(figure.to_json())
    layout = bare["layout"]
    heading = layout.get("title", {})
    title, note = heading.get("text", ""), heading.get("subtitle", {}).get("text", "")
    # A figure made elsewhere may leave its margin and height to plotly.
    margin = layout.setdefault("margin", {})
    top, height = margin.get("t", 100), layout.get("height", 450)
    room = 34 + _TITLE_LINE * title.count("<br>") + (38 + _NOTE_LINE * note.count("<br>") / 2 if note else 0)
    room = min(room, top - 8)
    layout["title"] = {**heading, "text": "", "subtitle": {"text": ""}}
    margin["t"], layout["height"] = top - room, round(height - room)
    title, note = (html.unescape(text.replace("<br>", " ")) for text in (title, note))
    return bare, title, note


def _legend_height(figure: go.Figure) -> int:
    """Return the height in pixels of the legend below the plot at the narrow width; 0 without a legend."""
    if figure.layout.showlegend is False:
        return 0
    names: dict[object, str] = {}
    for place, trace in enumerate(figure.data):
        if trace.type != "table" and trace.showlegend is not False and trace.name:
            names.setdefault(trace.legendgroup or place, trace.name)
    if not names or (len(names) == 1 and figure.layout.showlegend is not True):
        return 0
    # In a wrapped legend of plotly, every column is as wide as the widest entry.
    per_line = max(1, int((NARROW - 40) // (44 + _CHARACTER * max(map(len, names.values())))))
    return 10 + _LEGEND_LINE * -(-len(names) // per_line)


def numbered_axis(names: Sequence[str], limit: int = 30) -> dict[str, Any]:
    """Return axis settings with names at 0, 1, 2, …; names stay separate even if shortened to equal text."""
    return {"tickvals": list(range(len(names))), "ticktext": [label(name, limit) for name in names]}


def error_bars(spreads: FloatArray, **settings: Any) -> dict[str, Any]:
    """Return symmetric error bars of these lengths, invisible if there is no spread."""
    return {"array": spreads, "visible": bool(spreads.any()), "thickness": 1.2, "width": 3} | settings
