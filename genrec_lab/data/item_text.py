"""Texts of items, built by a template and cleaned of markup, and attributes of items.

The rule for attributes, which some models use: every text column except title, text, image, key and
description is a kind of attribute, and so is every column of lists of text. A value is one attribute;
comma-separated categories and lists are several. The same words in two columns are two attributes. Without
such columns, the words of the text are the attributes, in lower case, with three or more letters. Attributes
of fewer than `least` items or more than half of all items are dropped, because they do not relate items.
"""

from __future__ import annotations

import ast
import html
import re
import string
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.data.rules import ITEM_TYPES, DataError, count_repair, is_attribute_type, nearest

# GMC Section 5.1.1: "we concatenate its title, brand and categories fields".
DEFAULT_TEMPLATE = "{title} {brand} {categories}"

# Between two fields: closing brackets of the first, a separator, the label of the second.
_BETWEEN = re.compile(r"^([)\]}\"'»”]*)([\s,;:|/.·–—-]*)(.*)$", re.DOTALL)
# Only HTML tag names: "x <y and z> w" is text and stays.
_TAG_NAMES = (
    "a|abbr|area|article|aside|audio|b|big|blockquote|body|br|button|canvas|caption|center|cite|code|col|dd|"
    "del|details|div|dl|dt|em|embed|fieldset|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|"
    "input|ins|label|legend|li|link|main|map|meta|nav|noscript|object|ol|option|p|param|pre|q|s|section|"
    "select|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|template|textarea|tfoot|"
    "th|thead|title|tr|tt|u|ul|var|video|wbr"
)
_TAG = re.compile(rf"</?(?:{_TAG_NAMES})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_HIDDEN = re.compile(
    r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.IGNORECASE | re.DOTALL
)
_ENTITY = r"&(?:[A-Za-z][A-Za-z0-9]+|#[0-9]+|#[xX][0-9A-Fa-f]+);"
_BLANKS = re.compile(r"\s+")
# Lone surrogates and control characters, which encoders cannot read and parquet or HTML cannot hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# A description is prose, so other items do not share its sentences.
_PROSE = (*ITEM_TYPES, "description")
_WORD = r"[^\W\d_]{3,}"


@dataclass(frozen=True)
class TemplateField:
    """One field of a template with the `separator` before it, the `label` and `suffix` around it."""

    name: str
    separator: str
    label: str
    suffix: str


def parse_template(template: str) -> tuple[TemplateField, ...]:
    """Return the fields of a template such as "{title}, by {brand} ({categories})", in order.

    Between two fields, closing brackets belong to the first, blanks and punctuation separate, and words and
    opening brackets belong to the second. Raises DataError for a template without a field, with a nameless
    field or with a format specification.
    """
    if not isinstance(template, str):
        raise DataError(f"text_template is {template!r}, expected text such as {DEFAULT_TEMPLATE!r}")
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"text_template {template!r}: {error}; write fields as {{title}}") from error
    fields: list[TemplateField] = []
    between = ""
    for literal, name, specification, conversion in pieces:
        # An escaped brace ends a piece without a field.
        between += literal
        if name is None:
            continue
        if not name or specification or conversion:
            raise DataError(
                f"text_template {template!r}: a field is the plain name of a column in braces, such as "
                "{title}, without number, format or conversion"
            )
        found = _BETWEEN.match(between) if fields else None
        suffix, separator, label = found.groups() if found else ("", "", between)
        if fields:
            fields[-1] = replace(fields[-1], suffix=suffix)
        fields.append(TemplateField(name, separator, label, ""))
        between = ""
    if not fields:
        raise DataError(
            f"text_template {template!r}: it has no field; name columns in braces, such as {{title}}"
        )
    return (*fields[:-1], replace(fields[-1], suffix=between))


def template_text(template: str, items: pl.DataFrame) -> pl.Series:
    """Return the text of each row by the template, `(N,)` strings.

    An empty field is omitted with its label and separator. Runs of blanks become one blank. Raises DataError
    for a field that is not a column of `items`.
    """
    fields = parse_template(template)
    for part in fields:
        if part.name not in items.columns:
            raise DataError(f"text_template: no column {part.name!r}{nearest(part.name, items.columns)}")
    columns = {part.name: as_text(items[part.name]).rename(part.name) for part in fields}
    built = pl.DataFrame({"built": pl.repeat("", items.height, dtype=pl.String, eager=True)})
    for part in fields:
        rendered = pl.concat_str(pl.lit(part.label), pl.col("value"), pl.lit(part.suffix))
        separator = pl.when(pl.col("built") == "").then(pl.lit("")).otherwise(pl.lit(part.separator))
        longer = pl.concat_str("built", separator, rendered)
        built = built.with_columns(value=columns[part.name]).select(
            built=pl.when(pl.col("value") != "").then(longer).otherwise("built")
        )
    return built["built"].str.replace_all(r"\s+", " ").str.strip_chars().rename("text")


