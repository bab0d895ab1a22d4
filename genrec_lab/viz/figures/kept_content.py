"""Figure of items beside what their first codes keep of them: words, and a picture drawn from the codes."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
from PIL import Image

from genrec_lab.viz.figures.pictures import picture_uri, put_caption, put_picture
from genrec_lab.viz.layout import (
    NARROW,
    counted,
    escape,
    finish,
    label,
    percent,
    require_columns,
    seeded,
    wrapped,
)

# Pixels: a picture as drawn and as stored, a line of text, the head above the columns, a gap.
_PICTURE, _STORED, _LINE, _HEAD, _BETWEEN = 104, 128, 15, 24, 6
_TITLE_LINES, _WORD_LINES = 4, 4
_CHARACTER = 6.2
_PARTS = re.compile(r"[^\W_]+")


def kept_by_codes(
    items: pl.DataFrame,
    codes: npt.ArrayLike,
    words: Sequence[Sequence[Sequence[str]]],
    pictures: npt.ArrayLike | None,
    means: npt.ArrayLike | None = None,
    *,
    seed: int | None = None,
) -> go.Figure:
    """A row an item: its picture and title, then what 1, 2, ... L codes keep of both.

    items: frame `title, domain, text, image` of n items, image a file or null. codes: (n, L). words: by item
    and level the words told from so many codes, most telling first; those that the item's text has are bold.
    pictures: (n, L, S, S, 3) in 0..1, drawn from the codes, or None; means: the same of means of many such
    pictures, which stand beside the single ones. The title states the share of told words that the texts
    have. Raises ValueError where the shapes do not agree, and for no item at all.
    """
    require_columns(items, ("title", "domain", "text", "image"))
    numbers = np.asarray(codes)
    _check(items, numbers, words, pictures, means)
    levels = numbers.shape[1]
    drawn = [np.asarray(shown, dtype=np.float64) for shown in (pictures, means) if shown is not None]
    width = (NARROW - 80) / (levels + 1)
    side = min(_PICTURE, (width - _BETWEEN) / max(1, len(drawn)) - _BETWEEN)
    characters = int((width - 16) / _CHARACTER)
    has_pictures = bool(drawn) or items["image"].null_count() < items.height
    picture = _PICTURE if has_pictures else 0
    card = picture + (max(_TITLE_LINES, _WORD_LINES) + 1) * _LINE + 14
    figure = go.Figure()
    figure.update_xaxes(visible=False, range=[0, levels + 1], fixedrange=True)
    figure.update_yaxes(visible=False, range=[items.height, -_HEAD / card], fixedrange=True)
    heads = ["the item", *(counted(level + 1, "code") for level in range(levels))]
    for column, head in enumerate(heads):
        put_caption(figure, f"<b>{head}</b>", column, -_HEAD / card)
    for row, (title, domain, text, image) in enumerate(
        items.select("title", "domain", "text", "image").iter_rows()
    ):
        if image is not None:
            put_picture(figure, picture_uri(image), 0, row, _PICTURE / width, _PICTURE / card)
        name, _ = wrapped(title, characters, most_lines=_TITLE_LINES)
        put_caption(figure, f"{name}<br><i>{label(domain, characters)}</i>", 0, row + (picture + 4) / card)
        own = words_of(text)
        for level in range(levels):
            for place, shown in enumerate(drawn):
                aside = (place - (len(drawn) - 1) / 2) * (side + _BETWEEN) / width
                put_picture(
                    figure, _uri(shown[row, level]), level + 1 + aside, row, side / width, side / card
                )
            told = _lines(words[row][level], own, characters)
            prefix = "·".join(str(code) for code in numbers[row, : level + 1])
            put_caption(figure, f"{told}<br><i>{escape(prefix)}</i>", level + 1, row + (picture + 4) / card)
    note = f"{counted(items.height, 'item')}; below each picture the most telling words, bold where the "
    note += "item's text has them, and the codes they are told from; "
    note += "pictures drawn by diffusion, all from the same noise" if drawn else (
        "no pictures are drawn, for the tokenizer saw none in training"
    )  # fmt: skip
    if means is not None:
        note += ", and right of each the mean of many, sharp where they agree"
    plot_height = round(items.height * card + _HEAD)
    return finish(figure, _title(shares_told(items["text"].to_list(), words)), seeded(note, seed),
                  plot_height=plot_height)  # fmt: skip


def shares_told(texts: Sequence[str], words: Sequence[Sequence[Sequence[str]]]) -> npt.NDArray[np.float64]:
    """The share of told words that the items' own texts have, by number of codes: (L,)."""
    hits = [[[word in own for word in level] for level in told]
            for own, told in zip(map(words_of, texts), words, strict=True)]  # fmt: skip
    by_level = zip(*hits, strict=True)
    return np.array([np.mean([hit for item in level for hit in item] or [np.nan]) for level in by_level])


def words_of(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(_PARTS.findall(text.lower()))


def _check(
    items: pl.DataFrame,
    codes: npt.NDArray[np.int64],
    words: Sequence[Sequence[Sequence[str]]],
    pictures: npt.ArrayLike | None,
    means: npt.ArrayLike | None,
) -> None:
    n = items.height
    told = {len(of_item) for of_item in words}
    if codes.ndim != 2 or len(codes) != n or len(words) != n or told != {codes.shape[1]}:
        raise ValueError(
            f"{n} items with codes of shape {codes.shape} and words of {len(words)} items with "
            f"{sorted(told)} levels; expected (items, levels) codes and words of each level"
        )
    for name, given in (("pictures", pictures), ("means", means)):
        shape = None if given is None else np.shape(given)
        if shape is not None and (len(shape) != 5 or shape[:2] != codes.shape or shape[4] != 3):
            raise ValueError(
                f"{name}: shape {shape}, expected {(*codes.shape, 'S', 'S', 3)}, one an item and level"
            )


def _lines(words: Sequence[str], own: set[str], characters: int) -> str:
    """Words in lines that fit, bold where the item has them; what does not fit is left out."""
    lines: list[list[str]] = [[]]
    length = 0
    for word in words:
        if length and length + len(word) + 1 > characters:
            lines.append([])
            length = 0
        length += len(word) + 1
        lines[-1].append(f"<b>{label(word)}</b>" if word in own else label(word))
    return "<br>".join(" ".join(line) for line in lines[:_WORD_LINES])


def _uri(pixels: npt.NDArray[np.float64]) -> str:
    """(S, S, 3) in 0..1 as a data URI, enlarged without smoothing: what is told is no sharper than that."""
    image = Image.fromarray(np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    times = max(1, round(_STORED / image.width))
    stored = io.BytesIO()
    image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST).save(stored, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _title(shares: npt.NDArray[np.float64]) -> str:
    if not np.isfinite(shares).all():
        return "What the codes keep of an item"
    first = f"Of the words told from 1 code {percent(float(shares[0]))} are in the item's text"
    if len(shares) == 1:
        return first
    return f"{first}, from {len(shares)} codes {percent(float(shares[-1]))}"
