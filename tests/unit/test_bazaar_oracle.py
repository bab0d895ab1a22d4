"""The oracle of Bazaar: exact, as good on drawn targets as it says, and unbeaten."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.bazaar import (
    BazaarWorld,
    best_possible,
    make_bazaar,
    next_item_probabilities,
    oracle_ranking,
)
from genrec_lab.bazaar.catalogue import SHOPS
from genrec_lab.bazaar.sequences import draw_sequences
from genrec_lab.bazaar.world import FACTOR_SCALE, DomainWorld
from genrec_lab.data.dataset import DataError, Dataset
from genrec_lab.data.preparation import leave_one_out

SMALL = {"items": 300, "users": 600, "domains": ("Garden", "Kitchen")}
# 50 items a domain: small enough for loops in plain Python.
TINY = {"items": 300, "users": 240, "domains": tuple(SHOPS), "archetypes": 5}


@pytest.fixture(scope="module")
def small() -> Dataset:
    return make_bazaar(**SMALL)


@pytest.fixture(scope="module")
def tiny() -> BazaarWorld:
    return BazaarWorld.from_options(TINY)


def histories_of(world: BazaarWorld, domain: str) -> list[np.ndarray]:
    drawn = draw_sequences(world)[domain]
    return np.split(drawn.items, np.cumsum(drawn.lengths)[:-1])


def brute_force(place: DomainWorld, history: list[int]) -> list[float]:
    """p(i | h) by loops over archetypes, steps and items, straight from the definition."""
    joint = []
    for archetype in range(place.n_archetypes):
        weights = [int(w) for w in place.archetype_item_weights(archetype)]

        def conditional(before: list[int], weights: list[int] = weights) -> list[float]:
            scores = []
            for item in range(place.n_items):
                factor = FACTOR_SCALE
                if before:
                    factor = int(place.factors[place.cells[before[-1]]][place.cells[item]])
                scores.append(0 if item in before else weights[item] * factor)
            return [score / sum(scores) for score in scores]

        likelihood = int(place.archetype_weights[archetype]) / int(place.archetype_weights.sum())
        for step, item in enumerate(history):
            likelihood *= conditional(history[:step])[item]
        joint.append([likelihood * chance for chance in conditional(history)])
    by_item = [sum(chances) for chances in zip(*joint, strict=True)]
    return [chance / sum(by_item) for chance in by_item]


def test_predictive_equals_brute_force(tiny: BazaarWorld) -> None:
    for domain, place in tiny.domains.items():
        whole = histories_of(tiny, domain)
        histories = [whole[0][:0], whole[0][:1], whole[1][:2], whole[2], max(whole, key=len)]
        fast = next_item_probabilities(tiny, histories, domain)
        for row, history in zip(fast, histories, strict=True):
            slow = brute_force(place, [int(item) - place.first_item for item in history])
            np.testing.assert_allclose(row, slow, rtol=1e-9, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_ranking_is_the_sorted_predictive(tiny: BazaarWorld, data: st.DataObject) -> None:
    domain = data.draw(st.sampled_from(list(SHOPS)))
    first = tiny.domains[domain].first_item
    one = st.lists(st.integers(first, first + 49), unique=True, max_size=50)
    histories = data.draw(st.lists(one, min_size=1, max_size=4))
    ranking = oracle_ranking(tiny, histories, domain, 60)
    table = next_item_probabilities(tiny, histories, domain)
    for row, history in enumerate(histories):
        left = sorted(set(range(first, first + 50)) - set(history))
        found = ranking.items[row]
        assert sorted(found[: len(left)]) == left
        assert (found[len(left) :] == -1).all() and (ranking.probabilities[row, len(left) :] == 0).all()
        assert (np.diff(ranking.probabilities[row]) <= 0).all()
        np.testing.assert_array_equal(
            ranking.probabilities[row, : len(left)], table[row, found[: len(left)] - first]
        )
        assert table[row].sum() == pytest.approx(1.0 if left else 0.0)


# Many users, so that frequencies come close to probabilities: one shop of 300 items, and one of 50 in which a
# few items are so much liked that most choices would fall on what a user has had.
CROWD = {"items": 300, "users": 20_000, "domains": ("Studio",)}
GREEDY_CROWD = {
    "items": 300, "users": 24_000, "domains": tuple(SHOPS), "mean_length": 14.0, "taste_strength": 3.0,
    "popularity_exponent": 1.5,
}  # fmt: skip


# A fifth of the items is new: the last choice, -1, can be one of them, no other can.
ARRIVALS = CROWD | {"new_items": 0.2, "taste_strength": 2.0}


@pytest.mark.parametrize(
    ("options", "step"),
    [
        (CROWD, 0),
        (CROWD, 1),
        (CROWD, 4),
        (GREEDY_CROWD, 4),
        (GREEDY_CROWD, 12),
        (ARRIVALS, 0),
        (ARRIVALS, -2),
        (ARRIVALS, -1),
    ],
)
def test_choices_are_drawn_from_the_predictive(options: dict[str, object], step: int) -> None:
    """How often each item is chosen against the sums of its probabilities, and how surprising choices are."""
    world = BazaarWorld.from_options(options)
    place = world.domains["Studio"]
    sequences = [items for items in histories_of(world, "Studio") if len(items) > step]
    last = step == -1 or "new_items" not in options
    table = next_item_probabilities(world, [items[:step] for items in sequences], "Studio", last=last)
    chosen = np.array([items[step] for items in sequences]) - place.first_item
    counts, expected = np.bincount(chosen, minlength=place.n_items), table.sum(axis=0)
    often = expected > 10
    deviation = (counts - expected)[often] / np.sqrt((table * (1 - table)).sum(axis=0))[often]
    # The largest of 300 standard normal deviations is below 4.5 in all but 2 of 1,000 worlds.
    assert often.sum() > 20 and np.abs(deviation).max() < 4.5
    assert deviation.std() == pytest.approx(1, abs=0.3)
    # The log-probability of what was chosen is on average the negative entropy.
    logs = np.log(np.maximum(table, 1e-300))
    surprise = logs[np.arange(len(chosen)), chosen] - (table * logs).sum(axis=1)
    assert abs(surprise.mean()) < 4 * surprise.std() / math.sqrt(len(chosen))


def test_expected_and_realised_metrics_agree_and_count_as_defined() -> None:
    options = {"items": 300, "users": 6000, "domains": ("Garden", "Workshop")}
    part = leave_one_out(make_bazaar(**options)).test
    best = best_possible(options, part, ks=(5, 10))
    metrics = {(row[0], row[1], row[2]): row[3:] for row in best.metrics.iter_rows()}
    assert best.metrics["domain"].unique(maintain_order=True).to_list() == ["Garden", "Workshop", "average"]
    for domain in ("Garden", "Workshop", "average"):
        members = np.full(part.height, True) if domain == "average" else (part["domain"] == domain).to_numpy()
        for k in (5, 10):
            ranks = [
                list(items[:k]).index(target) if target in items[:k] else None
                for items, target in zip(best.items[members], part["target"].to_numpy()[members], strict=True)
            ]
            recall = sum(rank is not None for rank in ranks) / len(ranks)
            ndcg = sum(1 / math.log2(rank + 2) for rank in ranks if rank is not None) / len(ranks)
            for metric, realised in (("recall", recall), ("ndcg", ndcg)):
                expected, said, users = metrics[domain, metric, k]
                assert said == pytest.approx(realised) and users == members.sum()
                # One target's gain has a standard deviation of at most 0.5.
                assert abs(expected - said) < 4 * 0.5 / math.sqrt(users)
    shares = best.probabilities[:, :10].sum(axis=1).mean()
    assert metrics["average", "recall", 10][0] == pytest.approx(shares)


def test_no_other_ranking_expects_more(tiny: BazaarWorld) -> None:
    rng = np.random.default_rng(0)
    for domain, place in tiny.domains.items():
        sequences = histories_of(tiny, domain)
        histories = [items[:-1] for items in sequences]
        table = next_item_probabilities(tiny, histories, domain)
        popularity = np.bincount(np.concatenate(histories) - place.first_item, minlength=place.n_items)
        last = np.array([place.cells[items[-1] - place.first_item] for items in histories])
        mean_weights = np.stack([w / w.sum() for w in place.item_weights()]).mean(axis=0)
        rivals = {
            "popularity": np.tile(popularity, (len(histories), 1)),
            "last item only": place.factors[last][:, place.cells] * mean_weights,
            "archetype only": place.item_weights()[draw_sequences(tiny)[domain].archetypes],
            **{
                f"noise {size}": table * np.exp(rng.normal(0, size, table.shape)) for size in (0.01, 0.1, 1.0)
            },
        }
        oracle = oracle_ranking(tiny, histories, domain, 10)
        for k, name in itertools.product((1, 5, 10), rivals):
            # What a user has had is no rival's guess either.
            scores = np.where(table > 0, rivals[name], -1.0)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            gains = np.take_along_axis(table, order, axis=1)
            best = oracle.probabilities[:, :k]
            discounts = 1 / np.log2(np.arange(k) + 2)
            assert (gains.sum(axis=1) <= best.sum(axis=1) + 1e-12).all(), (name, k)
            assert (gains @ discounts <= best @ discounts + 1e-12).all(), (name, k)
            if name in ("popularity", "last item only"):
                assert gains.sum(axis=1).mean() < 0.97 * best.sum(axis=1).mean(), (name, k)


def test_default_world_leaves_room_above_popularity() -> None:
    """What the demo stands on: popularity near .08, the best possible five times that, in every domain."""
    dataset = make_bazaar()
    split = leave_one_out(dataset)
    best = best_possible({"name": "bazaar"}, split.test, ks=10)
    counts = np.bincount(split.train["target"].to_numpy(), minlength=dataset.n_items)
    for domain in dataset.domains:
        own = dataset.domain_items(domain)
        members = split.test.filter(pl.col("domain") == domain)
        hits = []
        for history, target in members.select("history", "target").iter_rows():
            left = own[~np.isin(own, history)]
            hits.append(target in left[np.argsort(-counts[left], kind="stable")[:10]])
        row = best.metrics.filter(domain=domain, metric="recall", k=10)
        assert 0.05 < np.mean(hits) < 0.11
        assert 0.38 < row["expected"][0] < 0.48
        assert row["realised"][0] > 3.5 * np.mean(hits)


def test_shortened_histories_are_completed() -> None:
    dataset = make_bazaar(**SMALL)
    whole, short = (leave_one_out(dataset, max_history=most).valid for most in (200, 3))
    best, of_short = best_possible(SMALL, whole), best_possible(SMALL, short)
    assert whole["history"].list.len().max() > 20
    assert np.array_equal(best.items, of_short.items)
    assert best.metrics.equals(of_short.metrics)


def test_a_part_of_another_world_is_refused(small: Dataset) -> None:
    part = leave_one_out(small).test
    with pytest.raises(DataError, match="is not in the Bazaar of these options"):
        best_possible({**SMALL, "seed": 1}, part)
    with pytest.raises(DataError, match="no row"):
        best_possible(SMALL, part.head(0))
    with pytest.raises(DataError, match="no column 'target'"):
        best_possible(SMALL, part.drop("target"))
    with pytest.raises(DataError, match="ks = "):
        best_possible(SMALL, part, ks=(0, 10))


def test_oracle_refuses_what_it_cannot_weigh(tiny: BazaarWorld) -> None:
    with pytest.raises(DataError, match=r"unknown domain 'Gardn' \(did you mean 'Garden'"):
        oracle_ranking(tiny, [[0]], "Gardn", 5)
    with pytest.raises(
        DataError, match=r"history 1: item 50 is not of domain 'Garden', whose items are 0\.\.49"
    ):
        oracle_ranking(tiny, [[0], [3, 50]], "Garden", 5)
    with pytest.raises(DataError, match="history 0: an item comes twice"):
        oracle_ranking(tiny, [[3, 4, 3]], "Garden", 5)
    with pytest.raises(DataError, match="k is 0"):
        oracle_ranking(tiny, [[3]], "Garden", 0)
    large = BazaarWorld.from_options({"items": 100_001})
    with pytest.raises(DataError, match=r"100,001 items are too many, at most 100,000"):
        oracle_ranking(large, [[3]], "Garden", 5)
