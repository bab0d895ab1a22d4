"""RQ-VAE: an autoencoder with a residual quantiser (GMC section 3.3, Eqs 1 to 7).

Shapes: N items, B items of a batch, D content dimensions, L levels, K codes a level, d latent dimensions.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor

from genrec_lab.losses import domain_contrastive_loss, reconstruction_loss, residual_quantization_loss
from genrec_lab.models.tokenizers.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    AutoencoderTokenizer,
    Step,
    mlp,
)
from genrec_lab.models.tokenizers.quantizers import ResidualQuantizer, check_codebook_fits, quantize_levels


class ResidualAutoencoderConfig(AutoencoderConfig):
    """Settings of every autoencoder with a residual quantiser: RQ-VAE and LETTER."""

    dimension: int = Field(32, ge=1, description="d of the latent vectors and codewords")
    codebook_size: int = Field(256, ge=1, description="K, codes per level")
    beta: float = Field(0.25, ge=0, description="weight of the commitment loss in Eq. 5")
    reduction: Literal["mean", "sum"] = Field(
        "mean",
        description="of Eqs 4 and 5 over dimensions (and levels): the paper writes sums, LC-Rec's and "
        "LETTER's code take means; with sums over hundreds of dimensions, L_dcl of weight 1 has no effect",
    )
    kmeans_init: bool = Field(
        True, description="initialise the codebooks by k-means on the whole catalogue's residuals"
    )
    restart_dead_codes: bool = Field(
        True, description="move codewords that were unused for an epoch to items' residuals; not in the paper"
    )


class RQVAEConfig(ResidualAutoencoderConfig):
    """Settings of the RQ-VAE and its training; defaults are from GMC (section 5.1.4) if it states one.

    TIGER: `hidden=TIGER_HIDDEN, levels=3, contrastive_weight=0`. On a CPU: `hidden=TIGER_HIDDEN, epochs=300`.
    """

    kind: Literal["rqvae"] = "rqvae"
    contrastive_weight: float = Field(
        1.0, ge=0, description="weight of L_dcl (Eq. 6); 0 leaves it out, 1 is Eq. 7"
    )


class ResidualAutoencoder(Autoencoder):
    """Encoder, residual quantiser and decoder; float32, except for the config's `precision`."""

    config: ResidualAutoencoderConfig

    def __init__(
        self, inputs: int, config: ResidualAutoencoderConfig, generator: Generator | None = None
    ) -> None:
        """`inputs` is D; the weights are drawn from the generator."""
        super().__init__(inputs, config.dimension, config, generator)
        self.quantizer = ResidualQuantizer(
            config.levels, config.codebook_size, config.dimension, config.beta, generator
        )
        self.decoder = mlp(self.widths[::-1], config.dropout, generator)

    @property
    def codebooks(self) -> np.ndarray:
        """(L, K, d) float32."""
        return self.quantizer.codebooks.detach().cpu().numpy()

    def autoencode(self, x: Tensor) -> Step:
        """Compute GMC Eqs 1 to 5 for content vectors (B, D); the contrastive loss is zero."""
        x = x.float() * self.scale
        quantized = self.quantizer(self.through(self.encoder, x))
        reconstruction = reconstruction_loss(x, self.through(self.decoder, quantized.vectors))
        quantization = quantized.loss
        if self.config.reduction == "mean":
            reconstruction = reconstruction / self.inputs
            quantization = quantization / (self.config.dimension * self.config.levels)
        loss = reconstruction + quantization
        return Step(loss, reconstruction, quantization, torch.zeros_like(loss), quantized)

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """GMC Eqs 1 and 2 for (B, d)."""
        return quantize_levels(latent, self.quantizer.codebooks)

    def code_loss(self, residuals: Tensor, codewords: Tensor) -> float:
        """GMC Eq. 5, mean over the items."""
        return float(residual_quantization_loss(residuals, codewords, self.config.beta))

    def start(self, x: Tensor, seed: int) -> None:
        """Scale the input and place the codebooks; raises ValueError if x has too few different rows."""
        super().start(x, seed)
        if self.config.kmeans_init:
            check_codebook_fits(x.cpu().numpy(), self.config.codebook_size)
            parts = [self.encode(part) for part in x.split(8192)]
            self.quantizer.start_from(torch.cat(parts), seed)

    @torch.no_grad()
    def after_epoch(self, x: Tensor, used: Tensor, generator: Generator) -> None:
        """Move each codeword that was unused in this epoch to the residual of a random item."""
        if used.all() or not self.config.restart_dead_codes:
            return
        self.eval()
        drawn = torch.randperm(len(x), generator=generator)[: self.config.batch_size].to(x.device)
        _, residuals, _ = self.quantize(self.encode(x[drawn]))
        for level in range(self.config.levels):
            dead = torch.nonzero(~used[level]).flatten()[: len(drawn)]
            self.quantizer.codebooks[level, dead] = residuals[: len(dead), level]


class RQVAENetwork(ResidualAutoencoder):
    """The residual autoencoder with a contrastive loss between domains (GMC Eq. 7)."""

    config: RQVAEConfig

    def forward(self, x: Tensor, domain: Tensor, extra: Tensor | None = None) -> Step:
        """Losses of a batch: (B, D) content vectors, (B,) int64 domains."""
        with torch.autocast(x.device.type, enabled=False):
            step = self.autoencode(x)
            if not self.config.contrastive_weight:
                return step
            contrastive = domain_contrastive_loss(step.quantized.vectors, domain)
            loss = step.loss + self.config.contrastive_weight * contrastive
        return step._replace(loss=loss, contrastive=contrastive)


class RQVAE(AutoencoderTokenizer):
    """RQ-VAE, with GMC's contrastive loss between domains (Eq. 6) unless its weight is 0, as for TIGER.

    `fit` takes content vectors (N, D) and the items' domains; plain vectors belong to one domain.

        >>> config = RQVAE.Config(hidden=(16,), levels=2, codebook_size=4, dimension=4, epochs=2)
        >>> vectors = np.random.default_rng(0).normal(size=(20, 8))
        >>> RQVAE(config).fit(vectors).encode(vectors).shape
        (20, 2)
    """

    Config = RQVAEConfig
    network = RQVAENetwork
    refines = True
