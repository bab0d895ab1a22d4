"""The exact top 10 against scoring every item by force.

A T5 trained for about a minute on Scientific (4,344 items; its folder below GENREC_DATA or ../shared/data,
else the embedded Bazaar stands in for it), whose identifiers are residual k-means codes of TF-IDF vectors. By
force means: the history is read once, and every item's identifier is decoded on it by the same model. A T5
with random weights follows, which is nearly flat: there the search must open almost everything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Check, Comparison, Options, compare, main
from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset, leave_one_out, load_dataset
from genrec_lab.data.batches import PairBatches
from genrec_lab.decoding import CodeTrie, Ranked, exact_top_k
from genrec_lab.encoders.text import TextConfig, encode_texts
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.tokenizers.quantizers import residual_kmeans
from genrec_lab.training import TrainingConfig, fit

TOP_K, ROWS = 10, 512
OURS, PEER = "exact_top_k", "every item by force"
BODY = T5Config(d_model=128, d_kv=32, heads=4, d_ff=512, encoder_layers=2, decoder_layers=2)


def catalogue(options: Options) -> Dataset:
    """Scientific where its files are, else Bazaar."""
    root = Path(os.environ.get("GENREC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not options.small and (root / "scientific_2018").is_dir():
        return load_dataset("lcrec", folder=str(root / "scientific_2018"), domain="Scientific")
    return load_dataset("bazaar", items=300 if options.small else 4_344, domains=["Garden"])


def identifiers(dataset: Dataset, levels: int, size: int) -> ItemCodes:
    """Residual k-means codes of TF-IDF vectors, and one more code that tells collisions apart."""
    vectors = encode_texts(dataset.items["text"].to_list(), TextConfig(kind="tfidf"), progress=False)
    codes = residual_kmeans(vectors, levels, size, 0)[1]
    return ItemCodes(codes, (size,) * levels).resolve("extra_level")


def by_force(model: Recommender, histories: list[list[int]]) -> Callable[[], Ranked]:
    """Return what scores all items of all users: whole identifiers on a history that is read once."""
    tokens = model.item_tokens[:-1]
    start = torch.zeros_like(tokens[:, :1])
    written = torch.cat([start, tokens[:, :-1]], dim=1)

    @torch.inference_mode()
    def run() -> Ranked:
        scores = np.empty((len(histories), len(tokens)), dtype=np.float32)
        for user, history in enumerate(histories):
            memory = model.remember([history])
            for first in range(0, len(tokens), ROWS):
                rows = slice(first, first + ROWS)
                log_probs = model.t5.decode(written[None, rows], memory)[0].log_softmax(-1)
                found = log_probs.gather(2, tokens[rows, :, None])[:, :, 0].sum(1)
                scores[user, rows] = found.numpy()
        return Ranked.best(np.broadcast_to(np.arange(len(tokens)), scores.shape), scores, TOP_K)

    return run


def agree(results: Mapping[str, Any]) -> Iterator[Check]:
    """Equal scores place for place; where two items are all but equal, either may come first."""
    ours, forced = results.values()
    gap = float(np.abs(ours.scores - forced.scores).max())
    yield Check(f"scores differ by at most {gap:.1e}, allowed 1e-3", gap <= 1e-3)
    same = float((ours.items == forced.items).mean())
    yield Check(f"{same:.2%} of the places hold the same item, at least 98%", same >= 0.98)


def models(options: Options) -> tuple[Recommender, Recommender, list[list[int]], str]:
    """Return a trained recommender, a flat one with random weights, histories and the data set's name."""
    dataset = catalogue(options)
    levels, size, steps, users = (2, 16, 20, 2) if options.small else (3, 256, 1500, 16)
    codes = identifiers(dataset, levels, size)
    split = leave_one_out(dataset)
    torch.manual_seed(0)
    trained, flat = Recommender(codes, BODY), Recommender(codes, BODY).eval()
    batches = PairBatches(split.train, 128, per_user=2)
    config = TrainingConfig(epochs=1, least_steps=steps, batch_size=128, optimizer="muon", learning_rate=2e-3)
    fit(trained, batches, config)
    return trained.eval(), flat, split.test["history"].head(users).to_list(), dataset.name


def measure(options: Options) -> list[Comparison]:
    """A trained model, then a flat one."""
    trained, flat, histories, dataset = models(options)
    trie, comparisons = CodeTrie(trained.codes), []
    for name, model, target in (("trained", trained, 20.0), ("flat, random weights", flat, None)):
        of_model = histories if target else histories[:2]
        comparisons.append(
            compare(
                f"Exact top {TOP_K} of {trained.codes.n_items:,} items of {dataset}: {name}",
                {
                    OURS: lambda model=model, of_model=of_model: exact_top_k(model, of_model, trie, TOP_K),
                    PEER: by_force(model, of_model),
                },
                agree,
                options,
                unit="users",
                amount=len(of_model),
                peer=PEER,
                targets={OURS: target} if target else {},
            )
        )
    return comparisons


if __name__ == "__main__":
    sys.exit(main(measure))
