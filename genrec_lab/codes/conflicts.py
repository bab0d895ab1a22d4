"""Conflict policies: functions over (N, L) codes that make identifiers unique within each domain.

Every policy here treats each domain independently and is deterministic. `register_conflict_policy` adds your
own to `CONFLICT_POLICIES`; a run file can also name one as `package.module:name` or `file.py:name`.
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

from genrec_lab.codes.grouping import (
    CodesError,
    IntArray,
    members_of_groups,
    positions_within_groups,
    row_ids,
    shared_ids,
)
from genrec_lab.codes.last_level import CodebooksLike, FloatArray, LastLevel
from genrec_lab.registry import Registry, RegistryError

# A policy is a function from `Conflicts` to `Reassigned`, or a class whose instances are such functions.
CONFLICT_POLICIES: Registry[Callable[..., Any]] = Registry("conflict policy")
_Policy = TypeVar("_Policy", bound=Callable[..., Any])

# Sinkhorn processes groups of equal size together; this many distances keep the memory near 100 MB.
_LARGEST_BATCH = 2_000_000


def register_conflict_policy(name: str) -> Callable[[_Policy], _Policy]:
    """Register the decorated function or class as a conflict policy.

    A function takes a `Conflicts` and the run file's `identifiers.options` as keywords; a class takes these
    options, and its instance takes the `Conflicts`. Both return a `Reassigned`.

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

    # A name in CONFLICT_POLICIES, or `package.module:name` or `file.py:name`.
    policy: str = "nearest_free"
    # Keyword options, for policies from outside this package.
    options: dict[str, Any] = Field(default_factory=dict)
    # From LC-Rec's public code: epsilon of the last level, most rounds, Sinkhorn-Knopp iterations per round.
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
        """Return the policy with its options; raises CodesError for an unknown name or unknown options."""
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
    """Codes after a policy, (N, L) or with one more level, their sizes, and the cost (see `Resolution`)."""

    codes: IntArray
    sizes: tuple[int, ...]
    moved: int = 0
    cost: float = 0.0
    displaced: int = 0
    unsolved: int = 0


@dataclass(frozen=True, eq=False)
class Conflicts:
    """The input of a policy: identifiers, not all unique, and their residuals and codebooks.

    codes: (N, L). sizes: L. domain_index: (N,) each item's index in domain_names. residuals, codebooks and
    seed: as in `ItemCodes.resolve_with_cost`; `last_level` raises CodesError if the first two are missing.
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
        """Return the checked residuals and codewords of the last level."""
        return LastLevel.of(self)

    @cached_property
    def prefix_ids(self) -> IntArray:
        """Return the number of each item's prefix within its domain, (N,)."""
        return row_ids(np.column_stack([self.domain_index, self.codes[:, :-1]]))

    def outcome(self, codes: IntArray, displaced: int = 0, unsolved: int = 0) -> Reassigned:
        """Return new codes (N, L) and their cost by the distances at the last level."""
        moved = np.flatnonzero((self.codes != codes).any(axis=1))
        old, new = self.codes[moved, -1], codes[moved, -1]
        farther = self.last_level.distance_to(moved, new) - self.last_level.distance_to(moved, old)
        return Reassigned(codes, self.sizes, len(moved), float(farther.sum()), displaced, unsolved)


