"""Stage 02: from item texts to vectors, codes and unique identifiers, for every method of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrec_lab.codes import IdentifierConfig, ItemCodes, Resolution
from genrec_lab.data import Dataset
from genrec_lab.encoders import encode_texts
from genrec_lab.models.residual_kmeans import ResidualKMeans, ResidualKMeansConfig
from genrec_lab.models.rqvae import RQVAE, RQVAEConfig, TokenizerEpoch, train_rqvae
from genrec_lab.models.tree_tokenizer import TreeTokenizerConfig
from genrec_lab.presets import MethodConfig
from genrec_lab.run.stages.preparing import PREPARATION, load_prepared
from genrec_lab.run.stages.rows import (
    ALL,
    generative_rows,
    has_texts,
    is_universal,
    lead_row,
    pretrained_on,
    scopes,
    served,
    tokenizer_owners,
)
from genrec_lab.run.stages.universal import item_codes, new_tokenizer, train_tokenizer, training_curves
from genrec_lab.run.store import Run, runs_root
from genrec_lab.viz.live import LiveCurves

TOKENIZING = "02_tokenizer_training"
_USES = (
    "text",
    "tokenizer",
    "identifiers",
    "codebooks",
    "content",
    "tokenizer_training",
    "rqvae",
    "transfer",
    "compare",
    "seed",
)


@dataclass(frozen=True)
class Identified:
    """What a method's tokenizer made of the catalogue."""

    raw: ItemCodes  # as quantised; items may share an identifier
    codes: ItemCodes  # after the conflict policy; unique within each domain
    residuals: np.ndarray  # (N, L, d): what each level quantised, r_0 first
    codebooks: dict[str, list[np.ndarray]]  # (K, d) of each level, by scope: "all", or a domain each
    resolution: dict[str, Any]  # policy, moved, cost, displaced, unsolved
    epochs: dict[str, list[dict[str, Any]]]  # a training's records by scope; empty for residual k-means

    @property
    def tokenizers(self) -> int:
        """How many tokenizers were trained: one for all domains, or one a domain."""
        return len(self.epochs)

    def codebooks_of(self, domain: str) -> list[np.ndarray]:
        """The codebooks (K_l, d) of each level with which a domain's items were named."""
        return self.codebooks[domain if domain in self.codebooks else ALL]


def train_tokenizers(run: Run, watch: Callable[[str], LiveCurves] | None = None) -> dict[str, Identified]:
    """Encode the texts, train each method's tokenizers, resolve conflicts, write all; return it by method.

    `watch(title)` gives the live curves of a training; by default those of `viz.live`.
    """
    with run.stage(TOKENIZING, inputs=(PREPARATION,), uses=_USES) as stage:
        rows = generative_rows(run)
        owners = tokenizer_owners(rows)
        if not stage.is_finished:
            dataset = load_prepared(run).dataset
            for name in dict.fromkeys(owners.values()):
                _check_codebooks_fit(dataset, rows[name])  # before the texts are encoded, which takes long
            if has_texts(dataset):
                vectors = encode_texts(
                    dataset.items["text"].to_list(), run.config.text, cache=runs_root() / "cache" / "text"
                )
                save_file({"vectors": vectors}, stage.folder / "vectors.safetensors")
            else:  # only rows that read no texts are left
                vectors = np.zeros((dataset.n_items, 1), dtype=np.float32)
            for name in dict.fromkeys(owners.values()):
                identify = _identify_universally if is_universal(rows[name]) else _identify
                identify(
                    dataset, vectors, rows[name], run.seed, stage.folder / name, stage.scratch / name, watch
                )
            (stage.folder / "owners.json").write_text(json.dumps(owners, indent=2))
        return {name: _read(stage.folder / owner) for name, owner in owners.items()}


def load_identified(run: Run, method: str | None = None) -> Identified:
    """Read a method's identifiers, by default those of the run's own method."""
    folder = run.read_stage(TOKENIZING)
    owners = json.loads((folder / "owners.json").read_text())
    name = method or lead_row(run)
    if name not in owners:
        raise KeyError(f"run {run.name!r} has no tokenizer for {name!r}; it has {sorted(owners)}")
    return _read(folder / owners[name])


