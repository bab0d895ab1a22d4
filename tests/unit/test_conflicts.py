"""Conflict policies against hand-worked examples, brute force and Sinkhorn-Knopp by the book."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genrec_lab.codes import (
    CONFLICT_POLICIES,
    CodesError,
    Conflicts,
    IdentifierConfig,
    ItemCodes,
    Reassigned,
    register_conflict_policy,
)
from genrec_lab.codes.conflicts import balanced_log_plan
from genrec_lab.registry import RegistryError, relative_to

MOVING_POLICIES = ("nearest_free", "sinkhorn", "optimal")


@dataclass(frozen=True)
class Case:
    """A catalogue with what its last level quantised."""

    codes: ItemCodes
    residuals: np.ndarray
    codebook: np.ndarray

    def distance(self, item: int, last_code: int) -> float:
        """Euclidean distance of an item's residual to a last codeword, spelled out."""
        pairs = zip(self.residuals[item], self.codebook[last_code], strict=True)
        return float(sum((r - c) ** 2 for r, c in pairs) ** 0.5)


@st.composite
def cases(draw: st.DrawFn, max_items: int = 12, roomy: bool = False) -> Case:
    """Crowded catalogues in general position; `roomy`: no prefix has more items than last codes."""
    levels = draw(st.integers(1, 3))
    size = draw(st.integers(2, 5))
    n_domains = draw(st.integers(1, 2))
    # No domain may have more items than there are identifiers.
    n_items = draw(st.integers(1, min(max_items, size if roomy else size**levels)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    residuals = rng.normal(size=(n_items, 2))
    codebook = rng.normal(size=(size, 2))
    # Few prefixes, so that many items meet under one.
    codes = rng.integers(0, min(2, size), (n_items, levels))
    codes[:, -1] = ((residuals[:, None] - codebook[None]) ** 2).sum(axis=2).argmin(axis=1)
    domains = rng.integers(0, n_domains, n_items)
    return Case(ItemCodes(codes, (size,) * levels, domains), residuals, codebook)


def prefixes_of(case: Case) -> list[list[int]]:
    """The items of each (domain, prefix), by brute force."""
    found: dict[tuple[int, ...], list[int]] = {}
    for item, row in enumerate(case.codes.codes.tolist()):
        found.setdefault((int(case.codes.domain_index[item]), *row[:-1]), []).append(item)
    return list(found.values())


def has_conflict(case: Case, items: list[int]) -> bool:
    last = case.codes.codes[items, -1].tolist()
    return len(set(last)) < len(last)


# --- properties of all policies that move items


@pytest.mark.parametrize("policy", MOVING_POLICIES)
@given(case=cases())
def test_identifiers_become_unique_within_each_domain(policy: str, case: Case) -> None:
    before = case.codes.codes.copy()
    resolution = case.codes.resolve_with_cost(policy, case.residuals, case.codebook)
    assert resolution.codes.unique
    assert resolution.codes.sizes == case.codes.sizes
    assert resolution.codes.domain_names == case.codes.domain_names
    assert np.array_equal(case.codes.codes, before)


@pytest.mark.parametrize("policy", MOVING_POLICIES)
@given(case=cases())
def test_only_displaced_items_leave_their_prefix(policy: str, case: Case) -> None:
    resolution = case.codes.resolve_with_cost(policy, case.residuals, case.codebook)
    left_prefix = (resolution.codes.codes[:, :-1] != case.codes.codes[:, :-1]).any(axis=1).sum()
    excess = sum(max(0, len(items) - case.codes.sizes[-1]) for items in prefixes_of(case))
    assert left_prefix == resolution.displaced == excess


@pytest.mark.parametrize("policy", MOVING_POLICIES)
@given(case=cases())
def test_items_of_prefixes_without_conflict_never_move(policy: str, case: Case) -> None:
    resolved = case.codes.resolve(policy, case.residuals, case.codebook)
    for items in prefixes_of(case):
        if not has_conflict(case, items):
            assert np.array_equal(resolved.codes[items], case.codes.codes[items])


@pytest.mark.parametrize("policy", MOVING_POLICIES)
@given(case=cases())
def test_moved_and_cost_are_what_the_new_codes_say(policy: str, case: Case) -> None:
    resolution = case.codes.resolve_with_cost(policy, case.residuals, case.codebook)
    old, new = case.codes.codes, resolution.codes.codes
    moved = [item for item in range(len(old)) if tuple(old[item]) != tuple(new[item])]
    cost = sum(case.distance(item, new[item, -1]) - case.distance(item, old[item, -1]) for item in moved)
    assert resolution.moved == len(moved)
    assert resolution.cost == pytest.approx(cost, abs=1e-9)


@pytest.mark.parametrize("policy", CONFLICT_POLICIES.names())
@given(case=cases(), seed=st.integers(0, 3))
def test_the_same_input_gives_the_same_codes(policy: str, case: Case, seed: int) -> None:
    once, again = (case.codes.resolve(policy, case.residuals, case.codebook, seed) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("policy", MOVING_POLICIES)
@given(case=cases())
def test_a_domain_is_resolved_as_if_it_were_alone(policy: str, case: Case) -> None:
    together = case.codes.resolve(policy, case.residuals, case.codebook)
    for name in case.codes.domain_names:
        items = case.codes.domain_items(name)
        alone = case.codes.subset(name).resolve(policy, case.residuals[items], case.codebook)
        assert np.array_equal(alone.codes, together.codes[items])


# --- nearest_free


def test_nearest_free_by_hand() -> None:
    # Codewords at 0, 1, 2, 3; three items have code 1, at distances .1, .3 and .2.
    codes = ItemCodes([[5, 1], [5, 1], [5, 1], [4, 1]], (6, 4))
    residuals = np.array([[1.1], [1.3], [0.8], [1.0]])
    codebook = np.array([[0.0], [1.0], [2.0], [3.0]])
    resolution = codes.resolve_with_cost("nearest_free", residuals, codebook)
    # The first keeps 1; the third, nearer, chooses before the second: 0 at .8; the second takes 2 at .7.
    assert resolution.codes.codes.tolist() == [[5, 1], [5, 2], [5, 0], [4, 1]]
    assert resolution.moved == 2
    assert resolution.cost == pytest.approx((0.8 - 0.2) + (0.7 - 0.3))
    assert resolution.displaced == 0


def test_nearest_free_respects_codes_that_later_groups_keep() -> None:
    # Both groups are under one prefix; code 1 must stay with its group's nearest item, although item 1,
    # of the group of code 0, moves first and would like it.
    codes = ItemCodes([[0, 0], [0, 0], [0, 1], [0, 1]], (1, 4))
    residuals = np.array([[0.0], [0.4], [1.0], [0.9]])
    codebook = np.array([[0.0], [1.0], [2.0], [3.0]])
    resolved = codes.resolve("nearest_free", residuals, codebook)
    assert resolved.codes[:, -1].tolist() == [0, 2, 1, 3]


def brute_force_nearest_free(case: Case) -> dict[int, int]:
    """New last codes of items under prefixes with room, one item after the other."""
    new: dict[int, int] = {}
    for items in prefixes_of(case):
        last = {item: int(case.codes.codes[item, -1]) for item in items}
        keepers = {
            min((i for i in items if last[i] == code), key=lambda i: case.distance(i, last[i]))
            for code in last.values()
        }
        holders = {last[item] for item in keepers}
        movers = sorted(set(items) - keepers, key=lambda i: (last[i], case.distance(i, last[i])))
        new |= {item: last[item] for item in keepers}
        for item in movers:
            free = [code for code in range(case.codes.sizes[-1]) if code not in holders]
            if free:
                new[item] = min(free, key=lambda code: case.distance(item, code))
                holders.add(new[item])
    return new


@given(cases())
def test_nearest_free_agrees_with_its_brute_force_twin(case: Case) -> None:
    resolved = case.codes.resolve("nearest_free", case.residuals, case.codebook)
    for item, last_code in brute_force_nearest_free(case).items():
        assert resolved.codes[item].tolist() == [*case.codes.codes[item, :-1].tolist(), last_code]


@given(cases())
def test_nearest_free_never_moves_an_item_that_was_unique(case: Case) -> None:
    resolved = case.codes.resolve("nearest_free", case.residuals, case.codebook)
    colliding = {item for group in case.codes.groups() for item in group.tolist()}
    unique = [item for item in range(case.codes.n_items) if item not in colliding]
    assert np.array_equal(resolved.codes[unique], case.codes.codes[unique])


@given(cases(), st.randoms(use_true_random=False))
def test_nearest_free_does_not_depend_on_item_order(case: Case, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(case.codes.n_items))
    random.shuffle(order)
    straight = case.codes.resolve("nearest_free", case.residuals, case.codebook)
    shuffled = case.codes.select(order).resolve("nearest_free", case.residuals[order], case.codebook)
    assert np.array_equal(shuffled.codes, straight.codes[order])


# --- optimal


def test_optimal_by_hand_beats_greedy() -> None:
    # Codewords at 0, 1, 5. Greedy sends the second item past the third to 5; it is cheaper that both shift.
    codes = ItemCodes([[0, 0], [0, 0], [0, 1]], (1, 3))
    residuals = np.array([[0.0], [0.1], [1.4]])
    codebook = np.array([[0.0], [1.0], [5.0]])
    greedy = codes.resolve_with_cost("nearest_free", residuals, codebook)
    best = codes.resolve_with_cost("optimal", residuals, codebook)
    assert greedy.codes.codes[:, -1].tolist() == [0, 2, 1]
    assert greedy.cost == pytest.approx(4.9 - 0.1)
    assert best.codes.codes[:, -1].tolist() == [0, 1, 2]
    assert best.cost == pytest.approx((0.9 - 0.1) + (3.6 - 0.4))


@given(cases(max_items=5, roomy=True))
def test_optimal_reaches_the_least_total_distance_of_all_assignments(case: Case) -> None:
    resolution = case.codes.resolve_with_cost("optimal", case.residuals, case.codebook)
    for items in prefixes_of(case):
        if not has_conflict(case, items):
            continue
        last_codes = resolution.codes.codes[items, -1].tolist()
        total = sum(map(case.distance, items, last_codes))
        least = min(
            sum(map(case.distance, items, candidate))
            for candidate in permutations(range(case.codes.sizes[-1]), len(items))
        )
        assert total == pytest.approx(least, abs=1e-9)


@given(cases(roomy=True))
def test_optimal_never_costs_more_than_the_others(case: Case) -> None:
    costs = {
        policy: case.codes.resolve_with_cost(policy, case.residuals, case.codebook).cost
        for policy in MOVING_POLICIES
    }
    assert costs["optimal"] <= costs["nearest_free"] + 1e-9
    assert costs["optimal"] <= costs["sinkhorn"] + 1e-9
    assert costs["optimal"] >= -1e-9


def test_optimal_keeps_the_nearest_items_of_an_overfull_prefix() -> None:
    codes = ItemCodes([[0, 0], [0, 0], [0, 0]], (2, 2))
    residuals = np.array([[0.0], [9.0], [0.9]])
    resolution = codes.resolve_with_cost("optimal", residuals, np.array([[0.0], [1.0]]))
    assert resolution.codes.codes[[0, 2]].tolist() == [[0, 0], [0, 1]]
    assert resolution.codes.codes[1, 0] == 1
    assert resolution.displaced == 1


# --- the last resort


def crowd(n_items: int, sizes: tuple[int, ...], domains: list[str] | None = None) -> Case:
    """Items that all start with the identifier 0, 0, …, at growing distances."""
    residuals = np.arange(n_items, dtype=np.float64)[:, None]
    codebook = np.arange(sizes[-1], dtype=np.float64)[:, None]
    return Case(ItemCodes(np.zeros((n_items, len(sizes)), int), sizes, domains), residuals, codebook)


def test_a_full_prefix_sends_its_farthest_items_to_another_second_to_last_code() -> None:
    case = crowd(5, (3, 4, 2))
    resolution = case.codes.resolve_with_cost("nearest_free", case.residuals, case.codebook)
    new = resolution.codes.codes
    assert new[:2].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert (new[2:, 0] == 0).all() and (new[2:, 1] > 0).all()
    assert resolution.displaced == 3
    assert "3 left their prefix" in str(resolution)


def test_the_draw_of_the_last_resort_follows_the_seed() -> None:
    case = crowd(60, (2, 50, 10))
    drawn = [
        case.codes.resolve("nearest_free", case.residuals, case.codebook, seed).codes for seed in range(2)
    ]
    assert not np.array_equal(drawn[0], drawn[1])


def test_where_two_levels_are_full_the_level_before_them_changes() -> None:
    case = crowd(8, (2, 2, 2))
    resolution = case.codes.resolve_with_cost("optimal", case.residuals, case.codebook)
    assert resolution.codes.unique
    # Eight items fill all eight identifiers; two keep the prefix, two more the first code.
    assert (resolution.codes.codes[:, 0] == 0).sum() == 4
    assert resolution.displaced == 6


@pytest.mark.parametrize("policy", MOVING_POLICIES)
@pytest.mark.parametrize(("n_items", "sizes"), [(9, (2, 2, 2)), (3, (2,))])
def test_more_items_than_identifiers_is_an_error(policy: str, n_items: int, sizes: tuple[int, ...]) -> None:
    case = crowd(n_items, sizes)
    with pytest.raises(CodesError, match=r"identifiers, 1 too few.*'extra_level'"):
        case.codes.resolve(policy, case.residuals, case.codebook)


# --- extra_level and none


def test_extra_level_counts_inside_groups_and_is_as_large_as_the_largest() -> None:
    codes = ItemCodes([[1, 0], [0, 0], [1, 0], [1, 0], [1, 0]], (2, 1), ["a", "a", "a", "b", "a"])
    resolution = codes.resolve_with_cost("extra_level")
    assert resolution.codes.codes.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 2]]
    assert resolution.codes.sizes == (2, 1, 3)
    assert (resolution.moved, resolution.cost) == (0, 0.0)


@given(cases())
def test_extra_level_makes_unique_and_keeps_the_given_codes(case: Case) -> None:
    resolved = case.codes.resolve("extra_level")
    assert resolved.unique
    assert np.array_equal(resolved.codes[:, :-1], case.codes.codes)
    largest = max([len(group) for group in case.codes.groups()], default=1)
    assert resolved.sizes[-1] == largest == resolved.codes[:, -1].max() + 1


def test_extra_level_does_not_join_the_shared_range() -> None:
    codes = ItemCodes([[0, 1, 1], [0, 1, 1]], (2, 3, 3), shared_levels=(1, 2))
    assert codes.resolve("extra_level").offsets == (2, 4, 4, 7)


def test_none_changes_nothing() -> None:
    codes = ItemCodes([[0], [0]], (2,))
    resolution = codes.resolve_with_cost("none")
    assert resolution.codes == codes
    assert "collision rate now 100.00%" in str(resolution)


# --- what resolve accepts and refuses


@given(cases())
def test_all_levels_and_codebooks_by_domain_may_be_given(case: Case) -> None:
    levels, size = case.codes.levels, case.codes.sizes[-1]
    all_residuals = np.zeros((case.codes.n_items, levels, 2))
    all_residuals[:, -1] = case.residuals
    all_codebooks = np.zeros((levels, size, 2))
    all_codebooks[-1] = case.codebook
    plain = case.codes.resolve("nearest_free", case.residuals, case.codebook)
    assert case.codes.resolve("nearest_free", all_residuals, all_codebooks) == plain
    assert case.codes.resolve("nearest_free", all_residuals, list(all_codebooks)) == plain
    by_domain = dict.fromkeys(case.codes.domain_names, case.codebook)
    assert case.codes.resolve("nearest_free", case.residuals, by_domain) == plain


def test_each_domain_moves_by_its_own_codebook() -> None:
    codes = ItemCodes([[0], [0], [0], [0]], (3,), ["a", "a", "b", "b"])
    residuals = np.array([[0.0], [0.1], [0.0], [0.1]])
    books = {"a": np.array([[0.0], [1.0], [2.0]]), "b": np.array([[0.0], [2.0], [1.0]])}
    assert codes.resolve("nearest_free", residuals, books).codes[:, 0].tolist() == [0, 1, 0, 2]
    assert codes.resolve("optimal", residuals, books).codes[:, 0].tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("policy", MOVING_POLICIES)
def test_missing_geometry_is_named(policy: str) -> None:
    codes = ItemCodes([[0], [0]], (2,))
    with pytest.raises(CodesError, match=rf"{policy}.*residuals \(N, d\) and codebooks \(K, d\)"):
        codes.resolve(policy)
    with pytest.raises(CodesError, match=r"needs codebooks \(K, d\) of the last level"):
        codes.resolve(policy, residuals=np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("residuals", "codebooks", "message"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), r"residuals: shape \(3, 2\), expected \(2, d\)"),
        (np.zeros((2, 2)), np.zeros((3, 2)), r"codebooks: last level is \(3, 2\), expected \(2, 2\)"),
        (np.zeros((2, 2)), np.zeros((2, 3)), r"codebooks: last level is \(2, 3\), expected \(2, 2\)"),
        (np.zeros((2, 2)), np.zeros(2), r"codebooks: shape \(2,\)"),
        (np.array([[0.0], [np.nan]]), np.zeros((2, 1)), r"residuals: NaN or infinity in 1 rows.*row 1"),
        (np.zeros((2, 1)), np.array([[np.inf], [0]]), r"codebooks: NaN or infinity in 1 rows.*row 0"),
        (np.zeros((2, 1)), {"b": np.zeros((2, 1))}, r"no entry for domains \['a'\]; given are \['b'\]"),
    ],
)
def test_geometry_that_does_not_fit_is_refused(residuals, codebooks, message) -> None:  # type: ignore[no-untyped-def]
    codes = ItemCodes([[0], [0]], (2,), ["a", "a"])
    with pytest.raises(CodesError, match=message):
        codes.resolve("nearest_free", residuals, codebooks)


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(CodesError, match=r"'nearest_fre'.*did you mean 'nearest_free'"):
        ItemCodes([[0]], (1,)).resolve("nearest_fre")


