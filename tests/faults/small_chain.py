"""A chain of two stages that a test can afford to kill: data, then a tokenizer and a recommender, ranked."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel

from genrec_lab.codes import ItemCodes
from genrec_lab.data.batches import PairBatches
from genrec_lab.lab import store
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.tokenizers.rqvae import RQVAE, RQVAEConfig
from genrec_lab.training import TrainingConfig, fit

T5 = T5Config(d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=1, decoder_layers=1, dropout=0.1,
              relative_buckets=8, relative_max_distance=16)  # fmt: skip
TOKENIZER = RQVAEConfig(hidden=(10,), levels=2, codebook_size=6, dimension=4, batch_size=8, epochs=60,
                    report_every=5)  # fmt: skip


class Settings(BaseModel):
    """The config of the run: nothing in it is varied."""

    users: int = 60


def prepare(run: store.Run) -> None:
    """Stage 01: content vectors of items and pairs to learn from."""
    with run.stage("01_data_preparation", uses=("users", "seed")) as stage:
        if stage.is_finished:
            return
        rng = np.random.default_rng(run.seed)
        np.save(stage.folder / "vectors.npy", rng.normal(size=(36, 12)).astype(np.float32))
        users = run.config.users
        histories = [rng.integers(36, size=1 + row % 4).tolist() for row in range(users)]
        pairs = {"user": range(users), "history": histories, "target": rng.integers(36, size=users)}
        pl.DataFrame(pairs).write_parquet(stage.folder / "pairs.parquet")


def train(run: store.Run) -> None:
    """Stage 02: a tokenizer with checkpoints, a recommender with checkpoints, its rankings as metrics."""
    with run.stage("02_tokenizer_training", inputs=("01_data_preparation",), uses=("seed",)) as stage:
        if stage.is_finished:
            return
        data = run.read_stage("01_data_preparation")
        vectors, pairs = np.load(data / "vectors.npy"), pl.read_parquet(data / "pairs.parquet")
        tokenizer = RQVAE(TOKENIZER).fit(
            vectors, seed=run.seed, checkpoint=stage.scratch / "rqvae", checkpoint_every=5
        )
        codes = ItemCodes(tokenizer.encode(vectors), (6, 6)).resolve("extra_level")
        torch.manual_seed(run.seed)
        model = Recommender(codes, T5)
        config = TrainingConfig(epochs=25, batch_size=8, learning_rate=0.01, precision="fp32")
        result = fit(model, PairBatches(pairs, 8), config, checkpoints=stage.scratch / "t5", seed=run.seed)
        scores = model.recommend(pairs["history"].to_list(), 3, beams=4).scores
        values = {"loss": result.history[-1].loss, "score": float(scores.mean())}
        rows = [{"domain": "all", "metric": name, "value": value} for name, value in values.items()]
        run.record_metrics("small", rows)


def main() -> None:
    """Open the run below $GENREC_RUNS and work on both stages; finished ones are left alone."""
    store.load_config = lambda preset, overrides: Settings()
    run = store.open_run("small", dataset={"name": "bazaar"}, preset="small")
    prepare(run)
    train(run)


if __name__ == "__main__":
    main()
