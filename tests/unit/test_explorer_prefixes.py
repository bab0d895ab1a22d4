"""Prefixes, selections, search and words of the explorer against brute force."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.codes import ItemCodes
from genrec_lab.viz.explorer import CodedCatalogue, ExplorerState, Selection, answers
from genrec_lab.viz.explorer.selection import parse_prefix, search
from genrec_lab.viz.explorer.words import TitleWords

Make = Callable[..., CodedCatalogue]
shapes = st.tuples(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 3),
)


def build(make: Make, shape: tuple[int, int, list[int], int], **options: object) -> CodedCatalogue:
    seed, items, sizes, domains = shape
    return make(seed, items, sizes, ("Garden", "Kitchen", "Studio")[:domains], **options)


def below(catalogue: CodedCatalogue, prefix: tuple[int, ...], domain: str | None = None) -> list[int]:
    """The items of a prefix, one after another."""
    codes, index = catalogue.codes, catalogue.codes.domain_index
    return [
        item
        for item in range(catalogue.n_items)
        if tuple(codes.codes[item, : len(prefix)].tolist()) == prefix
        and (domain is None or catalogue.domains[index[item]] == domain)
    ]


def some_prefixes(catalogue: CodedCatalogue, seed: int) -> list[tuple[int, ...]]:
    """Prefixes that items have, of each length, and one that perhaps nobody has."""
    rng = np.random.default_rng(seed)
    found: list[tuple[int, ...]] = [()]
    for length in range(1, catalogue.levels + 1):
        found.append(tuple(catalogue.codes.codes[rng.integers(catalogue.n_items), :length].tolist()))
    return [*found, tuple(int(rng.integers(size)) for size in catalogue.codes.sizes)]


# --- prefixes


@given(shapes)
@settings(max_examples=60)
def test_members_of_a_prefix_are_the_items_that_have_it(
    make_catalogue: Make, shape: tuple[int, int, list[int], int]
) -> None:
    catalogue = build(make_catalogue, shape)
    for prefix in some_prefixes(catalogue, shape[0]):
        for domain in (None, *catalogue.domains):
            found = catalogue.order.members(prefix, catalogue.domain_number(domain))
            assert sorted(found.tolist()) == below(catalogue, prefix, domain)
            rows = [(*catalogue.codes.codes[item].tolist(), item) for item in found]
            assert rows == sorted(rows)


@given(shapes)
@settings(max_examples=40)
def test_items_of_a_code_under_any_prefix(
    make_catalogue: Make, shape: tuple[int, int, list[int], int]
) -> None:
    catalogue = build(make_catalogue, shape)
    for level, size in enumerate(catalogue.codes.sizes):
        for code in range(size):
            places = catalogue.order.with_code(level, code)
            items = catalogue.order.items[places]
            assert set(items.tolist()) == set(
                np.flatnonzero(catalogue.codes.codes[:, level] == code).tolist()
            )
        groups = catalogue.order.group_numbers(level + 1)
        for item in range(catalogue.n_items):
            mates = np.flatnonzero(groups == groups[item]).tolist()
            assert mates == below(catalogue, tuple(catalogue.codes.codes[item, : level + 1].tolist()))


def test_a_prefix_of_nobody_and_a_whole_identifier(make_catalogue: Make) -> None:
    catalogue = make_catalogue(0, 3, (2, 2))
    nobody = next((a, b) for a in range(2) for b in range(2) if not below(catalogue, (a, b)))
    assert catalogue.order.members(nobody).size == 0
    assert catalogue.order.members((2**40,)).size == 0
    with pytest.raises(ValueError, match="3 codes, identifiers have 2"):
        catalogue.order.span((0, 0, 0))


def test_a_catalogue_refuses_what_does_not_fit() -> None:
    codes = ItemCodes([[0], [1]], (2,))
    with pytest.raises(ValueError, match="titles: 1 values for 2 items"):
        CodedCatalogue("x", codes, ["a"])
    with pytest.raises(ValueError, match=r"codewords: levels of \(3,\) codes"):
        CodedCatalogue("x", codes, ["a", "b"], codewords=[np.zeros((3, 2))])
    with pytest.raises(ValueError, match="traffic: shape"):
        CodedCatalogue("x", codes, ["a", "b"], traffic=[1, -1])
    with pytest.raises(ValueError, match="books: 3"):
        CodedCatalogue("x", codes, ["a", "b"], books=3)


# --- selection


def test_back_and_forward_visit_what_was_selected(make_catalogue: Make) -> None:
    state = ExplorerState(make_catalogue(1))
    seen: list[Selection] = []
    state.watch(seen.append)
    first = state.select(prefix=(1,))
    second = state.select(prefix=(1, 2))
    assert state.select(prefix=(1, 2)) == second  # nothing new, so no step and no word of it
    assert state.back() == first
    assert state.back() == Selection()
    assert state.back() == Selection()
    assert not state.can_go_back
    assert state.forward() == first
    third = state.select(domain="Kitchen")
    assert third == Selection((1,), 1, "Kitchen")
    assert state.forward() == third  # what lay ahead is gone
    assert seen == [first, second, first, Selection(), first, third]


def test_the_level_and_the_item_follow_the_prefix(make_catalogue: Make) -> None:
    state = ExplorerState(make_catalogue(1))
    whole = tuple(state.catalogue.codes.codes[7].tolist())
    assert state.select(item=7) == Selection(whole, 0, None, 7)  # the map stays at its level
    assert state.select(prefix=whole[:1]) == Selection(whole[:1], 1, None, 7)
    assert state.select(prefix=((whole[0] + 1) % 4,)).item is None
    assert state.select(level=0).level == 0
    state.select(item=7)
    other = next(name for name in state.catalogue.domains if name != state.catalogue.cards([7])["domain"][0])
    assert state.select(domain=other).item is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prefix": (4,)}, "code 4 at level 1, expected 0..3"),
        ({"prefix": (0, 0, 0, 0)}, "more codes than the 3 levels"),
        ({"level": 3}, "level: 3, expected 0..2"),
        ({"domain": "Attic"}, "'Attic', expected one of"),
        ({"item": 40}, "item: 40, expected 0..39"),
    ],
)
def test_an_impossible_selection_changes_nothing(
    make_catalogue: Make, changes: dict[str, object], message: str
) -> None:
    state = ExplorerState(make_catalogue(1))
    before = state.select(prefix=(1,))
    with pytest.raises(ValueError, match=re.escape(message)):
        state.select(**changes)
    assert state.selection == before


def test_the_path_leads_to_the_selection(make_catalogue: Make) -> None:
    state = ExplorerState(make_catalogue(1))

    def path(**selection: object) -> list[tuple[str, object]]:
        state.select(**selection)
        return [(step["text"], step.get("go")) for step in answers.selected(state)["path"]]

    assert path() == [("All", {"prefix": []}), ("*", None)]
    steps = [("3", {"prefix": [3]}), ("1", {"prefix": [3, 1]}), ("*", None)]
    assert path(prefix=(3, 1))[1:] == steps
    assert path(prefix=(3, 1, 2))[-1] == ("2", {"prefix": [3, 1, 2]})
    assert path(everywhere=(1, 2))[1:] == [("*", None), ("2", {"everywhere": [1, 2]})]


# --- search


@pytest.mark.parametrize(
    "text, prefix",
    [
        ("3", (3,)),
        (" 3 › 1 › * ", (3, 1)),
        ("All › 3", (3,)),
        ("3 1 2", (3, 1, 2)),
        ("3,1", (3, 1)),
        ("3.1.2", (3, 1, 2)),
        ("4", None),
        ("3 1 2 0", None),
        ("3 cups", None),
        ("3 ›", None),
        ("٣", (3,)),
        ("-3", None),
        ("99999999999999999999", None),
    ],
)
def test_codes_are_read_from_text(text: str, prefix: tuple[int, ...] | None) -> None:
    assert parse_prefix(text, (4, 3, 5)) == prefix


titles = st.lists(st.text(alphabet="aAbß.*+()[]<>&$^\\İ 12", max_size=8), min_size=1, max_size=12)


@given(titles, st.text(alphabet="aAb.*+()[]<>&$^\\ 12", max_size=3), st.integers(1, 5))
def test_search_takes_every_sign_as_it_stands(names: list[str], text: str, most: int) -> None:
    traffic = [(7 * place) % 4 for place in range(len(names))]
    catalogue = CodedCatalogue("x", ItemCodes([[0]] * len(names), (1,)), names, traffic=traffic)
    found = search(catalogue, text, most)
    wanted = text.strip()
    hits = [i for i, name in enumerate(names) if wanted and wanted.lower() in name.lower()]
    assert found.total == len(hits)
    assert found.items.tolist() == sorted(hits, key=lambda item: (-traffic[item], item))[:most]


def test_search_in_a_domain_and_by_code(make_catalogue: Make) -> None:
    catalogue = make_catalogue(1)
    found = search(catalogue, "1 › 2", domain="Garden")
    assert found.prefix == (1, 2)
    assert found.prefix_items == len(below(catalogue, (1, 2), "Garden"))
    assert set(catalogue.cards(search(catalogue, "oak", 50, "Garden").items)["domain"]) == {"Garden"}
    assert str(search(catalogue, "")) == "Type a part of a title, or codes as 12 › 4."
    assert str(search(catalogue, "(.*)")) == "No title holds “(.*)”."


# --- words


def words_of(title: str) -> set[str]:
    words = set(re.findall(r"[^\W_]+(?:['’\-][^\W_]+)*", title.lower()))
    return {word for word in words if not re.fullmatch(r"[a-z]|\d+", word)}


@given(shapes, st.integers(0, 100))
@settings(max_examples=40)
def test_telling_words_follow_the_formula(
    make_catalogue: Make, shape: tuple[int, int, list[int], int], pick: int
) -> None:
    catalogue = build(make_catalogue, shape)
    chosen = np.flatnonzero(np.random.default_rng(pick).integers(0, 2, catalogue.n_items))
    words = TitleWords(catalogue.titles)
    inside = Counter(word for item in chosen for word in words_of(catalogue.titles[int(item)]))
    whole = Counter(word for title in catalogue.titles for word in words_of(title))
    assert dict(zip(words.words, words.totals.tolist(), strict=True)) == whole
    n_in, n_all = inside.total(), whole.total()
    scores = {}
    for word, count in inside.items() if 0 < n_in < n_all else ():
        alpha = 100 * whole[word] / n_all
        one, other = count + alpha, whole[word] - count + alpha
        rest_one, rest_other = n_in + 100 - one, n_all - n_in + 100 - other
        if min(rest_one, rest_other) <= 0:
            continue
        odds = math.log(one / rest_one) - math.log(other / rest_other)
        scores[word] = odds / math.sqrt(1 / one + 1 / other)
    found = words.telling(chosen, 4)
    if len(whole) > 1:
        best = sorted((score for score in scores.values() if score > 1e-9), reverse=True)[:4]
        assert [word.score for word in found if word.score > 1e-9] == pytest.approx(best)
    for word in found:
        assert word.titles == inside[word.word]
        if word.word in scores:
            assert word.score == pytest.approx(scores[word.word])


@given(shapes)
@settings(max_examples=40)
def test_labels_of_children_are_their_telling_words(
    make_catalogue: Make, shape: tuple[int, int, list[int], int]
) -> None:
    state = ExplorerState(build(make_catalogue, shape))
    order, words = state.catalogue.order, state.catalogue.words
    for prefix in some_prefixes(state.catalogue, shape[0])[: state.catalogue.levels]:
        state.select(prefix=prefix)
        labels = state.catalogue.labels(state.selection.prefix)
        parent = np.arange(*order.span(prefix))
        assert set(labels) == {int(code) for code in order.columns[len(prefix)][parent]}
        for code, found in labels.items():
            alone = len(labels) < 2
            telling = [] if alone else words.telling(np.arange(*order.span((*prefix, code))), 12, parent)
            scores = {word.word: word.score for word in telling}
            best = sorted(scores.values(), reverse=True)[:3]
            # Equal scores may come in any order, and noise about zero may stay out.
            assert [scores[word] for word in found if scores.get(word, 0) > 1e-9] == pytest.approx(
                [score for score in best if score > 1e-9]
            )


def test_function_words_are_no_words() -> None:
    words = TitleWords(pl.Series(["The lamp of oak", "a lamp and the lamp"]))
    assert dict(zip(words.words, words.totals.tolist(), strict=True)) == {"lamp": 2, "oak": 1}


def test_titles_without_words() -> None:
    words = TitleWords(pl.Series(["", "  ", "…"], dtype=pl.String))
    assert words.telling(np.array([0, 1])) == []
    assert words.labels(np.array([0, 1, 3])) == [[], []]
