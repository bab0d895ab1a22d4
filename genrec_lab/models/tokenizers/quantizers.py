"""Residual quantisation and its k-means start: GMC Eqs 1, 2 and 5.

Shapes: N items, B items of a batch, L levels, K codes a level, d dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn

from genrec_lab.losses import residual_quantization_loss
from genrec_lab.models.tokenizers.base import finite_vectors
from genrec_lab.models.tokenizers.kmeans import different_rows, kmeans_centres, nearest_rows


class Quantized(NamedTuple):
    """The result of quantising a batch."""

    vectors: Tensor  # (B, d) sum of the chosen codewords; its gradient goes straight through to the input
    codes: Tensor  # (B, L) int64
    loss: Tensor  # scalar, GMC Eq. 5
    residuals: Tensor  # (B, L, d) each level's input, beginning with r_0 = z


def nearest_codes(residual: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the codeword nearest to each residual (GMC Eq. 1): (B, d), (K, d) -> (B,) int64.

    Ties go to the lowest index. Always in float32, even under autocast: bfloat16 would create many ties.
    """
    with torch.autocast(residual.device.type, enabled=False):
        return nearest_rows(residual.float(), codebook.float())


def quantize_levels(vectors: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise level by level (GMC Eqs 1 and 2).

    (B, d), (L, K, d) -> codes (B, L), residuals (B, L, d), codewords (B, L, d).
    """
    residual, codes, residuals, codewords = vectors.float(), [], [], []
    for codebook in codebooks:
        code = nearest_codes(residual.detach(), codebook.detach())
        chosen = codebook.float()[code]
        codes.append(code)
        residuals.append(residual)
        codewords.append(chosen)
        # As in RQ-VAE (Lee et al. 2022), the next residual has no gradient to the codeword: a codebook learns
        # only from its own level, while every level's commitment loss reaches the encoder.
        residual = residual - chosen.detach()
    return torch.stack(codes, dim=1), torch.stack(residuals, dim=1), torch.stack(codewords, dim=1)


class ResidualQuantizer(nn.Module):
    """L codebooks of K learnable codewords in d dimensions; a level quantises the previous one's residual."""

    def __init__(
        self, levels: int, size: int, dimension: int, beta: float = 0.25, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.beta = beta
        # Uniform in +-1/K as in the original VQ-VAE code; k-means initialisation overwrites it.
        start = torch.empty(levels, size, dimension).uniform_(-1 / size, 1 / size, generator=generator)
        self.codebooks = nn.Parameter(start)

    def forward(self, vectors: Tensor) -> Quantized:
        """(B, d) -> Quantized, in float32 even under autocast."""
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            codes, residuals, codewords = quantize_levels(vectors, self.codebooks)
            loss = residual_quantization_loss(residuals, codewords, self.beta)
            quantized = codewords.sum(dim=1)
            return Quantized(vectors + (quantized - vectors).detach(), codes, loss, residuals)

    @torch.no_grad()
    def start_from(self, vectors: Tensor, seed: int) -> None:
        """Initialise the codebooks by k-means, level by level, on the residuals of (N, d) vectors."""
        levels, size, _ = self.codebooks.shape
        start, _, _ = residual_kmeans(vectors.cpu().numpy(), levels, size, seed)
        self.codebooks.copy_(torch.from_numpy(start))


def residual_kmeans(
    x: np.ndarray, levels: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run k-means on x, then on the residuals, `levels` times.

    (N, D) -> codebooks (L, K, D) float32, codes (N, L) int64, residuals (N, L, D) float32, level inputs.
    Fits on at most 256 vectors per code, drawn by the seed; all vectors get codes. If a deeper level has
    fewer different residuals than codes, each becomes a codeword and the spare ones lie nearby, unused.
    Raises ValueError if there are fewer different vectors than codes, or a vector is not finite.
    """
    x = finite_vectors(x)
    check_codebook_fits(x, size)
    generator = np.random.default_rng(seed)
    codebooks = np.empty((levels, size, x.shape[1]), dtype=np.float32)
    codes = np.empty((len(x), levels), dtype=np.int64)
    residuals = np.empty((len(x), levels, x.shape[1]), dtype=np.float32)
    residual = torch.from_numpy(x.copy())
    for level in range(levels):
        codebooks[level] = kmeans_centres(residual.numpy(), size, generator)
        codebook, residuals[:, level] = torch.from_numpy(codebooks[level]), residual.numpy()
        code = nearest_codes(residual, codebook)
        codes[:, level] = code.numpy()
        residual -= codebook[code]
    return codebooks, codes, residuals


def check_codebook_fits(x: np.ndarray, size: int) -> None:
    """Raise ValueError if (N, D) vectors have fewer different rows than a codebook has codes."""
    distinct = len(different_rows(x, size))
    if size > distinct:
        raise ValueError(
            f"tokenizer.codebook_size = {size} is larger than the catalogue: k-means can place at most "
            f"{distinct} codes among {len(x)} items with {distinct} different vectors. "
            f"Set tokenizer.codebook_size to {distinct} or less"
        )
