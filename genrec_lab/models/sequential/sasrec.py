"""SASRec (Kang and McAuley 2018): self-attention over item ids, by default with a softmax over all items.

The paper's objective is binary cross-entropy with one sampled negative, here `objective: "bce"`; full
cross-entropy makes SASRec a strong baseline. There is one model per domain, because item ids have no meaning
across domains.
Letters: B users, T positions of a sequence, D width, N items of the domain.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import ItemModel, ItemModelConfig
from genrec_lab.models.sequential.batches import last_of, next_items
from genrec_lab.models.sequential.layers import AttentionBlock, future, start_small
from genrec_lab.models.sequential.objectives import binary_cross_entropy, catalogue_cross_entropy


class SASRecConfig(ItemModelConfig):
    """Sizes of SASRec: the paper's two layers with width 64, as in later studies."""

    kind: Literal["sasrec"] = "sasrec"
    width: int = Field(64, ge=4)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    feed_forward: int = Field(256, ge=4)
    dropout: float = Field(0.5, ge=0, lt=1)  # the paper's value for sparse data
    objective: Literal["cross_entropy", "bce"] = "cross_entropy"  # bce: the paper's, with one negative


class SASRec(ItemModel):
    """A causal transformer whose output at each position ranks the items of its domain for the next one.

    >>> import genrec_lab
    >>> data = genrec_lab.load_dataset("bazaar", items=300, users=300, domains=["Garden"])
    >>> model = SASRec(SASRec.Config(width=16)).fit(data, training=genrec_lab.TrainingConfig(epochs=1))
    >>> model.recommend([[3, 4], [17]], top_k=5).items.shape
    (2, 5)
    """

    Config: ClassVar = SASRecConfig
    divisible: ClassVar = True
    config: SASRecConfig

    def make(self) -> None:
        """Start from random weights."""
        c = self.config
        self.embedding = nn.Embedding(len(self.items), c.width)
        self.places = nn.Embedding(c.max_history, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width), PooledDropout(c.dropout)
        self.blocks = nn.ModuleList(
            AttentionBlock(c.width, c.heads, c.feed_forward, c.dropout) for _ in range(c.layers)
        )
        start_small(self)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the mean loss of each next item.

        `sequences` (B, T + 1) holds positions in the domain's `items`, padded on the right with -1.
        """
        histories, real, wanted = next_items(sequences)
        loss = catalogue_cross_entropy if self.config.objective == "cross_entropy" else binary_cross_entropy
        return loss(self.states(histories)[real], self.embedding.weight, wanted)

    def states(self, sequences: Tensor) -> Tensor:
        """(B, T) padded on the right with -1 -> (B, T, D), with causal attention."""
        x = self.embedding(sequences.clamp(min=0)) + self.places.weight[: sequences.shape[1]]
        x = self.dropout(self.norm(x))
        unseen = future(sequences.shape[1], x.device)
        for block in self.blocks:
            x = block(x, unseen)
        return x

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the state of the last item; SASRec ignores users."""
        return last_of(self.states(sequences), sequences) @ self.embedding.weight.T
