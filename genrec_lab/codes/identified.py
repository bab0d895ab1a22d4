"""The result of a row's tokenizers: codes before and after conflicts, residuals, codebooks, records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from genrec_lab.codes import ItemCodes, PrefixCodewords

_ALL = "all"  # the scope of one tokenizer for all domains
# Books (K_l, d) of each level by scope, or codewords that depend on the prefix.
Books = Mapping[str, list[np.ndarray] | PrefixCodewords]


@dataclass(frozen=True)
class Identified:
    """The result of a row's tokenizers for the catalogue."""

    raw: ItemCodes  # as quantised; items may share an identifier
    codes: ItemCodes  # after the conflict policy; unique within each domain
    residuals: np.ndarray  # (N, L, d): each level's input, beginning with r_0; d = 0 if nothing is quantised
    # (K, d) of each level, by scope: "all", or a domain; empty if codewords depend on the prefix
    codebooks: dict[str, list[np.ndarray]]
    resolution: dict[str, Any]  # policy, moved, cost, displaced, unsolved
    epochs: dict[str, list[dict[str, Any]]]  # training records by scope; empty for residual k-means
    refines: bool = True  # whether each level quantises the residual of the levels before it
    prefixed: dict[str, PrefixCodewords] | None = None  # of the last level, by scope

    @property
    def tokenizers(self) -> int:
        """The number of trained tokenizers: one for all domains, or one per domain."""
        return len(self.epochs)

    @property
    def quantises(self) -> bool:
        """Whether the codes quantise vectors, so that there are residuals."""
        return self.residuals.shape[2] > 0

    @property
    def last_codewords(self) -> dict[str, list[np.ndarray] | PrefixCodewords]:
        """Return the codewords that conflict policies choose from, by domain."""
        books: Books = self.prefixed or self.codebooks
        return of_domains(books, self.raw)

    def codebooks_of(self, domain: str) -> list[np.ndarray]:
        """Return the codebooks (K_l, d) of each level for a domain's items."""
        return self.codebooks[domain if domain in self.codebooks else _ALL]

    def remainder(self) -> np.ndarray:
        """Return the vectors minus the sums of their codewords, (N, d), before any policy.

        Only for tokenizers whose levels refine each other.
        """
        left: np.ndarray = self.residuals[:, -1].copy()
        for domain, books in self.last_codewords.items():
            items = self.raw.domain_items(domain)
            codes = self.raw.codes[items]
            left[items] -= books.of(codes) if isinstance(books, PrefixCodewords) else books[-1][codes[:, -1]]
        return left

    def codeword_sums(self) -> np.ndarray:
        """Return the sums of all items' codewords, (N, d), before any conflict policy.

        Only for tokenizers whose levels refine each other.
        """
        sums: np.ndarray = self.residuals[:, 0] - self.remainder()
        return sums

    def comparable_codes(self) -> ItemCodes:
        """Return the codes before any conflict policy, numbered so that equal codes are the same codeword.

        If each domain has its own tokenizer, the codes of each domain get a separate range.
        """
        return self.raw if self.tokenizers == 1 else self.raw.with_separate_vocabularies()

    def chosen_codewords(self) -> np.ndarray:
        """Return the codeword of each item at each level: (N, L, d) float32."""
        chosen = np.zeros_like(self.residuals)
        for domain in self.raw.domain_names:
            items = self.raw.domain_items(domain)
            for level, book in enumerate(self.codebooks_of(domain)):
                chosen[items, level] = book[self.raw.codes[items, level]]
        return chosen

    def item_levels(self, item: int = 0) -> pl.DataFrame:
        """Return how an item's codes were chosen: rows `level, code, norm, to_nearest, to_second`.

        norm: of the level's input; to_nearest, to_second: its distances to the two nearest codewords. Unknown
        values are null: all three for codes that quantise nothing, the last if codewords depend on the
        prefix.
        """
        domain = str(self.raw.domain_names[self.raw.domain_index[item]])
        rows: list[tuple[int, int, float | None, float | None, float | None]] = []
        for level in range(self.raw.levels):
            vector, code = self.residuals[item, level], int(self.raw.codes[item, level])
            distances: list[float | None] = [None, None]
            if self.prefixed is not None:
                last = level + 1 == self.raw.levels
                left = self.remainder()[item] if last else self.residuals[item, level + 1]
                distances = [float(np.linalg.norm(left)), None]
            elif self.quantises:
                book = self.codebooks_of(domain)[level]
                distances = [*np.sort(np.linalg.norm(book - vector, axis=1)).tolist(), None]
            norm = float(np.linalg.norm(vector)) if self.quantises else None
            rows.append((level + 1, code, norm, distances[0], distances[1]))
        floats = dict.fromkeys(("norm", "to_nearest", "to_second"), pl.Float64)
        schema = {"level": pl.Int64, "code": pl.Int64} | floats
        return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.selectors.float().round(3))


def of_domains(books: Books, codes: ItemCodes) -> dict[str, list[np.ndarray] | PrefixCodewords]:
    """Return the books by domain; those of scope "all" belong to every domain."""
    return {name: books[name if name in books else _ALL] for name in codes.domain_names}


def read_identified(folder: Path, epochs: dict[str, list[dict[str, Any]]]) -> Identified:
    """Read the files of stage 02 for a row; epochs: training records of its tokenizers, by scope."""
    tensors = load_file(folder / "quantised.safetensors")
    raw = ItemCodes.read(folder / "raw_codes.parquet")
    resolution = json.loads((folder / "resolution.json").read_text())
    codebooks: dict[str, list[np.ndarray]] = {}
    for name in sorted(tensors, key=lambda name: (name.rpartition("/")[0], len(name), name)):  # 9 before 10
        if name.startswith("codebooks/"):
            codebooks.setdefault(name.split("/")[1], []).append(tensors[name])
    prefixed = {
        name.split("/")[1]: PrefixCodewords(
            tensors[name], tensors[name.removesuffix("paths") + "vectors"], raw.sizes[-1]
        )
        for name in tensors
        if name.startswith("prefixed/") and name.endswith("/paths")
    }
    return Identified(
        raw=raw,
        codes=ItemCodes.read(folder / "codes.parquet"),
        residuals=tensors["residuals"],
        codebooks=codebooks,
        resolution=resolution,
        epochs=epochs,
        refines=bool(resolution.pop("refines")),
        prefixed=prefixed or None,
    )
