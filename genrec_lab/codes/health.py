"""Statistics of codes: use of each level, collisions, sharing between domains, and changes in training.

Shapes: N items, L levels, T domains, K codes of a level.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec_lab.codes.grouping import CodesError, IntArray, row_ids
from genrec_lab.codes.item_codes import ItemCodes


@dataclass(frozen=True)
class CodeHealth:
    """The use of the codes, with one tuple entry per level, and the collisions of items.

    If the number of possible codes is unknown, utilisation, dead and gini are NaN.

    used: codes that at least one item has. utilisation: used / size. dead: codes that no item has.
    entropy: of the code frequencies, in bits. perplexity: 2 ** entropy, the number of equally frequent codes
    with the same entropy. gini: inequality of the code frequencies, including unused codes; 0 is equal.
    collision_rate: share of items whose whole identifier another item shares.
    largest_collision: number of items with the most shared identifier, 1 if all are unique.
    unique_ratio: distinct identifiers / items.
    """

    used: tuple[int, ...]
    utilisation: tuple[float, ...]
    perplexity: tuple[float, ...]
    entropy: tuple[float, ...]
    gini: tuple[float, ...]
    dead: tuple[float, ...]
    collision_rate: float
    largest_collision: int
    unique_ratio: float


def code_health(
    codes: npt.ArrayLike, sizes: Sequence[int | None], domains: Iterable[str | int] | None = None
) -> CodeHealth:
    """Measure (N, L) codes; with `domains` (N,), only items of one domain collide.

    A size of None is unknown, as in `ItemCodes.known_sizes`. Raises CodesError if codes and sizes do not fit.

    >>> health = code_health([[0, 1], [0, 1], [3, 2]], sizes=(4, 4))
    >>> health.collision_rate
    0.6666666666666666
    """
    checked = ItemCodes(codes, sizes, domains)
    sizes = checked.known_sizes
    counts = [
        np.bincount(codes, minlength=size) for codes, size in zip(checked.codes.T, checked.sizes, strict=True)
    ]
    entropies = tuple(_entropy_bits(of_level) for of_level in counts)
    used = tuple(int(np.count_nonzero(of_level)) for of_level in counts)
    groups = np.bincount(checked.identifier_ids)
    return CodeHealth(
        used=used,
        utilisation=tuple(n / (size or math.nan) for n, size in zip(used, sizes, strict=True)),
        perplexity=tuple(2.0**entropy for entropy in entropies),
        entropy=entropies,
        gini=tuple(math.nan if n is None else gini_of(one) for n, one in zip(sizes, counts, strict=True)),
        dead=tuple(math.nan if size is None else size - n for n, size in zip(used, sizes, strict=True)),
        collision_rate=checked.collision_rate(),
        largest_collision=int(groups.max()),
        unique_ratio=len(groups) / checked.n_items,
    )


def prefix_entropy(codes: npt.ArrayLike, sizes: Sequence[int]) -> tuple[float, ...]:
    """Return the entropies in bits of the prefixes of 1, 2, …, L codes.

    The increase from one level to the next is the conditional entropy of a code given those before it. The
    last value is log2(N) if and only if all identifiers are distinct.
    """
    checked = ItemCodes(codes, sizes)
    prefixes = (row_ids(checked.codes[:, :length]) for length in range(1, checked.levels + 1))
    return tuple(_entropy_bits(np.bincount(ids)) for ids in prefixes)


def use_of_codes(codes: npt.ArrayLike, sizes: Sequence[int], domains: Iterable[str | int]) -> dict[str, Any]:
    """Return the statistics that are recorded while a tokenizer trains; tuples are by level.

    `utilisation, perplexity, gini, collision_rate, largest_collision, unique_ratio` as in `CodeHealth`,
    `prefix_entropy`, and `shared_items`, the share of items whose code another domain also uses.
    """
    names = list(domains)
    health = code_health(codes, sizes, names)
    of_health = (
        "utilisation", "perplexity", "gini", "collision_rate", "largest_collision", "unique_ratio",
    )  # fmt: skip
    return {
        **{name: getattr(health, name) for name in of_health},
        "prefix_entropy": prefix_entropy(codes, sizes),
        "shared_items": domain_sharing(codes, names, sizes).shared_items,
    }


@dataclass(frozen=True, eq=False)
class DomainSharing:
    """Which codes the domains share (GMC 5.4.2, Figure 3); tuple entries are levels.

    domains: the T names. counts: (T, K) items of each domain with each code.
    codes_by_domains: (T + 1,) number of codes used by exactly 0, 1, …, T domains.
    shared_items: share of items whose code another domain also uses.
    """

    domains: tuple[str, ...]
    counts: tuple[IntArray, ...]
    codes_by_domains: tuple[IntArray, ...]
    shared_items: tuple[float, ...]


def domain_sharing(codes: npt.ArrayLike, domains: Iterable[str | int], sizes: Sequence[int]) -> DomainSharing:
    """Count each level's codes by domain; codes (N, L), domains (N,). Raises CodesError."""
    checked = ItemCodes(codes, sizes, domains)
    n_domains = len(checked.domain_names)
    counts: list[IntArray] = []
    codes_by_domains: list[IntArray] = []
    shared_items: list[float] = []
    for level, size in enumerate(checked.sizes):
        flat = np.bincount(checked.domain_index * size + checked.codes[:, level], minlength=n_domains * size)
        by_domain = flat.reshape(n_domains, size).astype(np.int64, copy=False)
        users_of_code = np.count_nonzero(by_domain, axis=0)
        counts.append(by_domain)
        codes_by_domains.append(
            np.bincount(users_of_code, minlength=n_domains + 1).astype(np.int64, copy=False)
        )
        shared_items.append(float(by_domain[:, users_of_code > 1].sum() / checked.n_items))
    return DomainSharing(checked.domain_names, tuple(counts), tuple(codes_by_domains), tuple(shared_items))