def test_the_config_is_strict() -> None:
    assert IdentifierConfig().policy == "nearest_free"
    assert (IdentifierConfig().sinkhorn_epsilon, IdentifierConfig().sinkhorn_rounds) == (0.003, 20)
    for wrong in (
        {"policy": "greedy"},
        {"sinkhorn_epsilon": 0.0},
        {"sinkhorn_rounds": "20"},
        {"epsilon": 0.1},
    ):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            IdentifierConfig.model_validate(wrong)


def twin_plan(distances: list[list[float]], epsilon: float, iterations: int) -> np.ndarray:
    """Sinkhorn-Knopp by the book, without logarithms, one entry at a time."""
    items, codes = len(distances), len(distances[0])
    plan = [[np.exp(-value / epsilon) for value in row] for row in distances]
    for _ in range(iterations):
        for row in plan:
            total = sum(row)
            row[:] = [value / total / items for value in row]
        for code in range(codes):
            total = sum(row[code] for row in plan)
            for row in plan:
                row[code] = row[code] / total / codes
    return np.array(plan)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 100), st.sampled_from([0.05, 0.3]))
def test_the_balanced_plan_agrees_with_a_twin_without_logarithms(
    items: int, codes: int, seed: int, epsilon: float
) -> None:
    distances = np.random.default_rng(seed).uniform(-1, 1, (2, items, codes))
    plan = np.exp(balanced_log_plan(-distances / epsilon, 30))
    for group in range(2):
        np.testing.assert_allclose(plan[group], twin_plan(distances[group].tolist(), epsilon, 30), rtol=1e-7)


