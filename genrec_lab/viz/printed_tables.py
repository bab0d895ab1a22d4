"""Frames as a notebook prints them: without shape and types, and without quotes around texts."""

from __future__ import annotations

import re
import sys

import polars as pl

from genrec_lab.viz.live import in_kernel

# Polars puts a text between quotes and cuts a long one, with its last quote; no setting takes them away.
_TEXT = re.compile(r"<td>&quot;([^<]*?)(?:&quot;)?</td>")


def plain_tables(characters: int = 60, rows: int = 40, columns: int | None = None) -> None:
    """Let a notebook print frames plainly from here on: so many characters of a text, rows and columns.

    columns: None leaves polars' own number.
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
    """The frame as polars writes it in HTML, without the quotes around a cell's text."""
    return _TEXT.sub(r"<td>\1</td>", frame._repr_html_())
