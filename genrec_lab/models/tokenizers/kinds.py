"""Tokenizers by name: the registry, the config type for all of them, and the check of their output."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import PlainValidator, SerializeAsAny

from genrec_lab.models import TOKENIZER_PLACES
from genrec_lab.models.tokenizers.base import (
    Content,
    ItemContent,
    Tokenized,
    Tokenizer,
    TokenizerError,
    require_codes,
)
from genrec_lab.registry import ComponentConfig, Registry, RegistryError, component_config

_MOST_ENCODED_TWICE = 1_000  # items that are encoded twice, to check that the codes are the same
T = TypeVar("T")

TOKENIZERS: Registry[type[Tokenizer]] = Registry(
    "tokenizer",
    required=("Config", "fit", "encode"),
    declared={kind: f"genrec_lab.models.{place}" for kind, place in TOKENIZER_PLACES.items()},
)


def register_tokenizer(name: str) -> Callable[[T], T]:
    """Register the decorated class as the tokenizer that `tokenizer.kind` names.

    >>> @register_tokenizer("alphabetical")
    ... class Alphabetical(Tokenizer):
    ...     needs = ("text",)
    ...
    ...     def fit(self, content):
    ...         self.sizes = (26,)
    ...         return self
    ...
    ...     def encode(self, content):
    ...         return np.array([[ord(text[0].lower()) - ord("a")] for text in content.texts(self)])
    """
    return TOKENIZERS.register(name)


def find_tokenizer(kind: str) -> type[Tokenizer]:
    """Return the class of a kind; raises RegistryError if there is none, or it is not a Tokenizer."""
    found = TOKENIZERS.find(kind)
    if not (isinstance(found, type) and issubclass(found, Tokenizer)):
        raise RegistryError(
            f"tokenizer {kind!r}: {getattr(found, '__name__', found)} is not a Tokenizer; derive it from "
            "genrec_lab.models.tokenizers.Tokenizer"
        )
    return found


# The settings of any tokenizer, as a field of another config; `kind` selects the class.
AnyTokenizerConfig = Annotated[
    SerializeAsAny[ComponentConfig], PlainValidator(partial(component_config, TOKENIZERS))
]


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a saved tokenizer of any kind; raises SharingError for a shared folder that was altered."""
    source = Path(folder)
    kind = json.loads((source / "config.json").read_text())["kind"]
    return find_tokenizer(kind).read(source)


def checked_codes(tokenizer: Tokenizer, content: Content) -> Tokenized:
    """Tokenize items and check the result: codes (n, L) within `sizes` that do not change between calls.

    Raises TokenizerError, which names the class.
    """
    name = type(tokenizer).__name__
    known = ItemContent.of(content)
    try:
        found = tokenizer.tokenize(content)
        codes = np.asarray(found.codes)
    except (TypeError, AttributeError, IndexError) as error:
        raise TokenizerError(f"{name}.encode fails: {type(error).__name__}: {error}") from error
    sizes = tuple(tokenizer.sizes)
    if not sizes or any(int(size) < 1 for size in sizes):
        raise TokenizerError(f"{name}.sizes is {sizes} after fit; expected the number of codes of each level")
    codes = require_codes(codes, known.numbers, sizes, f"{name}.encode gave")
    residuals = found.residuals
    if residuals is not None and (residuals.ndim != 3 or residuals.shape[:2] != codes.shape):
        raise TokenizerError(
            f"{name}.residuals has shape {residuals.shape}; expected {codes.shape} and the dimension, or None"
        )
    if residuals is not None and not np.isfinite(residuals).all():
        raise TokenizerError(f"{name}.residuals holds NaN or infinite values")
    some = known.select(np.linspace(0, len(known) - 1, min(len(known), _MOST_ENCODED_TWICE)).astype(np.int64))
    first, again = tokenizer.encode(some), tokenizer.encode(some)
    if not np.array_equal(first, again):
        differing = int((np.asarray(first) != np.asarray(again)).any(axis=1).sum())
        raise TokenizerError(
            f"{name}.encode gave {differing} of {len(some)} items different codes when called twice; "
            "expected the same codes for the same items"
        )
    return found._replace(codes=codes)
