"""Constrained beam search over the trie, level by level for all users and beams of a batch together.

Letters: B users, M beams, L levels, K codes of a level, C most children of a node at the level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from genrec_lab.data.rules import NO_ITEM
from genrec_lab.decoding.trie import CodeTrie, Edges, Hidden
from genrec_lab.training import moved

Histories = Sequence[Sequence[int]]  # item indices, oldest first
# The codes over which a step's probabilities sum to 1: the whole vocabulary, or those that the trie allows.
Normalise = Literal["vocabulary", "legal"]


class CodeModel(Protocol):
    """The model interface for decoding: read histories once, then score the next code of any prefix."""

    def remember(self, histories: Histories) -> Any:
        """Read B histories; the result is passed to `step`, and its `of_users(indices)` selects users."""

    def step(
        self, memory: Any, codes: Tensor | None, cache: Any, parents: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Advance one level, with the codes (B, M) just chosen below the previous beams `parents` (B, M).

        At the start, codes, cache and parents are None. Returns log-probabilities (B, M, K) of the next
        level's codes in float32, and the new cache, whose `of_users(indices)` selects users.
        """


class Ranked(NamedTuple):
    """Distinct items and scores of B users, best first, filled with -1 and -inf."""

    items: np.ndarray  # (B, K) int64: item indices
    scores: np.ndarray  # (B, K) float32: log-probabilities, or other scores of the model

    @classmethod
    def best(cls, items: np.ndarray, scores: np.ndarray, top_k: int) -> Ranked:
        """Return the top_k of each row of (B, C) candidates, higher scores first.

        Ties go to the lower item index. Candidates with score -inf are ignored; rows with fewer than top_k
        others are filled with -1 and -inf.
        """
        scores = scores.astype(np.float32)  # first, so that scores that print as equal are ties
        order = np.lexsort((items, -scores), axis=-1)[:, :top_k]
        items, scores = np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)
        missing = top_k - items.shape[1]
        items = np.pad(
            np.where(np.isneginf(scores), NO_ITEM, items), ((0, 0), (0, missing)), constant_values=NO_ITEM
        )
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        return cls(items.astype(np.int64), scores)

    @classmethod
    def concatenate(cls, parts: list[Ranked]) -> Ranked:
        """Return the rows of all parts, one after the other."""
        return cls(np.concatenate([p.items for p in parts]), np.concatenate([p.scores for p in parts]))

    @classmethod
    def nobody(cls, top_k: int) -> Ranked:
        """Return the empty rankings of no users."""
        return cls(np.empty((0, top_k), np.int64), np.empty((0, top_k), np.float32))


@contextmanager
def evaluating(model: CodeModel) -> Iterator[None]:
    """Within the block, put a torch module into evaluation mode, so that dropout does not affect rankings."""
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
    model: CodeModel,
    histories: Histories,
    trie: CodeTrie,
    beams: int,
    top_k: int,
    *,
    roots: Sequence[int] | np.ndarray | None = None,
    hidden: Histories | None = None,
    normalise: Normalise = "vocabulary",
    batch_size: int = 128,
) -> Ranked:
    """Return the top_k items for each history, found by a beam search of width `beams` over the trie.

    Scores are the model's log-probabilities of whole identifiers over its full vocabulary, as in
    transformers: illegal codes are never chosen, but legal ones are not renormalised. With normalise="legal",
    each step's probabilities are over the legal codes only, and a prefix of one item is not decoded further.
    A row has min(top_k, number of items) distinct items, best first; ties go to the lower item index. `roots`
    gives each user's root in a joined trie. `hidden` gives items to leave out for each user; the result is
    that of a trie without them. Under autocast, the model computes in that type, but scores stay float32.
    Raises ValueError if top_k is larger than beams.

    >>> import genrec_lab
    >>> codes = genrec_lab.ItemCodes([[0, 1], [0, 2], [3, 1], [2, 2]], sizes=(4, 4))
    >>> model = genrec_lab.Recommender(codes).eval()
    >>> beam_search(model, [[0, 3]], CodeTrie(codes), beams=4, top_k=4).items.shape
    (1, 4)
    """
    if not 1 <= top_k <= beams:
        raise ValueError(f"top_k is {top_k} and beams is {beams}; expected 1 <= top_k <= beams")
    start_nodes = nodes_of_roots(roots, len(histories), trie, normalise)
    parts = []
    with evaluating(model):
        for start in range(0, len(histories), batch_size):
            rows = slice(start, start + batch_size)
            memory = model.remember(histories[rows])
            nodes = start_nodes[rows]
            unseen = None if hidden is None else Hidden(trie, nodes[:, 0], hidden[rows])
            parts.append(search(model, memory, nodes, trie, beams, top_k, normalise, unseen))
    return Ranked.concatenate(parts) if parts else Ranked.nobody(top_k)


def nodes_of_roots(
    roots: Sequence[int] | np.ndarray | None, users: int, trie: CodeTrie, normalise: str
) -> np.ndarray:
    """Return the node (users, 1) at which each user's search starts; raises ValueError for bad options."""
    if normalise not in ("vocabulary", "legal"):
        raise ValueError(f"normalise is {normalise!r}; expected 'vocabulary' or 'legal'")
    nodes = np.zeros(users, dtype=np.int64) if roots is None else np.asarray(roots, dtype=np.int64)
    if nodes.shape != (users,) or ((nodes < 0) | (nodes >= trie.roots)).any():
        raise ValueError(
            f"roots are {nodes.tolist()}; expected one for each of the {users} histories, "
            f"from 0 to {trie.roots - 1}"
        )
    return nodes[:, None]