def tokenizer_folder(run: Run, method: str, scope: str) -> Path:
    """Return where stage 02 wrote a method's tokenizer of a scope: "all", or a domain."""
    folder = run.read_stage(TOKENIZING)
    owners = json.loads((folder / "owners.json").read_text())
    return Path(folder / owners[method] / "tokenizers" / scope)


def load_vectors(run: Run) -> np.ndarray:
    """Read the text vectors (N, D) of all items."""
    return load_file(run.read_stage(TOKENIZING) / "vectors.safetensors")["vectors"]


def _check_codebooks_fit(dataset: Dataset, config: MethodConfig) -> None:
    if isinstance(config.tokenizer, TreeTokenizerConfig):
        return  # its codebooks are trained, and may be larger than the catalogue
    size, counts = config.tokenizer.codebook_size, np.bincount(dataset.item_domains())
    for scope, domains in scopes(dataset.domains, separate=config.codebooks == "separate").items():
        items = int(sum(counts[dataset.domains.index(domain)] for domain in domains))
        if size > items:
            raise ValueError(
                f"tokenizer.codebook_size is {size}, but {scope!r} has only {items} items; "
                f"set overrides={{'tokenizer.codebook_size': {items}}} or less"
            )


def _identify(
    dataset: Dataset,
    vectors: np.ndarray,
    config: MethodConfig,
    seed: int,
    folder: Path,
    scratch: Path,
    watch: Callable[[str], LiveCurves] | None,
) -> None:
    """Train one method's tokenizers and write codes, residuals, codebooks and what the conflicts cost."""
    of_item = dataset.item_domains()
    names = np.array(dataset.domains)
    assert not isinstance(config.tokenizer, TreeTokenizerConfig)  # noqa: S101 - the caller's choice
    levels, size = config.tokenizer.levels, config.tokenizer.codebook_size
    codes = np.zeros((dataset.n_items, levels), dtype=np.int64)
    residuals: np.ndarray | None = None
    codebooks, epochs = {}, {}
    for scope, domains in scopes(dataset.domains, separate=config.codebooks == "separate").items():
        items = np.flatnonzero(np.isin(names[of_item], domains))
        model, records = _train(
            vectors[items], of_item[items], config, seed, scratch / scope, f"{config.name} {scope}", watch
        )
        tokenized = model.tokenize(vectors[items])
        codes[items] = tokenized.codes
        if residuals is None:
            residuals = np.zeros((dataset.n_items, *tokenized.residuals.shape[1:]), dtype=np.float32)
        residuals[items] = tokenized.residuals
        codebooks[scope], epochs[scope] = list(model.codebooks), [asdict(record) for record in records]
        model.save(folder / "tokenizers" / scope)
    assert residuals is not None  # noqa: S101 - a dataset has at least one domain
    raw = ItemCodes(codes, (size,) * levels, names[of_item].tolist())
    _write(folder, raw, residuals, codebooks, epochs, config.identifiers, seed)


def _identify_universally(
    dataset: Dataset,
    vectors: np.ndarray,
    config: MethodConfig,
    seed: int,
    folder: Path,
    scratch: Path,
    watch: Callable[[str], LiveCurves] | None,
) -> None:
    """Pre-train UTGRec's tokenizer (2.3) and let it name all items, also those of domains it has not seen.

    Without pre-training (Table 3, variant 7) each target has a tokenizer of its own instead.
    """
    names = dataset.items["domain"].to_numpy()
    if config.transfer.pretrain_tokenizer:
        domains_of = {ALL: pretrained_on(config, dataset.domains)}
    else:
        domains_of = {domain: (domain,) for domain in served(config, dataset.domains)}
    codes: np.ndarray | None = None
    codebooks, epochs = {}, {}
    for scope, domains in domains_of.items():
        items = np.flatnonzero(np.isin(names, domains))
        tokenizer = new_tokenizer(dataset, config, items, seed)
        epochs[scope] = train_tokenizer(
            tokenizer,
            dataset,
            items,
            config.tokenizer_training,
            seed,
            scratch / scope,
            f"{config.name} {scope}",
            watch,
        )
        tokenizer.model.save(folder / "tokenizers" / scope)
        found = tokenizer.tokenize()
        if codes is None:
            codes, residuals = found.codes.copy(), found.residuals.copy()
        else:
            codes[items], residuals[items] = found.codes[items], found.residuals[items]
        codebooks[scope] = tokenizer.codebooks()
    assert codes is not None  # noqa: S101 - there is at least one scope
    raw = item_codes(tokenizer, codes, dataset)
    if not config.transfer.pretrain_tokenizer:
        first = codebooks[next(iter(domains_of))]
        codebooks |= {name: first for name in dataset.domains if name not in codebooks}
    _write(folder, raw, residuals, codebooks, epochs, config.identifiers, seed)


