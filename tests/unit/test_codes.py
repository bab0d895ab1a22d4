"""ItemCodes: vocabulary, domains, uniqueness, file, and what it refuses."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.codes import (
    EOS,
    PAD,
    CodesError,
    ItemCodes,
    positions_within_groups,
    row_ids,
)


@st.composite
def catalogues(draw: st.DrawFn) -> ItemCodes:
    """Small catalogues with many collisions: 1 to 12 items, 1 to 3 levels, 1 to 3 domains."""
    levels = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 4), min_size=levels, max_size=levels))
    n_items = draw(st.integers(1, 12))
    rows = [[draw(st.integers(0, size - 1)) for size in sizes] for _ in range(n_items)]
    domains = draw(st.none() | st.lists(st.sampled_from("abc"), min_size=n_items, max_size=n_items))
    return ItemCodes(rows, sizes, domains)


# --- vocabulary


def test_levels_get_consecutive_token_ranges_after_pad_and_end() -> None:
    codes = ItemCodes([[0, 0, 0], [3, 4, 5]], (4, 5, 6))
    assert (PAD, EOS) == (0, 1)
    assert codes.offsets == (2, 6, 11)
    assert codes.vocabulary_size == 17
    assert codes.tokens().tolist() == [[2, 6, 11], [5, 10, 16]]


def test_utgrec_vocabulary_counts_the_shared_leaf_range_once() -> None:
    # UTGRec: root 256, one leaf book of 256 (L - 1) = 512 shared by levels 2..L, and pad and end.
    codes = ItemCodes([[255, 511, 511]], (256, 512, 512), shared_levels=(1, 2))
    assert codes.offsets == (2, 258, 258)
    assert codes.vocabulary_size == 2 + 256 + 512
    assert codes.tokens().tolist() == [[257, 769, 769]]


def test_shared_levels_need_not_be_neighbours() -> None:
    codes = ItemCodes([[0, 0, 0]], (4, 5, 4), shared_levels=(0, 2))
    assert codes.offsets == (2, 6, 2)
    assert codes.vocabulary_size == 11


@given(catalogues())
def test_tokens_determine_level_and_code(codes: ItemCodes) -> None:
    meaning: dict[int, tuple[int, int]] = {}
    for level, size in enumerate(codes.sizes):
        for code in range(size):
            token = codes.offsets[level] + code
            assert token not in meaning and token not in (PAD, EOS)
            meaning[token] = (level, code)
    assert max(meaning) == codes.vocabulary_size - 1
    for item, row in enumerate(codes.tokens().tolist()):
        assert [meaning[token] for token in row] == list(enumerate(codes.codes[item].tolist()))


def test_separate_vocabularies_keep_codes_and_part_domains() -> None:
    codes = ItemCodes([[0, 2], [1, 0], [0, 2]], (2, 3), ["x", "y", "y"])
    parted = codes.with_separate_vocabularies()
    assert parted.sizes == (4, 6)
    assert parted.codes.tolist() == [[0, 2], [3, 3], [2, 5]]
    x, y = (set(parted.tokens()[parted.domain_items(name)].ravel().tolist()) for name in ("x", "y"))
    assert not x & y


# --- domains


def test_domains_are_named_in_order_of_first_appearance() -> None:
    codes = ItemCodes([[0], [1], [0], [2]], (3,), ["toys", "art", "toys", "art"])
    assert codes.domain_names == ("toys", "art")
    assert codes.domain_index.tolist() == [0, 1, 0, 1]
    assert codes.domain_items("art").tolist() == [1, 3]
    assert codes.subset("art").codes.tolist() == [[1], [2]]
    assert codes.subset("art").domain_names == ("art",)
    assert codes.select([3, 0]).codes.tolist() == [[2], [0]]


def test_integer_domains_and_no_domains() -> None:
    numbered = ItemCodes([[0], [1]], (2,), np.array([7, 3]))
    assert numbered.domain_names == ("7", "3")
    assert numbered.domain_items(3).tolist() == [1]
    whole = ItemCodes([[0], [1]], (2,))
    assert whole.domain_names == ("all",)
    assert whole.domain_items("all").tolist() == whole.domain_items().tolist() == [0, 1]


def test_unknown_domain_names_the_nearest() -> None:
    codes = ItemCodes([[0], [1]], (2,), ["Scientific", "Office"])
    with pytest.raises(
        CodesError, match=r"'Sientific'.*\['Scientific', 'Office'\].*did you mean 'Scientific'"
    ):
        codes.domain_items("Sientific")


# --- uniqueness


def test_an_identifier_may_repeat_in_another_domain() -> None:
    assert ItemCodes([[0, 1], [0, 1]], (2, 2), ["a", "b"]).unique
    assert not ItemCodes([[0, 1], [0, 1]], (2, 2), ["a", "a"]).unique


@given(catalogues())
def test_collisions_agree_with_counting_identifiers(codes: ItemCodes) -> None:
    names = codes.domains.tolist() if codes.domains is not None else ["all"] * codes.n_items
    identifiers = [(name, *row) for name, row in zip(names, codes.codes.tolist(), strict=True)]
    counts = Counter(identifiers)
    colliding = [item for item, identifier in enumerate(identifiers) if counts[identifier] > 1]
    assert codes.collision_rate() == pytest.approx(len(colliding) / codes.n_items)
    assert codes.unique == (not colliding)
    groups = [group.tolist() for group in codes.groups()]
    assert sorted(item for group in groups for item in group) == colliding
    for group in groups:
        assert group == sorted(group) and len(group) > 1
        assert len({identifiers[item] for item in group}) == 1


@given(
    st.lists(st.lists(st.integers(0, 2**61), min_size=3, max_size=3), min_size=1, max_size=20),
    st.integers(1, 5),
)
def test_row_ids_rank_rows_even_where_packed_keys_would_overflow(rows: list[list[int]], repeats: int) -> None:
    matrix = np.array(rows * repeats, dtype=np.int64)
    in_order = sorted(set(map(tuple, matrix.tolist())))
    assert row_ids(matrix).tolist() == [in_order.index(tuple(row)) for row in matrix.tolist()]


@given(st.lists(st.integers(0, 4), max_size=30))
def test_positions_count_within_groups_in_row_order(groups: list[int]) -> None:
    _, ids = np.unique(np.array(groups, dtype=np.int64), return_inverse=True)
    expected = [groups[:row].count(group) for row, group in enumerate(groups)]
    assert positions_within_groups(ids.astype(np.int64)).tolist() == expected


def test_a_million_items_are_checked_and_resolved_in_seconds() -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (1_000_000, 4))
    raw[500_000:500_100] = raw[:100]
    start = time.perf_counter()
    codes = ItemCodes(raw, (256,) * 4)
    assert codes.collision_rate() > 0
    assert codes.resolve("extra_level").unique
    # About one second on one core; the bound only has to catch a loop over items.
    assert time.perf_counter() - start < 20


# --- value and file


def test_codes_are_a_read_only_copy() -> None:
    given_codes = np.zeros((2, 2), dtype=np.int64)
    codes = ItemCodes(given_codes, (2, 2))
    given_codes[0, 0] = 1
    assert codes.codes[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        codes.codes[0, 0] = 1


def test_equality_looks_at_every_part() -> None:
    codes = ItemCodes([[0, 1]], (2, 2), ["a"])
    assert codes == ItemCodes(np.array([[0.0, 1.0]]), [2, 2], ["a"])
    assert codes != ItemCodes([[0, 0]], (2, 2), ["a"])
    assert codes != ItemCodes([[0, 1]], (2, 3), ["a"])
    assert codes != ItemCodes([[0, 1]], (2, 2), ["b"])
    assert codes != ItemCodes([[0, 1]], (2, 2), ["a"], shared_levels=(0, 1))


@given(codes=catalogues())
def test_a_file_gives_back_the_same_codes(codes: ItemCodes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("codes")
    file = codes.write(folder / "deep" / "codes.parquet")
    read = ItemCodes.read(file)
    assert read == codes
    assert (read.domains is None) == (codes.domains is None)
    assert [path.name for path in file.parent.iterdir()] == ["codes.parquet"]


def test_a_file_keeps_shared_levels_and_readable_columns(tmp_path: Path) -> None:
    codes = ItemCodes([[0, 1, 1]], (2, 3, 3), ["a"], shared_levels=(1, 2))
    file = codes.write(tmp_path / "codes.parquet")
    assert ItemCodes.read(file).offsets == codes.offsets
    assert pl.read_parquet(file).rows(named=True) == [
        {"item": 0, "domain": "a", "code_0": 0, "code_1": 1, "code_2": 1}
    ]


def test_reading_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    with pytest.raises(CodesError, match=r"missing\.parquet: no such file"):
        ItemCodes.read(tmp_path / "missing.parquet")
    pl.DataFrame({"item": [0]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(CodesError, match=r"other\.parquet: not a file of item codes"):
        ItemCodes.read(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("not parquet at all")
    with pytest.raises(CodesError, match=r"text\.parquet: not a file of item codes"):
        ItemCodes.read(tmp_path / "text.parquet")
    file = ItemCodes([[0], [1], [1]], (2,)).write(tmp_path / "codes.parquet")
    metadata = {key: value for key, value in pl.read_parquet_metadata(file).items() if key == "item_codes"}
    pl.read_parquet(file)[1:].write_parquet(tmp_path / "cut.parquet", metadata=metadata)
    with pytest.raises(CodesError, match=r"cut\.parquet: column 'item' must count 0..1"):
        ItemCodes.read(tmp_path / "cut.parquet")


# --- refusals


@pytest.mark.parametrize(
    ("codes", "sizes", "domains", "shared", "message"),
    [
        ([[0, 2]], (2, 2), None, (), r"value 2 of item 0 at level 1 is outside 0\.\.1"),
        ([[0, 0], [-1, 0]], (2, 2), None, (), r"value -1 of item 1 at level 0"),
        ([[0, float("nan")]], (2, 2), None, (), r"value nan of item 0 at level 1 is not a whole number"),
        ([[0, 0.5]], (2, 2), None, (), r"value 0.5 of item 0 at level 1 is not a whole number"),
        ([["a", "b"]], (2, 2), None, (), r"dtype <U1, expected integers"),
        ([0, 1], (2, 2), None, (), r"shape \(2,\), expected \(items, levels\)"),
        (np.zeros((0, 2)), (2, 2), None, (), r"shape \(0, 2\)"),
        ([[0, 0]], (2,), None, (), r"1 values \(2,\) for codes of 2 levels"),
        ([[0, 0]], (2, 0), None, (), r"sizes: 0 at level 1"),
        ([[0, 0]], (2, 2), ["a", "b"], (), r"2 values for 1 items"),
        ([[0, 0]], (2, 2), [None], (), r"domains: None of item 0"),
        ([[0, 0]], (2, 2), [""], (), r"domains: '' of item 0"),
        ([[0, 0]], (2, 2), None, (2,), r"shared_levels: \(2,\), expected distinct levels among 0\.\.1"),
        ([[0, 0]], (2, 2), None, (1, 1), r"shared_levels: \(1, 1\)"),
        ([[0, 0]], (2, 3), None, (0, 1), r"levels \(0, 1\) have sizes \[2, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(codes, sizes, domains, shared, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CodesError, match=message):
        ItemCodes(codes, sizes, domains, shared)


def test_ambiguous_identifiers_are_refused_with_the_way_out() -> None:
    codes = ItemCodes([[0, 1], [1, 1], [0, 1]], (2, 2), ["a", "a", "a"])
    with pytest.raises(
        CodesError, match=r"2 of 3 items .* items \[0, 2\] with \[0, 1\].*resolve\('nearest_free'"
    ):
        codes.require_unique()
    codes.resolve("extra_level").require_unique()
    ItemCodes([[0, 1], [0, 1]], (2, 2), ["a", "b"]).require_unique()
