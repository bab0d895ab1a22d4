"""What items say: text by template, what is refused, and which attributes their columns hold."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.data import DataError
from genrec_lab.data.item_text import DEFAULT_TEMPLATE, as_text, filled_text, item_attributes, template_text

words = st.text(st.sampled_from("abc XY"), max_size=6)


@given(st.lists(st.tuples(words, words, words), min_size=1, max_size=5))
def test_default_template_joins_what_is_there_by_blanks(rows: list[tuple[str, str, str]]) -> None:
    # GMC Section 5.1.1: title, brand and categories, one after the other.
    items = pl.DataFrame(rows, schema=["title", "brand", "categories"], orient="row")
    assert template_text(DEFAULT_TEMPLATE, items).to_list() == [
        " ".join(" ".join(row).split()) for row in rows
    ]


@pytest.mark.parametrize(
    ("template", "title", "brand", "text"),
    [
        ("{title}, by {brand}", "Rake", "Oak", "Rake, by Oak"),
        ("{title}, by {brand}", "Rake", "", "Rake"),
        ("{title}, by {brand}", "", "Oak", "by Oak"),
        ("{title} ({brand})", "Rake", "Oak", "Rake (Oak)"),
        ("{title} ({brand})", "Rake", "", "Rake"),
        ("{title} ({brand})", "", "Oak", "(Oak)"),
        ("Title: {title}; Brand: {brand}.", "Rake", "Oak", "Title: Rake; Brand: Oak."),
        ("Title: {title}; Brand: {brand}.", "", "Oak", "Brand: Oak."),
        ("Title: {title}; Brand: {brand}.", "Rake", "", "Title: Rake"),
        ("{title} | {brand}", "", "", ""),
        ("{title}/{title}", "Rake", "", "Rake/Rake"),
        ("{{{title}}} {brand}", "Rake", "", "{Rake}"),
        ("{title}", "  two \n\t words ", "", "two words"),
    ],
)
def test_separators_vanish_with_their_field(template: str, title: str, brand: str, text: str) -> None:
    items = pl.DataFrame({"title": [title], "brand": [brand]})
    assert template_text(template, items).to_list() == [text]


def test_columns_of_every_kind_have_a_text() -> None:
    def texts(*values: object) -> list[str]:
        return as_text(pl.Series("x", values, strict=False)).to_list()

    assert texts(1995.0, 2.5, None, float("nan"), -0.0) == ["1995", "2.5", "", "", "0"]
    assert texts(3, None) == ["3", ""]
    assert texts(True, None) == ["true", ""]
    assert texts(["Tools", " Saws ", "", None], [], None) == ["Tools, Saws", "", ""]
    assert texts([1, 2]) == ["1, 2"]
    assert as_text(pl.Series("x", ["a", None], dtype=pl.Categorical)).to_list() == ["a", ""]
    with pytest.raises(DataError, match="'x' has type Struct"):
        texts({"a": 1})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", r"no column 'titel' \(did you mean 'title'"),
        ("no field", "it has no field"),
        ("{}", "plain name of a column"),
        ("{title!r}", "plain name of a column"),
        ("{title:>10}", "plain name of a column"),
        ("{title", "expected '}'"),
        (7, "expected text such as"),
    ],
)
def test_templates_that_are_refused(template: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        template_text(template, pl.DataFrame({"title": ["a"], "brand": ["b"]}))


def test_an_item_without_text_gets_its_title_or_its_key_and_is_counted() -> None:
    items = pl.DataFrame({"title": ["Rake", "Saw", " "], "brand": ["Oak", "", ""], "key": ["k0", "k1", "k2"]})
    repairs: dict[str, int] = {}
    assert filled_text(items, "{brand}", repairs).to_list() == ["Oak", "Saw", "k2"]
    assert repairs == {"items_without_text": 2}


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
