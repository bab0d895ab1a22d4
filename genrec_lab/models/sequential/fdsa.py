"""FDSA (Zhang et al. 2019): self-attention over item ids and over item features, side by side.

The features of an item are its text vector and its attributes, weighted by the paper's vanilla attention.
Sizes and the norm on the output are those of the FDSA in RUCAIBox's UniSRec code, with which GMC's lineage
compares; the text vector takes the place of the paper's topic words. Ours: the attributes' rule
(`data/item_attributes.py`), and the softmax over all items at every place.
Letters: B users, T places, D width, N items, A attributes, V numbers of a text vector.
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
    """Sizes of FDSA, and which features it reads."""

    kind: Literal["fdsa"] = "fdsa"
    features: Literal["text_and_attributes", "text"] = "text_and_attributes"
    least_items: int = Field(5, ge=1)  # an attribute of fewer items is left out


class FDSA(ItemModel):
    """Two causal encoders, of ids and of features, whose last states together rank the items."""

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
        """Score all items by the state of the last item; FDSA does not know users."""
        return last_of(self.states(sequences), sequences) @ self.embedding.weight.T

    def states(self, sequences: Tensor) -> Tensor:
        """(B, T) padded at the right with -1 -> (B, T, D)."""
        places = sequences.clamp(min=0)
        read = self.item_encoder(self.embedding(places)), self.feature_encoder(self.item_features()[places])
        return self.dropout(self.norm(self.join(torch.cat(read, dim=-1))))

    def item_features(self) -> Tensor:
        """Return (N, D): each item's text and attributes, weighted by a softmax over those that it has."""
        text, attributes = self.adapter(self.text), self.attributes.weight
        score = (
            self.attention(attributes).squeeze(-1).expand(self.has.shape).masked_fill(~self.has, -torch.inf)
        )
        weight = torch.cat([self.attention(text), score], dim=1).softmax(-1)
        return weight[:, :1] * text + weight[:, 1:] @ attributes
