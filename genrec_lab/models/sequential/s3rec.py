"""S3-Rec (Zhou et al. 2020): four self-supervised objectives on items and attributes, then SASRec's training.

Weights, mask ratio and reductions are from the authors' code: one negative item or segment, a binary
cross-entropy over all attributes, sums over positions and attributes. Our changes: the mean over the
sequences of a batch (Adam is not affected by the factor), the rule for attributes
(`data/item_attributes.py`), no attributes of more than half of the items, padding on the right, the softmax
over all items in fine-tuning; an epoch of pre-training has each sequence once, masked at random (the code has
all of its prefixes, with the last position always masked: about six times as many samples).
Letters: B sequences, T positions, D width, N items, A attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.data import NO_ITEM
from genrec_lab.data.batches import Batch, padded, shuffled
from genrec_lab.models.sequential.base import ItemModel, Phase
from genrec_lab.models.sequential.batches import (
    NOTHING_TO_LEARN,
    SequenceBatches,
    batch_of,
    last_of,
    next_items,
    positions,
)
from genrec_lab.models.sequential.layers import VectorEncoder, VectorEncoderConfig, start_small
from genrec_lab.models.sequential.objectives import catalogue_cross_entropy
from genrec_lab.training import Batches


class S3RecConfig(VectorEncoderConfig):
    """Sizes of S3-Rec and the weights of its objectives."""

    kind: Literal["s3rec"] = "s3rec"
    mask_ratio: float = Field(0.2, gt=0, lt=1)
    aap_weight: float = Field(1.0, ge=0)
    mip_weight: float = Field(0.2, ge=0)
    map_weight: float = Field(1.0, ge=0)
    sp_weight: float = Field(0.5, ge=0)
    least_items: int = Field(5, ge=1)  # attributes of fewer items are left out


class Objectives(NamedTuple):
    """The four unweighted losses of a batch: sums over positions and attributes, means over B."""

    attributes: Tensor  # AAP, associated attribute prediction
    items: Tensor  # MIP, masked item prediction
    masked_attributes: Tensor  # MAP, masked attribute prediction
    segments: Tensor  # SP, segment prediction


class S3Rec(ItemModel):
    """SASRec whose item vectors and layers are pre-trained on attributes, masked items and segments."""

    Config: ClassVar = S3RecConfig
    divisible: ClassVar = True
    config: S3RecConfig
    needs: ClassVar = ("words",)
    phases: ClassVar = (Phase("pretraining", budget="pretraining", validated=False), Phase("fine-tuning"))
    has: Tensor

    def make(self) -> None:
        """Start from random weights; the last row of the embedding is the mask."""
        c = self.config
        self.register_buffer("has", self.domain.attributes(c.least_items), persistent=False)
        self.embedding = nn.Embedding(len(self.items) + 1, c.width)
        self.attributes = nn.Embedding(self.has.shape[1], c.width)
        self.encoder = VectorEncoder(c)
        # One matrix per objective, the W of its mutual information.
        self.of_attribute, self.of_item = nn.Linear(c.width, c.width), nn.Linear(c.width, c.width)
        self.of_masked, self.of_segment = nn.Linear(c.width, c.width), nn.Linear(c.width, c.width)
        start_small(self)

    @property
    def mask(self) -> int:
        """The index of the mask, after all items."""
        return len(self.items)

    def batches(self, sequences: Sequence[Sequence[int]], users: Sequence[int], batch_size: int) -> Batches:
        """Return masked sequences and segments in pre-training, whole sequences in fine-tuning."""
        if self.phase == "pretraining":
            c = self.config
            return MaskedBatches(self.items, sequences, batch_size, c.max_history, c.mask_ratio)
        return SequenceBatches(self.items, sequences, batch_size, self.config.max_history)

    def forward(self, sequences: Tensor, **masked: Tensor) -> Tensor:
        """Return the loss of the phase: weighted objectives, or the mean cross-entropy of each next item."""
        if self.phase == "pretraining":
            c, found = self.config, torch.stack(self.objectives(sequences, **masked))
            return (found.new_tensor([c.aap_weight, c.mip_weight, c.map_weight, c.sp_weight]) * found).sum()
        histories, real, wanted = next_items(sequences)
        states = self.states(histories)[real]
        return catalogue_cross_entropy(states, self.embedding.weight[: self.mask], wanted)

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the state of the last item; S3-Rec ignores users."""
        return last_of(self.states(sequences), sequences) @ self.embedding.weight[: self.mask].T

    def states(self, sequences: Tensor, *, both_ways: bool = False) -> Tensor:
        """(B, T) padded on the right with -1 -> (B, T, D); pre-training is bidirectional."""
        vectors = self.embedding(sequences.clamp(min=0))
        return self.encoder(vectors, sequences != NO_ITEM if both_ways else None)

    def objectives(
        self,
        sequences: Tensor,
        masked: Tensor,
        negatives: Tensor,
        around: Tensor,
        segments: Tensor,
        strangers: Tensor,
    ) -> Objectives:
        """Return the four losses; all arguments are (B, T), as in MaskedBatches."""
        states = self.states(masked, both_ways=True)
        hidden, seen = masked == self.mask, (masked != self.mask) & (masked != NO_ITEM)
        rows = len(sequences)
        attributes = self._attribute_loss(self.of_attribute(states[seen]), sequences[seen])
        masked_attributes = self._attribute_loss(self.of_masked(states[hidden]), sequences[hidden])
        context = self.of_item(states[hidden])
        items = _pair_loss(context, self.embedding(sequences[hidden]), self.embedding(negatives[hidden]))
        last = [last_of(self.states(part, both_ways=True), part) for part in (around, segments, strangers)]
        segment = _pair_loss(self.of_segment(last[0]), last[1], last[2])
        return Objectives(attributes / rows, items / rows, masked_attributes / rows, segment / rows)

    def _attribute_loss(self, states: Tensor, items: Tensor) -> Tensor:
        logits = states @ self.attributes.weight.T
        return F.binary_cross_entropy_with_logits(logits.float(), self.has[items].float(), reduction="sum")


