"""The texts and pictures of items, and the batches that an encoder prepares from them.

The outputs of frozen networks are computed once per catalogue and cached on disk by content.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import polars as pl
import torch
from PIL import Image
from pydantic import PlainValidator, SerializeAsAny
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genrec_lab.data import Dataset
from genrec_lab.data.picture_files import has_picture, picture_source
from genrec_lab.data.whole_files import whole_file
from genrec_lab.encoders.hub import cache_name, text_bytes
from genrec_lab.encoders.pictures import inside, read_picture
from genrec_lab.encoders.progress import Progress, reporter
from genrec_lab.registry import ComponentConfig, Registry, component_config
from genrec_lab.training import processes

# Items per file: few enough that an interrupted run loses little, enough to keep the number of files low.
SHARD_ITEMS = 256


T = TypeVar("T")

ENCODERS: Registry[type[Any]] = Registry(
    "content encoder",
    required=("Config", "prepare", "forward", "word_table"),
    declared={
        "compact": "genrec_lab.encoders.compact:CompactEncoder",
        "qwen": "genrec_lab.encoders.qwen:QwenEncoder",
    },
)


def register_encoder(name: str) -> Callable[[T], T]:
    """Register the decorated `nn.Module` as the content encoder that `content.kind` names.

    >>> @register_encoder("bags_of_words")
    ... class BagsOfWords(torch.nn.Module):
    ...     class Config(ComponentConfig):
    ...         width: int = 64
    ...
    ...     def prepare(self, content, cache=None, title=""): ...
    ...
    ...     def forward(self, batch): ...
    ...
    ...     def word_table(self): ...
    >>> "bags_of_words" in ENCODERS
    True
    """
    return ENCODERS.register(name)


# The settings of any content encoder, as a field of another config; `kind` selects the class.
AnyEncoderConfig = Annotated[
    SerializeAsAny[ComponentConfig], PlainValidator(partial(component_config, ENCODERS))
]


class ContentError(ValueError):
    """Raised for content that no encoder can read; the message names the item."""


@dataclass(frozen=True)
class Content:
    """Text, picture file and name of N items; an empty text or None means that there is none.

    Raises ContentError if the three differ in length, and for an item with neither text nor picture.
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
        rows = zip(self.keys, self.texts, self.pictures, strict=True)
        if empty := [key for key, text, picture in rows if picture is None and not text.strip()]:
            raise ContentError(
                f"item {empty[0]} has neither text nor picture ({len(empty)} of {len(self.keys)} items have "
                "neither); give it one of them, or drop the item"
            )

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, items: Sequence[int] | np.ndarray) -> Content:
        """Return the content of the items at these indices, in this order."""
        parts = (tuple(part[i] for i in items) for part in (self.texts, self.pictures, self.keys))
        return Content(*parts)  # type: ignore[arg-type]

    def read_pictures(self, repairs: dict[str, int]) -> Iterator[tuple[int, Image.Image]]:
        """Yield the place of each item with a picture, and the picture; errors as in `read_picture`."""
        for place, (picture, key) in enumerate(zip(self.pictures, self.keys, strict=True)):
            if picture is not None:
                yield place, read_picture(picture, item=key, repairs=repairs)


def content_of(dataset: Dataset | pl.DataFrame, root: str | Path | None = None) -> Content:
    """Return the content of a dataset's items, or of its table `items`; `root` is the pictures' folder.

    Raises PictureError for a picture outside `root`, ContentError for an item without any content.
    """
    items = dataset if isinstance(dataset, pl.DataFrame) else dataset.items
    columns = items.select("text", "image", "key")
    texts, images, keys = (tuple(columns[name].to_list()) for name in columns.columns)
    pictures = tuple(
        None if image is None else inside(image, root, key) for image, key in zip(images, keys, strict=True)
    )
    return Content(texts, pictures, keys)


@dataclass(frozen=True)
class PreparedContent:
    """N items prepared by an encoder: its frozen parts have run, and a batch only gathers their outputs.

    `collate(items, among)` converts item indices to a batch, padded like a batch of the items `among`, so
    that a share of a batch has the batch's shapes. `repairs` counts repairs (converted pictures, truncated
    texts, …) for the run's records.
    """

    n_items: int
    collate: Callable[[np.ndarray, np.ndarray], dict[str, Tensor]]
    repairs: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.n_items

    def batch(self, items: Sequence[int] | np.ndarray, among: np.ndarray | None = None) -> dict[str, Tensor]:
        """Return the content of B items, padded to the longest of them, or of the items `among`.

        `text_ids` (B, T) int64 and `text_mask` (B, T) bool are the words to reconstruct; `patches` (B, P, c)
        float32, zero if missing, and `has_picture` (B,) bool the picture; `encoder_...` are the encoder's
        inputs.

        Raises ContentError for no item or an index outside 0..N-1.
        """
        rows = np.asarray(items, dtype=np.int64)
        if rows.ndim != 1 or not rows.size or rows.min() < 0 or rows.max() >= self.n_items:
            raise ContentError(
                f"batch: items {rows.tolist()[:5]}... of shape {rows.shape}; expected a list of one or more "
                f"indices in 0..{self.n_items - 1}"
            )
        return self.collate(rows, rows if among is None else among)


# --- outputs of frozen networks

# Maps some items and the repair counts to named features: a (rows, width) tensor for each item.
Compute = Callable[[Content, dict[str, int]], dict[str, list[Tensor]]]


