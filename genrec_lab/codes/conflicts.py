"""Conflict policies: pure functions over (N, L) codes that make identifiers unique within each domain.

Every policy treats each domain as if it were alone, is deterministic, and answers with a `Reassigned`.
Shapes: N items, L levels, K codes of the last level, d dimensions of the codebook space.
A prefix is an identifier without its last code; a group is the items of one domain with equal codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import linear_sum_assignment

from genrec_lab.codes.errors import CodesError
from genrec_lab.codes.grouping import IntArray, members_of_groups, positions_within_groups, row_ids
from genrec_lab.codes.last_level import CodebooksLike, LastLevel
from genrec_lab.codes.sinkhorn import sinkhorn_last_codes

Policy = Literal["none", "extra_level", "nearest_free", "sinkhorn", "optimal"]
POLICIES: tuple[str, ...] = get_args(Policy)


class IdentifierConfig(BaseModel):
    """How conflicts between identifiers are resolved."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    policy: Policy = "nearest_free"
    # LC-Rec's public code: epsilon of the last level, rounds at most, Sinkhorn-Knopp iterations of a round.
    sinkhorn_epsilon: float = Field(default=0.003, gt=0)
    sinkhorn_rounds: int = Field(default=20, ge=1)
    sinkhorn_iterations: int = Field(default=50, ge=1)


@dataclass(frozen=True)
class Reassigned:
    """Codes after a policy, (N, L) or with a level more, their sizes, and what it cost (see `Resolution`)."""

    codes: IntArray
    sizes: tuple[int, ...]
    moved: int = 0
    cost: float = 0.0
    displaced: int = 0
    unsolved: int = 0


def reassign(
    codes: IntArray,
    sizes: tuple[int, ...],
    domain_index: IntArray,
    domain_names: Sequence[str],
    config: IdentifierConfig,
    residuals: npt.ArrayLike | None = None,
    codebooks: CodebooksLike | None = None,
    seed: int = 0,
) -> Reassigned:
    """Apply the policy that the config names; arguments as in `ItemCodes.resolve_with_cost`."""
    if config.policy == "none":
        return Reassigned(codes, sizes)
    if config.policy == "extra_level":
        return extra_level(codes, sizes, domain_index)
    last = LastLevel.build(config.policy, residuals, codebooks, domain_index, domain_names, codes, sizes[-1])
    if config.policy == "nearest_free":
        return nearest_free(codes, sizes, last, seed)
    if config.policy == "optimal":
        return optimal(codes, sizes, last, seed)
    return sinkhorn(codes, sizes, last, config, seed)


def extra_level(codes: IntArray, sizes: tuple[int, ...], domain_index: IntArray) -> Reassigned:
    """Append a level that counts 0, 1, 2, … inside each group, in item order (TIGER).

    Every item gets the level; its size is the largest group over all domains. No given code changes, so
    nothing counts as moved.
    """
    counter = positions_within_groups(row_ids(np.column_stack([domain_index, codes])))
    return Reassigned(np.column_stack([codes, counter]), (*sizes, int(counter.max()) + 1))


def nearest_free(codes: IntArray, sizes: tuple[int, ...], last: LastLevel, seed: int = 0) -> Reassigned:
    """Keep each group's item nearest to its last code, send the others to the nearest free (UTGRec 2.4.1).

    First every group's nearest item keeps its code; then, prefix by prefix, the others move: groups by
    ascending last code, inside a group by distance to that code, each to the nearest last code that nobody
    under the prefix holds. Where a prefix has no free last code, see `_place_displaced`. Items whose code
    was unique never move. The order of items matters only between items with equal distances.
    """
    prefix_ids = row_ids(np.column_stack([last.domain_index, codes[:, :-1]]))
    movers = _without_nearest(codes, prefix_ids, last)
    if movers.size == 0:
        return Reassigned(codes, sizes)
    new_codes = codes.copy()
    displaced: list[int] = []
    with_movers = np.zeros(int(prefix_ids.max()) + 1, dtype=bool)
    with_movers[prefix_ids[movers]] = True
    borders = np.flatnonzero(np.diff(prefix_ids[movers])) + 1
    prefixes = zip(members_of_groups(prefix_ids, with_movers), np.split(movers, borders), strict=True)
    for members, moving in prefixes:
        taken = np.zeros(sizes[-1], dtype=bool)
        taken[codes[members, -1]] = True
        for item, distances in zip(moving.tolist(), last.distances(moving), strict=True):
            if taken.all():
                displaced.append(item)
                continue
            chosen = int(np.where(taken, np.inf, distances).argmin())
            taken[chosen] = True
            new_codes[item, -1] = chosen
    _place_displaced(new_codes, sizes, last.domain_index, displaced, seed)
    return _with_cost(codes, new_codes, sizes, last, displaced=len(displaced))


def optimal(codes: IntArray, sizes: tuple[int, ...], last: LastLevel, seed: int = 0) -> Reassigned:
    """Give the items of each ambiguous prefix distinct last codes at the least total distance.

    A linear assignment of all items under the prefix to all K last codes, so an item whose code was unique
    may move where that helps the sum; prefixes without a conflict stay as they are. Of more than K items
    under a prefix, the K that together lie nearest stay, and the others are placed by `_place_displaced`.
    """
    prefix_ids = row_ids(np.column_stack([last.domain_index, codes[:, :-1]]))
    identifier_ids = row_ids(np.column_stack([prefix_ids, codes[:, -1]]))
    ambiguous_items = (np.bincount(identifier_ids) > 1)[identifier_ids]
    ambiguous_prefixes = np.zeros(int(prefix_ids.max()) + 1, dtype=bool)
    ambiguous_prefixes[prefix_ids[ambiguous_items]] = True
    new_codes = codes.copy()
    displaced: list[int] = []
    for members in members_of_groups(prefix_ids, ambiguous_prefixes):
        rows, columns = linear_sum_assignment(last.distances(members))
        new_codes[members[rows], -1] = columns
        displaced.extend(np.delete(members, rows).tolist())
    _place_displaced(new_codes, sizes, last.domain_index, displaced, seed)
    return _with_cost(codes, new_codes, sizes, last, displaced=len(displaced))


