"""The catalogue as a prefix tree in arrays (CSR), which holds the legal continuations for decoding.

The layout follows the idea of compressed sparse rows for constrained decoding (static-constraint-decoding):
the nodes of a level are numbered in the order of their prefixes, so a node's children are one range of the
next level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genrec_lab.training import moved

if TYPE_CHECKING:
    from genrec_lab.codes import ItemCodes

_NOTHING = np.iinfo(np.int64).max  # for users without remaining items


@dataclass(frozen=True)
class Level:
    """The edges from the nodes of one level to the nodes of the next."""

    starts: np.ndarray  # (nodes + 1,) int64 or int32: node n's children are edges starts[n] to starts[n + 1]
    codes: np.ndarray  # (edges,): the code on each edge; edge e leads to node e of the next level
    lowest: np.ndarray  # (edges,): the lowest item index below each edge, which breaks ties


class Edges(NamedTuple):
    """A level as tensors on the device of a search: B users, M beams, C children."""

    starts: Tensor
    codes: Tensor
    lowest: Tensor
    # C: the most children of any node of the level, so that shapes do not depend on the search and need no
    # synchronisation. None: the most children of the given nodes, which is less work.
    widest: int | None

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return children (B, M, C) of nodes (B, M), one level down, and the codes that lead to them.

        If a node has fewer than C children, the rest have node -1 and code 0.
        """
        alive = nodes.clamp(min=0)
        first = self.starts[alive].long()
        count = (self.starts[alive + 1] - first).masked_fill(nodes < 0, 0)[..., None]
        width = self.widest or max(1, int(count.max()))
        place = torch.arange(width, device=nodes.device)
        absent = place >= count
        children = (first[..., None] + place).masked_fill(absent, 0)
        codes = self.codes[children].long().masked_fill_(absent, 0)
        return children.masked_fill_(absent, -1), codes


