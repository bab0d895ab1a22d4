"""The network that the models with item content share: self-attention over vectors of items.

It is SASRec's: a learnt vector a place, then blocks of attention. Letters: B users, T places, D width,
N items, V numbers of a text vector.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from genrec_lab.models.dropout import PooledDropout
from genrec_lab.models.sequential.attention import AttentionBlock, future
from genrec_lab.models.sequential.domain_items import DomainItems
from genrec_lab.models.sequential.item_model import ItemModelConfig


class VectorEncoderConfig(ItemModelConfig):
    """Sizes that the models with item content share: those of RUCAIBox's code for all of them."""

    width: int = Field(300, ge=4)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    feed_forward: int = Field(256, ge=4)
    dropout: float = Field(0.5, ge=0, lt=1)


class VectorEncoder(nn.Module):
    """Vectors of a history's items in, a state a place out."""

    def __init__(self, c: VectorEncoderConfig) -> None:
        """Start from random weights; ValueError where the heads cannot share the width."""
        super().__init__()
        self.places = nn.Embedding(c.max_history, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width), PooledDropout(c.dropout)
        self.blocks = nn.ModuleList(
            AttentionBlock(c.width, c.heads, c.feed_forward, c.dropout) for _ in range(c.layers)
        )

    def forward(self, vectors: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D).

        A place sees itself and those before it; with `real` (B, T) bool it sees all places that are real.
        """
        steps = vectors.shape[1]
        unseen = future(steps, vectors.device) if real is None else ~real[:, None, None, :]
        x = self.dropout(self.norm(vectors + self.places.weight[:steps]))
        for block in self.blocks:
            x = block(x, unseen)
        return x

    def freeze(self) -> None:
        """Fix the vectors of the places and the layers; the first norm stays free, as in RUCAIBox's code."""
        self.places.requires_grad_(False)
        self.blocks.requires_grad_(False)


def start_small(module: nn.Module) -> None:
    """Draw all matrices and tables from a normal distribution of deviation .02, as BERT does."""
    for parameter in module.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)


def text_of(domain: DomainItems) -> Tensor:
    """Return the text vectors (N, V) of a domain's items; ValueError where it has none."""
    if domain.text is None:
        raise ValueError("the domain's items have no text vectors; give DomainItems(…, text=…)")
    return torch.from_numpy(np.ascontiguousarray(domain.text, dtype=np.float32))
