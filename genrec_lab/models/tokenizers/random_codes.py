"""Random codes: a lower bound for every tokenizer, because the identifiers carry no information.

Shapes: N items, L levels, K codes a level.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field

from genrec_lab.models.tokenizers.base import (
    CatalogueTokenizer,
    Content,
    ItemContent,
    OnEpoch,
    Tokenized,
    TokenizerConfig,
)


class RandomCodesConfig(TokenizerConfig):
    """Settings of random codes."""

    kind: Literal["random"] = "random"
    levels: int = Field(4, ge=1, description="L")
    codebook_size: int = Field(256, ge=1, description="K, codes per level")


class RandomCodes(CatalogueTokenizer):
    """Distinct identifiers, drawn uniformly by a seed."""

    Config = RandomCodesConfig
    needs = ()

    seed: int

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Draw codes for N items; raises ValueError if there are fewer identifiers than items."""
        self.seed = seed
        known = ItemContent.of(content)
        sizes = (self.config.codebook_size,) * self.config.levels
        return self.keep_codes(known, self._drawn(len(known)), sizes)

    def tokenize_unserved(self, content: Content) -> Tokenized:
        """Return codes (n, L) drawn for these items only."""
        return Tokenized(self._drawn(len(ItemContent.of(content))))

    def _drawn(self, items: int) -> np.ndarray:
        levels, size = self.config.levels, self.config.codebook_size
        if size**levels < items:
            raise ValueError(
                f"tokenizer.levels = {levels} of tokenizer.codebook_size = {size} make {size**levels} "
                f"identifiers, too few for {items} items; use {math.ceil(items ** (1 / levels))} codes or "
                f"more, or more levels"
            )
        codes = np.zeros((items, levels), dtype=np.int64)
        for row, number in enumerate(_distinct(size**levels, items, np.random.default_rng(self.seed))):
            for level in range(levels):
                number, codes[row, level] = divmod(number, size)
        return codes


def _distinct(largest: int, count: int, generator: np.random.Generator) -> list[int]:
    """Draw `count` different numbers below `largest`, which may exceed 64 bits."""
    if largest <= 4 * count:
        return generator.permutation(largest)[:count].tolist()
    found: dict[int, None] = {}
    while len(found) < count:
        # Python integers, because 256 codes at 8 levels give more identifiers than 64 bits can count.
        drawn = int.from_bytes(generator.bytes(16), "little") % largest
        found[drawn] = None
    return list(found)