class CodeTrie:
    """Prefix tree of identifiers: the codes that may follow a prefix, and the item of an identifier.

    `codes` is (N, L) integers (an array, a tensor or ItemCodes), `items` the (N,) item indices of the rows,
    by default 0 to N-1. Raises ValueError if two rows are equal, because their identifier would be ambiguous,
    and if an item has two rows.

    >>> trie = CodeTrie([[0, 1], [0, 2], [3, 1]])
    >>> trie.children([0])
    array([1, 2])
    >>> len(trie)
    3
    """

    depth: int  # L
    levels: tuple[Level, ...]
    items: np.ndarray  # (N,) the item of each leaf
    roots: int  # number of start nodes: one, or one per joined trie

    def __init__(
        self,
        codes: np.ndarray | torch.Tensor | ItemCodes | Sequence[Sequence[int]],
        items: np.ndarray | None = None,
    ) -> None:
        table = np.asarray(getattr(codes, "codes", codes))
        if table.ndim != 2 or not table.size:
            raise ValueError(
                f"codes have the shape {table.shape}; expected (items, levels) with at least one of each"
            )
        if not np.issubdtype(table.dtype, np.integer):
            raise ValueError(f"codes are {table.dtype}; expected integers")
        if table.min() < 0:
            raise ValueError(f"codes hold {table.min()}; expected 0 or more")
        rows = np.arange(len(table)) if items is None else np.asarray(items)
        if rows.shape != (len(table),):
            raise ValueError(
                f"items have the shape {rows.shape}; expected ({len(table)},), one for each row of codes"
            )
        if items is not None and (rows.min() < 0 or len(np.unique(rows)) < len(rows)):
            raise ValueError("items hold an index below 0 or one twice; expected each item's index once")
        order = _in_order(table)
        table = table.astype(_code_type(int(table.max())))[order]
        self.items = rows[order].astype(_index_type(int(rows.max())))
        # new[r] at level l: row r starts a prefix of l + 1 codes that the row before does not have.
        new = np.zeros(len(table), dtype=bool)
        new[0] = True
        parents = np.zeros(1, dtype=np.int64)
        self.depth, self.roots = table.shape[1], 1
        self.levels = ()
        for level in range(self.depth):
            new[1:] |= table[1:, level] != table[:-1, level]
            firsts = np.flatnonzero(new)
            starts = np.append(np.searchsorted(firsts, parents), len(firsts))
            leaf = len(firsts) == len(table)
            lowest = self.items if leaf else np.minimum.reduceat(self.items, firsts)
            codes_of_edges = table[firsts, level].copy()
            self.levels += (Level(starts.astype(_index_type(len(firsts))), codes_of_edges, lowest),)
            parents = firsts
        if len(parents) < len(table):
            same = int(np.flatnonzero(~new)[0])
            first, second = sorted(rows[order[same - 1 : same + 1]].tolist())
            raise ValueError(
                f"items {first} and {second} have the same identifier "
                f"{table[same].tolist()}; resolve the collisions first: ItemCodes.resolve(policy)"
            )

    @classmethod
    def joined(cls, tries: Sequence[CodeTrie]) -> CodeTrie:
        """Join tries, with root r for the r-th, so that a batch may hold users of each.

        `children` and `item` of the result use its first root. Raises ValueError if depths differ.
        """
        depths = [trie.depth for trie in tries]
        if len(set(depths)) != 1:
            raise ValueError(f"the tries have {depths} levels; expected at least one, all of one depth")
        joined = cls.__new__(cls)
        joined.depth, joined.roots = depths[0], sum(trie.roots for trie in tries)
        joined.items = np.concatenate([trie.items for trie in tries])
        joined.levels = tuple(
            _side_by_side([trie.levels[level] for trie in tries]) for level in range(depths[0])
        )
        return joined

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    @cached_property
    def leaves_by_item(self) -> np.ndarray:
        """The leaves in the order of their item indices."""
        return np.argsort(self.items, kind="stable")

    def on(self, device: torch.device) -> tuple[Edges, ...]:
        """Return the levels as tensors on a device, copied once; on the CPU they share the arrays' memory."""
        if device not in self._on:
            made: list[Edges] = []
            for level in self.levels:
                arrays = (level.starts, level.codes, level.lowest)
                starts, codes, lowest = (moved(torch.from_numpy(array), device) for array in arrays)
                widest = None if device.type == "cpu" else int(np.diff(level.starts).max())
                made.append(Edges(starts, codes, lowest, widest))
            self._on[device] = tuple(made)
        return self._on[device]

    @cached_property
    def _on(self) -> dict[torch.device, tuple[Edges, ...]]:
        return {}

    @property
    def nbytes(self) -> int:
        """Return the size of the arrays in bytes."""
        arrays = [a for level in self.levels for a in (level.starts, level.codes, level.lowest)]
        return sum({id(array): array.nbytes for array in [self.items, *arrays]}.values())

    def children(self, prefix: Sequence[int]) -> np.ndarray:
        """Return the codes that may follow a prefix of 0 to L-1 codes, ascending; none for unknown prefixes.

        Raises ValueError for a whole identifier.
        """
        if len(prefix) >= self.depth:
            raise ValueError(
                f"a prefix of {len(prefix)} codes has no children; identifiers have {self.depth} codes"
            )
        node = self._node(prefix)
        if node is None:
            return np.empty(0, dtype=np.int64)
        level = self.levels[len(prefix)]
        return level.codes[level.starts[node] : level.starts[node + 1]].astype(np.int64)

    def item(self, codes: Sequence[int]) -> int:
        """Return the item index of an identifier; raises KeyError for an unknown one."""
        node = self._node(codes) if len(codes) == self.depth else None
        if node is None:
            raise KeyError(f"no item has the identifier {tuple(int(c) for c in codes)}")
        return int(self.items[node])

    def _node(self, prefix: Sequence[int]) -> int | None:
        """Return the number of the prefix among those of its length."""
        node = 0
        for level, code in zip(self.levels, prefix, strict=False):
            start, end = int(level.starts[node]), int(level.starts[node + 1])
            place = start + int(np.searchsorted(level.codes[start:end], code))
            if place == end or level.codes[place] != code:
                return None
            node = place
        return node

    def expand(self, level: int, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all children of nodes (R,) at a level as one list of E.

        The result is two arrays (E,): the row of `nodes` of each child, and the child's node one level down.
        The code of child node e is `levels[level].codes[e]`. Node -1 has no children.
        """
        starts = self.levels[level].starts
        alive = np.maximum(nodes, 0)
        first = starts[alive].astype(np.int64)
        counts = np.where(nodes < 0, 0, starts[alive + 1] - first)
        rows = np.repeat(np.arange(len(nodes)), counts)
        ends = np.cumsum(counts)
        children = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(first - (ends - counts), counts)
        return rows, children

    def leaf_ranges(self, level: int, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first leaf below nodes of any shape, `level` codes down, and the one after the last.

        Both are indices into `items`; they are equal below node -1.
        """
        first, last = np.maximum(nodes, 0), nodes + 1
        for edges in self.levels[level:]:
            first, last = edges.starts[first], edges.starts[last]
        return first, last


class Hidden:
    """Items to leave out for single users, such as those in their histories, and the nodes this empties.

    A search with hidden items gives the same result as on the trie of the others, without building it.
    trie: the searched trie. roots: (B,) the root of each user. items: the hidden item indices of each user;
    repeated items and items that are not below the user's root are ignored.
    """

    def __init__(self, trie: CodeTrie, roots: np.ndarray, items: Sequence[Sequence[int]]) -> None:
        self.trie = trie
        users = np.repeat(np.arange(len(items)), [len(of_user) for of_user in items])
        wanted = np.fromiter((item for of_user in items for item in of_user), dtype=np.int64)
        # An item may be below several roots, so it has a range of leaves in item order.
        by_item = trie.leaves_by_item
        places = [np.searchsorted(trie.items, wanted, side, sorter=by_item) for side in ("left", "right")]
        counts = places[1] - places[0]
        users, starts = np.repeat(users, counts), np.repeat(places[0] - np.cumsum(counts) + counts, counts)
        leaves = by_item[starts + np.arange(len(users))]
        first, last = trie.leaf_ranges(0, roots)
        own = (first[users] <= leaves) & (leaves < last[users])
        users, nodes = np.unique(np.stack([users[own], leaves[own]]), axis=1)
        # For each level, the pairs of a user and a node with hidden items below, as ascending numbers, and
        # which of them have no other item below.
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        for level in range(trie.depth - 1, -1, -1):
            found, hidden = np.unique(users * self._size(level) + nodes, return_counts=True)
            first, last = trie.leaf_ranges(level + 1, found % self._size(level))
            self._pairs.insert(0, (found, hidden == last - first))
            nodes = np.searchsorted(trie.levels[level].starts, nodes, side="right") - 1
        # Most nodes have no hidden items; looking a node up here is faster than searching the pairs.
        self._anybody = [np.zeros(self._size(level), dtype=bool) for level in range(trie.depth)]
        for level, (found, gone) in enumerate(self._pairs):
            self._anybody[level][found[gone] % self._size(level)] = True

    def gone(self, level: int, users: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Return for nodes (R,) below edges of a level whether their users (R,) have no item there."""
        found, nothing = self._pairs[level]
        gone = self._anybody[level][nodes] & (nodes >= 0)
        maybe = np.flatnonzero(gone)
        gone[maybe] = np.isin(users[maybe] * self._size(level) + nodes[maybe], found[nothing])
        return gone

    def children_left(self, level: int, children: Tensor) -> Tensor:
        """Return children (B, M, C) below edges of a level, with -1 if the user has no item there."""
        if self.trie.on(children.device)[level].widest is None:
            users = np.arange(len(children)).repeat(children[0].numel())
            gone = torch.from_numpy(self.gone(level, users, children.flatten().numpy())).view(children.shape)
        else:
            gone = self.lowest(level, children.flatten(1)).view(children.shape) == _NOTHING
        return children.masked_fill(gone, -1)

    def lowest(self, level: int, nodes: Tensor) -> Tensor:
        """Return the lowest remaining item index of users below their nodes (B, X) of a level."""
        pairs, left = (moved(torch.from_numpy(table), nodes.device) for table in self._left[level])
        users = torch.arange(len(nodes), device=nodes.device)[:, None]
        wanted = users * self._size(level) + nodes.clamp(min=0)
        place = torch.searchsorted(pairs, wanted).clamp(max=len(pairs) - 1)
        lowest = self.trie.on(nodes.device)[level].lowest[nodes].long()
        return torch.where(pairs[place] == wanted, left[place], lowest)

    @cached_property
    def _left(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return each level's pairs, after a dummy pair, and the lowest remaining item of each."""
        tables: list[tuple[np.ndarray, np.ndarray]] = []
        for level in range(self.trie.depth - 1, -1, -1):
            found, gone = self._pairs[level]
            left, some = np.full(len(found), _NOTHING), np.flatnonzero(~gone)
            if len(some):
                users, nodes = np.divmod(found[some], self._size(level))
                rows, below = self.trie.expand(level + 1, nodes)
                wanted = users[rows] * self._size(level + 1) + below
                place = np.minimum(np.searchsorted(tables[0][0], wanted), len(tables[0][0]) - 1)
                lowest = self.trie.levels[level + 1].lowest[below]
                lowest = np.where(tables[0][0][place] == wanted, tables[0][1][place], lowest)
                left[some] = np.minimum.reduceat(lowest, np.flatnonzero(np.diff(rows, prepend=-1)))
            tables.insert(0, (np.append(-1, found), np.append(_NOTHING, left)))
        return tables

    def _size(self, level: int) -> int:
        return len(self.trie.levels[level].codes)


def _in_order(table: np.ndarray) -> np.ndarray:
    """Return the row order that sorts (N, L) codes lexicographically."""
    widths = [int(width) for width in np.ceil(np.log2(table.max(axis=0).astype(np.float64) + 2))]
    if sum(widths) > 63:
        return np.lexsort(table.T[::-1])
    # Sorting rows packed into one number is many times faster than sorting by columns.
    key = np.zeros(len(table), dtype=np.int64)
    for column, width in zip(table.T, widths, strict=True):
        key <<= width
        key |= column
    return np.argsort(key)


def _code_type(largest: int) -> type[np.integer]:
    return np.uint8 if largest < 2**8 else np.int16 if largest < 2**15 else _index_type(largest)


def _index_type(largest: int) -> type[np.signedinteger]:
    return np.int32 if largest < 2**31 else np.int64


def _side_by_side(levels: Sequence[Level]) -> Level:
    edges = [len(level.codes) for level in levels]
    starts = [
        level.starts[:-1] + np.int64(before)
        for level, before in zip(levels, np.cumsum([0, *edges[:-1]]), strict=True)
    ]
    return Level(
        np.append(np.concatenate(starts), sum(edges)).astype(_index_type(sum(edges))),
        np.concatenate([level.codes for level in levels]),
        np.concatenate([level.lowest for level in levels]),
    )
