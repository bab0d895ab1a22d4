"""How figures are put together: titles that fit, panels, legends that cover nothing, and text that is safe.

plotly reads a small HTML in every text it draws and TeX between dollar signs. Titles of items and names of
domains are data, so each goes through `escape` (or through a function here that does so) before it is drawn.
"""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from genrec_lab.viz import theme

NARROW = 900
"""Pixels: the width at which everything must still fit."""
MAX_POINTS = 20_000
"""The most points that a figure draws."""

_TITLE_CHARACTERS = 74
_NOTE_CHARACTERS = 118
_TITLE_LINE = 22
_NOTE_LINE = 15.6
_PANEL_TITLE_LINE = 17
_LEGEND_LINE = 20
_AXIS_HEIGHT = 46
_CHARACTER = 7.3
_MARGIN_LEFT = 56
_MARGIN_RIGHT = 24
_MARGIN_BOTTOM = 12

# Blanks at which a line may break; the no-break space is not among them.
_PERCENT = "\N{NO-BREAK SPACE}%"
_BLANKS = re.compile(r"[ \t\n\r\f\v]+")
# Numeric references, because plotly knows only a handful of named ones. The dollar would start TeX.
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", '"': "&#34;", "'": "&#39;", "\n": " ", "\r": " "}
)


def escape(text: object) -> str:
    """Text that plotly draws as it stands: no markup, no TeX, no line break."""
    return str(text).translate(_ESCAPES)


def shorten(text: str, limit: int) -> str:
    """The text cut to at most `limit` characters, the last an ellipsis where something was cut."""
    flat = _BLANKS.sub(" ", text).strip()
    return flat if len(flat) <= limit else flat[: max(limit - 1, 1)].rstrip() + "…"


def label(text: str, limit: int = 40) -> str:
    """A short, safe label for a legend or a tick."""
    return escape(shorten(str(text), limit))


def labels(texts: pl.Series, limit: int) -> npt.NDArray[np.object_]:
    """`label` of many texts at once, several times as fast."""
    flat = texts.cast(pl.String).str.replace_all(_BLANKS.pattern, " ").str.strip_chars()
    cut = flat.str.slice(0, max(limit - 1, 1)).str.strip_chars_end() + "…"
    short = cut.zip_with(flat.str.len_chars() > limit, flat)
    unsafe = {chr(found): safe for found, safe in _ESCAPES.items()}
    return short.str.replace_many(list(unsafe), list(unsafe.values())).to_numpy()


def wrapped(text: str, width: int, most_lines: int | None = None) -> tuple[str, int]:
    """The escaped text in lines of at most `width` characters, joined by <br>, and the number of lines.

    The lines are of about equal length, so that no lone word is left for the last.
    """
    flat = _BLANKS.sub(" ", text).strip()
    lines = textwrap.wrap(flat, width, break_on_hyphens=False) or [""]
    if most_lines is not None and len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], shorten(" ".join(lines[most_lines - 1 :]), width)]
        return "<br>".join(escape(line) for line in lines), len(lines)
    longest_word = max(map(len, flat.split(" ")))
    while len(lines) > 1 and width > longest_word:
        narrower = textwrap.wrap(flat, width - 1, break_on_hyphens=False)
        if len(narrower) > len(lines):
            break
        width, lines = width - 1, narrower
    return "<br>".join(escape(line) for line in lines), len(lines)


