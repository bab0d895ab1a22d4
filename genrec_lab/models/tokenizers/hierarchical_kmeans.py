"""Hierarchical k-means: items are clustered, then the items of each cluster by themselves, and so on.

The codes of an item are its way down that tree, as in DSI (Tay et al. 2022, its "semantically structured"
identifiers). The clusters are not balanced: each is as large as k-means makes it. A code below one cluster
has nothing to do with the same code below another.
Shapes: N items, D content dimensions, L levels, K codes a level, M_l clusters at level l.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file

from genrec_lab.codes import PrefixCodewords, row_ids
from genrec_lab.models.sharing import Shareable
from genrec_lab.models.tokenizers.kmeans import different_rows, kmeans_centres
from genrec_lab.models.tokenizers.quantizers import (
    Geometry,
    Tokenized,
    check_codebook_fits,
    finite_vectors,
    nearest_codes,
)


class HierarchicalKMeansConfig(BaseModel):
    """Settings of hierarchical k-means."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    geometry: ClassVar[Geometry] = "prefix"

    kind: Literal["hkmeans"] = "hkmeans"
    levels: int = Field(4, ge=1, description="L, the depth of the tree")
    codebook_size: int = Field(256, ge=1, description="K, clusters below each cluster at most")


class HierarchicalKMeans(Shareable):
    """A tree of clusters over the content vectors, with the same face as `RQVAE` but for its codebooks.

    levels: for each level the clusters that there are, with their centres as steps from their parents'.
    """

    def __init__(self, levels: list[PrefixCodewords], config: HierarchicalKMeansConfig) -> None:
        self.levels = levels
        self.config = config

    @property
    def codewords(self) -> PrefixCodewords:
        """Those of the last level, which conflict policies choose from."""
        return self.levels[-1]

    @classmethod
    def fit(cls, x: np.ndarray, config: HierarchicalKMeansConfig, seed: int) -> Self:
        """Fit on the whole catalogue (N, D).

        A cluster of at most K different vectors has one below it for each. Raises ValueError where the
        catalogue has fewer different vectors than K, or one is not finite.
        """
        x = finite_vectors(x)
        check_codebook_fits(x, config.codebook_size)
        generator = np.random.default_rng(seed)
        codes, residual = np.zeros((len(x), 0), dtype=np.int64), x.copy()
        levels = []
        for _ in range(config.levels):
            parents = row_ids(codes) if codes.shape[1] else np.zeros(len(x), dtype=np.int64)
            chosen = np.zeros(len(x), dtype=np.int64)
            paths: list[np.ndarray] = []
            steps: list[np.ndarray] = []
            for members in np.split(np.argsort(parents, kind="stable"), np.cumsum(np.bincount(parents))[:-1]):
                centres, below = _clusters(residual[members], config.codebook_size, generator)
                chosen[members] = below
                above = np.tile(codes[members[0]], (len(centres), 1))
                paths.append(np.column_stack([above, np.arange(len(centres))]))
                steps.append(centres)
                residual[members] -= centres[below]
            codes = np.column_stack([codes, chosen])
            levels.append(PrefixCodewords(np.concatenate(paths), np.concatenate(steps), config.codebook_size))
        return cls(levels, config)

    def tokenize(self, x: np.ndarray) -> Tokenized:
        """Codes of (N, D) content vectors, each the nearest below the last; residuals from the centres."""
        vectors = finite_vectors(x)
        if vectors.shape[1] != self.codewords.vectors.shape[1]:
            raise ValueError(
                f"content vectors have {vectors.shape[1]} dimensions, the clusters "
                f"{self.codewords.vectors.shape[1]}; tokenize vectors of the text model that the tokenizer "
                f"was fitted on"
            )
        residual = vectors.copy()
        codes, residuals = np.zeros((len(vectors), 0), dtype=np.int64), []
        for level in self.levels:
            residuals.append(residual.copy())
            chosen = np.zeros(len(vectors), dtype=np.int64)
            parents = row_ids(codes) if codes.shape[1] else np.zeros(len(vectors), dtype=np.int64)
            for members in np.split(np.argsort(parents, kind="stable"), np.cumsum(np.bincount(parents))[:-1]):
                centres = level.below(tuple(codes[members[0]].tolist())).astype(np.float32)
                chosen[members] = _nearest(residual[members], centres)
                residual[members] -= centres[chosen[members]]
            codes = np.column_stack([codes, chosen])
        loss = float(np.square(residual).sum(axis=1).mean())
        return Tokenized(vectors - residual, codes, loss, np.stack(residuals, axis=1))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for number, level in enumerate(self.levels):
            tensors[f"paths_{number}"] = np.ascontiguousarray(level.paths)
            tensors[f"steps_{number}"] = np.ascontiguousarray(level.vectors)
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = HierarchicalKMeansConfig.model_validate_json((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        levels = []
        for number in range(config.levels):
            parts = tensors[f"paths_{number}"], tensors[f"steps_{number}"]
            levels.append(PrefixCodewords(*parts, config.codebook_size))
        return cls(levels, config)


def _clusters(points: np.ndarray, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres (k, D) of at most `size` clusters that all have points, and the cluster of each point (n,)."""
    different = different_rows(points, size + 1)
    centres = points[different] if len(different) <= size else kmeans_centres(points, size, generator)
    nearest = _nearest(points, centres)
    used, renumbered = np.unique(nearest, return_inverse=True)
    return centres[used], renumbered.reshape(-1)


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return nearest_codes(torch.from_numpy(points), torch.from_numpy(np.ascontiguousarray(centres))).numpy()
