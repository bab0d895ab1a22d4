"""What recommenders that score a whole domain at once share: from a table of scores to ranked items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from genrec_lab.decoding import Ranked

Row = TypeVar("Row")  # a history, or whatever else a score is asked for


def rank_by_score(
    score: Callable[[Sequence[Row]], np.ndarray],
    histories: Sequence[Row],
    items: np.ndarray,
    top_k: int,
    batch_size: int = 512,
) -> Ranked:
    """Return the top_k of `items` (N,), the catalogue's item indices, a batch of histories at a time.

    `score(histories)` is (B, N), higher is better. Raises ValueError where top_k is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; expected 1 or more")
    parts = []
    for start in range(0, len(histories), batch_size):
        scores = score(histories[start : start + batch_size])
        width = min(top_k, len(items))
        # All that ties with the last place goes along, so that Ranked.best breaks the tie by item index.
        worst = np.partition(scores, -width, axis=1)[:, -width, None]
        most = int((scores >= worst).sum(1).max())
        columns = np.argpartition(-scores, min(most, len(items)) - 1, axis=1)[:, :most]
        parts.append(Ranked.best(items[columns], np.take_along_axis(scores, columns, 1), top_k))
    return Ranked.concatenate(parts) if parts else Ranked.nobody(top_k)
