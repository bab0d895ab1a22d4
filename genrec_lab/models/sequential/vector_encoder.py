"""The network that the models with item content share: self-attention over vectors of items.

It is SASRec's: a learnt vector a place, then layers of attention and feed-forward, each normed after it is
added back. Letters: B users, T places, D width, H heads.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.models.dropout import PooledDropout
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

    def __init__(self, c: VectorEncoderConfig, name: str) -> None:
        """Start from random weights; ValueError, which names the row, for heads that do not fit."""
        super().__init__()
        if c.width % c.heads:
            raise ValueError(
                f"{name}.width is {c.width}, which {c.heads} heads cannot share; expected a multiple"
            )
        self.places = nn.Embedding(c.max_history, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width), PooledDropout(c.dropout)
        self.blocks = nn.ModuleList(_Block(c) for _ in range(c.layers))

    def forward(self, vectors: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D).

        A place sees itself and those before it; with `real` (B, T) bool it sees all places that are real.
        """
        steps = vectors.shape[1]
        if real is None:
            seen = torch.ones(steps, steps, dtype=torch.bool, device=vectors.device).tril()
        else:
            seen = real[:, None, None, :]
        x = self.dropout(self.norm(vectors + self.places.weight[:steps]))
        for block in self.blocks:
            x = block(x, seen)
        return x

    def freeze(self) -> None:
        """Fix the vectors of the places and the layers; the first norm stays free, as in RUCAIBox's code."""
        self.places.requires_grad_(False)
        self.blocks.requires_grad_(False)


class _Block(nn.Module):
    def __init__(self, c: VectorEncoderConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.qkv, self.out = nn.Linear(c.width, 3 * c.width), nn.Linear(c.width, c.width)
        self.up, self.down = nn.Linear(c.width, c.feed_forward), nn.Linear(c.feed_forward, c.width)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.dropout = PooledDropout(c.dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(B, T, D), and bool that broadcasts to (B, H, T, T) -> (B, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).float()
        weights = self.dropout(scores.masked_fill(~seen, -torch.inf).softmax(-1).to(v.dtype))
        x = self.attention_norm(x + self.dropout(self.out((weights @ v).transpose(1, 2).flatten(-2))))
        return self.feed_forward_norm(x + self.dropout(self.down(F.gelu(self.up(x)))))


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
