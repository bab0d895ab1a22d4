"""Tree-structured codebooks (UTGRec section 2.2.2, Eqs 3 to 7) and plain multi-level codebooks.

Shapes: B items of a batch, L levels, K codes of a codebook, d_c code dimensions, l levels of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor, nn

from genrec_lab.losses import Reduction, residual_quantization_loss, tree_code_loss
from genrec_lab.models.tokenizers.kmeans import kmeans_centres
from genrec_lab.models.tokenizers.quantizers import Quantized, nearest_codes
from genrec_lab.training import processes


class TreeQuantizerConfig(BaseModel):
    """Settings of the codebooks; the defaults are UTGRec's (sections 2.2.2 and 3.1.4; d_c from its code)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    structure: Literal["tree", "levels"] = Field(
        "tree",
        description="tree: prefix residuals, a root book and a leaf book shared by levels 2..L, both E·W. "
        "levels: Table 3 variant 1, L plain books of root_size; content vectors are quantised independently",
    )
    levels: int = Field(3, ge=2, description="L")
    root_size: int = Field(256, ge=1, description="codes of the root book")
    leaf_size: int = Field(512, ge=1, description="codes of the leaf book; unused with levels")
    dimension: int = Field(128, ge=1, description="d_c")
    beta: float = Field(0.25, ge=0, description="weight of the commitment loss in Eqs 6 and 7")
    reduction: Reduction = Field(
        "paper", description="of L_Code over d_c: sum (paper, squared L2) or mean (code)"
    )
    kmeans_start: bool = Field(
        False, description="place the codewords by k-means at the end of the warm-up; not in the paper"
    )
    restart_dead: bool = Field(
        False, description="move codewords that were unused for a while to items; not in the paper"
    )
    restart_every: int = Field(
        100,
        ge=1,
        description="training batches between restarts; if less than an epoch, rare codewords move too",
    )


def prefix_residual(content: Tensor) -> Tensor:
    """UTGRec Eq. 3: subtract from each level the previous one; (B, L, d) -> (B, L, d)."""
    return torch.cat([content[:, :1], content[:, 1:] - content[:, :-1]], dim=1)


def inverse_prefix_residual(increments: Tensor) -> Tensor:
    """UTGRec 2.3.1: add to each level's increment the previous level; (B, l, d) -> (B, l, d)."""
    return increments.cumsum(dim=1)