def reassign(given: Conflicts) -> Reassigned:
    """Apply the config's policy; raises CodesError if the result is not a valid `Reassigned`."""
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

    Every item gets the level; its size is the largest group over all domains. The other codes do not change,
    so no item counts as moved.
    """
    counter = positions_within_groups(row_ids(np.column_stack([given.domain_index, given.codes])))
    return Reassigned(np.column_stack([given.codes, counter]), (*given.sizes, int(counter.max()) + 1))


@register_conflict_policy("nearest_free")
def nearest_free(given: Conflicts) -> Reassigned:
    """Keep the item nearest to its last code in each group, and move the others (UTGRec 2.4.1).

    Prefix by prefix, the other items move to the nearest free last code under the prefix: groups in ascending
    order of the last code, items of a group by distance to that code. If a prefix has no free last code, see
    `_place_displaced`. Items with a unique code never move. The order of items matters only for equal
    distances.
    """
    return given.outcome(*_nearest_free(given, given.codes))


def _nearest_free(given: Conflicts, codes: IntArray) -> tuple[IntArray, int]:
    """Return codes made unique as in `nearest_free`, and the number of displaced items."""
    prefix_ids, last = given.prefix_ids, given.last_level
    movers = _without_nearest(codes, prefix_ids, last)
    if movers.size == 0:
        return codes, 0
    new_codes = codes.copy()
    displaced: list[int] = []
    borders = np.flatnonzero(np.diff(prefix_ids[movers])) + 1
    prefixes = zip(members_of_groups(prefix_ids, prefix_ids[movers]), np.split(movers, borders), strict=True)
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
    """Give the items of each ambiguous prefix distinct last codes with the smallest total distance.

    This is a linear assignment of all items under the prefix to all K last codes, so an item with a unique
    code may move if that reduces the sum. Prefixes without a conflict do not change. If a prefix has more
    than K items, the K with the smallest total distance stay, and `_place_displaced` places the others.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    prefix_ids, last = given.prefix_ids, given.last_level
    identifier_ids = row_ids(np.column_stack([prefix_ids, given.codes[:, -1]]))
    ambiguous = np.isin(identifier_ids, shared_ids(identifier_ids))
    new_codes = given.codes.copy()
    displaced: list[int] = []
    for members in members_of_groups(prefix_ids, prefix_ids[ambiguous]):
        rows, columns = linear_sum_assignment(last.distances(members))
        new_codes[members[rows], -1] = columns
        displaced.extend(np.delete(members, rows).tolist())
    _place_displaced(new_codes, given, displaced)
    return given.outcome(new_codes, len(displaced))


@register_conflict_policy("sinkhorn")
def sinkhorn(given: Conflicts) -> Reassigned:
    """Reassign the last codes of colliding items by balanced transport, in rounds (LC-Rec and successors).

    See `_sinkhorn_last_codes` for a round. As in the public code, a unique item takes part in later rounds if
    a reassigned item gets its code. Items that still collide after the last round are counted as unsolved and
    resolved by `nearest_free`; the public code leaves them colliding.
    """
    settled = given.codes.copy()
    settled[:, -1] = _sinkhorn_last_codes(given)
    group_sizes = np.bincount(row_ids(np.column_stack([given.prefix_ids, settled[:, -1]])))
    separated, displaced = _nearest_free(given, settled)
    return given.outcome(separated, displaced, int(group_sizes[group_sizes > 1].sum()))


def _sinkhorn_last_codes(given: Conflicts) -> IntArray:
    """Return last codes (N,) after the rounds, each of which spreads colliding groups over all last codes.

    The result may still have collisions. A round scales each group's squared distances to [-1, 1], balances
    exp(-distance / epsilon) with `balanced_log_plan`, and gives each item the code of its largest entry. The
    rounds end early if nothing collides or a round changed nothing.

    Balancing gives every code the same mass, so even a small group is spread over distant codes. The cost is
    therefore much higher than that of moving each item to its nearest free code.
    """
    config, last, prefix_ids = given.config, given.last_level, given.prefix_ids
    current = given.codes[:, -1].copy()
    # A group's result depends only on its members, so a group that occurs again is not recomputed.
    outcomes: dict[bytes, IntArray] = {}
    for _ in range(config.sinkhorn_rounds):
        identifier_ids = row_ids(np.column_stack([prefix_ids, current]))
        groups = members_of_groups(identifier_ids, shared_ids(identifier_ids))
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
    """Scale exp(logits) alternately so that items, then codes, have equal mass (Sinkhorn-Knopp).

    (G, n, K) -> (G, n, K), both logarithms, because exp(1 / 0.003) leaves little of float64's range.
    """
    plan = logits.copy()
    for _ in range(iterations):
        plan -= _log_sum_exp(plan, axis=2) + np.log(plan.shape[1])
        plan -= _log_sum_exp(plan, axis=1) + np.log(plan.shape[2])
    return plan


