"""Identifiers for new items: free ones near the tokenizer's codes; existing identifiers do not change.

Letters: n new items, L levels of the identifiers, R levels of the tokenizer: L, or L - 1 if a conflict policy
has added a level that only counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genrec_lab.codes.grouping import CodesError, IntArray
from genrec_lab.codes.item_codes import ItemCodes


class Grown(NamedTuple):
    """Identifiers of old and new items, and how many new items do not have the tokenizer's codes."""

    codes: ItemCodes  # the old items', unchanged, then the new ones'
    moved: int  # new items with other codes than the tokenizer's, because that identifier was taken
    displaced: int  # those of them with another prefix, because theirs had no free identifier


def with_new_items(
    codes: ItemCodes,
    raw: IntArray,
    domains: Sequence[str],
    residuals: npt.NDArray[np.floating] | None = None,
    codebooks: Sequence[npt.NDArray[np.floating]] = (),
) -> Grown:
    """Append n items, given their codes (n, R) from the frozen tokenizer and their domains.

    If an identifier is taken, the item gets the nearest free one: other last codes under its prefix by the
    distance of their codewords to the residual, then other codes of the level before, and so on. residuals
    (n, R, d) and codebooks, (K, d) per level, give the distances; without them, the lowest free code is used.
    Raises CodesError for codes outside the sizes, or if a domain has no free identifier left.
    """
    rows, levels = np.asarray(raw, dtype=np.int64), raw.shape[1]
    counted = codes.levels - levels
    if counted not in (0, 1):
        raise CodesError(f"the tokenizer gives {levels} codes, the identifiers have {codes.levels} levels")
    if len(rows) and ((rows < 0) | (rows >= np.array(codes.sizes[:levels]))).any():
        raise CodesError(f"the tokenizer gives codes outside the sizes {codes.sizes[:levels]}")
    names = np.array(codes.domain_names)[codes.domain_index]
    taken = {name: set(map(tuple, codes.codes[names == name].tolist())) for name in dict.fromkeys(domains)}
    placed, moved, displaced = np.empty((len(rows), codes.levels), dtype=np.int64), 0, 0
    for item, (row, domain) in enumerate(zip(rows.tolist(), domains, strict=True)):
        order = _by_distance(item, row, codes.sizes[:levels], residuals, codebooks)
        counters = list(product(*[range(codes.sizes[-1])] * counted))  # [()] without such a level
        near = ((*path, *counter) for path in _near(row, order) for counter in counters)
        found = next((path for path in near if path not in taken[domain]), None)
        if found is None:
            raise CodesError(
                f"{domain} has {len(taken[domain])} items, and no identifier of sizes {codes.sizes} is free; "
                "train a tokenizer with larger codebooks"
            )
        taken[domain].add(found)
        placed[item] = found
        moved += list(found[:levels]) != row
        displaced += list(found[: levels - 1]) != row[:-1]
    all_domains = None if codes.domains is None else np.array([*codes.domains, *domains])
    table = np.concatenate([codes.codes, placed])
    return Grown(replace(codes, codes=table, domains=all_domains), moved, displaced)


def _by_distance(
    item: int,
    row: list[int],
    sizes: Sequence[int],
    residuals: npt.NDArray[np.floating] | None,
    codebooks: Sequence[npt.NDArray[np.floating]],
) -> list[list[int]]:
    """Return the codes of each level by distance, with the item's code first."""
    found = []
    for level, size in enumerate(sizes):
        order = np.arange(size)
        if residuals is not None and len(codebooks) == len(sizes) and codebooks[level].size:
            order = np.argsort(
                np.linalg.norm(codebooks[level] - residuals[item, level], axis=1), kind="stable"
            )
        found.append([row[level], *(code for code in order.tolist() if code != row[level])])
    return found


def _near(row: list[int], order: list[list[int]]) -> Iterator[tuple[int, ...]]:
    """Yield every identifier once: first those that differ at the last level, then at the last two, …"""
    yield tuple(row)
    for depth in reversed(range(len(row))):
        for others in product(order[depth][1:], *order[depth + 1 :]):
            yield (*row[:depth], *others)
