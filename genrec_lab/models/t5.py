"""T5 (Raffel et al. 2020) in one file: it reads a history of codes and writes the next item's.

Shapes are written with one letter an axis: B users or samples, M beams, S encoder places, T decoder places,
H heads, K width of a head, D width of the model, V tokens. Weights exchange with transformers'
T5ForConditionalGeneration through `to_transformers_name` and `from_transformers_name`; the logits are equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.models.dropout import PooledDropout

NORM_EPSILON = 1e-6  # of every T5 release
_NEGATIVE = -1e9  # masks a score; finite, so that a row without any place does not give NaN


class T5Config(BaseModel):
    """Sizes of the recommender; the defaults are the body of TIGER and its successors.

    It has 4.59 M parameters with a vocabulary of 1,026 tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    d_model: int = Field(128, ge=8)  # width of the residual stream
    d_kv: int = Field(64, ge=4)  # width of one head; heads * d_kv need not equal d_model
    heads: int = Field(6, ge=1)
    d_ff: int = Field(1024, ge=8)  # hidden width of the feed-forward layers
    encoder_layers: int = Field(4, ge=1)
    decoder_layers: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    feed_forward: Literal["relu", "gated-gelu"] = "relu"  # T5 1.0 uses relu, T5 1.1 gated-gelu
    relative_buckets: int = Field(32, ge=4)  # of the position bias
    relative_max_distance: int = Field(128, ge=8)  # tokens; places farther apart share the last bucket
    scale_output: bool = True  # states times d_model**-0.5 before the tied head, as T5 1.0 does

    @model_validator(mode="after")
    def _has_far_buckets(self) -> T5Config:
        # In the decoder, which looks one way, half of the buckets hold a distance each.
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"relative_max_distance is {self.relative_max_distance} with {self.relative_buckets} "
                f"relative_buckets; expected more than {self.relative_buckets // 2}, half of the buckets"
            )
        return self


class Memory(NamedTuple):
    """What the decoder needs of the encoder, once a user: keys and values a layer, the mask of the places."""

    keys: tuple[Tensor, ...]  # a layer: (B, H, S, K)
    values: tuple[Tensor, ...]  # a layer: (B, H, S, K)
    bias: Tensor  # (B, 1, 1 or M*T, S): 0 at a token that may be read, very negative at others and padding

    def of_users(self, users: Tensor) -> Memory:
        """Return the memory of the chosen users, (B',) indices that may repeat."""
        return Memory(
            tuple(k[users] for k in self.keys), tuple(v[users] for v in self.values), self.bias[users]
        )

    def seen_by(self, places: Tensor) -> Memory:
        """Return the memory in which each query place reads some tokens only, (M*T, S) true where it does."""
        return self._replace(bias=self.bias.masked_fill(~places, _NEGATIVE))


class Cache(NamedTuple):
    """The decoder's own keys and values of the tokens so far, a layer: (B, M, H, T, K)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def of_parents(self, parents: Tensor) -> Cache:
        """Return the cache in the order of the beams' parents, (B, M') indices into the beams."""
        rows = torch.arange(parents.shape[0], device=parents.device)[:, None]
        return Cache(tuple(k[rows, parents] for k in self.keys), tuple(v[rows, parents] for v in self.values))


class RMSNorm(nn.Module):
    """T5's layer norm: scale by the root mean square, neither mean nor shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPSILON)


class Attention(nn.Module):
    """Multi-head attention without the transformer's 1/sqrt(K): T5 puts it into the initial weights."""

    def __init__(self, config: T5Config) -> None:
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


