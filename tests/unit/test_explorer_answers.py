"""Codes, sharing, collisions, training, matching, beams and exposure of the explorer by brute force."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from genrec_lab.codes import CONFLICT_POLICIES, ItemCodes, churn
from genrec_lab.evaluation import code_health
from genrec_lab.viz.explorer import (
    CodedCatalogue,
    ExplorerState,
    TwoTokenizers,
    answers,
    beam_tree,
    code_survey,
    collisions,
    policy_effects,
)
from genrec_lab.viz.explorer import state as explorer_state
from genrec_lab.viz.explorer.beams import beam_title
from genrec_lab.viz.explorer.recommendations import exposure, gini, shown_counts
from genrec_lab.viz.explorer.sharing import level_sharing
from genrec_lab.viz.figures.training import training_frame

Make = Callable[..., CodedCatalogue]
Shape = tuple[int, int, list[int], int]
shapes = st.tuples(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 3),
)


def build(make: Make, shape: Shape, **options: object) -> CodedCatalogue:
    seed, items, sizes, domains = shape
    return make(seed, items, sizes, ("Garden", "Kitchen", "Studio")[:domains], **options)


def domain_of(catalogue: CodedCatalogue, item: int) -> str:
    return catalogue.domains[catalogue.codes.domain_index[item]]


# --- codes


@given(shapes, st.booleans())
@settings(max_examples=40)
def test_the_survey_counts_each_code(make_catalogue: Make, shape: Shape, apart: bool) -> None:
    catalogue = build(make_catalogue, shape, books=3 if apart else 1)
    rows = list(code_survey(catalogue).iter_rows(named=True))
    sizes = catalogue.codes.sizes
    places = [(level + 1, code) for level, size in enumerate(sizes) for code in range(size)]
    assert [(row["level"], row["code"]) for row in rows] == places
    for row in rows:
        items = np.flatnonzero(catalogue.codes.codes[:, row["level"] - 1] == row["code"])
        names = Counter(domain_of(catalogue, item) for item in items.tolist())
        assert (row["items"], row["domains"]) == (sum(names.values()), len(names))
        assert row["interactions"] == catalogue.traffic[items].sum()
        rare = items.size < 0.1 * catalogue.n_items / sizes[row["level"] - 1]
        assert row["state"] == ("dead" if not items.size else "nearly dead" if rare else "alive")
        assert row["purity"] == (max(names.values()) / sum(names.values()) if names else None)


def test_the_nearest_codes_are_of_the_same_codebook() -> None:
    codes = ItemCodes([[0, 0], [3, 1], [2, 1]], (4, 2), ["a", "b", "b"])
    words = [np.array([[0.0], [5.0], [0.1], [4.0]]), np.array([[0.0], [2.0]])]
    catalogue = CodedCatalogue("x", codes, ["", "", ""], codewords=words, books=2)
    assert catalogue.nearest_codes(0, 0) == [(1, 5.0)]
    assert [code for code, _ in catalogue.nearest_codes(0, 3)] == [2]
    shared = CodedCatalogue("x", codes, ["", "", ""], codewords=words)
    assert [code for code, _ in shared.nearest_codes(0, 0)] == [2, 3, 1]
    assert shared.nearest_codes(1, 0) == [(1, 2.0)]


def test_nearly_dead_codes() -> None:
    codes = ItemCodes([[0]] * 99 + [[1]], (4,))
    states = code_survey(CodedCatalogue("x", codes, [""] * 100))["state"].to_list()
    assert states == ["alive", "nearly dead", "dead", "dead"]  # 1 item, an even share would be 25


# --- sharing


@given(shapes, st.data())
@settings(max_examples=60, deadline=None)
def test_similarity_of_a_selection_by_all_its_pairs(
    make_catalogue: Make, shape: Shape, data: st.DataObject
) -> None:
    state = ExplorerState(build(make_catalogue, shape))
    catalogue, codes = state.catalogue, state.catalogue.codes.codes
    own = codes[data.draw(st.integers(0, catalogue.n_items - 1))].tolist()
    depth, kind = data.draw(st.integers(0, catalogue.levels)), data.draw(st.integers(0, 2))
    level = min(depth, catalogue.levels - 1)
    anywhere = (level, own[level])
    lasso = tuple(range(0, catalogue.n_items, 2))
    state.select(
        **({"prefix": own[:depth]}, {"everywhere": anywhere}, {"prefix": own[:depth], "lasso": lasso})[kind]
    )
    state.select(domain=data.draw(st.sampled_from([None, *catalogue.domains])))
    items = state.items().tolist()
    assert sorted(state.compared().tolist()) == sorted(items)
    unit = catalogue.vectors / np.linalg.norm(catalogue.vectors, axis=1, keepdims=True)
    pairs = list(itertools.combinations(items, 2))

    def mean(chosen: list[tuple[int, int]]) -> float:
        return pytest.approx(np.mean([unit[a] @ unit[b] for a, b in chosen]), abs=1e-5)

    for length, found in enumerate(state.alike(*range(catalogue.levels + 1))):
        alike = [(a, b) for a, b in pairs if (codes[a, :length] == codes[b, :length]).all()]
        of_one = [(a, b) for a, b in alike if domain_of(catalogue, a) == domain_of(catalogue, b)]
        of_two = sorted(set(alike) - set(of_one))
        assert (found.same_pairs, found.across_pairs) == (len(of_one), len(of_two))
        for value, chosen in ((found.same, of_one), (found.across, of_two), (found.mean, alike)):
            assert value == mean(chosen) if chosen else np.isnan(value)
    for place in range(catalogue.levels):
        for code, value in enumerate(state.alike_by_code(place)):
            chosen = [(a, b) for a, b in pairs if codes[a, place] == codes[b, place] == code]
            assert value == mean(chosen) if chosen else np.isnan(value)


def test_a_large_lasso_is_compared_by_a_sample_that_is_stated(
    make_catalogue: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer_state, "_MOST_COMPARED", 40)
    state = ExplorerState(make_catalogue(0, 200, (4, 3)))
    assert state.compared().size == 200 and "random" not in state.view("Sharing").tables[0].note
    state.select(lasso=tuple(range(100)))
    compared = state.compared().tolist()
    assert len(set(compared)) == 40 and set(compared) <= set(range(100))
    first, second = state.view("Sharing").tables
    assert "items of the code of 40 items drawn at random" in first.note
    assert "pairs of 40 items drawn at random" in second.title
    assert second.frame["pairs"][:2].sum() < 40 * 39 / 2
    assert "pairs of 40 items drawn at random" in answers.page(state)["coherence"]["said"]
    (whole,) = state.alike(0)
    assert whole.same_pairs + whole.across_pairs == 40 * 39 / 2


@given(shapes)
@settings(max_examples=40)
def test_lift(make_catalogue: Make, shape: Shape) -> None:
    catalogue = build(make_catalogue, shape)
    for level in range(catalogue.levels):
        found = level_sharing(catalogue, level)
        for code in range(catalogue.codes.sizes[level]):
            having = [i for i in range(catalogue.n_items) if catalogue.codes.codes[i, level] == code]
            for place, name in enumerate(catalogue.domains):
                own = [item for item in having if domain_of(catalogue, item) == name]
                of_domain = sum(domain_of(catalogue, i) == name for i in range(catalogue.n_items))
                assert found.items[place, code] == len(own)
                if having:
                    lift = (len(own) / of_domain) / (len(having) / catalogue.n_items)
                    assert found.lift[place, code] == pytest.approx(lift)
                else:
                    assert np.isnan(found.lift[place, code])


# --- collisions


@given(shapes, st.booleans())
@settings(max_examples=60)
def test_collisions_are_the_identifiers_of_several_items(
    make_catalogue: Make, shape: Shape, apart: bool
) -> None:
    catalogue = build(make_catalogue, shape, books=3 if apart else 1)
    first = (int(catalogue.codes.codes[0, 0]),)
    for prefix, domain in (((), None), (first, None), ((), catalogue.domains[0])):
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for item in range(catalogue.n_items):
            row = tuple(catalogue.codes.codes[item].tolist())
            name = domain_of(catalogue, item)
            if row[: len(prefix)] == prefix and domain in (None, name):
                groups[(row, name)].append(item)
        wanted = sorted(items for items in groups.values() if len(items) > 1)
        found = collisions(catalogue, catalogue.order.members(prefix, catalogue.domain_number(domain)))
        assert sorted(found.group(place).tolist() for place in range(found.sizes.size)) == wanted
        assert found.items.size == sum(map(len, wanted))
        assert found.sizes.tolist() == sorted(map(len, wanted), reverse=True)
        frame = found.frame()
        for place, row in enumerate(frame.iter_rows(named=True)):
            items = found.group(place)
            assert row["items"] == len(items)
            assert row["interactions"] == catalogue.traffic[items].sum()
            assert row["domain"] == domain_of(catalogue, int(items[0]))
            assert row["identifier"] == catalogue.cards(items[:1])["codes"][0]
    health = code_health(catalogue.codes.codes, catalogue.codes.sizes, catalogue.codes.domains)
    assert collisions(catalogue).items.size / catalogue.n_items == pytest.approx(health.collision_rate)


def test_what_policies_do_to_a_group_is_what_they_do_to_the_catalogue(make_catalogue: Make) -> None:
    catalogue = make_catalogue(5, 60, (4, 3, 12))
    found = collisions(catalogue)
    assert found.sizes.size > 3
    assert catalogue.codewords is not None
    for policy in CONFLICT_POLICIES:
        done = catalogue.codes.resolve_with_cost(policy, catalogue.residuals, catalogue.codewords, 5)
        for place in range(found.sizes.size):
            effects = policy_effects(catalogue, found.group(place)).filter(policy=policy)
            for row in effects.iter_rows(named=True):
                now = done.codes.codes[row["item"]].tolist()
                assert row["after"] == " › ".join(map(str, now))
                assert row["moved"] == (now[:3] != catalogue.codes.codes[row["item"]].tolist())


def test_policies_over_codebooks_of_each_domain(make_catalogue: Make) -> None:
    catalogue = make_catalogue(5, 60, (4, 3, 12), books=3)
    found = collisions(catalogue)
    own = {
        name: np.split(catalogue.codewords[-1], 3)[place]  # type: ignore[index]
        for place, name in enumerate(catalogue.domains)
    }
    local = ItemCodes(catalogue.codes.codes % [4, 3, 12], (4, 3, 12), catalogue.codes.domains)
    done = local.resolve_with_cost("nearest_free", catalogue.residuals, own, 5)
    for place in range(found.sizes.size):
        effects = policy_effects(catalogue, found.group(place)).filter(policy="nearest_free")
        for row in effects.iter_rows(named=True):
            block = catalogue.codes.domain_index[row["item"]] * np.array([4, 3, 12])
            assert row["after"] == " › ".join(map(str, (done.codes.codes[row["item"]] + block).tolist()))


def test_policies_without_distances_say_so(make_catalogue: Make) -> None:
    catalogue = make_catalogue(5, 60, (2, 3), geometry=False)
    group = collisions(catalogue).group(0)
    effects = policy_effects(catalogue, group)
    unknown = effects.filter(effects["after"].is_null())
    assert set(unknown["policy"]) == {"nearest_free", "sinkhorn", "optimal"}
    assert "needs residuals (N, d) and codebooks (K, d)" in unknown["note"][0]
    with pytest.raises(ValueError, match="several identifiers or domains"):
        policy_effects(catalogue, np.arange(20))
    with pytest.raises(ValueError, match="group 999"):
        collisions(catalogue).group(999)


# --- training


def test_churn_by_hand() -> None:
    before = [[0, 0, 0], [0, 0, 0], [1, 2, 3], [1, 2, 3]]
    after = [[0, 0, 0], [1, 0, 0], [1, 0, 3], [1, 2, 0]]
    found = churn(before, after)
    assert found.by_level.tolist() == [0.25, 0.25, 0.25]
    assert found.by_prefix.tolist() == [0.25, 0.5, 0.75]
    assert found.identifiers == 0.75
    with pytest.raises(ValueError, match=r"\(4, 3\) before and \(4, 2\) after"):
        churn(before, np.zeros((4, 2)))


def test_epochs_as_a_table_with_what_they_have() -> None:
    records = [
        {
            "epoch": 1,
            "utilisation": [0.5, 0.25],
            "perplexity": [3.0, 2.0],
            "collision_rate": 0.5,
            "loss": 2.0,
        },
        {"epoch": 3, "utilisation": [1.0, 0.75], "churn": [0.1, 0.2]},
        {"epoch": 5, "utilisation": [1.0, 0.75]},
    ]
    frame = training_frame({"all": records}, (8, 4))
    assert frame["dead"].to_list() == [4, 3, 0, 1, 0, 1]
    assert frame.row(3, named=True) == {
        "scope": "all",
        "epoch": 3,
        "level": 2,
        "utilisation": 0.75,
        "perplexity": None,
        "dead": 1,
        "churn": 0.2,
        "gini": None,
        "collision_rate": None,
        "loss": None,
    }
    assert training_frame({"a": [{"epoch": 1}]}, (8,))["utilisation"].to_list() == [None]


# --- two tokenizers


@given(st.integers(0, 5000), st.integers(1, 40), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60)
def test_matching_of_levels(make_catalogue: Make, seed: int, items: int, size_a: int, size_b: int) -> None:
    a = make_catalogue(seed, items, (size_a, 3), geometry=False, name="a")
    b = make_catalogue(seed + 1, items, (size_b, 2, 2), ("Garden",), geometry=False, name="b")
    codes = ItemCodes(b.codes.codes, b.codes.sizes, a.codes.domains)
    b = CodedCatalogue("b", codes, b.titles)
    two = TwoTokenizers(a, b)
    assert two.levels == 2 and two.n_items == items
    one, other = a.codes.codes[:, 0], b.codes.codes[:, 0]
    match = two.level(0)
    assert match.ari == pytest.approx(adjusted_rand_score(one, other))
    assert match.ami == pytest.approx(adjusted_mutual_info_score(one, other), abs=1e-9)
    table = Counter(zip(one.tolist(), other.tolist(), strict=True))
    wide = max(size_a, size_b)
    best = max(
        sum(table[(code, way[code])] for code in range(size_a)) for way in itertools.permutations(range(wide))
    )
    assert match.pairs["items"].sum() == best
    assert match.matched == pytest.approx(best / items)
    for row in match.pairs.iter_rows(named=True):
        assert row["items"] == table[row["code_a"], row["code_b"]] > 0
    for length in (1, 2):
        pairs_a, pairs_b = (
            {
                (i, j)
                for i, j in itertools.permutations(range(items), 2)
                if (c[i, :length] == c[j, :length]).all()
            }
            for c in (a.codes.codes, b.codes.codes)
        )
        found = two.company(length)
        assert found.items == len({i for i, _ in pairs_a | pairs_b})
        if found.items:
            assert found.kept == pytest.approx(len(pairs_a & pairs_b) / len(pairs_a | pairs_b))


def test_only_what_both_have_is_compared(make_catalogue: Make) -> None:
    a = make_catalogue(1, 6, (4, 3), ("Garden",), name="first")
    b = make_catalogue(2, 5, (4, 2, 2), ("Garden",), name="second")
    a.keys, b.keys = ["p", "q", "r", "s", "t", "t"], ["s", "q", "x", "p", "t"]
    two = TwoTokenizers(a, b)
    assert two.items_a.tolist() == [0, 1, 3]
    assert two.items_b.tolist() == [3, 1, 0]
    assert two.left_out == [
        "3 of 6 items of first have no counterpart",
        "2 of 5 items of second have no counterpart",
        "level 3 of second: first has only 2 levels",
        "codes per level: 4, 3 in first, 4, 2 in second",
    ]
    with pytest.raises(ValueError, match=r"level: 2, expected 0..1"):
        two.level(2)
    b.keys = list("vwxyz")
    nothing = TwoTokenizers(a, b)
    assert nothing.n_items == 0
    with pytest.raises(ValueError, match="no item in common"):
        nothing.level(0)


def test_a_tokenizer_is_like_itself_under_other_names(make_catalogue: Make) -> None:
    a = make_catalogue(4, 50, (5,), geometry=False)
    renamed = np.array([3, 0, 4, 1, 2])
    b = CodedCatalogue("b", ItemCodes(renamed[a.codes.codes], (5,), a.codes.domains), a.titles.to_list())
    match = TwoTokenizers(a, b).level(0)
    assert (match.ari, match.matched) == (1.0, 1.0)
    assert match.ami == pytest.approx(1.0)
    assert all(renamed[row["code_a"]] == row["code_b"] for row in match.pairs.iter_rows(named=True))


# --- beams


def test_where_the_target_left_the_beam() -> None:
    tree = beam_tree(
        [[(1,), (2,)], [(1, 0), (1, 3)], [(1, 3, 3), (1, 0, 9)]],
        [[-0.5, -1.0], [-0.9, -1.5], [-2.0, -1.0]],
        (2, 4, 4),
        [-1.0, -2.25, -3.0],
    )
    assert (tree.left_at, tree.missed_by, tree.rank) == (2, 0.75, None)
    assert beam_title(tree) == "The target leaves the beam at level 2 of 3: 0.75 below the last of 2 kept"
    rows = {row["prefix"]: row for row in tree.nodes.iter_rows(named=True)}
    assert rows["1 0 9"]["rank"] == 1
    assert rows["1 0 9"]["parent"] == "1 0"
    assert rows["1 0 9"]["step"] == pytest.approx(-0.1)
    assert (rows["2"]["on_target"], rows["2"]["survives"], rows["1"]["survives"]) == (True, False, True)
    stayed = beam_tree([[(1,)], [(1, 0)]], [[-0.5], [-0.9]], (1, 0))
    assert (stayed.left_at, stayed.missed_by, stayed.rank) == (None, None, 1)
    assert beam_title(stayed) == "The target stays in the beam and ends at place 1"
    with pytest.raises(ValueError, match="go on from a prefix kept before"):
        beam_tree([[(1,)], [(2, 0)]], [[-1.0], [-2.0]], (1, 0))
    with pytest.raises(ValueError, match="a target of 1 codes"):
        beam_tree([[(1,)], [(1, 0)]], [[-1.0], [-2.0]], (1,))


# --- exposure


@given(shapes, st.integers(0, 100))
@settings(max_examples=60)
def test_exposure_counts_recommendations(make_catalogue: Make, shape: Shape, pick: int) -> None:
    catalogue = build(make_catalogue, shape)
    rng = np.random.default_rng(pick)
    lists = rng.integers(-1, catalogue.n_items, (rng.integers(0, 20), 4))
    counts = Counter(item for item in lists.reshape(-1).tolist() if item >= 0)
    shown = shown_counts(lists, catalogue.n_items)
    assert shown.tolist() == [counts[item] for item in range(catalogue.n_items)]
    prefix = tuple(catalogue.codes.codes[0, : pick % catalogue.levels].tolist())
    items = [
        item
        for item in range(catalogue.n_items)
        if tuple(catalogue.codes.codes[item, : len(prefix)].tolist()) == prefix
    ]
    found = exposure(catalogue, shown, np.array(items), len(prefix))
    total = sum(counts[item] for item in items)
    assert found.recommendations == total
    assert found.coverage == pytest.approx(sum(counts[item] > 0 for item in items) / len(items))
    by_code = defaultdict(list)
    for item in items:
        by_code[int(catalogue.codes.codes[item, len(prefix)])].append(item)
    assert found.by_code["code"].to_list() == sorted(by_code)
    for row in found.by_code.iter_rows(named=True):
        mine = by_code[row["code"]]
        share = sum(counts[item] for item in mine) / total if total else 0.0
        assert row["catalogue_share"] == pytest.approx(len(mine) / len(items))
        assert row["recommendation_share"] == pytest.approx(share)
        assert row["ratio"] == pytest.approx(share / (len(mine) / len(items)))
    values = [counts[item] for item in items]
    differences = sum(abs(x - y) for x in values for y in values)
    even = differences / (2 * len(values) ** 2 * np.mean(values)) if total else 0.0
    assert found.gini == pytest.approx(even)
    popular = sorted(items, key=lambda item: (-int(catalogue.traffic[item]), item))
    sizes = found.groups["items"].to_list()
    assert sum(sizes) == len(items)
    head = popular[: sizes[0] + sizes[1]]
    share = sum(counts[item] for item in head) / total if total else 0.0
    assert found.groups["recommendation_share"][:2].sum() == pytest.approx(share)


def test_gini_by_hand() -> None:
    assert gini([1, 1, 1]) == gini([0, 0]) == gini([]) == 0.0
    assert gini([0, 0, 0, 4]) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="item 9"):
        shown_counts([[9]], 3)
