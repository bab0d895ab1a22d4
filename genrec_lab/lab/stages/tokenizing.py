"""Stage 02: from item texts to vectors, codes and unique identifiers, for every method of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrec_lab.data import Dataset
from genrec_lab.encoders import encode_texts
from genrec_lab.lab.files import RunError, hash_file
from genrec_lab.lab.parts import outputs_of, part, settings_of
from genrec_lab.lab.stages.identified import Identified, read_identified, write_identified
from genrec_lab.lab.stages.preparing import PREPARATION, load_prepared
from genrec_lab.lab.stages.pretrained import digests_of_start, pretrained_run
from genrec_lab.lab.stages.quantising import check_items_suffice, identify_by_vectors
from genrec_lab.lab.stages.rows import (
    ALL,
    generative_rows,
    is_universal,
    lead_row,
    pretrained_on,
    reads_text_vectors,
    served,
    tokenizer_owners,
)
from genrec_lab.lab.stages.universal import (
    item_codes,
    training_curves,
    universal_content,
)
from genrec_lab.lab.store import Run, Stage, runs_root
from genrec_lab.models.tokenizers import checked_codes
from genrec_lab.presets import MethodConfig, methods
from genrec_lab.training import processes
from genrec_lab.viz.live import LiveCurves

__all__ = [
    "TOKENIZING",
    "Identified",
    "load_identified",
    "load_vectors",
    "tokenizer_folder",
    "train_tokenizers",
]

TOKENIZING = "02_tokenizer_training"
VECTORS_FILE = "vectors.safetensors"
_USES = (
    "text",
    "tokenizer",
    "identifiers",
    "codebooks",
    "content",
    "tokenizer_training",
    "rqvae",
    "collaborative",
    "naming",
    "pictures",
    "transfer",
    "compare",
    "seed",
)


def train_tokenizers(run: Run, watch: Callable[[str], LiveCurves] | None = None) -> dict[str, Identified]:
    """Encode the texts, train each method's tokenizers, resolve conflicts, write all; return it by method.

    `watch(title)` gives the live curves of a training; by default those of `viz.live`.
    """
    also = digests_of_start(run, TOKENIZING)
    with run.stage(TOKENIZING, inputs=(PREPARATION,), uses=_USES, also=also) as stage:
        dataset = load_prepared(run).dataset
        rows = generative_rows(run)
        owners = tokenizer_owners(rows)
        if not stage.is_finished:
            for name in dict.fromkeys(owners.values()):
                check_items_suffice(dataset, rows[name])  # before the texts are encoded, which takes long
            if reads_text_vectors(run.config, dataset):
                with processes.first_one_first():
                    vectors = encode_texts(
                        dataset.items["text"].to_list(), run.config.text, cache=runs_root() / "cache" / "text"
                    )
                save_file({"vectors": vectors}, stage.folder / VECTORS_FILE)
            else:  # only rows that read no texts are left
                vectors = np.zeros((dataset.n_items, 1), dtype=np.float32)
            for name in dict.fromkeys(owners.values()):
                follows_from = _follows_from(run, rows[name], stage.folder / VECTORS_FILE)
                with part(stage, name, {**follows_from, "also": also}) as made:
                    if not made:
                        _identify(run, dataset, vectors, name, rows[name], stage, watch)
            (stage.folder / "owners.json").write_text(json.dumps(owners, indent=2))
        return {
            name: read_identified(stage.folder / owner, refines=rows[name].tokenizer_class.refines)
            for name, owner in owners.items()
        }


def tokenizer_owner(run: Run, method: str) -> str:
    """Return where in stage 02 a method's tokenizers are: the folder of the first row with the same."""
    return _owners_folder(run, method).name


def _owners_folder(run: Run, method: str | None) -> Path:
    """The folder of a method's tokenizers, by default those of the run's own method."""
    folder = run.read_stage(TOKENIZING)
    owners = json.loads((folder / "owners.json").read_text())
    name = method or lead_row(run)
    if name not in owners:
        raise KeyError(f"run {run.name!r} has no tokenizer for {name!r}; it has {sorted(owners)}")
    return Path(folder / owners[name])


