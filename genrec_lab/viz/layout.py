"""How figures are put together: panels, what is drawn into them, titles that fit, legends that cover nothing.

Every figure starts with `panels` (or `one_panel`), draws into them by number, and ends with `Panels.finish`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from genrec_lab.viz import theme
from genrec_lab.viz.text import label, wrapped

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


@dataclass(frozen=True)
class Domains:
    """The domains of N things: names in order of first appearance, and each thing's position among them."""

    names: tuple[str, ...]
    index: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


def domains_of(domains: Sequence[object] | npt.ArrayLike, expected: int | None = None) -> Domains:
    """Number the domains in order of first appearance; raises ValueError where not `expected` many."""
    values = [str(value) for value in np.asarray(domains).reshape(-1)]
    if expected is not None and len(values) != expected:
        raise ValueError(f"domains: {len(values)} values for {expected} items, expected one an item")
    place: dict[str, int] = {}
    index = np.array([place.setdefault(value, len(place)) for value in values], dtype=np.int64)
    return Domains(tuple(place), index)


def require_columns(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    """Raise ValueError where a frame has no rows or lacks one of the columns."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(
            f"frame: columns {missing} are missing among {frame.columns}; expected {list(columns)}"
        )
    if frame.height == 0:
        raise ValueError(f"frame: no rows; expected at least one, with columns {list(columns)}")


@dataclass(frozen=True)
class Panels:
    """A grid of panels: the figure, where panel i stands, and the height of the plotting area in pixels."""

    figure: go.Figure
    count: int
    columns: int
    plot_height: int
    title_lines: int

    def place(self, panel: int) -> dict[str, int]:
        """Return `row` and `col` of a panel, counted from 1 as plotly does."""
        return {"row": panel // self.columns + 1, "col": panel % self.columns + 1}

    def is_left(self, panel: int) -> bool:
        """Whether a panel is in the first column."""
        return panel % self.columns == 0

    def is_bottom(self, panel: int) -> bool:
        """Whether no panel is below this one."""
        return panel + self.columns >= self.count

    def x(self, panel: int | None = None, **settings: Any) -> None:
        """Set the horizontal axis of a panel, or of all."""
        self.figure.update_xaxes(**settings, **({} if panel is None else self.place(panel)))

    def y(self, panel: int | None = None, **settings: Any) -> None:
        """Set the vertical axis of a panel, or of all."""
        self.figure.update_yaxes(**settings, **({} if panel is None else self.place(panel)))

    def rows(
        self,
        panel: int,
        names: Sequence[str],
        limit: int = 30,
        *,
        above: float = 0.5,
        labels: bool | None = None,
        **axis: Any,
    ) -> None:
        """Turn the vertical axis into rows with these names, from the top.

        above: room over the first row, in rows. labels: by default the panels at the left have them.
        """
        shown = self.is_left(panel) if labels is None else labels
        low = max(len(names), 1) - 0.5
        settings = {"range": [low, -above], "showticklabels": shown, "showgrid": False}
        self.y(panel, **numbered_axis(names, limit) | settings | axis)

    def add(self, panel: int, trace: go.Scatter) -> None:
        """Add a trace to a panel."""
        self.figure.add_trace(trace, **self.place(panel))

    def line(
        self,
        panel: int,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        name: str,
        style: theme.Style,
        hover: str,
        *,
        size: int = 7,
        legend: bool = True,
        **trace: Any,
    ) -> None:
        """Draw the line of a category; one click in the legend hides its lines in all panels."""
        settings = {"mode": "lines+markers", "marker": {"symbol": style.symbol, "size": size}}
        names = {"name": label(name), "legendgroup": label(name), "showlegend": legend}
        self.add(
            panel, go.Scatter(x=x, y=y, line=style.line, hovertemplate=hover, **settings | names | trace)
        )

    def bars(
        self,
        panel: int,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        hover: str,
        *,
        name: str = "",
        style: theme.Style | None = None,
        colour: str | Sequence[str] = theme.ACCENT,
        legend: bool = False,
        text: Sequence[str] | None = None,
        **trace: Any,
    ) -> None:
        """Draw bars in a category's style or in a colour; text: written behind their ends."""
        settings: dict[str, Any] = {"marker": {"color": colour} if style is None else style.bar}
        if text is not None:
            settings |= {"text": text, "textposition": "outside", "cliponaxis": False}
        if name:
            settings |= {"name": label(name), "legendgroup": label(name)}
        self.add(panel, go.Bar(x=x, y=y, showlegend=legend, hovertemplate=hover, **settings | trace))

    def points(
        self,
        panel: int,
        x: npt.ArrayLike,
        y: npt.ArrayLike,
        marker: Mapping[str, Any],
        hover: str,
        *,
        name: str = "",
        legend: bool = True,
        **trace: Any,
    ) -> None:
        """Draw points, by default with a place in the legend."""
        settings = {"mode": "markers", "marker": dict(marker), "hovertemplate": hover} | trace
        self.add(panel, go.Scatter(x=x, y=y, name=label(name), showlegend=legend, **settings))

    def segments(
        self, panel: int, x: npt.ArrayLike, y: npt.ArrayLike, colour: str, width: float, **line: Any
    ) -> None:
        """Draw lines (n, 2) from point to point, as one trace that neither hover nor legend knows."""
        gapped = (
            np.pad(np.asarray(ends, dtype=float), ((0, 0), (0, 1)), constant_values=np.nan).reshape(-1)
            for ends in (x, y)
        )
        style = {"color": colour, "width": width} | line
        silent = {"hoverinfo": "skip", "showlegend": False}
        self.add(
            panel, go.Scatter(**dict(zip("xy", gapped, strict=True)), mode="lines", line=style, **silent)
        )

    def say(self, panel: int, text: str, width: int = 22) -> None:
        """Write words in the middle of a panel that has nothing to draw, and hide its axes."""
        place = self.place(panel)
        axes = self.figure.get_subplot(place["row"], place["col"])
        self.figure.add_annotation(
            text=wrapped(text, width)[0],
            x=sum(axes.xaxis.domain) / 2,
            y=sum(axes.yaxis.domain) / 2,
            xref="paper",
            yref="paper",
            # Left to itself plotly would hang the text to the right of this place in the left third.
            xanchor="center",
            showarrow=False,
        )
        self.x(panel, visible=False)
        self.y(panel, visible=False)

    def finish(self, title: str, note: str, **layout: Any) -> go.Figure:
        """Return the figure with its title, note and further settings of plotly's layout; see `finish`."""
        self.figure.update_layout(**layout)
        return finish(
            self.figure, title, note, plot_height=self.plot_height, panel_title_lines=self.title_lines
        )


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
    """Lay out one panel a title, in rows of at most `columns`, titles wrapped to the width of their panel.

    row_height and row_gap (for ticks and axis titles, panel titles not counted) are in pixels; left_labels:
    the pixels that tick labels take at the left of the first column.
    """
    count = len(titles)
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    width = (NARROW - _MARGIN_LEFT - _MARGIN_RIGHT - left_labels) / columns * (1 - column_gap)
    texts = [wrapped(title, max(int(width / 7.6), 12), most_lines=3) for title in titles]
    title_lines = max((lines for text, lines in texts if text), default=0)
    gap = row_gap + title_lines * _PANEL_TITLE_LINE
    plot_height = rows * row_height + (rows - 1) * gap
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes="all" if shared_x else False,
        shared_yaxes="all" if shared_y else False,
        horizontal_spacing=column_gap if columns > 1 else 0,
        vertical_spacing=gap / plot_height if rows > 1 else 0,
    )
    made = Panels(figure, count, columns, plot_height, title_lines)
    for panel, (text, _) in enumerate(texts):
        if text:
            _add_panel_title(made, panel, text)
    for empty in range(count, rows * columns):
        made.x(empty, visible=False)
        made.y(empty, visible=False)
    if shared_x:
        # With an empty place in the last row, the panel above it is the one that must carry the labels.
        for panel in range(count):
            made.x(panel, showticklabels=made.is_bottom(panel))
    return made


