"""Figures of items with their pictures and titles, and of what their first codes keep."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike
from PIL import Image, UnidentifiedImageError

from genrec_lab.data.picture_files import opened_picture
from genrec_lab.viz import FloatArray, theme
from genrec_lab.viz.layout import NARROW, finish, require_columns
from genrec_lab.viz.projection import stratified_sample
from genrec_lab.viz.sentences import kept_title, pictures_title
from genrec_lab.viz.text import counted, escape, label, noted, wrapped

_COLUMNS = 6
# Pixels: a card's picture, a line below it, how large a picture is stored at most.
_PICTURE, _LINE, _STORED = 118, 15, 160
_THUMBNAILS_KEPT = 512
_CARD_WIDTH = (NARROW - 80) / _COLUMNS
_TITLE_LINES = 3
_TITLE_CHARACTERS = 21
# Pixels in `kept_by_codes`: a picture as drawn and as stored, the header above the columns, a gap.
_KEPT_PICTURE, _KEPT_STORED, _HEAD, _GAP = 104, 128, 24, 6
_KEPT_LINES = 4
_CHARACTER = 6.2
_PARTS = re.compile(r"[^\W_]+")


def item_pictures(items: pl.DataFrame, *, rows: int = 2, seed: int = 0) -> go.Figure:
    """Draw a seeded choice of items, stratified by domain, six per row: picture, title and domain.

    items: frame `title, domain, image`; image is a file or null. Items without a picture are counted in the
    note. Raises ValueError if no item has a picture, or if a file is missing or not a picture.
    """
    require_columns(items, ("title", "domain", "image"))
    pictured = items.filter(pl.col("image").is_not_null())
    if pictured.height == 0:
        raise ValueError(f"items: none of {items.height} has a picture; expected at least one `image`")
    chosen = pictured[stratified_sample(pictured["domain"].to_list(), rows * _COLUMNS, seed)]
    domains = pictured["domain"].unique(maintain_order=True).to_list()
    lines = -(-chosen.height // _COLUMNS)
    figure = _cards(_COLUMNS, 0, lines)
    card = _PICTURE + (_TITLE_LINES + 1) * _LINE + 10
    for place, (title, domain, image) in enumerate(chosen.select("title", "domain", "image").iter_rows()):
        row, column = divmod(place, _COLUMNS)
        _put_picture(figure, picture_uri(image), column, row, _PICTURE / _CARD_WIDTH, _PICTURE / card)
        caption = _titled(title, domain, _TITLE_CHARACTERS, _TITLE_LINES)
        _put_caption(figure, caption, column, row + (_PICTURE + 4) / card)
    title = pictures_title(chosen.height, pictured.height, domains)
    without = items.height - pictured.height
    left_out = f"{counted(without, 'item')} without a picture" if without else ""
    return finish(figure, title, noted("Stratified by domain", left_out, seed=seed), lines * card)


def kept_by_codes(
    items: pl.DataFrame,
    codes: ArrayLike,
    words: Sequence[Sequence[Sequence[str]]],
    pictures: ArrayLike | None,
    means: ArrayLike | None = None,
    *,
    seed: int | None = None,
) -> go.Figure:
    """Draw one row per item: its picture and title, then what 1, 2, ... L codes keep of both.

    items: frame `title, domain, text, image` of n items; image is a file or null. codes: (n, L). words: by
    item and level, the words decoded from the codes up to that level, most characteristic first; words from
    the item's text are bold. pictures: (n, L, S, S, 3) in 0..1, decoded from the codes, or None. means: of
    many such pictures, in the same shape. Raises ValueError if shapes do not match or there are no items.
    """
    require_columns(items, ("title", "domain", "text", "image"))
    numbers = np.asarray(codes)
    if numbers.ndim != 2 or [len(of_item) for of_item in words] != [numbers.shape[1]] * len(numbers):
        shape = f"codes of shape {numbers.shape} with words of {len(words)} items"
        raise ValueError(f"{shape}; expected words of each level")
    for name, given in (("pictures", pictures), ("means", means)):
        if given is not None and np.shape(given)[:2] != numbers.shape:
            raise ValueError(f"{name}: shape {np.shape(given)}, expected {(*numbers.shape, 'S', 'S', 3)}")
    levels = numbers.shape[1]
    drawn = [np.asarray(shown, dtype=np.float64) for shown in (pictures, means) if shown is not None]
    width = (NARROW - 80) / (levels + 1)
    side = min(_KEPT_PICTURE, (width - _GAP) / max(1, len(drawn)) - _GAP)
    characters = int((width - 16) / _CHARACTER)
    has_pictures = bool(drawn) or items["image"].null_count() < items.height
    picture = _KEPT_PICTURE if has_pictures else 0
    card = picture + (_KEPT_LINES + 1) * _LINE + 14
    figure = _cards(levels + 1, -_HEAD / card, items.height)
    for column, head in enumerate(["the item", *(counted(level + 1, "code") for level in range(levels))]):
        _put_caption(figure, f"<b>{head}</b>", column, -_HEAD / card)
    rows = items.select("title", "domain", "text", "image").iter_rows()
    for row, (title, domain, text, image) in enumerate(rows):
        caption_at = row + (picture + 4) / card
        if image is not None:
            side_x, side_y = _KEPT_PICTURE / width, _KEPT_PICTURE / card
            _put_picture(figure, picture_uri(image), 0, row, side_x, side_y)
        _put_caption(figure, _titled(title, domain, characters, _KEPT_LINES), 0, caption_at)
        own = words_of(text)
        for level in range(levels):
            for place, shown in enumerate(drawn):
                aside = level + 1 + (place - (len(drawn) - 1) / 2) * (side + _GAP) / width
                uri = drawn_uri(shown[row, level], _KEPT_STORED)
                _put_picture(figure, uri, aside, row, side / width, side / card)
            lines = _lines(words[row][level], own, characters)
            prefix = "·".join(str(code) for code in numbers[row, : level + 1])
            _put_caption(figure, f"{lines}<br><i>{escape(prefix)}</i>", level + 1, caption_at)
    seen = "no pictures are drawn, because the tokenizer saw none in training"
    if drawn:
        seen = "pictures drawn by diffusion, all from the same noise"
    seen += "" if means is None else ", and right of each the mean of many, sharp where they agree"
    below = "below each picture the codes and their most typical words, bold where the item's text has them"
    note = noted(counted(items.height, "item"), below, seen, seed=seed)
    title = kept_title(shares_told(items["text"].to_list(), words))
    return finish(figure, title, note, round(items.height * card + _HEAD))


def shares_told(texts: Sequence[str], words: Sequence[Sequence[Sequence[str]]]) -> FloatArray:
    """Return the share of decoded words that are in the items' own texts, by number of codes: (L,)."""
    pairs = zip(map(words_of, texts), words, strict=True)
    hits = [[[word in own for word in level] for level in decoded] for own, decoded in pairs]
    by_level = zip(*hits, strict=True)
    return np.array([np.mean([hit for item in level for hit in item] or [np.nan]) for level in by_level])