def load_identified(run: Run, method: str | None = None) -> Identified:
    """Read a method's identifiers, by default those of the run's own method."""
    folder = _owners_folder(run, method)
    config = methods(run.config)[method or lead_row(run)]
    return read_identified(folder, refines=config.tokenizer_class.refines)


def tokenizer_folder(run: Run, method: str, scope: str) -> Path:
    """Return where stage 02 wrote a method's tokenizer of a scope: "all", or a domain."""
    return _owners_folder(run, method) / "tokenizers" / scope


def load_vectors(run: Run) -> np.ndarray:
    """Read the text vectors (N, D) of all items; raises RunError where stage 02 had none to encode."""
    file = run.read_stage(TOKENIZING) / VECTORS_FILE
    if not file.is_file():
        raise RunError(
            f"{file} is missing: when stage {TOKENIZING} ran there were no texts, or no row that reads them. "
            f"Where there are now, delete the folder {file.parent} and run it again."
        )
    return load_file(file)["vectors"]


def _follows_from(run: Run, config: MethodConfig, vectors: Path) -> dict[str, Any]:
    """All that a row's tokenizers follow from: its settings, the data, and the text vectors, if any."""
    return {
        "settings": settings_of(run, config, _USES),
        "data": outputs_of(run, PREPARATION),
        "vectors": hash_file(vectors) if vectors.is_file() else None,
    }


def _identify(
    run: Run,
    dataset: Dataset,
    vectors: np.ndarray,
    name: str,
    config: MethodConfig,
    stage: Stage,
    watch: Callable[[str], LiveCurves] | None,
) -> None:
    where = stage.folder / name, stage.scratch / name
    start = pretrained_run(run, config)
    if start is not None and config.transfer.pretrain_tokenizer:
        _identify_by_start(dataset, config, run.seed, stage.folder / name, start)
    elif is_universal(config):
        _identify_universally(dataset, config, run.seed, *where, watch)
    else:
        identify_by_vectors(dataset, vectors, config, run.seed, *where, watch)


def _identify_universally(
    dataset: Dataset,
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
    codebooks: dict[str, list[np.ndarray]] = {}
    epochs = {}
    for scope, domains in domains_of.items():
        items = np.flatnonzero(np.isin(names, domains))
        title = f"{config.name} {scope}"
        content = universal_content(dataset, items, title)
        tokenizer = config.new_tokenizer()
        with training_curves(watch, title, len(items), seed) as curves:
            tokenizer.fit(content, seed=seed, on_epoch=curves, checkpoint=scratch / scope)
        epochs[scope] = list(tokenizer.epochs)
        tokenizer.save(folder / "tokenizers" / scope)
        found = checked_codes(tokenizer, universal_content(dataset))
        assert found.residuals is not None  # noqa: S101 - this kind has some
        if codes is None:
            codes, residuals = found.codes.copy(), found.residuals.copy()
        else:
            codes[items], residuals[items] = found.codes[items], found.residuals[items]
        codebooks[scope] = list(tokenizer.codebooks)  # type: ignore[arg-type]
    assert codes is not None  # noqa: S101 - there is at least one scope
    raw = item_codes(tokenizer, codes, dataset)
    if not config.transfer.pretrain_tokenizer:
        first = codebooks[next(iter(domains_of))]
        codebooks |= {name: first for name in dataset.domains if name not in codebooks}
    write_identified(folder, raw, residuals, codebooks, epochs, config.identifiers, seed)


def _identify_by_start(dataset: Dataset, config: MethodConfig, seed: int, folder: Path, start: Run) -> None:
    """Let the tokenizer that another run pre-trained name all items; its training's records come with it."""
    tokenizer = config.load_tokenizer(tokenizer_folder(start, start.config.name, ALL))
    tokenizer.save(folder / "tokenizers" / ALL)
    found, epochs = checked_codes(tokenizer, universal_content(dataset)), load_identified(start).epochs
    assert found.residuals is not None  # noqa: S101 - this kind has some
    raw = item_codes(tokenizer, found.codes, dataset)
    books = {ALL: list(tokenizer.codebooks)}  # type: ignore[arg-type]
    write_identified(folder, raw, found.residuals, books, epochs, config.identifiers, seed)
