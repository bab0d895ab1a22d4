"""Conflict policies: functions over (N, L) codes that make identifiers unique within each domain.

Every policy here treats each domain as if it were alone and is deterministic. `CONFLICT_POLICIES` is open:
`register_conflict_policy` adds one, and a run file also names one as `package.module:name` or `file.py:name`.
Shapes: N items, L levels, K codes of the last level, d dimensions of the codebook space, G groups of n items.
A prefix is an identifier without its last code; a group is the items of one domain with equal codes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Self, TypeVar, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from genrec_lab.codes.grouping import (
    CodesError,
    IntArray,
    members_of_groups,
    positions_within_groups,
    row_ids,
)
from genrec_lab.codes.last_level import CodebooksLike, FloatArray, LastLevel
from genrec_lab.registry import Registry, RegistryError

# A policy is a function from `Conflicts` to `Reassigned`, or a class whose instances are called so.
CONFLICT_POLICIES: Registry[Callable[..., Any]] = Registry("conflict policy")
_Policy = TypeVar("_Policy", bound=Callable[..., Any])

# Sinkhorn: groups of one size move together; this many distances at once keep the memory near 100 MB.
_LARGEST_BATCH = 2_000_000


def register_conflict_policy(name: str) -> Callable[[_Policy], _Policy]:
    """Register the decorated function or class as a conflict policy.

    A function takes a `Conflicts`, and the run file's `identifiers.options` by name; a class takes those
    options, and its instance the `Conflicts`. Either returns a `Reassigned`.

        >>> from genrec_lab.codes import ItemCodes, Reassigned, register_conflict_policy
        >>> @register_conflict_policy("item_number")
        ... def item_number(given):
        ...     numbers = np.arange(len(given.codes))[:, None]
        ...     return Reassigned(np.hstack([given.codes, numbers]), (*given.sizes, len(numbers)))
        >>> ItemCodes([[3], [3]], [4]).resolve("item_number").codes.tolist()
        [[3, 0], [3, 1]]
    """
    return CONFLICT_POLICIES.register(name)


class IdentifierConfig(BaseModel):
    """How conflicts between identifiers are resolved."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    # A name in CONFLICT_POLICIES, or the place of a policy: `package.module:name` or `file.py:name`.
    policy: str = "nearest_free"
    # What that policy takes by name, for policies that are not this package's.
    options: dict[str, Any] = Field(default_factory=dict)
    # LC-Rec's public code: epsilon of the last level, rounds at most, Sinkhorn-Knopp iterations of a round.
    sinkhorn_epsilon: float = Field(default=0.003, gt=0)
    sinkhorn_rounds: int = Field(default=20, ge=1)
    sinkhorn_iterations: int = Field(default=50, ge=1)

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str) -> str:
        _registered(policy)
        return policy

    @model_validator(mode="after")
    def _takes_options(self) -> Self:
        self.found_policy()
        return self

    def found_policy(self) -> Callable[[Conflicts], Any]:
        """The policy with its options; raises CodesError for an unknown name and for options it lacks."""
        policy = _registered(self.policy)
        try:
            if inspect.isclass(policy):
                return cast(Callable[[Conflicts], Any], policy(**self.options))
            inspect.signature(policy).bind(None, **self.options)
        except (TypeError, ValueError) as error:
            raise CodesError(
                f"policy {self.policy!r} does not take the options {self.options}: {error}"
            ) from error
        return partial(policy, **self.options)


def _registered(policy: str) -> Callable[..., Any]:
    try:
        return CONFLICT_POLICIES.find(policy)
    except RegistryError as error:
        raise CodesError(str(error)) from error


@dataclass(frozen=True)
class Reassigned:
    """Codes after a policy, (N, L) or with a level more, their sizes, and what it cost (see `Resolution`)."""

    codes: IntArray
    sizes: tuple[int, ...]
    moved: int = 0
    cost: float = 0.0
    displaced: int = 0
    unsolved: int = 0