def test_codes_carry_equal_mass_at_the_published_epsilon() -> None:
    distances = np.random.default_rng(0).uniform(-1, 1, (3, 40, 16))
    plan = np.exp(balanced_log_plan(-distances / 0.003, 50))
    assert np.isfinite(plan).all()
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 16, rtol=1e-9)


def test_one_round_gives_each_colliding_item_its_largest_share() -> None:
    rng = np.random.default_rng(8)
    residuals, codebook = rng.normal(size=(4, 2)), rng.normal(size=(6, 2))
    codes = ItemCodes([[0, 5], [0, 5], [0, 5], [1, 5]], (2, 6))
    config = IdentifierConfig(policy="sinkhorn", sinkhorn_epsilon=0.3, sinkhorn_rounds=1)
    squared = [[float(((r - c) ** 2).sum()) for c in codebook] for r in residuals[:3]]
    low, high = min(map(min, squared)), max(map(max, squared))
    middle = (low + high) / 2
    scaled = [[(value - middle) / (high - middle + 1e-5) for value in row] for row in squared]
    assert np.argmin(squared, axis=1).tolist() == [5, 5, 5]
    expected = twin_plan(scaled, 0.3, 50).argmax(axis=1)
    assert expected.tolist() == [5, 0, 4]
    resolution = codes.resolve_with_cost(config, residuals, codebook)
    assert resolution.codes.codes.tolist() == [[0, 5], [0, 0], [0, 4], [1, 5]]
    assert resolution.unsolved == 0


