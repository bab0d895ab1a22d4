"""A causal recommender: a decoder-only transformer that continues a history of codes.

It is not from a paper. It shares identifiers, decoding and layers with the T5, but has no encoder: every
position of a sequence is predicted from those before it, so one pass over a sequence trains all positions.
Letters: B users, I items of history, L levels, S tokens of a history, M beams, H heads, K width of a head, D
width of the model, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.codes import EOS, PAD, ItemCodes
from genrec_lab.data import NO_ITEM
from genrec_lab.decoding import Histories
from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.models.recommenders.t5 import (
    NEGATIVE,
    BlockSizes,
    Cache,
    EncoderBlock,
    RelativeBias,
    RMSNorm,
    compute_type,
    draw_weights,
    mask_bias,
    rows_of,
)
from genrec_lab.training import moved

_BEGIN = EOS  # begins every sequence, so that an empty history can be continued


class CausalConfig(BlockSizes):
    """Sizes of the causal recommender; its layers are those of the T5's encoder."""

    kind: Literal["causal"] = "causal"
    layers: int = Field(4, ge=1)
    learns_in_one_pass: ClassVar[bool] = True  # no position attends to a later one


class CausalMemory(NamedTuple):
    """The cached state of each user's history for decoding. Histories are padded on the left."""

    keys: tuple[Tensor, ...]  # per layer: (B, H, S, K)
    values: tuple[Tensor, ...]
    bias: Tensor  # (B, 1, 1, S): 0 where there is a token, very negative where there is padding
    last: Tensor  # (B, D): state of the last token, which predicts the first code

    def of_users(self, users: Tensor) -> CausalMemory:
        """Return the memory of the users at (B',) indices, which may repeat."""
        return CausalMemory(*rows_of(tuple(self), moved(users, self.bias.device)))


class CausalBlock(EncoderBlock):
    """A layer of the T5's encoder that returns its keys and values and can process one token at a time."""

    def read(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, S, D), (B or 1, H, S, S) -> the new x, and the keys and values (B, H, S, K)."""
        a, h = self.attention, self.attention_norm(x)
        keys, values = a.split(a.k(h)), a.split(a.v(h))
        x = x + self.dropout(a(a.split(a.q(h)), keys, values, bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), keys, values

    def step(
        self,
        x: Tensor,
        history: tuple[Tensor, Tensor, Tensor],
        past: tuple[list[Tensor], list[Tensor]],
        bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer over the next token x (B, M, D); return the new x and the token's key and value.

        `history` holds keys and values (B, H, S, K) and bias (B or 1, H, 1, S) of the tokens that all beams
        of a user share. `past` holds each beam's keys and values of the later tokens, (B, M or 1, H*K) per
        token. `bias` (H, T) covers these and the new token.
        """
        a, h = self.attention, self.attention_norm(x)
        query, key, value = a.q(h), a.k(h), a.v(h)
        shared_keys, shared_values, shared_bias = history
        shared = a.split(query) @ shared_keys.transpose(-2, -1) + shared_bias  # (B, H, M, S)
        queries = query.unflatten(-1, (a.heads, -1))  # (B, M, H, K)
        own = [(queries * k.unflatten(-1, (a.heads, -1))).sum(-1) for k in (*past[0], key)]
        scores = torch.cat([shared, torch.stack(own, -1).transpose(1, 2) + bias[:, None]], dim=-1)
        weights = scores.float().softmax(-1).to(shared_values.dtype)
        attended = (weights[..., : shared.shape[-1]] @ shared_values).transpose(1, 2)  # (B, M, H, K)
        for place, v in enumerate((*past[1], value), start=shared.shape[-1]):
            weight = weights[..., place].transpose(1, 2)[..., None]
            attended = attended + weight * v.unflatten(-1, (a.heads, -1))
        x = x + a.o(attended.flatten(-2))
        return x + self.feed_forward(self.feed_forward_norm(x)), key, value