def _pair_loss(context: Tensor, wanted: Tensor, other: Tensor) -> Tensor:
    """Sum of -log sigmoid(f(context, wanted) - f(context, other)), f the sigmoid of an inner product."""
    positive, negative = (torch.sigmoid((context * of).sum(-1).float()) for of in (wanted, other))
    return F.softplus(negative - positive).sum()


class MaskedBatches:
    """Batches for the four objectives; all tensors are (B, T) item positions, padded on the right with -1.

    `sequences`: unchanged. `masked`: with some items masked. `negatives`: with items that the sequence does
    not have at masked positions. `around`: with a segment masked. `segments`: with everything else masked.
    `strangers`: with a segment of the same length from anywhere in the data instead. The masks depend only on
    (seed, epoch). Sequences are cut into pieces of `max_history` items from their end; pieces of one item are
    left out.
    """

    def __init__(
        self,
        items: np.ndarray,
        sequences: Sequence[Sequence[int]],
        batch_size: int,
        max_history: int,
        mask_ratio: float,
    ) -> None:
        """Cut the sequences; raises ValueError if one holds an item that is not in the ascending `items`."""
        self.n_items, self.batch_size, self.mask_ratio = len(items), batch_size, mask_ratio
        self.rows = [
            row[max(0, end - max_history) : end]
            for row in positions(items, sequences)
            for end in range(len(row), 1, -max_history)
            if max_history > 1
        ]
        if not self.rows:
            raise ValueError(NOTHING_TO_LEARN)
        self._all = np.concatenate(self.rows)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of one epoch in a new order."""
        rng = np.random.default_rng([seed, epoch])
        names = ("sequences", "masked", "negatives", "around", "segments", "strangers")
        for drawn in shuffled(len(self.rows), self.batch_size, rng):
            columns = zip(*(self._masked(self.rows[i], rng) for i in drawn), strict=True)
            yield batch_of({name: padded(part) for name, part in zip(names, columns, strict=True)})

    def _masked(self, row: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        hidden = rng.random(len(row)) < self.mask_ratio
        negatives = np.where(hidden, self._others(row, rng), row)
        length = int(rng.integers(1, len(row) // 2 + 1))
        start = int(rng.integers(len(row) - length + 1))
        elsewhere = int(rng.integers(len(self._all) - length + 1))
        inside = np.zeros(len(row), dtype=bool)
        inside[start : start + length] = True
        strangers = np.full(len(row), self.n_items)
        strangers[inside] = self._all[elsewhere : elsewhere + length]
        masked = np.where(hidden, self.n_items, row)
        around, segment = np.where(inside, self.n_items, row), np.where(inside, row, self.n_items)
        return row, masked, negatives, around, segment, strangers

    def _others(self, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw an item that the row does not have for each position; any item if it has all."""
        own = np.unique(row)
        free = self.n_items - len(own)
        if not free:
            return rng.integers(self.n_items, size=len(row))
        # The r-th free item is r plus the number of the row's items at or below it.
        drawn = rng.integers(free, size=len(row))
        return drawn + np.searchsorted(own - np.arange(len(own)), drawn, side="right")
