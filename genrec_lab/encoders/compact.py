"""The compact content encoder: L learned queries over frozen MiniLM and EfficientNet-lite0 features.

It replaces Qwen2-VL in UTGRec (Section 2.2.1, Eq 2) on machines without a GPU: it maps the same content to L
representations, from coarse to fine, and also uses pre-trained models of text and pictures.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genrec_lab.data.batches import padded
from genrec_lab.encoders.content import Content, PreparedContent, frozen_features, mask_of, padded_features
from genrec_lab.encoders.hub import BUNDLED_MODEL, load_token_model, model_identity, resolve_model
from genrec_lab.encoders.picture_features import SIDE, PictureFeatures
from genrec_lab.encoders.pictures import PictureTarget, centre_square
from genrec_lab.encoders.progress import Progress
from genrec_lab.registry import ComponentConfig
from genrec_lab.training import device, moved, placed

_TEXT_BATCH = 32
HASHED = "hash"
_UNUSED = re.compile(r"\[unused\d+\]")


class CompactConfig(ComponentConfig):
    """Sizes of the compact encoder; it is not from a paper, so they are ours.

    `text_model="hash"` with `picture_model="pixels"` needs no weights, for tests and the smallest runs.
    """

    kind: Literal["compact"] = "compact"
    levels: int = Field(3, ge=1, description="L, content representations per item, one per query")
    dimension: int = Field(256, ge=1, description="d, dimensions of a representation")
    heads: int = Field(4, ge=1, description="attention heads; must divide the dimension")
    layers: int = Field(2, ge=1, description="transformer layers")
    feed_forward: int = Field(4, ge=1, description="feed-forward width divided by the dimension")
    dropout: float = Field(0.1, ge=0, lt=1)
    max_tokens: int = Field(64, ge=1, description="word pieces of a text that are read and reconstructed")
    vocabulary: int = Field(4096, ge=1, description="V, the most frequent pieces, to reconstruct")
    text_model: str = Field(BUNDLED_MODEL, min_length=1, description='as in text.model, or "hash"')
    picture_model: Literal["efficientnet-lite0", "pixels"] = "efficientnet-lite0"
    picture: PictureTarget = Field(
        default_factory=PictureTarget, description="the representation of a picture to reconstruct"
    )

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.dimension % self.heads:
            raise ValueError(
                f"heads = {self.heads} does not divide dimension = {self.dimension}; choose one that does"
            )
        return self


class _ReadingLayer(nn.Module):
    """Cross-attention of the queries to the item, self-attention, and feed-forward, with pre-norm."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        width, heads = config.dimension, config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.read = nn.MultiheadAttention(width, heads, dropout=config.dropout, batch_first=True)
        self.exchange = nn.MultiheadAttention(width, heads, dropout=config.dropout, batch_first=True)
        self.think = nn.Sequential(
            nn.Linear(width, config.feed_forward * width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feed_forward * width, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries: Tensor, item: Tensor, absent: Tensor) -> Tensor:
        asked = self.norms[0](queries)
        read, _ = self.read(asked, item, item, key_padding_mask=absent, need_weights=False)
        queries = queries + self.dropout(read)
        asked = self.norms[1](queries)
        queries = queries + self.dropout(self.exchange(asked, asked, asked, need_weights=False)[0])
        return queries + self.dropout(self.think(self.norms[2](queries)))


class CompactEncoder(nn.Module):
    """L learned queries over the frozen token states and picture features of an item.

    The frozen networks are not part of the module: `prepare` runs them once per catalogue. The module holds
    only the trained weights, the vocabulary of words to reconstruct, and their frozen vectors.
    """

    Config = CompactConfig

    vocabulary: Tensor
    word_vectors: Tensor

    def __init__(self, config: CompactConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CompactConfig()
        self.levels, self.dimension, self.picture = config.levels, config.dimension, config.picture
        self.text_tokens = config.max_tokens
        self._text = HashedStates() if config.text_model == HASHED else ModelStates(config.text_model)
        self._pictures = PictureFeatures(config.picture_model)
        ordinary = len(self._text.ordinary())
        if config.vocabulary > ordinary:
            raise ValueError(
                f"vocabulary = {config.vocabulary} is more than the {ordinary} word pieces of "
                f'text_model = "{config.text_model}"; lower it'
            )
        width, text_width = config.dimension, self._text.width
        self.register_buffer("vocabulary", torch.full((config.vocabulary,), -1, dtype=torch.long))
        self.register_buffer("word_vectors", torch.zeros(config.vocabulary, text_width))
        self.text_in = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width))
        picture_width = self._pictures.width
        self.picture_in = nn.Sequential(nn.LayerNorm(picture_width), nn.Linear(picture_width, width))
        # Separate positions also distinguish the two modalities. +2: MiniLM's [CLS] and [SEP].
        self.text_places = nn.Parameter(0.02 * torch.randn(config.max_tokens + 2, width))
        self.picture_places = nn.Parameter(0.02 * torch.randn(self._pictures.places, width))
        self.no_picture = nn.Parameter(0.02 * torch.randn(width))
        # Small relative to the features: at 1.0 all items look alike at first (2 % of the variance is between
        # items, at 0.1 it is 60 %), and a quantiser collapses.
        self.queries = nn.Parameter(0.1 * torch.randn(config.levels, width))
        self.layers = nn.ModuleList(_ReadingLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Content representations H of a prepared batch, (B, L, d); UTGRec Eq 2."""
        text, text_mask = batch["encoder_text"], batch["encoder_text_mask"]
        features, shown = batch["encoder_picture"], batch["has_picture"]
        words = self.text_in(text) + self.text_places[: text.shape[1]]
        seen = self.picture_in(features) + self.picture_places
        # An item without a picture has one learned picture token; its other positions are masked.
        seen = torch.where(shown[:, None, None], seen, self.no_picture.to(seen.dtype))
        first = torch.arange(seen.shape[1], device=seen.device) == 0
        absent = torch.cat([~text_mask, ~(shown[:, None] | first)], dim=1)
        item = torch.cat([words, seen], dim=1)
        queries = self.queries.expand(len(text), -1, -1)
        for layer in self.layers:
            queries = layer(queries, item, absent)
        return self.norm(queries)

    def word_table(self) -> Tensor:
        """Return the frozen vectors (V, e) of the words to reconstruct; zeros before `for_catalogue`."""
        return self.word_vectors

    def words(self) -> list[str]:
        """Return the V words by their index in `text_ids`; "##" begins a piece inside a word.

        Raises ValueError before `for_catalogue` or `prepare`.
        """
        if self.vocabulary[0] < 0:
            raise ValueError(
                "the encoder has no vocabulary yet; call for_catalogue(texts) or prepare(content)"
            )
        return self._text.words(self.vocabulary.tolist())

    def for_catalogue(self, texts: Sequence[str]) -> Self:
        """Set the words to reconstruct to the V most frequent word pieces of these texts.

        Ties go to the lower piece number; if the texts have fewer pieces, unused ones are added. Call it
        before training, because a decoder's bias for single words belongs to the old words afterwards.
        """
        counts = Counter(piece for row in self._text.split(texts) for piece in row)
        ordinary = self._text.ordinary()
        chosen = sorted(ordinary, key=lambda piece: (-counts[piece], piece))[: self.config.vocabulary]
        self.vocabulary.copy_(torch.tensor(chosen))
        self.word_vectors.copy_(self._text.vectors(chosen))
        return self

    def prepare(
        self, content: Content, cache: Path | None = None, progress: Progress = True
    ) -> PreparedContent:
        """Run the frozen networks on N items once, or read their outputs from `cache`.

        Sets the vocabulary from these items if none was set or loaded. Load trained weights first, because
        batches use the current vocabulary. Counts in `repairs`: repaired pictures, `texts_truncated`,
        `items_without_picture`, `items_without_words` (no text to reconstruct) and `words_outside_vocabulary`
        (positions left out of the loss). Raises PictureError for an unreadable picture.
        """
        if self.vocabulary[0] < 0:
            self.for_catalogue(content.texts)
        config = self.config
        ids, lengths, repairs = self._targets(content.texts)

        def read_texts(some: Content, repairs: dict[str, int]) -> dict[str, list[Tensor]]:
            return {"text": self._text.states(some.texts, config.max_tokens)}

        of_text: dict[str, object] = {
            "what": "text states",
            "model": self._text.identity,
            "max_tokens": config.max_tokens,
        }
        of_pictures: dict[str, object] = {"what": "picture features", "model": config.picture_model}
        of_pictures |= {"target": config.picture.identity()}
        text = frozen_features(content, "texts", read_texts, of_text, cache, progress)
        pictures = frozen_features(content, "pictures", self._read_pictures, of_pictures, cache, progress)
        shown = torch.tensor([picture is not None for picture in content.pictures])
        repairs["items_without_picture"] = int((~shown).sum())
        repairs |= pictures.repairs
        places, target = self._pictures.places, config.picture

        def collate(items: np.ndarray, among: np.ndarray) -> dict[str, Tensor]:
            rows = torch.tensor(items)
            longest = text.longest("text", among)
            states, read = padded_features(text.rows("text", items), self._text.width, longest)
            features, seen = pictures.rows("features", items), pictures.rows("patches", items)
            # Truncate to the batch's longest text, because every position costs time in a decoder.
            words = ids[rows, : max(1, int(lengths[torch.tensor(among)].max()))].long()
            return {
                "text_ids": words.clamp(min=0),
                "text_mask": words >= 0,
                "patches": padded_features(seen, target.channels, target.tokens)[0],
                "has_picture": shown[rows],
                "encoder_text": states,
                "encoder_text_mask": read,
                "encoder_picture": padded_features(features, self._pictures.width, places)[0],
            }

        return PreparedContent(len(content), collate, {what: n for what, n in repairs.items() if n})

    def _targets(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, dict[str, int]]:
        """Return word indices (N, max_tokens) int32, -1 where masked, lengths of texts, and counts."""
        most, pieces = self.config.max_tokens, self._text.split(texts)
        number = {piece: place for place, piece in enumerate(self.vocabulary.tolist())}
        ids = padded([[number.get(piece, -1) for piece in row[:most]] for row in pieces], most, -1).int()
        lengths = torch.tensor([min(len(row), most) for row in pieces])
        counts = {
            "texts_truncated": sum(len(row) > most for row in pieces),
            "items_without_words": int((ids < 0).all(dim=1).sum()),
            "words_outside_vocabulary": int(lengths.sum() - (ids >= 0).sum()),
        }
        return ids, lengths, counts

    def _read_pictures(self, content: Content, repairs: dict[str, int]) -> dict[str, list[Tensor]]:
        """Return features and target patches of each item's picture; no rows without a picture."""
        target, width = self.picture, self._pictures.width
        features = [torch.empty(0, width, dtype=torch.half)] * len(content)
        patches = [torch.empty(0, target.channels, dtype=torch.half)] * len(content)
        squares: dict[int, Tensor] = {}
        for place, image in content.read_pictures(repairs):
            patches[place] = target.to_tokens(centre_square(image, target.size)).half()
            squares[place] = centre_square(image, SIDE)
        if squares:
            seen = self._pictures.of(torch.stack(list(squares.values())))
            for place, rows in zip(squares, seen, strict=True):
                features[place] = rows
        return {"features": features, "patches": patches}


# --- frozen text models


class ModelStates:
    """Token-level hidden states of a frozen transformer such as MiniLM, with its tokenizer.

    `width` is the dimension of states and word vectors; `identity` distinguishes models in a cache.
    """

    def __init__(self, name: str) -> None:
        self.device = device()
        self.tokenizer, model = load_token_model(name)
        self.model: Any = placed(model, self.device).eval().requires_grad_(False)
        self.table: Tensor = self.model.get_input_embeddings().weight.detach()
        self.width = int(self.table.shape[1])
        self.identity = model_identity(resolve_model(name))

    def split(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the word pieces of each text, without special tokens, not truncated."""
        # verbose: no warning about long texts; truncation is counted elsewhere.
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    @torch.inference_mode()
    def states(self, texts: Sequence[str], most: int) -> list[Tensor]:
        """Return half-precision states (n, width) of each text's first `most` pieces and special tokens."""
        special = self.tokenizer.num_special_tokens_to_add()
        rows = self.tokenizer(list(texts), truncation=True, max_length=most + special)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for start in range(0, len(rows), _TEXT_BATCH):
            chosen = order[start : start + _TEXT_BATCH]
            some = [rows[i] for i in chosen]
            ids = padded(some, fill=0)
            seen = moved(mask_of(some, ids.shape[1]).long(), self.device)
            hidden = self.model(moved(ids, self.device), attention_mask=seen)
            for i, states in zip(chosen, hidden.last_hidden_state.cpu(), strict=True):
                found[i] = states[: len(rows[i])].half()
        return found

    def vectors(self, pieces: Sequence[int]) -> Tensor:
        """The word vectors (n, width) of some pieces, float32."""
        return self.table[torch.tensor(pieces, device=self.table.device)].float().cpu()

    def words(self, pieces: Sequence[int]) -> list[str]:
        """Return the text of the pieces."""
        return self.tokenizer.convert_ids_to_tokens(list(pieces))

    def ordinary(self) -> list[int]:
        """Return all pieces except special ones, ascending."""
        special = set(self.tokenizer.all_special_ids)
        names = self.tokenizer.convert_ids_to_tokens(range(len(self.table)))
        return [i for i, name in enumerate(names) if i not in special and not _UNUSED.fullmatch(name)]


class HashedStates:
    """Fixed random vectors by the hash of a word, without weights or meaning, for the smallest runs."""

    width = 64
    identity = "hashed words, 64 numbers"
    _SIZE = 16_384

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(self._SIZE, self.width, generator=generator) / self.width**0.5
        self._seen: dict[int, str] = {}

    def split(self, texts: Sequence[str]) -> list[list[int]]:
        """See ModelStates."""
        rows = []
        for text in texts:
            words = re.findall(r"\w+", text.lower())
            hashes = [hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words]
            row = [1 + int.from_bytes(one, "little") % (self._SIZE - 1) for one in hashes]
            self._seen.update(zip(row, words, strict=True))
            rows.append(row)
        return rows

    def states(self, texts: Sequence[str], most: int) -> list[Tensor]:
        """See ModelStates."""
        # Piece 0 precedes every text, so that an empty text has a state.
        return [self.vectors([0, *row[:most]]).half() for row in self.split(texts)]

    def vectors(self, pieces: Sequence[int]) -> Tensor:
        """See ModelStates."""
        return self.table[torch.tensor(pieces)]

    def words(self, pieces: Sequence[int]) -> list[str]:
        """See ModelStates; a piece of an unknown word is shown as its number."""
        return [self._seen.get(piece, f"#{piece}") for piece in pieces]

    def ordinary(self) -> list[int]:
        """See ModelStates."""
        return list(range(1, self._SIZE))
