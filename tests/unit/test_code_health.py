"""Code health, sharing between domains, prefix entropy and neighbour overlap against brute force."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.codes import CodesError, ItemCodes, use_of_codes
from genrec_lab.evaluation import code_health, domain_sharing, neighbour_code_overlap, prefix_entropy

Rows = list[list[int]]


@st.composite
def coded_items(draw: st.DrawFn) -> tuple[Rows, list[int], list[str]]:
    """Codes, sizes and domains of 1 to 15 items at 1 to 3 levels."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    n_items = draw(st.integers(1, 15))
    rows = [[draw(st.integers(0, size - 1)) for size in sizes] for _ in range(n_items)]
    domains = draw(st.lists(st.sampled_from("abc"), min_size=n_items, max_size=n_items))
    return rows, sizes, domains


def twin_entropy(values: list) -> float:  # type: ignore[type-arg]
    """Entropy in bits of the frequencies of values."""
    counts = Counter(values)
    return -sum(n / len(values) * math.log2(n / len(values)) for n in counts.values())


def twin_gini(counts: list[int]) -> float:
    """Half the relative mean absolute difference over all pairs of codes."""
    differences = sum(abs(a - b) for a in counts for b in counts)
    return differences / (2 * len(counts) * sum(counts))


# --- code_health


def test_code_health_by_hand() -> None:
    # Level 0: counts 2, 2, 0, 0; level 1: counts 4, 0.
    health = code_health([[0, 0], [0, 0], [1, 0], [1, 0]], (4, 2))
    assert health.used == (2, 1)
    assert health.utilisation == (0.5, 0.5)
    assert health.dead == (2, 1)
    assert health.entropy == (1.0, 0.0)
    assert health.perplexity == (2.0, 1.0)
    assert health.gini == (0.5, 0.5)
    assert (health.collision_rate, health.largest_collision, health.unique_ratio) == (1.0, 2, 0.5)


def test_even_use_is_perfect_health() -> None:
    health = code_health([[code] for code in range(8)], (8,))
    assert (health.entropy, health.perplexity, health.gini, health.dead) == ((3.0,), (8.0,), (0.0,), (0,))
    assert (health.collision_rate, health.largest_collision, health.unique_ratio) == (0.0, 1, 1.0)


@given(coded_items())
def test_levels_agree_with_counting(case: tuple[Rows, list[int], list[str]]) -> None:
    rows, sizes, _ = case
    health = code_health(rows, sizes)
    for level, size in enumerate(sizes):
        column = [row[level] for row in rows]
        counts = [column.count(code) for code in range(size)]
        used = sum(count > 0 for count in counts)
        assert (health.used[level], health.dead[level]) == (used, size - used)
        assert health.utilisation[level] == pytest.approx(used / size)
        assert health.entropy[level] == pytest.approx(twin_entropy(column), abs=1e-12)
        assert health.perplexity[level] == pytest.approx(2 ** twin_entropy(column))
        assert health.gini[level] == pytest.approx(twin_gini(counts), abs=1e-12)
        assert 1 <= health.perplexity[level] <= used + 1e-9


@given(coded_items(), st.booleans())
def test_collisions_agree_with_counting(case: tuple[Rows, list[int], list[str]], by_domain: bool) -> None:
    rows, sizes, domains = case
    health = code_health(rows, sizes, domains if by_domain else None)
    identifiers = [(domain if by_domain else "", *row) for domain, row in zip(domains, rows, strict=True)]
    counts = Counter(identifiers)
    colliding = sum(counts[identifier] > 1 for identifier in identifiers)
    assert health.collision_rate == pytest.approx(colliding / len(rows))
    assert health.largest_collision == max(counts.values())
    assert health.unique_ratio == pytest.approx(len(counts) / len(rows))
    if by_domain:
        assert health.collision_rate == pytest.approx(ItemCodes(rows, sizes, domains).collision_rate())


def test_codes_outside_their_sizes_are_refused() -> None:
    with pytest.raises(CodesError, match=r"value 4 of item 0 at level 0 is outside 0\.\.3"):
        code_health([[4]], (4,))


@given(coded_items())
def test_the_record_of_an_epoch_holds_the_same_measures(case: tuple[Rows, list[int], list[str]]) -> None:
    rows, sizes, domains = case
    record, health = use_of_codes(rows, sizes, domains), code_health(rows, sizes, domains)
    assert all(record[name] == getattr(health, name) for name in record.keys() & vars(health).keys())
    assert len(record.keys() & vars(health).keys()) == 6
    assert record["prefix_entropy"] == prefix_entropy(rows, sizes)
    for level, share in enumerate(record["shared_items"]):
        owners = {row[level]: set() for row in rows}
        for row, domain in zip(rows, domains, strict=True):
            owners[row[level]].add(domain)
        shared = sum(len(owners[row[level]]) > 1 for row in rows)
        assert share == pytest.approx(shared / len(rows))


# --- prefix_entropy


@given(coded_items())
def test_prefix_entropy_agrees_with_counting_prefixes(case: tuple[Rows, list[int], list[str]]) -> None:
    rows, sizes, _ = case
    entropies = prefix_entropy(rows, sizes)
    twins = [twin_entropy([tuple(row[: length + 1]) for row in rows]) for length in range(len(sizes))]
    assert entropies == pytest.approx(twins, abs=1e-12)
    # A longer prefix never tells less, and all of them together at most which item it is.
    assert all(longer >= shorter - 1e-12 for shorter, longer in pairwise(entropies))
    assert entropies[-1] <= math.log2(len(rows)) + 1e-12