@dataclass(frozen=True, eq=False)
class Conflicts:
    """What a policy is given: identifiers, of which some are not unique, and what they were made from.

    codes: (N, L). sizes: L. domain_index: (N,) each item's place in domain_names. residuals, codebooks and
    seed: as in `ItemCodes.resolve_with_cost`; what uses `last_level` raises CodesError where the first two
    are missing.
    """

    codes: IntArray
    sizes: tuple[int, ...]
    domain_index: IntArray
    domain_names: Sequence[str]
    config: IdentifierConfig
    residuals: npt.ArrayLike | None = None
    codebooks: CodebooksLike | None = None
    seed: int = 0

    @cached_property
    def last_level(self) -> LastLevel:
        """The residuals and codewords of the last level, checked."""
        return LastLevel.of(self)

    @cached_property
    def prefix_ids(self) -> IntArray:
        """(N,) the number of each item's prefix within its domain."""
        return row_ids(np.column_stack([self.domain_index, self.codes[:, :-1]]))

    def outcome(self, codes: IntArray, displaced: int = 0, unsolved: int = 0) -> Reassigned:
        """Return new codes (N, L) with what they cost, by the distances of the last level."""
        moved = np.flatnonzero((self.codes != codes).any(axis=1))
        old, new = self.codes[moved, -1], codes[moved, -1]
        farther = self.last_level.distance_to(moved, new) - self.last_level.distance_to(moved, old)
        return Reassigned(codes, self.sizes, len(moved), float(farther.sum()), displaced, unsolved)


def reassign(given: Conflicts) -> Reassigned:
    """Apply the policy that the config names; raises CodesError where what it returns is no `Reassigned`."""
    made = given.config.found_policy()(given)
    rows = len(given.codes)
    if not isinstance(made, Reassigned) or np.ndim(made.codes) != 2 or len(made.codes) != rows:
        shape = f" with codes of shape {np.shape(made.codes)}" if isinstance(made, Reassigned) else ""
        raise CodesError(
            f"policy {given.config.policy!r} returned a {type(made).__name__}{shape}; expected a "
            f"genrec_lab.codes.Reassigned with codes of shape ({rows}, levels)"
        )
    return made


@register_conflict_policy("none")
def none(given: Conflicts) -> Reassigned:
    """Leave all codes as they are."""
    return Reassigned(given.codes, given.sizes)


@register_conflict_policy("extra_level")
def extra_level(given: Conflicts) -> Reassigned:
    """Append a level that counts 0, 1, 2, … inside each group, in item order (TIGER).

    Every item gets the level; its size is the largest group over all domains. No given code changes, so
    nothing counts as moved.
    """
    counter = positions_within_groups(row_ids(np.column_stack([given.domain_index, given.codes])))
    return Reassigned(np.column_stack([given.codes, counter]), (*given.sizes, int(counter.max()) + 1))


@register_conflict_policy("nearest_free")
def nearest_free(given: Conflicts) -> Reassigned:
    """Keep each group's item nearest to its last code, send the others to the nearest free (UTGRec 2.4.1).

    First every group's nearest item keeps its code; then, prefix by prefix, the others move: groups by
    ascending last code, inside a group by distance to that code, each to the nearest last code that nobody
    under the prefix holds. Where a prefix has no free last code, see `_place_displaced`. Items whose code
    was unique never move. The order of items matters only between items with equal distances.
    """
    return given.outcome(*_nearest_free(given, given.codes))


def _nearest_free(given: Conflicts, codes: IntArray) -> tuple[IntArray, int]:
    """Codes made unique in the way of `nearest_free`, and the number of displaced items."""
    prefix_ids, last = given.prefix_ids, given.last_level
    movers = _without_nearest(codes, prefix_ids, last)
    if movers.size == 0:
        return codes, 0
    new_codes = codes.copy()
    displaced: list[int] = []
    with_movers = np.zeros(int(prefix_ids.max()) + 1, dtype=bool)
    with_movers[prefix_ids[movers]] = True
    borders = np.flatnonzero(np.diff(prefix_ids[movers])) + 1
    prefixes = zip(members_of_groups(prefix_ids, with_movers), np.split(movers, borders), strict=True)
    for members, moving in prefixes:
        taken = np.zeros(last.size, dtype=bool)
        taken[codes[members, -1]] = True
        for item, distances in zip(moving.tolist(), last.distances(moving), strict=True):
            if taken.all():
                displaced.append(item)
                continue
            chosen = int(np.where(taken, np.inf, distances).argmin())
            taken[chosen] = True
            new_codes[item, -1] = chosen
    _place_displaced(new_codes, given, displaced)
    return new_codes, len(displaced)