def _scaled_distances(batch: IntArray, last: LastLevel) -> FloatArray:
    from scipy.spatial.distance import cdist  # slow to import

    codebook = last.book(last.book_index[batch[0, 0]])
    flat = cdist(last.residuals[batch.reshape(-1)], codebook, "sqeuclidean")
    squared = flat.reshape(*batch.shape, len(codebook))
    largest = squared.max(axis=(1, 2), keepdims=True)
    middle = (largest + squared.min(axis=(1, 2), keepdims=True)) / 2
    # 1e-5 keeps the division safe if all distances are equal; the value is from the public code.
    scaled: FloatArray = (squared - middle) / (largest - middle + 1e-5)
    return scaled


def _log_sum_exp(values: FloatArray, axis: int) -> FloatArray:
    largest = values.max(axis=axis, keepdims=True)
    sums: FloatArray = largest + np.log(np.exp(values - largest).sum(axis=axis, keepdims=True))
    return sums


def _batches(groups: list[IntArray], last: LastLevel) -> list[IntArray]:
    """Stack groups of one book and size into (G, n) matrices of items of bounded size."""
    by_kind: dict[tuple[int, int], list[IntArray]] = {}
    for group in groups:
        by_kind.setdefault((int(last.book_index[group[0]]), len(group)), []).append(group)
    batches: list[IntArray] = []
    for (_, size), alike in by_kind.items():
        per_batch = max(1, _LARGEST_BATCH // (size * last.size))
        batches += [np.stack(alike[start : start + per_batch]) for start in range(0, len(alike), per_batch)]
    return batches


def _without_nearest(codes: IntArray, prefix_ids: IntArray, last: LastLevel) -> IntArray:
    """Return all items of groups except each group's nearest, by prefix, last code, distance, and item."""
    identifier_ids = row_ids(np.column_stack([prefix_ids, codes[:, -1]]))
    in_groups = np.flatnonzero(np.isin(identifier_ids, shared_ids(identifier_ids)))
    distances = last.distance_to(in_groups, codes[in_groups, -1])
    in_groups = in_groups[np.lexsort((in_groups, distances, identifier_ids[in_groups]))]
    ids = identifier_ids[in_groups]
    is_first = np.concatenate([np.ones(min(1, len(ids)), dtype=bool), ids[1:] != ids[:-1]])
    return in_groups[~is_first]


def _place_displaced(codes: IntArray, given: Conflicts, displaced: Sequence[int]) -> None:
    """Give each item displaced from a full prefix a random free identifier (UTGRec's last resort).

    Draws the last two codes; if all such pairs are taken, the last three, and so on. Changes `codes` in
    place; raises CodesError if a domain has more items than identifiers.
    """
    waiting = list(displaced)
    for depth in range(len(given.sizes) - 2, -1, -1):
        if waiting:
            waiting = _place_under(codes, given, waiting, depth)
    if waiting:
        raise CodesError(
            f"sizes {given.sizes} allow {math.prod(given.sizes)} identifiers, {len(waiting)} too few for the "
            "items of a domain; use larger codebooks, more levels, or policy 'extra_level'"
        )


def _place_under(codes: IntArray, given: Conflicts, waiting: Sequence[int], depth: int) -> list[int]:
    """Draw new codes from level `depth` on for the waiting items; return those without a free identifier."""
    sizes = given.sizes[depth:]
    parent_ids = row_ids(np.column_stack([given.domain_index, codes[:, :depth]]))
    is_waiting = np.zeros(len(codes), dtype=bool)
    is_waiting[list(waiting)] = True
    by_parent: dict[int, list[int]] = {}
    for item in waiting:
        by_parent.setdefault(int(parent_ids[item]), []).append(item)
    left: list[int] = []
    for members in members_of_groups(parent_ids, np.array(list(by_parent))):
        taken = {tuple(row) for row in codes[members[~is_waiting[members]], depth:].tolist()}
        # Seeded by the preceding codes, so that a domain's result does not depend on the other domains.
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
