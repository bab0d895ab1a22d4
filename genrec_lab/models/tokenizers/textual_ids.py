"""IDGenRec's identifiers (Tan et al. 2024): a T5 writes each item's id, a few word pieces, from its text.

Shapes: N items, n of them, B items of a batch, L places of an id, V tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from torch import Tensor

from genrec_lab.data import every_prefix
from genrec_lab.data.batches import PairBatches, StretchBatches, shuffled
from genrec_lab.models.saved import write_weights
from genrec_lab.models.tokenizers.base import CatalogueTokenizer, Content, ItemContent, OnEpoch
from genrec_lab.models.tokenizers.id_generator import (
    FIRST_CODE,
    IdGenerator,
    IdLessons,
    TextualIdsConfig,
    TextualIdsError,
    new_reader,
    word_pieces,
)
from genrec_lab.models.tokenizers.word_pieces import WordPieces
from genrec_lab.training import Batches, PrintEpochs, TrainingConfig, content_hash, fit, placed

__all__ = ["NamingConfig", "TextualIds", "TextualIdsConfig", "TextualIdsError"]

_RECOMMENDER = "recommender"  # its weights are recommender.safetensors


class NamingConfig(BaseModel):
    """Training of the two T5s of textual ids, which alternate as in IDGenRec."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rounds: int = Field(3, ge=1)  # in each: the generator, then the recommender over the new ids
    # Before the rounds, a generator without released weights learns to write the texts' distinctive words.
    labels: TrainingConfig = TrainingConfig(epochs=10, batch_size=64)
    generator: TrainingConfig = TrainingConfig(epochs=1, batch_size=12, learning_rate=1e-8)
    recommender: TrainingConfig = TrainingConfig(epochs=10, batch_size=64)
    max_history: int = Field(20, ge=1)
    per_user: int | None = Field(None, ge=1)  # most pairs per user in an epoch; None: all


class TextualIds(CatalogueTokenizer):
    """The ids of one catalogue. One T5 writes them and another recommends with them; training alternates.

    naming: a NamingConfig for the training of both. A word piece has the same meaning at every level.
    """

    Config = TextualIdsConfig
    needs = ("text", "sequences")
    settings = ("naming",)
    naming: NamingConfig = NamingConfig()

    pieces: WordPieces
    weights: dict[str, dict[str, Tensor]]  # keys "generator" and "recommender"

    @classmethod
    def check_method(cls, config: TextualIdsConfig, method: Mapping[str, Any]) -> None:
        """Raise ValueError if the method's recommender has other sizes than the one trained here."""
        if method["recommender"] != config.body:
            raise ValueError(
                f"recommender is {method['recommender']}, tokenizer.body is {config.body}; set both to "
                "the same sizes, because the recommender starts from the one trained with the ids"
            )

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Train both T5s on the texts and training sequences of a dataset's items.

        The content must hold all items of one or more domains.
        """
        known, naming = ItemContent.of(content), self.naming
        texts, sequences = known.texts(self), known.training_places(self)
        torch.manual_seed(seed)
        pieces = word_pieces(texts, self.config)
        generator = placed(IdGenerator(pieces, texts, self.config))
        reader_over = new_reader(pieces, self.config)
        table = pl.DataFrame({"items": sequences}, schema={"items": pl.List(pl.Int64)}).with_row_index("user")
        pairs = every_prefix(table, naming.max_history)
        identity = {
            **self.config.model_dump(mode="json"),
            "naming": naming.model_dump(mode="json", include={"max_history", "per_user"}),
            "items": content_hash(pl.DataFrame({"text": texts})),
            "sequences": content_hash(table),
        }

        def train(model: torch.nn.Module, batches: Batches, training: TrainingConfig, name: str) -> None:
            folder = None if checkpoint is None else checkpoint / name
            shown = PrintEpochs(f"{known.title}, {name}")
            given: dict[str, Any] = {"checkpoints": folder, "identity": identity, "seed": seed}
            fit(model, batches, training, callbacks=[shown], **given)

        if self.config.generator is None:
            train(generator, _Items(len(known), naming.labels.batch_size), naming.labels, "words")
        ids = generator.unique_ids()
        batches: PairBatches | StretchBatches
        for turn in range(1, naming.rounds + 1):
            generator.requires_grad_(True)
            batches = PairBatches(pairs, naming.generator.batch_size, per_user=naming.per_user)
            train(IdLessons(generator, reader_over(ids)), batches, naming.generator, f"writer {turn}")
            ids = generator.unique_ids()
            reader = reader_over(ids).requires_grad_(True)
            size = naming.recommender.batch_size
            if reader.reads_whole:
                batches = PairBatches(pairs, size, per_user=naming.per_user)
            else:  # it learns every position of a sequence in one pass
                batches = StretchBatches(sequences, size, naming.max_history, per_user=naming.per_user)
            train(reader, batches, naming.recommender, f"reader {turn}")
        self.weights = {"generator": generator.t5.state_dict(), _RECOMMENDER: reader.t5.state_dict()}
        self._named(known.numbers, ids.numpy(), pieces)
        examples = ", ".join(f"{words!r}" for words in self.words()[:3])
        print(f"{known.title}: the first ids are {examples}", flush=True)
        return self

    def words(self) -> list[str]:
        """Return the N ids as text."""
        return [self.pieces.text(row) for row in (self.item_codes + FIRST_CODE).tolist()]

    @classmethod
    def read_recommender(cls, folder: Path) -> dict[str, Tensor] | None:
        """Return the weights of the T5 that recommends with the ids; None if there are none."""
        file = folder / f"{_RECOMMENDER}.safetensors"
        return load_file(file) if file.is_file() else None

    def save(self, folder: Path) -> None:
        """Write ids, word pieces, config, and the weights of both T5s into a folder."""
        self.save_config(folder)
        ids = {"ids": self.item_codes + FIRST_CODE, "numbers": self.numbers}
        ids_as_tensors = {name: torch.from_numpy(array) for name, array in ids.items()}
        for name, tensors in {"ids": ids_as_tensors, **self.weights}.items():
            write_weights(tensors, folder / f"{name}.safetensors")
        self.pieces.write(folder / "pieces")

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Self:
        """Load a tokenizer that `save` wrote; `settings` as in the constructor."""
        tokenizer = cls(cls.load_config(folder), **settings)
        tokenizer.weights = {
            name: load_file(folder / f"{name}.safetensors") for name in ("generator", _RECOMMENDER)
        }
        size = len(tokenizer.weights["generator"]["embedding.weight"])
        tensors = load_file(folder / "ids.safetensors")
        ids = tensors["ids"].numpy()
        numbers = tensors["numbers"].numpy() if "numbers" in tensors else np.arange(len(ids))
        return tokenizer._named(numbers, ids, WordPieces.read(folder / "pieces", size))

    def _named(self, numbers: np.ndarray, ids: np.ndarray, pieces: WordPieces) -> Self:
        """Set the ids (N, L) of tokens."""
        self.numbers, self.item_codes, self.pieces = numbers, ids - FIRST_CODE, pieces
        levels = self.config.levels
        self.sizes, self.alike = (pieces.size - FIRST_CODE,) * levels, tuple(range(levels))
        return self


class _Items:
    """Batches of items, `{"items": (B,)}`, in an order determined by seed and epoch."""

    def __init__(self, items: int, batch_size: int) -> None:
        self.items, self.batch_size = items, batch_size

    def __len__(self) -> int:
        return -(-self.items // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        for drawn in shuffled(self.items, self.batch_size, np.random.default_rng([seed, epoch])):
            yield {"items": torch.from_numpy(drawn)}
