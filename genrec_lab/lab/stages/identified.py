"""What a method's tokenizer made of the catalogue: the files of stage 02, written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from genrec_lab.codes import IdentifierConfig, ItemCodes, PrefixCodewords
from genrec_lab.lab.stages.rows import ALL

# What a level quantises: what the levels before it left over, which their codewords fill up ("residual"); the
# same with codewords that differ from prefix to prefix ("prefix"); a part of the vector of its own ("parts");
# or nothing at all ("none").
Geometry = Literal["residual", "prefix", "parts", "none"]
# Books (K_l, d) of each level by scope, or codewords that differ from prefix to prefix.
Books = Mapping[str, list[np.ndarray] | PrefixCodewords]


@dataclass(frozen=True)
class Identified:
    """What a method's tokenizer made of the catalogue."""

    raw: ItemCodes  # as quantised; items may share an identifier
    codes: ItemCodes  # after the conflict policy; unique within each domain
    residuals: np.ndarray  # (N, L, d): what each level quantised, r_0 first; d = 0 where nothing was
    # (K, d) of each level, by scope: "all", or a domain each; none where they differ from prefix to prefix
    codebooks: dict[str, list[np.ndarray]]
    resolution: dict[str, Any]  # policy, moved, cost, displaced, unsolved
    epochs: dict[str, list[dict[str, Any]]]  # a training's records by scope; empty for residual k-means
    geometry: Geometry = "residual"
    prefixed: dict[str, PrefixCodewords] | None = None  # of the last level, by scope; for geometry "prefix"

    @property
    def tokenizers(self) -> int:
        """How many tokenizers were trained: one for all domains, or one a domain."""
        return len(self.epochs)

    @property
    def last_codewords(self) -> dict[str, list[np.ndarray] | PrefixCodewords]:
        """What conflict policies choose last codes from, by domain."""
        books: Books = self.prefixed or self.codebooks
        return of_domains(books, self.raw)

    def codebooks_of(self, domain: str) -> list[np.ndarray]:
        """The codebooks (K_l, d) of each level with which a domain's items were named."""
        return self.codebooks[domain if domain in self.codebooks else ALL]

    def remainder(self) -> np.ndarray:
        """(N, d) what the codewords of an identifier leave over of an item's vector, before any policy.

        Of levels that hand on what they leave over: geometry "residual" or "prefix".
        """
        left: np.ndarray = self.residuals[:, -1].copy()
        for domain, books in self.last_codewords.items():
            items = self.raw.domain_items(domain)
            codes = self.raw.codes[items]
            left[items] -= books.of(codes) if isinstance(books, PrefixCodewords) else books[-1][codes[:, -1]]
        return left


def of_domains(books: Books, codes: ItemCodes) -> dict[str, list[np.ndarray] | PrefixCodewords]:
    """The books by domain, where those of scope "all" are every domain's."""
    return {name: books[name if name in books else ALL] for name in codes.domain_names}


def write_identified(
    folder: Path,
    raw: ItemCodes,
    residuals: np.ndarray,
    books: Books,
    epochs: dict[str, Any],
    identifiers: IdentifierConfig,
    seed: int,
) -> None:
    """Make the identifiers unique and write everything of a method's tokenizers."""
    resolution = raw.resolve_with_cost(identifiers, residuals, of_domains(books, raw), seed)
    # By domain: what a domain's own tokenizer makes of other domains' items says nothing of it.
    rates = (f"{name} {raw.subset(name).collision_rate():.2%}" for name in raw.domain_names)
    print(f"collision rate {', '.join(rates)}; {resolution}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    raw.write(folder / "raw_codes.parquet")
    resolution.codes.write(folder / "codes.parquet")
    tensors = {"residuals": residuals}
    for scope, of_scope in books.items():
        if isinstance(of_scope, PrefixCodewords):
            tensors[f"prefixed/{scope}/paths"] = np.ascontiguousarray(of_scope.paths)
            tensors[f"prefixed/{scope}/vectors"] = np.ascontiguousarray(of_scope.vectors)
        else:
            for level, book in enumerate(of_scope):
                tensors[f"codebooks/{scope}/{level}"] = np.ascontiguousarray(book)
    save_file(tensors, folder / "quantised.safetensors")
    cost = {key: getattr(resolution, key) for key in ("policy", "moved", "cost", "displaced", "unsolved")}
    (folder / "resolution.json").write_text(json.dumps(cost | {"summary": str(resolution)}, indent=2))
    (folder / "epochs.json").write_text(json.dumps(epochs))


def read_identified(folder: Path, *, refines: bool) -> Identified:
    """Read what `write_identified` wrote of a tokenizer whose levels refine each other, or do not."""
    tensors = load_file(folder / "quantised.safetensors")
    raw = ItemCodes.read(folder / "raw_codes.parquet")
    prefixed = {
        name.split("/")[1]: PrefixCodewords(
            tensors[name], tensors[name.removesuffix("paths") + "vectors"], raw.sizes[-1]
        )
        for name in tensors
        if name.startswith("prefixed/") and name.endswith("/paths")
    }
    geometry: Geometry = "prefix" if prefixed else "residual" if refines else "parts"
    return Identified(
        raw=raw,
        codes=ItemCodes.read(folder / "codes.parquet"),
        residuals=tensors["residuals"],
        codebooks=_by_scope({name: book for name, book in tensors.items() if name.startswith("codebooks/")}),
        resolution=json.loads((folder / "resolution.json").read_text()),
        epochs=json.loads((folder / "epochs.json").read_text()),
        geometry=geometry if tensors["residuals"].shape[2] else "none",
        prefixed=prefixed or None,
    )


def _by_scope(tensors: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """`codebooks/<scope>/<level>` -> the books of each scope in the order of levels."""
    named = sorted((name.split("/")[1], int(name.rsplit("/", 1)[1]), name) for name in tensors)
    found: dict[str, list[np.ndarray]] = {}
    for scope, _, name in named:
        found.setdefault(scope, []).append(tensors[name])
    return found