def words_of(text: str) -> set[str]:
    """Return the words of a text in lower case."""
    return set(_PARTS.findall(text.lower()))


def picture_uri(file: str | Path, side: int = _STORED, kind: str = "PNG") -> str:
    """Return a picture as a data URI of at most `side` px per side; raises ValueError if it is unreadable."""
    try:
        with opened_picture(Path(file)) as opened:
            opened.draft("RGB", (2 * side, 2 * side))
            small = opened.convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        fix = "restore it, or prepare the data again"
        raise ValueError(f"{file}: not a picture that can be read ({error}); {fix}") from error
    small.thumbnail((side, side))
    # A transparent background would become black.
    flat = Image.new("RGB", small.size, "white")
    flat.paste(small, mask=small.getchannel("A"))
    return _uri(flat, kind)


@lru_cache(_THUMBNAILS_KEPT)
def thumbnail(file: str, side: int) -> str | None:
    """Return a small picture as a data URI, or None if the file is not one: a run may have been moved."""
    try:
        return picture_uri(file, side, "JPEG")
    except ValueError:
        return None


def drawn_uri(pixels: ArrayLike, side: int) -> str:
    """Return (S, S, 3) in 0..1 as a data URI of about `side` px, its true pixels visible."""
    values = np.round(255 * np.clip(np.asarray(pixels, dtype=np.float64), 0, 1)).astype(np.uint8)
    image = Image.fromarray(values)
    times = max(1, round(side / image.width))
    large = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    return _uri(large, "PNG")


def _uri(image: Image.Image, kind: str) -> str:
    stored = io.BytesIO()
    image.save(stored, kind, **({"optimize": True} if kind == "PNG" else {"quality": 82}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stored.getvalue()).decode()}"


def _cards(columns: int, top: float, rows: int) -> go.Figure:
    """Return a figure whose axes count columns and rows of cards from the top left."""
    figure = go.Figure(layout={"template": theme.LIGHT})
    figure.update_xaxes(visible=False, range=[0, columns], fixedrange=True)
    figure.update_yaxes(visible=False, range=[rows, top], fixedrange=True)
    return figure


def _put_picture(
    figure: go.Figure, source: str, column: float, row: float, width: float, height: float
) -> None:
    """Put a picture at the top of a column's card; width and height in columns and rows."""
    place = {"x": column + 0.5, "y": row, "xref": "x", "yref": "y", "xanchor": "center", "yanchor": "top"}
    size = {"sizex": width, "sizey": height, "sizing": "contain", "layer": "above"}
    figure.add_layout_image(source=source, **place, **size)


def _put_caption(figure: go.Figure, text: str, column: int, y: float) -> None:
    """Write escaped text in the middle of a column, starting at y."""
    place = {"x": column + 0.5, "y": y, "xanchor": "center", "yanchor": "top"}
    figure.add_annotation(text=text, **place, showarrow=False, font={"size": theme.NOTE_SIZE - 1})


def _titled(title: str, domain: str, characters: int, lines: int) -> str:
    return f"{wrapped(title, characters, most_lines=lines)[0]}<br><i>{label(domain, characters)}</i>"


def _lines(words: Sequence[str], own: set[str], characters: int) -> str:
    """Arrange words in lines, with the item's own words in bold; words that do not fit are left out."""
    lines: list[list[str]] = [[]]
    length = 0
    for word in words:
        if length and length + len(word) + 1 > characters:
            lines.append([])
            length = 0
        length += len(word) + 1
        lines[-1].append(f"<b>{label(word)}</b>" if word in own else label(word))
    return "<br>".join(" ".join(line) for line in lines[:_KEPT_LINES])
