"""HGN (Ma et al. 2019): gates that select the features and items of a window that suit the user.

The state is the sum of three parts: the user's vector, the mean of the gated items, and the sum of the items'
vectors, which pairs each of them with the next item. Running sums train all prefixes of a sequence at once.
Trained by default with a softmax over all items; `objective: "bpr"` is the paper's, with one negative.
The windows are whole histories, as in RecBole, instead of the paper's 5 items.
Letters: B users, T positions of a sequence, D width, N items of the domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from genrec_lab.data import NO_ITEM
from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import ItemModel, ItemModelConfig
from genrec_lab.models.sequential.batches import SequenceBatches, last_of, next_items
from genrec_lab.models.sequential.objectives import bpr, catalogue_cross_entropy


class HGNConfig(ItemModelConfig):
    """Sizes of HGN; the paper uses width 50, RecBole 64, and neither uses dropout."""

    kind: Literal["hgn"] = "hgn"
    width: int = Field(64, ge=4)
    dropout: float = Field(0.0, ge=0, lt=1)  # on the input items
    objective: Literal["cross_entropy", "bpr"] = "cross_entropy"


class HGN(ItemModel):
    """Gates over the items of a history; the only model here that uses user vectors."""

    Config: ClassVar = HGNConfig
    divisible: ClassVar = True
    knows_users: ClassVar = True
    own_weights: ClassVar = ("embedding.", "target.", "user.")
    config: HGNConfig

    def make(self) -> None:
        """Start from random weights, with a vector for each of the domain's users."""
        c = self.config
        self.embedding = nn.Embedding(len(self.items), c.width)  # of items in a history
        self.target = nn.Embedding(len(self.items), c.width)  # of ranked items
        self.user = nn.Embedding(len(self.domain.users), c.width)
        self.feature_of_item = nn.Linear(c.width, c.width)
        self.feature_of_user = nn.Linear(c.width, c.width, bias=False)
        self.instance_of_item = nn.Linear(c.width, 1, bias=False)
        self.instance_of_user = nn.Linear(c.width, c.max_history, bias=False)  # one gate per position
        self.dropout = PooledDropout(c.dropout)
        for name, weight in self.named_parameters():
            if name.startswith(self.own_weights):
                nn.init.normal_(weight, std=1 / c.width)
            elif weight.ndim == 2:
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.zeros_(weight)

    def batches(
        self, sequences: Sequence[Sequence[int]], users: Sequence[int], batch_size: int
    ) -> SequenceBatches:
        """Return whole sequences with their users."""
        places = self.domain.user_places(users)
        return SequenceBatches(self.items, sequences, batch_size, self.config.max_history, places)

    def forward(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Return the mean loss of each next item.

        `sequences` (B, T + 1) holds positions in the domain's `items`, padded on the right with -1; `users`
        (B,) holds positions in its users, -1 for unknown users.
        """
        histories, real, wanted = next_items(sequences)
        loss = catalogue_cross_entropy if self.config.objective == "cross_entropy" else bpr
        return loss(self.states(histories, users)[real], self.target.weight, wanted)

    def states(self, sequences: Tensor, users: Tensor) -> Tensor:
        """(B, T) padded on the right with -1, (B,) -> (B, T, D), the state after each position."""
        real = (sequences != NO_ITEM)[..., None]
        x = self.dropout(self.embedding(sequences.clamp(min=0))) * real
        user = self._user_vectors(users)
        # Feature gating: selects features of an item.
        passed = x * torch.sigmoid(self.feature_of_item(x) + self.feature_of_user(user)[:, None])
        # Instance gating: selects items.
        by_place = self.instance_of_user(user)[:, : sequences.shape[1], None]
        gate = torch.sigmoid(self.instance_of_item(passed) + by_place) * real
        # Clamped, because before the first item the sum of gates is 0.
        mean = (gate * passed).cumsum(1) / gate.cumsum(1).clamp(min=1e-12)
        return user[:, None] + mean + x.cumsum(1)

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the state after the last item."""
        return last_of(self.states(sequences, users), sequences) @ self.target.weight.T

    def _user_vectors(self, users: Tensor) -> Tensor:
        """(B,) -> (B, D); zeros for unknown users."""
        if not len(self.user.weight):
            return self.target.weight.new_zeros(len(users), self.config.width)
        return self.user(users.clamp(min=0)) * (users >= 0)[:, None]
