"""Encoding, tokenizing and recommending as Ray Data pipelines from parquet to parquet.

A table is cut into parts, which Ray Data streams through workers that load their model once. A worker reads
its part and writes the result atomically into a file of its own: repeating a part after a worker died changes
nothing, and a killed pipeline resumes where it stopped. Heavy imports are left to the workers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

import genrec_lab
from genrec_lab.data.whole_files import sha256_of, whole_file
from genrec_lab.encoders.text import TEXT_ENCODERS, TextConfig, checked_vectors, identity_of, text_encoder
from genrec_lab.lab.files import as_json, hash_folder, read_json, write_json
from genrec_lab.registry import ComponentConfig, component_config
from genrec_lab.scale.cluster import Cluster, ScaleError, connected, require_room

_MADE_OF = "made_of.json"  # what a table was made of; without it a folder is not the table of a pipeline
_PLAN = "plan.json"  # the same, of a table that is being made
_SAID = 1000  # characters of a worker's error


class Workers(BaseModel):
    """How many workers a pipeline has, and what each of them takes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    count: int = Field(1, ge=1)
    processors: float = Field(1.0, gt=0, description="of each worker")
    gpus: float = Field(0.0, ge=0, description="of each worker; .5 lets two share one")
    rows: int = Field(4096, ge=1, description="of a part, which a worker is given at one time")
    restarts: int = Field(3, ge=0, description="times that a worker which died is started again")


@dataclass(frozen=True)
class _Pipeline:
    """What processes the rows of a table, and what else the outcome depends on."""

    worker: type
    options: Mapping[str, Any]
    keys: tuple[str, ...]
    reads: tuple[str, ...]
    depends_on: Mapping[str, Any]


class EncodeTexts:
    """Texts to content vectors."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = component_config(TEXT_ENCODERS, config)
        self.encoder = text_encoder(self.config)

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`item`, `text` -> `item`, `vector` (D)."""
        texts = rows["text"].to_list()
        vectors = checked_vectors(self.encoder.encode(texts), texts, self.config)
        return _with_lists(rows.select("item"), vector=vectors)


class TokenizeVectors:
    """Content vectors to the codes of a fitted tokenizer."""

    def __init__(self, folder: str) -> None:
        from genrec_lab.models.tokenizers import load_tokenizer

        self.tokenizer = load_tokenizer(folder)
        if "vectors" not in self.tokenizer.needs:
            raise ValueError(
                f"{folder} holds a tokenizer of kind {self.tokenizer.config.kind!r}, which does not encode "
                "vectors; give one that does, such as rqvae or rkmeans"
            )

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`item`, `vector` (D) -> `item`, `codes` (L)."""
        vectors = rows["vector"].cast(pl.List(pl.Float32))
        width = int(vectors.list.len().max() or 0)  # type: ignore[arg-type]  # of a list's length it is an int
        codes = self.tokenizer.encode(vectors.list.to_array(width).to_numpy())
        return _with_lists(rows.select("item"), codes=codes)


class RecommendToUsers:
    """Histories to the next items, by a trained recommender."""

    def __init__(self, folder: str, top_k: int, max_history: int | None = None, **asked: Any) -> None:
        from genrec_lab.lab.serving import history_length, recommend_after
        from genrec_lab.models.recommenders.base import read_recommender

        self.model, self.top_k, self.asked = read_recommender(folder), top_k, asked
        self.recommend = recommend_after
        self.max_history = max_history or history_length(self.model)

    def __call__(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`user`, `domain`, `history` -> `user`, `domain`, `items` (K), `scores` (K)."""
        histories, domains = rows["history"].to_list(), rows["domain"].to_list()
        ranked = self.recommend(self.model, histories, self.top_k, domains, self.max_history, **self.asked)
        return _with_lists(rows.select("user", "domain"), items=ranked.items, scores=ranked.scores)


