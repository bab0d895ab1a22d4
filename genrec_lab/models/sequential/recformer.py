"""RecFormer (Li et al. 2023): one Longformer reads items and histories as text.

An item is written as the keys and values of its attributes, a history as its items from the newest to the
oldest; the state of the start token is the vector of either. Pre-training contrasts histories with next items
and fills in masked tokens. Fine-tuning has two stages: item vectors are recomputed each epoch, then frozen.
Values are from the authors' code (AaronHeee/RecFormer) as far as sizes allow. The default is a small encoder
for a CPU, with a tokenizer learned from the pre-training items; `encoder` names a folder or hub model of the
released size (allenai/longformer-base-4096), from which the language model is copied. Our changes: single
tokens instead of whole words are masked; the head for masked tokens starts from random weights; scores in the
first stage use item vectors of the current weights; another target in the batch that is the same item is not
a negative; the softmax is over all items; the weights of the best epoch of both stages are kept.
Letters: B histories, S tokens, D width, N items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.data import NO_ITEM
from genrec_lab.models.sequential.base import PRETRAINING, DomainItems, ItemModel, ItemModelConfig, Phase
from genrec_lab.models.sequential.batches import DrawnPrefixes
from genrec_lab.models.sequential.layers import start_small
from genrec_lab.models.sequential.longformer import (
    ItemLanguage,
    Tokens,
    for_short_texts,
    new_longformer,
    released_longformer,
)
from genrec_lab.models.sequential.objectives import catalogue_cross_entropy, in_batch_contrast
from genrec_lab.training import Batches, placed
from genrec_lab.training.processes import share_of_mean

_TOKENS_TOGETHER = 16_384  # per batch of texts of similar length, including padding
_TOKENIZER, _ENCODER = "tokenizer", "encoder.json"


class RecFormerConfig(ItemModelConfig):
    """Sizes of RecFormer; those from `width` to `dropout` apply only to the small encoder."""

    kind: Literal["recformer"] = "recformer"
    encoder: str | None = Field(None, description="folder or hub name of a Longformer; None: a small one")
    width: int = Field(64, ge=4)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    feed_forward: int = Field(256, ge=4)
    vocabulary: int = Field(4000, ge=300, description="maximum size of the learned tokenizer")
    dropout: float = Field(0.1, ge=0, lt=1)
    window: int = Field(64, ge=2, description="tokens that a token attends to, half on each side; even")
    max_tokens: int = Field(1024, ge=8, description="of a history")
    max_attributes: int = Field(3, ge=1, description="of an item")
    attribute_tokens: int = Field(
        32, ge=2, description="maximum number of tokens of an attribute, key and value"
    )
    prefixes: int | None = Field(1, ge=1, description="prefixes per sequence, drawn each epoch; None: all")
    temperature: float = Field(0.05, gt=0)
    mask_share: float = Field(0.15, ge=0, lt=1)
    mask_weight: float = Field(0.1, ge=0)

    @field_validator("window")
    @classmethod
    def _even(cls, window: int) -> int:
        if window % 2:
            raise ValueError(f"recformer.window is {window}; expected an even number, half for each side")
        return window


class RecFormer(ItemModel):
    """A Longformer over the text of a history; scores are cosines with its vectors of single items."""

    Config: ClassVar = RecFormerConfig
    divisible: ClassVar = True
    config: RecFormerConfig
    needs: ClassVar = ("words",)
    phases: ClassVar = (PRETRAINING, Phase("moving items"), Phase("fixed items"))
    own_weights: ClassVar = ("table",)
    table: Tensor

    def __init__(self, config: RecFormerConfig | None = None) -> None:
        super().__init__(config)
        self._saved: tuple[ItemLanguage, dict[str, Any]] | None = None  # tokenizer and sizes, for `load`

    def make(self) -> None:
        """Start from random weights, or those that `encoder` names.

        A tokenizer is learned on first use, unless there is one already.
        """
        c = self.config
        language, backbone = self._saved or (None, None)
        self._written: list[tuple[np.ndarray, np.ndarray]] | None = None
        self._held: Tensor | None = None
        self.longformer = for_short_texts(new_longformer(c, backbone))
        if language is None and c.encoder is not None:
            with released_longformer(c.encoder):
                language = ItemLanguage.read(c.encoder)
        self.language = language
        width = self.longformer.config.hidden_size
        self.kinds = nn.Embedding(3, width)
        self.item_places = nn.Embedding(c.max_history + 1, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.head_bias = nn.Parameter(torch.zeros(self.longformer.config.vocab_size))
        for part in (self.kinds, self.item_places, self.head):
            start_small(part)
        self.register_buffer("table", torch.zeros(len(self.items), width))

    # --- text

    @property
    def written(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the token ids and kinds of each of the N items."""
        if self._written is None:
            c, words = self.config, self.domain.words
            assert words is not None  # noqa: S101 - checked by `build`
            if self.language is None:
                self.language = ItemLanguage.learnt(words, c.max_attributes, c.vocabulary)
            self._written = self.language.of_items(words, c.max_attributes, c.attribute_tokens)
        return self._written

    def tokens(self, histories: Sequence[Sequence[int]]) -> Tokens:
        """Write histories, lists of positions in `items`, oldest first, as tokens."""
        written, c = self.written, self.config
        assert self.language is not None  # noqa: S101 - created by `written`
        made = self.language.batch(written, histories, c.max_tokens, c.window)
        return Tokens(*(part.to(self.table.device) for part in made))

    def start_from(self, pretrained: ItemModel) -> None:
        """Copy the weights and their tokenizer."""
        if not isinstance(pretrained, RecFormer):
            raise TypeError(f"RecFormer starts from a RecFormer, not from a {type(pretrained).__name__}")
        super().start_from(pretrained)
        self.language, self._written = pretrained.language, None

    # --- the network

    def states(self, tokens: Tokens) -> Tensor:
        """Encode tokens -> (B, S, D); the start token has global attention."""
        vectors = self.longformer.get_input_embeddings()(tokens.ids)
        vectors = vectors + self.kinds(tokens.kinds) + self.item_places(tokens.items)
        everywhere = torch.zeros_like(tokens.ids)
        everywhere[:, 0] = 1
        read = self.longformer(
            inputs_embeds=vectors, attention_mask=tokens.real.long(), global_attention_mask=everywhere
        )
        states: Tensor = read.last_hidden_state
        return states

    def item_vectors(self) -> Tensor:
        """Return the vectors (N, D) of all items, each encoded as a history of one item."""
        return self._vectors(self._of_like_length([[i] for i in range(len(self.items))]))

    def _of_like_length(self, histories: Sequence[Sequence[int]]) -> list[tuple[list[int], Tokens]]:
        """Return groups of histories of similar length, to reduce padding: their rows and tokens."""
        lengths = [1 + sum(len(self.written[place][0]) for place in history) for history in histories]
        lengths = [min(length, self.config.max_tokens) for length in lengths]
        parts: list[list[int]] = [[]]
        for row in sorted(range(len(histories)), key=lengths.__getitem__):
            if parts[-1] and (len(parts[-1]) + 1) * lengths[row] > _TOKENS_TOGETHER:
                parts.append([])
            parts[-1].append(row)
        return [(rows, self.tokens([histories[row] for row in rows])) for rows in parts]

    def _vectors(self, parts: Sequence[tuple[list[int], Tokens]]) -> Tensor:
        """Encode the groups of `_of_like_length` -> (B, D), in the histories' order."""
        order = torch.tensor([row for rows, _ in parts for row in rows])
        states = torch.cat([self.states(tokens)[:, 0] for _, tokens in parts])
        return states[order.argsort().to(states.device)]

    def _scores(self, sequences: Tensor, table: Tensor) -> Tensor:
        states = self._vectors(self._of_like_length(_histories(sequences)))
        cosine = F.normalize(states.float(), dim=-1) @ F.normalize(table.float(), dim=-1).T
        return cosine / self.config.temperature

    # --- training

    def begin(self, phase: str) -> None:
        """Freeze the item vectors for the last phase, computed with the best weights of the phase before."""
        super().begin(phase)
        if phase == self.phases[-1].name:
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute the table of item vectors, without dropout."""
        training = self.training
        self.eval()
        self.table.copy_(self.item_vectors())
        self.train(training)

    def batches(self, sequences: Sequence[Sequence[int]], users: Sequence[int], batch_size: int) -> Batches:
        """Return prefixes and their next items; the second phase recomputes item vectors in each epoch."""
        given = self.items, sequences, batch_size, self.config.max_history
        half, refresh = self.phase == "pretraining", self.refresh if self.phase == "moving items" else None
        return DrawnPrefixes(*given, per_sequence=self.config.prefixes, later_half=half, before_epoch=refresh)

    def forward(self, sequences: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of the phase for sequences (B, T), padded with -1, and their next items (B,)."""
        if self.phase != "pretraining":
            return F.cross_entropy(self._scores(sequences, self._table()), wanted)
        c = self.config
        of_items = [[item] for item in wanted.tolist()]
        read = self._of_like_length(_histories(sequences)), self._of_like_length(of_items)
        histories, items = (self._vectors(parts) for parts in read)
        loss = in_batch_contrast(histories, items, wanted, c.temperature)
        for parts in read if c.mask_weight else ():
            loss = loss + c.mask_weight * self.masked_loss([tokens for _, tokens in parts])
        return loss

    def masked_loss(self, parts: Sequence[Tokens]) -> Tensor:
        """Return the mean cross-entropy of masked tokens: 80 % a mask, 10 % random, 10 % unchanged."""
        hidden = [self._masked(tokens) for tokens in parts]
        states, wanted = (torch.cat(of) for of in zip(*hidden, strict=True))
        loss = states.sum()
        if len(wanted):
            table = self.longformer.get_input_embeddings().weight
            loss = catalogue_cross_entropy(self.head(states), table, wanted, self.head_bias)
        return share_of_mean(loss, len(wanted), sum(len(tokens.ids) for tokens in parts))

    def _masked(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the states (M, D) of masked tokens, and the original tokens (M,)."""
        assert self.language is not None  # noqa: S101 - the tokens come from it
        shape, device = tokens.ids.shape, tokens.ids.device
        chosen = (torch.rand(shape, device=device) < self.config.mask_share) & tokens.real
        chosen[:, 0] = False
        fate = torch.rand(shape, device=device)
        drawn = torch.randint_like(tokens.ids, len(self.language.tokenizer))
        ids = tokens.ids.masked_fill(chosen & (fate < 0.8), self.language.tokenizer.mask_token_id)
        ids = torch.where(chosen & (fate >= 0.9), drawn, ids)
        return self.states(tokens._replace(ids=ids))[chosen], tokens.ids[chosen]

    def _table(self) -> Tensor:
        if not self.table.any():
            self.refresh()
        return self.table

    # --- scores

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the start token's state; RecFormer ignores users."""
        return self._scores(sequences, self._table() if self._held is None else self._held)

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Compute the item vectors once for the block, unless the last phase has frozen them."""
        if self._held is not None or self.phase == self.phases[-1].name:
            yield
            return
        self.eval()
        with torch.inference_mode():
            self._held = self.item_vectors()
        try:
            yield
        finally:
            self._held = None

    # --- files

    def save(self, folder: Path) -> Path:
        """Also write the tokenizer and the sizes of the encoder."""
        self._table()
        super().save(folder)
        assert self.language is not None  # noqa: S101 - the table was computed from its tokens
        self.language.write(folder / _TOKENIZER)
        (folder / _ENCODER).write_text(json.dumps(self.longformer.config.to_dict(), indent=2))
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a model that `save` wrote, without reading the folder or hub model in `encoder`."""
        model = cls(RecFormerConfig.model_validate_json((folder / "config.json").read_text()))
        model._saved = ItemLanguage.read(folder / _TOKENIZER), json.loads((folder / _ENCODER).read_text())
        model.build(DomainItems.read(folder))
        model._saved = None
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return placed(model).eval()


def _histories(sequences: Tensor) -> list[list[int]]:
    return [[place for place in row if place != NO_ITEM] for row in sequences.tolist()]