def test_items_that_sinkhorn_cannot_tell_apart_are_counted_and_separated() -> None:
    # Two pairs of equal vectors: balance gives equal vectors equal rows, whatever the number of rounds.
    residuals = np.array([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0], [5.0, 5.0]])
    codebook = np.random.default_rng(0).normal(size=(8, 2))
    codes = ItemCodes([[0, 0], [0, 0], [1, 1], [1, 1]], (2, 8))
    resolution = codes.resolve_with_cost("sinkhorn", residuals, codebook)
    assert resolution.unsolved == 4
    assert resolution.codes.unique
    assert "4 still collided after Sinkhorn" in str(resolution)


SPREAD = """
from genrec_lab.codes import Reassigned

class Spread:
    def __init__(self, step: int = 1) -> None:
        self.step = step

    def __call__(self, given):
        codes = given.codes.copy()
        codes[:, -1] = (codes[:, -1] + self.step * given.seed + range(len(codes))) % given.sizes[-1]
        return Reassigned(codes, given.sizes, moved=len(codes))

def broken(given):
    raise RuntimeError("no idea")
"""


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(CONFLICT_POLICIES, "_components", dict(CONFLICT_POLICIES._components))


def test_a_policy_in_a_file_beside_the_run_file_is_found_and_takes_its_options(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SPREAD)
    codes = ItemCodes([[0, 3], [0, 3], [1, 3]], (2, 8))
    with relative_to(tmp_path):
        config = IdentifierConfig(policy="mine.py:Spread", options={"step": 2})
        found = codes.resolve_with_cost(config, seed=1)
        with pytest.raises(ValidationError, match=r"mine\.py:Spread.*does not take the options .*stpe"):
            IdentifierConfig(policy="mine.py:Spread", options={"stpe": 2})
        with pytest.raises(ValidationError, match=r"mine\.py has no Spred \(did you mean 'Spread'"):
            IdentifierConfig(policy="mine.py:Spred")
    assert found.codes.codes.tolist() == [[0, 5], [0, 6], [1, 7]]
    assert (found.policy, found.moved) == ("mine.py:Spread", 3)


