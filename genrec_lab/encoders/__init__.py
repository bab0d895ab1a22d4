"""Encoders: from item content to vectors.

`TEXT_ENCODERS` convert texts to vectors, selected by `text.kind`. `ENCODERS` read texts and pictures,
selected by `content.kind`, and are trained with a universal tokenizer. Your own encoders are registered in
the same way.
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
    "ENCODERS", "TEXT_ENCODERS", "AnyEncoderConfig", "AnyTextConfig", "TextConfig", "TextEncoder",
    "TextModelError", "encode_texts", "register_encoder", "register_text_encoder", "text_encoder",
]  # fmt: skip
