"""The tokenizers of stage 02 that name items by vectors, or by who stands beside them in sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from genrec_lab.codes import ItemCodes, PrefixCodewords
from genrec_lab.data import Dataset, training_places
from genrec_lab.encoders.content import content_of
from genrec_lab.encoders.picture_vectors import encode_pictures
from genrec_lab.lab.stages.collaborating import collaborative_vectors
from genrec_lab.lab.stages.identified import write_identified
from genrec_lab.lab.stages.naming import written_ids
from genrec_lab.lab.stages.rows import tokenizer_scopes
from genrec_lab.lab.stages.universal import training_curves
from genrec_lab.lab.store import runs_root
from genrec_lab.models.tokenizers.autoencoder import AutoencoderConfig, TokenizerEpoch
from genrec_lab.models.tokenizers.co_occurrence import (
    CoOccurrenceCodes,
    CoOccurrenceConfig,
    co_occurrence_graph,
)
from genrec_lab.models.tokenizers.hierarchical_kmeans import HierarchicalKMeans
from genrec_lab.models.tokenizers.letter import LetterConfig, train_letter
from genrec_lab.models.tokenizers.quantizers import Tokenized
from genrec_lab.models.tokenizers.textual_ids import TextualIds, TextualIdsConfig
from genrec_lab.models.tokenizers.tree_tokenizer import TreeTokenizerConfig
from genrec_lab.models.tokenizers.vector_tokenizers import VectorTokenizer, fit_tokenizer, least_items
from genrec_lab.presets import MethodConfig
from genrec_lab.training import processes
from genrec_lab.viz.live import LiveCurves


def check_items_suffice(dataset: Dataset, config: MethodConfig) -> None:
    """Raise ValueError where a method has more codes a level to place than there are items."""
    if isinstance(config.tokenizer, TreeTokenizerConfig | CoOccurrenceConfig | TextualIdsConfig):
        return  # books that are trained may be larger; the others have as many codes as they need
    own = config.tokenizer
    size = own.codebook_size if isinstance(own, LetterConfig) else least_items(own)
    counts = np.bincount(dataset.item_domains())
    for scope, domains in tokenizer_scopes(config, dataset.domains).items():
        items = int(sum(counts[dataset.domains.index(domain)] for domain in domains))
        if size > items:
            raise ValueError(
                f"tokenizer.codebook_size is {size}, but {scope!r} has only {items} items; "
                f"set overrides={{'tokenizer.codebook_size': {items}}} or less"
            )


def identify_by_vectors(
    dataset: Dataset,
    vectors: np.ndarray,
    config: MethodConfig,
    seed: int,
    folder: Path,
    scratch: Path,
    watch: Callable[[str], LiveCurves] | None,
) -> None:
    """Train one method's tokenizers and write codes, residuals, codebooks and what the conflicts cost.

    vectors: (N, D) text vectors of all items. Items of domains that a run does not serve, and that have no
    tokenizer of their own, are named by that of the first domain that it serves.
    """
    names = np.array(dataset.domains)[dataset.item_domains()]
    vectors = _with_pictures(dataset, vectors, config)
    found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    books: dict[str, list[np.ndarray] | PrefixCodewords] = {}
    epochs = {}
    trained = tokenizer_scopes(config, dataset.domains)
    unserved = np.flatnonzero(~np.isin(names, [name for domains in trained.values() for name in domains]))
    for scope, domains in trained.items():
        items = np.flatnonzero(np.isin(names, domains))
        title = f"{config.name} {scope}"
        model, records = _train(dataset, items, vectors[items], config, seed, scratch / scope, title, watch)
        tokenized = model.tokenize(vectors[items])
        found[scope] = items, tokenized.codes, tokenized.residuals
        books[scope] = _codewords(model)
        epochs[scope] = [asdict(record) for record in records]
        model.save(folder / "tokenizers" / scope)
        if len(unserved) and len(found) == 1:
            others = sorted(set(names[unserved].tolist()))
            print(f"{title}: names {', '.join(others)} too, where nothing is recommended", flush=True)
            found["unserved"] = unserved, *_named_by(model, vectors[unserved], tokenized)
            books |= dict.fromkeys(others, books[scope])
    codes, residuals = _assembled(list(found.values()), dataset.n_items)
    sizes = _sizes(books, codes)
    for scope, book in books.items():
        if not book:  # codes that lie nowhere
            books[scope] = [np.zeros((size, 0), dtype=np.float32) for size in sizes]
    # A piece of a word is the same one wherever it stands in an id.
    alike = range(len(sizes)) if isinstance(config.tokenizer, TextualIdsConfig) else ()
    raw = ItemCodes(codes, sizes, names.tolist(), alike)
    write_identified(folder, raw, residuals, books, epochs, config.identifiers, seed)


def _named_by(model: VectorTokenizer, vectors: np.ndarray, own: Tokenized) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, L) and residuals (n, L, d) of other items than a tokenizer was trained on.

    One that knows the items of its own catalogue alone, `own`, has them numbered: their last codes count on.
    """
    if not isinstance(model, CoOccurrenceCodes | TextualIds):
        other = model.tokenize(vectors)
        return other.codes, other.residuals
    numbers = np.arange(len(vectors))
    codes = np.empty((len(vectors), own.codes.shape[1]), dtype=np.int64)
    for level, size in enumerate(own.codes.max(axis=0)[:-1] + 1):
        numbers, codes[:, level] = np.divmod(numbers, size)
    codes[:, -1] = numbers
    return codes, np.zeros((*codes.shape, 0), dtype=np.float32)


