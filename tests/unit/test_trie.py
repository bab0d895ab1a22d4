"""The trie of identifiers against sets and dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.codes import ItemCodes
from genrec_lab.decoding import CodeTrie

Rows = list[tuple[int, ...]]


@st.composite
def catalogues(draw: st.DrawFn) -> Rows:
    """1 to 40 distinct identifiers of 1 to 4 codes, with large and small codes."""
    levels = draw(st.integers(1, 4))
    code = st.integers(0, draw(st.sampled_from([1, 3, 300, 70_000])))
    return draw(st.lists(st.tuples(*[code] * levels), min_size=1, max_size=40, unique=True))


@given(rows=catalogues())
def test_children_of_every_prefix_are_those_of_a_dictionary(rows: Rows) -> None:
    trie = CodeTrie(np.array(rows))
    expected: dict[tuple[int, ...], set[int]] = {}
    for row in rows:
        for level in range(len(row)):
            expected.setdefault(row[:level], set()).add(row[level])
    for prefix, codes in expected.items():
        assert trie.children(prefix).tolist() == sorted(codes)
    assert len(trie) == len(rows)
    assert [len(level.codes) for level in trie.levels] == [
        len({row[: level + 1] for row in rows}) for level in range(len(rows[0]))
    ]


@given(rows=catalogues(), data=st.data())
def test_items_are_those_of_a_dictionary(rows: Rows, data: st.DataObject) -> None:
    items = data.draw(
        st.none() | st.lists(st.integers(0, 10**6), min_size=len(rows), max_size=len(rows), unique=True)
    )
    trie = CodeTrie(np.array(rows), None if items is None else np.array(items))
    for place, row in enumerate(rows):
        assert trie.item(row) == (place if items is None else items[place])
    absent = data.draw(
        st.tuples(*[st.integers(0, 80_000)] * len(rows[0])).filter(lambda row: row not in rows)
    )
    with pytest.raises(KeyError, match="no item has the identifier"):
        trie.item(absent)


@given(rows=catalogues(), data=st.data())
def test_a_prefix_that_no_item_has_is_childless(rows: Rows, data: st.DataObject) -> None:
    trie = CodeTrie(np.array(rows))
    length = data.draw(st.integers(0, len(rows[0]) - 1))
    prefix = data.draw(st.tuples(*[st.integers(0, 80_000)] * length))
    expected = sorted({row[length] for row in rows if row[:length] == prefix})
    assert trie.children(prefix).tolist() == expected


@given(rows=catalogues(), data=st.data())
def test_expanding_lists_the_children_of_each_row(rows: Rows, data: st.DataObject) -> None:
    """From the root down, with some rows repeated and some dead, against `children`."""
    trie = CodeTrie(np.array(rows))
    prefixes: list[tuple[int, ...] | None] = [(), None, ()]
    nodes = np.array([0, -1, 0])
    for level in range(trie.depth):
        parents, children = trie.expand(level, nodes)
        codes = trie.levels[level].codes[children].tolist()
        expected = [
            (row, code)
            for row, prefix in enumerate(prefixes)
            if prefix is not None
            for code in trie.children(prefix).tolist()
        ]
        assert list(zip(parents.tolist(), codes, strict=True)) == expected
        grown = [(*(prefixes[row] or ()), code) for row, code in expected]
        kept = data.draw(st.lists(st.sampled_from(range(len(grown))), max_size=5)) if grown else []
        prefixes = [*(grown[row] for row in kept), None]
        nodes = np.array([*children[kept], -1])


def test_expanding_nothing_gives_nothing() -> None:
    parents, children = CodeTrie([[1, 2]]).expand(0, np.empty(0, dtype=np.int64))
    assert parents.size == children.size == 0


def test_one_item() -> None:
    trie = CodeTrie([[3, 0, 255]])
    assert len(trie) == 1
    assert trie.children([]).tolist() == [3]
    assert trie.children([3, 0]).tolist() == [255]
    assert trie.item([3, 0, 255]) == 0


def test_one_level() -> None:
    trie = CodeTrie([[5], [2], [9]])
    assert trie.children([]).tolist() == [2, 5, 9]
    assert [trie.item([code]) for code in (5, 2, 9)] == [0, 1, 2]


@pytest.mark.parametrize("code", [-1, 256, 10**12])
def test_a_code_beyond_the_stored_type_is_absent_and_not_wrapped(code: int) -> None:
    trie = CodeTrie([[255, 0], [0, 0]])  # stored in 8 bits, in which 256 would be 0 and -1 would be 255
    assert trie.children([code]).size == 0
    with pytest.raises(KeyError):
        trie.item([code, 0])


def test_a_domain_has_its_items_only() -> None:
    codes = ItemCodes([[0, 1], [0, 1], [2, 0]], (3, 3), domains=["a", "b", "b"])
    items = codes.domain_items("b")
    trie = CodeTrie(codes.codes[items], items)
    assert trie.item([0, 1]) == 1
    assert trie.item([2, 0]) == 2
    assert trie.children([]).tolist() == [0, 2]


def test_arrays_tensors_lists_and_item_codes_are_the_same_trie() -> None:
    rows = [[1, 2], [0, 3], [1, 0]]
    for codes in (rows, np.array(rows, dtype=np.int16), torch.tensor(rows), ItemCodes(rows, (4, 4))):
        assert [CodeTrie(codes).item(row) for row in rows] == [0, 1, 2]


def test_bytes_are_those_of_the_arrays_and_grow_by_bytes_an_item() -> None:
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers(0, 256, (20_000, 4)), axis=0)
    trie = CodeTrie(rows)
    arrays = [a for level in trie.levels for a in (level.starts, level.codes, level.lowest)]
    assert trie.levels[-1].lowest is trie.items
    assert trie.nbytes == sum(a.nbytes for a in arrays)
    # One byte a code, four a start and four an item's number: a node costs 9 bytes.
    nodes = sum(len(level.codes) for level in trie.levels)
    assert trie.nbytes < 9 * nodes + 100


def test_equal_identifiers_are_refused_with_both_items() -> None:
    with pytest.raises(ValueError, match=r"items 1[04] and 1[04] have the same identifier \[1, 2\].*resolve"):
        CodeTrie([[1, 2], [0, 0], [1, 2]], np.array([10, 12, 14]))


@pytest.mark.parametrize(
    "codes, items, message",
    [
        ([], None, r"shape \(0,\); expected \(items, levels\)"),
        (np.empty((0, 3), dtype=int), None, r"shape \(0, 3\); expected"),
        ([1, 2, 3], None, r"shape \(3,\); expected"),
        ([[0.5, 1.0]], None, "codes are float64; expected integers"),
        ([[0, -1]], None, "codes hold -1; expected 0 or more"),
        ([[0, 1]], [3, 4], r"items have the shape \(2,\); expected \(1,\)"),
        ([[0, 1], [0, 2]], [3, 3], "one twice"),
        ([[0, 1], [0, 2]], [-1, 3], "below 0"),
    ],
)
def test_impossible_catalogues_are_refused(codes: object, items: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeTrie(codes, None if items is None else np.array(items))


def test_a_whole_identifier_has_no_children() -> None:
    with pytest.raises(ValueError, match="a prefix of 2 codes has no children; identifiers have 2"):
        CodeTrie([[1, 2]]).children([1, 2])


@pytest.mark.parametrize("codes", [[], [1], [1, 2, 3]])
def test_an_identifier_of_another_length_is_absent(codes: list[int]) -> None:
    with pytest.raises(KeyError, match="no item has the identifier"):
        CodeTrie([[1, 2]]).item(codes)


@given(rows=catalogues(), data=st.data())
def test_leaves_and_lowest_items_below_a_node_are_those_of_the_rows(rows: Rows, data: st.DataObject) -> None:
    items = data.draw(st.permutations(range(3, 3 + len(rows))))
    trie = CodeTrie(np.array(rows), np.array(items))
    for length in range(1, trie.depth + 1):
        prefixes = sorted({row[:length] for row in rows})
        first, last = trie.leaf_ranges(length, np.arange(-1, len(prefixes)))
        assert first[0] == last[0]
        for node, prefix in enumerate(prefixes):
            below = {item for row, item in zip(rows, items, strict=True) if row[:length] == prefix}
            assert set(trie.items[first[node + 1] : last[node + 1]].tolist()) == below
            assert trie.levels[length - 1].lowest[node] == min(below)


@given(parts=st.lists(catalogues().filter(lambda rows: len(rows[0]) == 3), min_size=1, max_size=3))
def test_joined_tries_hold_each_below_its_own_root(parts: list[Rows]) -> None:
    tries = [
        CodeTrie(np.array(rows), np.arange(100 * i, 100 * i + len(rows))) for i, rows in enumerate(parts)
    ]
    joined = CodeTrie.joined(tries)
    assert (joined.roots, len(joined)) == (len(parts), sum(map(len, parts)))
    for root, trie in enumerate(tries):
        nodes, alone = np.array([root]), np.array([0])
        for level in range(3):
            (_, nodes), (_, alone) = joined.expand(level, nodes), trie.expand(level, alone)
            for field in ("codes", "lowest"):
                ours, theirs = (getattr(t.levels[level], field) for t in (joined, trie))
                assert ours[nodes].tolist() == theirs[alone].tolist()
        assert joined.items[nodes].tolist() == trie.items[alone].tolist()


def test_tries_of_unlike_depth_are_not_joined() -> None:
    with pytest.raises(ValueError, match=r"the tries have \[2, 1\] levels.*all of one depth"):
        CodeTrie.joined([CodeTrie([[0, 1]]), CodeTrie([[0]])])


def test_codes_too_wide_for_one_number_are_ordered_column_by_column() -> None:
    rng = np.random.default_rng(0)
    narrow = np.unique(rng.integers(0, 5, (60, 3)), axis=0)
    wide = narrow + np.array([2**40, 2**41, 0])
    one, other = CodeTrie(narrow), CodeTrie(wide)
    assert one.items.tolist() == other.items.tolist()
    for level in range(3):
        assert one.levels[level].starts.tolist() == other.levels[level].starts.tolist()
