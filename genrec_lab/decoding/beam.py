"""Constrained beam search over the trie: all users and beams of a batch move together, a level at a time.

Letters: B users, M beams, L levels, K codes of a level, C most children of a node at the level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from genrec_lab.decoding.ranked import NO_ITEM, Ranked
from genrec_lab.decoding.trie import CodeTrie

Histories = Sequence[Sequence[int]]  # item indices, oldest first


class CodeModel(Protocol):
    """What decoding asks of a model: read histories once, then score the next code of any prefix."""

    def remember(self, histories: Histories) -> Any:
        """Read B histories; the answer goes to the other two, its `of_users(indices)` picks some users."""

    def step(
        self, memory: Any, codes: Tensor | None, cache: Any, parents: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Go one level on, with the codes (B, M) just chosen below the old beams `parents` (B, M).

        At the start codes, cache and parents are None. Returns log-probabilities (B, M, K) of the next
        level's codes in float32, and the new cache.
        """

    def continuations(self, memory: Any, prefixes: Tensor) -> Tensor:
        """Log-probabilities (R, K), float32, of the codes after prefixes (R, l); row r reads user r."""


@contextmanager
def evaluating(model: CodeModel) -> Iterator[None]:
    """Put a torch module into evaluation mode for a while, so that dropout does not draw the ranking."""
    if not isinstance(model, nn.Module):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.inference_mode()
def beam_search(
    model: CodeModel, histories: Histories, trie: CodeTrie, beams: int, top_k: int, *, batch_size: int = 128
) -> Ranked:
    """Return for each history the top_k items that a beam search of width `beams` over the trie finds.

    Scores are the model's log-probabilities of the whole identifier over its full vocabulary, as transformers
    gives them: illegal codes are never taken, but legal ones are not scaled up. A row has
    min(top_k, number of items) items, best first, all distinct.
    Raises ValueError where top_k is larger than beams, for then the last ones would be missing.
    """
    if not 1 <= top_k <= beams:
        raise ValueError(f"top_k is {top_k} and beams is {beams}; expected 1 <= top_k <= beams")
    parts = []
    with evaluating(model):
        for start in range(0, len(histories), batch_size):
            part = histories[start : start + batch_size]
            nodes, scores = _search(model, model.remember(part), len(part), trie, beams)
            items = np.where(np.isneginf(scores), NO_ITEM, trie.items[np.maximum(nodes, 0)])
            parts.append(Ranked.best(items, scores, top_k))
    return (
        Ranked.concatenate(parts)
        if parts
        else Ranked(np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32))
    )


def _search(
    model: CodeModel, memory: Any, users: int, trie: CodeTrie, beams: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the leaves (B, M) that survive and their log-probabilities (B, M), -inf past the last leaf."""
    log_probs, cache = model.step(memory, None, None, None)  # (B, 1, K)
    nodes = torch.zeros(users, 1, dtype=torch.long)
    scores = torch.zeros(users, 1)
    for level, edges in enumerate(trie.levels):
        children, codes = _children(edges.starts, edges.codes, nodes)  # (B, M, C)
        gathered = torch.gather(log_probs.cpu(), 2, codes)
        candidates = scores[:, :, None] + gathered.masked_fill(children < 0, -torch.inf)
        width = min(beams, candidates.shape[1] * candidates.shape[2])
        scores, places = candidates.flatten(1).topk(width)
        parents = places // candidates.shape[2]
        nodes = torch.gather(children.flatten(1), 1, places)
        if level + 1 < trie.depth:
            chosen = torch.gather(codes.flatten(1), 1, places)
            log_probs, cache = model.step(memory, chosen, cache, parents)
    return nodes.numpy(), scores.numpy()


def _children(starts: np.ndarray, edge_codes: np.ndarray, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Children (B, M, C) of nodes (B, M) as nodes a level down, and the codes that lead to them.

    Where a node has fewer than C children the node is -1 and the code 0.
    """
    node = nodes.numpy()
    alive = np.maximum(node, 0)
    first = starts[alive].astype(np.int64)
    count = np.where(node < 0, 0, starts[alive + 1] - first)
    place = np.arange(max(1, int(count.max())))
    real = place < count[..., None]
    children = np.where(real, first[..., None] + place, 0)
    codes = np.where(real, edge_codes[children], 0).astype(np.int64)
    return torch.from_numpy(np.where(real, children, -1)), torch.from_numpy(codes)
