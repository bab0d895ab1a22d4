"""Encoders: from item content to vectors."""

from genrec_lab.encoders.text import TextConfig, TextModelError, encode_texts

__all__ = ["TextConfig", "TextModelError", "encode_texts"]
