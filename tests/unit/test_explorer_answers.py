"""Code pages, sharing, collisions, training, matching, beams and exposure of the explorer by brute force."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from genrec_lab.codes import CONFLICT_POLICIES, ItemCodes
from genrec_lab.evaluation import code_health
from genrec_lab.viz.explorer import (
    CodedCatalogue,
    TwoTokenizers,
    beam_tree,
    churn,
    code_page,
    code_survey,
    collisions,
    exposure,
    gini,
    inside,
    level_sharing,
    pair_similarity,
    policy_effects,
    shown_counts,
    training_frame,
)
from genrec_lab.viz.explorer.domain_sharing import common_codes, pairs_below, spearman

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


# --- code pages


@given(shapes, st.booleans(), st.booleans())
@settings(max_examples=60)
def test_a_code_page_counts_what_there_is(
    make_catalogue: Make, shape: Shape, apart: bool, under_a_prefix: bool
) -> None:
    catalogue = build(make_catalogue, shape, books=3 if apart else 1)
    rng = np.random.default_rng(shape[0])
    level = int(rng.integers(catalogue.levels))
    code = int(rng.integers(catalogue.codes.sizes[level]))
    codes = catalogue.codes.codes
    within = tuple(codes[rng.integers(catalogue.n_items), :level].tolist()) if under_a_prefix else None
    page = code_page(catalogue, level, code, within, top=3)

    everywhere = [item for item in range(catalogue.n_items) if codes[item, level] == code]
    items = [item for item in everywhere if within is None or tuple(codes[item, :level].tolist()) == within]
    assert sorted(page.items.tolist()) == items
    domains = Counter(domain_of(catalogue, item) for item in items)
    assert dict(zip(catalogue.domains, page.by_domain.tolist(), strict=True)) == {
        name: domains[name] for name in catalogue.domains
    }
    traffic = sum(int(catalogue.traffic[item]) for item in items)
    assert page.interactions == traffic
    assert page.traffic_share == pytest.approx(traffic / max(int(catalogue.traffic.sum()), 1))
    if items:
        assert page.purity == pytest.approx(max(domains.values()) / len(items))
        shares = [count / len(items) for count in domains.values()]
        assert page.entropy == pytest.approx(-sum(share * math.log2(share) for share in shares))
    even = catalogue.n_items / catalogue.codes.sizes[level]
    expected = "dead" if not everywhere else "not under this prefix" if not items else "alive"
    assert page.state == ("nearly dead" if expected == "alive" and len(everywhere) < 0.1 * even else expected)
    for place, found in ((level - 1, page.parents), (level + 1, page.children)):
        counts = Counter(codes[items, place].tolist()) if 0 <= place < catalogue.levels else Counter()
        assert found == sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:3]


@given(shapes, st.booleans())
@settings(max_examples=40)
def test_the_survey_says_of_each_code_what_its_page_says(
    make_catalogue: Make, shape: Shape, apart: bool
) -> None:
    catalogue = build(make_catalogue, shape, books=3 if apart else 1)
    rows = list(code_survey(catalogue).iter_rows(named=True))
    sizes = catalogue.codes.sizes
    places = [(level + 1, code) for level, size in enumerate(sizes) for code in range(size)]
    assert [(row["level"], row["code"]) for row in rows] == places
    for row in rows:
        page = code_page(catalogue, row["level"] - 1, row["code"])
        names = Counter(domain_of(catalogue, item) for item in page.items.tolist())
        assert (row["items"], row["domains"]) == (sum(names.values()), len(names))
        assert (row["interactions"], row["state"]) == (page.interactions, page.state)
        assert row["purity"] == (max(names.values()) / sum(names.values()) if names else None)


@given(shapes, st.integers(1, 4))
@settings(max_examples=60)
def test_cards_come_by_distance_and_name_no_item_twice(make_catalogue: Make, shape: Shape, top: int) -> None:
    catalogue = build(make_catalogue, shape)
    level = shape[0] % catalogue.levels
    assert catalogue.residuals is not None and catalogue.codewords is not None
    for code in range(catalogue.codes.sizes[level]):
        page = code_page(catalogue, level, code, top=top)
        word = catalogue.codewords[level][code]
        distance = {
            item: float(np.linalg.norm(catalogue.residuals[item, level] - word)) for item in page.items
        }
        ranked = sorted(distance, key=lambda item: (distance[item], item))
        n = len(ranked)
        assert page.nearest.tolist() == ranked[: min(top, n)]
        far = min(top, n - min(top, n))
        assert page.farthest.tolist() == ranked[n - far :][::-1]
        shown = [*page.nearest.tolist(), *page.median.tolist(), *page.farthest.tolist()]
        assert len(shown) == len(set(shown)) == min(3 * top, n)
        middle = ranked.index(int(page.median[0])) if page.median.size else None
        assert (
            page.median.tolist() == ranked[middle : middle + page.median.size] if middle is not None else True
        )
        frame = page.frame()
        assert frame["item"].to_list() == ranked
        assert frame["distance"].to_list() == pytest.approx([distance[item] for item in ranked], rel=1e-5)
        if middle is not None and n >= 5 * top:
            assert middle <= (n - 1) / 2 <= middle + page.median.size
        assert page.norms is not None
        assert page.norms[0].sum() == page.support


def test_the_nearest_codes_are_of_the_same_codebook() -> None:
    codes = ItemCodes([[0, 0], [3, 1], [2, 1]], (4, 2), ["a", "b", "b"])
    words = [np.array([[0.0], [5.0], [0.1], [4.0]]), np.array([[0.0], [2.0]])]
    catalogue = CodedCatalogue("x", codes, ["", "", ""], codewords=words, books=2)
    assert code_page(catalogue, 0, 0).nearest_codes == [(1, 5.0)]
    assert [code for code, _ in code_page(catalogue, 0, 3).nearest_codes] == [2]
    shared = CodedCatalogue("x", codes, ["", "", ""], codewords=words)
    assert [code for code, _ in code_page(shared, 0, 0, top=2).nearest_codes] == [2, 3]
    assert code_page(shared, 1, 0).nearest_codes == [(1, 2.0)]


def test_a_hand_worked_page() -> None:
    codes = ItemCodes([[0, 1], [0, 1], [0, 0], [1, 1]], (3, 2), ["a", "b", "a", "a"])
    residuals = np.zeros((4, 2, 1))
    residuals[:, 0, 0] = [1.0, 3.0, 2.0, 9.0]
    catalogue = CodedCatalogue(
        "x",
        codes,
        ["tea cup", "tea pot", "tea set", "oak chair"],
        traffic=[1, 2, 3, 4],
        residuals=residuals,
        codewords=[np.array([[0.0], [9.0], [1.0]]), np.zeros((2, 1))],
    )
    page = code_page(catalogue, 0, 0, top=1)
    assert (page.support, page.interactions, page.traffic_share) == (3, 6, 0.6)
    assert page.purity == pytest.approx(2 / 3)
    assert page.entropy == pytest.approx(0.9182958)
    assert (page.nearest.tolist(), page.median.tolist(), page.farthest.tolist()) == ([0], [2], [1])
    assert page.words[0].word == "tea"
    assert page.nearest_codes == [(2, 1.0)]
    assert page.children == [(1, 2)]
    assert code_page(catalogue, 0, 2).state == "dead"
    assert code_page(catalogue, 1, 0, (1,)).state == "not under this prefix"
    only_b = code_page(catalogue, 0, 0, domain="b")
    assert only_b.items.tolist() == [1]
    with pytest.raises(ValueError, match="code 3 at level 0"):
        code_page(catalogue, 0, 3)
    with pytest.raises(ValueError, match="within: 2 codes"):
        code_page(catalogue, 1, 0, (0, 1))


def test_nearly_dead_codes() -> None:
    codes = ItemCodes([[0]] * 99 + [[1]], (4,))
    catalogue = CodedCatalogue("x", codes, [""] * 100)
    assert code_page(catalogue, 0, 1).state == "nearly dead"  # 1 item, an even share would be 25
    assert code_page(catalogue, 0, 0).state == "alive"


def test_a_page_without_geometry(make_catalogue: Make) -> None:
    page = code_page(make_catalogue(0, geometry=False), 0, 1)
    assert page.norms is None and page.nearest.size == 0 and page.nearest_codes == []
    assert page.frame()["item"].to_list() == page.items.tolist()
    assert page.frame()["distance"].null_count() == page.support


# --- sharing


@given(shapes)
@settings(max_examples=40)
def test_lift_and_the_number_of_domains(make_catalogue: Make, shape: Shape) -> None:
    catalogue = build(make_catalogue, shape)
    for level in range(catalogue.levels):
        found = level_sharing(catalogue, level)
        users: Counter[int] = Counter()
        for code in range(catalogue.codes.sizes[level]):
            having = [i for i in range(catalogue.n_items) if catalogue.codes.codes[i, level] == code]
            users[len({domain_of(catalogue, item) for item in having})] += 1
            for place, name in enumerate(catalogue.domains):
                own = [item for item in having if domain_of(catalogue, item) == name]
                of_domain = sum(domain_of(catalogue, i) == name for i in range(catalogue.n_items))
                assert found.items[place, code] == len(own)
                if having:
                    lift = (len(own) / of_domain) / (len(having) / catalogue.n_items)
                    assert found.lift[place, code] == pytest.approx(lift)
                else:
                    assert np.isnan(found.lift[place, code])
        assert found.used_by.tolist() == [users[count] for count in range(len(catalogue.domains) + 1)]
        used = sum(count for domains, count in users.items() if domains)
        assert found.shared == sum(count for domains, count in users.items() if domains > 1) / used


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert math.isnan(spearman(one, other))
    else:
        assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_pairs_below_are_drawn_evenly(make_catalogue: Make) -> None:
    catalogue = make_catalogue(3, 12, (2, 2))
    codes = catalogue.codes.codes
    for length in (0, 1, 2):
        wanted = {
            (i, j)
            for i, j in itertools.permutations(range(12), 2)
            if (codes[i, :length] == codes[j, :length]).all()
        }
        one, other = pairs_below(catalogue.order, length, 200 * len(wanted), np.random.default_rng(0))
        counts = Counter(zip(one.tolist(), other.tolist(), strict=True))
        assert set(counts) == wanted
        assert min(counts.values()) > 120 and max(counts.values()) < 300


@given(shapes)
@settings(max_examples=30)
def test_pair_similarity_is_of_the_pairs_that_it_names(make_catalogue: Make, shape: Shape) -> None:
    catalogue = build(make_catalogue, shape)
    found = pair_similarity(catalogue, pairs=50, seed=1)
    if catalogue.n_items < 2:
        assert found is None
        return
    assert found is not None and catalogue.vectors is not None
    again = pair_similarity(catalogue, pairs=50, seed=1)
    assert again is not None and again.frame.equals(found.frame)
    codes = catalogue.codes.codes
    possible: dict[tuple[int, str], list[float]] = defaultdict(list)
    for i, j in itertools.combinations(range(catalogue.n_items), 2):
        common = 0
        while common < catalogue.levels and codes[i, common] == codes[j, common]:
            common += 1
        assert common_codes(catalogue, np.array([i]), np.array([j])).tolist() == [common]
        a, b = catalogue.vectors[i].astype(float), catalogue.vectors[j].astype(float)
        group = "same domain" if domain_of(catalogue, i) == domain_of(catalogue, j) else "two domains"
        possible[common, group].append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    for row in found.frame.iter_rows(named=True):
        values = possible[row["common"], row["group"]]
        assert min(values) - 1e-5 <= row["low"] <= row["median"] <= row["high"] <= max(values) + 1e-5


def test_pair_similarity_sees_what_is_there() -> None:
    angles = np.repeat([0.0, 0.4, 2.0, 2.4], 25)
    codes = ItemCodes(np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], 25, axis=0), (2, 2))
    vectors = np.column_stack([np.cos(angles), np.sin(angles)])
    found = pair_similarity(CodedCatalogue("x", codes, [""] * 100, vectors=vectors), pairs=400)
    assert found is not None
    assert found.rho > 0.8
    means = dict(found.frame.select("common", "mean").iter_rows())
    assert means[2] == pytest.approx(1.0)
    assert means[1] == pytest.approx(math.cos(0.4))
    assert means[0] < means[1]


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
        found = collisions(catalogue, prefix, domain)
        assert sorted(found.group(place).tolist() for place in range(found.sizes.size)) == wanted
        assert found.ambiguous == sum(map(len, wanted))
        assert found.sizes.tolist() == sorted(map(len, wanted), reverse=True)
        frame = found.frame()
        for place, row in enumerate(frame.iter_rows(named=True)):
            items = found.group(place)
            assert row["items"] == len(items)
            assert row["interactions"] == catalogue.traffic[items].sum()
            assert row["domain"] == domain_of(catalogue, int(items[0]))
            assert row["identifier"] == catalogue.cards(items[:1])["codes"][0]
    health = code_health(catalogue.codes.codes, catalogue.codes.sizes, catalogue.codes.domains)
    assert collisions(catalogue).ambiguous / catalogue.n_items == pytest.approx(health.collision_rate)


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


def test_distances_inside_a_group(make_catalogue: Make) -> None:
    catalogue = make_catalogue(5, 80, (1, 1))
    group = inside(catalogue, collisions(catalogue, domain="Garden").group(0))
    assert group.distances is not None and catalogue.vectors is not None
    values = []
    for (i, one), (j, other) in itertools.combinations(enumerate(group.shown), 2):
        a, b = catalogue.vectors[one], catalogue.vectors[other]
        values.append(1 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        assert group.distances[i, j] == pytest.approx(values[-1], abs=1e-5)
    assert group.mean_distance == pytest.approx(np.mean(values), abs=1e-5)
    assert inside(make_catalogue(5, 80, (1, 1), geometry=False), [0, 1]).distances is None


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
    b.codes = ItemCodes(b.codes.codes, b.codes.sizes, a.codes.domains)
    two = TwoTokenizers(a, b)
    assert two.levels == 2 and two.n_items == items
    one, other = a.codes.codes[:, 0], b.codes.codes[:, 0]
    match = two.level(0)
    assert match is not None
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
        size_one, size_other = (one == row["code_a"]).sum(), (other == row["code_b"]).sum()
        assert row["share_a"] == pytest.approx(row["items"] / size_one)
        assert row["jaccard"] == pytest.approx(row["items"] / (size_one + size_other - row["items"]))
    for length in (1, 2):
        kept, *_ = two.company(length)
        for item in range(items):
            mates = [
                {
                    mate
                    for mate in range(items)
                    if mate != item and (c[mate, :length] == c[item, :length]).all()
                }
                for c in (a.codes.codes, b.codes.codes)
            ]
            union = mates[0] | mates[1]
            assert kept[item] == pytest.approx(len(mates[0] & mates[1]) / len(union) if union else 1.0)
        changes = two.changes(length, top=5)
        assert changes["kept"].to_list() == sorted(kept.tolist())[:5]


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
    assert nothing.n_items == 0 and nothing.level(0) is None and nothing.changes(1).is_empty()


def test_a_tokenizer_is_like_itself_under_other_names(make_catalogue: Make) -> None:
    a = make_catalogue(4, 50, (5,), geometry=False)
    renamed = np.array([3, 0, 4, 1, 2])
    b = CodedCatalogue("b", ItemCodes(renamed[a.codes.codes], (5,), a.codes.domains), a.titles.to_list())
    match = TwoTokenizers(a, b).level(0)
    assert match is not None
    assert (match.ari, match.matched) == (1.0, 1.0)
    assert match.ami == pytest.approx(1.0)
    assert all(renamed[row["code_a"]] == row["code_b"] for row in match.pairs.iter_rows(named=True))
    assert TwoTokenizers(a, b).changes(1)["kept"].to_list() == [1.0] * 20


# --- beams


def test_where_the_target_left_the_beam() -> None:
    tree = beam_tree(
        [[(1,), (2,)], [(1, 0), (1, 3)], [(1, 3, 3), (1, 0, 9)]],
        [[-0.5, -1.0], [-0.9, -1.5], [-2.0, -1.0]],
        (2, 4, 4),
        [-1.0, -2.25, -3.0],
    )
    assert (tree.left_at, tree.missed_by, tree.rank) == (2, 0.75, None)
    assert tree.told() == "The target leaves the beam at level 2 of 3: 0.75 below the last of 2 kept"
    rows = {row["prefix"]: row for row in tree.nodes.iter_rows(named=True)}
    assert rows["1 0 9"]["rank"] == 1
    assert rows["1 0 9"]["parent"] == "1 0"
    assert rows["1 0 9"]["step"] == pytest.approx(-0.1)
    assert (rows["2"]["on_target"], rows["2"]["survives"], rows["1"]["survives"]) == (True, False, True)
    stayed = beam_tree([[(1,)], [(1, 0)]], [[-0.5], [-0.9]], (1, 0))
    assert (stayed.left_at, stayed.missed_by, stayed.rank) == (None, None, 1)
    assert stayed.told() == "The target stays in the beam and ends at place 1"
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
