"""GMC by hand, from a data set to a table: `python examples/gmc_by_hand.py`, some minutes on two cores.

Every step of the paper is one statement with the package's core: no lab, no run folder, no notebook. A name
on the command line is a data source of `load_dataset`, by default the embedded world Bazaar.
"""

from __future__ import annotations

import sys

import polars as pl
import torch

from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset, leave_one_out, load_dataset
from genrec_lab.data.batches import PairsConfig
from genrec_lab.decoding import Ranked
from genrec_lab.encoders import TextConfig, encode_texts
from genrec_lab.evaluation import metrics_table
from genrec_lab.models import (
    RQVAE,
    ItemContent,
    LoRAConfig,
    Popularity,
    Recommender,
    SASRec,
    T5Config,
    TrainingData,
)
from genrec_lab.models.recommenders.base import recommend_to
from genrec_lab.training import PrintEpochs, TrainingConfig

SEED = 0
TOKENIZER = RQVAE.Config(hidden=(256, 128), levels=3, codebook_size=64, epochs=120, batch_size=512)
# The T5 reads the past of a history, so that one pass over a sequence learns every place in it.
BODY = T5Config(d_model=96, d_kv=24, heads=4, d_ff=256, encoder_layers=2, decoder_layers=2, reads="past")
TRAINING = TrainingConfig(
    epochs=12, batch_size=256, optimizer="muon", learning_rate=3e-3, validate_every=6, validation_users=600
)
ADAPTATION = TrainingConfig(
    epochs=3, batch_size=256, schedule="constant", warmup=0.0, validate_from=0, validation_users=300
)
SEQUENTIAL = TrainingConfig(
    epochs=24, batch_size=256, schedule="constant", warmup=0.0, validate_every=2, patience=4
)


def name_items(dataset: Dataset, text: TextConfig, config: RQVAE.Config) -> ItemCodes:
    """Give every item of all domains its identifier: an RQ-VAE on text vectors (GMC 3.3), made unique."""
    vectors = encode_texts(dataset.items["text"].to_list(), text)
    content = ItemContent.from_dataset(dataset, vectors)
    tokenizer = RQVAE(config).fit(content, seed=SEED)
    codes = ItemCodes(tokenizer.encode(content), tokenizer.sizes, dataset.items["domain"].to_list())
    print(f"{codes.collision_rate():.1%} of the items share an identifier before conflicts are resolved")
    return codes.resolve("nearest_free", tokenizer.residuals(content), tokenizer.codebooks)


def gmc_by_hand(
    dataset: Dataset,
    *,
    text: TextConfig,
    tokenizer: RQVAE.Config = TOKENIZER,
    body: T5Config = BODY,
    training: TrainingConfig = TRAINING,
    adaptation: TrainingConfig = ADAPTATION,
    sequential: TrainingConfig = SEQUENTIAL,
    sasrec: SASRec.Config | None = None,
) -> pl.DataFrame:
    """Train GMC and what stands beside it in the table; return the metrics of each row by domain."""
    split = leave_one_out(dataset)
    data, pairs = TrainingData.of(dataset, split), PairsConfig(max_history=split.max_history)
    codes = name_items(dataset, text, tokenizer)

    # One recommender for all domains (Eq. 8); its first weights are drawn by the constructor.
    torch.manual_seed(SEED)
    unified = Recommender(codes, body)
    unified.fit(data, training=training, pairs=pairs, seed=SEED, callbacks=[PrintEpochs("T5", every=4)])

    rankings: dict[str, list[Ranked]] = {}
    for domain in dataset.domains:
        of_domain, users = data.of_domains(domain), split.test.filter(domain=domain)
        adapted = unified.adapt(  # an adapter a domain (Eq. 9)
            data, domain, lora=LoRAConfig(rank=8, alpha=16.0), training=adaptation, pairs=pairs, seed=SEED
        )
        models = {
            "gmc": adapted,
            "gmc without LoRA": unified,
            "sasrec": SASRec(sasrec).fit(of_domain, training=sequential, seed=SEED),
            "popularity": Popularity().fit(of_domain),
        }
        for name, model in models.items():  # generative ones by beam search (Eq. 10)
            ranked = recommend_to(model, users, 10, dataset.domain_items(domain), beams=20)
            rankings.setdefault(name, []).append(ranked)

    test = pl.concat([split.test.filter(domain=domain) for domain in dataset.domains])
    tables = [
        metrics_table(Ranked.concatenate(parts), test["target"], test["domain"]).select(
            "domain", pl.lit(name).alias("row"), pl.format("{}@{}", "metric", "k").alias("metric"), "value"
        )
        for name, parts in rankings.items()
    ]
    return pl.concat(tables).pivot("metric", index=["domain", "row"], values="value")


if __name__ == "__main__":
    source = sys.argv[1] if len(sys.argv) > 1 else "bazaar"
    with pl.Config(tbl_rows=-1, float_precision=4):
        print(gmc_by_hand(load_dataset(source), text=TextConfig()))