def encode_catalogue(
    source: str | Path,
    target: str | Path,
    config: ComponentConfig | None = None,
    workers: Workers | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Encode the `text` of each `item` of a table into its `vector`.

    Raises ScaleError for an encoder that needs all texts at once, such as TF-IDF, and as all pipelines do.
    """
    config = config or TextConfig()
    encoder = TEXT_ENCODERS.find(config.kind)
    if getattr(encoder, "needs_all_texts", False):
        raise ScaleError(
            f"text.kind is {config.kind!r}, which needs all texts at once; use 'sentence' or 'mean_pooled'"
        )
    settings = identity_of(encoder, config)
    options = {"config": config.model_dump()}
    _stream(_Pipeline(EncodeTexts, options, ("item",), ("text",), settings), source, target, workers, cluster)


def tokenize_catalogue(
    source: str | Path,
    target: str | Path,
    tokenizer: str | Path,
    workers: Workers | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Give each `item` with its `vector` the `codes` of a tokenizer, before conflicts are resolved.

    tokenizer: the folder of one that names an item by its vector alone. Raises as all pipelines do.
    """
    options = {"folder": str(_model_folder(tokenizer))}
    depends_on = hash_folder(Path(tokenizer))
    pipeline = _Pipeline(TokenizeVectors, options, ("item",), ("vector",), depends_on)
    _stream(pipeline, source, target, workers, cluster)


def recommend_to_users(
    source: str | Path,
    target: str | Path,
    recommender: str | Path,
    top_k: int = 10,
    beams: int | None = None,
    workers: Workers | None = None,
    cluster: Cluster | None = None,
    *,
    allow: Sequence[int] | None = None,
    deny: Sequence[int] | None = None,
    exclude_seen: bool = False,
    max_history: int | None = None,
) -> None:
    """Rank `top_k` items of its `domain` for each `user` after its `history` of item indices.

    recommender: its folder. beams, allow, deny, exclude_seen: those of `recommend`. max_history: how many of
    a history's most recent items are read, by default as many as the recommender states, or 20. Raises as
    all pipelines do.
    """
    lists = {name: None if one is None else [int(item) for item in one]
             for name, one in (("allow", allow), ("deny", deny))}  # fmt: skip
    if max_history is not None and max_history < 1:
        raise ScaleError(f"max_history is {max_history}; expected 1 or more")
    asked = {
        "top_k": top_k,
        "beams": beams,
        **lists,
        "exclude_seen": exclude_seen,
        "max_history": max_history,
    }
    options = {"folder": str(_model_folder(recommender)), **asked}
    depends_on = {**asked, "files": hash_folder(Path(recommender))}
    pipeline = _Pipeline(RecommendToUsers, options, ("user", "domain"), ("history",), depends_on)
    _stream(pipeline, source, target, workers, cluster)


def read_table(folder: str | Path) -> pl.DataFrame:
    """Read what a pipeline wrote, sorted by its keys; ScaleError if it is none, or not whole."""
    mark = Path(folder) / _MADE_OF
    if not mark.is_file():
        raise ScaleError(f"{folder} is not the table of a finished pipeline; run the pipeline again")
    return pl.read_parquet(Path(folder) / "*.parquet").sort(read_json(mark)["keys"])


def _stream(
    pipeline: _Pipeline,
    source: str | Path,
    target: str | Path,
    workers: Workers | None,
    cluster: Cluster | None,
) -> None:
    """Stream a table through workers into a folder; one that was made of the same is left as it is.

    The folder appears when it is complete. Raises ScaleError if the source lacks a column, a value or rows or
    repeats a key, if the target is something else, or if a worker fails.
    """
    files, folder = _parquet_files(Path(source)), Path(target).resolve()
    rows = _require_sound(source, files, pipeline)
    made_of = as_json(
        str(target),
        {
            "worker": pipeline.worker.__name__,
            "keys": pipeline.keys,
            "depends_on": pipeline.depends_on,
            "source": {file.name: sha256_of(file) for file in files},
            "genrec_lab": genrec_lab.__version__,
        },
    )
    mark = folder / _MADE_OF
    if mark.is_file() and read_json(mark) == made_of:
        return
    if folder.exists() and not mark.is_file():
        raise ScaleError(f"{folder} exists, and no pipeline wrote it; name a folder that does not exist yet")
    workers = workers or Workers()
    partial = folder.with_name(f".{folder.name}.partial")
    parts = _open_plan(partial, {**made_of, "rows": workers.rows}, files, workers.rows)
    if parts:
        _run(pipeline, parts, partial, workers, cluster)
    if _counts(pl.scan_parquet(partial / "*.parquet"), pipeline.keys) != (rows, rows):
        raise ScaleError(
            f"{partial} does not have each of the {rows} rows of {source} once; delete it and run again"
        )
    for other in [path for path in partial.iterdir() if path.suffix != ".parquet"]:
        shutil.rmtree(other) if other.is_dir() else other.unlink()
    write_json(partial / _MADE_OF, made_of)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _open_plan(partial: Path, plan: Mapping[str, Any], files: list[Path], rows: int) -> list[dict[str, Any]]:
    """The parts that are still to be done; the parts of another plan are removed."""
    if not (partial / _PLAN).is_file() or read_json(partial / _PLAN) != plan:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(partial / _PLAN, plan)
    shutil.rmtree(partial / "starts", ignore_errors=True)
    (partial / "starts").mkdir()
    lengths = {file: pl.scan_parquet(file).select(pl.len()).collect().item() for file in files}
    places = [(file, first) for file, length in lengths.items() for first in range(0, length, rows)]
    parts = [
        {"file": str(file), "first": first, "rows": rows, "outcome": str(partial / f"{number:06d}.parquet")}
        for number, (file, first) in enumerate(places)
    ]
    return [part for part in parts if not Path(str(part["outcome"])).is_file()]


def _run(
    pipeline: _Pipeline, parts: list[dict[str, Any]], partial: Path, workers: Workers, cluster: Cluster | None
) -> None:
    with connected(cluster) as ray:
        from ray.data import ActorPoolStrategy

        wanted = workers.count * workers.processors, workers.count * workers.gpus
        require_room(ray, f"{workers.count} workers", *wanted)
        done = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
            _Worker,
            fn_constructor_args=(pipeline, partial / "starts", workers.count + workers.restarts),
            batch_size=1,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=min(workers.count, len(parts))),
            num_cpus=workers.processors,
            num_gpus=workers.gpus or None,
        )
        try:
            done.take_all()
        except ray.exceptions.RayError as error:
            raise ScaleError(
                f"a worker of {pipeline.worker.__name__} failed; parts that are done are kept, and the same "
                f"call continues with the others. It said: {str(error).strip()[-_SAID:]}"
            ) from error


