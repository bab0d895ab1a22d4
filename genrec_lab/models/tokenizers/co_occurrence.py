"""P5-CID's identifiers (Hua et al. 2023, section 4.3): spectral clusters of the co-occurrence graph.

Items that occur together in sequences are clustered, each cluster that is too large is clustered again by
itself, and so on; an item's codes are its way down, and its number among the items of its last cluster.
Shapes: N items, L levels, C clusters below a cluster at most, M items of a last cluster at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field
from scipy.linalg import eigh, qr, svd
from scipy.sparse import csr_matrix, diags_array
from scipy.sparse.linalg import eigsh

from genrec_lab.codes import positions_within_groups, row_ids
from genrec_lab.models.tokenizers.base import (
    CatalogueTokenizer,
    Content,
    ItemContent,
    OnEpoch,
    TokenizerConfig,
)

_MOST_DENSE = 1_000  # nodes up to which all eigenvectors are as fast as a few


class CoOccurrenceConfig(TokenizerConfig):
    """Settings of P5-CID's identifiers; 20 and 500 are those of its code."""

    kind: Literal["p5_cid"] = "p5_cid"
    clusters: int = Field(20, ge=2, description="C, clusters below each cluster that is split")
    leaf_size: int = Field(500, ge=1, description="M, items of a cluster that is not split again")


class CoOccurrence(CatalogueTokenizer):
    """P5-CID's identifiers of one catalogue, by the training part of its sequences."""

    Config = CoOccurrenceConfig
    needs = ("sequences",)

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Cluster the items of a dataset's domains by who stands beside whom in its sequences."""
        known = ItemContent.of(content)
        sequences = known.training_places(self)
        return self.knows(
            known, codes_of_graph(co_occurrence_graph(sequences, len(known)), self.config, seed)
        )


def codes_of_graph(graph: csr_matrix, config: CoOccurrenceConfig, seed: int) -> np.ndarray:
    """Return the codes (N, L) of the items of a graph of co-occurrences, (N, N) symmetric counts."""
    ways = cluster_ways(graph, config.clusters, config.leaf_size, np.random.default_rng(seed))
    depth = max(map(len, ways))
    # An item whose cluster was not split as often as others is in the first, the only one, below it.
    codes = np.array([[*way, *[0] * (depth - len(way))] for way in ways], dtype=np.int64)
    return np.column_stack([codes, positions_within_groups(row_ids(codes))])


def co_occurrence_graph(sequences: Iterable[Sequence[int]], n_items: int) -> csr_matrix:
    """How often two items stand in one sequence: (N, N) symmetric counts of pairs, 0 on the diagonal.

    The sequences are those that are trained on, of item indices below N.
    """
    users, items = [], []
    for user, sequence in enumerate(sequences):
        users += [user] * len(sequence)
        items += list(sequence)
    shape = (max(users, default=0) + 1, n_items)
    times = csr_matrix((np.ones(len(items)), (users, items)), shape=shape)
    graph = csr_matrix(times.T @ times)
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def cluster_ways(
    graph: csr_matrix, clusters: int, leaf_size: int, generator: np.random.Generator
) -> list[tuple[int, ...]]:
    """Each item's way down the tree of clusters: the whole catalogue is split once at least."""
    ways: list[tuple[int, ...]] = [()] * graph.shape[0]
    waiting = [np.arange(graph.shape[0])]
    while waiting:
        members = waiting.pop()
        labels = _split(graph[members][:, members], clusters, leaf_size, generator)
        for label in range(int(labels.max()) + 1):
            below = members[labels == label]
            for item in below:
                ways[item] = (*ways[item], label)
            if len(below) > leaf_size:
                waiting.append(below)
    return ways


def _split(graph: csr_matrix, clusters: int, leaf_size: int, generator: np.random.Generator) -> np.ndarray:
    """Clusters (n,) of a graph's items, numbered from 0 without a gap.

    Items that occur with none of the others go into a cluster of their own. Where no two clusters come of it
    the items are split evenly in their order, so that the clustering ends.
    """
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    known = np.flatnonzero(degrees > 0)
    labels = np.full(len(degrees), clusters - 1)
    parts = clusters if len(known) == len(degrees) else clusters - 1
    if len(known):
        labels[known] = spectral_clusters(graph[known][:, known], parts, generator)
    labels = np.unique(labels, return_inverse=True)[1].reshape(-1)
    if labels.max() == 0 and len(labels) > leaf_size:
        labels = np.arange(len(labels)) * min(clusters, len(labels)) // len(labels)
    return labels


def spectral_clusters(graph: csr_matrix, clusters: int, generator: np.random.Generator) -> np.ndarray:
    """Clusters (n,) of a graph without lonely nodes, by the normalised adjacency's leading eigenvectors.

    Assigned by pivoted QR (Damle, Minden and Ying 2019), as in P5-CID's code, which leaves nothing to chance
    but the start of the iteration for the eigenvectors of a large graph.
    """
    count = graph.shape[0]
    clusters = min(clusters, count)
    if clusters < 2:
        return np.zeros(count, dtype=np.int64)
    root = 1 / np.sqrt(np.asarray(graph.sum(axis=1)).ravel())
    normal = diags_array(root) @ graph @ diags_array(root)
    if count <= max(_MOST_DENSE, 2 * clusters):
        vectors = eigh(normal.toarray(), subset_by_index=[count - clusters, count - 1])[1]
    else:
        vectors = eigsh(normal, k=clusters, which="LA", v0=generator.uniform(-1, 1, count))[1]
    pivots = qr(vectors.T, pivoting=True, mode="r")[1][:clusters]
    left, _, right = svd(vectors[pivots].T)
    labels: np.ndarray = np.abs(vectors @ (left @ right.conj())).argmax(axis=1)
    return labels