class CausalTransformer(nn.Module):
    """The stack over a vocabulary of codes; its one embedding table is also the output head."""

    def __init__(self, vocabulary: int, levels: int, config: CausalConfig) -> None:
        super().__init__()
        self.config, self.levels = config, levels
        self.embedding = nn.Embedding(vocabulary, config.d_model)
        # If levels share tokens, only this embedding tells which level comes next.
        self.level = nn.Embedding(levels, config.d_model)
        self.blocks = nn.ModuleList(CausalBlock(config) for _ in range(config.layers))
        self.bias = RelativeBias(config, both_ways=False)
        self.norm = RMSNorm(config.d_model)
        self.dropout = PooledDropout(config.dropout)
        draw_weights(self, config)
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.level.weight, std=config.d_model**-0.5)

    def read(self, tokens: Tensor, levels: Tensor, mask: Tensor) -> CausalMemory:
        """Read tokens (B, S) of the levels `levels` (S,) and return the memory for decoding.

        `mask` (B, S) is 0 at padding.
        """
        padding = mask_bias(mask)
        states, keys, values = self._layers(tokens, levels, padding)
        return CausalMemory(keys, values, padding.to(keys[0].dtype), states[:, -1])

    def states(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """Tokens (B, S) of the levels `levels` (S,) -> states (B, S, D) before the output head."""
        return self._layers(tokens, levels, None)[0]

    def _layers(
        self, tokens: Tensor, levels: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        x = self.dropout(self.embedding(tokens) + self.level(levels))
        places = torch.arange(tokens.shape[1], device=tokens.device)
        bias = self.bias(places, places).masked_fill(places[None, :] > places[:, None], NEGATIVE)[None]
        if padding is not None:
            bias = bias + padding
        kept: list[tuple[Tensor, Tensor]] = []
        for block in cast("Iterable[CausalBlock]", self.blocks):
            x, keys, values = block.read(x, bias.to(compute_type(x)))
            kept.append((keys, values))
        return self._out(x), tuple(k for k, _ in kept), tuple(v for _, v in kept)

    def step(self, tokens: Tensor, memory: CausalMemory, cache: Cache) -> tuple[Tensor, Cache]:
        """Read the next token of each beam, tokens (B, M) -> states (B, M, D) and the new cache."""
        done, history = len(cache.ancestors), memory.bias.shape[-1]
        x = self.embedding(tokens) + self.level.weight[done]
        places = torch.arange(history + done + 1, device=tokens.device)
        bias = self.bias(places[-1:], places)[:, 0]  # (H, S + T)
        shared_bias = memory.bias + bias[:, None, :history]
        keys, values = [], []
        for i, block in enumerate(cast("Iterable[CausalBlock]", self.blocks)):
            shared = memory.keys[i], memory.values[i], shared_bias
            x, key, value = block.step(x, shared, cache.of_layer(i), bias[:, history:])
            keys.append((*cache.keys[i], key))
            values.append((*cache.values[i], value))
        here = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return self._out(x), Cache(tuple(keys), tuple(values), (*cache.ancestors, here))

    def _out(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(x)) * self.config.d_model**-0.5

    def logits(self, states: Tensor) -> Tensor:
        """States (..., D) -> logits (..., V) in float32; bfloat16 would create ties."""
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.float(), self.embedding.weight.float())


class CausalRecommender(CodeRecommender):
    """A causal transformer over the tokens of a history, which it continues with the next identifier."""

    Config = CausalConfig
    config: CausalConfig

    def __init__(self, codes: ItemCodes, config: CausalConfig | None = None) -> None:
        super().__init__(codes, config or CausalConfig())
        self.transformer = CausalTransformer(codes.vocabulary_size, codes.levels, self.config)

    @property
    def body(self) -> CausalTransformer:
        """The network over tokens."""
        return self.transformer

    def forward(self, rows: Tensor, places: Tensor, sequences: Tensor) -> Tensor:
        """Return the mean negative log-likelihood per token of the items `sequences[rows, places]`.

        The batch comes from `StretchBatches`: `sequences` (B, I + 1) is padded on the right with -1; `rows`
        and `places` (from 1) are (n,).
        """
        levels = self.codes.levels
        tokens = F.pad(self.item_tokens[sequences].flatten(1)[:, :-1], (1, 0), value=_BEGIN)
        states = self.transformer.states(tokens, self._levels(tokens.shape[1], first=-1))
        # Position t predicts token t of the sequence, because of the begin token.
        chosen = places[:, None] * levels + torch.arange(levels, device=places.device)
        logits = self.transformer.logits(states[rows[:, None], chosen])
        return self.token_loss(logits, self.item_tokens[sequences[rows, places]])

    def _levels(self, tokens: int, *, first: int) -> Tensor:
        """Return the levels (S,) of S = `tokens` tokens, of which the first has level `first`."""
        return (torch.arange(tokens, device=self.item_tokens.device) + first) % self.codes.levels

    # --- decoding: the protocol genrec_lab.decoding.CodeModel

    def inputs(self, histories: Histories) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, (B, S) int64, padded left: a begin token, then the items.

        Raises ValueError for an item without an identifier.
        """
        matrix = self.matrix(histories)
        begin = (matrix == NO_ITEM).sum(1, keepdim=True) * self.codes.levels
        # Move the padding to the left, so that all histories end at the same position.
        order = torch.argsort((matrix != NO_ITEM).long(), dim=1, stable=True)
        tokens = F.pad(self.item_tokens[matrix.gather(1, order)].flatten(1), (1, 0), value=PAD)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = tokens.masked_fill(places == begin, _BEGIN)
        return {"input_ids": tokens, "attention_mask": (places >= begin).long()}

    def remember(self, histories: Histories) -> CausalMemory:
        """Read B histories once; keep the keys and values that all beams share."""
        tokens, mask = self.inputs(histories).values()
        levels = self._levels(tokens.shape[1], first=-1)
        memory = self.transformer.read(tokens, levels, mask)
        again = partial(self.transformer.read, tokens, levels, mask)
        self.require_finite(memory.last, "of the history", again)
        return memory

    def step(
        self, memory: CausalMemory, codes: Tensor | None, cache: Cache | None, parents: Tensor | None
    ) -> tuple[Tensor, Cache]:
        """Advance one level: codes (B, M) below the beams `parents` -> log-probabilities (B, M, K), cache."""
        if cache is None or codes is None or parents is None:
            nothing: tuple[tuple[Tensor, ...], ...] = ((),) * self.config.layers
            logits, longer = self.transformer.logits(memory.last)[:, None], Cache(nothing, nothing, ())
            return self.level_log_probs(logits, 0), longer
        device = self.item_tokens.device
        past = cache.of_parents(moved(parents, device))
        tokens = moved(codes, device) + self.codes.offsets[len(past.ancestors)]
        states, longer = self.transformer.step(tokens, memory, past)
        return self.level_log_probs(self.transformer.logits(states), len(longer.ancestors)), longer