def _write(
    folder: Path,
    raw: ItemCodes,
    residuals: np.ndarray,
    codebooks: dict[str, list[np.ndarray]],
    epochs: dict[str, Any],
    identifiers: IdentifierConfig,
    seed: int,
) -> None:
    """Make the identifiers unique and write everything of a method's tokenizers."""
    last = {name: codebooks[name if name in codebooks else ALL] for name in raw.domain_names}
    resolution = _resolve(raw, identifiers, residuals, last, seed)
    folder.mkdir(parents=True, exist_ok=True)
    raw.write(folder / "raw_codes.parquet")
    resolution.codes.write(folder / "codes.parquet")
    tensors = {
        f"codebooks/{scope}/{level}": np.ascontiguousarray(book)
        for scope, books_of_scope in codebooks.items()
        for level, book in enumerate(books_of_scope)
    }
    save_file({"residuals": residuals, **tensors}, folder / "quantised.safetensors")
    cost = {key: getattr(resolution, key) for key in ("policy", "moved", "cost", "displaced", "unsolved")}
    (folder / "resolution.json").write_text(json.dumps(cost | {"summary": str(resolution)}, indent=2))
    (folder / "epochs.json").write_text(json.dumps(epochs))


def _train(
    vectors: np.ndarray,
    domains: np.ndarray,
    config: MethodConfig,
    seed: int,
    scratch: Path,
    title: str,
    watch: Callable[[str], LiveCurves] | None,
) -> tuple[RQVAE | ResidualKMeans, list[TokenizerEpoch]]:
    tokenizer = config.tokenizer
    if isinstance(tokenizer, ResidualKMeansConfig):
        return ResidualKMeans.fit(vectors, tokenizer, seed), []
    assert isinstance(tokenizer, RQVAEConfig)  # noqa: S101 - the only other kind that reads vectors
    with training_curves(watch, title, len(vectors), seed) as curves:
        model = train_rqvae(vectors, domains, tokenizer, seed, on_epoch=curves, checkpoint=scratch)
    return model, list(curves.records)


def _resolve(
    raw: ItemCodes, identifiers: IdentifierConfig, residuals: np.ndarray, codebooks: dict[str, Any], seed: int
) -> Resolution:
    resolution = raw.resolve_with_cost(identifiers, residuals, codebooks, seed)
    print(f"collision rate {raw.collision_rate():.2%}; {resolution}", flush=True)
    return resolution


def _read(folder: Path) -> Identified:
    tensors = load_file(folder / "quantised.safetensors")
    return Identified(
        raw=ItemCodes.read(folder / "raw_codes.parquet"),
        codes=ItemCodes.read(folder / "codes.parquet"),
        residuals=tensors.pop("residuals"),
        codebooks=_by_scope(tensors),
        resolution=json.loads((folder / "resolution.json").read_text()),
        epochs=json.loads((folder / "epochs.json").read_text()),
    )


def _by_scope(tensors: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """`codebooks/<scope>/<level>` -> the books of each scope in the order of levels."""
    named = sorted((name.split("/")[1], int(name.rsplit("/", 1)[1]), name) for name in tensors)
    found: dict[str, list[np.ndarray]] = {}
    for scope, _, name in named:
        found.setdefault(scope, []).append(tensors[name])
    return found
