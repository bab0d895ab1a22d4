"""Residual k-means, a tokenizer without training: k-means on vectors, then on what each level leaves over."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file

from genrec_lab.losses import residual_quantization_loss
from genrec_lab.models.sharing import Shareable
from genrec_lab.models.tokenizers.quantizers import (
    Geometry,
    Tokenized,
    finite_vectors,
    quantize_levels,
    residual_kmeans,
)


class ResidualKMeansConfig(BaseModel):
    """Settings of residual k-means."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    geometry: ClassVar[Geometry] = "residual"

    kind: Literal["rkmeans"] = "rkmeans"
    levels: int = Field(
        4, ge=1, description="L; GMC section 5.1.4 has 4, TIGER 3 and one that tells collisions apart"
    )
    codebook_size: int = Field(256, ge=1, description="K, codes a level (GMC section 5.1.4)")


class ResidualKMeans(Shareable):
    """Codebooks over the content vectors themselves, with the same face as `RQVAE`."""

    def __init__(self, codebooks: np.ndarray, config: ResidualKMeansConfig) -> None:
        """Codebooks (L, K, D) float32, as `fit` finds them."""
        self.codebooks = codebooks
        self.config = config

    @classmethod
    def fit(cls, x: np.ndarray, config: ResidualKMeansConfig, seed: int) -> Self:
        """Fit on the whole catalogue (N, D); raises ValueError as `residual_kmeans` does."""
        return cls(residual_kmeans(x, config.levels, config.codebook_size, seed)[0], config)

    def tokenize(self, x: np.ndarray, batch: int = 65_536) -> Tokenized:
        """Codes and residuals of (N, D) content vectors, `batch` items at a time."""
        vectors, codebooks = torch.from_numpy(finite_vectors(x)), torch.from_numpy(self.codebooks)
        if vectors.shape[1] != codebooks.shape[2]:
            raise ValueError(
                f"content vectors have {vectors.shape[1]} dimensions, the codebooks {codebooks.shape[2]}; "
                f"tokenize vectors of the text model that the tokenizer was fitted on"
            )
        parts = [quantize_levels(part, codebooks) for part in vectors.split(batch)]
        codes, residuals, codewords = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        loss = float(residual_quantization_loss(residuals, codewords, beta=0.0))
        return Tokenized(codewords.sum(dim=1).numpy(), codes.numpy(), loss, residuals.numpy())

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"codebooks": self.codebooks}, folder / "model.safetensors")
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = ResidualKMeansConfig.model_validate_json((folder / "config.json").read_text())
        return cls(load_file(folder / "model.safetensors")["codebooks"], config)
