"""UniSRec (Hou et al. 2022): items are text vectors, whitened and mixed by experts, for transfer.

Values are from the authors' code (RUCAIBox/UniSRec). Our changes: every position of a sequence is a sample,
which in a causal network is the same as one sample per prefix; a position whose target is the same item is
not a negative (the code counts its logit as 0); sequences are augmented only by item drop, nine tenths of the
code's batches, because word drop needs a second encoding of all texts; histories have 20 items, as in every
row.
Letters: B users, T positions, D width, N items, E experts, V dimensions of a text vector.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.data import NO_ITEM
from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import PRETRAINING, Phase
from genrec_lab.models.sequential.batches import next_items
from genrec_lab.models.sequential.layers import CosineModel, VectorEncoder, VectorEncoderConfig, start_small
from genrec_lab.models.sequential.objectives import in_batch_contrast, kept_at_random, shortened


class UniSRecConfig(VectorEncoderConfig):
    """Sizes, losses and fine-tuning of UniSRec."""

    kind: Literal["unisrec"] = "unisrec"
    experts: int = Field(8, ge=1)  # E
    adaptor_dropout: float = Field(0.2, ge=0, lt=1)  # on the text vectors
    temperature: float = Field(0.07, gt=0)
    sequence_weight: float = Field(1e-3, ge=0)  # lambda, of the contrastive loss between sequences
    drop: float = Field(0.2, ge=0, lt=1)  # share of a sequence's items that augmentation leaves out
    # The transductive setting adds one vector per item, learned in fine-tuning; the inductive one has none.
    setting: Literal["transductive", "inductive"] = "transductive"
    # Fine-tuning after pre-training keeps positions and layers frozen, as in the paper.
    freeze_encoder: bool = True


class MixtureAdaptor(nn.Module):
    """Maps text vectors to item vectors: E whitening layers, mixed by a gate that depends on the text."""

    def __init__(self, inputs: int, width: int, experts: int, dropout: float) -> None:
        """Start with a uniform gate, as in the code."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(experts, inputs))
        self.weight = nn.Parameter(0.02 * torch.randn(experts, width, inputs))
        self.gate = nn.Parameter(torch.zeros(inputs, experts))
        self.noise = nn.Parameter(torch.zeros(inputs, experts))
        self.dropout = PooledDropout(dropout)

    def forward(self, text: Tensor) -> Tensor:
        """(M, V) -> (M, D); the gate is noisy in training only."""
        logits = text @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(text @ self.noise) + 1e-2)
        shares = logits.softmax(-1)
        experts = zip(self.bias, self.weight, strict=True)
        whitened = [F.linear(self.dropout(text) - bias, weight) for bias, weight in experts]
        return torch.einsum("me,emd->md", shares, torch.stack(whitened))


class UniSRec(CosineModel):
    """Self-attention over adapted text vectors; scores are cosines with all items' adapted vectors."""

    Config: ClassVar = UniSRecConfig
    divisible: ClassVar = True
    config: UniSRecConfig
    needs: ClassVar = ("text",)
    phases: ClassVar = (PRETRAINING, Phase("fine-tuning"))
    text: Tensor

    def make(self) -> None:
        """Start from random weights."""
        c = self.config
        text = self.domain.text_vectors()
        self.register_buffer("text", text, persistent=False)
        self.adaptor = MixtureAdaptor(text.shape[1], c.width, c.experts, c.adaptor_dropout)
        self.encoder = VectorEncoder(c)
        start_small(self.encoder)
        self.embedding = nn.Embedding(len(self.items), c.width) if c.setting == "transductive" else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.02)

    def begin(self, phase: str) -> None:
        """Pre-train without ids; fine-tune the adaptor and the ids, and the encoder if it is new."""
        super().begin(phase)
        if self.embedding is not None:
            self.embedding.requires_grad_(phase != "pretraining")
        if phase == "fine-tuning" and self.pretrained and self.config.freeze_encoder:
            self.encoder.freeze()

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the loss of the phase; `sequences` (B, T + 1) holds positions in `items`, padded with -1."""
        if self.phase == "pretraining":
            return self._pretraining_loss(sequences)
        return self.next_item_loss(sequences)

    def item_vectors(self) -> Tensor:
        """Return the vectors (N, D) of all items: text, and in the transductive setting an id."""
        adapted = self.adaptor(self.text)
        return adapted if self.embedding is None else adapted + self.embedding.weight

    def _pretraining_loss(self, sequences: Tensor) -> Tensor:
        """Contrast each position's state with its next item, and with its state in a shortened sequence."""
        c, (histories, real, wanted) = self.config, next_items(sequences)
        # Only the items of the batch are adapted.
        read, places = sequences.clamp(min=0).unique(return_inverse=True)
        table = self.adaptor(self.text[read])
        states, targets = self.encoder(table[places[:, :-1]])[real], table[places[:, 1:]][real]
        loss = in_batch_contrast(states, targets, wanted, c.temperature)
        if c.sequence_weight == 0:
            return loss
        kept = kept_at_random(histories, c.drop)
        # Positions among the items of the batch, so that the table is computed once.
        local = places[:, :-1].masked_fill(histories == NO_ITEM, NO_ITEM)
        short, last = shortened(local, kept)
        augmented = self.encoder(table[short.clamp(min=0)])
        augmented = augmented.gather(1, last[..., None].expand_as(augmented))[real]
        return loss + c.sequence_weight * in_batch_contrast(states, augmented, wanted, c.temperature)
