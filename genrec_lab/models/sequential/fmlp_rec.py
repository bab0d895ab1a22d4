"""FMLP-Rec (Zhou et al. 2022): learned filters in the frequency domain instead of attention.

Each block multiplies the spectrum of a sequence by a learned filter and applies a feed-forward layer; sizes
are from the authors' code. A filter mixes all positions, including later ones. Therefore every prefix of a
sequence is a separate sample, without the item to predict, aligned to the right end of a window of
`max_history` positions regardless of the batch. Trained by default with a softmax over all items; `objective:
"bpr"` is the paper's, with one negative.
Letters: B users, T positions of a sequence, W positions of the window, D width, N items of the domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.data import NO_ITEM
from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import ItemModel, ItemModelConfig
from genrec_lab.models.sequential.batches import DrawnPrefixes
from genrec_lab.models.sequential.objectives import bpr, catalogue_cross_entropy


class FMLPRecConfig(ItemModelConfig):
    """Sizes and objective of FMLP-Rec."""

    kind: Literal["fmlp_rec"] = "fmlp_rec"
    width: int = Field(64, ge=4)
    layers: int = Field(2, ge=1)
    feed_forward: int = Field(256, ge=4)
    dropout: float = Field(0.5, ge=0, lt=1)
    objective: Literal["cross_entropy", "bpr"] = "cross_entropy"


class FMLPRec(ItemModel):
    """Filter blocks whose output at the last position ranks the items of its domain."""

    Config: ClassVar = FMLPRecConfig
    divisible: ClassVar = True
    config: FMLPRecConfig

    def make(self) -> None:
        """Start from random weights."""
        c = self.config
        self.embedding = nn.Embedding(len(self.items), c.width)
        self.places = nn.Embedding(c.max_history, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width), PooledDropout(c.dropout)
        self.blocks = nn.ModuleList(_FilterBlock(c) for _ in range(c.layers))
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02)

    def batches(
        self, sequences: Sequence[Sequence[int]], users: Sequence[int], batch_size: int
    ) -> DrawnPrefixes:
        """Return every prefix with its next item."""
        return DrawnPrefixes(self.items, sequences, batch_size, self.config.max_history)

    def forward(self, sequences: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean loss of the items `wanted` (B,) given `sequences` (B, T)."""
        loss = catalogue_cross_entropy if self.config.objective == "cross_entropy" else bpr
        return loss(self.states(sequences), self.embedding.weight, wanted)

    def states(self, sequences: Tensor) -> Tensor:
        """(B, T) padded on the right with -1 -> (B, D), the state at the last item."""
        window = at_the_end(sequences, self.config.max_history)
        real = (window != NO_ITEM)[..., None]
        x = self.dropout(self.norm(self.embedding(window.clamp(min=0)) * real + self.places.weight))
        for block in self.blocks:
            x = block(x)
        return x[:, -1]

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the state at the last item; FMLP-Rec does not know users."""
        return self.states(sequences) @ self.embedding.weight.T


class _FilterBlock(nn.Module):
    """A learned filter and a feed-forward layer, each with a residual connection and post-normalisation."""

    def __init__(self, c: FMLPRecConfig) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.empty(c.max_history // 2 + 1, c.width, 2))  # real, imaginary
        self.up, self.down = nn.Linear(c.width, c.feed_forward), nn.Linear(c.feed_forward, c.width)
        self.filter_norm, self.feed_forward_norm = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.dropout = PooledDropout(c.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, D) -> (B, W, D); the transforms use fp32, which all devices support."""
        spectrum = torch.fft.rfft(x.float(), dim=1, norm="ortho") * torch.view_as_complex(self.filter.float())
        filtered = torch.fft.irfft(spectrum, n=x.shape[1], dim=1, norm="ortho").to(x.dtype)
        x = self.filter_norm(x + self.dropout(filtered))
        return self.feed_forward_norm(x + self.dropout(self.down(F.gelu(self.up(x)))))


def at_the_end(sequences: Tensor, width: int) -> Tensor:
    """(B, T) padded on the right with -1 -> (B, W), the most recent W items, padded on the left."""
    lengths = (sequences != NO_ITEM).sum(1, keepdim=True)
    source = torch.arange(width, device=sequences.device) - width + lengths
    moved = sequences.gather(1, source.clamp(min=0, max=sequences.shape[1] - 1))
    return moved.masked_fill(source < 0, NO_ITEM)