def test_a_registered_policy_is_like_ours(policies: None) -> None:
    @register_conflict_policy("first_stays")
    def first_stays(given: Conflicts, shift: int = 1) -> Reassigned:
        return given.outcome(np.column_stack([given.codes[:, 0], (given.codes[:, 1] + [0, shift]) % 4]))

    assert "first_stays" in CONFLICT_POLICIES
    residuals, codebook = np.zeros((2, 1)), np.arange(4.0)[:, None]
    found = ItemCodes([[0, 0], [0, 0]], (1, 4)).resolve_with_cost("first_stays", residuals, codebook)
    assert found.codes.codes.tolist() == [[0, 0], [0, 1]]
    assert (found.moved, found.cost) == (1, 1.0)
    with pytest.raises(CodesError, match=r"policy 'first_stays' moves items by distance and needs residuals"):
        ItemCodes([[0, 0], [0, 0]], (1, 4)).resolve("first_stays")
    with pytest.raises(RegistryError, match="the conflict policy 'optimal' exists twice"):
        register_conflict_policy("optimal")(first_stays)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.zeros((2, 2), int), "policy 'odd' returned a ndarray; expected a genrec_lab.codes.Reassigned"),
        (Reassigned(np.zeros((1, 2), int), (1, 4)), r"codes of shape \(1, 2\); expected .*\(2, levels\)"),
        (
            Reassigned(np.full((2, 2), 7), (1, 4)),
            "policy 'odd': codes: value 7 of item 0 at level 0",
        ),
    ],
)
def test_what_a_policy_returns_is_checked(policies: None, made: object, message: str) -> None:
    register_conflict_policy("odd")(lambda given: made)
    with pytest.raises(CodesError, match=message):
        ItemCodes([[0, 0], [0, 0]], (1, 4)).resolve("odd")
