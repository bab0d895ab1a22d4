"""ItemCodes: the semantic identifiers of a catalogue, their vocabulary, and their file.

Shapes: N items, L levels; `sizes[l]` codes are possible at level l.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes.conflicts import Conflicts, IdentifierConfig, reassign
from genrec_lab.codes.grouping import CodesError, IntArray, members_of_groups, row_ids, shared_ids
from genrec_lab.codes.last_level import CodebooksLike
from genrec_lab.data.whole_files import HeadedTable
from genrec_lab.registry import did_you_mean

PAD = 0
EOS = 1
_FIRST_CODE_TOKEN = 2
_FILE = HeadedTable(
    "item_codes", "genrec_lab.item_codes.1", "item codes", "ItemCodes.write", error=CodesError
)
ONLY_DOMAIN = "all"


@dataclass(frozen=True, init=False, eq=False)
class ItemCodes:
    """The identifiers of N items: item i is the row `codes[i]` of L codes.

    codes: (N, L) int64, read-only. sizes: the number of possible codes of each level; None if unknown, then
    the largest code plus one is used, and the level is among `unknown_levels`. domains: (N,) array of domain
    names, or None for a catalogue of one domain, called "all". shared_levels: 0-based levels of equal size
    that share one range of token ids (UTGRec: levels 1..L-1).
    Raises CodesError if codes, sizes, domains or shared levels do not fit together.

    >>> codes = ItemCodes([[0, 1], [0, 1], [3, 2]], sizes=(4, 4))
    >>> codes.unique, codes.collision_rate()
    (False, 0.6666666666666666)
    >>> codes.resolve("extra_level").codes.tolist()
    [[0, 1, 0], [0, 1, 1], [3, 2, 0]]
    """

    codes: IntArray
    sizes: tuple[int, ...]
    domains: npt.NDArray[np.str_] | None
    shared_levels: tuple[int, ...]
    unknown_levels: tuple[int, ...]

    def __init__(
        self,
        codes: npt.ArrayLike,
        sizes: Sequence[int | None],
        domains: Iterable[str | int] | None = None,
        shared_levels: Sequence[int] = (),
        unknown_levels: Sequence[int] = (),
    ) -> None:
        checked = _checked_codes(codes)
        unknown = {*unknown_levels, *(level for level, size in enumerate(sizes) if size is None)}
        largest = checked.max(axis=0) + 1
        known = [
            largest[min(level, len(largest) - 1)] if one is None else one for level, one in enumerate(sizes)
        ]
        object.__setattr__(self, "codes", checked)
        object.__setattr__(self, "sizes", _checked_sizes(known, checked))
        object.__setattr__(self, "unknown_levels", tuple(sorted(unknown)))
        object.__setattr__(self, "domains", _checked_domains(domains, len(checked)))
        object.__setattr__(self, "shared_levels", _checked_shared_levels(shared_levels, self.sizes))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ItemCodes):
            return NotImplemented
        return (
            self.sizes == other.sizes
            and self.shared_levels == other.shared_levels
            and self.domain_names == other.domain_names
            and np.array_equal(self.codes, other.codes)
            and np.array_equal(self.domain_index, other.domain_index)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ItemCodes({self.n_items} items, sizes={self.sizes}, domains={self.domain_names})"

    @property
    def levels(self) -> int:
        """The number of codes in an identifier, L."""
        return len(self.sizes)

    @property
    def known_sizes(self) -> tuple[int | None, ...]:
        """The number of possible codes of each level, None if unknown."""
        return tuple(None if level in self.unknown_levels else size for level, size in enumerate(self.sizes))

    @property
    def n_items(self) -> int:
        """The number of items, N."""
        return len(self.codes)

    # --- domains

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        """The domains in order of first appearance; ("all",) if no domains were given."""
        if self.domains is None:
            return (ONLY_DOMAIN,)
        names, first = np.unique(self.domains, return_index=True)
        return tuple(str(name) for name in names[np.argsort(first)])

    @cached_property
    def domain_index(self) -> IntArray:
        """Each item's position in `domain_names`, (N,) int64."""
        if self.domains is None:
            return np.zeros(self.n_items, dtype=np.int64)
        names, inverse = np.unique(self.domains, return_inverse=True)
        place = {name: index for index, name in enumerate(self.domain_names)}
        return np.array([place[str(name)] for name in names], dtype=np.int64)[inverse]

    def domain_items(self, domain: str | int | None = None) -> IntArray:
        """Return the item indices of one domain, ascending; of all domains if `domain` is None."""
        if domain is None:
            return np.arange(self.n_items, dtype=np.int64)
        name = str(domain)
        if name not in self.domain_names:
            raise CodesError(
                f"domain {name!r} is not among the domains of these codes {list(self.domain_names)}"
                + did_you_mean(name, self.domain_names)
            )
        return np.flatnonzero(self.domain_index == self.domain_names.index(name)).astype(np.int64, copy=False)

    def subset(self, domain: str | int) -> ItemCodes:
        """Return the codes of one domain's items, renumbered from 0; sizes and vocabulary do not change."""
        return self.select(self.domain_items(domain))

    def select(self, items: npt.ArrayLike) -> ItemCodes:
        """Return the codes of these items, in this order; sizes and vocabulary do not change."""
        chosen = np.asarray(items, dtype=np.int64)
        domains = None if self.domains is None else self.domains[chosen]
        return replace(self, codes=self.codes[chosen], domains=domains)

    def with_separate_vocabularies(self) -> ItemCodes:
        """Give each domain its own block of codes at every level: domain t's code c becomes t * size + c.

        Use this for codebooks trained separately per domain, whose equal codes are unrelated. Sizes are
        multiplied by the number of domains. Resolve conflicts first, because afterwards codes no longer index
        a domain's codebook.
        """
        widths = np.array(self.sizes, dtype=np.int64)
        shifted = self.codes + self.domain_index[:, None] * widths[None, :]
        return replace(self, codes=shifted, sizes=tuple(widths * len(self.domain_names)))

    # --- uniqueness

    @cached_property
    def identifier_ids(self) -> IntArray:
        """(N,) numbers of the distinct identifiers, in order of domain and codes; equal within a domain."""
        return row_ids(np.column_stack([self.domain_index, self.codes]))

    def groups(self) -> list[IntArray]:
        """Return the items of each ambiguous identifier: ascending arrays of items of one domain."""
        return members_of_groups(self.identifier_ids, shared_ids(self.identifier_ids))

    def collision_rate(self) -> float:
        """Return the share of items whose whole identifier another item of the same domain shares."""
        sizes = np.bincount(self.identifier_ids)
        return float(sizes[sizes > 1].sum() / self.n_items)

    def representatives(self) -> IntArray:
        """Return for each item the lowest item of its domain with the same identifier, (N,)."""
        _, first, group = np.unique(self.identifier_ids, return_index=True, return_inverse=True)
        return first[group.reshape(-1)].astype(np.int64)

    @property
    def unique(self) -> bool:
        """Whether no two items of a domain share an identifier."""
        return int(self.identifier_ids.max()) + 1 == self.n_items

    def require_unique(self) -> None:
        """Raise CodesError if items of a domain share an identifier."""
        if not self.unique:
            groups = self.groups()
            raise CodesError(
                f"{sum(map(len, groups))} of {self.n_items} items share their identifier with another item "
                f"of their domain, among them items {groups[0][:5].tolist()} with "
                f"{self.codes[groups[0][0]].tolist()}; a ranking needs one item per identifier: call "
                "codes.resolve('nearest_free', residuals, codebooks), or codes.resolve('extra_level') where "
                "there are no codebooks"
            )

    def resolve(
        self,
        policy: str | IdentifierConfig,
        residuals: npt.ArrayLike | None = None,
        codebooks: CodebooksLike | None = None,
        seed: int = 0,
    ) -> ItemCodes:
        """Return the codes after a conflict policy; see `resolve_with_cost`."""
        return self.resolve_with_cost(policy, residuals, codebooks, seed).codes

    def resolve_with_cost(
        self,
        policy: str | IdentifierConfig,
        residuals: npt.ArrayLike | None = None,
        codebooks: CodebooksLike | None = None,
        seed: int = 0,
    ) -> Resolution:
        """Make identifiers unique within each domain by a policy, and return them with the cost.

        policy: "none", "extra_level", "nearest_free", "sinkhorn", "optimal", a registered name,
        `package.module:name` or `file.py:name`; or an IdentifierConfig. residuals: the last level's input (N,
        d), or all levels' residuals (N, L, d). codebooks: the last level's codewords (K, d), or all levels'
        (L, K, d), or a mapping from each domain's name to either, or `PrefixCodewords` instead of an array.
        Only "nearest_free", "sinkhorn" and "optimal" need residuals and codebooks. seed: used only if a
        prefix has more items than last codes. Raises CodesError.
        """
        # `reassign` checks the name.
        config = IdentifierConfig.model_construct(policy=policy) if isinstance(policy, str) else policy
        items = (self.codes, self.sizes, self.domain_index, self.domain_names)
        made = reassign(Conflicts(*items, config, residuals, codebooks, seed))
        try:
            codes = replace(self, codes=made.codes, sizes=made.sizes)
        except CodesError as error:
            raise CodesError(f"policy {config.policy!r}: {error}") from error
        return Resolution(codes, config.policy, made.moved, made.cost, made.displaced, made.unsolved)

    # --- vocabulary

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The token id of code 0 of each level; code c of level l is the token `offsets[l] + c`."""
        offsets: list[int] = []
        next_token = _FIRST_CODE_TOKEN
        for level, size in enumerate(self.sizes):
            if level in self.shared_levels[1:]:
                offsets.append(offsets[self.shared_levels[0]])
            else:
                offsets.append(next_token)
                next_token += size
        return tuple(offsets)

    @property
    def vocabulary_size(self) -> int:
        """The number of token ids: pad (0), end (1), and each level's range; a shared range counts once."""
        return max(offset + size for offset, size in zip(self.offsets, self.sizes, strict=True))

    def tokens(self) -> IntArray:
        """Return the token ids of the identifiers, (N, L) int64."""
        return self.codes + np.array(self.offsets, dtype=np.int64)[None, :]

    # --- file

    def write(self, file: str | Path) -> Path:
        """Write one parquet file: columns `item`, `domain` (if known), `code_0`…; sizes in its metadata."""
        columns: dict[str, Any] = {"item": np.arange(self.n_items, dtype=np.int64)}
        if self.domains is not None:
            columns["domain"] = self.domains.tolist()
        columns |= {f"code_{level}": self.codes[:, level] for level in range(self.levels)}
        header: dict[str, Any] = {"sizes": self.sizes, "shared_levels": self.shared_levels}
        header |= {"unknown_levels": self.unknown_levels} if self.unknown_levels else {}
        return _FILE.write(file, pl.DataFrame(columns), header)

    @classmethod
    def read(cls, file: str | Path) -> Self:
        """Read a file that `write` wrote; raises CodesError if it is missing or something else."""
        frame, header = _FILE.read(file)
        if not np.array_equal(frame["item"].to_numpy(), np.arange(frame.height)):
            raise CodesError(
                f"{file}: column 'item' must count 0..{frame.height - 1}; rows are missing or moved"
            )
        codes = frame.select([f"code_{level}" for level in range(len(header["sizes"]))]).to_numpy()
        domains = frame["domain"].to_list() if "domain" in frame.columns else None
        return cls(codes, header["sizes"], domains, header["shared_levels"], header.get("unknown_levels", ()))


