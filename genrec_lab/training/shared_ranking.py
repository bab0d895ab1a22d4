"""Users ranked by several processes, each some of them."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import torch

from genrec_lab import processes
from genrec_lab.decoding import Ranked


def rank_in_shares(recommend: Callable[[pl.DataFrame], Ranked], users: pl.DataFrame) -> Ranked:
    """Rank all users, each process some, and give every process all rankings in the order of `users`.

    `recommend(rows)` ranks some rows of `users`. A single process ranks all.
    """
    own = processes.own_rows(users.height)
    ranked = recommend(users[own] if len(own) < users.height else users)
    items, scores = (
        processes.rows_of_all(torch.as_tensor(part), users.height).numpy()
        for part in (ranked.items, ranked.scores)
    )
    return Ranked(items, scores)