def _with_pictures(dataset: Dataset, vectors: np.ndarray, config: MethodConfig) -> np.ndarray:
    """Text vectors, beside them those of pictures where the method reads both: (N, D)."""
    if config.pictures == "none":
        return vectors
    content = content_of(dataset)
    with processes.first_one_first():
        pictures = encode_pictures(content, config.pictures, cache=runs_root() / "cache" / "pictures")
    return np.concatenate([vectors, pictures], axis=1)


def _train(
    dataset: Dataset,
    items: np.ndarray,
    vectors: np.ndarray,
    config: MethodConfig,
    seed: int,
    scratch: Path,
    title: str,
    watch: Callable[[str], LiveCurves] | None,
) -> tuple[VectorTokenizer, list[TokenizerEpoch]]:
    """Train a tokenizer on some items (n,) with their vectors (n, D); return it with its epochs."""
    tokenizer, domains = config.tokenizer, dataset.item_domains()[items]
    assert not isinstance(tokenizer, TreeTokenizerConfig)  # noqa: S101 - the caller's choice
    if isinstance(tokenizer, CoOccurrenceConfig):
        graph = co_occurrence_graph(training_places(dataset, items), len(items))
        return CoOccurrenceCodes.fit(graph, tokenizer, seed), []
    if isinstance(tokenizer, TextualIdsConfig):
        return written_ids(dataset, items, tokenizer, config.naming, seed, scratch, title), []
    if not isinstance(tokenizer, AutoencoderConfig):
        return fit_tokenizer(vectors, domains, tokenizer, seed), []
    beside: np.ndarray | None = None
    if isinstance(tokenizer, LetterConfig):
        beside = collaborative_vectors(dataset, items, config.collaborative, seed, scratch / "collaborative")
    with training_curves(watch, title, len(vectors), seed) as curves:
        model: VectorTokenizer
        if isinstance(tokenizer, LetterConfig):
            assert beside is not None  # noqa: S101 - made above
            model = train_letter(vectors, beside, domains, tokenizer, seed, curves, scratch)
        else:
            model = fit_tokenizer(vectors, domains, tokenizer, seed, curves, scratch)
    return model, list(curves.records)


def _codewords(model: Any) -> list[np.ndarray] | PrefixCodewords:
    """The books (K, d) of each level; those of the last level where they differ from prefix to prefix."""
    if isinstance(model, HierarchicalKMeans):
        return model.codewords
    return [] if isinstance(model, CoOccurrenceCodes) else list(model.codebooks)


def _assembled(
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], n_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, L) and residuals (N, L, d) of all items, from those of the items of each scope.

    Where identifiers of one scope are shorter than those of another, as P5-CID's may be, they get codes of 0
    before their last one, which is their number among the items of a cluster.
    """
    levels = max(codes.shape[1] for _, codes, _ in parts)
    codes = np.zeros((n_items, levels), dtype=np.int64)
    residuals = np.zeros((n_items, levels, parts[0][2].shape[2]), dtype=np.float32)
    for items, of_scope, left in parts:
        codes[items, : of_scope.shape[1] - 1] = of_scope[:, :-1]
        codes[items, -1] = of_scope[:, -1]
        residuals[items, : left.shape[1]] = left
    return codes, residuals


def _sizes(books: dict[str, list[np.ndarray] | PrefixCodewords], codes: np.ndarray) -> tuple[int, ...]:
    """The number of codes of each level: that of its book, or of the codes in use where there is none."""
    first = next(iter(books.values()))
    if isinstance(first, PrefixCodewords):
        return (first.size,) * codes.shape[1]
    return tuple(map(len, first)) or tuple((codes.max(axis=0) + 1).tolist())
