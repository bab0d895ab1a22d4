"""Finite scalar quantisation (Mentzer et al. 2023): an autoencoder whose latent numbers are rounded to a few.

There is no codebook to learn and none to collapse: a code is the row of steps that its numbers were rounded
to. An identifier of L codes has L such rows, side by side.
Shapes: N items, B items of a batch, D content dimensions, L levels, m numbers a level, K codes a level.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

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
_EDGE = 1e-3  # how far the bound lies beyond the outermost step, as in the paper's appendix


class FiniteScalarConfig(AutoencoderConfig):
    """Settings of finite scalar quantisation; the steps 8, 6, 5 are the paper's for codebooks of about 256.

    Its others: 5, 3 for 2^4; 8, 8 for 2^6; 8, 8, 8 for 2^9; 8, 5, 5, 5 for 2^10; 7, 5, 5, 5, 5 for 2^12.
    """

    kind: Literal["fsq"] = "fsq"
    steps: Steps = Field((8, 6, 5), description="values that each number of a level is rounded to")

    @property
    def codebook_size(self) -> int:
        """K, the codes of a level: the product of the steps."""
        return math.prod(self.steps)


class FiniteScalarNetwork(Autoencoder):
    """Encoder, rounding, decoder; L times m latent numbers."""

    config: FiniteScalarConfig
    counts: Tensor
    places: Tensor

    def __init__(
        self, inputs: int, config: FiniteScalarConfig, generator: torch.Generator | None = None
    ) -> None:
        """`inputs` is D; the weights are drawn from the generator."""
        super().__init__(inputs, config.levels * len(config.steps), config, generator)
        self.decoder = mlp(self.widths[::-1], config.dropout, generator)
        places = [math.prod(config.steps[:number]) for number in range(len(config.steps))]
        self.register_buffer("counts", torch.tensor(config.steps), persistent=False)
        self.register_buffer("places", torch.tensor(places), persistent=False)

    @property
    def codebooks(self) -> np.ndarray:
        """(L, K, m) float32: the same grid at each level, the first number's steps running fastest."""
        grid = self.from_codes(torch.arange(self.config.codebook_size, device=self.counts.device))
        return grid.expand(self.config.levels, -1, -1).cpu().numpy().copy()

    def bound(self, latent: Tensor) -> Tensor:
        """Squeeze numbers (..., m) to where rounding leaves as many whole values as there are steps.

        The paper's appendix: tanh, moved by half a step where the number of steps is even.
        """
        half = (self.counts - 1) * (1 + _EDGE) / 2
        offset = torch.where(self.counts % 2 == 0, 0.5, 0.0)
        return torch.tanh(latent + torch.atanh(offset / half)) * half - offset

    def from_codes(self, codes: Tensor) -> Tensor:
        """The numbers (..., m) in -1..1 that codes (...) stand for."""
        steps = codes[..., None] // self.places % self.counts
        middle = self.counts // 2
        return (steps - middle) / middle

    def to_codes(self, values: Tensor) -> Tensor:
        """The codes (...) of rounded numbers (..., m) in -1..1."""
        middle = self.counts // 2
        return ((values * middle).round().long() + middle) @ self.places

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L m) -> codes (B, L), bounded numbers (B, L, m), rounded ones (B, L, m), both over m // 2."""
        middle = self.counts // 2
        bounded = self.bound(latent.float().unflatten(1, (self.config.levels, -1)))
        rounded = bounded.round() / middle
        return self.to_codes(rounded), bounded / middle, rounded

    def assemble(self, codewords: Tensor) -> Tensor:
        """(B, L, m) -> (B, L m)."""
        return codewords.flatten(1)

    def code_loss(self, residuals: Tensor, codewords: Tensor) -> float:
        """What rounding costs: the squared distance, sum over an item's numbers, mean over the items."""
        return float((residuals - codewords).square().sum(dim=(1, 2)).mean())

    def forward(self, x: Tensor, domain: Tensor, beside: Tensor | None = None) -> Step:
        """Losses of a batch (B, D): the mean squared error of its reconstruction, and no other."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() * self.scale
            codes, bounded, rounded = self.quantize(self.encoder(x))
            straight = bounded + (rounded - bounded).detach()
            loss = reconstruction_loss(x, self.decoder(self.assemble(straight))) / self.inputs
            none = torch.zeros_like(loss)
            return Step(loss, loss, none, none, Quantized(self.assemble(straight), codes, none, bounded))


class FiniteScalar(AutoencoderTokenizer):
    """Finite scalar quantisation; the levels are parts of the latent vector, side by side.

    A catalogue may have fewer items than there are codes: none of them is learnt.
    """

    Config = FiniteScalarConfig
    network = FiniteScalarNetwork

    @classmethod
    def least_items(cls, config: FiniteScalarConfig) -> int:
        """Return 1: the codes lie fixed, wherever the items are."""
        return 1
