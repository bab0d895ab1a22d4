"""The model's exact top-k by branch and bound over the trie, and the scores of all items.

A log-probability is at most 0, so the score of a prefix bounds the scores of all items below it. A beam
search gives a first k-th best score. Prefixes with a lower score are pruned, all others are expanded, and the
remaining leaves give the exact result.

Letters: B users, M open prefixes of a user, E children of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from genrec_lab.decoding.beam import (
    CodeModel,
    Histories,
    Normalise,
    Ranked,
    evaluating,
    nodes_of_roots,
    require_numbers,
    search,
)
from genrec_lab.decoding.trie import CodeTrie, Hidden

# The same prefix differs in the last digits between batches of different shapes.
_SLACK = 1e-3  # relative to the bound, and at least this


@torch.inference_mode()
def exact_top_k(
    model: CodeModel,
    histories: Histories,
    trie: CodeTrie,
    top_k: int,
    *,
    roots: Sequence[int] | np.ndarray | None = None,
    hidden: Histories | None = None,
    normalise: Normalise = "vocabulary",
    beams: int | None = None,
    batch_size: int = 32,
    rows: int = 4096,
) -> Ranked:
    """Return the top_k items of the whole trie for each history, equal to scoring every item.

    `roots`, `hidden` and `normalise` are as in `beam_search`. `beams` (by default 2 * top_k) affects only the
    first bound, not the result; `rows` is the number of prefixes that the model processes at once. If the
    model's probabilities are nearly uniform, few prefixes can be pruned, and the search is slow.

    >>> import genrec_lab
    >>> codes = genrec_lab.ItemCodes([[0, 1], [0, 2], [3, 1], [2, 2]], sizes=(4, 4))
    >>> model, trie = genrec_lab.Recommender(codes).eval(), CodeTrie(codes)
    >>> searched = genrec_lab.beam_search(model, [[0, 3]], trie, beams=4, top_k=4)  # wide enough to be exact
    >>> bool((exact_top_k(model, [[0, 3]], trie, top_k=4).items == searched.items).all())
    True
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; expected 1 or more")
    nodes = nodes_of_roots(roots, len(histories), trie, normalise)
    width, parts = max(beams or 2 * top_k, top_k), []
    with evaluating(model):
        for start in range(0, len(histories), batch_size):
            users = slice(start, start + batch_size)
            memory = model.remember(histories[users])
            unseen = None if hidden is None else Hidden(trie, nodes[users, 0], hidden[users])
            found = search(model, memory, nodes[users], trie, width, top_k, normalise, unseen).scores[:, -1]
            bound = found - _SLACK * np.maximum(1.0, np.abs(found))
            opening = _Search(model, trie, rows, normalise, bound, unseen)
            opening.open(0, _Prefixes.roots(nodes[users]), memory, None)
            parts.append(opening.best(top_k))
    return Ranked.concatenate(parts) if parts else Ranked.nobody(top_k)


@torch.inference_mode()
def score_items(
    model: CodeModel,
    histories: Histories,
    trie: CodeTrie,
    *,
    normalise: Normalise = "vocabulary",
    batch_size: int = 32,
    rows: int = 4096,
) -> np.ndarray:
    """Return the log-probabilities (B, N) of all items of a trie of one root, by ascending item index.

    Every prefix is expanded once. `normalise` is as in `beam_search`; `rows` is the number of prefixes that
    the model processes at once.
    """
    nodes = nodes_of_roots(None, len(histories), trie, normalise)
    scores = np.empty((len(histories), len(trie.items)))
    columns = np.argsort(np.argsort(trie.items))  # of a leaf
    with evaluating(model):
        for start in range(0, len(histories), batch_size):
            users = slice(start, start + batch_size)
            opening = _Search(model, trie, rows, normalise, np.full(len(nodes[users]), -np.inf))
            opening.open(0, _Prefixes.roots(nodes[users]), model.remember(histories[users]), None)
            for user, leaf, score in opening.found:
                scores[start + user, columns[leaf]] = score
    return scores


