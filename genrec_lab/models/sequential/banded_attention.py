"""Longformer's attention for short texts: all scores at once under a band, instead of chunk by chunk.

transformers' LongformerSelfAttention cuts a text into overlapping chunks, which saves memory where there are
thousands of tokens and costs many copies where there are a hundred. This is the same function, with the same
weights by the same names, for texts whose first token alone is global, as in RecFormer; longer texts go the
old way. Letters: B texts, S tokens, H heads, W width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

from genrec_lab.models.dropout import PooledDropout

_LONGEST = 512  # tokens; with more, the scores outside of the band cost more than the copies


class BandedAttention(LongformerSelfAttention):
    """A token sees those near it and the first one, which sees all, by maps of its own."""

    def __init__(self, config: Any, layer_id: int) -> None:
        """Start from random weights of the sizes of a LongformerConfig."""
        super().__init__(config, layer_id)
        self.pooled = PooledDropout(self.dropout)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        is_index_masked: Tensor | None = None,
        is_index_global_attn: Tensor | None = None,
        is_global_attn: bool | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, ...]:
        """(B, S, D) -> (B, S, D) in a tuple; `is_index_masked` (B, S) is true where there is no token."""
        length = hidden_states.shape[1]
        if length > _LONGEST or output_attentions or not is_global_attn or is_index_masked is None:
            given = (attention_mask, is_index_masked, is_index_global_attn, is_global_attn, output_attentions)
            longer: tuple[Tensor, ...] = super().forward(hidden_states, *given)
            return longer
        near = self._near(length, hidden_states.device)
        unseen = ~near | is_index_masked[:, None, None]
        unseen[..., 0] = False
        maps = (self.query(hidden_states), self.key(hidden_states), self.value(hidden_states))
        read = self._attend(*maps, unseen)
        first = self._attend(
            self.query_global(hidden_states[:, :1]),
            self.key_global(hidden_states),
            self.value_global(hidden_states),
            is_index_masked[:, None, None],
        )
        together = torch.cat([first, read[:, 1:]], dim=1)
        return (together.masked_fill(is_index_masked[..., None], 0.0),)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, unseen: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        weights = scores.float().masked_fill(unseen, -torch.inf).softmax(-1).to(v.dtype)
        return (self.pooled(weights) @ v).transpose(1, 2).flatten(-2)

    def _near(self, length: int, device: torch.device) -> Tensor:
        places = torch.arange(length, device=device)
        return (places[:, None] - places).abs() <= self.one_sided_attn_window_size


def for_short_texts(longformer: Any) -> Any:
    """Give a LongformerModel this attention and pooled dropout, in place, with the weights that it has."""
    for number, layer in enumerate(longformer.encoder.layer):
        banded = BandedAttention(longformer.config, number)
        banded.load_state_dict(layer.attention.self.state_dict())
        layer.attention.self = banded.to(next(longformer.parameters()).dtype)
    for module in list(longformer.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.Dropout):
                setattr(module, name, PooledDropout(part.p))
    return longformer.train(longformer.training)  # the new parts too