@dataclass(frozen=True, eq=False)
class Churn:
    """The share of items whose code changed.

    by_level: (L,) the share whose code at that level changed, regardless of other levels. by_prefix: (L,) the
    share with any change up to that level; its last value is the share of changed identifiers.
    """

    by_level: npt.NDArray[np.float64]
    by_prefix: npt.NDArray[np.float64]

    @property
    def identifiers(self) -> float:
        """The share of items whose whole identifier changed."""
        return float(self.by_prefix[-1])


def churn(codes_before: npt.ArrayLike, codes_after: npt.ArrayLike) -> Churn:
    """Compare two (N, L) codes of the same items in one training; raises CodesError for other shapes."""
    before, after = np.asarray(codes_before), np.asarray(codes_after)
    if before.ndim != 2 or before.shape != after.shape or 0 in before.shape:
        raise CodesError(
            f"codes: shapes {before.shape} before and {after.shape} after; expected (items, levels) twice"
        )
    changed = before != after
    return Churn(changed.mean(axis=0), np.logical_or.accumulate(changed, axis=1).mean(axis=0))


def _entropy_bits(counts: npt.NDArray[np.integer]) -> float:
    present = counts[counts > 0]
    shares = present / present.sum()
    # max() converts the -0.0 of a single code to 0.0.
    return max(0.0, float(-(shares * np.log2(shares)).sum()))


def gini_of(counts: npt.NDArray[np.integer]) -> float:
    """Return G = sum_i (2 i - n - 1) x_i / (n sum_i x_i) of the n counts x in ascending order, i from 1."""
    ascending = np.sort(counts).astype(np.int64)
    size = len(ascending)
    # Integers until the division, so that equal use gives exactly 0.
    weighted = int((2 * np.arange(1, size + 1) - size - 1) @ ascending)
    return weighted / (size * max(1, int(ascending.sum())))
