"""Encoders: from item content to vectors.

`TEXT_ENCODERS` turn texts into vectors, by `text.kind`; `ENCODERS` read texts and pictures for a universal
tokenizer, with which they are trained, by `content.kind`. Yours are found in the same way.
"""

from genrec_lab.encoders.content import ENCODERS, AnyEncoderConfig, register_encoder
from genrec_lab.encoders.hub import TextModelError
from genrec_lab.encoders.text import (
    TEXT_ENCODERS,
    AnyTextConfig,
    TextConfig,
    TextEncoder,
    encode_texts,
    register_text_encoder,
    text_encoder,
)

__all__ = [
    "ENCODERS",
    "TEXT_ENCODERS",
    "AnyEncoderConfig",
    "AnyTextConfig",
    "TextConfig",
    "TextEncoder",
    "TextModelError",
    "encode_texts",
    "register_encoder",
    "register_text_encoder",
    "text_encoder",
]
