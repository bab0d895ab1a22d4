"""HGN (Ma et al. 2019): gates that let the features and the items of a window pass that suit the user.

Three parts are added: the user's own vector, the gated items' mean, and the sum of the items' vectors, which
pairs each of them with the next item. All the prefixes of a sequence are learnt at once, by running sums. By
default trained with a softmax over all items; `objective: "bpr"` is the paper's, one negative.
The windows are whole histories, as in RecBole, and not the paper's 5 items.
Letters: B users, T places of a sequence, D width, N items of the domain.
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
    """Sizes of HGN; the paper has width 50, RecBole 64, and neither has dropout."""

    kind: Literal["hgn"] = "hgn"
    width: int = Field(64, ge=4)
    dropout: float = Field(0.0, ge=0, lt=1)  # on the items read
    objective: Literal["cross_entropy", "bpr"] = "cross_entropy"


class HGN(ItemModel):
    """Gates over the items of a history; the one model here that knows its users."""

    Config: ClassVar = HGNConfig
    divisible: ClassVar = True
    own_weights: ClassVar = ("embedding.", "target.", "user.")
    config: HGNConfig

    def make(self) -> None:
        """Start from random weights, with a vector for each of the domain's users."""
        c = self.config
        self.embedding = nn.Embedding(len(self.items), c.width)  # of items that were taken
        self.target = nn.Embedding(len(self.items), c.width)  # of items that are ranked
        self.user = nn.Embedding(len(self.domain.users), c.width)
        self.feature_of_item = nn.Linear(c.width, c.width)
        self.feature_of_user = nn.Linear(c.width, c.width, bias=False)
        self.instance_of_item = nn.Linear(c.width, 1, bias=False)
        self.instance_of_user = nn.Linear(c.width, c.max_history, bias=False)  # one gate a place
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
        """Return whole sequences beside whose they are."""
        places = self.domain.user_places(users)
        return SequenceBatches(self.items, sequences, batch_size, self.config.max_history, places)

    def forward(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Return the mean loss of each next item.

        `sequences` (B, T + 1) are places in the domain's `items`, padded at the right with -1; `users` (B,)
        are places in its users, -1 where not known.
        """
        histories, real, wanted = next_items(sequences)
        loss = catalogue_cross_entropy if self.config.objective == "cross_entropy" else bpr
        return loss(self.states(histories, users)[real], self.target.weight, wanted)

    def states(self, sequences: Tensor, users: Tensor) -> Tensor:
        """(B, T) padded at the right with -1, (B,) -> (B, T, D): after each place, of all up to it."""
        real = (sequences != NO_ITEM)[..., None]
        x = self.dropout(self.embedding(sequences.clamp(min=0))) * real
        user = self._user_vectors(users)
        # Feature gating: which features of an item pass.
        passed = x * torch.sigmoid(self.feature_of_item(x) + self.feature_of_user(user)[:, None])
        # Instance gating: which items pass.
        by_place = self.instance_of_user(user)[:, : sequences.shape[1], None]
        gate = torch.sigmoid(self.instance_of_item(passed) + by_place) * real
        # Before the first item there is nothing to divide by; there is always a first item.
        mean = (gate * passed).cumsum(1) / gate.cumsum(1).clamp(min=1e-12)
        return user[:, None] + mean + x.cumsum(1)

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the state after the last item."""
        return last_of(self.states(sequences, users), sequences) @ self.target.weight.T

    def _user_vectors(self, users: Tensor) -> Tensor:
        """(B,) -> (B, D); a user that is not known has the vector 0."""
        if not len(self.user.weight):
            return self.target.weight.new_zeros(len(users), self.config.width)
        return self.user(users.clamp(min=0)) * (users >= 0)[:, None]
