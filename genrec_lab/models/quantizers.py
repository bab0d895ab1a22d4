"""Residual quantisation and its k-means start: GMC Eqs 1, 2 and 5.

Shapes: N items, B items of a batch, L levels, K codes a level, d dimensions.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from genrec_lab.losses import residual_quantization_loss

# What a level of a tokenizer quantises: what the levels before it left over, which their codewords fill up
# ("residual"); the same with codewords that differ from prefix to prefix ("prefix"); a part of the vector of
# its own, from which nothing is handed on ("parts"); or nothing at all ("none").
Geometry = Literal["residual", "prefix", "parts", "none"]

# More points than this for each code do not move the centres of k-means noticeably, but cost time.
POINTS_PER_CODE = 256


class Quantized(NamedTuple):
    """What quantising a batch gives."""

    vectors: Tensor  # (B, d) sum of the chosen codewords; its gradient goes straight through to the input
    codes: Tensor  # (B, L) int64
    loss: Tensor  # scalar, GMC Eq. 5
    residuals: Tensor  # (B, L, d) what each level quantised: r_0 = z first


class Tokenized(NamedTuple):
    """What tokenising a whole catalogue gives: `Quantized` as numpy arrays, without gradients."""

    vectors: np.ndarray  # (N, d) float32, z_hat
    codes: np.ndarray  # (N, L) int64
    loss: float  # GMC Eq. 5, mean over the catalogue
    residuals: np.ndarray  # (N, L, d) float32

    @property
    def latent(self) -> np.ndarray:
        """(N, d) z, which is the residual that the first level quantises."""
        return self.residuals[:, 0]


def nearest_codes(residual: Tensor, codebook: Tensor) -> Tensor:
    """Index of the codeword nearest to each residual (GMC Eq. 1): (B, d), (K, d) -> (B,) int64.

    Ties go to the lowest index. Always in float32, under autocast too: bfloat16 would tie many distances.
    """
    with torch.autocast(residual.device.type, enabled=False):
        codebook = codebook.float()
        # ||r||^2 is the same for every code: left out, it cannot round small differences away either.
        return torch.argmin(codebook.square().sum(dim=1) - 2 * residual.float() @ codebook.T, dim=1)


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
        # As in RQ-VAE (Lee et al. 2022) the codeword is a constant to the next residual: a codebook learns
        # from its own level alone, while every level's commitment reaches the encoder.
        residual = residual - chosen.detach()
    return torch.stack(codes, dim=1), torch.stack(residuals, dim=1), torch.stack(codewords, dim=1)


class ResidualQuantizer(nn.Module):
    """L codebooks of K learnable codewords in d dimensions; a level quantises what the last one left over."""

    def __init__(
        self,
        levels: int,
        size: int,
        dimension: int,
        beta: float = 0.25,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.beta = beta
        # Uniform in +-1/K as in the first VQ-VAE code; the k-means start overwrites it.
        start = torch.empty(levels, size, dimension).uniform_(-1 / size, 1 / size, generator=generator)
        self.codebooks = nn.Parameter(start)

    def forward(self, vectors: Tensor) -> Quantized:
        """(B, d) -> Quantized, in float32 under autocast too."""
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            codes, residuals, codewords = quantize_levels(vectors, self.codebooks)
            loss = residual_quantization_loss(residuals, codewords, self.beta)
            quantized = codewords.sum(dim=1)
            return Quantized(vectors + (quantized - vectors).detach(), codes, loss, residuals)

    @torch.no_grad()
    def start_from(self, vectors: Tensor, seed: int) -> None:
        """Set the codebooks by k-means, level by level, on the residuals of these (N, d) vectors."""
        levels, size, _ = self.codebooks.shape
        start, _, _ = residual_kmeans(vectors.cpu().numpy(), levels, size, seed)
        self.codebooks.copy_(torch.from_numpy(start))


def residual_kmeans(
    x: np.ndarray, levels: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run k-means on x, then on what it leaves over, `levels` times.

    (N, D) -> codebooks (L, K, D) float32, codes (N, L) int64, residuals (N, L, D) float32 (what each level
    quantised). Fits on at most 256 vectors a code, drawn by the seed; all vectors get codes. Where
    a deeper level has fewer different residuals than codes, each becomes a codeword and the spare ones lie
    unused nearby.
    Raises ValueError where the first level has fewer different vectors than codes, or a vector is not finite.
    """
    x = finite_vectors(x)
    check_codebook_fits(x, size)
    generator = np.random.default_rng(seed)
    residual, codebooks, codes, residuals = torch.from_numpy(x), [], [], []
    for _ in range(levels):
        codebook = torch.from_numpy(kmeans_centres(residual.numpy(), size, generator))
        code = torch.cat([nearest_codes(part, codebook) for part in residual.split(65_536)])
        codebooks.append(codebook.numpy())
        codes.append(code.numpy())
        residuals.append(residual.numpy())
        residual = residual - codebook[code]
    return np.stack(codebooks), np.stack(codes, axis=1), np.stack(residuals, axis=1)


def check_codebook_fits(x: np.ndarray, size: int) -> None:
    """Raise ValueError where (N, D) vectors have fewer different rows than a codebook has codes."""
    distinct = len(different_rows(x, size))
    if size > distinct:
        raise ValueError(
            f"tokenizer.codebook_size = {size} is larger than the catalogue: k-means can place at most "
            f"{distinct} codes among {len(x)} items with {distinct} different vectors. "
            f"Set tokenizer.codebook_size to {distinct} or less"
        )


def finite_vectors(x: np.ndarray) -> np.ndarray:
    """The vectors as a contiguous (N, D) float32 array; ValueError naming the first that is not finite."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"content vectors have shape {x.shape}; expected (items, dimensions), at least one of each"
        )
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise ValueError(
            f"the content vectors of {bad.size} of {len(x)} items hold NaN or infinite values, the first is "
            f"item {bad[0]}; look at this item's text, or encode again in float32"
        )
    return x


def kmeans_centres(points: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Centres of k-means: k-means++ start, Lloyd's iterations, on at most 256 points a centre.

    (N, D) -> (K, D) float32. Fewer different points than centres: each is one, the spare ones lie nearby.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(points) > size * POINTS_PER_CODE:
        points = points[np.sort(generator.choice(len(points), size * POINTS_PER_CODE, replace=False))]
    distinct = points[different_rows(points, size + 1)]
    if len(distinct) <= size:
        spare = generator.choice(len(distinct), size - len(distinct))
        noise = generator.normal(0, 0.01 * points.std() + 1e-6, (len(spare), points.shape[1]))
        return np.concatenate([distinct, distinct[spare] + noise]).astype(np.float32)
    start = int(generator.integers(2**31))
    with warnings.catch_warnings():
        # It complains of points that differ by rounding only; codewords that then coincide stay unused.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(size, n_init=1, max_iter=100, random_state=start).fit(points)
    return np.asarray(fitted.cluster_centers_, dtype=np.float32)


def different_rows(points: np.ndarray, limit: int) -> list[int]:
    """Indices of the first `limit` rows that differ from all before them, or of all such rows."""
    seen: dict[bytes, int] = {}
    for index, row in enumerate(points):
        seen.setdefault((row + 0.0).tobytes(), index)  # + 0.0 makes -0.0 the same as 0.0
        if len(seen) == limit:
            break
    return list(seen.values())
