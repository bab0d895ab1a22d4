"""How many items changed their codes between two moments of a training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genrec_lab.codes.errors import CodesError


@dataclass(frozen=True, eq=False)
class Churn:
    """The share of items whose code changed.

    by_level: (L,) the share whose code of that level changed, whatever the levels before did. by_prefix: (L,)
    the share for which any code up to that level changed; its last value is the share of changed identifiers.
    """

    by_level: npt.NDArray[np.float64]
    by_prefix: npt.NDArray[np.float64]

    @property
    def identifiers(self) -> float:
        """The share of items whose whole identifier changed."""
        return float(self.by_prefix[-1])


def churn(codes_before: npt.ArrayLike, codes_after: npt.ArrayLike) -> Churn:
    """Compare the codes of the same items at two moments of one training; both (N, L), CodesError else."""
    before, after = np.asarray(codes_before), np.asarray(codes_after)
    if before.ndim != 2 or before.shape != after.shape or 0 in before.shape:
        raise CodesError(
            f"codes: shapes {before.shape} before and {after.shape} after; expected (items, levels) twice"
        )
    changed = before != after
    return Churn(changed.mean(axis=0), np.logical_or.accumulate(changed, axis=1).mean(axis=0))
