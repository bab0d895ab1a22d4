"""Tables as plotly figures: escaped cells, rows of at most two lines, high enough for the whole table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from genrec_lab.viz.layout import NARROW, finish
from genrec_lab.viz.text import shorten, wrapped

_LINE, _CELL_PADDING, _SIDE = 17, 12, 16
_CHARACTER = 7.4
_MOST_HEADER_LINES = 4
_TALLEST = 2_400  # pixels; a longer table scrolls inside its frame


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
    """Draw a table with one list of values per column.

    The first `left` columns are left-aligned, the others right-aligned. Cells are cut to `most_lines` lines.
    emphasis: by column and row, which cells are bold. Raises ValueError if headers and columns do not match.
    """
    if len(headers) != len(columns) or len({len(column) for column in columns}) > 1:
        found = f"{len(headers)} headers for columns of {[len(column) for column in columns]} rows"
        raise ValueError(f"table: {found}; expected one header per column and columns of equal length")
    shares = np.array([1.0] * len(headers) if widths is None else widths, dtype=float)
    room = [max(4, int((NARROW - 2 * _SIDE) * share / shares.sum() / _CHARACTER) - 2) for share in shares]
    # Lines are broken here, because the figure's height must be known before plotly breaks lines. Long words
    # of a header get an ellipsis, so that they are not broken.
    fitted = [
        " ".join(shorten(word, place) for word in name.split())
        for name, place in zip(headers, room, strict=True)
    ]
    head = [wrapped(name, place, _MOST_HEADER_LINES) for name, place in zip(fitted, room, strict=True)]
    cells = [
        [wrapped(str(value), place, most_lines) for value in column]
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
    # A table needs no room for axes or a legend.
    top = figure.layout.margin.t
    figure.update_layout(margin={"b": _SIDE, "l": _SIDE, "r": _SIDE}, height=round(top + height + _SIDE))
    return figure
