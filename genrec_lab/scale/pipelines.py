"""Encoding, tokenizing and recommending as Ray Data pipelines from parquet to parquet.

Each pipeline streams blocks of rows through workers that load their model once. A worker that dies is started
again and its block done again. Rows may be written in another order than they were read; each carries its
number, and `read_table` sorts by it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from genrec_lab.encoders.text import TextConfig, text_encoder
from genrec_lab.models.letter import Letter
from genrec_lab.models.product_quantization import ProductQuantizer
from genrec_lab.models.recommenders import read_recommender
from genrec_lab.models.residual_kmeans import ResidualKMeans
from genrec_lab.models.rqvae import RQVAE
from genrec_lab.scale.cluster import Cluster, ScaleError, connected

Batch = Mapping[str, np.ndarray]
TOKENIZERS: dict[str, Any] = {
    "rqvae": RQVAE,
    "letter": Letter,
    "rkmeans": ResidualKMeans,
    "pq": ProductQuantizer,
    "opq": ProductQuantizer,
}
_DONE = "_SUCCESS"  # written last: a folder without it is not whole


class Workers(BaseModel):
    """How many workers a pipeline has, and what each of them takes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    count: int = Field(1, ge=1)
    processors: float = Field(1.0, gt=0, description="of each worker")
    gpus: float = Field(0.0, ge=0, description="of each worker; .5 lets two share one")
    rows: int = Field(1024, ge=1, description="that a worker is given at one time")


class EncodeTexts:
    """Texts to content vectors."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.encode = text_encoder(TextConfig(**config))

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """`item`, `text` -> `item`, `vector` (B, D)."""
        return {"item": batch["item"], "vector": self.encode([str(text) for text in batch["text"]])}


class TokenizeVectors:
    """Content vectors to the codes of a tokenizer that `save` wrote."""

    def __init__(self, folder: str) -> None:
        kind = json.loads((Path(folder) / "config.json").read_text())["kind"]
        if kind not in TOKENIZERS:
            raise ScaleError(
                f"{folder} holds a tokenizer of kind {kind!r}; expected one of {sorted(TOKENIZERS)}"
            )
        self.tokenizer = TOKENIZERS[kind].load(Path(folder))

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """`item`, `vector` -> `item`, `codes` (B, L)."""
        vectors = np.stack(list(batch["vector"])).astype(np.float32)
        return {"item": batch["item"], "codes": self.tokenizer.tokenize(vectors).codes}


class RecommendToUsers:
    """Histories to the next items, by a recommender that `save` wrote."""

    def __init__(self, folder: str, top_k: int, beams: int | None) -> None:
        self.model, self.top_k, self.beams = read_recommender(folder), top_k, beams

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """`user`, `history`, `domain` -> `user`, `items` (B, K), `scores` (B, K)."""
        histories = [np.asarray(history, dtype=np.int64).tolist() for history in batch["history"]]
        domains = [str(name) for name in batch["domain"]] if "domain" in batch else None
        ranked = self.model.recommend(histories, self.top_k, domains, beams=self.beams)
        return {"user": batch["user"], "items": ranked.items, "scores": ranked.scores}


def encode_catalogue(
    source: str | Path,
    target: str | Path,
    config: TextConfig | None = None,
    workers: Workers | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Encode the `text` of each `item` of a table into `vector`.

    Raises ScaleError for TF-IDF, which looks at all texts at once.
    """
    config = config or TextConfig()
    if config.kind == "tfidf":
        raise ScaleError(
            "text.kind is 'tfidf', which counts the words of all texts; take 'sentence' or 'mean_pooled'"
        )
    through(EncodeTexts, {"config": config.model_dump()}, source, target, ("item", "text"), workers, cluster)


def tokenize_catalogue(
    source: str | Path,
    target: str | Path,
    tokenizer: str | Path,
    workers: Workers | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Give each `item` with its `vector` the `codes` of a tokenizer, before conflicts are resolved."""
    through(TokenizeVectors, {"folder": str(tokenizer)}, source, target, ("item", "vector"), workers, cluster)


def recommend_to_users(
    source: str | Path,
    target: str | Path,
    recommender: str | Path,
    top_k: int = 10,
    beams: int | None = None,
    workers: Workers | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Rank `top_k` items for each `user` after its `history` of item indices, in its `domain` if told."""
    options = {"folder": str(recommender), "top_k": top_k, "beams": beams}
    through(RecommendToUsers, options, source, target, ("user", "history"), workers, cluster)


def through(
    work: type,
    options: Mapping[str, Any],
    source: str | Path,
    target: str | Path,
    columns: tuple[str, ...],
    workers: Workers | None,
    cluster: Cluster | None,
) -> None:
    """Stream a table through workers `work(**options)`; a table that is whole already is left as it is.

    A target that is not whole, as after a kill, is made anew. Raises ScaleError where a column is missing.
    """
    workers = workers or Workers()
    local = "://" not in str(target)
    if local and (Path(target) / _DONE).is_file():
        return
    with connected(cluster) as ray:
        from ray.data import ActorPoolStrategy

        table = ray.data.read_parquet(str(source))
        missing = [name for name in columns if name not in table.columns()]
        if missing:
            raise ScaleError(f"{source} has the columns {sorted(table.columns())}; {missing} are needed")
        partial = f"{str(target).rstrip('/')}.partial" if local else str(target)
        if local:
            shutil.rmtree(partial, ignore_errors=True)
        table.map_batches(
            work,
            fn_constructor_kwargs=dict(options),
            batch_size=workers.rows,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=workers.count),
            num_cpus=workers.processors,
            num_gpus=workers.gpus or None,
        ).write_parquet(partial)
    if local:
        (Path(partial) / _DONE).touch()
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)


def read_table(folder: str | Path) -> pl.DataFrame:
    """Read what a pipeline wrote, sorted by its first column; ScaleError where it is not whole."""
    if not (Path(folder) / _DONE).is_file():
        raise ScaleError(f"{folder} is not whole: the pipeline that wrote it did not end; run it again")
    table = pl.read_parquet(Path(folder) / "*.parquet")
    return table.sort(table.columns[0])
