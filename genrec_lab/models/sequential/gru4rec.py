"""GRU4Rec (Hidasi et al. 2016; Hidasi and Karatzoglou 2018): a recurrent network over item ids.

Sizes are RecBole's: one layer of 128 units over item vectors of 64, dropout .3 on the input. Trained by
default with a softmax over all items; `objective` "bpr_max" and "top1_max" are the losses of the 2018 paper,
with sampled negatives. Session-parallel batches are not needed, because histories are short.
Letters: B users, T positions of a sequence, D width, N items of the domain.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import ItemModel, ItemModelConfig
from genrec_lab.models.sequential.batches import last_of, next_items
from genrec_lab.models.sequential.objectives import bpr_max, catalogue_cross_entropy, top1_max


class GRU4RecConfig(ItemModelConfig):
    """Sizes and objective of GRU4Rec."""

    kind: Literal["gru4rec"] = "gru4rec"
    width: int = Field(64, ge=4)  # of an item vector
    hidden: int = Field(128, ge=4)  # of the recurrent state
    layers: int = Field(1, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    objective: Literal["cross_entropy", "bpr_max", "top1_max"] = "cross_entropy"
    samples: int = Field(2048, ge=1)  # negatives of bpr_max and top1_max (2018, section 5)
    regularisation: float = Field(1.0, ge=0)  # weight of the negatives' scores in bpr_max


class GRU4Rec(ItemModel):
    """A GRU whose state after each item ranks the items of its domain for the next position."""

    Config: ClassVar = GRU4RecConfig
    divisible: ClassVar = True
    config: GRU4RecConfig

    def make(self) -> None:
        """Start from random weights."""
        c = self.config
        self.embedding = nn.Embedding(len(self.items), c.width)
        self.dropout = PooledDropout(c.dropout)
        self.gru = nn.GRU(c.width, c.hidden, c.layers, batch_first=True)
        self.out = nn.Linear(c.hidden, c.width)
        nn.init.xavier_normal_(self.embedding.weight)
        for name, weight in self.gru.named_parameters():
            if name.startswith("weight"):
                nn.init.xavier_uniform_(weight)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the mean loss of each next item.

        `sequences` (B, T + 1) holds positions in the domain's `items`, padded on the right with -1.
        """
        c, (histories, real, wanted) = self.config, next_items(sequences)
        compared = self.states(histories)[real], self.embedding.weight, wanted
        if c.objective == "cross_entropy":
            return catalogue_cross_entropy(*compared)
        if c.objective == "top1_max":
            return top1_max(*compared, c.samples)
        return bpr_max(*compared, c.samples, c.regularisation)

    def states(self, sequences: Tensor) -> Tensor:
        """(B, T) padded on the right with -1 -> (B, T, D); no state depends on the padding."""
        read, _ = self.gru(self.dropout(self.embedding(sequences.clamp(min=0))))
        return self.out(read)

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the state after the last item; GRU4Rec ignores users."""
        return last_of(self.states(sequences), sequences) @ self.embedding.weight.T
