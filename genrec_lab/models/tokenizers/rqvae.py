"""RQ-VAE: an autoencoder with a residual quantiser in its middle (GMC section 3.3, Eqs 1 to 7).

Shapes: N items, B items of a batch, D content dimensions, L levels, K codes a level, d latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from genrec_lab.losses import domain_contrastive_loss, reconstruction_loss, residual_quantization_loss
from genrec_lab.models.tokenizers.autoencoder import (
    TIGER_HIDDEN,
    Autoencoder,
    AutoencoderConfig,
    Step,
    TokenizerEpoch,
    mlp,
)
from genrec_lab.models.tokenizers.autoencoder_training import train_autoencoder
from genrec_lab.models.tokenizers.quantizers import (
    Geometry,
    ResidualQuantizer,
    check_codebook_fits,
    finite_vectors,
    quantize_levels,
)

__all__ = [
    "RQVAE",
    "TIGER_HIDDEN",
    "RQVAEConfig",
    "ResidualAutoencoder",
    "ResidualAutoencoderConfig",
    "TokenizerEpoch",
    "train_rqvae",
]


class ResidualAutoencoderConfig(AutoencoderConfig):
    """Settings of every autoencoder with a residual quantiser: RQ-VAE and LETTER."""

    geometry: ClassVar[Geometry] = "residual"

    dimension: int = Field(32, ge=1, description="d of the latent vectors and codewords")
    codebook_size: int = Field(256, ge=1, description="K, codes a level")
    beta: float = Field(0.25, ge=0, description="weight of the commitment half of Eq. 5")
    reduction: Literal["mean", "sum"] = Field(
        "mean",
        description="of Eqs 4 and 5 over dimensions (and levels): the paper writes sums, its lineage's code "
        "takes means; beside sums over hundreds of dimensions, L_dcl with weight 1 has no effect",
    )
    kmeans_init: bool = Field(
        True, description="start the codebooks by k-means on the whole catalogue's residuals"
    )
    restart_dead_codes: bool = Field(
        True,
        description="move codewords that no item had for an epoch onto items' residuals; not in the paper",
    )


class RQVAEConfig(ResidualAutoencoderConfig):
    """Settings of the RQ-VAE and its training; the defaults are GMC's (section 5.1.4) where it states one.

    TIGER: `hidden=TIGER_HIDDEN, levels=3, contrastive_weight=0`. On a CPU: `hidden=TIGER_HIDDEN, epochs=300`.
    """

    kind: Literal["rqvae"] = "rqvae"
    contrastive_weight: float = Field(
        1.0, ge=0, description="weight of L_dcl (Eq. 6); 0 leaves it out, 1 is Eq. 7"
    )


class ResidualAutoencoder(Autoencoder):
    """Encoder, residual quantiser and decoder; float32, but for the configuration's `precision`."""

    config: ResidualAutoencoderConfig

    def __init__(
        self, inputs: int, config: ResidualAutoencoderConfig, generator: torch.Generator | None = None
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
        """GMC Eqs 1 to 5 of a batch of content vectors (B, D), with a contrast of zero."""
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

    def assemble(self, codewords: Tensor) -> Tensor:
        """(B, L, d) -> (B, d), their sum."""
        return codewords.sum(dim=1)

    def code_loss(self, residuals: Tensor, codewords: Tensor) -> float:
        """GMC Eq. 5, mean over the items."""
        return float(residual_quantization_loss(residuals, codewords, self.config.beta))

    def start(self, x: Tensor, seed: int) -> None:
        """Scale the input and place the codebooks."""
        super().start(x, seed)
        if self.config.kmeans_init:
            parts = [self.encode(part) for part in x.split(8192)]
            self.quantizer.start_from(torch.cat(parts), seed)

    @torch.no_grad()
    def after_epoch(self, x: Tensor, used: Tensor, generator: torch.Generator) -> None:
        """Put each codeword that no item had in this epoch onto the residual of an item drawn at random."""
        if used.all() or not self.config.restart_dead_codes:
            return
        self.eval()
        drawn = torch.randperm(len(x), generator=generator)[: self.config.batch_size].to(x.device)
        _, residuals, _ = self.quantize(self.encode(x[drawn]))
        for level in range(self.config.levels):
            dead = torch.nonzero(~used[level]).flatten()[: len(drawn)]
            self.quantizer.codebooks[level, dead] = residuals[: len(dead), level]


class RQVAE(ResidualAutoencoder):
    """The residual autoencoder that is told the domains of its items (GMC Eq. 7)."""

    config: RQVAEConfig

    def __init__(self, inputs: int, config: RQVAEConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(inputs, config, generator)

    def forward(self, x: Tensor, domain: Tensor, rows: Tensor | None = None) -> Step:
        """Losses of a batch: (B, D) content vectors, (B,) int64 domains."""
        with torch.autocast(x.device.type, enabled=False):
            step = self.autoencode(x)
            if not self.config.contrastive_weight:
                return step
            contrastive = domain_contrastive_loss(step.quantized.vectors, domain)
            loss = step.loss + self.config.contrastive_weight * contrastive
        return step._replace(loss=loss, contrastive=contrastive)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = RQVAEConfig.model_validate_json((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        model = cls(weights["encoder.0.weight"].shape[1], config)
        model.load_state_dict(weights)
        return model.eval()


def train_rqvae(
    x: np.ndarray,
    domains: np.ndarray,
    config: RQVAEConfig,
    seed: int,
    on_epoch: Callable[[TokenizerEpoch], None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 50,
    device: str | None = None,
) -> RQVAE:
    """Train an RQ-VAE on a catalogue by GMC Eq. 7, all batches index the one tensor of all items.

    x: (N, D) content vectors; domains: (N,) integers. `on_epoch` hears of epoch 1, every `report_every`th
    and the last. With a `checkpoint` folder a killed training goes on from its last multiple of
    `checkpoint_every` epochs, gives the numbers of the unbroken one (on a CPU) and tells `on_epoch` of the
    earlier epochs again; a higher `epochs` trains on. Raises ValueError for vectors that are not finite, a
    codebook larger than the catalogue or a foreign checkpoint; FloatingPointError for a loss not finite.
    """
    x = finite_vectors(x)
    if config.kmeans_init:
        check_codebook_fits(x, config.codebook_size)
    model = RQVAE(x.shape[1], config, torch.Generator().manual_seed(seed))
    file = None if checkpoint is None else Path(checkpoint) / "rqvae_training.safetensors"
    return train_autoencoder(model, x, domains, seed, on_epoch, file, checkpoint_every, device)
