"""P5-CID's identifiers (Hua et al. 2023, section 4.3): spectral clusters of the co-occurrence graph.

Items that occur in the same sequences are clustered. Each cluster that is too large is clustered again, and
so on. An item's codes are its path down this tree, followed by its number within its last cluster.
Shapes: N items, L levels, at most C clusters below a cluster, at most M items in a last cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
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

_MOST_DENSE = 1_000  # nodes; up to here computing all eigenvectors is as fast as a few


class CoOccurrenceConfig(TokenizerConfig):
    """Settings of P5-CID's identifiers; 20 and 500 are from its code."""

    kind: Literal["p5_cid"] = "p5_cid"
    clusters: int = Field(20, ge=2, description="C, clusters that a cluster is split into")
    leaf_size: int = Field(500, ge=1, description="M, largest cluster that is not split")


class CoOccurrence(CatalogueTokenizer):
    """P5-CID's identifiers of one catalogue, from the training part of its sequences."""

    Config = CoOccurrenceConfig
    needs = ("sequences",)

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Cluster the items of a dataset's domains by their co-occurrences in its sequences."""
        known = ItemContent.of(content)
        graph = co_occurrence_graph(known.training_places(self), len(known))
        return self.keep_codes(known, codes_of_graph(graph, self.config, seed))


def codes_of_graph(graph: csr_matrix, config: CoOccurrenceConfig, seed: int) -> np.ndarray:
    """Return the codes (N, L) of the items in a co-occurrence graph, (N, N) symmetric counts."""
    ways = cluster_ways(graph, config.clusters, config.leaf_size, np.random.default_rng(seed))
    depth = max(map(len, ways))
    # If an item's cluster was split less often than others, the remaining codes are 0.
    codes = np.array([[*way, *[0] * (depth - len(way))] for way in ways], dtype=np.int64)
    return np.column_stack([codes, positions_within_groups(row_ids(codes))])


def co_occurrence_graph(sequences: Iterable[Sequence[int]], n_items: int) -> csr_matrix:
    """Count how often two items occur in the same sequence: (N, N), symmetric, 0 on the diagonal.

    The training sequences hold item indices below N.
    """
    listed = list(sequences)
    items = np.fromiter(chain.from_iterable(listed), dtype=np.int64)
    users = np.repeat(np.arange(len(listed)), np.fromiter(map(len, listed), dtype=np.int64))
    times = csr_matrix((np.ones(len(items)), (users, items)), shape=(max(1, len(listed)), n_items))
    graph = csr_matrix(times.T @ times)
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def cluster_ways(
    graph: csr_matrix, clusters: int, leaf_size: int, generator: np.random.Generator
) -> list[tuple[int, ...]]:
    """Return each item's path down the tree of clusters; the whole catalogue is split at least once."""
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
    """Return the clusters (n,) of a graph's items, numbered from 0 without gaps.

    Items that co-occur with no other item form one cluster. If everything ends up in one cluster, the items
    are split evenly in their order, so that the recursion ends.
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
    """Return clusters (n,) of a graph without isolated nodes, from the leading eigenvectors.

    The eigenvectors are those of the normalised adjacency matrix, each row divided by the root of its degree.
    Pivoted QR (Damle, Minden and Ying 2019) assigns the clusters, as in P5-CID's code, scikit-learn's
    `cluster_qr`. Only the eigenvector iteration on large graphs is random.
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
    vectors = root[:, None] * vectors
    pivots = qr(vectors.T, pivoting=True, mode="r")[1][:clusters]
    left, _, right = svd(vectors[pivots].T)
    labels: np.ndarray = np.abs(vectors @ (left @ right.conj())).argmax(axis=1)
    return labels
