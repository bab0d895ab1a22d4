"""Shared layers of models over items: an attention block, an encoder of item vectors, cosine scores.

Letters: B users, T places of a sequence, D width, N items.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import ItemModel, ItemModelConfig
from genrec_lab.models.sequential.batches import last_of, next_items
from genrec_lab.models.sequential.objectives import catalogue_cross_entropy, for_cosine


class AttentionBlock(nn.Module):
    """Self-attention and a feed-forward layer with GELU, each with a residual connection and post-norm."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        """Start from torch's random weights; raises ValueError if the heads do not divide the width."""
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width is {width}, which is not divisible by {heads} heads; expected a multiple"
            )
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = PooledDropout(dropout)

    def forward(self, x: Tensor, unseen: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); `unseen` (T, T) or (B, 1, 1, T) is true at masked positions."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        weights = self.dropout(scores.masked_fill(unseen, -torch.inf).float().softmax(-1).to(v.dtype))
        x = self.attention_norm(x + self.dropout(self.out((weights @ v).transpose(1, 2).flatten(-2))))
        return self.feed_forward_norm(x + self.dropout(self.down(F.gelu(self.up(x)))))


def future(places: int, device: torch.device) -> Tensor:
    """Return the causal mask (T, T), true where the column's position comes after the row's."""
    return torch.ones(places, places, dtype=torch.bool, device=device).triu(1)


class VectorEncoderConfig(ItemModelConfig):
    """Sizes shared by the models with item content, from RUCAIBox's code."""

    width: int = Field(300, ge=4)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    feed_forward: int = Field(256, ge=4)
    dropout: float = Field(0.5, ge=0, lt=1)


class VectorEncoder(nn.Module):
    """Maps the vectors of a history's items to one state per position."""

    def __init__(self, c: VectorEncoderConfig) -> None:
        """Start from random weights; raises ValueError if the heads do not divide the width."""
        super().__init__()
        self.places = nn.Embedding(c.max_history, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width), PooledDropout(c.dropout)
        self.blocks = nn.ModuleList(
            AttentionBlock(c.width, c.heads, c.feed_forward, c.dropout) for _ in range(c.layers)
        )

    def forward(self, vectors: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D).

        A position attends to itself and earlier ones; with `real` (B, T) bool, to all real positions.
        """
        steps = vectors.shape[1]
        unseen = future(steps, vectors.device) if real is None else ~real[:, None, None, :]
        x = self.dropout(self.norm(vectors + self.places.weight[:steps]))
        for block in self.blocks:
            x = block(x, unseen)
        return x

    def freeze(self) -> None:
        """Freeze the position vectors and layers; the first norm stays trainable, as in RUCAIBox's code."""
        self.places.requires_grad_(False)
        self.blocks.requires_grad_(False)


def start_small(module: nn.Module) -> None:
    """Draw all matrices and tables from a normal distribution of deviation .02, as in BERT."""
    for parameter in module.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)


class CosineModel(ItemModel):
    """A model that encodes content vectors of items and compares them by cosine.

    A subclass creates `encoder`, has `temperature` in its config, and defines `item_vectors`.
    """

    encoder: VectorEncoder

    def item_vectors(self) -> Tensor:
        """Return the vectors (N, D) of all items."""
        raise TypeError(f"{type(self).__name__} defines no item_vectors")

    def states(self, sequences: Tensor, table: Tensor) -> Tensor:
        """(B, T) padded on the right with -1, vectors of all items (N, D) -> (B, T, D)."""
        return self.encoder(table[sequences.clamp(min=0)])

    def next_item_loss(self, sequences: Tensor) -> Tensor:
        """Return the mean cross-entropy of each next item of sequences (B, T + 1), padded with -1."""
        histories, real, wanted = next_items(sequences)
        table = self.item_vectors()
        states = self.states(histories, table)[real]
        return catalogue_cross_entropy(*for_cosine(states, table, self.config.temperature), wanted)

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by cosine divided by the temperature, as in the authors' code; ignores users."""
        table = self.item_vectors()
        last = last_of(self.states(sequences, table), sequences)
        states, items = for_cosine(last, table, self.config.temperature)
        return states @ items.T