def search(
    model: CodeModel,
    memory: Any,
    roots: np.ndarray,
    trie: CodeTrie,
    beams: int,
    top_k: int,
    normalise: Normalise = "vocabulary",
    hidden: Hidden | None = None,
) -> Ranked:
    """Search for the users of a memory, from the nodes `roots` (B, 1); expects evaluation mode."""
    given = (model, memory, roots, trie, beams, normalise, hidden)
    items, scores = (found.cpu().numpy() for found in descend(*given))
    if np.isnan(scores).any():
        descend(*given, looking=True)
    return Ranked.best(items, scores, top_k)


def descend(
    model: CodeModel,
    memory: Any,
    roots: np.ndarray | Tensor,
    trie: CodeTrie,
    beams: int,
    normalise: Normalise = "vocabulary",
    hidden: Hidden | None = None,
    *,
    looking: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return items (B, M) and scores (B, M) of the last level's beams, on the model's device.

    On an accelerator, all shapes depend only on the trie and nothing synchronises, so that torch.compile and
    CUDA graphs can capture the whole search. Values that are not finite are not checked; they lead to NaN
    scores. With `looking`, every step is checked, and the ValueError names the level.
    """

    def step(level: int, *given: Any) -> tuple[Tensor, Any]:
        log_probs, cache = model.step(memory, *given)
        if looking:
            require_numbers(model, log_probs, level, lambda: model.step(memory, *given))
        return log_probs, cache

    log_probs, cache = step(0, None, None, None)  # (B, 1, K)
    levels, device = trie.on(log_probs.device), log_probs.device
    nodes = moved(torch.as_tensor(roots), device)
    scores = torch.zeros_like(nodes, dtype=torch.float32)
    # The index of each beam's log-probabilities among the decoded ones.
    columns = torch.zeros_like(nodes)
    for level, edges in enumerate(levels):
        children, codes = edges.children(nodes)  # (B, M, C)
        if hidden is not None:
            children = hidden.children_left(level, children)
        places = columns[:, :, None] * log_probs.shape[2] + codes
        steps = log_probs.flatten(1).gather(1, places.flatten(1)).view(codes.shape)
        steps.masked_fill_(children < 0, -torch.inf)
        if normalise == "legal":
            # A dead beam has no legal code; its sum must not become NaN.
            steps -= torch.logsumexp(steps, dim=2, keepdim=True).nan_to_num(neginf=0.0)
        candidates, children = (scores[:, :, None] + steps).flatten(1), children.flatten(1)
        chosen = _best(candidates, children, level, edges, hidden, beams)
        parents = columns.gather(1, chosen // codes.shape[2])
        nodes, scores = children.gather(1, chosen), candidates.gather(1, chosen)
        if level + 1 == trie.depth:
            break
        code = codes.flatten(1).gather(1, chosen)
        columns = torch.arange(nodes.shape[1], device=device).expand(nodes.shape)
        if normalise == "legal" and edges.widest is None:
            first, last = trie.leaf_ranges(level + 1, nodes.numpy())
            columns, decoded = _undecided(torch.from_numpy(last - first > 1))
            code, parents = code.gather(1, decoded), parents.gather(1, decoded)
        if code.shape[1]:
            log_probs, cache = step(level + 1, code, cache, parents)
        else:  # every prefix belongs to one item and continues with certainty
            log_probs = torch.zeros(len(nodes), 1, int(trie.levels[level + 1].codes.max()) + 1)
    items = levels[-1].lowest[nodes.clamp(min=0)]
    return items.masked_fill(nodes < 0, NO_ITEM), scores


def require_numbers(model: CodeModel, log_probs: Tensor, level: int, run: Callable[[], object]) -> None:
    """Raise ValueError if log-probabilities are NaN; a model with `require_finite` names the layer."""
    if not torch.isnan(log_probs).any():
        return
    if (explain := getattr(model, "require_finite", None)) is not None:
        explain(log_probs, f"at level {level}", run)
    raise ValueError(f"the model gives NaN at level {level}; its weights have diverged")


def _undecided(more: Tensor) -> tuple[Tensor, Tensor]:
    """Select the beams to decode; `more` (B, M) is true for those with more than one item below.

    Returns each beam's column among the decoded ones (B, M), 0 for the others, and the beam of each decoded
    column (B, M'), where M' is the largest number of any user.
    """
    width = int(more.sum(1).max())
    decoded = torch.argsort(~more, dim=1, stable=True)[:, :width]
    columns = torch.zeros(more.shape, dtype=torch.long)
    columns.scatter_(1, decoded, torch.arange(width).expand(decoded.shape))
    return columns, decoded


def _best(
    candidates: Tensor, children: Tensor, level: int, edges: Edges, hidden: Hidden | None, beams: int
) -> Tensor:
    """Return indices (B, M) of the best of (B, X) candidates; ties go to those with the lowest item below."""
    width = min(beams, candidates.shape[1])
    best, places = candidates.topk(width)
    last = best[:, -1:]
    # If the candidates with the last score all fit, there are no ties to break.
    tied = ((candidates >= last).sum(1, keepdim=True) > width) & ~torch.isneginf(last)
    if edges.widest is None and not tied.any():
        return places
    lowest = edges.lowest[children].long() if hidden is None else hidden.lowest(level, children)
    order = lowest.masked_fill(candidates > last, NO_ITEM)  # before all items
    order = order.masked_fill(candidates < last, torch.iinfo(torch.long).max)
    return torch.where(tied, order.topk(width, largest=False).indices, places)
