"""A chain of two stages that a test can afford to kill: data, then a tokenizer and a recommender, ranked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import torch

from genrec_lab.codes import ItemCodes
from genrec_lab.data.batches import PairBatches
from genrec_lab.lab.files import write_json
from genrec_lab.lab.store import Run, Task, Work, runs_root
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.tokenizers.rqvae import RQVAE, RQVAEConfig
from genrec_lab.training import TrainingConfig, fit

T5 = T5Config(d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=1, decoder_layers=1, dropout=0.1,
              relative_buckets=8, relative_max_distance=16)  # fmt: skip
TOKENIZER = RQVAEConfig(hidden=(10,), levels=2, codebook_size=6, dimension=4, batch_size=8, epochs=30,
                    report_every=5)  # fmt: skip


def prepare(work: Work, users: int, seed: int) -> None:
    """Stage 01: content vectors of items and pairs to learn from."""
    rng = np.random.default_rng(seed)
    np.save(work.folder / "vectors.npy", rng.normal(size=(36, 12)).astype(np.float32))
    histories = [rng.integers(36, size=1 + row % 4).tolist() for row in range(users)]
    pairs = {"user": range(users), "history": histories, "target": rng.integers(36, size=users)}
    pl.DataFrame(pairs).write_parquet(work.folder / "pairs.parquet")


def train(work: Work, seed: int, data: Path) -> None:
    """Stage 02: a tokenizer with checkpoints, a recommender with checkpoints, and what came of both."""
    vectors, pairs = np.load(data / "vectors.npy"), pl.read_parquet(data / "pairs.parquet")
    tokenizer = RQVAE(TOKENIZER).fit(
        vectors, seed=seed, checkpoint=work.scratch / "rqvae", checkpoint_every=5
    )
    codes = ItemCodes(tokenizer.encode(vectors), (6, 6)).resolve("extra_level")
    torch.manual_seed(seed)
    model = Recommender(codes, T5)
    config = TrainingConfig(epochs=12, batch_size=8, learning_rate=0.01, precision="fp32")
    result = fit(model, PairBatches(pairs, 8), config, checkpoints=work.scratch / "t5", seed=seed)
    scores = model.recommend(pairs["history"].to_list(), 3, beams=4).scores
    values = {"loss": result.history[-1].loss, "score": float(scores.mean())}
    (work.folder / "values.json").write_text(json.dumps(values))


def main() -> None:
    """Work on both stages below $GENREC_RUNS, where finished ones are left alone, and write the metrics."""
    run = Run(runs_root() / "small", {"dataset": {"name": "bazaar"}, "seed": 0}, None)
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.edited_manifest() as manifest:
        manifest["parameters"] = run.parameters
    data = Task("01_data_preparation", "data", prepare, {"users": 60, "seed": run.seed})
    trained = Task("02_tokenizer_training", "small", train, {"seed": run.seed}, {"data": data})
    run.make(data)
    values = json.loads((run.make(trained) / "values.json").read_text())
    known = {"method": "small", "domain": "all", "k": None, "seed": run.seed}
    records = [{**known, "metric": name, "value": value} for name, value in values.items()]
    write_json(run.folder / "metrics.json", {"records": records})


if __name__ == "__main__":
    main()
