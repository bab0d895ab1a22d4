"""Re-assignment of colliding last codes by balanced transport, as in LC-Rec and the code that follows it.

Shapes: N items, K last codes, G groups of n items each.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from genrec_lab.codes.grouping import IntArray, members_of_groups, row_ids
from genrec_lab.codes.last_level import FloatArray, LastLevel

# Groups of one size move together; this many distances at once keep the working memory near 100 MB.
_LARGEST_BATCH = 2_000_000


def sinkhorn_last_codes(
    prefix_ids: IntArray, last_codes: IntArray, last: LastLevel, epsilon: float, rounds: int, iterations: int
) -> IntArray:
    """Run up to `rounds` rounds; in each, every group of equal codes is spread over all last codes.

    `prefix_ids` and `last_codes` are (N,); the answer is (N,) last codes, possibly still with collisions.
    A round takes the groups as it finds them, scales each group's squared distances to [-1, 1], balances
    exp(-distance / epsilon) by `balanced_log_plan`, and gives each item its largest entry. It stops early
    where nothing collides any more, or where a round changed nothing, since the next would not either.

    Balance makes every code carry the same mass, so a group of few items is spread over far codes too:
    the cost of this policy is much above that of moving each item to its nearest free code.
    """
    current = last_codes.copy()
    # A group's outcome depends on its members alone, so a group that comes back is not computed again.
    outcomes: dict[bytes, IntArray] = {}
    for _ in range(rounds):
        identifier_ids = row_ids(np.column_stack([prefix_ids, current]))
        groups = members_of_groups(identifier_ids, np.bincount(identifier_ids) > 1)
        before = current.copy()
        unseen = [group for group in groups if group.tobytes() not in outcomes]
        for batch in _batches(unseen, last):
            plan = balanced_log_plan(_scaled_distances(batch, last) / -epsilon, iterations)
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
    codebook = last.codebooks[last.book_index[batch[0, 0]]]
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
    for (book, size), alike in by_kind.items():
        per_batch = max(1, _LARGEST_BATCH // (size * len(last.codebooks[book])))
        batches += [np.stack(alike[start : start + per_batch]) for start in range(0, len(alike), per_batch)]
    return batches