@dataclass(frozen=True)
class Resolution:
    """The result and cost of a conflict policy.

    codes: the new identifiers. policy: its name.
    moved: items whose codes changed (an appended level changes none).
    cost: sum over moved items of (distance of the last residual to its new last codeword - to its old one).
    displaced: moved items that left their prefix because all its last codes were taken.
    unsolved: items that "sinkhorn" left colliding and "nearest_free" separated.
    """

    codes: ItemCodes
    policy: str
    moved: int
    cost: float
    displaced: int = 0
    unsolved: int = 0

    def __str__(self) -> str:
        # A tokenizer without codewords has no distances.
        added = f", {self.cost:.4g} further from their codewords in all" if self.cost else ""
        text = (
            f"{self.policy}: {self.moved} of {self.codes.n_items} items moved{added}, collision rate now "
            f"{self.codes.collision_rate():.2%}"
        )
        if self.displaced:
            text += f"; {self.displaced} left their prefix because it was full"
        if self.unsolved:
            text += f"; {self.unsolved} still collided after Sinkhorn and went to their nearest free code"
        return text


def _checked_codes(codes: npt.ArrayLike) -> IntArray:
    array = np.asarray(codes)
    if array.ndim != 2 or 0 in array.shape:
        raise CodesError(f"codes: shape {array.shape}, expected (items, levels) with at least one of each")
    if array.dtype.kind not in "iuf":
        raise CodesError(f"codes: dtype {array.dtype}, expected integers")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        row, level = np.argwhere(~(np.isfinite(array) & (array == np.floor(array))))[0]
        raise CodesError(
            f"codes: value {array[row, level]} of item {row} at level {level} is not a whole number"
        )
    copied = array.astype(np.int64)
    copied.setflags(write=False)
    return copied


