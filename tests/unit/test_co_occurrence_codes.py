"""P5-CID's identifiers: the graph by brute force, the clusters that it must find, the tree of codes."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from genrec_lab.data import load_dataset
from genrec_lab.models.tokenizers import ItemContent
from genrec_lab.models.tokenizers.co_occurrence import (
    CoOccurrence,
    CoOccurrenceConfig,
    cluster_ways,
    co_occurrence_graph,
    codes_of_graph,
    spectral_clusters,
)


def communities(sizes: tuple[int, ...], seed: int = 0, between: float = 0.02) -> csr_matrix:
    """A graph whose communities hang together much more than with each other."""
    generator = np.random.default_rng(seed)
    member = np.repeat(np.arange(len(sizes)), sizes)
    likely = np.where(member[:, None] == member[None, :], 0.6, between)
    edges = np.triu(generator.random(likely.shape) < likely, 1).astype(float)
    return csr_matrix(edges + edges.T)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), max_size=6), max_size=6))
def test_the_graph_counts_pairs_of_places(sequences: list[list[int]]) -> None:
    counted: Counter[tuple[int, int]] = Counter()
    for sequence in sequences:
        for one, other in combinations(sequence, 2):
            if one != other:
                counted[one, other] += 1
                counted[other, one] += 1
    graph = co_occurrence_graph(sequences, 8).toarray()
    assert {tuple(pair): graph[tuple(pair)] for pair in np.argwhere(graph)} == counted


@pytest.mark.parametrize("dense", [True, False])
def test_communities_become_clusters(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec_lab.models.tokenizers.co_occurrence._MOST_DENSE", 1_000 if dense else 0)
    sizes = (30, 20, 25)
    labels = spectral_clusters(communities(sizes), 3, np.random.default_rng(0))
    member = np.repeat(np.arange(3), sizes)
    assert sorted({(int(a), int(b)) for a, b in zip(member, labels, strict=True)}) == [
        (community, int(labels[member == community][0])) for community in range(3)
    ]


def test_clusters_are_those_of_scikit_learns_cluster_qr() -> None:
    rng = np.random.default_rng(3)
    near = np.exp(-((rng.uniform(0, 6, (80, 1)) - rng.uniform(0, 6, (1, 80))) ** 2))
    graph = (near + near.T) * rng.integers(1, 20, (80, 80)) ** 2.0
    graph = np.triu(graph, 1) + np.triu(graph, 1).T
    labels = spectral_clusters(csr_matrix(graph), 6, rng)
    theirs = SpectralClustering(6, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    assert adjusted_rand_score(theirs.fit_predict(graph), labels) == 1.0


def test_items_of_a_cluster_share_a_prefix_and_large_clusters_are_split_again() -> None:
    graph = communities((40, 30, 20))
    codes = codes_of_graph(graph, CoOccurrenceConfig(clusters=3, leaf_size=12), seed=0)
    member = np.repeat(np.arange(3), (40, 30, 20))
    assert len(np.unique(codes, axis=0)) == 90
    for community in range(3):
        assert len(np.unique(codes[member == community, 0])) == 1
    leaves = Counter(map(tuple, codes[:, :-1].tolist()))
    assert max(leaves.values()) <= 12
    for leaf, items in leaves.items():
        last = codes[(codes[:, :-1] == leaf).all(axis=1), -1]
        assert sorted(last) == list(range(items))
    assert codes[:, :-1].max() < 3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(1, 9), st.floats(0, 0.3), st.integers(0, 999))
def test_any_graph_is_clustered_to_the_end(
    items: int, clusters: int, leaf: int, share: float, seed: int
) -> None:
    """Graphs without an edge, in many pieces, or of one node: every way ends in a small cluster."""
    edges = np.triu(np.random.default_rng(seed).random((items, items)) < share, 1).astype(float)
    ways = cluster_ways(csr_matrix(edges + edges.T), clusters, leaf, np.random.default_rng(seed))
    sizes = Counter(ways)
    assert (len(ways) == items and max(sizes.values()) <= leaf) or max(map(len, ways)) == 1
    assert all(0 <= code < clusters for way in ways for code in way)
    # No cluster's way goes on below another's end: a prefix is a cluster, or a cluster that was split.
    assert not any(way[:length] in sizes for way in sizes for length in range(1, len(way)))


def test_items_that_occur_with_no_other_are_a_cluster_of_their_own() -> None:
    graph = communities((20, 20)).tolil()
    graph.resize(45, 45)
    codes = codes_of_graph(csr_matrix(graph), CoOccurrenceConfig(clusters=3, leaf_size=30), 0)
    assert len(np.unique(codes[40:, 0])) == 1
    assert codes[40, 0] not in codes[:40, 0]


def test_nothing_of_validation_or_test_is_learnt() -> None:
    """Other last two items of every sequence: the same graph and the same codes."""
    dataset = load_dataset("bazaar", items=300, users=300, domains=["Garden"])
    held = np.random.default_rng(0).integers(dataset.n_items, size=(dataset.sequences.height, 2))
    changed = [
        [*items[:-2], *last.tolist()] if len(items) > 2 else items
        for items, last in zip(dataset.sequences["items"].to_list(), held, strict=True)
    ]
    frame = dataset.sequences.with_columns(pl.Series("items", changed, dtype=pl.List(pl.Int64)))
    other = replace(dataset, sequences=frame)
    assert frame["items"].to_list() != dataset.sequences["items"].to_list()
    config = CoOccurrenceConfig(clusters=5, leaf_size=20)
    contents = [ItemContent.from_dataset(one) for one in (dataset, other)]
    np.testing.assert_array_equal(*(CoOccurrence(config).fit(one).encode(one) for one in contents))


def test_saved_codes_are_read_back_and_another_catalogue_is_refused(tmp_path: Path) -> None:
    dataset = load_dataset("bazaar", items=300, users=300, domains=["Garden"])
    content = ItemContent.from_dataset(dataset)
    model = CoOccurrence(CoOccurrenceConfig(clusters=5, leaf_size=20)).fit(content)
    model.save(tmp_path)
    again = CoOccurrence.load(tmp_path)
    assert (again.config, again.sizes) == (model.config, model.sizes)
    np.testing.assert_array_equal(again.encode(content), model.encode(content))
    assert again.residuals(content) is None
    with pytest.raises(ValueError, match="CoOccurrence was fitted on 300 items, without item 300 and 4 more"):
        again.encode(np.zeros((305, 4)))
    # Other items, in which nothing is recommended, are numbered.
    codes = again.tokenize_unserved(np.zeros((50, 1))).codes
    assert codes.shape[1] == len(model.sizes) and len(np.unique(codes, axis=0)) == 50