def as_text(values: pl.Series) -> pl.Series:
    """Convert a column to stripped text: null and NaN to "", whole floats without ".0", lists joined by ", ".

    Raises DataError for a type without a text form, such as a struct.
    """
    dtype = values.dtype
    if not (is_attribute_type(dtype) or dtype.is_temporal() or isinstance(dtype, pl.Categorical | pl.Enum)):
        raise DataError(
            f"items: column {values.name!r} has type {dtype}, which cannot become text; cast or drop it"
        )
    if isinstance(dtype, pl.List):
        flat = values.list.eval(pl.element().cast(pl.String).str.strip_chars()).list.drop_nulls()
        return flat.list.eval(pl.element().filter(pl.element() != "")).list.join(", ").fill_null("")
    if dtype.is_float():
        number = pl.col(values.name).fill_nan(None)
        whole = number.is_finite() & (number == number.round()) & (number.abs() < 2**53)
        as_integer = pl.when(whole).then(number).cast(pl.Int64).cast(pl.String)
        shown = pl.coalesce(as_integer, number.cast(pl.String), pl.lit("")).alias(values.name)
        return values.to_frame().select(shown)[values.name]
    return values.cast(pl.String).fill_null("").str.strip_chars()


def filled_text(items: pl.DataFrame, template: str, repairs: dict[str, int]) -> pl.Series:
    """Return each row's text by the template, or if it is empty the title, or the key.

    `items` has columns `title` and `key`; rows whose text was empty are counted in
    `repairs["items_without_text"]`.
    """
    text = template_text(template, items)
    count_repair(repairs, "items_without_text", int((text == "").sum()))
    title = pl.col("title").str.strip_chars()
    instead = pl.when(title != "").then(title).otherwise(pl.col("key"))
    filled = pl.when(pl.col("text") != "").then(pl.col("text")).otherwise(instead)
    return items.select("title", "key").with_columns(text).select(text=filled)["text"]


def plain_text(text: str) -> str:
    """Return text without scripts, tags, entities and control characters, with single blanks.

    Entities are decoded twice, because published files hold "&amp;amp;"; tags written as entities are removed
    too.
    """
    if "<" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    if "&" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", html.unescape(html.unescape(text))))
    return _BLANKS.sub(" ", _UNPRINTABLE.sub(" ", text)).strip()


def without_entities(texts: pl.Series, repairs: dict[str, int] | None = None) -> pl.Series:
    """Return texts with decoded HTML entities, including "&amp;amp;".

    Texts that had any are counted in `repairs["texts_with_html_entities"]`.
    """
    frame = pl.DataFrame({"text": texts}).with_row_index("row")
    some = frame.filter(pl.col("text").str.contains(_ENTITY))
    if repairs is not None:
        count_repair(repairs, "texts_with_html_entities", some.height)
    plain = [html.unescape(html.unescape(text)).strip() for text in some["text"]]
    return texts.scatter(some["row"], plain) if plain else texts


def listed_text(texts: pl.Series) -> pl.Series:
    """Return texts of lists, such as "Drama|Horror" or "['Drama', 'Horror']", as comma-separated texts."""

    def parts(text: str) -> str:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
        return flat_text(found, ", ", "categories") if isinstance(found, list) else text

    texts = texts.str.replace_all(r"\s*\|\s*", ", ")
    rows = texts.str.contains(r"^\s*\[.*\]\s*$").fill_null(False).arg_true()
    return texts.scatter(rows, [parts(text) for text in texts.gather(rows)]) if len(rows) else texts


def flat_text(value: Any, separator: str, where: str) -> str:
    """Return text, numbers, and nested lists of these as one plain text, without repeats within a list.

    Raises DataError naming `where` for an object inside.
    """
    parts: dict[str, None] = {}
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting.extend(reversed(part))
        elif isinstance(part, str | int | float) and not isinstance(part, bool):
            parts[plain_text(str(part))] = None
        elif part is not None:
            raise DataError(
                f"{where} holds {str(part)[:80]!r}, a {type(part).__name__}; expected text or a list of texts"
            )
    return separator.join(part for part in parts if part)


@dataclass(frozen=True, eq=False)
class ItemAttributes:
    """A attributes of N items; the names are `column: value`, in alphabetical order."""

    names: tuple[str, ...]
    of_items: np.ndarray  # (N, A) bool


def item_attributes(items: pl.DataFrame, least: int = 5) -> ItemAttributes:
    """Read the attributes of the items in N rows of `Dataset.items`, by the rule above.

    Raises DataError if no attribute is left.
    """
    columns = [
        one.name
        for one in items
        if one.name not in _PROSE and one.dtype in (pl.String, pl.List(pl.String)) and not one.is_null().all()
    ]
    found = pl.concat([_named(items, column) for column in columns or ["text"]])
    counts = found.unique().group_by("name").agg(items=pl.len())
    kept = counts.filter((pl.col("items") >= least) & (pl.col("items") * 2 <= items.height))["name"].sort()
    if kept.is_empty():
        raise DataError(
            f"items: no attribute belongs to at least {least} and to at most half of {items.height} items; "
            "lower the model's least_items, or leave the row out"
        )
    place = pl.DataFrame({"name": kept, "place": np.arange(len(kept))})
    cells = found.join(place, on="name")
    of_items = np.zeros((items.height, len(kept)), dtype=bool)
    of_items[cells["row"].to_numpy(), cells["place"].to_numpy()] = True
    return ItemAttributes(tuple(kept), of_items)


def _named(items: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return a frame `row, name` of a column's attributes of each item."""
    values = pl.col(column)
    if column == "text":
        values = values.str.to_lowercase().str.extract_all(_WORD)
    elif column == "categories" and items.schema[column] == pl.String:
        values = values.str.split(",")
    named = items.select(row=pl.int_range(items.height, dtype=pl.Int64), value=values)
    return (
        (named.explode("value") if named.schema["value"] != pl.String else named)
        .with_columns(pl.col("value").str.strip_chars())
        .filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
        .select("row", name=pl.format("{}: {}", pl.lit(column), "value"))
    )
