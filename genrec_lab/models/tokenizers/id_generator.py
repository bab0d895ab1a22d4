"""The T5 that writes items' ids from their texts, and its training objectives (IDGenRec, Tan et al. 2024).

Shapes: N items, B items of a batch, L positions of an id, S tokens of a text, I items of a history, V tokens,
G candidates, D width. An id is a row of L tokens; shorter ids are filled with END.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.codes import EOS, PAD, ItemCodes
from genrec_lab.data.batches import padded
from genrec_lab.encoders.hub import released
from genrec_lab.models.recommenders.recommender import Recommender
from genrec_lab.models.recommenders.t5 import NEGATIVE, T5, Cache, Memory, T5Config
from genrec_lab.models.tokenizers.base import TokenizerConfig
from genrec_lab.models.tokenizers.word_pieces import WordPieces, distinctive_words, words_of

END = 2  # T5's unknown piece, which ids do not contain; code 0 of every level
FIRST_CODE = 2  # code = token - 2
_AT_ONCE = 128  # items per batch of written ids
# The authors' code raises its diversity penalty by .1 until an id is free, then generates longer ids.
_PENALTIES = tuple(0.1 * step for step in range(1, 10))


class TextualIdsConfig(TokenizerConfig):
    """Settings of textual ids; candidates and lengths are those of the authors' code."""

    kind: Literal["idgen"] = "idgen"
    levels: int = Field(10, ge=2, description="L, maximum number of pieces of an id")
    candidates: int = Field(10, ge=1, description="G, ids that diverse beam search proposes per item")
    text_tokens: int = Field(256, ge=1, description="S, longer texts are truncated")
    vocabulary: int = Field(4000, ge=40, description="V, maximum size of a learned vocabulary")
    generator: str | None = Field(
        None, description="folder or hub name of a T5 that writes ids; None: a new one with sizes `body`"
    )
    recommender: str | None = Field(None, description="the same for the T5 that reads ids")
    body: T5Config = Field(T5Config(), description="sizes of both T5s")


class TextualIdsError(RuntimeError):
    """Raised for a released model that cannot be used; the message says why."""


