"""Training the T5 against transformers' T5: the same model, weights, samples and optimiser.

Amazon "Scientific" (GENREC_DATA/scientific_2018), every prefix of a sequence a sample, batches of 256, AdamW.
The peer is T5ForConditionalGeneration in float32 with every history padded to 20 items, as most public code
trains it. After the same samples both must have the same validation loss within 1 %. A third entrant learns
all places of a sequence in one pass (`recommender.reads: past`): not the same network, so its loss is printed
and not held to the peer's. A second table measures the loop's options, `gradient_checkpointing` and `compile`
(at full size only: compiling takes minutes), by time and memory against the loop without them.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.measuring import Check, Comparison, Options, compare, main
from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset, leave_one_out, load_dataset
from genrec_lab.data.batches import PairBatches, StretchBatches
from genrec_lab.encoders.text import TextConfig, encode_texts
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.tokenizers.quantizers import residual_kmeans
from genrec_lab.training import TrainingConfig, fit

OURS, ONE_PASS, PEER = "genrec_lab", "genrec_lab, one pass", "transformers T5, float32, padded"
PLAIN, RECOMPUTED, COMPILED = "no option", "gradient_checkpointing", "compile"
RATE, BATCH, HISTORY = 1e-3, 256, 20


def scientific(small: bool) -> Dataset:
    """The data set: Amazon's where it is found, Bazaar's for the small size."""
    folder = Path(os.environ.get("GENREC_DATA", "")) / "scientific_2018"
    if small:
        return load_dataset("bazaar", items=300, users=300, domains=("Garden",))
    if not folder.is_dir():
        raise SystemExit(
            f"{folder} is no folder; set GENREC_DATA to the one that holds scientific_2018, or pass --small"
        )
    return load_dataset("lcrec", domains={"Scientific": str(folder)})


def codes_of(dataset: Dataset, small: bool) -> ItemCodes:
    """Identifiers by residual k-means of TF-IDF vectors and an extra level."""
    size = 16 if small else 256
    texts = dataset.items["text"].to_list()
    vectors = encode_texts(texts, TextConfig(kind="tfidf", dimensions=64), progress=False)
    _, codes, _ = residual_kmeans(vectors, 3, size, 0)
    return ItemCodes(codes, (size,) * 3).resolve("extra_level")


def train_ours(model: Recommender, batches: Any, epochs: int = 1, **options: bool) -> Recommender:
    """Train by the package's own loop."""
    config = TrainingConfig(
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=RATE,
        schedule="constant",
        warmup=0.0,
        clip_norm=None,
        **options,
    )
    fit(model, batches, config)
    return model


