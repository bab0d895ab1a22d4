"""What UTGRec's tokenizer reads: batches of content, and the encoder that turns them into representations.

Shapes: B items of a batch, L levels, d encoder dimensions, T text tokens, P picture tokens of c channels,
V words of e dimensions, S pixels a side.

A batch of content is a mapping of tensors whose first dimension is B: `text_ids` (B, T) int64, `text_mask`
(B, T) bool, `patches` (B, P, c), `has_picture` (B,) bool, and what the encoder reads, under `encoder_...`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

Batch = Mapping[str, Tensor]


class PictureTokens(Protocol):
    """What of a picture is rebuilt: P tokens of c channels."""

    @property
    def tokens(self) -> int:
        """P."""

    @property
    def channels(self) -> int:
        """The numbers of a token, c."""

    def to_images(self, tokens: Tensor) -> Tensor:
        """(B, P, c) -> (B, 3, S, S) in 0..1."""


class ContentEncoder(Protocol):
    """An nn.Module that gives L content representations of an item (Eq. 2)."""

    @property
    def levels(self) -> int:
        """L."""

    @property
    def dimension(self) -> int:
        """The numbers of a representation, d."""

    @property
    def picture(self) -> PictureTokens:
        """What of a picture is rebuilt."""

    def word_table(self) -> Tensor:
        """Vectors of the words that `text_ids` number: (V, e)."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of content -> H (B, L, d)."""
