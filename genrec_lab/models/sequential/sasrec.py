"""SASRec (Kang and McAuley 2018): self-attention over item ids, here with a softmax over the whole catalogue.

The paper's objective is binary cross-entropy with one sampled negative; full cross-entropy is what makes
SASRec a strong row, and it is what this file trains. One model a domain, since item ids mean nothing across
domains.
Letters: B users, T places of a sequence, D width, N items of the domain.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.decoding import Histories, Ranked
from genrec_lab.models.catalogue import rank_by_score
from genrec_lab.models.dropout import PooledDropout

_EMPTY = -1  # in a matrix of sequences: no item


class SASRecConfig(BaseModel):
    """Sizes of SASRec: the paper's two layers with the width 64 that later studies settled on."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    width: int = Field(64, ge=4)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    feed_forward: int = Field(256, ge=4)
    dropout: float = Field(0.5, ge=0, lt=1)  # the paper's value for sparse data
    max_history: int = Field(20, ge=1)  # items


class SASRec(nn.Module):
    """A causal transformer whose output at each place ranks the items of its domain for the next place."""

    def __init__(self, items: np.ndarray, config: SASRecConfig | None = None) -> None:
        """Start from random weights; `items` (N,) are the domain's indices over all domains, ascending."""
        super().__init__()
        self.config = config or SASRecConfig()
        c = self.config
        if c.width % c.heads:
            raise ValueError(
                f"sasrec.width is {c.width}, which {c.heads} heads cannot share; expected a multiple"
            )
        self.items = np.asarray(items, dtype=np.int64)
        self.embedding = nn.Embedding(len(self.items), c.width)
        self.places = nn.Embedding(c.max_history, c.width)
        self.norm, self.dropout = nn.LayerNorm(c.width), PooledDropout(c.dropout)
        self.blocks = nn.ModuleList(_Block(c) for _ in range(c.layers))
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the mean cross-entropy of each next item.

        `sequences` (B, T + 1) are places in the domain's `items`, padded at the right with -1.
        """
        wanted = sequences[:, 1:]
        real = wanted != _EMPTY
        states = self.states(sequences[:, :-1])[real]
        return F.cross_entropy((states @ self.embedding.weight.T).float(), wanted[real])

    def states(self, sequences: Tensor) -> Tensor:
        """(B, T) padded at the right with -1 -> (B, T, D); a place sees itself and those before it only."""
        x = self.embedding(sequences.clamp(min=0)) + self.places.weight[: sequences.shape[1]]
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x)
        return x

    @torch.inference_mode()
    def score(self, histories: Histories) -> np.ndarray:
        """Return log-probabilities (B, N) of the domain's items after histories of items, oldest first.

        Raises ValueError for an empty history or an item of another domain.
        """
        self.eval()
        rows = [self._places_of(row, history) for row, history in enumerate(histories)]
        lengths = torch.tensor([len(row) for row in rows])
        matrix = _padded(rows, int(lengths.max()))
        last = self.states(matrix.to(self.embedding.weight.device))[torch.arange(len(rows)), lengths - 1]
        return F.log_softmax((last @ self.embedding.weight.T).float(), dim=-1).cpu().numpy()

    def recommend(self, histories: Histories, top_k: int) -> Ranked:
        """Return the top_k items of the domain for each history."""
        return rank_by_score(self.score, histories, self.items, top_k)

    def _places_of(self, row: int, history: Sequence[int]) -> np.ndarray:
        """Turn item indices into the domain's own, the most recent `max_history` of them."""
        if not len(history):
            raise ValueError(f"history {row} is empty; SASRec needs at least one item")
        recent = np.asarray(history, dtype=np.int64)[-self.config.max_history :]
        return _places(self.items, recent, f"history {row}")

    def save(self, folder: Path) -> Path:
        """Write weights and config into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({**self.state_dict(), "items": torch.tensor(self.items)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config.model_dump(), indent=2))
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = SASRecConfig.model_validate_json((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        model = cls(weights.pop("items").numpy(), config)
        model.load_state_dict(weights)
        return model.eval()


class SequenceBatches:
    """Batches of whole training sequences, `{"sequences": (B, T + 1)}`: each next item in them is learnt.

    A sequence longer than T + 1 = max_history + 1 items is cut into pieces of that length from its end, so
    that no item is lost; users with a single item have nothing to learn from and are counted in `skipped`.
    """

    def __init__(
        self,
        items: np.ndarray,
        sequences: Iterable[Sequence[int]],
        batch_size: int,
        max_history: int,
    ) -> None:
        """Cut the sequences; ValueError where one holds an item that is not among `items` (N,), ascending."""
        self.batch_size = batch_size
        self.rows: list[np.ndarray] = []
        self.skipped = 0
        for number, sequence in enumerate(sequences):
            places = _places(items, np.asarray(sequence, dtype=np.int64), f"sequence {number}")
            if len(places) < 2:
                self.skipped += 1
            # Pieces share one item: the last of a piece is the first of the next, where it is only read.
            for end in range(len(places), 1, -max_history):
                self.rows.append(places[max(0, end - max_history - 1) : end])
        if not self.rows:
            raise ValueError("no training sequence has two items: there is nothing to learn from")

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of one epoch in a new order."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self.rows))
        for start in range(0, len(order), self.batch_size):
            rows = [self.rows[i] for i in order[start : start + self.batch_size]]
            yield {"sequences": _padded(rows, max(map(len, rows)))}


class _Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each normed after it is added back."""

    def __init__(self, c: SASRecConfig) -> None:
        super().__init__()
        self.heads, self.rate = c.heads, c.dropout
        self.qkv, self.out = nn.Linear(c.width, 3 * c.width), nn.Linear(c.width, c.width)
        self.up, self.down = nn.Linear(c.width, c.feed_forward), nn.Linear(c.feed_forward, c.width)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.dropout = PooledDropout(c.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        weights = self.dropout(scores.masked_fill(future, -torch.inf).float().softmax(-1).to(v.dtype))
        x = self.attention_norm(x + self.dropout(self.out((weights @ v).transpose(1, 2).flatten(-2))))
        return self.feed_forward_norm(x + self.dropout(self.down(F.gelu(self.up(x)))))


def _places(items: np.ndarray, wanted: np.ndarray, where: str) -> np.ndarray:
    """Return the places of wanted items among a domain's `items`, ascending; `where` is for the error."""
    places = np.searchsorted(items, wanted)
    foreign = wanted[items[np.minimum(places, len(items) - 1)] != wanted]
    if len(foreign):
        raise ValueError(
            f"{where} holds item {foreign[0]}, which is not among the {len(items)} of the domain"
        )
    return places


def _padded(rows: Sequence[np.ndarray], width: int) -> Tensor:
    matrix = np.full((len(rows), width), _EMPTY, dtype=np.int64)
    for line, row in zip(matrix, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(matrix)