class IdGenerator(nn.Module):
    """The T5 that writes ids for the texts of N items."""

    texts: Tensor
    labels: Tensor
    allowed: Tensor

    def __init__(self, pieces: WordPieces, texts: Sequence[str], config: TextualIdsConfig) -> None:
        """Initialise the weights, or load those that the config names; their vocabulary is `pieces`."""
        super().__init__()
        self.config = config
        rows = [[*pieces.tokens(words_of(text), config.text_tokens), EOS] for text in texts]
        self.register_buffer("texts", padded(rows, fill=PAD), persistent=False)
        allowed = pieces.in_ids()
        labelled = [pieces.tokens(words, config.levels) for words in distinctive_words(texts, config.levels)]
        kept = [[one for one in row if allowed[one]] or [int(allowed.argmax())] for row in labelled]
        self.register_buffer("labels", padded(kept, config.levels, END), persistent=False)
        allowed[END] = True
        self.register_buffer("allowed", torch.from_numpy(allowed), persistent=False)
        self.t5 = new_t5(pieces, config, config.generator)

    def forward(self, items: Tensor) -> Tensor:
        """Return the loss of writing the distinctive words of the texts of items (B,)."""
        wanted = self.labels[items]
        counted = ~past_end(wanted)
        return F.cross_entropy(self.logits(items, wanted)[counted], wanted[counted])

    def logits(self, items: Tensor, tokens: Tensor) -> Tensor:
        """Score each position (B, L, V) of ids (B, L) given those before it; other pieces are masked."""
        before = F.pad(tokens[:, :-1], (1, 0), value=PAD)
        found = self.t5.decode(before[:, None], self._remember(items))[:, 0].float()
        return found.masked_fill(~self.allowed, NEGATIVE)

    @torch.no_grad()
    def candidates(self, items: Tensor, penalty: float, groups: int, least: int = 1) -> Tensor:
        """Write `groups` ids for each of items (B,): (B, G, L), by diverse beam search, one beam per group.

        A group's piece is penalised by `penalty` for each earlier group that wrote the same piece at the same
        position. An id has at least `least` pieces.
        """
        memory, levels = self._remember(items), self.config.levels
        past: Cache | None = None
        written = torch.full((len(items), groups, levels), END, device=items.device)
        ended = torch.zeros(len(items), groups, dtype=torch.bool, device=items.device)
        tokens = torch.full((len(items), 1), PAD, device=items.device)
        for place in range(levels):
            logits, cache = self.t5.step(tokens, memory, past)
            scores = logits.masked_fill(~self.allowed, NEGATIVE).log_softmax(-1)
            if place < least:
                scores[..., END] = NEGATIVE
            used = torch.zeros_like(scores[:, 0])
            for group in range(groups):
                own = scores[:, min(group, scores.shape[1] - 1)] - penalty * used
                chosen = own.argmax(-1).masked_fill(ended[:, group], END)
                used.scatter_add_(1, chosen[:, None], (~ended[:, group, None]).to(used.dtype))
                written[:, group, place] = chosen
            ended |= written[:, :, place] == END
            parents = torch.arange(groups, device=items.device).clamp(max=tokens.shape[1] - 1)
            past = cache.of_parents(parents.expand(len(items), -1))
            tokens = written[:, :, place]
        return written

    def soft_ids(self, items: Tensor, table: Tensor) -> Tensor:
        """Embed the ids of items (B,) with a reader's embedding `table` (V, D), differentiably: (B, L, D).

        Each position is the mean of all pieces' vectors weighted by their probabilities, given the most
        likely pieces before it, so that the gradient of the reader's loss reaches the generator.
        """
        tokens = self.candidates(items, 0.0, 1)[:, 0]
        expected = self.logits(items, tokens).softmax(-1) @ table
        return torch.where(past_end(tokens)[..., None], table[END], expected)

    @torch.no_grad()
    def unique_ids(self) -> Tensor:
        """Write a unique id for each of the N items: (N, L).

        An item takes its first free candidate; items of lower index choose first. For the remaining items,
        candidates are generated with higher penalties, then with full length. Finally, the last two pieces
        are replaced by the most likely ones that make the id free. Raises ValueError if there are none.
        """
        was_training = self.training
        self.eval()
        levels = self.config.levels
        ids = torch.full((len(self.texts), levels), END)
        taken: set[tuple[int, ...]] = set()
        waiting = list(range(len(ids)))
        for least, penalty in [(least, penalty) for least in (1, levels) for penalty in _PENALTIES]:
            left = []
            for part in _parts(waiting):
                offered = self.candidates(self._items(part), penalty, self.config.candidates, least).tolist()
                for item, rows in zip(part, offered, strict=True):
                    free = next((tuple(row) for row in rows if tuple(row) not in taken), None)
                    if free is None:
                        left.append(item)
                    else:
                        taken.add(free)
                        ids[item] = torch.tensor(free)
            waiting = left
        for part in _parts(waiting):
            rows = self.candidates(self._items(part), 0.0, 1, levels)[:, 0]
            likeliest = self.logits(self._items(part), rows)[:, -2:].argsort(-1, descending=True)
            for item, row, ends in zip(part, rows.tolist(), likeliest.tolist(), strict=True):
                ids[item] = self._free(row[:-2], ends, taken, item)
        self.train(was_training)
        return ids

    def _free(
        self, before: list[int], ends: list[list[int]], taken: set[tuple[int, ...]], item: int
    ) -> Tensor:
        """Return the first free id that begins with `before`; `ends` are the last pieces, likeliest first."""
        count = int(self.allowed.sum())
        for end in product(*(pieces[:count] for pieces in ends)):
            whole = (*before, *end)
            # No piece may follow END.
            if whole not in taken and END not in whole[:-1]:
                taken.add(whole)
                return torch.tensor(whole)
        raise ValueError(
            f"item {item} has no free id left after {len(taken)} others: too many items have the same text; "
            "remove the copies, or raise tokenizer.levels"
        )

    def _remember(self, items: Tensor) -> Memory:
        tokens = self.texts[items]
        tokens = tokens[:, : int((tokens != PAD).sum(1).max())]
        mask = (tokens != PAD).long()
        return self.t5.remember(self.t5.encode(tokens, mask), mask)

    def _items(self, items: Sequence[int]) -> Tensor:
        return torch.tensor(items, device=self.texts.device)