class _Prefixes(NamedTuple):
    """Open prefixes of one length; each row holds those of one user, from the left."""

    users: np.ndarray  # (B,) rows of the whole batch
    counts: np.ndarray  # (B,) number of filled positions of a row
    nodes: np.ndarray  # (B, M) in the trie, -1 past the last
    codes: np.ndarray  # (B, M) the last code of each
    parents: np.ndarray  # (B, M) the column of each one's parent in the cache
    scores: np.ndarray  # (B, M) float64

    @classmethod
    def roots(cls, nodes: np.ndarray) -> _Prefixes:
        """Return the empty prefix of each user, at nodes (B, 1)."""
        users, zeros = len(nodes), np.zeros_like(nodes)
        return cls(np.arange(users), np.ones(users, np.int64), nodes, zeros, zeros, np.zeros(nodes.shape))

    def groups(self, rows: int) -> Iterator[tuple[np.ndarray, _Prefixes]]:
        """Split into groups of at most `rows` prefixes, in which users' counts differ at most twofold.

        Yields the indices of a group's users in `users`, and its prefixes. A user with more prefixes than
        `rows` is in several groups; one without prefixes is in none.
        """
        order = np.argsort(-self.counts, kind="stable")[: np.count_nonzero(self.counts)]
        ordered, start = self.counts[order], 0
        while start < len(order):
            width = int(ordered[start])
            alike = int(np.searchsorted(-ordered, -width / 2, side="right"))
            end = max(start + 1, min(start + rows // width, alike))
            group, start = order[start:end], end
            for first in range(0, width, rows):
                tables = (table[group, first : min(width, first + rows)] for table in self[2:])
                yield group, _Prefixes(self.users[group], self.counts[group], *tables)


@dataclass
class _Search:
    """The branch and bound of one batch: expands groups of prefixes depth-first and collects items."""

    model: CodeModel
    trie: CodeTrie
    rows: int
    normalise: Normalise
    bound: np.ndarray  # (B,) items with a lower score are not among a user's best
    hidden: Hidden | None = None
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(
        default_factory=list
    )  # users, leaves, scores

    def open(self, level: int, prefixes: _Prefixes, memory: Any, cache: Any) -> None:
        """Expand prefixes of `level` codes, below those of the cache, and recursively their open children."""
        for group, part in prefixes.groups(self.rows):
            places = torch.from_numpy(group)
            of_group = memory.of_users(places)
            step = partial(self.model.step, of_group, None, None, None)
            if cache is not None:
                codes, parents = torch.from_numpy(part.codes), torch.from_numpy(part.parents)
                step = partial(self.model.step, of_group, codes, cache.of_users(places), parents)
            log_probs, longer = step()
            of_codes = log_probs.cpu()
            require_numbers(self.model, of_codes, level, step)
            children = self._children(level, part, of_codes.numpy())
            if children.counts.any():
                self.open(level + 1, children, of_group, longer)

    def _children(self, level: int, prefixes: _Prefixes, log_probs: np.ndarray) -> _Prefixes:
        """Return the open children; those that determine an item are collected."""
        parent, node = self.trie.expand(level, prefixes.nodes.ravel())
        row, column = np.divmod(parent, prefixes.nodes.shape[1])
        if self.hidden is not None:
            left = ~self.hidden.gone(level, prefixes.users[row], node)
            parent, node, row, column = parent[left], node[left], row[left], column[left]
        code = self.trie.levels[level].codes[node].astype(np.int64)
        step = log_probs[row, column, code].astype(np.float64)
        if self.normalise == "legal":
            firsts = np.flatnonzero(np.diff(parent, prepend=-1))
            siblings = np.diff(firsts, append=len(parent))
            step -= np.repeat(np.logaddexp.reduceat(step, firsts), siblings)
        score = prefixes.scores.ravel()[parent] + step
        first, last = self.trie.leaf_ranges(level + 1, node)
        kept = score >= self.bound[prefixes.users[row]]
        # Over legal codes, a prefix of one item continues with certainty, so its score is the item's.
        whole = level + 1 == self.trie.depth
        # A prefix whose other items are hidden also continues with certainty, but is expanded.
        ends = (last - first == 1) if self.normalise == "legal" else np.full(kept.shape, whole)
        leaves, more = kept & ends, kept & ~ends
        self.found.append((prefixes.users[row[leaves]], first[leaves], score[leaves]))
        values = ((node, -1), (code, 0), (column, 0), (score, 0))
        tables, counts = _rows(row[more], len(prefixes.users), *((v[more], empty) for v, empty in values))
        return _Prefixes(prefixes.users, counts, *tables)

    def best(self, top_k: int) -> Ranked:
        """Return the best top_k of the collected items for each user."""
        user, leaf, score = (np.concatenate(parts) for parts in zip(*self.found, strict=True))
        order = np.argsort(user, kind="stable")
        (items, scores), _ = _rows(
            user[order], len(self.bound), (self.trie.items[leaf[order]], -1), (score[order], -np.inf)
        )
        return Ranked.best(items, scores, top_k)


def _rows(
    row: np.ndarray, rows: int, *columns: tuple[np.ndarray, float]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Arrange values (E,) of ascending rows in tables (rows, most values of a row); also return the counts.

    `columns` holds pairs of values and the fill value.
    """
    counts = np.bincount(row, minlength=rows)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    tables = []
    for values, empty in columns:
        table = np.full((rows, int(counts.max(initial=0))), empty, dtype=values.dtype)
        table[row, place] = values
        tables.append(table)
    return tables, counts
