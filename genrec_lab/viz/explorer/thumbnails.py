"""Small pictures of items, made when they are shown and sent inside the page."""

from __future__ import annotations

import base64
import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

SIDE = 112
"""Pixels: the longer side of a thumbnail."""
_KEPT = 512


@lru_cache(_KEPT)
def thumbnail(file: str, side: int = SIDE) -> str | None:
    """A picture as a data URI of at most `side` pixels a side; None for what is not there or no picture.

    The explorer goes on without a picture, where a report would stop: it may show a run that was moved.
    """
    try:
        with Image.open(file) as opened:
            opened.draft("RGB", (2 * side, 2 * side))
            small = opened.convert("RGBA")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side))
    # Cut-out goods stand on nothing; JPEG would put them on black.
    flat = Image.new("RGB", small.size, "white")
    flat.paste(small, mask=small.getchannel("A"))
    return _uri(flat)


def drawn(pixels: npt.ArrayLike, side: int = SIDE) -> str:
    """(S, S, 3) in 0..1 as a data URI, enlarged without smoothing: what is drawn is no sharper than that."""
    values = np.round(255 * np.clip(np.asarray(pixels, dtype=np.float64), 0, 1)).astype(np.uint8)
    image = Image.fromarray(values)
    times = max(1, round(side / image.width))
    return _uri(image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST))


def _uri(image: Image.Image) -> str:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}"
