"""Recommender: the T5 over identifiers, from histories of items to ranked items.

Letters: B users, I items of history, L levels of an identifier, S = I * L + 1 tokens, M beams, K codes of a
level, V tokens of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.codes import EOS, PAD, ItemCodes
from genrec_lab.decoding import CodeTrie, Histories, Ranked, beam_search
from genrec_lab.models.sharing import Shareable
from genrec_lab.models.t5 import (
    NORM_EPSILON,
    T5,
    Cache,
    Memory,
    T5Config,
)
from genrec_lab.models.t5_names import from_transformers_name, to_transformers_name

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

_EMPTY = -1  # in a matrix of histories: no item


class Recommender(nn.Module, Shareable):
    """A T5 that reads the identifiers of a history and writes the identifier of the next item.

    A history becomes the tokens of its items, oldest first, and an end token; the target is the L tokens of
    one identifier, without an end token, so that its log-probability is the sum over levels of GMC Eq. 8.
    Items are indices into `codes`.
    """

    def __init__(self, codes: ItemCodes, config: T5Config | None = None) -> None:
        super().__init__()
        self.codes = codes
        self.config = config or T5Config()
        self.t5 = T5(codes.vocabulary_size, self.config)
        # Whether a history's items read those after them too; False only while `stretch_loss` trains.
        self.reads_whole = True
        # The last row is that of "no item", so that an index of -1 reads padding.
        table = np.vstack([codes.tokens(), np.full((1, codes.levels), PAD)])
        self.register_buffer("item_tokens", torch.from_numpy(table), persistent=False)
        self.item_tokens: Tensor

    # --- training

    def forward(self, **batch: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of a target token (GMC Eq. 8).

        The batch is one of `PairBatches`, or of `StretchBatches`, in which every place of a sequence is
        learnt.
        """
        return self.stretch_loss(**batch) if "sequences" in batch else self.pair_loss(**batch)

    def pair_loss(self, histories: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of items `targets` (B,) after `histories` (B, I), padded at the right with -1."""
        tokens, mask = self._tokens(histories)
        wanted = self.item_tokens[targets]
        start = torch.full_like(wanted[:, :1], PAD)
        logits = self.t5(tokens, mask, torch.cat([start, wanted[:, :-1]], dim=1))
        return F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten())

    def stretch_loss(self, rows: Tensor, places: Tensor, sequences: Tensor) -> Tensor:
        """Return the loss of the items `sequences[rows, places]`, each after those before it, in one pass.

        `sequences` is (B, I + 1), padded at the right with -1; `rows` and `places`, from 1, are (n,). The
        encoder runs once a sequence, and no item in it reads a later one, so its states serve every place.
        That is another encoder than the one which reads a whole history: a model trained so needs an epoch of
        `pair_loss` to become that one.
        """
        levels, first = self.codes.levels, int(places.min())
        tokens, mask = self._tokens(sequences[:, :-1], whole=False)
        item_of = torch.arange(tokens.shape[1], device=tokens.device) // levels
        place_of = torch.arange(first, sequences.shape[1], device=tokens.device).repeat_interleave(levels)
        memory = self.t5.remember(self.t5.encode(tokens, mask, item_of), mask)
        wanted = self.item_tokens[sequences[:, first:]]  # (B, places, L)
        states = self.t5.decode_states(
            F.pad(wanted[..., :-1], (1, 0), value=PAD), memory.seen_by(item_of < place_of[:, None])
        )
        chosen = rows, places - first
        return F.cross_entropy(self.t5.logits(states[chosen]).flatten(0, 1).float(), wanted[chosen].flatten())

    def inputs(self, histories: Histories) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, (B, S) int64, padded right, as transformers' T5 takes.

        Raises ValueError for an item that the identifiers do not have.
        """
        tokens, mask = self._tokens(self._matrix(histories))
        return {"input_ids": tokens, "attention_mask": mask}

    def _tokens(self, histories: Tensor, *, whole: bool = True) -> tuple[Tensor, Tensor]:
        """(B, I) items padded at the right with -1 -> tokens (B, S) and mask (B, S).

        The end token of a `whole` history is left out where its states serve shorter histories too.
        """
        if not whole:
            tokens = self.item_tokens[histories].flatten(1)
            return tokens, (histories != _EMPTY).long().repeat_interleave(self.codes.levels, 1)
        tokens = F.pad(self.item_tokens[histories].flatten(1), (0, 1), value=PAD)
        ends = (histories != _EMPTY).sum(1, keepdim=True) * self.codes.levels
        places = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = tokens.masked_fill(places == ends, EOS)
        return tokens, (places <= ends).long()

    def _matrix(self, histories: Histories) -> Tensor:
        """Lists of items -> (B, I) padded at the right with -1, on the model's device."""
        self._check_items(histories)
        longest = max((len(h) for h in histories), default=0)
        matrix = np.full((len(histories), longest), _EMPTY, dtype=np.int64)
        for row, history in zip(matrix, histories, strict=True):
            row[: len(history)] = history
        return torch.from_numpy(matrix).to(self.item_tokens.device)

    def _check_items(self, histories: Histories) -> None:
        for user, history in enumerate(histories):
            items = np.asarray(history)
            if items.size and not np.issubdtype(items.dtype, np.integer):
                raise ValueError(f"history {user} holds {items.dtype} values; expected item indices")
            foreign = items[(items < 0) | (items >= self.codes.n_items)]
            if foreign.size:
                raise ValueError(
                    f"history {user} holds item {foreign[0]}; "
                    f"expected item indices from 0 to {self.codes.n_items - 1}"
                )

    # --- decoding: the protocol genrec_lab.decoding.CodeModel

    def remember(self, histories: Histories) -> Memory:
        """Encode B histories once and keep the keys and values that the decoder reads."""
        tokens, mask = self._tokens(self._matrix(histories), whole=self.reads_whole)
        items = torch.arange(tokens.shape[1], device=tokens.device) // self.codes.levels
        return self.t5.remember(self.t5.encode(tokens, mask, None if self.reads_whole else items), mask)

    def step(
        self, memory: Memory, codes: Tensor | None, cache: Cache | None, parents: Tensor | None
    ) -> tuple[Tensor, Cache]:
        """Go one level on: codes (B, M) below the beams `parents` -> log-probabilities (B, M, K), cache."""
        device = self.item_tokens.device
        if cache is None or codes is None or parents is None:
            level, users = 0, memory.bias.shape[0]
            tokens = torch.full((users, 1), PAD, device=device)
        else:
            cache = cache.of_parents(parents.to(device))
            level = len(cache.ancestors)
            tokens = codes.to(device) + self.codes.offsets[level - 1]
        logits, cache = self.t5.step(tokens, memory, cache)
        return self._level_log_probs(logits, level), cache

    def continuations(self, memory: Memory, prefixes: Tensor) -> Tensor:
        """Log-probabilities (R, K) of the codes after prefixes (R, l), row r after the memory's user r."""
        level = prefixes.shape[1]
        offsets = torch.tensor(self.codes.offsets[:level], dtype=torch.long)
        tokens = F.pad(prefixes + offsets, (1, 0), value=PAD).to(self.item_tokens.device)
        logits = self.t5.decode(tokens[:, None], memory)
        return self._level_log_probs(logits[:, 0, -1], level)

    def _level_log_probs(self, logits: Tensor, level: int) -> Tensor:
        """Logits (..., V) -> log-probabilities (..., K) of one level's codes, over the whole vocabulary."""
        start, size = self.codes.offsets[level], self.codes.sizes[level]
        logits = logits.float()
        log_probs = logits[..., start : start + size] - torch.logsumexp(logits, dim=-1, keepdim=True)
        if torch.isnan(log_probs).any():
            raise ValueError(
                f"the recommender gives NaN at level {level}: its weights have diverged; "
                "go back to the last checkpoint and lower training.learning_rate"
            )
        return log_probs

    # --- recommending

    @cached_property
    def _tries(self) -> dict[str, CodeTrie]:
        return {}

    def trie(self, domain: str) -> CodeTrie:
        """Return the trie of one domain's items, built once."""
        if domain not in self._tries:
            items = self.codes.domain_items(domain)
            self._tries[domain] = CodeTrie(self.codes.codes[items], items)
        return self._tries[domain]

    def recommend(
        self,
        histories: Histories,
        top_k: int,
        domain: str | Sequence[str] | None = None,
        *,
        beams: int | None = None,
        batch_size: int = 128,
    ) -> Ranked:
        """Return the top_k items of each user's domain by beam search (GMC Eq. 10).

        `domain` is one name for all users, one a user, or None for the domain of each history's last item
        (the only domain where there is one). `beams` is by default the larger of top_k and 20, GMC's width.
        Raises ValueError for an unknown item or domain, or an empty history whose domain is not told.
        """
        names = self._domains_of(histories, domain)
        items = np.full((len(histories), top_k), -1, dtype=np.int64)
        scores = np.full((len(histories), top_k), -np.inf, dtype=np.float32)
        for name in dict.fromkeys(names):
            # Users with histories of like length go together, so that hardly any padding is decoded.
            rows = np.array([row for row, n in enumerate(names) if n == name])
            rows = rows[np.argsort([len(histories[row]) for row in rows], kind="stable")]
            items[rows], scores[rows] = beam_search(
                self,
                [histories[row] for row in rows],
                self.trie(name),
                beams or max(top_k, 20),
                top_k,
                batch_size=batch_size,
            )
        return Ranked(items, scores)

    def _domains_of(self, histories: Histories, domain: str | Sequence[str] | None) -> list[str]:
        names = self.codes.domain_names
        if isinstance(domain, (str, int)):
            wanted = [str(domain)] * len(histories)
        elif domain is not None:
            wanted = [str(name) for name in domain]
            if len(wanted) != len(histories):
                raise ValueError(
                    f"domain has {len(wanted)} names for {len(histories)} histories; expected one each"
                )
        elif len(names) == 1:
            wanted = [names[0]] * len(histories)
        else:
            if empty := [row for row, history in enumerate(histories) if not len(history)]:
                raise ValueError(
                    f"history {empty[0]} is empty, so its domain is unknown; pass domain=, one of {names}"
                )
            self._check_items(histories)
            wanted = [names[self.codes.domain_index[history[-1]]] for history in histories]
        for name in wanted:
            if name not in names:
                raise ValueError(f"domain is {name!r}; expected one of {list(names)}")
        return wanted

    # --- files and exchange

    def save(self, folder: str | Path) -> Path:
        """Write weights (safetensors), sizes (json) and identifiers (parquet) into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.codes.write(folder / "codes.parquet")
        (folder / "config.json").write_text(json.dumps(self.config.model_dump(), indent=2))
        save_file(self.t5.state_dict(), folder / "model.safetensors")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; FileNotFoundError where a file is missing."""
        folder = Path(folder)
        for name in ("codes.parquet", "config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing; expected a folder written by Recommender.save"
                )
        config = T5Config.model_validate_json((folder / "config.json").read_text())
        model = cls(ItemCodes.read(folder / "codes.parquet"), config)
        model.t5.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()

    def to_transformers(self) -> T5ForConditionalGeneration:
        """Return transformers' T5 with the same weights, in evaluation mode; its logits equal ours."""
        from transformers import T5Config as TheirConfig
        from transformers import T5ForConditionalGeneration

        c = self.config
        settings: dict[str, Any] = {
            "vocab_size": self.codes.vocabulary_size,
            "d_model": c.d_model,
            "d_kv": c.d_kv,
            "d_ff": c.d_ff,
            "num_layers": c.encoder_layers,
            "num_decoder_layers": c.decoder_layers,
            "num_heads": c.heads,
            "relative_attention_num_buckets": c.relative_buckets,
            "relative_attention_max_distance": c.relative_max_distance,
            "dropout_rate": c.dropout,
            "feed_forward_proj": c.feed_forward,
            "scale_decoder_outputs": c.scale_output,
            "tie_word_embeddings": True,
            "pad_token_id": PAD,
            "eos_token_id": EOS,
            "decoder_start_token_id": PAD,
        }
        theirs = T5ForConditionalGeneration(TheirConfig(**settings))
        gated = c.feed_forward == "gated-gelu"
        weights = {
            to_transformers_name(name, gated=gated): value for name, value in self.t5.state_dict().items()
        }
        missing, unexpected = theirs.load_state_dict(weights, strict=False)
        if unexpected or any(from_transformers_name(name, gated=gated) is not None for name in missing):
            raise RuntimeError(
                f"transformers' T5 has other weights than ours: missing {missing}, unexpected {unexpected}"
            )
        theirs.tie_weights()
        return theirs.eval()

    @classmethod
    def from_transformers(cls, t5: T5ForConditionalGeneration, codes: ItemCodes) -> Self:
        """Take over a transformers T5 whose vocabulary is that of `codes`.

        Raises ValueError where the vocabulary is another one, the embeddings are not tied, or a setting is
        one that T5Config does not have.
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
        config = T5Config(
            d_model=theirs.d_model,
            d_kv=theirs.d_kv,
            heads=theirs.num_heads,
            d_ff=theirs.d_ff,
            encoder_layers=theirs.num_layers,
            decoder_layers=theirs.num_decoder_layers,
            dropout=theirs.dropout_rate,
            feed_forward=theirs.feed_forward_proj,
            relative_buckets=theirs.relative_attention_num_buckets,
            relative_max_distance=theirs.relative_attention_max_distance,
            scale_output=bool(getattr(theirs, "scale_decoder_outputs", theirs.tie_word_embeddings)),
        )
        model = cls(codes, config)
        gated = config.feed_forward == "gated-gelu"
        named = {from_transformers_name(name, gated=gated): value for name, value in t5.state_dict().items()}
        head, shared = t5.get_output_embeddings().weight, t5.get_input_embeddings().weight
        if not torch.equal(head, shared):
            raise ValueError(
                "the T5's output head is not its embedding table; expected tied embeddings, as T5 1.0 has"
            )
        model.t5.load_state_dict({name: value for name, value in named.items() if name is not None})
        return model.eval()
