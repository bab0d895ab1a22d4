"""Product quantisation (Jégou et al. 2011) and optimised product quantisation (Ge et al. 2013), with faiss.

Shapes: N items, D dimensions, L sub-spaces of D / L dimensions each, K codes a sub-space.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field

from genrec_lab.models.tokenizers.base import Content, OnEpoch, Tokenized, TokenizerConfig, VectorTokenizer
from genrec_lab.models.tokenizers.quantizers import check_codebook_fits, nearest_codes

_AT_ONCE = 65_536  # items
_OPQ_ROUNDS = 50  # faiss's default number of alternations between rotation and codebooks


class ProductQuantizationConfig(TokenizerConfig):
    """Settings of product quantisation; "opq" first rotates the vectors to balance the sub-spaces.

    The codes of an item are independent of each other; unlike residual codes, none is coarser than another.
    """

    kind: Literal["pq", "opq"] = "pq"
    levels: int = Field(4, ge=1, description="L, sub-spaces; must divide the dimensions of the vectors")
    codebook_size: int = Field(256, ge=1, description="K, codes per sub-space; faiss requires a power of two")
    iterations: int = Field(25, ge=1, description="of k-means in each sub-space; 25 is faiss's default")


class ProductQuantizer(VectorTokenizer):
    """Codebooks (L, K, D / L) for the parts of a vector; "opq" rotates the vector first.

    rotation: (D, D), one row per new dimension; None for "pq".
    """

    Config = ProductQuantizationConfig

    codebooks: np.ndarray
    rotation: np.ndarray | None

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Fit on content vectors (N, D).

        Raises ValueError if L does not divide D, K is not a power of two, a vector is not finite, or there
        are fewer than K different vectors; ModuleNotFoundError if faiss is not installed.
        """
        x, config = self.vectors(content), self.config
        levels, size, dimensions = config.levels, config.codebook_size, x.shape[1]
        if dimensions % levels:
            raise ValueError(
                f"tokenizer.levels is {levels}, which does not divide the {dimensions} dimensions of the "
                f"content vectors into equal sub-spaces; set tokenizer.levels to one of "
                f"{[count for count in range(1, min(dimensions, 16) + 1) if dimensions % count == 0]}"
            )
        if size < 2 or size & (size - 1):
            raise ValueError(
                f"tokenizer.codebook_size is {size}; product quantisation with faiss needs a power of two, "
                f"such as {2 ** max(1, size.bit_length() - 1)}"
            )
        check_codebook_fits(x, size)
        faiss = _faiss()
        # The seed of faiss's first centres; a rotation starts from a fixed one in faiss.
        book = faiss.ProductQuantizer(dimensions, levels, size.bit_length() - 1)
        book.cp.seed, book.cp.niter = seed % 2**31, config.iterations
        book.cp.min_points_per_centroid = 1  # no warning for small catalogues
        self.rotation = None
        if config.kind == "opq":
            turned = faiss.OPQMatrix(dimensions, levels)
            turned.pq, turned.niter = book, _OPQ_ROUNDS
            # faiss 1.15 writes out of bounds with fewer vectors than dimensions; repeats give the same fit.
            turned.train(np.tile(x, (-(-dimensions // len(x)), 1)))
            self.rotation = faiss.vector_to_array(turned.A).reshape(dimensions, dimensions).copy()
            x = np.ascontiguousarray(x @ self.rotation.T)
        book.train(x)
        centres = faiss.vector_to_array(book.centroids).reshape(levels, size, dimensions // levels)
        self.codebooks = centres.astype(np.float32)
        self.inputs, self.sizes = dimensions, (size,) * levels
        return self

    def tokenize_vectors(self, x: np.ndarray) -> Tokenized:
        """Quantise each sub-vector of (n, D) vectors independently."""
        turned = x if self.rotation is None else x @ self.rotation.T
        levels, _, width = self.codebooks.shape
        parts = torch.from_numpy(np.ascontiguousarray(turned)).view(-1, levels, width)
        books = torch.from_numpy(self.codebooks)
        codes = [
            torch.cat([nearest_codes(some, book) for some in parts[:, level].split(_AT_ONCE)])
            for level, book in enumerate(books)
        ]
        chosen = torch.stack([book[code] for book, code in zip(books, codes, strict=True)], dim=1)
        loss = float((parts - chosen).square().sum(dim=(1, 2)).mean())
        restored = chosen.flatten(1).numpy()
        if self.rotation is not None:
            restored = restored @ self.rotation  # its transpose is its inverse
        return Tokenized(torch.stack(codes, dim=1).numpy(), parts.numpy(), restored, loss)


def _faiss() -> ModuleType:
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'the tokenizers "pq" and "opq" need faiss: pip install "genrec-lab[baselines]", or faiss-cpu; '
            'or set tokenizer.kind to "rkmeans", which does not need it'
        ) from None
    module: ModuleType = faiss
    return module
