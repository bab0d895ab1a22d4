"""Codes that somebody else made: an array, or a file of them, checked against the items.

Shapes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import polars as pl
from pydantic import BeforeValidator, Field

from genrec_lab.codes import CodesError, read_index_file
from genrec_lab.data import DataError, Dataset
from genrec_lab.data.paths import existing_file, expanded
from genrec_lab.models.tokenizers.base import (
    CatalogueTokenizer,
    Content,
    ItemContent,
    OnEpoch,
    TokenizerConfig,
    TokenizerError,
)
from genrec_lab.registry import base_folder

Sizes = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


class GivenConfig(TokenizerConfig):
    """Where given codes are read."""

    kind: Literal["given"] = "given"
    file: str = Field(
        "",
        description="relative to the run file; ${VAR} allowed, and {domain} where each domain has a file. "
        ".npy: a row an item, in the dataset's order. .json: {key: ['<a_12>', '<b_3>', …]}. .parquet: `key` "
        "or `item`, `domain` where keys repeat, and `code_0`, `code_1`, …",
    )
    sizes: Sizes | None = Field(
        None, description="codes of each level; None: as many as its largest code asks for"
    )


class GivenCodes(CatalogueTokenizer):
    """Codes as they were given; none of them is changed.

    >>> given = GivenCodes().fit(np.zeros((3, 1)), codes=np.array([[0, 5], [1, 2], [1, 3]]))
    >>> given.sizes, given.encode(np.zeros((2, 1))).tolist()
    ((2, 6), [[0, 5], [1, 2]])
    """

    Config = GivenConfig
    needs = ()

    @classmethod
    def check_method(cls, config: GivenConfig, method: Mapping[str, Any]) -> None:
        """Raise ValueError where no file is named."""
        if not config.file:
            raise ValueError("tokenizer.file is empty; name a .npy, .json or .parquet file of codes")

    def fit(
        self,
        content: Content,
        *,
        seed: int = 0,
        on_epoch: OnEpoch = None,
        checkpoint: Path | None = None,
        codes: np.ndarray | None = None,
    ) -> Self:
        """Take the codes (N, L) of the items, or read those of the config's file.

        Raises TokenizerError where an item has no codes, or codes are no whole numbers within `sizes`.
        """
        known = ItemContent.of(content)
        if codes is not None:
            return self._checked(known, np.asarray(codes), "codes")
        self.check_method(self.config, {})
        if "{domain}" not in self.config.file:
            return self._checked(known, self._read(self.config.file, known), self.config.file)
        dataset, parts = known.require_dataset(self), []
        for number in np.unique(known.domains):
            rows = np.flatnonzero(known.domains == number)
            name = self.config.file.replace("{domain}", dataset.domains[number])
            parts.append((rows, self._read(name, known.select(rows))))
        if len({part.shape[1:] for _, part in parts}) > 1:
            raise TokenizerError(f"{self.config.file}: the domains' codes differ in length; expected one")
        whole = np.empty((len(known), *parts[0][1].shape[1:]), dtype=parts[0][1].dtype)
        for rows, part in parts:
            whole[rows] = part
        return self._checked(known, whole, self.config.file)

    def _read(self, name: str, content: ItemContent) -> np.ndarray:
        """The codes (n, L) of the items in a file."""
        try:
            path = Path(expanded(name, "tokenizer.file")).expanduser()
            file = existing_file(base_folder() / path, "tokenizer.file")
            if file.suffix == ".npy":
                return _of_array(np.load(file, allow_pickle=False), content, name)
            if file.suffix == ".json":
                keys = _keys(content.require_dataset(self), content)
                if len(set(keys)) < len(keys):
                    raise TokenizerError(
                        f"tokenizer.file: {name} names items by keys, which the domains share; give each "
                        "domain a file, with {domain} in the name"
                    )
                return read_index_file(file).of_items(keys).codes
            if file.suffix == ".parquet":
                return _of_frame(pl.read_parquet(file), content, content.require_dataset(self), name)
        except TokenizerError:
            raise
        except (CodesError, DataError) as error:
            raise TokenizerError(str(error)) from error
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise TokenizerError(f"tokenizer.file: {name} cannot be read ({error})") from error
        raise TokenizerError(f"tokenizer.file is {name!r}; expected a file .npy, .json or .parquet")

    def _checked(self, content: ItemContent, codes: np.ndarray, source: str) -> Self:
        if codes.ndim != 2 or len(codes) != len(content) or not codes.size:
            raise TokenizerError(
                f"{source}: codes have shape {codes.shape}; expected ({len(content)} items, levels)"
            )
        if not np.issubdtype(codes.dtype, np.integer):
            raise TokenizerError(f"{source}: codes are of type {codes.dtype}; expected whole numbers")
        sizes = self.config.sizes or tuple((codes.max(axis=0) + 1).tolist())
        if len(sizes) != codes.shape[1]:
            raise TokenizerError(
                f"{source}: {codes.shape[1]} codes an item, but tokenizer.sizes is {sizes}; state a size for "
                "each level"
            )
        wrong = np.argwhere((codes < 0) | (codes >= np.array(sizes)))
        if len(wrong):
            row, level = wrong[0]
            raise TokenizerError(
                f"{source}: item {content.numbers[row]} has code {codes[row, level]} at level {level + 1}; "
                f"expected 0 to {sizes[level] - 1}"
            )
        return self.knows(content, codes.astype(np.int64), sizes)


def _of_array(codes: np.ndarray, content: ItemContent, name: str) -> np.ndarray:
    """The rows of the items in an array of the items, or of the whole dataset."""
    if len(codes) == len(content):
        return codes
    if content.dataset is not None and len(codes) == content.dataset.n_items:
        return codes[content.numbers]
    raise TokenizerError(f"{name} has {len(codes)} rows; expected one for each of the {len(content)} items")


def _of_frame(frame: pl.DataFrame, content: ItemContent, dataset: Dataset, name: str) -> np.ndarray:
    """The codes of the items in a table, which names an item by its number or its key."""
    levels = [column for column in frame.columns if column.startswith("code_")]
    names = "key" if "key" in frame.columns else "item"
    if names not in frame.columns or not levels:
        raise TokenizerError(
            f"{name} has the columns {frame.columns}; expected key (or item), and code_0, code_1, …"
        )
    asked = pl.DataFrame({"item": content.numbers})
    if names == "key":
        asked = asked.with_columns(key=pl.Series(_keys(dataset, content)))
        frame = frame.with_columns(pl.col("key").cast(pl.String))
    by = [names]
    if "domain" in frame.columns:
        asked = asked.with_columns(domain=dataset.items["domain"].gather(content.numbers.tolist()))
        by.append("domain")
    if frame.select(by).is_duplicated().any():
        twice = frame.filter(frame.select(by).is_duplicated()).row(0, named=True)
        raise TokenizerError(f"{name} has {twice[names]!r} more than once; expected one row an item")
    found = asked.join(frame.select(*by, *levels), on=by, how="left", maintain_order="left")
    if found.select(pl.any_horizontal(pl.col(levels).is_null()).any()).item():
        missing = found.filter(pl.any_horizontal(pl.col(levels).is_null())).row(0, named=True)
        raise TokenizerError(f"{name} has no codes for item {missing[names]!r}; expected them for every item")
    order = sorted(levels, key=lambda level: int(str(level).removeprefix("code_")))
    return found.select(order).to_numpy()


def _keys(dataset: Dataset, content: ItemContent) -> list[str]:
    """The items' keys in the data, or their numbers where they have none."""
    if "key" not in dataset.items.columns:
        return [str(number) for number in content.numbers]
    return dataset.items["key"].gather(content.numbers.tolist()).cast(pl.String).to_list()
