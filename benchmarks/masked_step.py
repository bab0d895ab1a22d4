"""The search's side of a beam step, without a network, against STATIC's masked step.

STATIC (Vectorizing the trie, 2026) keeps the catalogue as compressed sparse rows, its first two levels as
dense tables, and masks the log-probabilities of a level's whole vocabulary before it takes the best. This is
an implementation of that idea, not the authors' code, and details may differ. Both get the same random
log-probabilities at every level.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.decoding import LEVELS, SIZE, random_codes
from benchmarks.measuring import Check, Comparison, Options, compare, main
from genrec_lab.decoding import CodeTrie, Ranked
from genrec_lab.decoding.beam import descend

OURS, PEER, DENSE = "genrec_lab", "STATIC's masked step", 2


class Given:
    """A model whose log-probabilities are given: (B, M, K) a level."""

    def __init__(self, levels: list[Tensor]) -> None:
        self.levels = levels

    def step(self, memory: Any, codes: Tensor | None, cache: Any, parents: Any) -> tuple[Tensor, int]:
        """Return those of the next level, for as many beams as there are."""
        level = 0 if codes is None else cache + 1
        return self.levels[level][:, : 1 if codes is None else codes.shape[1]], level


class Static:
    """The catalogue as STATIC keeps it: rows of pointers and columns, dense for the first levels."""

    def __init__(self, codes: np.ndarray) -> None:
        self.order = np.lexsort(codes.T[::-1])
        rows, parents = codes[self.order], np.zeros(len(codes), dtype=np.int64)
        new = np.zeros(len(rows), dtype=bool)
        new[0] = True
        self.dense: list[Tensor] = []  # of a level: (nodes, K) the node below, or -1
        self.sparse: list[tuple[Tensor, Tensor, int]] = []  # pointers, columns, most children
        for level in range(codes.shape[1]):
            new[1:] |= rows[1:, level] != rows[:-1, level]
            firsts = np.flatnonzero(new)
            counts = np.bincount(parents[firsts])
            columns = rows[firsts, level]
            if level < DENSE:
                table = np.full((len(counts), SIZE), -1)
                table[parents[firsts], columns] = np.arange(len(firsts))
                self.dense.append(torch.from_numpy(table))
            pointers = np.append(0, np.cumsum(counts))
            self.sparse.append((torch.from_numpy(pointers), torch.from_numpy(columns), int(counts.max())))
            parents = np.cumsum(new) - 1

    def below(self, level: int, nodes: Tensor) -> Tensor:
        """Return the nodes (B, M, K) below nodes (B, M) by each code; -1 where there is none."""
        if level < DENSE:
            return self.dense[level][nodes.clamp(min=0)].masked_fill(nodes[..., None] < 0, -1)
        pointers, columns, most = self.sparse[level]
        first = pointers[nodes.clamp(min=0)]
        count = (pointers[nodes.clamp(min=0) + 1] - first).masked_fill(nodes < 0, 0)
        place = torch.arange(most)
        edges = (first[..., None] + place).clamp(max=len(columns) - 1)
        absent = place >= count[..., None]
        # What is absent goes to a column of its own, which is cut off.
        column = columns[edges].masked_fill(absent, SIZE)
        table = torch.full((*nodes.shape, SIZE + 1), -1)
        return table.scatter_(2, column, edges)[..., :SIZE]

    def search(self, log_probs: list[Tensor], beams: int) -> Ranked:
        """Search with a mask over all codes at each level."""
        users = len(log_probs[0])
        nodes, scores = torch.zeros(users, 1, dtype=torch.long), torch.zeros(users, 1)
        for level, of_level in enumerate(log_probs):
            below = self.below(level, nodes)
            masked = of_level[:, : nodes.shape[1]].masked_fill(below < 0, -torch.inf)
            scores, places = (scores[..., None] + masked).flatten(1).topk(beams)
            nodes = below.flatten(1).gather(1, places)
        items = np.where(nodes.numpy() < 0, -1, self.order[nodes.numpy()])
        return Ranked.best(items, scores.numpy(), beams)


def _agree(results: Mapping[str, Any]) -> Iterator[Check]:
    ours, peer = results[OURS], results[PEER]
    yield Check("the same items", bool((ours.items == peer.items).all()))
    yield Check("the same scores to the bit", bool((ours.scores == peer.scores).all()))


def measure(options: Options) -> list[Comparison]:
    """One batch of a user, of 32 and of 256."""
    items, beams = (500, 10) if options.small else (25_000, 50)
    codes = random_codes(items, LEVELS, SIZE)
    trie, static, found = CodeTrie(codes), Static(codes), []
    for users in (1, 8) if options.small else (1, 32, 256):
        generator = torch.Generator().manual_seed(users)
        given = [torch.randn(users, beams, SIZE, generator=generator).log_softmax(-1) for _ in range(LEVELS)]
        model, roots = Given(given), torch.zeros(users, 1, dtype=torch.long)

        def ours(model: Given = model, roots: Tensor = roots) -> Ranked:
            items, scores = descend(model, None, roots, trie, beams)
            return Ranked.best(items.numpy(), scores.numpy(), beams)

        found.append(
            compare(
                f"Trie steps of {LEVELS} levels: {items:,} items, {users} users, {beams} beams",
                {OURS: ours, PEER: lambda given=given: static.search(given, beams)},
                _agree,
                options,
                unit="users",
                amount=users,
                peer=PEER,
            )
        )
    return found


if __name__ == "__main__":
    sys.exit(main(measure))
