"""Printing of frames in notebooks: without shape and types, and without quotes around texts."""

from __future__ import annotations

import re
import sys

import polars as pl

from genrec_lab.viz.live import in_kernel

# Polars quotes texts, and no setting changes this. A long text is truncated and loses its closing quote.
_TEXT = re.compile(r"<td>&quot;([^<]*?)(?:&quot;)?</td>")


def plain_tables(characters: int = 60, rows: int = 40, columns: int | None = None) -> None:
    """Make notebooks print frames plainly, with at most this many characters per text, rows and columns.

    columns: None keeps the default of polars.
    """
    pl.Config(
        fmt_str_lengths=characters,
        tbl_rows=rows,
        tbl_cols=columns,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
    )
    if in_kernel():
        printed = sys.modules["IPython"].get_ipython().display_formatter.formatters["text/html"]
        printed.for_type(pl.DataFrame, unquoted)


def unquoted(frame: pl.DataFrame) -> str:
    """Return the HTML that polars writes for a frame, without quotes around the texts in cells."""
    return _TEXT.sub(r"<td>\1</td>", frame._repr_html_())