@register_conflict_policy("optimal")
def optimal(given: Conflicts) -> Reassigned:
    """Give the items of each ambiguous prefix distinct last codes at the least total distance.

    A linear assignment of all items under the prefix to all K last codes, so an item whose code was unique
    may move where that helps the sum; prefixes without a conflict stay as they are. Of more than K items
    under a prefix, the K that together lie nearest stay, and the others are placed by `_place_displaced`.
    """
    prefix_ids, last = given.prefix_ids, given.last_level
    identifier_ids = row_ids(np.column_stack([prefix_ids, given.codes[:, -1]]))
    ambiguous_items = (np.bincount(identifier_ids) > 1)[identifier_ids]
    ambiguous_prefixes = np.zeros(int(prefix_ids.max()) + 1, dtype=bool)
    ambiguous_prefixes[prefix_ids[ambiguous_items]] = True
    new_codes = given.codes.copy()
    displaced: list[int] = []
    for members in members_of_groups(prefix_ids, ambiguous_prefixes):
        rows, columns = linear_sum_assignment(last.distances(members))
        new_codes[members[rows], -1] = columns
        displaced.extend(np.delete(members, rows).tolist())
    _place_displaced(new_codes, given, displaced)
    return given.outcome(new_codes, len(displaced))


@register_conflict_policy("sinkhorn")
def sinkhorn(given: Conflicts) -> Reassigned:
    """Re-assign the last codes of colliding items by balanced transport, in rounds (LC-Rec and its lineage).

    See `_sinkhorn_last_codes` for a round. As in the public code, an item that was unique is drawn in where a
    re-assigned item takes its code. What still collides after the last round is counted as unsolved and
    goes through `nearest_free`, so that the result is unique; the public code leaves it colliding.
    """
    settled = given.codes.copy()
    settled[:, -1] = _sinkhorn_last_codes(given)
    group_sizes = np.bincount(row_ids(np.column_stack([given.prefix_ids, settled[:, -1]])))
    separated, displaced = _nearest_free(given, settled)
    return given.outcome(separated, displaced, int(group_sizes[group_sizes > 1].sum()))


def _sinkhorn_last_codes(given: Conflicts) -> IntArray:
    """(N,) last codes after the rounds; in each, every group of equal codes is spread over all last codes.

    The result may still have collisions. A round takes the groups as it finds them, scales each group's
    squared distances to [-1, 1], balances exp(-distance / epsilon) by `balanced_log_plan`, and gives each
    item its largest entry. It stops early where nothing collides any more, or where a round changed nothing,
    since the next would not either.

    Balance makes every code carry the same mass, so a group of few items is spread over far codes too:
    the cost of this policy is much above that of moving each item to its nearest free code.
    """
    config, last, prefix_ids = given.config, given.last_level, given.prefix_ids
    current = given.codes[:, -1].copy()
    # A group's outcome depends on its members alone, so a group that comes back is not computed again.
    outcomes: dict[bytes, IntArray] = {}
    for _ in range(config.sinkhorn_rounds):
        identifier_ids = row_ids(np.column_stack([prefix_ids, current]))
        groups = members_of_groups(identifier_ids, np.bincount(identifier_ids) > 1)
        before = current.copy()
        unseen = [group for group in groups if group.tobytes() not in outcomes]
        for batch in _batches(unseen, last):
            logits = _scaled_distances(batch, last) / -config.sinkhorn_epsilon
            plan = balanced_log_plan(logits, config.sinkhorn_iterations)
            outcomes |= {
                group.tobytes(): codes for group, codes in zip(batch, plan.argmax(axis=2), strict=True)
            }
        for group in groups:
            current[group] = outcomes[group.tobytes()]
        if np.array_equal(before, current):
            break
    return current