class _Worker:
    """Takes a part from its file to the file of its outcome.

    It counts the starts of all workers, because Ray restarts a worker that dies without limit.
    """

    def __init__(self, pipeline: _Pipeline, starts: Path, most: int) -> None:
        self.columns = [*pipeline.keys, *pipeline.reads]
        (starts / uuid4().hex).touch()
        self.starts = sum(1 for _ in starts.iterdir())
        self.work = pipeline.worker(**pipeline.options) if self.starts <= most else None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.work is None:  # said here, since Ray would start what fails at its start again
            raise ScaleError(
                f"workers had to be started {self.starts} times. Workers usually die because they run out of "
                "memory: give each fewer rows, or use fewer workers. The logs of Ray and the system say why"
            )
        part = {name: values.item() for name, values in batch.items()}
        rows = pl.scan_parquet(part["file"]).slice(part["first"], part["rows"]).select(self.columns)
        outcome = Path(part["outcome"])
        # Two workers may do one part if a machine that was thought lost goes on.
        with whole_file(outcome, several_writers=True) as written:
            self.work(rows.collect()).write_parquet(written)
        return {"outcome": batch["outcome"]}


def _with_lists(keys: pl.DataFrame, **values: np.ndarray) -> pl.DataFrame:
    """Rows of keys, and arrays (N, D) as lists, which every reader of parquet knows."""
    return keys.with_columns([pl.Series(name, array).arr.to_list() for name, array in values.items()])


def _parquet_files(source: Path) -> list[Path]:
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise ScaleError(f"{source} is neither a parquet file nor a folder of them; addresses are not read")
    return [file.resolve() for file in files]


def _model_folder(folder: str | Path) -> Path:
    if not (Path(folder) / "config.json").is_file():
        raise ScaleError(
            f"{folder} holds no config.json; expected the folder of a saved model, on a disk that all "
            "machines see. One of the hub: from_pretrained(name).save(folder) first"
        )
    return Path(folder).resolve()


def _require_sound(source: str | Path, files: list[Path], pipeline: _Pipeline) -> int:
    """The number of rows, every one with a key of its own and with all that is read."""
    table = pl.scan_parquet(files)
    names = table.collect_schema().names()
    needed = [*pipeline.keys, *pipeline.reads]
    missing = [name for name in needed if name not in names]
    if missing:
        raise ScaleError(f"{source} has the columns {sorted(names)}; {missing} are needed")
    empty = table.select(pl.col(needed).null_count()).collect().row(0, named=True)
    lacking = {name: count for name, count in empty.items() if count}
    if lacking:
        raise ScaleError(f"{source} lacks values, by column {lacking}; fill them or leave these rows out")
    rows, distinct = _counts(table, pipeline.keys)
    if rows == 0 or distinct != rows:
        raise ScaleError(
            f"{source} has {rows} rows with {distinct} different {' and '.join(pipeline.keys)}; "
            "expected one row for each, and at least one"
        )
    return rows


def _counts(table: pl.LazyFrame, keys: Sequence[str]) -> tuple[int, int]:
    """Rows, and different keys."""
    rows, distinct = table.select(pl.len(), pl.struct(keys).n_unique().alias("distinct")).collect().row(0)
    return int(rows), int(distinct)
