"""The explorer's analyses against twins by brute force: loops over pairs, over permutations, over users."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

from genrec_lab.codes import CONFLICT_POLICIES, ItemCodes, code_health
from genrec_lab.models.tokenizers import RQVAE
from genrec_lab.presets.config import MethodConfig
from genrec_lab.viz.explorer import CodedCatalogue, collisions, policy_effects
from genrec_lab.viz.explorer.collisions import (
    causes_by_size,
    collision_causes,
    differences,
    policy_summary,
)
from genrec_lab.viz.explorer.compare import (
    TwoTokenizers,
    adjusted_mutual,
    fates,
    flows,
)
from genrec_lab.viz.explorer.recommendations import confusions, lost_levels, outcomes
from genrec_lab.viz.explorer.remedies import REMEDIES, diagnose, effects, remedy_table
from genrec_lab.viz.explorer.sharing import (
    group_similarity,
    level_sharing,
    pair_sums,
    similarity_by_level,
    unit_vectors,
)
from genrec_lab.viz.explorer.words import TitleWords, telling_terms

Make = Callable[..., CodedCatalogue]
seeds = st.integers(0, 10_000)


def two_codings(seed: int, items: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, a, b = int(rng.integers(1, items)), int(rng.integers(1, 7)), int(rng.integers(1, 7))
    one = rng.integers(0, a, n)
    return one, np.where(rng.random(n) < rng.random(), one, rng.integers(0, b, n))


# --- similarity


def cosine_of(vectors: np.ndarray, i: int, j: int) -> float:
    norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
    return float(vectors[i] @ vectors[j] / norms) if norms > 0 else 0.0


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_pair_means_are_means_over_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 25))
    vectors, groups, domains = rng.normal(size=(n, 3)), rng.integers(0, 3, n), rng.integers(0, 2, n)
    vectors[rng.random(n) < 0.1] = 0
    pairs = [(i, j) for i, j in itertools.combinations(range(n), 2) if groups[i] == groups[j]]
    found = pair_sums(unit_vectors(vectors), groups, domains).means()
    for kind, count, mean in (
        (True, found.same_pairs, found.same),
        (False, found.across_pairs, found.across),
    ):
        alike = [cosine_of(vectors, i, j) for i, j in pairs if (domains[i] == domains[j]) == kind]
        assert count == len(alike)
        assert math.isnan(mean) if not alike else mean == pytest.approx(np.mean(alike), abs=1e-5)
    for code, mean in enumerate(group_similarity(unit_vectors(vectors), np.arange(n), groups, 4)):
        alike = [cosine_of(vectors, i, j) for i, j in pairs if groups[i] == code]
        assert math.isnan(mean) if not alike else mean == pytest.approx(np.mean(alike), abs=1e-5)


def test_similarity_inside_shared_codes_is_beside_chance_of_the_same_kind_of_pairs() -> None:
    rng = np.random.default_rng(0)
    themes = rng.integers(0, 5, 300)
    vectors = np.eye(5)[themes] + 0.1 * rng.normal(size=(300, 5))
    domains = rng.integers(0, 2, 300)
    unit = unit_vectors(vectors)
    whole = pair_sums(unit, np.zeros(300, dtype=int), domains).means()
    levels = [pair_sums(unit, groups, domains).means() for groups in (themes, rng.permutation(themes))]
    frame = similarity_by_level(whole, levels)
    meaningful, by_lot = (frame.filter(level=level, group="two domains")["gain"].item() for level in (1, 2))
    assert meaningful > 0.7 and abs(by_lot) < 0.05
    nobody = np.zeros(300, dtype=int)
    alone = [pair_sums(unit, groups, nobody).means() for groups in (nobody, themes)]
    assert similarity_by_level(alone[0], alone[1:])["group"].to_list() == ["one domain"]


# --- flows


@given(seeds)
@settings(max_examples=80, deadline=None)
def test_adjusted_mutual_information_is_that_of_scikit_learn(seed: int) -> None:
    one, other = two_codings(seed, 80)
    assert adjusted_mutual(one, other) == pytest.approx(adjusted_mutual_info_score(one, other), abs=1e-8)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_flows_and_fates_by_counting(seed: int) -> None:
    one, other = two_codings(seed)
    pairs = Counter(zip(one.tolist(), other.tolist(), strict=True))
    sizes_a, sizes_b = Counter(one.tolist()), Counter(other.tolist())
    found = {(row["code_a"], row["code_b"]): row for row in flows(one, other).iter_rows(named=True)}
    assert {pair: row["items"] for pair, row in found.items()} == pairs
    for (a, b), row in found.items():
        assert row["share_a"] == pytest.approx(pairs[a, b] / sizes_a[a])
        assert row["share_b"] == pytest.approx(pairs[a, b] / sizes_b[b])
        assert row["lift"] == pytest.approx(pairs[a, b] * len(one) / (sizes_a[a] * sizes_b[b]))
    for row in fates(flows(one, other)).iter_rows(named=True):
        a = row["code_a"]
        to = {b: count for (code, b), count in pairs.items() if code == a}
        own = [b for b in to if 2 * to[b] >= sizes_b[b]]
        if any(2 * to[b] >= sizes_a[a] for b in own):
            expected = "kept"
        elif 2 * max(to.values()) >= sizes_a[a]:
            expected = "merged"
        else:
            expected = "split" if 2 * sum(to[b] for b in own) >= sizes_a[a] else "moved"
        assert (row["fate"], row["items"], row["pieces"]) == (expected, sizes_a[a], len(own))
        assert to[row["code_b"]] == max(to.values()) == round(row["share"] * sizes_a[a])


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_company_by_chance_is_the_mean_over_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 3, 5), rng.integers(0, 3, 5)

    def companions(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        groups = [[{j for j in range(5) if j != i and g[j] == g[i]} for i in range(5)] for g in (a, b)]
        return np.array([[len(x), len(y), len(x & y)] for x, y in zip(*groups, strict=True)]).T

    with_a, with_b, both = companions(one, other)
    a, b = (CodedCatalogue("", ItemCodes(codes[:, None], (3,)), list("vwxyz")) for codes in (one, other))
    found = TwoTokenizers(a, b).company(1)
    alone = int(((with_a + with_b) == 0).sum())
    assert found.items == 5 - alone
    if alone == 5:
        assert math.isnan(found.kept)
        return
    total = int(with_a.sum() + with_b.sum())
    assert found.kept == pytest.approx(both.sum() / (total - both.sum()))
    shuffled = [companions(one, np.array(order))[2].sum() for order in itertools.permutations(other.tolist())]
    expected = float(np.mean(shuffled))
    assert found.chance == pytest.approx(expected / (total - expected))


def test_items_that_are_alone_in_both_kept_no_company() -> None:
    a = CodedCatalogue("a", ItemCodes([[0], [0], [2], [3], [4]], (5,)), list("vwxyz"))
    b = CodedCatalogue("b", ItemCodes([[0], [1], [2], [3], [4]], (5,)), list("vwxyz"))
    found = TwoTokenizers(a, b).company(1)
    assert (found.items, found.kept) == (2, 0.0)


# --- errors


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_losses_and_confusions_user_by_user(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, users, k, levels = (int(rng.integers(1, top)) for top in (12, 15, 5, 4))
    codes = ItemCodes(rng.integers(0, 3, (n, levels)), (3,) * levels, rng.choice(["a", "b"], n).tolist())
    lists = np.stack([np.resize(rng.permutation(n), k) for _ in range(users)])
    lists[rng.random(lists.shape) < 0.2] = -1
    targets = rng.integers(0, n, users)
    identifiers = [tuple(row) for row in codes.codes.tolist()]
    found = outcomes(codes, lists, targets)
    for row, shown, target in zip(found.iter_rows(named=True), lists.tolist(), targets.tolist(), strict=True):
        items = [item for item in shown if item >= 0]
        lost = next(
            (
                level + 1
                for level in range(levels)
                if not any(
                    identifiers[item][: level + 1] == identifiers[target][: level + 1] for item in items
                )
            ),
            None,
        )
        assert row["lost"] == lost
        assert row["rank"] == (shown.index(target) + 1 if target in shown else None)
        assert row["hit"] == (target in items)
        assert (
            row["twins"]
            == sum(
                identifiers[item] == identifiers[target] and codes.domains[item] == codes.domains[target]
                for item in range(n)
            )
            - 1
        )
    reached = users
    for row in lost_levels(found, levels).iter_rows(named=True):
        assert row["reached"] == reached
        assert row["lost"] == found.filter(lost=row["level"]).height
        reached -= row["lost"]
    level = int(rng.integers(levels))
    pairs = Counter(
        (identifiers[target][level], identifiers[shown[0]][level])
        for shown, target in zip(lists.tolist(), targets.tolist(), strict=True)
        if shown[0] >= 0 and identifiers[shown[0]][:level] == identifiers[target][:level]
    )
    table = confusions(codes, lists, targets, level)
    assert {(row[0], row[1]): row[2] for row in table.iter_rows()} == pairs
    for row in table.iter_rows(named=True):
        of_target = sum(count for (target, _), count in pairs.items() if target == row["target"])
        of_predicted = sum(count for (_, code), count in pairs.items() if code == row["predicted"])
        assert row["share"] == pytest.approx(row["users"] / of_target)
        assert row["expected"] == pytest.approx(of_target * of_predicted / sum(pairs.values()))


# --- collisions


def colliding(titles: list[str], codes: list[list[int]], vectors: np.ndarray | None = None) -> CodedCatalogue:
    return CodedCatalogue("x", ItemCodes(codes, (4, 9)), titles, vectors=vectors)


def test_each_collision_has_its_cause() -> None:
    rng = np.random.default_rng(0)
    titles = ["Oak  lamp", "oak lamp", "Red brush", "Blue brush", "Hammer", "Nail polish", "x", "y"]
    codes = [[0, 0], [0, 0], [0, 1], [0, 1], [1, 2], [1, 2], [2, 0], [3, 0]]
    away = rng.normal(size=(2000, 8))
    vectors = np.concatenate([np.eye(8), away])
    vectors[3] = vectors[2] + 0.05
    found = collisions(
        colliding(titles + ["other"] * 2000, codes + [[3, 1 + place % 8] for place in range(2000)], vectors)
    )
    causes = collision_causes(found, unit_vectors(vectors), rng)
    by_first = {
        tuple(found.group(row["group"]).tolist()[:2]): row["cause"] for row in causes.iter_rows(named=True)
    }
    assert by_first[(0, 1)] == "equal texts"
    assert by_first[(2, 3)] == "near texts"
    assert by_first[(4, 5)] == "too few codes"
    assert causes["items"].to_list() == found.sizes.tolist()
    without = collision_causes(collisions(colliding(titles, codes)), None, rng)
    assert without["cause"].to_list() == ["equal texts", "too few codes", "too few codes"]
    assert without["under_prefix"].to_list() == [4, 4, 2]
    counted = causes_by_size(without)
    assert counted.filter(cause="too few codes").row(0) == (2, "too few codes", 2, 4)


@given(
    st.lists(
        st.lists(st.sampled_from(["Oak", "oak", "lamp", "red", "2"]), max_size=6), min_size=1, max_size=5
    )
)
@settings(max_examples=120, deadline=None)
def test_without_the_marked_words_all_titles_read_the_same(titles: list[list[str]]) -> None:
    marked = differences([" ".join(words) for words in titles])
    assert [[word for word, _ in title] for title in marked] == titles
    left = [[word.lower() for word, differs in title if not differs] for title in marked]
    assert all(one == left[0] for one in left)
    if len({tuple(word.lower() for word in words) for words in titles}) == 1:
        assert not any(differs for title in marked for _, differs in title)


def test_a_policy_is_summed_up_as_its_effects_say(make_catalogue: Make) -> None:
    catalogue = make_catalogue(2, 60, (2, 2, 6))
    table = policy_effects(catalogue, collisions(catalogue).group(0))
    summary = policy_summary(table)
    assert summary["policy"].to_list() == list(CONFLICT_POLICIES)
    for row in summary.iter_rows(named=True):
        of_policy = table.filter(policy=row["policy"]).to_dicts()
        moved = [one["moved"] for one in of_policy]
        assert row["moved"] == (None if None in moved else sum(moved))
        assert row["cost"] == of_policy[0]["policy_cost"]
        if row["moved"] is not None:
            assert row["others"] == of_policy[0]["policy_moved"] - row["moved"] >= 0
            assert row["lengthens"] == (of_policy[0]["after"].count("›") > of_policy[0]["before"].count("›"))


# --- words


def test_pairs_of_words_are_counted_by_titles() -> None:
    titles = ["Brush set for kids", "brush set brush set", "a set of brush", "Set 12 brush", "x brush set"]
    words, pairs = TitleWords(pl.Series(titles)), TitleWords(pl.Series(titles), length=2)
    assert words.words == ["brush", "kids", "set"]
    # A function word, a number and a lone letter part a pair.
    assert dict(zip(pairs.words, pairs.totals.tolist(), strict=True)) == {"brush set": 3}


def test_a_pair_stands_for_its_words_and_no_term_comes_twice() -> None:
    titles = ["gift card"] * 4 + ["card game", "gift bag"] + ["table lamp"] * 20
    words, pairs = TitleWords(pl.Series(titles)), TitleWords(pl.Series(titles), length=2)
    found = telling_terms(words, pairs, np.arange(4), 5)
    assert [term.word for term in found] == ["gift card"] and found[0].titles == 4


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_codes_stand_by_the_domain_that_they_lean_to(make_catalogue: Make, seed: int) -> None:
    sharing = level_sharing(make_catalogue(seed, 50, (6, 3)), 0)
    used = [code for code in range(6) if sharing.items[:, code].sum()]
    lifts = {code: [0 if x != x else x for x in sharing.lift[:, code].tolist()] for code in used}
    expected = sorted(used, key=lambda code: (lifts[code].index(max(lifts[code])), -max(lifts[code]), code))
    assert sharing.order().tolist() == expected


# --- remedies


def test_each_fault_is_named_with_its_number_and_a_sound_codebook_has_none() -> None:
    even = np.stack(np.unravel_index(np.arange(64), (8, 8)), axis=1)
    assert diagnose(code_health(even, (8, 8)), (8, 8)) == []
    uneven = np.zeros((100, 2), dtype=int)
    uneven[:, 1] = np.arange(100) % 8
    uneven[:9, 0] = np.arange(9) % 4
    found = diagnose(code_health(uneven, (8, 8)), (8, 8))
    assert {(one.problem, one.level) for one in found} == {
        ("dead codes", 1), ("collapse", 1), ("collisions", None), ("unbalanced levels", 1),
    }  # fmt: skip
    assert "4 of 8 codes have no item" in [one.said for one in found]


def test_remedies_name_settings_that_there_are_and_what_they_did() -> None:
    fields = set(RQVAE.Config.model_fields) | {"kind"}
    for remedy in itertools.chain.from_iterable(REMEDIES.values()):
        section, _, name = remedy.setting.partition(".")
        assert section in MethodConfig.model_fields
        if section == "tokenizer":
            assert name in fields
            if name != "kind":
                for value in remedy.values:
                    RQVAE.Config(**{name: value})
    settings = {"tokenizer.levels": 3, "tokenizer.kmeans_init": True}
    runs = {
        "a": (settings, {"collisions": 0.2, "NDCG@10": 0.05}),
        "b": (settings | {"tokenizer.levels": 4}, {"collisions": 0.1}),
        "c": (settings | {"tokenizer.levels": 4, "seed": 1}, {"collisions": 0.3}),
    }
    tried = effects(runs)
    assert tried.select("setting", "run_before", "run_after", "measure", "change").rows() == [
        ("tokenizer.levels", "a", "b", "collisions", pytest.approx(-0.1)),
        ("seed", "b", "c", "collisions", pytest.approx(0.2)),
    ]
    found = diagnose(code_health([[0, 0]] * 9 + [[1, 1]], (2, 2)), (2, 2))
    table = remedy_table(found, tried, settings)
    assert set(table["setting"]) <= set(settings)
    assert "tokenizer.kmeans_init" not in table["setting"]
    of_levels = table.filter(setting="tokenizer.levels", problem="collisions").row(0, named=True)
    assert of_levels["seen"] == "collisions -0.1 (3 to 4)"
