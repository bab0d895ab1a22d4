"""Residual k-means: k-means on the vectors, then on the residuals of each level."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field

from genrec_lab.losses import residual_quantization_loss
from genrec_lab.models.tokenizers.base import Content, OnEpoch, Tokenized, TokenizerConfig, VectorTokenizer
from genrec_lab.models.tokenizers.quantizers import quantize_levels, residual_kmeans

_AT_ONCE = 65_536  # items


class ResidualKMeansConfig(TokenizerConfig):
    """Settings of residual k-means."""

    kind: Literal["rkmeans"] = "rkmeans"
    levels: int = Field(
        4, ge=1, description="L; 4 in GMC section 5.1.4, 3 in TIGER plus one that resolves collisions"
    )
    codebook_size: int = Field(256, ge=1, description="K, codes per level (GMC section 5.1.4)")


class ResidualKMeans(VectorTokenizer):
    """Codebooks (L, K, D) float32 of content vectors; an item's codewords add up to roughly its vector.

    >>> vectors = np.random.default_rng(0).normal(size=(40, 8))
    >>> tokenizer = ResidualKMeans(ResidualKMeans.Config(levels=2, codebook_size=4)).fit(vectors)
    >>> tokenizer.encode(vectors).shape, tokenizer.codebooks.shape
    ((40, 2), (2, 4, 8))
    """

    Config = ResidualKMeansConfig
    refines = True

    codebooks: np.ndarray

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Fit on content vectors (N, D); raises ValueError as `residual_kmeans` does."""
        x, config = self.vectors(content), self.config
        self.codebooks = residual_kmeans(x, config.levels, config.codebook_size, seed)[0]
        self.inputs, self.sizes = x.shape[1], (config.codebook_size,) * config.levels
        return self

    def tokenize_vectors(self, x: np.ndarray) -> Tokenized:
        """Quantise (n, D) vectors level by level."""
        codebooks = torch.from_numpy(self.codebooks)
        parts = [quantize_levels(part, codebooks) for part in torch.from_numpy(x).split(_AT_ONCE)]
        codes, residuals, codewords = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        loss = float(residual_quantization_loss(residuals, codewords, beta=0.0))
        return Tokenized(codes.numpy(), residuals.numpy(), codewords.sum(dim=1).numpy(), loss)
