"""The model's true top-k: branch and bound over the trie.

A log-probability is never above 0, so the score of a prefix bounds that of every item below it. A beam search
gives a first k-th best score; every prefix below it is cut with proof, every other one is opened, and what is
left at the leaves is exact.
"""

from __future__ import annotations

import numpy as np
import torch

from genrec_lab.decoding.beam import CodeModel, Histories, beam_search, evaluating
from genrec_lab.decoding.ranked import Ranked
from genrec_lab.decoding.trie import CodeTrie

# The beam's scores come from the cached path, the search's from whole prefixes: their last digits may differ.
_SLACK = 1e-3  # share of the bound, and no less than this


@torch.inference_mode()
def exact_top_k(
    model: CodeModel,
    histories: Histories,
    trie: CodeTrie,
    top_k: int,
    *,
    beams: int | None = None,
    batch_size: int = 32,
    rows: int = 4096,
) -> Ranked:
    """Return for each history the top_k items of the whole trie under the model, as scoring every item would.

    `beams` (by default 2 * top_k) only sets how tight the first bound is, not the result; `rows` is how many
    prefixes go through the model at once. A flat model, where hardly any prefix can be cut, is answered
    correctly but slowly.
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; expected 1 or more")
    width = beams or 2 * top_k
    with evaluating(model):
        parts = [
            _branch_and_bound(model, histories[start : start + batch_size], trie, top_k, width, rows)
            for start in range(0, len(histories), batch_size)
        ]
    return (
        Ranked.concatenate(parts)
        if parts
        else Ranked(np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32))
    )


def _branch_and_bound(
    model: CodeModel, histories: Histories, trie: CodeTrie, top_k: int, beams: int, rows: int
) -> Ranked:
    found = beam_search(model, histories, trie, max(beams, top_k), top_k).scores[:, -1]
    bound = found - _SLACK * np.maximum(1.0, np.abs(found))
    memory = model.remember(histories)
    # One row an open prefix: its user, its node, its codes and its score.
    user = np.arange(len(histories))
    node = np.zeros(len(histories), dtype=np.int64)
    codes = np.zeros((len(histories), 0), dtype=np.int64)
    score = np.zeros(len(histories), dtype=np.float64)
    for level in range(trie.depth):
        parent, child = trie.expand(level, node)
        step = np.empty(len(child), dtype=np.float64)
        for start in range(0, len(node), rows):
            chunk = slice(start, start + rows)
            log_probs = model.continuations(
                memory.of_users(torch.from_numpy(user[chunk])), torch.from_numpy(codes[chunk])
            )
            edges = slice(*np.searchsorted(parent, [start, start + rows]))
            step[edges] = log_probs.cpu().numpy()[
                parent[edges] - start, trie.levels[level].codes[child[edges]]
            ]
        score = score[parent] + step
        keep = score >= bound[user[parent]]
        parent, node, score = parent[keep], child[keep], score[keep]
        user = user[parent]
        codes = np.column_stack([codes[parent], trie.levels[level].codes[node].astype(np.int64)])
    return _top_of_each(user, trie.items[node], score, len(histories), top_k)


def _top_of_each(user: np.ndarray, items: np.ndarray, score: np.ndarray, users: int, top_k: int) -> Ranked:
    """Lay the leaves of each user side by side and take the best."""
    counts = np.bincount(user, minlength=users)
    column = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((users, max(1, int(counts.max()))), -1, dtype=np.int64)
    scores = np.full(table.shape, -np.inf)
    table[user, column], scores[user, column] = items, score
    return Ranked.best(table, scores, top_k)
