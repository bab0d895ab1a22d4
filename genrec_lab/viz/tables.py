"""Tables: as plotly figures, high enough for all rows, with escaped cells; and as notebooks print frames."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import live, theme
from genrec_lab.viz.layout import NARROW, finish
from genrec_lab.viz.text import shorten, wrapped

_LINE, _CELL_PADDING, _SIDE = 17, 12, 16
_CHARACTER = 7.4
_MOST_HEADER_LINES = 4
_TALLEST = 2_400  # pixels; a longer table scrolls inside its frame
# Polars quotes texts, and no setting changes this. A long text is truncated and loses its closing quote.
_TEXT = re.compile(r"<td>&quot;([^<]*?)(?:&quot;)?</td>")


def table_figure(
    title: str,
    note: str,
    columns: Mapping[str, Sequence[object]],
    *,
    widths: Sequence[float] | None = None,
    left: int = 1,
    emphasis: Sequence[Sequence[bool]] | None = None,
) -> go.Figure:
    """Draw a table; columns: their values by header.

    The first `left` columns are left-aligned, the others right-aligned. Cells are cut to two lines.
    emphasis: by column and row, which cells are bold.
    """
    headers = list(columns)
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
        [wrapped(str(value), place, 2) for value in column]
        for column, place in zip(columns.values(), room, strict=True)
    ]
    strong = emphasis or [[False] * len(column) for column in cells]
    texts = [
        [f"<b>{text}</b>" if bold else text for (text, _), bold in zip(column, bolds, strict=True)]
        for column, bolds in zip(cells, strong, strict=True)
    ]
    look = {"align": ["left"] * left + ["right"] * (len(headers) - left), "height": _LINE + _CELL_PADDING}
    header = {"values": [f"<b>{text}</b>" for text, _ in head]} | look
    table = go.Table(columnwidth=shares.tolist(), header=header, cells={"values": texts} | look)
    figure = go.Figure(table, layout={"template": theme.LIGHT})
    rows = [max(lines for _, lines in row) for row in (head, *zip(*cells, strict=True))]
    height = min(sum(_LINE * lines + _CELL_PADDING for lines in rows) + 8, _TALLEST)
    finish(figure, title, note, height)
    # A table needs no room for axes or a legend.
    top = figure.layout.margin.t
    figure.update_layout(margin={"b": _SIDE, "l": _SIDE, "r": _SIDE}, height=round(top + height + _SIDE))
    return figure


def plain_tables(characters: int = 60, rows: int = 40, columns: int | None = None) -> None:
    """Make notebooks print frames plainly, with at most this many characters per text, rows and columns."""
    pl.Config(
        fmt_str_lengths=characters,
        tbl_rows=rows,
        tbl_cols=columns,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
    )
    if live.in_kernel():
        printed = sys.modules["IPython"].get_ipython().display_formatter.formatters["text/html"]
        printed.for_type(pl.DataFrame, unquoted)


def unquoted(frame: pl.DataFrame) -> str:
    """Return the HTML that polars writes for a frame, without quotes around the texts in cells."""
    return _TEXT.sub(r"<td>\1</td>", frame._repr_html_())
