"""Textual ids of a domain: two T5s trained in turns, one writes the ids, the other recommends by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch

from genrec_lab.data import Dataset, every_prefix, training_places
from genrec_lab.data.batches import PairBatches, StretchBatches, shuffled
from genrec_lab.models.tokenizers.textual_ids import (
    IdGenerator,
    IdLessons,
    TextualIds,
    TextualIdsConfig,
    new_reader,
    word_pieces,
)
from genrec_lab.presets import NamingConfig
from genrec_lab.training import TrainingConfig, fit
from genrec_lab.training.callbacks import PrintEpochs


class _Items:
    """Batches of items, `{"items": (B,)}`, in an order that seed and epoch fix."""

    def __init__(self, items: int, batch_size: int) -> None:
        self.items, self.batch_size = items, batch_size

    def __len__(self) -> int:
        return -(-self.items // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
        for drawn in shuffled(self.items, self.batch_size, np.random.default_rng([seed, epoch])):
            yield {"items": torch.from_numpy(drawn)}


def written_ids(
    dataset: Dataset,
    items: np.ndarray,
    tokenizer: TextualIdsConfig,
    naming: NamingConfig,
    seed: int,
    scratch: Path,
    title: str,
) -> TextualIds:
    """Train a generator and a recommender on some items (n,), all those of one or more domains, ascending.

    Of the sequences only the training part is looked at. A killed training goes on from `scratch`.
    """
    texts = [dataset.items["text"][int(item)] for item in items]
    torch.manual_seed(seed)
    pieces = word_pieces(texts, tokenizer)
    generator = IdGenerator(pieces, texts, tokenizer)
    reader_over = new_reader(pieces, tokenizer)
    sequences = training_places(dataset, items)
    table = pl.DataFrame({"items": sequences}, schema={"items": pl.List(pl.Int64)}).with_row_index("user")
    pairs = every_prefix(table, naming.max_history)
    if tokenizer.generator is None:
        every = _Items(len(items), naming.labels.batch_size)
        _fit(generator, every, naming.labels, scratch / "labels", seed, f"{title}, words")
    ids = generator.unique_ids()
    batches: PairBatches | StretchBatches
    for turn in range(1, naming.rounds + 1):
        generator.requires_grad_(True)
        lessons = IdLessons(generator, reader_over(ids))
        batches = PairBatches(pairs, naming.generator.batch_size, per_user=naming.per_user)
        _fit(lessons, batches, naming.generator, scratch / f"writer {turn}", seed, f"{title}, writer {turn}")
        ids = generator.unique_ids()
        reader = reader_over(ids).requires_grad_(True)
        # One that reads the past learns every place of a sequence in one pass, as it will in stage 05.
        batches = (
            PairBatches(pairs, naming.recommender.batch_size, per_user=naming.per_user)
            if reader.reads_whole
            else StretchBatches(
                sequences, naming.recommender.batch_size, naming.max_history, per_user=naming.per_user
            )
        )
        _fit(reader, batches, naming.recommender, scratch / f"reader {turn}", seed, f"{title}, reader {turn}")
    weights = {"generator": generator.t5.state_dict(), "recommender": reader.t5.state_dict()}
    written = TextualIds(ids.numpy(), pieces, tokenizer, weights)
    told = ", ".join(f"{words!r}" for words in written.words()[:3])
    print(f"{title}: the first ids are {told}", flush=True)
    return written


def _fit(
    model: torch.nn.Module,
    batches: PairBatches | StretchBatches | _Items,
    training: TrainingConfig,
    scratch: Path,
    seed: int,
    title: str,
) -> None:
    fit(model, batches, training, callbacks=[PrintEpochs(title)], checkpoints=scratch, seed=seed)