def balanced_log_plan(logits: FloatArray, iterations: int) -> FloatArray:
    """Scale exp(logits) in turns so that items, then codes, carry equal mass (Sinkhorn-Knopp).

    (G, n, K) -> (G, n, K), both logarithms, because exp(1 / 0.003) leaves little of float64's range.
    """
    plan = logits.copy()
    for _ in range(iterations):
        plan -= _log_sum_exp(plan, axis=2) + np.log(plan.shape[1])
        plan -= _log_sum_exp(plan, axis=1) + np.log(plan.shape[2])
    return plan


def _scaled_distances(batch: IntArray, last: LastLevel) -> FloatArray:
    codebook = last.book(last.book_index[batch[0, 0]])
    flat = cdist(last.residuals[batch.reshape(-1)], codebook, "sqeuclidean")
    squared = flat.reshape(*batch.shape, len(codebook))
    largest = squared.max(axis=(1, 2), keepdims=True)
    middle = (largest + squared.min(axis=(1, 2), keepdims=True)) / 2
    # 1e-5 keeps the division safe where all distances are equal; the value is the public code's.
    scaled: FloatArray = (squared - middle) / (largest - middle + 1e-5)
    return scaled


def _log_sum_exp(values: FloatArray, axis: int) -> FloatArray:
    largest = values.max(axis=axis, keepdims=True)
    sums: FloatArray = largest + np.log(np.exp(values - largest).sum(axis=axis, keepdims=True))
    return sums


def _batches(groups: list[IntArray], last: LastLevel) -> list[IntArray]:
    """Stack groups of one book and size into (G, n) matrices of items, split to bounded size."""
    by_kind: dict[tuple[int, int], list[IntArray]] = {}
    for group in groups:
        by_kind.setdefault((int(last.book_index[group[0]]), len(group)), []).append(group)
    batches: list[IntArray] = []
    for (_, size), alike in by_kind.items():
        per_batch = max(1, _LARGEST_BATCH // (size * last.size))
        batches += [np.stack(alike[start : start + per_batch]) for start in range(0, len(alike), per_batch)]
    return batches


def _without_nearest(codes: IntArray, prefix_ids: IntArray, last: LastLevel) -> IntArray:
    """All items of groups except each group's nearest, by prefix, last code, distance, and item."""
    identifier_ids = row_ids(np.column_stack([prefix_ids, codes[:, -1]]))
    in_groups = np.flatnonzero((np.bincount(identifier_ids) > 1)[identifier_ids])
    distances = last.distance_to(in_groups, codes[in_groups, -1])
    in_groups = in_groups[np.lexsort((in_groups, distances, identifier_ids[in_groups]))]
    ids = identifier_ids[in_groups]
    is_first = np.concatenate([np.ones(min(1, len(ids)), dtype=bool), ids[1:] != ids[:-1]])
    return in_groups[~is_first]


def _place_displaced(codes: IntArray, given: Conflicts, displaced: Sequence[int]) -> None:
    """Give each item that its full prefix displaced a free identifier by chance (UTGRec's last resort).

    Random last two codes first; where all such pairs are taken, random last three, and so on.
    Changes `codes` in place; raises CodesError where a domain has more items than there are identifiers.
    """
    waiting = list(displaced)
    for depth in range(len(given.sizes) - 2, -1, -1):
        if waiting:
            waiting = _place_under(codes, given, waiting, depth)
    if waiting:
        raise CodesError(
            f"sizes {given.sizes} make {math.prod(given.sizes)} identifiers, {len(waiting)} too few for the "
            "items of a domain; use larger codebooks, more levels, or policy 'extra_level'"
        )


def _place_under(codes: IntArray, given: Conflicts, waiting: Sequence[int], depth: int) -> list[int]:
    """Draw new codes from level `depth` on for the waiting items; return those for whom nothing is free."""
    sizes = given.sizes[depth:]
    parent_ids = row_ids(np.column_stack([given.domain_index, codes[:, :depth]]))
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
        generator = np.random.default_rng([given.seed, *codes[members[0], :depth].tolist()])
        for item in by_parent[int(parent_ids[members[0]])]:
            if len(taken) == math.prod(sizes):
                left.append(item)
                continue
            drawn = tuple(generator.integers(sizes).tolist())
            while drawn in taken:
                drawn = tuple(generator.integers(sizes).tolist())
            taken.add(drawn)
            codes[item, depth:] = drawn
    return left
