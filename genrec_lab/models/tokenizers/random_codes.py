"""Random codes: the floor below every tokenizer, identifiers that say nothing of an item.

Shapes: N items, L levels, K codes a level.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field

from genrec_lab.models.tokenizers.quantizers import ContentFreeConfig, Tokenized, finite_vectors


class RandomCodesConfig(ContentFreeConfig):
    """Settings of random codes."""

    kind: Literal["random"] = "random"
    levels: int = Field(4, ge=1, description="L")
    codebook_size: int = Field(256, ge=1, description="K, codes a level")


class RandomCodes:
    """Distinct identifiers drawn by a seed, all equally likely, with the same face as `RQVAE`."""

    def __init__(self, config: RandomCodesConfig, seed: int) -> None:
        self.config = config
        self.seed = seed

    @property
    def codebooks(self) -> np.ndarray:
        """(L, K, 0) float32: codes without a place in any space."""
        return np.zeros((self.config.levels, self.config.codebook_size, 0), dtype=np.float32)

    def tokenize(self, x: np.ndarray) -> Tokenized:
        """Codes of N items; of the vectors (N, D) only their number matters.

        Raises ValueError where there are fewer identifiers than items, or a vector is not finite.
        """
        items, levels, size = len(finite_vectors(x)), self.config.levels, self.config.codebook_size
        if size**levels < items:
            raise ValueError(
                f"tokenizer.levels = {levels} of tokenizer.codebook_size = {size} make {size**levels} "
                f"identifiers, too few for {items} items; use {math.ceil(items ** (1 / levels))} codes or "
                f"more, or more levels"
            )
        chosen = _distinct(size**levels, items, np.random.default_rng(self.seed))
        codes = np.zeros((items, levels), dtype=np.int64)
        for row, number in enumerate(chosen):
            for level in range(levels):
                number, codes[row, level] = divmod(number, size)
        return Tokenized.of_codes(codes)

    def save(self, folder: Path) -> None:
        """Write `config.json` and `seed.txt` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")
        (folder / "seed.txt").write_text(f"{self.seed}\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = RandomCodesConfig.model_validate_json((folder / "config.json").read_text())
        return cls(config, int((folder / "seed.txt").read_text()))


def _distinct(largest: int, count: int, generator: np.random.Generator) -> list[int]:
    """Draw `count` different numbers below `largest`, which may be larger than any array."""
    if largest <= 4 * count:
        return generator.permutation(largest)[:count].tolist()
    found: dict[int, None] = {}
    while len(found) < count:
        # Python's own integers: 256 codes at 8 levels make more identifiers than 64 bits count.
        drawn = int.from_bytes(generator.bytes(16), "little") % largest
        found[drawn] = None
    return list(found)
