"""FDSA (Zhang et al. 2019): self-attention over item ids and, separately, over item features.

The features of an item are its text vector and its attributes, weighted by the paper's vanilla attention.
Sizes and the norm on the output are those of FDSA in RUCAIBox's UniSRec code, which GMC's predecessors
compare with; the text vector replaces the paper's topic words. Our changes: the rule for attributes
(`data/item_attributes.py`), and the softmax over all items at every position.
Letters: B users, T positions, D width, N items, A attributes, V dimensions of a text vector.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import ItemModel
from genrec_lab.models.sequential.batches import last_of, next_items
from genrec_lab.models.sequential.layers import VectorEncoder, VectorEncoderConfig, start_small
from genrec_lab.models.sequential.objectives import catalogue_cross_entropy


class FDSAConfig(VectorEncoderConfig):
    """Sizes and features of FDSA."""

    kind: Literal["fdsa"] = "fdsa"
    features: Literal["text_and_attributes", "text"] = "text_and_attributes"
    least_items: int = Field(5, ge=1)  # attributes of fewer items are left out


class FDSA(ItemModel):
    """Two causal encoders, for ids and for features, whose last states together rank the items."""

    Config: ClassVar = FDSAConfig
    divisible: ClassVar = True
    config: FDSAConfig
    needs: ClassVar = ("text", "words")
    text: Tensor
    has: Tensor

    def make(self) -> None:
        """Start from random weights."""
        c = self.config
        text = self.domain.text_vectors()
        has = torch.zeros(len(self.items), 0, dtype=torch.bool)
        if c.features == "text_and_attributes":
            has = self.domain.attributes(c.least_items)
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("has", has, persistent=False)
        self.embedding = nn.Embedding(len(self.items), c.width)
        self.adapter = nn.Linear(text.shape[1], c.width)
        self.attributes = nn.Embedding(has.shape[1], c.width)
        self.attention = nn.Linear(c.width, 1)
        self.item_encoder, self.feature_encoder = VectorEncoder(c), VectorEncoder(c)
        self.join, self.norm = nn.Linear(2 * c.width, c.width), nn.LayerNorm(c.width)
        self.dropout = PooledDropout(c.dropout)
        start_small(self)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the mean cross-entropy of each next item; `sequences` (B, T + 1) are padded with -1."""
        histories, real, wanted = next_items(sequences)
        return catalogue_cross_entropy(self.states(histories)[real], self.embedding.weight, wanted)

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the state of the last item; FDSA ignores users."""
        return last_of(self.states(sequences), sequences) @ self.embedding.weight.T

    def states(self, sequences: Tensor) -> Tensor:
        """(B, T) padded on the right with -1 -> (B, T, D)."""
        places = sequences.clamp(min=0)
        read = self.item_encoder(self.embedding(places)), self.feature_encoder(self.item_features()[places])
        return self.dropout(self.norm(self.join(torch.cat(read, dim=-1))))

    def item_features(self) -> Tensor:
        """Return (N, D): each item's text and attributes, weighted by a softmax over its features."""
        text, attributes = self.adapter(self.text), self.attributes.weight
        score = self.attention(attributes).squeeze(-1).expand(self.has.shape)
        score = score.masked_fill(~self.has, -torch.inf)
        weight = torch.cat([self.attention(text), score], dim=1).softmax(-1)
        return weight[:, :1] * text + weight[:, 1:] @ attributes