# --- domain_sharing


def test_domain_sharing_by_hand() -> None:
    sharing = domain_sharing([[0], [0], [1], [0], [2]], ["x", "x", "x", "y", "y"], (4,))
    assert sharing.domains == ("x", "y")
    assert sharing.counts[0].tolist() == [[2, 1, 0, 0], [1, 0, 1, 0]]
    # Code 3 is unused, codes 1 and 2 belong to one domain, code 0 to both and to three items.
    assert sharing.codes_by_domains[0].tolist() == [1, 2, 1]
    assert sharing.shared_items == (0.6,)


@given(coded_items())
def test_domain_sharing_agrees_with_sets(case: tuple[Rows, list[int], list[str]]) -> None:
    rows, sizes, domains = case
    sharing = domain_sharing(rows, domains, sizes)
    assert sharing.domains == tuple(dict.fromkeys(domains))
    for level, size in enumerate(sizes):
        users = [
            {domain for domain, row in zip(domains, rows, strict=True) if row[level] == code}
            for code in range(size)
        ]
        expected = [sum(len(names) == n for names in users) for n in range(len(sharing.domains) + 1)]
        assert sharing.codes_by_domains[level].tolist() == expected
        assert sharing.shared_items[level] == pytest.approx(
            sum(len(users[row[level]]) > 1 for row in rows) / len(rows)
        )
        assert sharing.counts[level].sum() == len(rows)


# --- neighbour_code_overlap


def twin_overlap(vectors: np.ndarray, codes: np.ndarray, members: list[int], k: int) -> float:
    """Mean share of equal codes between items and their k nearest other members, pair by pair."""
    overlaps = []
    for item in members:
        others = sorted(
            (other for other in members if other != item),
            key=lambda other: float(((vectors[item] - vectors[other]) ** 2).sum()),
        )
        overlaps += [float((codes[item] == codes[other]).mean()) for other in others[:k]]
    return sum(overlaps) / len(overlaps)


@given(st.integers(0, 2**32), st.integers(8, 25), st.integers(1, 3))
def test_neighbour_overlap_agrees_with_comparing_all_pairs(seed: int, n_items: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_items, 3)) + 100.0
    codes = rng.integers(0, 3, (n_items, levels))
    domains = ["x" if item % 2 else "y" for item in range(n_items)]
    table = neighbour_code_overlap(vectors, codes, ks=(1, 3), domains=domains)
    assert table.columns == ["domain", "k", "overlap", "items"]
    assert table.select("domain", "k").rows() == [("y", 1), ("y", 3), ("x", 1), ("x", 3)]
    for name, k, overlap, items in table.rows():
        members = [item for item in range(n_items) if domains[item] == name]
        assert items == len(members)
        assert overlap == pytest.approx(twin_overlap(vectors, codes, members, k))


def test_chunks_give_what_one_piece_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors, codes = rng.normal(size=(40, 4)), rng.integers(0, 3, (40, 2))
    whole = neighbour_code_overlap(vectors, codes, ks=(2, 5))
    monkeypatch.setattr("genrec_lab.evaluation.codebook._LARGEST_BATCH", 40 * 7)
    assert neighbour_code_overlap(vectors, codes, ks=(2, 5))["overlap"].to_list() == pytest.approx(
        whole["overlap"].to_list()
    )


def test_item_codes_bring_their_domains_and_equal_codes_overlap_fully() -> None:
    vectors = np.random.default_rng(0).normal(size=(6, 2))
    codes = ItemCodes([[0, 1]] * 3 + [[1, 1]] * 3, (2, 2), ["x"] * 3 + ["y"] * 3)
    assert neighbour_code_overlap(vectors, codes, ks=(2,)).rows() == [("x", 2, 1.0, 3), ("y", 2, 1.0, 3)]


def test_a_sample_of_items_is_seeded_and_searches_all_neighbours() -> None:
    rng = np.random.default_rng(0)
    vectors, codes = rng.normal(size=(50, 3)), rng.integers(0, 4, (50, 2))
    first = neighbour_code_overlap(vectors, codes, ks=(3,), queries_per_domain=10, seed=5)
    assert first["items"].to_list() == [10]
    assert first.equals(neighbour_code_overlap(vectors, codes, ks=(3,), queries_per_domain=10, seed=5))
    queries = np.sort(np.random.default_rng(5).choice(50, size=10, replace=False))
    overlaps = []
    for item in queries:
        order = np.argsort(((vectors - vectors[item]) ** 2).sum(axis=1))[1:4]
        overlaps.append((codes[order] == codes[item]).mean())
    assert first["overlap"].item() == pytest.approx(np.mean(overlaps))


@pytest.mark.parametrize(
    ("vectors", "ks", "message"),
    [
        (np.zeros((3, 2)), (3,), r"ks: \[3\], expected 1 to 2, the other items of domain 'all'"),
        (np.zeros((3, 2)), (0,), r"ks: \[0\]"),
        (np.zeros((4, 2)), (1,), r"vectors: shape \(4, 2\), expected \(3, D\)"),
        (np.array([[0.0], [np.nan], [1.0]]), (1,), r"vectors: NaN or infinity in 1 rows, the first is row 1"),
    ],
)
def test_neighbours_that_cannot_be_found_are_refused(
    vectors: np.ndarray, ks: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CodesError, match=message):
        neighbour_code_overlap(vectors, [[0], [1], [0]], ks=ks)
