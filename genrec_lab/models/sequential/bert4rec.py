"""BERT4Rec (Sun et al. 2019): a bidirectional transformer that fills in masked items.

Training masks a share of the items in each sequence, and in some sequences only the last item, as in
inference, where a mask follows the history. Each prefix of a user's items is a separate sequence, as in
RecBole, which the sizes are from; the paper draws ten masks of each whole sequence, of .2 to .6 of its items
depending on the data set. The loss is a softmax over all items, as in the paper.
Letters: B users, T positions of a sequence, D width, N items of the domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.data import NO_ITEM
from genrec_lab.data.batches import Batch
from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import ItemModel, ItemModelConfig
from genrec_lab.models.sequential.batches import DrawnPrefixes, batch_of, last_of, places_with_items
from genrec_lab.models.sequential.layers import AttentionBlock, start_small
from genrec_lab.models.sequential.objectives import catalogue_cross_entropy


class BERT4RecConfig(ItemModelConfig):
    """Sizes of BERT4Rec and its masking."""

    kind: Literal["bert4rec"] = "bert4rec"
    width: int = Field(64, ge=4)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    feed_forward: int = Field(256, ge=4)
    dropout: float = Field(0.2, ge=0, lt=1)
    masked: float = Field(0.2, gt=0, lt=1)  # share of a sequence's items
    last_only: float = Field(0.5, ge=0, le=1)  # share of the sequences in which only the last item is masked
    prefixes: int | None = Field(None, ge=1)  # prefixes per user, drawn each epoch; None: all


class BERT4Rec(ItemModel):
    """A bidirectional transformer that ranks the items of its domain for a masked position."""

    Config: ClassVar = BERT4RecConfig
    divisible: ClassVar = True
    own_weights: ClassVar = ("embedding.", "bias")
    config: BERT4RecConfig

    def make(self) -> None:
        """Start from random weights."""
        c = self.config
        self.mask = len(self.items)  # the row after the items' rows
        self.embedding = nn.Embedding(len(self.items) + 1, c.width)
        self.places = nn.Embedding(c.max_history + 1, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width), PooledDropout(c.dropout)
        self.blocks = nn.ModuleList(
            AttentionBlock(c.width, c.heads, c.feed_forward, c.dropout) for _ in range(c.layers)
        )
        self.out, self.out_norm = nn.Linear(c.width, c.width), nn.LayerNorm(c.width)
        self.bias = nn.Parameter(torch.zeros(len(self.items)))
        start_small(self)

    def batches(self, sequences: Sequence[Sequence[int]], users: Sequence[int], batch_size: int) -> Cloze:
        """Return prefixes of the sequences, of two or more items, with some items masked."""
        c = self.config
        prefixes = DrawnPrefixes(
            self.items, sequences, batch_size, c.max_history, per_sequence=c.prefixes, like_length=True
        )
        return Cloze(prefixes, self.mask, c.masked, c.last_only)

    def forward(self, sequences: Tensor, wanted: Tensor) -> Tensor:
        """Return the mean cross-entropy of the masked items.

        `sequences` (B, T) holds positions in the domain's `items`, N where masked, padded on the right with
        -1; `wanted` (B, T) holds the masked items, -1 elsewhere.
        """
        masked = places_with_items(wanted)
        read = self.compared(self.states(sequences)[masked])
        return catalogue_cross_entropy(read, self.embedding.weight[: self.mask], wanted[masked], self.bias)

    def states(self, sequences: Tensor) -> Tensor:
        """(B, T) padded on the right with -1 -> (B, T, D); every position attends to all but the padding."""
        x = self.embedding(sequences.clamp(min=0)) + self.places.weight[: sequences.shape[1]]
        x = self.dropout(self.norm(x))
        unseen = (sequences == NO_ITEM)[:, None, None]
        for block in self.blocks:
            x = block(x, unseen)
        return x

    def scores(self, states: Tensor) -> Tensor:
        """(…, D) -> (…, N), Eq. (7): one more layer, then inner products with the items plus a bias."""
        return self.compared(states) @ self.embedding.weight[: self.mask].T + self.bias

    def compared(self, states: Tensor) -> Tensor:
        """(…, D) -> (…, D): the layer before the inner products with the items' vectors.

        The norm after the layer is not in the equation, but in the authors' code, as in BERT; without it,
        training may get stuck at the start.
        """
        normed: Tensor = self.out_norm(F.gelu(self.out(states)))
        return normed

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items for a mask after the last item; BERT4Rec ignores users."""
        longer = with_next(sequences, torch.full_like(users, self.mask))
        return self.scores(last_of(self.states(longer), longer))


def with_next(sequences: Tensor, items: Tensor) -> Tensor:
    """(B, T) padded on the right with -1 -> (B, T + 1), with one of the items (B,) appended to each."""
    lengths = (sequences != NO_ITEM).sum(1, keepdim=True)
    return F.pad(sequences, (0, 1), value=NO_ITEM).scatter(1, lengths, items[:, None])


class Cloze:
    """Prefixes and their next items, with different items masked in each epoch.

    Batches `{"sequences": (B, T + 1), "wanted": (B, T + 1)}`, padded on the right with -1.
    """

    def __init__(self, prefixes: DrawnPrefixes, mask: int, masked: float, last_only: float) -> None:
        self.prefixes, self.mask, self.masked, self.last_only = prefixes, mask, masked, last_only

    def __len__(self) -> int:
        return len(self.prefixes)

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of one epoch; at least one item of each sequence is masked."""
        rng = np.random.default_rng([seed, epoch, 1])
        for batch in self.prefixes(epoch, seed):
            sequences = with_next(batch["sequences"], batch["wanted"]).numpy()
            real = sequences != NO_ITEM
            rows, lengths = np.arange(len(sequences)), real.sum(1)
            hidden = real & (rng.random(sequences.shape) < self.masked)
            one = rng.integers(lengths)  # in each sequence, so that each has a mask
            without = ~hidden.any(1)
            hidden[rows[without], one[without]] = True
            last = rng.random(len(sequences)) < self.last_only
            hidden[last] = False
            hidden[rows[last], lengths[last] - 1] = True
            shown, wanted = np.where(hidden, self.mask, sequences), np.where(hidden, sequences, NO_ITEM)
            tensors = {"sequences": torch.from_numpy(shown), "wanted": torch.from_numpy(wanted)}
            yield batch_of(tensors, hidden.sum(1))
