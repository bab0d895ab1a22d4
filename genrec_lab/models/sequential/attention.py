"""The transformer block that models over items share, with whatever mask their direction asks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.models.dropout import PooledDropout


class AttentionBlock(nn.Module):
    """Self-attention and a feed-forward layer with GELU, each normed after it is added back."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        """Start from torch's random weights; ValueError where the heads cannot share the width."""
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}, which {heads} heads cannot share; expected a multiple")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = PooledDropout(dropout)

    def forward(self, x: Tensor, unseen: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); `unseen` (T, T) or (B, 1, 1, T) is true where a place is not looked at."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        weights = self.dropout(scores.masked_fill(unseen, -torch.inf).float().softmax(-1).to(v.dtype))
        x = self.attention_norm(x + self.dropout(self.out((weights @ v).transpose(1, 2).flatten(-2))))
        return self.feed_forward_norm(x + self.dropout(self.down(F.gelu(self.up(x)))))


def future(places: int, device: torch.device) -> Tensor:
    """Return (T, T), true where the place of a column comes after that of its row."""
    return torch.ones(places, places, dtype=torch.bool, device=device).triu(1)