def train_peer(model: Recommender, pairs: pl.DataFrame) -> Recommender:
    """Train transformers' T5 with the model's weights, padded to 20 items; return it as a recommender."""
    theirs, levels = model.to_transformers().to(model.item_tokens.device), model.codes.levels
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=RATE, weight_decay=0.01)
    theirs.train()
    width = HISTORY * levels + 1
    for batch in PairBatches(pairs, BATCH)(0, 0):
        histories = [[i for i in row if i >= 0] for row in batch["histories"].tolist()]
        inputs = model.inputs(histories)
        missing = width - inputs["input_ids"].shape[1]
        padded = {name: torch.nn.functional.pad(t, (0, missing)) for name, t in inputs.items()}
        loss = theirs(**padded, labels=model.item_tokens[batch["targets"]]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return Recommender.from_transformers(theirs, model.codes)


@torch.inference_mode()
def validation_loss(model: Recommender, users: pl.DataFrame) -> float:
    """Mean negative log-likelihood of a code of the validation users' next item."""
    total = 0.0
    for batch in PairBatches(users, BATCH)(0, 0):
        loss = model.pair_loss(**batch) if model.reads_whole else model.stretch_loss(**_as_stretches(batch))
        total += loss.item() * len(batch["targets"])
    return total / users.height


def _as_stretches(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The pairs of a batch as places of sequences, for a model that reads the past."""
    histories = batch["histories"]
    places = (histories >= 0).sum(1)
    sequences = torch.nn.functional.pad(histories, (0, 1), value=-1)
    sequences[torch.arange(len(places)), places] = batch["targets"]
    return {"rows": torch.arange(len(places)), "places": places, "sequences": sequences}


def measure(options: Options) -> list[Comparison]:
    """Ours against the peer over the same samples, beside one pass over the sequences of the same users."""
    dataset = scientific(options.small)
    split, codes = leave_one_out(dataset, HISTORY), codes_of(dataset, options.small)
    sizes = T5Config(d_model=192, d_kv=64, heads=6, d_ff=1536, encoder_layers=2, decoder_layers=2)
    if options.small:
        sizes = T5Config(d_model=32, d_kv=8, heads=2, d_ff=64, encoder_layers=1, decoder_layers=1)
    users = split.train["user"].unique().sort().head(40 if options.small else 1200)
    pairs = split.train.filter(pl.col("user").is_in(users.implode()))
    chosen = dataset.sequences.filter(pl.col("user").is_in(users.implode()))
    sequences = [items[:-2] for items in chosen["items"].to_list()]
    valid = split.valid.head(100 if options.small else 1000)
    torch.manual_seed(0)
    start = Recommender(codes, sizes)
    past = Recommender(codes, sizes.model_copy(update={"reads": "past"}))
    past.load_state_dict(start.state_dict())

    def agree(results: Mapping[str, Any]) -> Iterator[Check]:
        losses = {name: validation_loss(model.eval(), valid) for name, model in results.items()}
        gap = abs(losses[OURS] / losses[PEER] - 1)
        yield Check(f"{OURS}: validation loss {losses[OURS]:.3f}, the peer's {losses[PEER]:.3f}", gap <= 0.01)
        yield Check(f"{ONE_PASS}: validation loss {losses[ONE_PASS]:.3f} (another network)", True)

    def trained(model: Recommender, batches: Any) -> Callable[[], Recommender]:
        return lambda: train_ours(copy.deepcopy(model), batches)

    return [
        compare(
            f"Training: {dataset.name}, {pairs.height:,} samples of {len(users):,} users, batches of {BATCH}",
            {
                OURS: trained(start, PairBatches(pairs, BATCH)),
                ONE_PASS: trained(past, StretchBatches(sequences, BATCH, HISTORY)),
                PEER: lambda: train_peer(copy.deepcopy(start), pairs),
            },
            agree,
            options,
            unit="samples",
            amount=pairs.height,
            peer=PEER,
            targets={OURS: 8.0},
            operations={
                OURS: (training_operations(start, pairs), torch.bfloat16),
                PEER: (training_operations(start, pairs, HISTORY), torch.float32),
            },
        ),
        options_of_the_loop(past, StretchBatches(sequences, BATCH, HISTORY), options),
    ]


def options_of_the_loop(start: Recommender, batches: StretchBatches, options: Options) -> Comparison:
    """An epoch in one pass without any option, with recomputed layers, and compiled."""
    # Each trains its own model on: a copy a run would be compiled anew each time.
    models = {name: copy.deepcopy(start) for name in (PLAIN, RECOMPUTED, COMPILED)}
    chosen = {PLAIN: {}, RECOMPUTED: {"gradient_checkpointing": True}, COMPILED: {"compile": True}}
    if options.small:
        del chosen[COMPILED]

    def agree(results: Mapping[str, Any]) -> Iterator[Check]:
        weights = {name: result.t5.embedding.weight.detach() for name, result in results.items()}
        gap = float((weights[RECOMPUTED] - weights[PLAIN]).abs().max())
        yield Check(f"{RECOMPUTED}: the embeddings of {PLAIN} to 1e-3", gap <= 1e-3)
        finite = all(bool(weight.isfinite().all()) for weight in weights.values())
        yield Check("all weights are finite", finite)

    def trained(name: str) -> Callable[[], Recommender]:
        return lambda: train_ours(models[name], batches, **chosen[name])

    return compare(
        f"Options of the loop: an epoch of {batches.samples:,} samples in one pass",
        {name: trained(name) for name in chosen},
        agree,
        options,
        unit="samples",
        amount=batches.samples,
        peer=PLAIN,
    )


def training_operations(model: Recommender, pairs: pl.DataFrame, width: int | None = None) -> float:
    """Floating-point operations of an epoch: twice for each weight and token forwards, twice that backwards.

    `width` is the number of items that every history is padded to; None counts their own tokens.
    """
    c, levels = model.config, model.codes.levels
    inner = c.heads * c.d_kv
    lengths = pairs["history"].list.len().to_numpy().astype(np.float64)
    places = (np.full_like(lengths, width) if width else lengths) * levels + 1
    layer = 4 * c.d_model * inner + 2 * c.d_model * c.d_ff
    encoder = c.encoder_layers * (places.sum() * layer + 2 * float((places**2).sum()) * inner)
    written = pairs.height * levels
    decoder = c.decoder_layers * (
        written * (layer + 2 * c.d_model * inner)
        + places.sum() * 2 * c.d_model * inner
        + 2 * levels * places.sum() * inner
        + 2 * written * levels * inner
    )
    head = written * c.d_model * model.codes.vocabulary_size
    return 6.0 * (encoder + decoder + head)


if __name__ == "__main__":
    sys.exit(main(measure))
