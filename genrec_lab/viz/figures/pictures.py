"""Items as a shopper sees them: their pictures, with titles."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
import polars as pl
from PIL import Image, UnidentifiedImageError

from genrec_lab.data.picture_pack import picture_source
from genrec_lab.viz.layout import NARROW, counted, finish, label, listed, require_columns, seeded, wrapped
from genrec_lab.viz.projection import stratified_sample
from genrec_lab.viz.theme import NOTE_SIZE

_COLUMNS = 6
# Pixels: a card's picture, the lines below it, and how large a picture is stored at most.
_PICTURE, _TEXT_LINE, _STORED = 118, 15, 160
_CARD_WIDTH = (NARROW - 80) / _COLUMNS
_TITLE_LINES = 3
_TITLE_CHARACTERS = 21


def item_pictures(items: pl.DataFrame, *, rows: int = 2, seed: int = 0) -> go.Figure:
    """A seeded choice of items, six a row: picture, title and domain.

    items: frame `title, domain, image`, image a file or null. Items without a picture are counted in the note
    and not drawn; the choice is stratified by domain and each domain's items stand together. The pictures are
    stored inside the figure, at most 160 px a side. Raises ValueError where no item has a picture, or for a
    file that is not there or is no picture.
    """
    require_columns(items, ("title", "domain", "image"))
    pictured = items.filter(pl.col("image").is_not_null())
    if pictured.height == 0:
        raise ValueError(f"items: none of {items.height} has a picture; expected at least one `image`")
    chosen = pictured[stratified_sample(pictured["domain"].to_list(), rows * _COLUMNS, seed)]
    domains = pictured["domain"].unique(maintain_order=True).to_list()
    lines = -(-chosen.height // _COLUMNS)
    figure = go.Figure()
    figure.update_xaxes(visible=False, range=[0, _COLUMNS], fixedrange=True)
    figure.update_yaxes(visible=False, range=[lines, 0], fixedrange=True)
    card = _PICTURE + (_TITLE_LINES + 1) * _TEXT_LINE + 10
    for place, (title, domain, image) in enumerate(chosen.select("title", "domain", "image").iter_rows()):
        row, column = divmod(place, _COLUMNS)
        put_picture(figure, picture_uri(image), column, row, _PICTURE / _CARD_WIDTH, _PICTURE / card)
        text, _ = wrapped(title, _TITLE_CHARACTERS, most_lines=_TITLE_LINES)
        caption = f"{text}<br><i>{label(domain, _TITLE_CHARACTERS)}</i>"
        put_caption(figure, caption, column, row + (_PICTURE + 4) / card)
    note = f"{chosen.height} of {counted(pictured.height, 'item')} with a picture, stratified by domain"
    if pictured.height < items.height:
        note += f"; {counted(items.height - pictured.height, 'item')} without one"
    return finish(figure, _title(domains), seeded(note, seed), plot_height=lines * card)


def put_picture(
    figure: go.Figure, source: str, column: float, row: float, width: float, height: float
) -> None:
    """Put a picture at the top of a column's card; width and height in columns and rows."""
    figure.add_layout_image(
        source=source,
        x=column + 0.5,
        y=row,
        xref="x",
        yref="y",
        xanchor="center",
        yanchor="top",
        sizex=width,
        sizey=height,
        sizing="contain",
        layer="above",
    )


def put_caption(figure: go.Figure, text: str, column: int, y: float) -> None:
    """Write escaped text in the middle of a column, down from y."""
    figure.add_annotation(
        text=text,
        x=column + 0.5,
        y=y,
        xanchor="center",
        yanchor="top",
        showarrow=False,
        font={"size": NOTE_SIZE - 1},
    )


def picture_uri(file: str | Path) -> str:
    """A picture as a data URI, shrunk to at most 160 px a side; raises ValueError for what is no picture."""
    try:
        with Image.open(picture_source(Path(file))) as opened:
            small = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file}: not a picture that can be read ({error}); restore it, or prepare the data again"
        ) from error
    small.thumbnail((_STORED, _STORED))
    stored = io.BytesIO()
    small.save(stored, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _title(domains: Sequence[str]) -> str:
    return f"What items of {listed(domains)} look like"
