"""UTGRec's tokenizer in a run: read for a dataset, its codes as identifiers; the curves of a training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset
from genrec_lab.lab.store import runs_root
from genrec_lab.models.tokenizers import ItemContent, Tokenizer
from genrec_lab.viz.live import LiveCurves


def universal_content(dataset: Dataset, items: np.ndarray | None = None, title: str = "") -> ItemContent:
    """The content of some items of a dataset, by default of all."""
    return ItemContent.from_dataset(
        dataset, None, items, cache=runs_root() / "cache" / "content", title=title
    )


def item_codes(tokenizer: Tokenizer, codes: np.ndarray, dataset: Dataset) -> ItemCodes:
    """The catalogue's codes as identifiers of the tokenizer's books."""
    return ItemCodes(codes, tokenizer.sizes, dataset.items["domain"].to_list(), tokenizer.alike)


def training_curves(
    watch: Callable[[str], LiveCurves] | None, title: str, n_items: int, seed: int
) -> LiveCurves:
    """The live curves of a tokenizer's training: those that `watch` gives, or plain ones."""
    return (
        watch(title) if watch else LiveCurves.tokenizer(title=title, n_items=n_items, seed=seed, keep=False)
    )
