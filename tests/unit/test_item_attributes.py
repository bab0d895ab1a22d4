"""Attributes of items: which columns they come from, how values are split, which are kept."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.data import DataError
from genrec_lab.data.item_attributes import item_attributes


def table(**columns: list[object]) -> pl.DataFrame:
    rows = len(next(iter(columns.values())))
    fixed = {"title": ["Lamp"] * rows, "text": ["Lamp"] * rows, "description": ["Fine lamp"] * rows}
    return pl.DataFrame({**fixed, **columns})


def held(items: pl.DataFrame, least: int) -> list[set[str]]:
    found = item_attributes(items, least)
    return [{found.names[place] for place in row.nonzero()[0]} for row in found.of_items]


def test_columns_are_kinds_and_categories_and_lists_are_several() -> None:
    items = table(
        brand=["Acme, Inc.", "Acme, Inc.", "Birch", None, ""],
        categories=["Home,Light", "Home, Chair", "Light", "", None],
        colours=[["red", "blue"], ["red"], [], None, ["blue", " "]],
        price=[1.0, 1.0, 2.0, 3.0, 4.0],
    )
    assert held(items, 2) == [
        {"brand: Acme, Inc.", "categories: Home", "categories: Light", "colours: red", "colours: blue"},
        {"brand: Acme, Inc.", "categories: Home", "colours: red"},
        {"categories: Light"},
        set(),
        {"colours: blue"},
    ]


def test_title_description_and_keys_are_no_attributes_and_words_are_where_nothing_else_is() -> None:
    bare = pl.DataFrame(
        {"title": ["a"] * 4, "key": list("aabb"), "text": ["Red lamp", "red VASE", "vase", "of"]}
    )
    assert held(bare, 2) == [{"text: red"}, {"text: red", "text: vase"}, {"text: vase"}, set()]
    beside = bare.with_columns(brand=pl.Series(["x", "x", "y", "y"]))
    assert held(beside, 2) == [{"brand: x"}, {"brand: x"}, {"brand: y"}, {"brand: y"}]


def test_the_same_word_twice_of_one_item_counts_once() -> None:
    items = table(categories=["Home,Home", "Light", "Light", "Chair"])
    assert held(items, 2) == [set(), {"categories: Light"}, {"categories: Light"}, set()]


@given(
    values=st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=2, max_size=12),
    least=st.integers(1, 4),
)
def test_kept_is_what_enough_items_have_and_not_most(values: list[str | None], least: int) -> None:
    counts = {value: values.count(value) for value in set(values) if value is not None}
    kept = {value for value, count in counts.items() if least <= count <= len(values) / 2}
    if not kept:
        with pytest.raises(DataError, match=f"at least {least} and to at most half of {len(values)} items"):
            item_attributes(table(brand=[*values]).with_columns(pl.col("brand").cast(pl.String)), least)
        return
    found = item_attributes(table(brand=values), least)
    assert list(found.names) == [f"brand: {value}" for value in sorted(kept)]
    for row, value in zip(found.of_items, values, strict=True):
        assert row.tolist() == [name == f"brand: {value}" for name in found.names]