def percent(share: float) -> str:
    """A share as a percentage that never rounds something to nothing, nor nearly all to all."""
    if not math.isfinite(share):
        return "n/a"
    value = 100 * share
    if value == 0 or value == 100:
        return f"{value:.0f}{_PERCENT}"
    if 0 < value < 0.1:
        return f"under 0.1{_PERCENT}"
    if 99.9 < value < 100:
        return f"over 99.9{_PERCENT}"
    return f"{value:.1f}{_PERCENT}" if abs(value) < 10 or 99 <= value < 100 else f"{value:.0f}{_PERCENT}"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun: "1 item", "4,344 items"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names in a sentence: "A, B and C"; "A, B and 4 more" where there are many."""
    short = [shorten(name, 34) for name in names]
    if len(short) > most:
        return f"{', '.join(short[: most - 1])} and {len(short) - most + 1} more"
    return short[0] if len(short) == 1 else f"{', '.join(short[:-1])} and {short[-1]}"


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


@dataclass(frozen=True)
class Panels:
    """A grid of panels: the figure, where panel i stands, and the height of the plotting area in pixels."""

    figure: go.Figure
    count: int
    columns: int
    plot_height: int
    title_lines: int

    @property
    def rows(self) -> int:
        """Rows of panels, the last perhaps with empty places."""
        return -(-self.count // self.columns)

    def place(self, panel: int) -> dict[str, int]:
        """`row` and `col` of a panel, counted from 1 as plotly does."""
        return {"row": panel // self.columns + 1, "col": panel % self.columns + 1}

    def is_left(self, panel: int) -> bool:
        """Whether a panel is in the first column."""
        return panel % self.columns == 0

    def is_bottom(self, panel: int) -> bool:
        """Whether no panel is below this one."""
        return panel + self.columns >= self.count


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
        _add_panel_title(made, panel, text)
    for empty in range(count, rows * columns):
        figure.update_xaxes(visible=False, **made.place(empty))
        figure.update_yaxes(visible=False, **made.place(empty))
    if shared_x:
        # With an empty place in the last row, the panel above it is the one that must carry the labels.
        for panel in range(count):
            figure.update_xaxes(showticklabels=made.is_bottom(panel), **made.place(panel))
    return made


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
    """A copy of a finished figure without title and note, as much lower, and the two as plain text.

    For widgets, which write them above the figure: plotly places a note by the size of the drawn title, and a
    figure that is drawn before it stands in the page has none.
    """
    title, note = figure.layout.title.text or "", figure.layout.title.subtitle.text or ""
    room = 34 + _TITLE_LINE * title.count("<br>") + (38 + _NOTE_LINE * note.count("<br>") / 2 if note else 0)
    room = min(room, figure.layout.margin.t - 8)
    bare = go.Figure(figure)
    bare.update_layout(
        title={"text": "", "subtitle": {"text": ""}},
        margin={"t": figure.layout.margin.t - room},
        height=round(figure.layout.height - room),
    )
    texts = (html.unescape(text.replace("<br>", " ")) for text in (title, note))
    return bare, *texts


def finish_panels(made: Panels, title: str, note: str) -> go.Figure:
    """`finish` for a grid of panels."""
    return finish(made.figure, title, note, plot_height=made.plot_height, panel_title_lines=made.title_lines)


def _legend_height(figure: go.Figure) -> int:
    """Pixels that the legend below the plot takes at the narrow width; 0 where there is none."""
    if figure.layout.showlegend is False:
        return 0
    groups: set[str] = set()
    widths = []
    for trace in figure.data:
        if trace.type == "table" or trace.showlegend is False or not trace.name:
            continue
        if trace.legendgroup and trace.legendgroup in groups:
            continue
        groups.add(trace.legendgroup or "")
        widths.append(44 + len(trace.name) * _CHARACTER)
    if not widths or (len(widths) == 1 and figure.layout.showlegend is not True):
        return 0
    # plotly gives the columns of a wrapped legend the width of the widest entry.
    per_line = max(1, int((NARROW - 40) // max(widths)))
    return 10 + _LEGEND_LINE * -(-len(widths) // per_line)


def numbered_axis(names: Sequence[str], limit: int = 30) -> dict[str, object]:
    """Axis settings that put names at 0, 1, 2, …: two names that shorten alike stay two places."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [label(name, limit) for name in names],
        "type": "linear",
    }


def seeded(note: str, seed: int | None) -> str:
    """The note with the seed stated, where one is given."""
    return note if seed is None else f"{note}; seed {seed}"


def require_columns(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    """Raise ValueError where a frame has no rows or lacks one of the columns."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(
            f"frame: columns {missing} are missing among {frame.columns}; expected {list(columns)}"
        )
    if frame.height == 0:
        raise ValueError(f"frame: no rows; expected at least one, with columns {list(columns)}")
