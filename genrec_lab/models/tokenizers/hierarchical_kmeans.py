"""Hierarchical k-means: cluster the items, then the items of each cluster, and so on.

An item's codes are its path down this tree, as in DSI (Tay et al. 2022, its "semantically structured"
identifiers). The clusters are not balanced. The same code below two different clusters has two unrelated
meanings.
Shapes: N items, D content dimensions, L levels, K codes a level, M_l clusters at level l.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from safetensors.numpy import load_file, save_file

from genrec_lab.codes import PrefixCodewords, row_ids
from genrec_lab.models.tokenizers.base import Content, OnEpoch, Tokenized, TokenizerConfig, VectorTokenizer
from genrec_lab.models.tokenizers.kmeans import different_rows, kmeans_centres
from genrec_lab.models.tokenizers.quantizers import check_codebook_fits, nearest_codes


class HierarchicalKMeansConfig(TokenizerConfig):
    """Settings of hierarchical k-means."""

    kind: Literal["hkmeans"] = "hkmeans"
    levels: int = Field(4, ge=1, description="L, the depth of the tree")
    codebook_size: int = Field(256, ge=1, description="K, maximum number of clusters below a cluster")


class HierarchicalKMeans(VectorTokenizer):
    """A tree of clusters over the content vectors.

    steps: the clusters of each level, with their centres relative to their parents' centres. `codebooks` are
    those of the last level, from which conflict policies choose.
    """

    Config = HierarchicalKMeansConfig
    refines = True

    steps: list[PrefixCodewords]

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Fit on content vectors (N, D).

        A cluster with at most K different vectors gets one cluster for each of them. Raises ValueError if the
        catalogue has fewer than K different vectors, or one is not finite.
        """
        x, config = self.vectors(content), self.config
        check_codebook_fits(x, config.codebook_size)
        generator = np.random.default_rng(seed)
        codes, residual, found = np.zeros((len(x), 0), dtype=np.int64), x.copy(), []
        for _ in range(config.levels):
            chosen = np.zeros(len(x), dtype=np.int64)
            paths: list[np.ndarray] = []
            steps: list[np.ndarray] = []
            for members in _members(codes):
                centres, below = _clusters(residual[members], config.codebook_size, generator)
                chosen[members] = below
                above = np.tile(codes[members[0]], (len(centres), 1))
                paths.append(np.column_stack([above, np.arange(len(centres))]))
                steps.append(centres)
                residual[members] -= centres[below]
            codes = np.column_stack([codes, chosen])
            found.append(PrefixCodewords(np.concatenate(paths), np.concatenate(steps), config.codebook_size))
        return self._fitted(found)

    def tokenize_vectors(self, x: np.ndarray) -> Tokenized:
        """Descend to the nearest cluster at each level, for (n, D) vectors."""
        codes, residual, residuals = np.zeros((len(x), 0), dtype=np.int64), x.copy(), []
        for level in self.steps:
            residuals.append(residual.copy())
            chosen = np.zeros(len(x), dtype=np.int64)
            for members in _members(codes):
                centres = level.below(tuple(codes[members[0]].tolist())).astype(np.float32)
                chosen[members] = _nearest(residual[members], centres)
                residual[members] -= centres[chosen[members]]
            codes = np.column_stack([codes, chosen])
        loss = float(np.square(residual).sum(axis=1).mean())
        return Tokenized(codes, np.stack(residuals, axis=1), x - residual, loss)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        self.save_config(folder)
        paths = {f"paths_{number}": level.paths for number, level in enumerate(self.steps)}
        steps = {f"steps_{number}": level.vectors for number, level in enumerate(self.steps)}
        arrays = {name: np.ascontiguousarray(array) for name, array in {**paths, **steps}.items()}
        save_file(arrays, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Self:
        """Load a tokenizer that `save` wrote; `settings` as in the constructor."""
        tokenizer, held = cls(cls.load_config(folder), **settings), load_file(folder / "model.safetensors")
        size, levels = tokenizer.config.codebook_size, range(tokenizer.config.levels)
        return tokenizer._fitted(
            [PrefixCodewords(held[f"paths_{level}"], held[f"steps_{level}"], size) for level in levels]
        )

    def _fitted(self, steps: list[PrefixCodewords]) -> Self:
        self.steps, self.codebooks = steps, steps[-1]
        self.inputs, self.sizes = steps[-1].vectors.shape[1], (self.config.codebook_size,) * len(steps)
        return self


def _members(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each distinct prefix of codes (n, l), in the order of the prefixes."""
    parents = row_ids(codes) if codes.shape[1] else np.zeros(len(codes), dtype=np.int64)
    return np.split(np.argsort(parents, kind="stable"), np.cumsum(np.bincount(parents))[:-1])


def _clusters(points: np.ndarray, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return centres (k, D) of at most `size` non-empty clusters, and the cluster of each point (n,)."""
    different = different_rows(points, size + 1)
    centres = points[different] if len(different) <= size else kmeans_centres(points, size, generator)
    nearest = _nearest(points, centres)
    used, renumbered = np.unique(nearest, return_inverse=True)
    return centres[used], renumbered.reshape(-1)


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return nearest_codes(torch.from_numpy(points), torch.from_numpy(np.ascontiguousarray(centres))).numpy()