def _checked_sizes(sizes: Sequence[int], codes: IntArray) -> tuple[int, ...]:
    checked = tuple(int(size) for size in sizes)
    if len(checked) != codes.shape[1]:
        raise CodesError(f"sizes: {len(checked)} values {checked} for codes of {codes.shape[1]} levels")
    for level, size in enumerate(checked):
        if size < 1:
            raise CodesError(f"sizes: {size} at level {level}, expected at least 1")
        column = codes[:, level]
        if column.min() < 0 or column.max() >= size:
            item = int(np.flatnonzero((column < 0) | (column >= size))[0])
            raise CodesError(
                f"codes: value {column[item]} of item {item} at level {level} is outside 0..{size - 1}; "
                "correct the codes or enlarge sizes"
            )
    return checked


def _checked_domains(domains: Iterable[str | int] | None, n_items: int) -> npt.NDArray[np.str_] | None:
    if domains is None:
        return None
    listed = list(domains)
    if len(listed) != n_items:
        raise CodesError(f"domains: {len(listed)} values for {n_items} items, expected one per item")
    for item, domain in enumerate(listed):
        if not isinstance(domain, (str, int, np.integer)) or domain == "":
            raise CodesError(f"domains: {domain!r} of item {item}, expected a name or an integer")
    names = np.array([str(domain) for domain in listed], dtype=np.str_)
    names.setflags(write=False)
    return names


def _checked_shared_levels(shared_levels: Sequence[int], sizes: tuple[int, ...]) -> tuple[int, ...]:
    checked = tuple(sorted(int(level) for level in shared_levels))
    if len(set(checked)) != len(checked) or any(not 0 <= level < len(sizes) for level in checked):
        raise CodesError(f"shared_levels: {checked}, expected distinct levels among 0..{len(sizes) - 1}")
    shared_sizes = {sizes[level] for level in checked}
    if len(shared_sizes) > 1:
        raise CodesError(
            f"shared_levels: levels {checked} have sizes {sorted(shared_sizes)}; "
            "levels that share token ids need the same size"
        )
    return checked