@dataclass(frozen=True)
class _Shard:
    """Features of some items, in memory as `tensors` or in `file`; item i in bounds[i]:bounds[i + 1]."""

    bounds: dict[str, list[int]]
    repairs: dict[str, int]
    tensors: dict[str, Tensor]
    file: Path | None = None

    def rows(self, name: str, items: np.ndarray) -> list[Tensor]:
        ends = self.bounds[name]
        with nullcontext() if self.file is None else safe_open(self.file, framework="pt") as stored:
            part = self.tensors[name] if stored is None else stored.get_slice(name)
            return [part[ends[item] : ends[item + 1]] for item in items]


class FrozenFeatures:
    """Named features of N items; the number of rows may differ between items.

    Without a cache folder they are kept in memory; otherwise rows are read from files on demand, so that a
    catalogue need not fit into memory. `repairs` counts the repairs of the computation, even if the features
    come from the cache.
    """

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self._shards = shards
        self.repairs: Counter[str] = Counter()
        for shard in shards:
            self.repairs.update(shard.repairs)

    def longest(self, name: str, items: np.ndarray) -> int:
        """Return the largest number of rows of a feature among `items`, without reading any."""
        numbers, places = np.divmod(items, SHARD_ITEMS)
        bounds = (self._shards[number].bounds[name] for number in numbers)
        return max(ends[i + 1] - ends[i] for ends, i in zip(bounds, places, strict=True))

    def rows(self, name: str, items: np.ndarray) -> list[Tensor]:
        """Return the rows of one feature for each of `items`, in order: (rows, width) each."""
        found: list[Tensor] = [torch.empty(0)] * len(items)
        numbers, places = np.divmod(items, SHARD_ITEMS)
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            for place, rows in zip(chosen, self._shards[number].rows(name, places[chosen]), strict=True):
                found[place] = rows
        return found


def padded_features(rows: Sequence[Tensor], width: int, length: int) -> tuple[Tensor, Tensor]:
    """Pad the rows of B items with zeros to (B, length, width) float32, and return their mask.

    The mask (B, length) is True at real rows.
    """
    filled = torch.zeros(len(rows), length, width)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return filled, mask_of(rows, length)


def mask_of(rows: Sequence[Sized], length: int) -> Tensor:
    """Return which of `length` places the rows fill from the left, (B, length) bool."""
    return torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]


def frozen_features(
    content: Content,
    reads: Literal["texts", "pictures"],
    compute: Compute,
    settings: dict[str, object],
    cache: Path | None = None,
    progress: Progress = True,
) -> FrozenFeatures:
    """Run `compute` on the content, 256 items at a time, or read its earlier outputs from `cache`.

    `reads` names the part of an item that the features depend on. A cache file is named by the hash of the
    items' texts or pictures' bytes, and of `settings`, which holds everything else that changes the features;
    `compute` determines their precision. With a cache, several processes compute different files, and an
    interrupted run continues where it stopped. A damaged file is recomputed, with a warning.
    """

    def shard_from(start: int) -> _Shard:
        some = content.select(range(start, min(start + SHARD_ITEMS, len(content))))
        file = None if cache is None else Path(cache) / f"{_content_key(some, reads, settings)}.safetensors"
        shard = None if file is None else _read(file, len(some))
        if shard is not None:
            return shard
        repairs: dict[str, int] = {}
        features = compute(some, repairs)
        bounds = {name: [0, *accumulate(map(len, rows))] for name, rows in features.items()}
        shard = _Shard(bounds, repairs, {name: torch.cat(rows) for name, rows in features.items()})
        if file is None:
            return shard
        _write(file, shard)
        return replace(shard, tensors={}, file=file)

    starts, shards = range(0, len(content), SHARD_ITEMS), []
    if cache is not None and processes.several():
        for start in starts[processes.number() :: processes.count()]:
            shard_from(start)
        processes.wait()
    with reporter(progress, len(content), reads) as report:
        for start in starts:
            shards.append(shard_from(start))
            report(min(start + SHARD_ITEMS, len(content)))
    return FrozenFeatures(shards)


def _content_key(content: Content, reads: str, settings: dict[str, object]) -> str:
    parts = map(_picture_bytes, content.pictures) if reads == "pictures" else map(text_bytes, content.texts)
    return cache_name([reads, settings], parts)


def _picture_bytes(picture: Path | None) -> bytes:
    if picture is None:
        return b"none"
    # A missing picture has no bytes here; the error is raised when it is read.
    if not has_picture(picture):
        return b"some"
    source = picture_source(picture)
    return b"some" + (source.read_bytes() if isinstance(source, Path) else source.getvalue())


def _read(file: Path, items: int) -> _Shard | None:
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            described = json.loads(stored.metadata()["features"])
            sound = all(
                len(ends) == items + 1 and stored.get_slice(name).get_shape()[0] == ends[-1]
                for name, ends in described["bounds"].items()
            )
        if sound and described["bounds"]:
            return _Shard(described["bounds"], described["repairs"], {}, file)
        reason = f"it does not hold {items} items"
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        reason = str(error)
    warnings.warn(f"cached features {file} cannot be used ({reason}); computing them again", stacklevel=3)
    return None


def _write(file: Path, shard: _Shard) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    described = {"bounds": shard.bounds, "repairs": shard.repairs}
    with whole_file(file, several_writers=True) as partial:
        save_file(shard.tensors, partial, {"features": json.dumps(described)})