class IdLessons(nn.Module):
    """Trains the generator on recommendations: a frozen recommender reads its soft ids."""

    def __init__(self, generator: IdGenerator, recommender: Recommender) -> None:
        """Freeze the recommender's weights."""
        super().__init__()
        self.generator, self.recommender = generator, recommender.requires_grad_(False)

    def forward(self, histories: Tensor, targets: Tensor) -> Tensor:
        """Return the recommender's loss for the ids of items `targets` (B,) given soft ids of `histories`.

        `histories` (B, I) are items, padded at the right with -1.
        """
        reader, levels = self.recommender, self.generator.config.levels
        table = reader.t5.embedding.weight
        there = histories >= 0
        items, places = histories[there].unique(return_inverse=True)
        vectors = table[PAD].expand(*histories.shape, levels, -1).clone()
        vectors[there] = self.generator.soft_ids(items, table)[places]
        lengths = there.sum(1, keepdim=True) * levels
        x = vectors.flatten(1, 2)
        items_of: Tensor | None = None
        if reader.reads_whole:
            x = torch.cat([x, table[PAD].expand(len(x), 1, -1)], dim=1)
            x = x.scatter(1, lengths[..., None].expand(-1, -1, x.shape[2]), table[EOS].expand(len(x), 1, -1))
            lengths = lengths + 1
        else:
            items_of = torch.arange(x.shape[1], device=x.device) // levels
        mask = (torch.arange(x.shape[1], device=x.device) < lengths).long()
        memory = reader.t5.remember(reader.t5.encode(x, mask, items_of), mask)
        wanted = reader.item_tokens[targets]
        before = F.pad(wanted[:, :-1], (1, 0), value=PAD)
        return reader.token_loss(reader.t5.decode(before[:, None], memory)[:, 0], wanted)


def word_pieces(texts: Sequence[str], config: TextualIdsConfig) -> WordPieces:
    """Return the vocabulary that the config selects: a released model's, or one learned from the texts."""
    if config.generator is None and config.recommender is None:
        return WordPieces.learnt(texts, config.vocabulary)
    name = str(config.recommender or config.generator)
    with _released(name):
        from transformers import AutoConfig

        return WordPieces.read(name, int(AutoConfig.from_pretrained(name).vocab_size))


def codes_of(ids: Tensor | np.ndarray, size: int) -> ItemCodes:
    """Return identifiers of one domain from ids (N, L) of V = `size` tokens; all levels share tokens."""
    codes = np.asarray(ids) - FIRST_CODE
    levels = codes.shape[1]
    return ItemCodes(codes, (size - FIRST_CODE,) * levels, shared_levels=range(levels))


def new_t5(pieces: WordPieces, config: TextualIdsConfig, name: str | None) -> T5:
    """Return a T5 of the config's sizes over the word pieces, with the weights of a released one if named.

    Raises TextualIdsError if that one cannot be read or has other sizes.
    """
    if name is None:
        return T5(pieces.size, config.body)
    with _released(name):
        from transformers import T5ForConditionalGeneration

        theirs: Any = T5ForConditionalGeneration.from_pretrained(name)
    nothing = codes_of(np.full((1, config.levels), END), int(theirs.config.vocab_size))
    found = Recommender.from_transformers(theirs, nothing)
    asked = config.body.model_copy(update={"dropout": found.config.dropout, "reads": "whole"})
    if found.config != asked or nothing.vocabulary_size != pieces.size:
        raise TextualIdsError(
            f'"{name}" has {nothing.vocabulary_size} tokens and the sizes {found.config}; expected '
            f"{pieces.size} tokens and tokenizer.body {config.body}; change tokenizer.body or the model"
        )
    t5 = T5(pieces.size, config.body)
    t5.load_state_dict(found.t5.state_dict())
    return t5


def new_reader(pieces: WordPieces, config: TextualIdsConfig) -> Callable[[Tensor], Recommender]:
    """Return a function that makes recommenders over ids (N, L), all with the same weights."""
    t5 = new_t5(pieces, config, config.recommender)

    def over(ids: Tensor) -> Recommender:
        reader = Recommender(codes_of(ids, pieces.size), config.body)
        reader.t5 = t5
        return reader

    return over


def past_end(tokens: Tensor) -> Tensor:
    """Return which positions come after the first END of an id: (..., L) bool."""
    ends = (tokens == END).long()
    return ends.cumsum(-1) - ends > 0


def _parts(items: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]


def _released(name: str) -> AbstractContextManager[None]:
    def failed(reason: str) -> TextualIdsError:
        return TextualIdsError(
            f'"{name}" cannot be read as a T5 ({reason}); name a folder with config.json, weights and '
            "tokenizer, or a model on the hub, such as t5-small"
        )

    return released(name, failed)