def one_panel(height: int = 320) -> Panels:
    """Lay out a single panel without a title of its own, so many pixels high."""
    return panels([""], row_height=height)


def _add_panel_title(made: Panels, panel: int, text: str) -> None:
    place = made.place(panel)
    subplot = made.figure.get_subplot(place["row"], place["col"])
    made.figure.add_annotation(
        text=text,
        x=subplot.xaxis.domain[0],
        y=subplot.yaxis.domain[1],
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        yshift=3,
        align="left",
        showarrow=False,
        font={"size": theme.PANEL_TITLE_SIZE},
    )


def finish(
    figure: go.Figure, title: str, note: str, *, plot_height: int = 320, panel_title_lines: int = 0
) -> go.Figure:
    """Give a figure its title (the finding), its note (sample size, seed), its theme and its height.

    title and note are plain text: they are wrapped and escaped here. plot_height: pixels of the plotting
    area.
    """
    title_text, title_lines = wrapped(title, _TITLE_CHARACTERS)
    note_text, note_lines = wrapped(note, _NOTE_CHARACTERS)
    # plotly centres a title of several lines, and its subtitle, about the place of a single line.
    extra_title, extra_note = _TITLE_LINE * (title_lines - 1), _NOTE_LINE * (note_lines - 1)
    top = 34 + extra_title + (38 + extra_note / 2 if note else 0)
    top += panel_title_lines * _PANEL_TITLE_LINE + 6
    figure.update_layout(
        template=theme.current(),
        title={
            "text": title_text,
            "subtitle": {"text": note_text if note else ""},
            "pad": {"t": 8 + extra_title / 2},
        },
        margin={"t": top, "b": _MARGIN_BOTTOM, "l": _MARGIN_LEFT, "r": _MARGIN_RIGHT},
        height=round(top + plot_height + _AXIS_HEIGHT + _MARGIN_BOTTOM + _legend_height(figure)),
        autosize=True,
    )
    return figure


