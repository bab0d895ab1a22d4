"""The T5 over identifiers, from histories of items to ranked items.

Letters: B users, I items of history, L levels of an identifier, S = I * L + 1 tokens, M beams, K codes of a
level, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lab.codes import EOS, PAD, ItemCodes
from genrec_lab.data import NO_ITEM
from genrec_lab.decoding import Histories
from genrec_lab.models.recommenders.adapters import plain_weights
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.models.recommenders.t5 import NEGATIVE, NORM_EPSILON, T5, Cache, Memory, T5Config
from genrec_lab.training import moved

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

# Settings of T5Config by their names in transformers' T5Config.
_SETTINGS = {
    "d_model": "d_model",
    "d_kv": "d_kv",
    "d_ff": "d_ff",
    "heads": "num_heads",
    "encoder_layers": "num_layers",
    "decoder_layers": "num_decoder_layers",
    "dropout": "dropout_rate",
    "feed_forward": "feed_forward_proj",
    "relative_buckets": "relative_attention_num_buckets",
    "relative_max_distance": "relative_attention_max_distance",
}
# Copies of the embedding in transformers' T5.
_COPIES = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}


def transformers_names(config: T5Config) -> dict[str, str]:
    """Return the name of each of our T5's weights in transformers' T5ForConditionalGeneration."""
    names = {"embedding.weight": "shared.weight"}
    feed_forward = {"wi": "wi", "wo": "wo"}
    if config.feed_forward == "gated-gelu":
        feed_forward |= {"wi": "wi_0", "gate": "wi_1"}
    attention = ("attention", "SelfAttention", dict(zip("qkvo", "qkvo", strict=True)))
    cross = ("cross", "EncDecAttention", attention[2])
    dense = ("feed_forward", "DenseReluDense", feed_forward)
    sides = (("encoder", config.encoder_layers, (attention, dense)),
             ("decoder", config.decoder_layers, (attention, cross, dense)))  # fmt: skip
    for side, layers, parts in sides:
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        names |= {f"{side}_bias.weight": bias, f"{side}_norm.weight": f"{side}.final_layer_norm.weight"}
        for layer in range(layers):
            for place, (ours, theirs, matrices) in enumerate(parts):
                block = f"{side}.block.{layer}.layer.{place}"
                names[f"{side}.{layer}.{ours}_norm.weight"] = f"{block}.layer_norm.weight"
                for own, other in matrices.items():
                    names[f"{side}.{layer}.{ours}.{own}.weight"] = f"{block}.{theirs}.{other}.weight"
    return names


class Recommender(CodeRecommender):
    """A T5 that reads the identifiers of a history and writes the identifier of the next item.

    A history is encoded as the tokens of its items, oldest first, and an end token. The target is the L
    tokens of one identifier, without an end token, so its log-probability is the sum in GMC Eq. 8.
    Items are indices into `codes`.

    >>> import genrec_lab, numpy
    >>> data = genrec_lab.load_dataset("bazaar", items=300, users=300, domains=["Garden"])
    >>> codes = genrec_lab.ItemCodes(numpy.argwhere(numpy.ones((20, 15))), (20, 15), data.items["domain"])
    >>> model = Recommender(codes, T5Config(d_model=16, d_kv=8, heads=2, d_ff=16))
    >>> model = model.fit(data, training=genrec_lab.TrainingConfig(epochs=1))
    >>> model.recommend([[3, 4], [17]], top_k=5, domain="Garden").items.shape
    (2, 5)
    """

    Config = T5Config
    config: T5Config

    def __init__(self, codes: ItemCodes, config: T5Config | None = None) -> None:
        super().__init__(codes, config or T5Config())
        self.t5 = T5(codes.vocabulary_size, self.config)
        # Whether a history's items also attend to later ones; `reading_past` changes it temporarily.
        self.reads_whole = self.config.reads == "whole"

    @property
    def body(self) -> T5:
        """The network over tokens."""
        return self.t5

    # --- training

    @contextmanager
    def reading_past(self) -> Iterator[None]:
        """Within the block, no item of a history attends to a later one, so one pass trains all positions.

        Raises ValueError if the recommender always works this way.
        """
        if not self.reads_whole:
            raise ValueError(
                "recommender.reads is 'past', so one pass trains all positions already; leave one_pass out"
            )
        self.reads_whole = False
        try:
            yield
        finally:
            self.reads_whole = True

    @property
    def learns_in_one_pass(self) -> bool:
        """Whether one pass over a sequence trains every position."""
        return not self.reads_whole

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the mean negative log-likelihood per target token (GMC Eq. 8).

        The batch comes from `PairBatches`, or from `StretchBatches` to train every position of a sequence.
        """
        return self.stretch_loss(**batch) if "sequences" in batch else self.pair_loss(**batch)

    def pair_loss(self, histories: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of items `targets` (B,) given `histories` (B, I), padded on the right with -1."""
        tokens, mask = self._tokens(histories)
        wanted = self.item_tokens[targets]
        start = torch.full_like(wanted[:, :1], PAD)
        logits = self.t5(tokens, mask, torch.cat([start, wanted[:, :-1]], dim=1))
        return self.token_loss(logits, wanted)

    def stretch_loss(self, rows: Tensor, places: Tensor, sequences: Tensor) -> Tensor:
        """Return the loss of the items `sequences[rows, places]`, each given those before it, in one pass.

        `sequences` (B, I + 1) is padded on the right with -1; `rows` and `places` (from 1) are (n,). The
        encoder runs once per sequence, and no item attends to a later one, so its states serve every
        position. A model that will encode whole histories needs epochs of `pair_loss` afterwards.
        """
        levels, first = self.codes.levels, int(places.min())
        tokens, mask = self._tokens(sequences[:, :-1], whole=False)
        item_of = torch.arange(tokens.shape[1], device=tokens.device) // levels
        place_of = torch.arange(first, sequences.shape[1], device=tokens.device).repeat_interleave(levels)
        memory = self.t5.remember(self.t5.encode(tokens, mask, item_of), mask)
        memory = memory._replace(bias=memory.bias.masked_fill(item_of >= place_of[:, None], NEGATIVE))
        wanted = self.item_tokens[sequences[:, first:]]  # (B, places, L)
        states = self.t5.decode_states(F.pad(wanted[..., :-1], (1, 0), value=PAD), memory)
        chosen = rows, places - first
        return self.token_loss(self.t5.logits(states[chosen]), wanted[chosen])

    def inputs(self, histories: Histories) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, (B, S) int64, padded right, as transformers' T5 expects.

        Raises ValueError for an item without an identifier.
        """
        tokens, mask = self._tokens(self.matrix(histories), whole=self.reads_whole)
        return {"input_ids": tokens, "attention_mask": mask}

    def _tokens(self, histories: Tensor, *, whole: bool = True) -> tuple[Tensor, Tensor]:
        """(B, I) items padded on the right with -1 -> tokens (B, S) and mask (B, S).

        Only a `whole` history has an end token, because otherwise its states serve shorter histories too.
        """
        if not whole:
            tokens = self.item_tokens[histories].flatten(1)
            return tokens, (histories != NO_ITEM).long().repeat_interleave(self.codes.levels, 1)
        tokens = F.pad(self.item_tokens[histories].flatten(1), (0, 1), value=PAD)
        ends = (histories != NO_ITEM).sum(1, keepdim=True) * self.codes.levels
        places = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = tokens.masked_fill(places == ends, EOS)
        return tokens, (places <= ends).long()

    # --- decoding: the protocol genrec_lab.decoding.CodeModel

    def remember(self, histories: Histories) -> Memory:
        """Encode B histories once; keep the keys and values that the decoder reads."""
        tokens, mask = self.inputs(histories).values()
        items = torch.arange(tokens.shape[1], device=tokens.device) // self.codes.levels
        encode = partial(self.t5.encode, tokens, mask, None if self.reads_whole else items)
        hidden = encode()
        self.require_finite(hidden, "of the history", encode)
        return self.t5.remember(hidden, mask)

    def step(
        self, memory: Memory, codes: Tensor | None, cache: Cache | None, parents: Tensor | None
    ) -> tuple[Tensor, Cache]:
        """Advance one level: codes (B, M) below the beams `parents` -> log-probabilities (B, M, K), cache."""
        device = self.item_tokens.device
        if cache is None or codes is None or parents is None:
            level, users, past = 0, memory.bias.shape[0], None
            tokens = torch.full((users, 1), PAD, device=device)
        else:
            past = cache.of_parents(moved(parents, device))
            level = len(past.ancestors)
            tokens = moved(codes, device) + self.codes.offsets[level - 1]
        logits, longer = self.t5.step(tokens, memory, past)
        return self.level_log_probs(logits, level), longer

    def continuations(self, memory: Memory, prefixes: Tensor) -> Tensor:
        """Return log-probabilities (R, K) of the codes that follow prefixes (R, l); row r is user r's."""
        level = prefixes.shape[1]
        offsets = torch.tensor(self.codes.offsets[:level], dtype=torch.long)
        tokens = moved(F.pad(prefixes + offsets, (1, 0), value=PAD), self.item_tokens.device)
        logits = self.t5.decode(tokens[:, None], memory)
        return self.level_log_probs(logits[:, 0, -1], level)

    # --- exchange

    def to_transformers(self) -> T5ForConditionalGeneration:
        """Return transformers' T5 with the same weights, in evaluation mode; its logits equal ours.

        An adapter is merged into the weights. If the encoder reads only the past, the result is a
        `T5ReadingPast`.
        """
        from transformers import T5Config as TheirConfig
        from transformers import T5ForConditionalGeneration

        from genrec_lab.models.recommenders.t5_reading_past import T5ReadingPast

        c = self.config
        settings: dict[str, Any] = {theirs: getattr(c, ours) for ours, theirs in _SETTINGS.items()} | {
            "vocab_size": self.codes.vocabulary_size,
            "scale_decoder_outputs": c.scale_output,
            "tie_word_embeddings": True,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
            "decoder_start_token_id": PAD,
            "reads": c.reads,
            "levels": self.codes.levels,
        }
        network = T5ForConditionalGeneration if c.reads == "whole" else T5ReadingPast
        theirs = network(TheirConfig(**settings))
        weights = {self.transformers_name(name): value for name, value in plain_weights(self).items()}
        missing, unexpected = theirs.load_state_dict(weights, strict=False)
        if unexpected or set(missing) - _COPIES:
            raise RuntimeError(
                f"transformers' T5 has other weights than ours: missing {missing}, unexpected {unexpected}"
            )
        theirs.tie_weights()
        return theirs.eval()

    def transformers_name(self, name: str) -> str:
        """Return the name of one of the body's weights in `to_transformers()`."""
        return transformers_names(self.config)[name]

    @classmethod
    def from_transformers(cls, t5: T5ForConditionalGeneration, codes: ItemCodes) -> Self:
        """Convert a transformers T5 whose vocabulary is that of `codes`.

        Raises ValueError if the vocabulary differs, the embeddings are not tied, or T5Config lacks a setting.
        """
        theirs: Any = t5.config
        if theirs.vocab_size != codes.vocabulary_size:
            raise ValueError(
                f"the T5's vocab_size is {theirs.vocab_size}; "
                f"the identifiers need {codes.vocabulary_size} tokens"
            )
        if theirs.layer_norm_epsilon != NORM_EPSILON:
            raise ValueError(
                f"the T5's layer_norm_epsilon is {theirs.layer_norm_epsilon}; expected {NORM_EPSILON}"
            )
        scaled = bool(getattr(theirs, "scale_decoder_outputs", theirs.tie_word_embeddings))
        settings = {ours: getattr(theirs, name) for ours, name in _SETTINGS.items()}
        config = T5Config(**settings, scale_output=scaled, reads=getattr(theirs, "reads", "whole"))
        model = cls(codes, config)
        head, shared = t5.get_output_embeddings().weight, t5.get_input_embeddings().weight
        if not torch.equal(head, shared):
            raise ValueError(
                "the T5's output head is not its embedding table; expected tied embeddings, as T5 1.0 has"
            )
        names, weights = transformers_names(config), t5.state_dict()
        if foreign := sorted(weights.keys() - names.values() - _COPIES):
            raise KeyError(f"{foreign[0]!r} is not the name of a T5 weight")
        model.t5.load_state_dict({ours: weights[theirs] for ours, theirs in names.items()})
        return model.eval()
