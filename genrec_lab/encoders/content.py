"""What items are made of, text and pictures, and the batches of it that an encoder prepares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from genrec_lab.data import Dataset
from genrec_lab.encoders.pictures import inside


class ContentError(ValueError):
    """Content that no encoder can read; the message names the item."""


@dataclass(frozen=True)
class Content:
    """Text, picture file and name of N items; a blank text or a None says that there is none.

    Raises ContentError where the three are not of one length, and for an item with neither text nor picture.
    """

    texts: tuple[str, ...]
    pictures: tuple[Path | None, ...]
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("texts", "pictures", "keys")}
        if len(set(lengths.values())) != 1:
            raise ContentError(f"content: {lengths}; expected as many of each as there are items")
        if not self.texts:
            raise ContentError("content: no items; expected at least one")
        empty = [
            key
            for key, text, picture in zip(self.keys, self.texts, self.pictures, strict=True)
            if picture is None and not text.strip()
        ]
        if empty:
            raise ContentError(
                f"item {empty[0]} has neither text nor picture ({len(empty)} of {len(self.keys)} items are "
                "so); give it one of them, or drop the item"
            )

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, items: Sequence[int] | np.ndarray) -> Content:
        """The content of the items at these places, in this order."""
        return Content(
            tuple(self.texts[i] for i in items),
            tuple(self.pictures[i] for i in items),
            tuple(self.keys[i] for i in items),
        )


def content_of(dataset: Dataset, root: str | Path | None = None) -> Content:
    """The content of a dataset's items, in their order; `root` is the folder that must hold the pictures.

    Raises PictureError for a picture outside `root`, ContentError for an item without any content.
    """
    columns = dataset.items.select("text", "image", "key")
    texts, images, keys = (tuple(columns[name].to_list()) for name in columns.columns)
    pictures = tuple(
        None if image is None else inside(image, root, key) for image, key in zip(images, keys, strict=True)
    )
    return Content(texts, pictures, keys)


@dataclass(frozen=True)
class PreparedContent:
    """N items made ready by an encoder: its frozen parts have run, a batch only gathers.

    `collate(items, among)` turns item indices into a batch, padded as a batch of the items `among` would be,
    so that a share of a batch has the batch's shapes; `repairs` counts what was mended (converted pictures,
    truncated texts, ...), to be kept beside the run.
    """

    n_items: int
    collate: Callable[[np.ndarray, np.ndarray], dict[str, Tensor]]
    repairs: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n_items

    def batch(self, items: Sequence[int] | np.ndarray, among: np.ndarray | None = None) -> dict[str, Tensor]:
        """Return the content of B items, padded to the longest of them, or of the items `among`.

        `text_ids` (B, T) int64 and `text_mask` (B, T) bool are the words to rebuild; `patches` (B, P, c)
        float32, zero where missing, and `has_picture` (B,) bool the picture; `encoder_...` is what the
        encoder reads.

        Raises ContentError for no item or an index outside 0..N-1.
        """
        rows = np.asarray(items, dtype=np.int64)
        if rows.ndim != 1 or not rows.size or rows.min() < 0 or rows.max() >= self.n_items:
            raise ContentError(
                f"batch: items {rows.tolist()[:5]}... of shape {rows.shape}; expected a list of one or more "
                f"indices in 0..{self.n_items - 1}"
            )
        return self.collate(rows, rows if among is None else among)