def untitled(figure: go.Figure) -> tuple[go.Figure, str, str]:
    """Return a copy of a finished figure without title and note, as much lower, and the two as plain text.

    For widgets, which write them above the figure: plotly places a note by the size of the drawn title, and a
    figure that is drawn before it stands in the page has none.
    """
    title, note = figure.layout.title.text or "", figure.layout.title.subtitle.text or ""
    # A figure that was made elsewhere may leave its margin and height to plotly.
    top, height = figure.layout.margin.t or 100, figure.layout.height or 450
    room = 34 + _TITLE_LINE * title.count("<br>") + (38 + _NOTE_LINE * note.count("<br>") / 2 if note else 0)
    room = min(room, top - 8)
    bare = go.Figure(figure)
    bare.update_layout(
        title={"text": "", "subtitle": {"text": ""}}, margin={"t": top - room}, height=round(height - room)
    )
    texts = (html.unescape(text.replace("<br>", " ")) for text in (title, note))
    return bare, *texts


def _legend_height(figure: go.Figure) -> int:
    """Pixels that the legend below the plot takes at the narrow width; 0 where there is none."""
    if figure.layout.showlegend is False:
        return 0
    names: dict[object, str] = {}
    for place, trace in enumerate(figure.data):
        if trace.type != "table" and trace.showlegend is not False and trace.name:
            names.setdefault(trace.legendgroup or place, trace.name)
    if not names or (len(names) == 1 and figure.layout.showlegend is not True):
        return 0
    # plotly gives the columns of a wrapped legend the width of the widest entry.
    per_line = max(1, int((NARROW - 40) // (44 + _CHARACTER * max(map(len, names.values())))))
    return 10 + _LEGEND_LINE * -(-len(names) // per_line)


def numbered_axis(names: Sequence[str], limit: int = 30) -> dict[str, Any]:
    """Return axis settings that put names at 0, 1, 2, …: two names that shorten alike stay two places."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [label(name, limit) for name in names],
        "type": "linear",
    }


def error_bars(spreads: npt.NDArray[np.float64], **settings: Any) -> dict[str, Any]:
    """Return error bars of so much either way, invisible where nothing spreads."""
    style = {"type": "data", "visible": bool(spreads.any()), "thickness": 1.2, "width": 3}
    return style | {"array": spreads} | settings


def interval(
    middle: npt.NDArray[np.float64], low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], **style: Any
) -> dict[str, Any]:
    """Return error bars from low to high, which need not lie evenly about the middle."""
    ends = {"array": np.maximum(high - middle, 0), "arrayminus": np.maximum(middle - low, 0)}
    return {"type": "data", "symmetric": False, "width": 5} | ends | style


def lean_heatmap(
    values: npt.NDArray[np.float64], most: float, ticks: Mapping[int, str], hover: str, **trace: Any
) -> go.Heatmap:
    """Return a heatmap of numbers that lean to one of two sides, from -most to most; NaN stays empty."""
    scale = {"tickvals": list(ticks), "ticktext": list(ticks.values()), "thickness": 14, "len": 1.0}
    colours = {"zmin": -most, "zmax": most, "colorscale": theme.LEAN, "colorbar": scale}
    settings = colours | {"hoverongaps": False, "hovertemplate": hover} | trace
    return go.Heatmap(z=values, **settings)
