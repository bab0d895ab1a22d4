"""MISSRec (Wang et al. 2023): reads a history together with the interests that its items belong to.

Interests are clusters of the adapted text and picture vectors of all items. An encoder reads the interests of
a history, and a decoder reads its items and attends to them. Without pictures, only text is used. Values are
from the authors' code (gimpong/MM23-MISSRec). Our changes: interests are also recomputed before each epoch of
pre-training, by scikit-learn's mini-batch k-means, and number at most `most_interests`; an item without a
picture is scored by its text; the loss of the interests is a mean over real interests and users; sequences
are augmented only by item drop; another target in the batch that is the same item is not a negative; scores
use the interests of the current weights; encoder and decoder have `layers` layers each, without a final norm
(the code has half as many, with one), and fine-tuning trains all weights (the code freezes the transformer).
Letters: B users, T positions, D width, N items.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.data import NO_ITEM
from genrec_lab.encoders.picture_features import PictureModel
from genrec_lab.models.layers import PooledDropout
from genrec_lab.models.sequential.base import PRETRAINING, ItemModel, Phase
from genrec_lab.models.sequential.batches import DrawnPrefixes, last_of
from genrec_lab.models.sequential.layers import VectorEncoderConfig, start_small
from genrec_lab.models.sequential.objectives import (
    in_batch_contrast,
    in_batch_cross_entropy,
    kept_at_random,
    shortened,
)
from genrec_lab.training import Batches
from genrec_lab.training.processes import gather_rows


class MISSRecConfig(VectorEncoderConfig):
    """Sizes of MISSRec, its interests, and the weights of its losses."""

    kind: Literal["missrec"] = "missrec"
    heads: int = Field(4, ge=1)
    interest_share: float = Field(0.5, gt=0, le=1)  # clusters per vector of text or picture
    most_interests: int = Field(1000, ge=1)
    temperature: float = Field(0.07, gt=0)
    sequence_weight: float = Field(1e-3, ge=0)  # lambda, of the contrastive loss between sequences
    interest_weight: float = Field(1e-4, ge=0)  # gamma, against interests that are all alike
    drop: float = Field(0.2, ge=0, lt=1)  # share of a sequence's items that augmentation leaves out
    # The transductive setting adds one vector per item, learned in fine-tuning; the inductive one has none.
    setting: Literal["transductive", "inductive"] = "transductive"
    picture_model: PictureModel = "efficientnet-lite0"  # encodes the pictures, if there are any
    # Prefixes of a sequence, drawn each epoch; None: all, as in the authors' data.
    prefixes: int | None = Field(None, ge=1)


class _Adapted(NamedTuple):
    """All items' vectors, (N, D) each; without pictures the second is None."""

    text: Tensor
    pictures: Tensor | None


