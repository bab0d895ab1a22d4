"""Frames as notebooks print them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from genrec_lab.viz import live
from genrec_lab.viz.tables import plain_tables, unquoted


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    with pl.Config():
        yield


def cells(page: str) -> list[str]:
    return [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page, re.DOTALL)]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters=" \n"), max_size=30), min_size=1))
def test_every_text_stands_as_it_is(texts: list[str]) -> None:
    with pl.Config(fmt_str_lengths=100, tbl_rows=-1, tbl_hide_column_data_types=True):
        assert cells(unquoted(pl.DataFrame({"text": texts}))) == texts


def test_long_texts_lose_the_only_quote_they_have_and_numbers_stay() -> None:
    plain_tables(characters=4)
    frame = pl.DataFrame({"text": ["abcdefgh", None], "number": [1.5, -2.0], "list": [["a"], []]})
    assert cells(unquoted(frame)) == ["abcd…", "1.5", '["a"]', "null", "-2.0", "[]"]


def test_rows_and_columns_are_as_many_as_asked_for() -> None:
    frame = pl.DataFrame({name: ["x"] * 9 for name in "abcdef"})
    plain_tables(rows=4, columns=2)
    page = unquoted(frame)
    assert page.count("<tr>") == 1 + 4 + 1  # a header, and a row of dots
    assert page.count("<th>") == 2 + 1
    assert "shape" not in page
    assert "str" not in cells(page)
    plain_tables(rows=4)
    assert unquoted(frame).count("<th>") == 6


def test_a_kernel_shows_frames_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "in_kernel", lambda: True)
    shell = InteractiveShell.instance()
    try:
        plain_tables()
        shown, _ = shell.display_formatter.format(pl.DataFrame({"row": ["tiger"]}))
    finally:
        InteractiveShell.clear_instance()
    assert cells(shown["text/html"]) == ["tiger"]
