"""Tables as plotly figures: escaped cells, rows of at most two lines, a height that shows the whole table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from genrec_lab.viz.layout import NARROW, finish
from genrec_lab.viz.text import shorten, wrapped

_LINE, _CELL_PADDING, _SIDE = 17, 12, 16
_CHARACTER = 7.4
_MOST_HEADER_LINES = 4
_TALLEST = 2_400  # pixels; a longer table scrolls inside its own frame


def table_figure(
    title: str,
    note: str,
    headers: Sequence[str],
    columns: Sequence[Sequence[object]],
    *,
    widths: Sequence[float] | None = None,
    left: int = 1,
    emphasis: Sequence[Sequence[bool]] | None = None,
    most_lines: int = 2,
) -> go.Figure:
    """A table with one list of values a column; the first `left` columns are set left, the others right.

    Cells are cut to `most_lines` lines of their column. emphasis: by column and row, what is drawn in bold.
    Raises ValueError where headers and columns do not fit together.
    """
    if len(headers) != len(columns) or len({len(column) for column in columns}) > 1:
        raise ValueError(
            f"table: {len(headers)} headers for columns of {[len(column) for column in columns]} rows; "
            "expected one header a column and columns of equal length"
        )
    shares = np.array([1.0] * len(headers) if widths is None else widths, dtype=float)
    room = [max(4, int((NARROW - 2 * _SIDE) * share / shares.sum() / _CHARACTER) - 2) for share in shares]
    # Lines are broken here, since the figure must know its height before plotly breaks any.
    head = [
        wrapped(_fitted(name, place), place, most_lines=_MOST_HEADER_LINES)
        for name, place in zip(headers, room, strict=True)
    ]
    cells = [
        [wrapped(str(value), place, most_lines=most_lines) for value in column]
        for column, place in zip(columns, room, strict=True)
    ]
    strong = emphasis if emphasis is not None else [[False] * len(column) for column in columns]
    texts = [
        [f"<b>{text}</b>" if bold else text for (text, _), bold in zip(column, bolds, strict=True)]
        for column, bolds in zip(cells, strong, strict=True)
    ]
    look = {"align": ["left"] * left + ["right"] * (len(headers) - left), "height": _LINE + _CELL_PADDING}
    header = {"values": [f"<b>{text}</b>" for text, _ in head]} | look
    figure = go.Figure(go.Table(columnwidth=shares.tolist(), header=header, cells={"values": texts} | look))
    rows = [max(lines for _, lines in row) for row in (head, *zip(*cells, strict=True))]
    height = min(sum(_LINE * lines + _CELL_PADDING for lines in rows) + 8, _TALLEST)
    finish(figure, title, note, plot_height=height)
    # A table has neither axis nor legend to leave room for.
    top = figure.layout.margin.t
    figure.update_layout(margin={"b": _SIDE, "l": _SIDE, "r": _SIDE}, height=round(top + height + _SIDE))
    return figure


def _fitted(name: str, room: int) -> str:
    """The name with each word cut to its column: better an ellipsis than a word broken anywhere."""
    return " ".join(shorten(word, room) for word in name.split())