class Codebook(nn.Module):
    """K codewords E·W (K, d): a matrix E with one row per codeword, and a shared projection W.

    A plain codebook has no W. E ~ N(0, d^-1/2); W is initialised like a linear layer without bias, or as the
    identity if codewords will be placed at given points.
    """

    projection: nn.Parameter | None
    used: Tensor  # (K,) bool: codewords used since the last restart

    def __init__(
        self,
        size: int,
        dimension: int,
        *,
        projected: bool,
        identity: bool,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        scale = dimension**-0.5  # also torch's bound for a linear layer
        self.matrix = nn.Parameter(torch.empty(size, dimension).normal_(0, scale, generator=generator))
        projection = torch.eye(dimension)
        if not identity and projected:
            projection.uniform_(-scale, scale, generator=generator)
        self.register_parameter("projection", nn.Parameter(projection) if projected else None)
        self.register_buffer("used", torch.zeros(size, dtype=torch.bool))

    def codewords(self) -> Tensor:
        """Return E·W, or E for a plain codebook: (K, d)."""
        return self.matrix if self.projection is None else self.matrix @ self.projection

    @torch.no_grad()
    def start_from(self, points: Tensor, generator: np.random.Generator) -> None:
        """Place the codewords at the k-means centres of (N, d) points, and set W to the identity."""
        centres = torch.from_numpy(kmeans_centres(points.cpu().numpy(), len(self.matrix), generator))
        self.matrix.copy_(centres)
        if self.projection is not None:
            self.projection.copy_(torch.eye(len(self.projection)))
        processes.same_in_all([self.matrix.data])

    @torch.no_grad()
    def note_use(self, codes: Tensor) -> None:
        """Mark codes (any shape) as used, in all processes."""
        users = torch.zeros(len(self.used), dtype=torch.int32, device=self.used.device)
        users[codes.flatten()] = 1
        self.used |= processes.total(users) > 0

    @torch.no_grad()
    def restart_dead(self, points: Tensor) -> None:
        """Move unused codewords to random points of (M, d), then reset the marks.

        All processes get the codewords of the first one. A frozen matrix is not changed.
        """
        dead = torch.nonzero(~self.used).flatten()[: len(points)]
        if self.matrix.requires_grad and len(dead):
            # drawn on the CPU, from the generator of the dropout
            drawn = points[torch.randperm(len(points))[: len(dead)].to(points.device)]
            if self.projection is not None:  # the row e with e W = point
                # `lstsq` gives other last bits in every call, so that no training could be repeated.
                drawn = torch.linalg.solve(self.projection.T, drawn.T).T
            self.matrix[dead] = drawn
            processes.same_in_all([self.matrix.data])
        self.used.zero_()


class TreeQuantizer(nn.Module):
    """Quantises L content vectors of an item to L codes; always in float32, even under autocast.

    `books` holds [root, leaf] for a tree, otherwise one book per level.
    """

    batches: Tensor  # () int64: training batches since the last restart

    def __init__(self, config: TreeQuantizerConfig, generator: Generator | None = None) -> None:
        super().__init__()
        self.config = config
        tree = config.structure == "tree"
        # A random W can be nearly singular, and then placed codewords would need huge rows of E.
        identity = config.kmeans_start or config.restart_dead
        sizes = (config.root_size, config.leaf_size) if tree else (config.root_size,) * config.levels
        self.books = nn.ModuleList(
            Codebook(size, config.dimension, projected=tree, identity=identity, generator=generator)
            for size in sizes
        )
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def sizes(self) -> tuple[int, ...]:
        """K of each level."""
        sizes = [len(book.matrix) for book in self._books()]
        return tuple(sizes[min(level, len(sizes) - 1)] for level in range(self.config.levels))

    @property
    def shared_levels(self) -> tuple[int, ...]:
        """Levels (from 0) that share the leaf book, as in `ItemCodes`; empty without a tree."""
        return tuple(range(1, self.config.levels)) if self.config.structure == "tree" else ()

    def codebooks(self) -> list[Tensor]:
        """Return the codewords of each level, (K_l, d_c); levels 2..L of a tree share one tensor."""
        made = [book.codewords().float() for book in self._books()]
        return [made[min(level, len(made) - 1)] for level in range(self.config.levels)]

    def increments(self, content: Tensor) -> Tensor:
        """Return each level's input: prefix residuals for a tree, else the content itself; (B, L, d_c)."""
        return prefix_residual(content) if self.config.structure == "tree" else content

    def forward(self, content: Tensor) -> Quantized:
        """Quantise (B, L, d_c) content vectors.

        Returns the reconstructed content (B, L, d_c) with a straight-through gradient, the codes (B, L),
        L_Code (Eq. 5) and each level's input (B, L, d_c).
        """
        if content.shape[1:] != (self.config.levels, self.config.dimension):
            raise ValueError(
                f"content vectors have shape {tuple(content.shape)}; expected (items, "
                f"{self.config.levels} levels, {self.config.dimension} dimensions) from tokenizer.quantizer"
            )
        with torch.autocast(content.device.type, enabled=False):
            content = content.float()
            residuals = self.increments(content)
            restarts = self.training and self.config.restart_dead
            if restarts:
                self._restart_when_due(residuals)
            levels = list(zip(residuals.unbind(1), self.codebooks(), strict=True))
            codes = torch.stack([nearest_codes(own.detach(), book.detach()) for own, book in levels], dim=1)
            chosen = zip(levels, codes.unbind(1), strict=True)
            codewords = torch.stack([book[code] for (_, book), code in chosen], dim=1)
            vectors = content + (self._restored(codewords) - content).detach()
            if restarts:
                for book, some in zip(self._books(), self._points(codes), strict=True):
                    book.note_use(some)
                self.batches += 1
            return Quantized(vectors, codes, self._loss(residuals, codewords), residuals)

    def from_codes(self, prefix: Tensor) -> Tensor:
        """Reconstruct content from prefixes of codes: (B, l) int64, l <= L -> (B, l, d_c).

        Raises ValueError for a prefix longer than L and for a code outside its codebook.
        """
        levels = self.config.levels
        if prefix.ndim != 2 or not 1 <= prefix.shape[1] <= levels:
            raise ValueError(
                f"the prefixes have shape {tuple(prefix.shape)}; expected (items, 1 to {levels} codes)"
            )
        for level, (column, size) in enumerate(zip(prefix.unbind(1), self.sizes, strict=False)):
            wrong = torch.nonzero((column < 0) | (column >= size)).flatten()
            if len(wrong):
                raise ValueError(
                    f"code {int(column[wrong[0]])} of row {int(wrong[0])} at level {level + 1} is outside "
                    f"its codebook; expected 0 to {size - 1}"
                )
        with torch.autocast(prefix.device.type, enabled=False):
            chosen = [book[code] for book, code in zip(self.codebooks(), prefix.unbind(1), strict=False)]
            return self._restored(torch.stack(chosen, dim=1))

    def fix_codebook_matrices(self) -> None:
        """Freeze E^r and E^f for transfer; W^r, W^f and the rest stay trainable (section 2.4.2).

        Plain codebooks consist only of E and are frozen completely.
        """
        for book in self._books():
            book.matrix.requires_grad_(False)

    @torch.no_grad()
    def start_from(self, content: Tensor, seed: int) -> None:
        """Place all codewords by k-means on the levels' inputs for (N, L, d_c) content vectors."""
        generator = np.random.default_rng(seed)
        for book, points in zip(self._books(), self._points(self.increments(content.float())), strict=True):
            book.start_from(points, generator)

    def _loss(self, residuals: Tensor, codewords: Tensor) -> Tensor:
        config = self.config
        if config.structure == "tree":
            return tree_code_loss(residuals, codewords, config.beta, config.reduction)
        loss = residual_quantization_loss(residuals, codewords, config.beta) / config.levels
        return loss if config.reduction == "paper" else loss / config.dimension

    def _restored(self, codewords: Tensor) -> Tensor:
        return inverse_prefix_residual(codewords) if self.config.structure == "tree" else codewords

    def _books(self) -> Sequence[Codebook]:
        return [book for book in self.books if isinstance(book, Codebook)]

    def _points(self, by_level: Tensor) -> list[Tensor]:
        """Group residuals or codes (B, L, ...) by book: (points, ...); the leaf's levels are joined."""
        if self.config.structure == "tree":
            return [by_level[:, 0], by_level[:, 1:].flatten(0, 1)]
        return list(by_level.unbind(1))

    def _restart_when_due(self, residuals: Tensor) -> None:
        """Restart unused codewords before a batch is quantised, because gradients need unchanged books."""
        if int(self.batches) >= self.config.restart_every:
            of_all = processes.gather_rows(residuals.detach())
            for book, points in zip(self._books(), self._points(of_all), strict=True):
                book.restart_dead(points)
            self.batches.zero_()
