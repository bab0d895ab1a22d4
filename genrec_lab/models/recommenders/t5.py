"""T5 (Raffel et al. 2020) in one file: it reads a history of codes and writes the next item's.

Shapes have one letter per axis: B users or samples, M beams, S encoder positions, T decoder positions,
H heads, K width of a head, D width of the model, V tokens. `Recommender.to_transformers` converts the
weights to transformers' T5ForConditionalGeneration; the logits are equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.recommenders.base import RecommenderConfig
from genrec_lab.training import moved

NORM_EPSILON = 1e-6  # in every T5 release
NEGATIVE = -1e9  # masks a score; finite, so that a fully masked row does not give NaN


class BlockSizes(RecommenderConfig):
    """Sizes of a layer, shared by all networks."""

    d_model: int = Field(128, ge=8)  # width of the residual stream
    d_kv: int = Field(64, ge=4)  # width of one head; heads * d_kv need not equal d_model
    heads: int = Field(6, ge=1)
    d_ff: int = Field(1024, ge=8)  # hidden width of the feed-forward layers
    dropout: float = Field(0.1, ge=0, lt=1)
    feed_forward: Literal["relu", "gated-gelu"] = "relu"  # T5 1.0 uses relu, T5 1.1 gated-gelu
    relative_buckets: int = Field(32, ge=4)  # of the position bias
    relative_max_distance: int = Field(128, ge=8)  # tokens; larger distances share the last bucket

    @model_validator(mode="after")
    def _has_far_buckets(self) -> Self:
        # In the decoder, which looks in one direction, half of the buckets hold one distance each.
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"relative_max_distance is {self.relative_max_distance} with {self.relative_buckets} "
                f"relative_buckets; expected more than {self.relative_buckets // 2}, half of the buckets"
            )
        return self


class T5Config(BlockSizes):
    """Sizes of the recommender; the defaults are those of TIGER and its successors.

    With a vocabulary of 1,026 tokens it has 4.59 M parameters.
    """

    kind: Literal["t5"] = "t5"
    encoder_layers: int = Field(4, ge=1)
    decoder_layers: int = Field(4, ge=1)
    scale_output: bool = True  # states times d_model**-0.5 before the tied head, as in T5 1.0
    # What an item of a history attends to: the whole history, as in T5 and the papers, or only its past. With
    # "past", one pass over a sequence trains every position, which is several times faster.
    reads: Literal["whole", "past"] = "whole"

    @property
    def learns_in_one_pass(self) -> bool:
        """Whether one pass over a sequence trains every position, because no item attends to a later one."""
        return self.reads == "past"


def rows_of(held: Any, rows: Tensor) -> Any:
    """Return some rows (B',) of a tensor, or of all tensors in nested tuples."""
    return tuple(rows_of(one, rows) for one in held) if isinstance(held, tuple) else held[rows]


class Memory(NamedTuple):
    """The encoder's output for the decoder, per user: keys and values of each layer, and the mask."""

    keys: tuple[Tensor, ...]  # a layer: (B, H, S, K)
    values: tuple[Tensor, ...]  # a layer: (B, H, S, K)
    bias: Tensor  # (B, 1, 1 or M*T, S): 0 at visible tokens, very negative at others and padding

    def of_users(self, users: Tensor) -> Memory:
        """Return the memory of the users at (B',) indices, which may repeat."""
        return Memory(*rows_of(tuple(self), moved(users, self.bias.device)))


class Cache(NamedTuple):
    """The decoder's keys and values of the tokens so far, in the order in which they were computed.

    Reordering beams moves nothing: each beam stores the indices of its ancestors instead.
    """

    keys: tuple[tuple[Tensor, ...], ...]  # per layer and token: (B, M', H*K), for the M' beams of that step
    values: tuple[tuple[Tensor, ...], ...]
    ancestors: tuple[Tensor, ...]  # per token: (B, M) index of each beam's ancestor among those M'

    def of_users(self, users: Tensor) -> Cache:
        """Return the cache of the users at (B',) indices."""
        users = moved(users, self.ancestors[0].device) if self.ancestors else users
        return Cache(*rows_of(tuple(self), users))

    def of_parents(self, parents: Tensor) -> Cache:
        """Return the cache of the beams that extend the parents, (B, M') indices into the beams."""
        return self._replace(ancestors=tuple(a.gather(1, parents) for a in self.ancestors))

    def of_layer(self, layer: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return a layer's keys and values of each beam's ancestors, per token: (B, M or 1, H*K)."""
        pairs: list[tuple[tuple[Tensor, ...], list[Tensor]]] = [
            (self.keys[layer], []),
            (self.values[layer], []),
        ]
        for tensors, gathered in pairs:
            for tensor, places in zip(tensors, self.ancestors, strict=True):
                users, beams, _ = tensor.shape
                if beams > 1:
                    rows = places + beams * torch.arange(users, device=places.device)[:, None]
                    tensor = tensor.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
                gathered.append(tensor)
        return pairs[0][1], pairs[1][1]


class RMSNorm(nn.Module):
    """T5's layer norm: scales by the root mean square, without mean or shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPSILON)


class Attention(nn.Module):
    """Multi-head attention without the factor 1/sqrt(K), which T5 puts into the initial weights."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.heads = config.heads
        inner = config.heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.dropout = PooledDropout(config.dropout)

    def split(self, x: Tensor) -> Tensor:
        """(..., T, H*K) -> (..., H, T, K)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attend: queries (..., H, T, K), keys and values (..., H, S, K) -> (..., T, D).

        `bias` is added to the scores and broadcasts to (..., H, T, S).
        """
        scores = queries @ keys.transpose(-2, -1) + bias
        weights = self.dropout(torch.softmax(scores.float(), dim=-1).to(values.dtype))
        return self.o((weights @ values).transpose(-3, -2).flatten(-2))

    def of_one_query(self, query: Tensor, keys: list[Tensor], values: list[Tensor], bias: Tensor) -> Tensor:
        """Attend with one query per beam: query and T keys and values (B, M or 1, H*K) -> (B, M, D).

        `bias` is (H, T). Uses products and sums, which are several times faster than one-row matrix products.
        """
        query = query.unflatten(-1, (self.heads, -1))
        heads = query.shape[-2:]
        scores = [(query * key.unflatten(-1, heads)).sum(-1, dtype=torch.float32) for key in keys]
        weights = torch.softmax(torch.stack(scores, -1) + bias, dim=-1).to(query.dtype)
        attended = weights[..., :1] * values[0].unflatten(-1, heads)
        for place, value in enumerate(values[1:], start=1):
            attended.addcmul_(weights[..., place, None], value.unflatten(-1, heads))
        return self.o(attended.flatten(-2))


class FeedForward(nn.Module):
    """The position-wise layer: D -> d_ff -> D, with relu (T5 1.0) or a gated gelu (T5 1.1)."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        gated = config.feed_forward == "gated-gelu"
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False) if gated else None
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = PooledDropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        hidden = self.wi(x)
        if self.gate is None:
            return self.wo(self.dropout(F.relu(hidden, inplace=True)))
        return self.wo(self.dropout(F.gelu(hidden, approximate="tanh") * self.gate(x)))


class RelativeBias(nn.Module):
    """T5's relative position bias: one learned number per head and bucket of the distance."""

    def __init__(self, config: BlockSizes, *, both_ways: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.relative_buckets, config.heads))
        self.both_ways = both_ways
        self.buckets, self.max_distance = config.relative_buckets, config.relative_max_distance

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions (T,) and (S,) -> bias (H, T, S)."""
        distance = keys[None, :] - queries[:, None]
        return self.weight[self._bucket(distance)].permute(2, 0, 1)

    def _bucket(self, distance: Tensor) -> Tensor:
        """Return the bucket of a distance: exact for half of the buckets, then logarithmic."""
        buckets, base = self.buckets, torch.zeros_like(distance)
        if self.both_ways:
            buckets //= 2
            base = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        # In float32 and truncated, as in transformers: a different bucket would change the logits.
        share = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = exact + (share * (buckets - exact)).long().clamp(max=buckets - exact - 1)
        return base + torch.where(distance < exact, distance, far)


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, each with pre-normalisation and a residual connection."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(config.d_model), Attention(config)
        self.feed_forward_norm, self.feed_forward = RMSNorm(config.d_model), FeedForward(config)
        self.dropout = PooledDropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, S, D), (B, H, S, S) -> (B, S, D)."""
        a, h = self.attention, self.attention_norm(x)
        x = x + self.dropout(a(a.split(a.q(h)), a.split(a.k(h)), a.split(a.v(h)), bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class DecoderBlock(nn.Module):
    """Self-attention over the codes so far, attention over the history, feed-forward."""

    def __init__(self, config: BlockSizes) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(config.d_model), Attention(config)
        self.cross_norm, self.cross = RMSNorm(config.d_model), Attention(config)
        self.feed_forward_norm, self.feed_forward = RMSNorm(config.d_model), FeedForward(config)
        self.dropout = PooledDropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Run one layer over whole sequences x (B, M, T, D) -> (B, M, T, D).

        `keys` and `values` (B, H, S, K) belong to the history; `mask` (B, 1, 1 or M*T, S) is 0 or very
        negative.
        """
        a, h = self.attention, self.attention_norm(x)
        x = x + self.dropout(a(a.split(a.q(h)), a.split(a.k(h)), a.split(a.v(h)), bias))
        return self._of_history(x, keys, values, mask)

    def step(
        self, x: Tensor, bias: Tensor, past: tuple[list[Tensor], list[Tensor]], memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one layer over the next token x (B, M, D); return the new x and the token's key and value.

        `past` holds each beam's keys and values of the earlier tokens, `memory` the last three arguments of
        `forward`.
        """
        a, h = self.attention, self.attention_norm(x)
        key, value = a.k(h), a.v(h)
        x = x + self.dropout(a.of_one_query(a.q(h), [*past[0], key], [*past[1], value], bias))
        return self._of_history(x[:, :, None], *memory)[:, :, 0], key, value

    def _of_history(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Apply attention over the history and the feed-forward layer: (B, M, T, D) -> (B, M, T, D)."""
        # All beams of a user are queries on one copy of the history's keys and values.
        c, beams = self.cross, x.shape[1]
        queries = c.split(c.q(self.cross_norm(x)).flatten(1, 2))
        x = x + self.dropout(c(queries, keys, values, mask)).unflatten(1, (beams, -1))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def draw_weights(network: nn.Module, sizes: BlockSizes) -> None:
    """Initialise a network's layers as in T5; queries start smaller because attention has no 1/sqrt(K)."""
    std = {"q": (sizes.d_model * sizes.d_kv) ** -0.5, "o": (sizes.heads * sizes.d_kv) ** -0.5}
    std["wo"] = sizes.d_ff**-0.5
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std.get(name.rsplit(".", 1)[-1], sizes.d_model**-0.5))
        elif isinstance(module, RelativeBias):
            nn.init.normal_(module.weight, std=sizes.d_model**-0.5)


def mask_bias(mask: Tensor) -> Tensor:
    """(B, S) of 1 and 0 -> (B, 1, 1, S) of 0 and very negative, to be added to scores."""
    return (1.0 - mask[:, None, None, :].float()) * NEGATIVE


def compute_type(x: Tensor) -> torch.dtype:
    """Return the type of attention scores: autocast's if it is on, else the type of the states."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class T5(nn.Module):
    """The encoder-decoder over a vocabulary of codes; the embedding table is also the output head."""

    def __init__(self, vocabulary: int, config: T5Config | None = None) -> None:
        super().__init__()
        self.config = config or T5Config()
        c = self.config
        self.embedding = nn.Embedding(vocabulary, c.d_model)
        self.encoder = nn.ModuleList(EncoderBlock(c) for _ in range(c.encoder_layers))
        self.encoder_bias = RelativeBias(c, both_ways=True)
        self.encoder_norm = RMSNorm(c.d_model)
        self.decoder = nn.ModuleList(DecoderBlock(c) for _ in range(c.decoder_layers))
        self.decoder_bias = RelativeBias(c, both_ways=False)
        self.decoder_norm = RMSNorm(c.d_model)
        self.dropout = PooledDropout(c.dropout)
        draw_weights(self, c)
        nn.init.normal_(self.embedding.weight, std=1.0)

    def encode(self, tokens: Tensor, mask: Tensor, items: Tensor | None = None) -> Tensor:
        """Histories (B, S) of tokens, or (B, S, D) of vectors, with mask (B, S) -> hidden states (B, S, D).

        With `items` (S,), the item number of each position, no position attends to a later item.
        """
        x = self.dropout(tokens if tokens.is_floating_point() else self.embedding(tokens))
        places = torch.arange(tokens.shape[1], device=tokens.device)
        bias = self.encoder_bias(places, places)
        if items is not None:
            bias = bias.masked_fill(items[None, :] > items[:, None], NEGATIVE)
        bias = (bias + mask_bias(mask)).to(compute_type(x))
        for block in self.encoder:
            x = block(x, bias)
        return self.dropout(self.encoder_norm(x))

    def remember(self, hidden: Tensor, mask: Tensor) -> Memory:
        """Hidden states (B, S, D) and mask (B, S) -> the keys and values that every decoder step reads."""
        keys, values = [], []
        for block in cast("Iterable[DecoderBlock]", self.decoder):
            # Make it contiguous by head once; otherwise every product with it would copy.
            keys.append(block.cross.split(block.cross.k(hidden)).contiguous())
            values.append(block.cross.split(block.cross.v(hidden)).contiguous())
        return Memory(tuple(keys), tuple(values), mask_bias(mask).to(keys[0].dtype))

    def decode(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Decode whole sequences of tokens (B, M, T) -> logits (B, M, T, V)."""
        return self.logits(self.decode_states(tokens, memory))

    def decode_states(self, tokens: Tensor, memory: Memory) -> Tensor:
        """Decode whole sequences of tokens (B, M, T) -> states (B, M, T, D) before the output head."""
        x = self.dropout(self.embedding(tokens))
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        bias = self.decoder_bias(places, places)
        bias = bias.masked_fill(places[None, :] > places[:, None], NEGATIVE).to(compute_type(x))
        for i, block in enumerate(self.decoder):
            x = block(x, bias, memory.keys[i], memory.values[i], memory.bias)
        return self._scaled(self.dropout(self.decoder_norm(x)))

    def logits(self, states: Tensor) -> Tensor:
        """States (..., D) of the decoder -> logits (..., V)."""
        return F.linear(states, self.embedding.weight)

    def step(self, tokens: Tensor, memory: Memory, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Decode the next token of each beam: tokens (B, M) -> float32 logits (B, M, V) and the new cache."""
        nothing: tuple[tuple[Tensor, ...], ...] = ((),) * len(self.decoder)
        past = Cache(nothing, nothing, ()) if cache is None else cache
        x = self.dropout(self.embedding(tokens))
        places = torch.arange(len(past.ancestors) + 1, device=tokens.device)
        bias = self.decoder_bias(places[-1:], places)[:, 0]
        keys, values = [], []
        for i, block in enumerate(cast("Iterable[DecoderBlock]", self.decoder)):
            of_history = memory.keys[i], memory.values[i], memory.bias
            x, key, value = block.step(x, bias, past.of_layer(i), of_history)
            keys.append((*past.keys[i], key))
            values.append((*past.values[i], value))
        x = self._scaled(self.dropout(self.decoder_norm(x)))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would create ties
            logits = F.linear(x.float(), self.embedding.weight.float())
        here = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return logits, Cache(tuple(keys), tuple(values), (*past.ancestors, here))

    def _scaled(self, x: Tensor) -> Tensor:
        """Return the input of the tied head."""
        return x * self.config.d_model**-0.5 if self.config.scale_output else x

    def forward(self, tokens: Tensor, mask: Tensor, decoder_tokens: Tensor) -> Tensor:
        """Histories (B, S), their mask (B, S) and decoder inputs (B, T) -> logits (B, T, V)."""
        memory = self.remember(self.encode(tokens, mask), mask)
        return self.decode(decoder_tokens[:, None], memory)[:, 0]
