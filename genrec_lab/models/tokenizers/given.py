"""Codes from elsewhere: an array or a file, checked against the items.

Shapes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field

from genrec_lab.codes import CodesError, read_index_file, sizes_of
from genrec_lab.data import DataError
from genrec_lab.data.paths import existing_file
from genrec_lab.encoders.given import of_each_domain
from genrec_lab.models.tokenizers.base import (
    CatalogueTokenizer,
    Content,
    ItemContent,
    OnEpoch,
    TokenizerConfig,
    TokenizerError,
    Widths,
    require_codes,
)

# What numpy and polars raise for a file of another format; numpy parses a header as Python source.
_UNREADABLE = (OSError, EOFError, ValueError, SyntaxError, TokenError, pl.exceptions.PolarsError)


class GivenConfig(TokenizerConfig):
    """Settings of given codes: the file to read."""

    kind: Literal["given"] = "given"
    file: str = Field(
        "",
        description="relative to the run file; may contain ${VAR}, and {domain} for one file per domain. "
        ".npy: one row per item, in the data's order. .json: {key: ['<a_12>', '<b_3>', …]}. .parquet: `key` "
        "or `item`, `domain` if keys repeat, and `code_0`, `code_1`, …",
    )
    sizes: Widths | None = Field(None, description="codes of each level; None: the largest code plus one")
    policy: str = Field(
        "none",
        description="conflict policy for items that share an identifier; none: they keep it and are ranked "
        "at their expected position",
    )


class GivenCodes(CatalogueTokenizer):
    """Uses given codes unchanged.

    >>> given = GivenCodes().fit(np.zeros((3, 1)), codes=np.array([[0, 5], [1, 2], [1, 3]]))
    >>> given.sizes, given.encode(np.zeros((2, 1))).tolist()
    ((2, 6), [[0, 5], [1, 2]])
    """

    Config = GivenConfig
    needs = ()
    keeps_identifiers = True

    @classmethod
    def check_method(cls, config: GivenConfig, method: Mapping[str, Any]) -> None:
        """Raise ValueError if no file is named."""
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
        """Set the codes (N, L) of the items, or read them from the config's file.

        Raises TokenizerError if an item has no codes, or codes are not integers within `sizes`.
        """
        known, source = ItemContent.of(content), "codes" if codes is not None else self.config.file
        found = self._read(known) if codes is None else np.asarray(codes)
        if found.ndim != 2 or not found.size:
            raise TokenizerError(f"{source}: codes have shape {found.shape}; expected (items, levels)")
        sizes = self.config.sizes or [int(size) for size in found.max(axis=0) + 1]
        if self.config.sizes is None and found.dtype.kind in "iu":
            self.unknown_levels = tuple(np.flatnonzero([size is None for size in sizes_of(found)]).tolist())
        return self.keep_codes(known, require_codes(found, known.numbers, sizes, f"{source} gives"), sizes)

    def _read(self, content: ItemContent) -> np.ndarray:
        """Return the codes (N, L) of the items from the config's file, or from each domain's file."""
        self.check_method(self.config, {})
        one_file = "{domain}" not in self.config.file
        domains = [""] * len(content) if one_file else content.domain_names(self)

        def read(name: str, rows: np.ndarray, domain: str) -> np.ndarray:
            return self._of_file(name, content.select(rows))

        try:
            return of_each_domain(self.config.file, domains, read)
        except DataError as error:
            raise TokenizerError(str(error)) from error

    def _of_file(self, name: str, content: ItemContent) -> np.ndarray:
        try:
            file = existing_file(name, "tokenizer.file")
            if file.suffix == ".npy":
                # Memory-mapped, so that a header that claims more than the file holds is rejected.
                codes = np.load(file, mmap_mode="r", allow_pickle=False)
                return self._of_rows(np.array(codes), content, name)
            if file.suffix == ".json":
                index = read_index_file(file)
                columns = {f"code_{level}": column for level, column in enumerate(index.codes.codes.T)}
                return self._of_table(pl.DataFrame({"key": index.keys, **columns}), content, name)
            if file.suffix == ".parquet":
                return self._of_table(pl.read_parquet(file), content, name)
        except (CodesError, DataError, TokenizerError) as error:
            raise TokenizerError(str(error)) from error
        except _UNREADABLE as error:
            raise TokenizerError(f"tokenizer.file: {name} cannot be read ({error})") from error
        raise TokenizerError(f"tokenizer.file is {name!r}; expected a .npy, .json or .parquet file")

    def _of_rows(self, codes: np.ndarray, content: ItemContent, name: str) -> np.ndarray:
        """Return the codes of the items from an array of these items or of the whole data set."""
        if len(codes) == len(content):
            return codes
        if content.items is not None and len(codes) == len(content.items):
            return codes[content.numbers]
        raise TokenizerError(f"{name} has {len(codes)} rows; expected one for each of {len(content)} items")

    def _of_table(self, table: pl.DataFrame, content: ItemContent, name: str) -> np.ndarray:
        """Return the codes of the items from a table with their keys or numbers."""
        if table.schema.get("codes") in (pl.List(pl.Int64), pl.List(pl.Int32)):
            width = table["codes"].list.len()
            if width.n_unique() > 1:
                lengths = ", ".join(f"{one:d}" for one in sorted(set(width.to_list())))
                raise TokenizerError(f"{name}: identifiers of {lengths} codes; expected one length")
            lists = pl.col("codes").list.to_struct(fields=[f"code_{level}" for level in range(width[0])])
            table = table.with_columns(lists).unnest("codes")
        levels = [column for column in table.columns if column.startswith("code_")]
        named = "key" if "key" in table.columns else "item"
        if named not in table.columns or not levels:
            raise TokenizerError(
                f"{name} has the columns {table.columns}; expected key or item, and code_0, …"
            )
        by = [named, *(["domain"] if "domain" in table.columns else [])]
        asked = content.require("items", self)[content.numbers.tolist()].select(by)
        table = table.select(*by, *levels).cast(dict(asked.schema))
        for side, rows in ((name, table.select(by)), ("the data", asked)):
            if (twice := rows.filter(rows.is_duplicated())).height:
                raise TokenizerError(
                    f"{name}: {named} {twice.row(0)[0]!r} is in {side} more than once; give a column domain, "
                    "or each domain a file with {domain} in its name"
                )
        found = asked.join(table, on=by, how="left", maintain_order="left")
        if (missing := found.filter(pl.any_horizontal(pl.col(levels).is_null()))).height:
            raise TokenizerError(f"{name} has no codes for {named} {missing.row(0)[0]!r} of the data")
        return found.select(f"code_{level}" for level in range(len(levels))).to_numpy()
