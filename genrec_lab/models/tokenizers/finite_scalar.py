"""Finite scalar quantisation (Mentzer et al. 2023): an autoencoder that rounds its latent numbers.

No codebook is learned, so none can collapse: a code is the combination of values to which m numbers are
rounded. An identifier consists of L such codes, one for each part of the latent vector.
Shapes: N items, B items of a batch, D content dimensions, L levels, m numbers a level, K codes a level.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Generator, Tensor

from genrec_lab.losses import reconstruction_loss
from genrec_lab.models.tokenizers.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    AutoencoderTokenizer,
    Step,
    mlp,
)
from genrec_lab.models.tokenizers.quantizers import Quantized

Steps = Annotated[
    tuple[Annotated[int, Field(ge=2)], ...],
    Field(min_length=1),
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]
_EDGE = 1e-3  # distance of the bound beyond the outermost step, as in the paper's appendix


class FiniteScalarConfig(AutoencoderConfig):
    """Settings of finite scalar quantisation; the steps 8, 6, 5 are the paper's for about 256 codes.

    The others: 5, 3 for 2^4; 8, 8 for 2^6; 8, 8, 8 for 2^9; 8, 5, 5, 5 for 2^10; 7, 5, 5, 5, 5 for 2^12.
    """

    kind: Literal["fsq"] = "fsq"
    steps: Steps = Field((8, 6, 5), description="number of values that each number of a level can take")

    @property
    def codebook_size(self) -> int:
        """K, the codes of a level: the product of the steps."""
        return math.prod(self.steps)


class FiniteScalarNetwork(Autoencoder):
    """Encoder, rounding, decoder; L times m latent numbers."""

    config: FiniteScalarConfig
    counts: Tensor
    places: Tensor

    def __init__(self, inputs: int, config: FiniteScalarConfig, generator: Generator | None = None) -> None:
        """`inputs` is D; the weights are drawn from the generator."""
        super().__init__(inputs, config.levels * len(config.steps), config, generator)
        self.decoder = mlp(self.widths[::-1], config.dropout, generator)
        places = [math.prod(config.steps[:number]) for number in range(len(config.steps))]
        self.register_buffer("counts", torch.tensor(config.steps), persistent=False)
        self.register_buffer("places", torch.tensor(places), persistent=False)

    @property
    def codebooks(self) -> np.ndarray:
        """(L, K, m) float32: the same grid at each level; the first number varies fastest."""
        grid = self.from_codes(torch.arange(self.config.codebook_size, device=self.counts.device))
        return grid.expand(self.config.levels, -1, -1).cpu().numpy().copy()

    def bound(self, latent: Tensor) -> Tensor:
        """Squash numbers (..., m) into the range in which rounding gives exactly `steps` integers.

        As in the paper's appendix: tanh, shifted by half a step if the number of steps is even.
        """
        half = (self.counts - 1) * (1 + _EDGE) / 2
        offset = torch.where(self.counts % 2 == 0, 0.5, 0.0)
        return torch.tanh(latent + torch.atanh(offset / half)) * half - offset

    def from_codes(self, codes: Tensor) -> Tensor:
        """Return the numbers (..., m) in -1..1 of codes (...)."""
        steps = codes[..., None] // self.places % self.counts
        middle = self.counts // 2
        return (steps - middle) / middle

    def to_codes(self, values: Tensor) -> Tensor:
        """Return the codes (...) of rounded numbers (..., m) in -1..1."""
        middle = self.counts // 2
        return ((values * middle).round().long() + middle) @ self.places

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L m) -> codes (B, L), bounded and rounded numbers (B, L, m), both divided by half the steps."""
        middle = self.counts // 2
        bounded = self.bound(latent.float().unflatten(1, (self.config.levels, -1)))
        rounded = bounded.round() / middle
        return self.to_codes(rounded), bounded / middle, rounded

    def assemble(self, codewords: Tensor) -> Tensor:
        """(B, L, m) -> (B, L m)."""
        return codewords.flatten(1)

    def code_loss(self, residuals: Tensor, codewords: Tensor) -> float:
        """Return the rounding error: squared distance, summed over an item's numbers, mean over the items."""
        return float((residuals - codewords).square().sum(dim=(1, 2)).mean())

    def forward(self, x: Tensor, domain: Tensor, extra: Tensor | None = None) -> Step:
        """Return the loss of a batch (B, D): only the mean squared error of its reconstruction."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() * self.scale
            codes, bounded, rounded = self.quantize(self.encoder(x))
            straight = bounded + (rounded - bounded).detach()
            loss = reconstruction_loss(x, self.decoder(self.assemble(straight))) / self.inputs
            none = torch.zeros_like(loss)
            return Step(loss, loss, none, none, Quantized(self.assemble(straight), codes, none, bounded))


class FiniteScalar(AutoencoderTokenizer):
    """Finite scalar quantisation; each level is a part of the latent vector.

    A catalogue may have fewer items than codes, because the codes are not learned.
    """

    Config = FiniteScalarConfig
    network = FiniteScalarNetwork

    @classmethod
    def least_items(cls, config: FiniteScalarConfig) -> int:
        """Return 1, because the codes do not depend on the items."""
        return 1