class MISSRec(ItemModel):
    """A transformer whose encoder reads interests and whose decoder reads the items of a history."""

    Config: ClassVar = MISSRecConfig
    divisible: ClassVar = True
    config: MISSRecConfig
    needs: ClassVar = ("text",)
    takes: ClassVar = ("pictures",)
    phases: ClassVar = (PRETRAINING, Phase("fine-tuning"))
    own_weights: ClassVar = ("embedding.", "centres", "interests")
    text: Tensor
    pictures: Tensor
    centres: Tensor
    interests: Tensor

    def make(self) -> None:
        """Start from random weights; interests are computed on first use."""
        c, text = self.config, self.domain.text_vectors()
        n = len(self.items)
        pictures = torch.zeros(n, 0)
        if self.domain.pictures is not None:
            pictures = torch.from_numpy(np.ascontiguousarray(self.domain.pictures, dtype=np.float32))
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("pictures", pictures, persistent=False)
        self.of_text = nn.Linear(text.shape[1], c.width)
        self.of_pictures = nn.Linear(pictures.shape[1], c.width) if pictures.shape[1] else None
        # How much more the nearer of text and picture counts; 0 is their mean.
        self.fusion = nn.Parameter(torch.zeros(())) if pictures.shape[1] else None
        self.embedding = nn.Embedding(n, c.width) if c.setting == "transductive" else None
        self.places = nn.Embedding(c.max_history, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width), PooledDropout(c.dropout)
        sizes = (c.width, c.heads, c.feed_forward, c.dropout, "gelu")
        encoder = [nn.TransformerEncoderLayer(*sizes, batch_first=True) for _ in range(c.layers)]
        decoder = [nn.TransformerDecoderLayer(*sizes, batch_first=True) for _ in range(c.layers)]
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        start_small(self)
        vectors = n + int(self._has_picture.sum())
        clusters = min(c.most_interests, max(1, math.ceil(vectors * c.interest_share)))
        self.register_buffer("centres", torch.zeros(clusters, c.width))
        # (N, 2): the interests of an item's text and picture, -1 if missing.
        self.register_buffer("interests", torch.full((n, 2), -1))
        self._settled = False

    @property
    def _has_picture(self) -> Tensor:
        return self.pictures.any(1)

    # --- interests

    @torch.no_grad()
    def refresh(self) -> None:
        """Cluster the adapted vectors of all items, texts and pictures together, without dropout."""
        from sklearn.cluster import MiniBatchKMeans  # slow to import

        adapted, seen = self._adapted(), self._has_picture
        vectors = adapted.text
        if adapted.pictures is not None:
            vectors = torch.cat([vectors, adapted.pictures[seen]])
        kmeans = MiniBatchKMeans(
            len(self.centres), batch_size=2048, max_iter=5, n_init=1, random_state=0, reassignment_ratio=0
        )
        found = torch.from_numpy(kmeans.fit_predict(vectors.float().cpu().numpy()).astype(np.int64))
        self.centres.copy_(torch.from_numpy(kmeans.cluster_centers_))
        self.interests.fill_(-1)
        self.interests[:, 0] = found[: len(self.items)].to(self.interests.device)
        self.interests[seen, 1] = found[len(self.items) :].to(self.interests.device)

    def interests_of(self, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) positions -> distinct ascending interests (B, 2 T), and which of them exist (B, 2 T)."""
        found = self.interests[sequences.clamp(min=0)]
        found = found.masked_fill((sequences == NO_ITEM)[..., None], -1).flatten(1).sort(1).values
        first = F.pad(found[:, 1:] != found[:, :-1], (1, 0), value=True)
        return found.clamp(min=0), first & (found >= 0)

    # --- the network

    def _adapted(self) -> _Adapted:
        text = self.of_text(self.text)
        if self.of_pictures is None:
            return _Adapted(text, None)
        seen = self._has_picture[:, None]
        return _Adapted(text, torch.where(seen, self.of_pictures(self.pictures), 0.0))

    def states(self, sequences: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), vectors of all items (N, D) -> the states at the last items (B, D), the loss of interests.

        Items and interests attend to all others, so a state describes the whole sequence.
        """
        which, there = self.interests_of(sequences)
        memory = self.centres[which]
        for layer in self.encoder:
            memory = layer(memory, src_key_padding_mask=~there)
        pooled = torch.where(there[..., None], memory, 0.0).sum(1) / there.sum(1, keepdim=True)
        vectors = items[sequences.clamp(min=0)] + self.places.weight[: sequences.shape[1]]
        x = self.dropout(self.norm(vectors))
        for layer in self.decoder:
            x = layer(x, memory, tgt_key_padding_mask=sequences == NO_ITEM, memory_key_padding_mask=~there)
        return last_of(x, sequences), pooled.square().mean()

    def _items(self, adapted: _Adapted) -> Tensor:
        """Return the vectors (N, D) of items in a history: text and picture, and after pre-training an id."""
        together = adapted.text if adapted.pictures is None else adapted.text + adapted.pictures
        if self.embedding is None or self.phase == "pretraining":
            return together
        return together + self.embedding.weight

    def similarity(self, states: Tensor, adapted: _Adapted, ids: Tensor | None = None) -> Tensor:
        """(R, D) states, M items -> (R, M): cosine with text and picture; the nearer one counts more.

        With `ids` (M, D), a third of it is the cosine with these; without pictures they are added to the
        text.
        """
        if adapted.pictures is None or self.fusion is None:
            return _cosine(states, adapted.text if ids is None else adapted.text + ids)
        both = torch.stack([_cosine(states, part) for part in (adapted.text, adapted.pictures)], dim=-1)
        weights = (both * self.fusion).softmax(-1)
        seen = adapted.pictures.any(1)
        fused = torch.where(seen, (both * weights).sum(-1), both[..., 0])
        return fused if ids is None else (_cosine(states, ids) + 2 * fused) / 3

    # --- training

    def begin(self, phase: str) -> None:
        """Pre-train without ids."""
        super().begin(phase)
        self._settled = False
        if self.embedding is not None:
            self.embedding.requires_grad_(phase != "pretraining")

    def batches(self, sequences: Sequence[Sequence[int]], users: Sequence[int], batch_size: int) -> Batches:
        """Return prefixes and their next items; interests are recomputed before each epoch."""
        c = self.config
        given = self.items, sequences, batch_size, c.max_history
        return DrawnPrefixes(*given, per_sequence=c.prefixes, before_epoch=self.refresh)

    def forward(self, sequences: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of the phase for sequences (B, T), padded with -1, and their next items (B,)."""
        c, adapted = self.config, self._adapted()
        self._find_interests()
        items = self._items(adapted)
        states, spread = self.states(sequences, items)
        if self.phase != "pretraining":
            loss = F.cross_entropy(self._scores(states, adapted), wanted)
            return loss + c.interest_weight * spread
        pictures = None if adapted.pictures is None else gather_rows(adapted.pictures[wanted])
        targets = _Adapted(gather_rows(adapted.text[wanted]), pictures)
        loss = in_batch_cross_entropy(self.similarity(states, targets) / c.temperature, wanted)
        kept = kept_at_random(sequences, c.drop)
        augmented, more = self.states(shortened(sequences, kept)[0], items)
        loss = loss + c.sequence_weight * in_batch_contrast(states, augmented, wanted, c.temperature)
        return loss + c.interest_weight * (spread + more)

    def _find_interests(self) -> None:
        if not self.centres.any():
            self.refresh()

    # --- scores

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Score all items by the state at the last item; MISSRec ignores users."""
        self._find_interests()
        adapted = self._adapted()
        states, _ = self.states(sequences, self._items(adapted))
        return self._scores(states, adapted)

    def _scores(self, states: Tensor, adapted: _Adapted) -> Tensor:
        ids = None if self.embedding is None else self.embedding.weight
        return self.similarity(states, adapted, ids) / self.config.temperature

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Compute the interests of the current weights once for the block, unless they come from a file."""
        settled = self._settled
        if not settled:
            self.refresh()
        self._settled = True
        try:
            yield
        finally:
            self._settled = settled

    # --- files

    def save(self, folder: Path) -> Path:
        """Also write the interests of the current weights."""
        with self.scoring():
            return super().save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a model that `save` wrote."""
        model = super().load(folder)
        model._settled = True
        return model


def _cosine(states: Tensor, vectors: Tensor) -> Tensor:
    return F.normalize(states.float(), dim=-1) @ F.normalize(vectors.float(), dim=-1).T
