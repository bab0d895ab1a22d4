"""Conflict policies: pure functions over (N, L) codes that make identifiers unique within each domain.

Every policy sees each domain alone, is deterministic, and answers with a `Reassigned`.
Shapes: N items, L levels, K codes of the last level, d dimensions of the codebook space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from genrec_lab.codes.errors import CodesError
from genrec_lab.codes.grouping import IntArray, positions_within_groups, row_ids

Policy = Literal["none", "extra_level", "nearest_free", "sinkhorn", "optimal"]
POLICIES: tuple[str, ...] = get_args(Policy)
CodebooksLike = npt.ArrayLike | Mapping[str, npt.ArrayLike]


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
    """Codes after a policy: (N, L') codes, their sizes, and what the policy cost (see `Resolution`)."""

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
    residuals: npt.ArrayLike | None,
    codebooks: CodebooksLike | None,
    seed: int,
) -> Reassigned:
    """Apply the policy that the config names; arguments as in `ItemCodes.resolve_with_cost`."""
    if config.policy == "none":
        return Reassigned(codes, sizes)
    if config.policy == "extra_level":
        return extra_level(codes, sizes, domain_index)
    raise CodesError(f"policy {config.policy!r} is not available")


def extra_level(codes: IntArray, sizes: tuple[int, ...], domain_index: IntArray) -> Reassigned:
    """Append a level that counts 0, 1, 2, … inside each group of equal codes, in item order (TIGER).

    Every item gets the level; its size is the largest group over all domains. No given code changes.
    """
    counter = positions_within_groups(row_ids(np.column_stack([domain_index, codes])))
    return Reassigned(np.column_stack([codes, counter]), (*sizes, int(counter.max()) + 1))
