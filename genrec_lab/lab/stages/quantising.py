"""The tokenizers of stage 02 that name items by vectors, or by who stands beside them in sequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from genrec_lab.codes import ItemCodes, PrefixCodewords
from genrec_lab.data import Dataset
from genrec_lab.encoders.content import content_of
from genrec_lab.encoders.picture_vectors import encode_pictures
from genrec_lab.lab.stages.identified import write_identified
from genrec_lab.lab.stages.rows import tokenizer_scopes
from genrec_lab.lab.stages.universal import training_curves
from genrec_lab.lab.store import runs_root
from genrec_lab.models.tokenizers import ItemContent, Tokenized, checked_codes
from genrec_lab.presets import MethodConfig
from genrec_lab.training import processes
from genrec_lab.viz.live import LiveCurves


def check_items_suffice(dataset: Dataset, config: MethodConfig) -> None:
    """Raise ValueError where a method has more codes a level to place than there are items."""
    size = config.tokenizer_class.least_items(config.tokenizer)
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
    epochs, stated = {}, []
    trained = tokenizer_scopes(config, dataset.domains)
    unserved = np.flatnonzero(~np.isin(names, [name for domains in trained.values() for name in domains]))
    for scope, domains in trained.items():
        items = np.flatnonzero(np.isin(names, domains))
        title = f"{config.name} {scope}"
        content = ItemContent.from_dataset(dataset, vectors, items, title=title)
        with training_curves(watch, title, len(items), seed) as curves:
            model = config.new_tokenizer().fit(
                content, seed=seed, on_epoch=curves, checkpoint=scratch / scope
            )
        found[scope] = items, *_named(checked_codes(model, content))
        books[scope] = model.codebooks if isinstance(model.codebooks, PrefixCodewords) else [*model.codebooks]
        epochs[scope] = list(model.epochs)
        stated.append(model.sizes)
        model.save(folder / "tokenizers" / scope)
        if len(unserved) and len(found) == 1:
            others = sorted(set(names[unserved].tolist()))
            print(f"{title}: names {', '.join(others)} too, where nothing is recommended", flush=True)
            rest = ItemContent.from_dataset(dataset, vectors, unserved)
            found["unserved"] = unserved, *_named(model.tokenize_unserved(rest))
            books |= dict.fromkeys(others, books[scope])
    codes, residuals = _assembled(list(found.values()), dataset.n_items)
    levels = codes.shape[1]
    most = np.max([codes.max(axis=0) + 1, *(_aligned(sizes, levels) for sizes in stated)], axis=0)
    sizes = tuple(most.tolist())
    for scope, book in books.items():
        if not book:  # codes that lie nowhere
            books[scope] = [np.zeros((size, 0), dtype=np.float32) for size in sizes]
    raw = ItemCodes(codes, sizes, names.tolist(), model.alike)
    write_identified(folder, raw, residuals, books, epochs, config.identifiers, seed)


def _named(found: Tokenized) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, L) and residuals (n, L, d), of d = 0 where nothing is quantised."""
    nothing = np.zeros((*found.codes.shape, 0), dtype=np.float32)
    return found.codes, nothing if found.residuals is None else found.residuals


def _aligned(sizes: tuple[int, ...], levels: int) -> np.ndarray:
    """Sizes of so many levels: a tokenizer's with fewer has 1 before its last."""
    return np.array([*sizes[:-1], *[1] * (levels - len(sizes)), sizes[-1]])


def _with_pictures(dataset: Dataset, vectors: np.ndarray, config: MethodConfig) -> np.ndarray:
    """Text vectors, beside them those of pictures where the method reads both: (N, D)."""
    if config.pictures == "none":
        return vectors
    content = content_of(dataset)
    with processes.first_one_first():
        pictures = encode_pictures(content, config.pictures, cache=runs_root() / "cache" / "pictures")
    return np.concatenate([vectors, pictures], axis=1)


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