class FeedForward(nn.Module):
    """The position-wise layer: D -> d_ff -> D, with relu (T5 1.0) or a gated gelu (T5 1.1)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.gate = (
            nn.Linear(config.d_model, config.d_ff, bias=False)
            if config.feed_forward == "gated-gelu"
            else None
        )
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = PooledDropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        hidden = self.wi(x)
        hidden = F.relu(hidden) if self.gate is None else F.gelu(hidden, approximate="tanh") * self.gate(x)
        return self.wo(self.dropout(hidden))


class RelativeBias(nn.Module):
    """T5's position information: one learnt number for each head and bucket of the distance of two places."""

    def __init__(self, config: T5Config, *, both_ways: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.relative_buckets, config.heads))
        self.both_ways = both_ways
        self.buckets, self.max_distance = config.relative_buckets, config.relative_max_distance

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions (T,) and (S,) -> bias (H, T, S)."""
        distance = keys[None, :] - queries[:, None]
        return self.weight[self._bucket(distance)].permute(2, 0, 1)

    def _bucket(self, distance: Tensor) -> Tensor:
        """Bucket of a distance: exact up to half of the buckets, then logarithmic up to max_distance."""
        buckets, base = self.buckets, torch.zeros_like(distance)
        if self.both_ways:
            buckets //= 2
            base = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        # In float32 and truncated, as transformers does: a bucket more or less would change the logits.
        far = exact + (
            torch.log(distance.clamp(min=1).float() / exact)
            / math.log(self.max_distance / exact)
            * (buckets - exact)
        ).long().clamp(max=buckets - exact - 1)
        return base + torch.where(distance < exact, distance, far)


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, each on a normed copy and added back."""

    def __init__(self, config: T5Config) -> None:
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

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention_norm, self.attention = RMSNorm(config.d_model), Attention(config)
        self.cross_norm, self.cross = RMSNorm(config.d_model), Attention(config)
        self.feed_forward_norm, self.feed_forward = RMSNorm(config.d_model), FeedForward(config)
        self.dropout = PooledDropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        past: tuple[Tensor, Tensor] | None,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one layer over x (B, M, T, D); return the new x and its own keys and values for the cache.

        `past` are the layer's cached keys and values (B, M, H, T', K), `keys` and `values` the history's
        (B, H, S, K), `mask` is 0 or very negative (B, 1, 1 or M*T, S).
        """
        a, h = self.attention, self.attention_norm(x)
        own_keys, own_values = a.split(a.k(h)), a.split(a.v(h))
        if past is not None:
            own_keys, own_values = torch.cat([past[0], own_keys], -2), torch.cat([past[1], own_values], -2)
        x = x + self.dropout(a(a.split(a.q(h)), own_keys, own_values, bias))
        # All beams of a user stand side by side as queries on one copy of the history's keys and values.
        c, beams = self.cross, x.shape[1]
        queries = c.split(c.q(self.cross_norm(x)).flatten(1, 2))
        x = x + self.dropout(c(queries, keys, values, mask)).unflatten(1, (beams, -1))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), own_keys, own_values


class T5(nn.Module):
    """The encoder-decoder over a vocabulary of codes; its one embedding table is also the output head."""

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
        self.reset()

    def reset(self) -> None:
        """Draw the weights as T5 does: for want of 1/sqrt(K) in attention, the queries start smaller."""
        c = self.config
        std = {"q": (c.d_model * c.d_kv) ** -0.5, "o": (c.heads * c.d_kv) ** -0.5, "wo": c.d_ff**-0.5}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std.get(name.rsplit(".", 1)[-1], c.d_model**-0.5))
            elif isinstance(module, RelativeBias):
                nn.init.normal_(module.weight, std=c.d_model**-0.5)
        nn.init.normal_(self.embedding.weight, std=1.0)

    def encode(self, tokens: Tensor, mask: Tensor, items: Tensor | None = None) -> Tensor:
        """Histories (B, S) of tokens with mask (B, S) -> hidden states (B, S, D).

        With `items` (S,), the number of the item that a place belongs to, no place reads a later item.
        """
        x = self.dropout(self.embedding(tokens))
        places = torch.arange(tokens.shape[1], device=tokens.device)
        bias = self.encoder_bias(places, places)
        if items is not None:
            bias = bias.masked_fill(items[None, :] > items[:, None], _NEGATIVE)
        bias = (bias + self._mask_bias(mask)).to(self._compute_type(x))
        for block in self.encoder:
            x = block(x, bias)
        return self.dropout(self.encoder_norm(x))

    def remember(self, hidden: Tensor, mask: Tensor) -> Memory:
        """Hidden states (B, S, D) and mask (B, S) -> the keys and values that every decoder step reads."""
        keys, values = [], []
        for block in cast("Iterable[DecoderBlock]", self.decoder):
            keys.append(block.cross.split(block.cross.k(hidden)))
            values.append(block.cross.split(block.cross.v(hidden)))
        return Memory(tuple(keys), tuple(values), self._mask_bias(mask).to(keys[0].dtype))

    def decode(self, tokens: Tensor, memory: Memory, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Decode tokens (B, M, T) that follow the cache -> logits (B, M, T, V) and the cache with them."""
        states, cache = self.decode_states(tokens, memory, cache)
        return self.logits(states), cache

    def decode_states(
        self, tokens: Tensor, memory: Memory, cache: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        """Decode as `decode` does, up to the states (B, M, T, D) that the head reads."""
        x = self.dropout(self.embedding(tokens))
        start = 0 if cache is None else cache.keys[0].shape[-2]
        places = torch.arange(start + tokens.shape[-1], device=tokens.device)
        bias = self.decoder_bias(places[start:], places)
        bias = bias.masked_fill(places[None, :] > places[start:, None], _NEGATIVE).to(self._compute_type(x))
        keys, values = [], []
        for i, block in enumerate(self.decoder):
            past = None if cache is None else (cache.keys[i], cache.values[i])
            x, own_keys, own_values = block(x, bias, past, memory.keys[i], memory.values[i], memory.bias)
            keys.append(own_keys)
            values.append(own_values)
        return self.dropout(self.decoder_norm(x)), Cache(tuple(keys), tuple(values))

    def logits(self, states: Tensor) -> Tensor:
        """States (..., D) of the decoder -> logits (..., V)."""
        if self.config.scale_output:
            states = states * self.config.d_model**-0.5
        return F.linear(states, self.embedding.weight)

    def forward(self, tokens: Tensor, mask: Tensor, decoder_tokens: Tensor) -> Tensor:
        """Histories (B, S), their mask (B, S) and decoder inputs (B, T) -> logits (B, T, V)."""
        memory = self.remember(self.encode(tokens, mask), mask)
        return self.decode(decoder_tokens[:, None], memory)[0][:, 0]

    @staticmethod
    def _mask_bias(mask: Tensor) -> Tensor:
        """(B, S) of 1 and 0 -> (B, 1, 1, S) of 0 and very negative."""
        return (1.0 - mask[:, None, None, :].float()) * _NEGATIVE

    @staticmethod
    def _compute_type(x: Tensor) -> torch.dtype:
        """The type that attention scores have: autocast's where it is on, else the states' own."""
        device = x.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


# Our names on the left, transformers' on the right; {i} is the number of the block.
_NAMES = [
    ("embedding.weight", "shared.weight"),
    ("encoder_bias.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ("decoder_bias.weight", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ("encoder_norm.", "encoder.final_layer_norm."),
    ("decoder_norm.", "decoder.final_layer_norm."),
    ("encoder.{i}.attention_norm.", "encoder.block.{i}.layer.0.layer_norm."),
    ("encoder.{i}.attention.", "encoder.block.{i}.layer.0.SelfAttention."),
    ("encoder.{i}.feed_forward_norm.", "encoder.block.{i}.layer.1.layer_norm."),
    ("encoder.{i}.feed_forward.", "encoder.block.{i}.layer.1.DenseReluDense."),
    ("decoder.{i}.attention_norm.", "decoder.block.{i}.layer.0.layer_norm."),
    ("decoder.{i}.attention.", "decoder.block.{i}.layer.0.SelfAttention."),
    ("decoder.{i}.cross_norm.", "decoder.block.{i}.layer.1.layer_norm."),
    ("decoder.{i}.cross.", "decoder.block.{i}.layer.1.EncDecAttention."),
    ("decoder.{i}.feed_forward_norm.", "decoder.block.{i}.layer.2.layer_norm."),
    ("decoder.{i}.feed_forward.", "decoder.block.{i}.layer.2.DenseReluDense."),
]
_GATED = [(".wi.weight", ".wi_0.weight"), (".gate.weight", ".wi_1.weight")]


def to_transformers_name(name: str, *, gated: bool) -> str:
    """Return the name that a weight of ours has in transformers' T5ForConditionalGeneration."""
    return _translate(name, [(a, b) for a, b in _NAMES], _GATED if gated else [])


def from_transformers_name(name: str, *, gated: bool) -> str | None:
    """Return our name of a weight of transformers' T5, None for a copy of the embedding."""
    if name in {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}:
        return None
    return _translate(name, [(b, a) for a, b in _NAMES], [(b, a) for a, b in _GATED] if gated else [])


def _translate(name: str, prefixes: list[tuple[str, str]], suffixes: list[tuple[str, str]]) -> str:
    for old, new in prefixes:
        pattern = re.escape(old).replace(re.escape("{i}"), r"(\d+)")
        if found := re.match(pattern, name):
            number = found.group(1) if found.groups() else ""
            name = new.replace("{i}", number) + name[found.end() :]
            break
    else:
        raise KeyError(f"{name!r} is not the name of a T5 weight")
    for old, new in suffixes:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