def sinkhorn(
    codes: IntArray, sizes: tuple[int, ...], last: LastLevel, config: IdentifierConfig, seed: int = 0
) -> Reassigned:
    """Re-assign the last codes of colliding items by Sinkhorn-Knopp, in rounds (LC-Rec and its lineage).

    See `sinkhorn_last_codes` for a round. As in the public code, an item that was unique is drawn in where a
    re-assigned item takes its code. What still collides after the last round is counted as unsolved and
    goes through `nearest_free`, so that the result is unique; the public code leaves it colliding.
    """
    prefix_ids = row_ids(np.column_stack([last.domain_index, codes[:, :-1]]))
    settled = codes.copy()
    settled[:, -1] = sinkhorn_last_codes(
        prefix_ids,
        codes[:, -1],
        last,
        config.sinkhorn_epsilon,
        config.sinkhorn_rounds,
        config.sinkhorn_iterations,
    )
    group_sizes = np.bincount(row_ids(np.column_stack([prefix_ids, settled[:, -1]])))
    separated = nearest_free(settled, sizes, last, seed)
    return _with_cost(
        codes,
        separated.codes,
        sizes,
        last,
        displaced=separated.displaced,
        unsolved=int(group_sizes[group_sizes > 1].sum()),
    )


def _without_nearest(codes: IntArray, prefix_ids: IntArray, last: LastLevel) -> IntArray:
    """All items of groups except each group's nearest, by prefix, last code, distance, and item."""
    identifier_ids = row_ids(np.column_stack([prefix_ids, codes[:, -1]]))
    in_groups = np.flatnonzero((np.bincount(identifier_ids) > 1)[identifier_ids])
    distances = last.distance_to(in_groups, codes[in_groups, -1])
    in_groups = in_groups[np.lexsort((in_groups, distances, identifier_ids[in_groups]))]
    ids = identifier_ids[in_groups]
    is_first = np.concatenate([np.ones(min(1, len(ids)), dtype=bool), ids[1:] != ids[:-1]])
    return in_groups[~is_first]


def _place_displaced(
    codes: IntArray, sizes: tuple[int, ...], domain_index: IntArray, displaced: Sequence[int], seed: int
) -> None:
    """Give each item that its full prefix displaced a free identifier by chance (UTGRec's last resort).

    Random last two codes first; where all such pairs are taken, random last three, and so on.
    Changes `codes` in place; raises CodesError where a domain has more items than there are identifiers.
    """
    waiting = list(displaced)
    for depth in range(len(sizes) - 2, -1, -1):
        if waiting:
            waiting = _place_under(codes, sizes, domain_index, waiting, depth, seed)
    if waiting:
        raise CodesError(
            f"sizes {sizes} make {math.prod(sizes)} identifiers, {len(waiting)} too few for the items of a "
            "domain; use larger codebooks, more levels, or policy 'extra_level'"
        )


def _place_under(
    codes: IntArray,
    sizes: tuple[int, ...],
    domain_index: IntArray,
    waiting: Sequence[int],
    depth: int,
    seed: int,
) -> list[int]:
    """Draw new codes from level `depth` on for the waiting items; return those for whom nothing is free."""
    parent_ids = row_ids(np.column_stack([domain_index, codes[:, :depth]]))
    is_waiting = np.zeros(len(codes), dtype=bool)
    is_waiting[list(waiting)] = True
    by_parent: dict[int, list[int]] = {}
    for item in waiting:
        by_parent.setdefault(int(parent_ids[item]), []).append(item)
    wanted = np.zeros(int(parent_ids.max()) + 1, dtype=bool)
    wanted[list(by_parent)] = True
    left: list[int] = []
    for members in members_of_groups(parent_ids, wanted):
        taken = {tuple(row) for row in codes[members[~is_waiting[members]], depth:].tolist()}
        # Seeded by the codes before, so that a domain's result does not depend on the other domains.
        generator = np.random.default_rng([seed, *codes[members[0], :depth].tolist()])
        for item in by_parent[int(parent_ids[members[0]])]:
            if len(taken) == math.prod(sizes[depth:]):
                left.append(item)
                continue
            drawn = tuple(generator.integers(sizes[depth:]).tolist())
            while drawn in taken:
                drawn = tuple(generator.integers(sizes[depth:]).tolist())
            taken.add(drawn)
            codes[item, depth:] = drawn
    return left


def _with_cost(
    codes: IntArray,
    new_codes: IntArray,
    sizes: tuple[int, ...],
    last: LastLevel,
    displaced: int,
    unsolved: int = 0,
) -> Reassigned:
    moved = np.flatnonzero((codes != new_codes).any(axis=1))
    farther = last.distance_to(moved, new_codes[moved, -1]) - last.distance_to(moved, codes[moved, -1])
    return Reassigned(new_codes, sizes, len(moved), float(farther.sum()), displaced, unsolved)
