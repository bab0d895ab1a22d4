"""Recall, NDCG and the domain table against a loop over users, and against the published averages."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.evaluation import (
    RankingError,
    metric_per_user,
    metrics_table,
    ndcg_at_k,
    ndcg_per_user,
    recall_at_k,
    recall_per_user,
    user_weighted_average,
)


class Rankings(NamedTuple):
    """What a test ranks: (U, K) items and (U,) targets."""

    items: np.ndarray
    targets: np.ndarray


@st.composite
def rankings(draw: st.DrawFn) -> Rankings:
    """1 to 8 users, 1 to 6 places, 7 items, some rows filled at the end."""
    users, width = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    items = np.full((users, width), -1)
    for user in range(users):
        row = draw(st.permutations(range(7)))[: draw(st.integers(0, width))]
        items[user, : len(row)] = row
    targets = draw(st.lists(st.integers(0, 6), min_size=users, max_size=users))
    return Rankings(items, np.array(targets))


def twin_scores(case: Rankings, k: int) -> tuple[list[float], list[float]]:
    """Recall and NDCG of each user, one row after the other."""
    recalls, gains = [], []
    for row, target in zip(case.items.tolist(), case.targets.tolist(), strict=True):
        first = row[:k]
        recalls.append(1.0 if target in first else 0.0)
        gains.append(1 / math.log2(first.index(target) + 2) if target in first else 0.0)
    return recalls, gains


# --- per user and mean


def test_ndcg_by_hand() -> None:
    ranked = [[4, 2, 9], [4, 2, 9], [4, 2, 9], [4, 2, 9]]
    # Ranks 0, 1, 2 and none: 1, 1/log2(3), 1/2, 0.
    assert ndcg_per_user(ranked, [4, 2, 9, 1], 3).tolist() == pytest.approx([1, 1 / math.log2(3), 0.5, 0])
    assert ndcg_per_user(ranked, [4, 2, 9, 1], 2).tolist() == pytest.approx([1, 1 / math.log2(3), 0, 0])
    assert recall_at_k(ranked, [4, 2, 9, 1], 3) == 0.75
    assert recall_at_k(ranked, [4, 2, 9, 1], 1) == 0.25


@given(rankings(), st.data())
def test_metrics_agree_with_a_loop_over_users(case: Rankings, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, case.items.shape[1]))
    recalls, gains = twin_scores(case, k)
    assert recall_per_user(case.items, case.targets, k).tolist() == recalls
    assert ndcg_per_user(case.items, case.targets, k).tolist() == pytest.approx(gains)
    assert recall_at_k(case.items, case.targets, k) == pytest.approx(sum(recalls) / len(recalls))
    assert ndcg_at_k(case.items, case.targets, k) == pytest.approx(sum(gains) / len(gains))


@given(rankings())
def test_metrics_never_fall_with_k_and_ndcg_never_exceeds_recall(case: Rankings) -> None:
    widths = range(1, case.items.shape[1] + 1)
    recalls = [recall_at_k(case.items, case.targets, k) for k in widths]
    gains = [ndcg_at_k(case.items, case.targets, k) for k in widths]
    assert recalls == sorted(recalls) and gains == sorted(gains)
    assert all(gain <= recall + 1e-12 for gain, recall in zip(gains, recalls, strict=True))


def test_tensors_lists_and_rankings_with_scores_are_read_alike() -> None:
    class Ranked(NamedTuple):
        items: np.ndarray
        scores: np.ndarray

    items = np.array([[3, 1, -1], [0, 2, 1]])
    targets = np.array([1, 1])
    forms: list[Any] = [items, items.tolist(), torch.tensor(items), Ranked(items, np.zeros((2, 3)))]
    for ranked in forms:
        for target in (targets, targets.tolist(), torch.tensor(targets)):
            assert ndcg_at_k(ranked, target, 3) == pytest.approx((1 / math.log2(3) + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("ranked", "target", "k", "message"),
    [
        ([[1, 2]], [1], 3, r"k: 3, expected 1 to 2"),
        ([[1, 2]], [1], 0, r"k: 0, expected 1 to 2"),
        ([[1, 2], [2, 2]], [1, 1], 1, r"repeated in the row of user 1, \[2, 2\] \(1 such rows\)"),
        ([[1, 2], [-1, 2]], [1, 1], 1, r"row of user 1 is \[-1, 2\]; -1 may only fill the end"),
        ([[1, -2]], [1], 1, r"row of user 0 is \[1, -2\]"),
        ([[1, 2]], [1, 2], 1, r"target: shape \(2,\) of int64, expected \(1,\)"),
        ([[1, 2]], [[1]], 1, r"target: shape \(1, 1\)"),
        ([[1, 2]], [1.0], 1, r"target: shape \(1,\) of float64"),
        ([[1, -1]], [-1], 1, r"target: -1 of user 0"),
        ([1, 2], [1, 2], 1, r"ranked: shape \(2,\)"),
        ([[0.1, 0.2]], [1], 1, r"ranked: shape \(1, 2\) of float64"),
        (np.zeros((0, 2), int), np.zeros(0, int), 1, r"ranked: shape \(0, 2\)"),
    ],
)
def test_what_cannot_be_measured_honestly_is_refused(ranked, target, k, message) -> None:  # type: ignore[no-untyped-def]
    for metric in (recall_at_k, ndcg_at_k, recall_per_user, ndcg_per_user):
        with pytest.raises(RankingError, match=message):
            metric(ranked, target, k)


# --- the table


@given(rankings(), st.data())
def test_the_table_is_each_domains_mean_and_the_mean_over_all_users(
    case: Rankings, data: st.DataObject
) -> None:
    users = len(case.targets)
    domains = data.draw(st.lists(st.sampled_from("xyz"), min_size=users, max_size=users))
    k = data.draw(st.integers(1, case.items.shape[1]))
    table = metrics_table(case.items, case.targets, domains, ks=(k,))
    in_order = list(dict.fromkeys(domains))
    assert table.columns == ["domain", "metric", "k", "value", "users"]
    assert table["domain"].to_list() == [name for name in [*in_order, "average"] for _ in range(2)]
    for metric, scores in zip(("recall", "ndcg"), twin_scores(case, k), strict=True):
        for name in in_order:
            own = [score for score, domain in zip(scores, domains, strict=True) if domain == name]
            row = table.row(by_predicate=table_row(name, metric), named=True)
            assert row["value"] == pytest.approx(sum(own) / len(own))
            assert (row["k"], row["users"]) == (k, len(own))
        row = table.row(by_predicate=table_row("average", metric), named=True)
        assert row["value"] == pytest.approx(sum(scores) / users)
        assert row["users"] == users


def table_row(domain: str, metric: str) -> pl.Expr:
    return (pl.col("domain") == domain) & (pl.col("metric") == metric)


def test_the_table_lists_recall_then_ndcg_at_each_k() -> None:
    ranked = np.array([list(range(10))])
    table = metrics_table(ranked, [7], ["x"])
    assert table.filter(domain="x").select("metric", "k").rows() == [
        ("recall", 5),
        ("recall", 10),
        ("ndcg", 5),
        ("ndcg", 10),
    ]
    assert table.filter(domain="x")["value"].to_list() == pytest.approx([0, 1, 0, 1 / math.log2(9)])


def test_the_table_refuses_domains_that_do_not_fit() -> None:
    with pytest.raises(RankingError, match="domains: 1 values for 2 users"):
        metrics_table([[1], [2]], [1, 2], ["x"], ks=(1,))
    with pytest.raises(RankingError, match="a domain is called 'average'"):
        metrics_table([[1]], [1], ["average"], ks=(1,))
    with pytest.raises(RankingError, match="k: 5, expected 1 to 1"):
        metrics_table([[1]], [1], ["x"])


# GMC Table 2 (users) and Table 3: Scientific, Pantry, Instruments, Arts, Office, and the printed AVERAGE.
GMC_USERS = (8317, 13073, 24772, 45141, 86554)
GMC_TABLE_3 = {
    "SASRec Recall@5": ((0.0753, 0.0315, 0.0817, 0.0751, 0.0915), 0.0808),
    "SASRec Recall@10": ((0.1017, 0.0539, 0.1087, 0.1007, 0.1098), 0.1028),
    "SASRec NDCG@5": ((0.0488, 0.0165, 0.0549, 0.0522, 0.0708), 0.0588),
    "SASRec NDCG@10": ((0.0573, 0.0237, 0.0636, 0.0604, 0.0767), 0.0659),
    "TIGER Recall@10": ((0.0871, 0.0516, 0.1089, 0.1031, 0.1180), 0.1066),
    "TIGER NDCG@10": ((0.0534, 0.0263, 0.0812, 0.0709, 0.0914), 0.0782),
    "GMC Recall@5": ((0.0791, 0.0422, 0.0980, 0.0860, 0.1063), 0.0940),
    "GMC Recall@10": ((0.1091, 0.0656, 0.1224, 0.1103, 0.1252), 0.1159),
    "GMC NDCG@5": ((0.0556, 0.0262, 0.0828, 0.0690, 0.0912), 0.0780),
    "GMC NDCG@10": ((0.0652, 0.0338, 0.0906, 0.0768, 0.0973), 0.0850),
}


@pytest.mark.parametrize("row", GMC_TABLE_3)
def test_the_user_weighted_average_is_gmc_table_3s(row: str) -> None:
    values, printed = GMC_TABLE_3[row]
    # Four printed digits in, four out: the average of rounded values is within one unit of the last digit.
    assert user_weighted_average(values, GMC_USERS) == pytest.approx(printed, abs=1e-4)


def test_the_average_needs_a_weight_for_each_value() -> None:
    with pytest.raises(RankingError, match="2 values for 1 domains"):
        user_weighted_average([0.1, 0.2], [3])


# --- beside hits


RANKED = np.array([[0, 1, 2], [0, 2, 1], [0, 3, -1]])
FACTS = {
    "items": np.array([0, 1, 2, 3, 4]),
    "popularity": [7, 3, 1, 0, 0, 99],
    "vectors": np.array([[2.0, 0], [0, 3], [1, 0], [-1, 0], [0, 0], [5, 5]]),
}


def test_metrics_beside_hits_by_hand() -> None:
    target, beside = np.array([1, 1, 4]), {need: FACTS[need] for need in ("items", "popularity")}
    assert metric_per_user("mrr", RANKED, target, 3).tolist() == [1 / 2, 1 / 3, 0]
    assert metric_per_user("mrr", RANKED, target, 2).tolist() == [1 / 2, 0, 0]
    assert metric_per_user("coverage", RANKED, target, 2, items=FACTS["items"])[0] == 4 / 5
    # shown 3, 1, 1, 1, 0 times: ascending 0 1 1 1 3, weights -4 -2 0 2 4, over 5 * 6
    assert metric_per_user("gini", RANKED, target, 2, items=FACTS["items"])[0] == pytest.approx(12 / 30)
    shares = np.log2(np.array([8, 4, 2, 1, 1]) / 16)
    expected = [-shares[[0, 1]].mean(), -shares[[0, 2]].mean(), -shares[[0, 3]].mean()]
    assert metric_per_user("novelty", RANKED, target, 2, **beside) == pytest.approx(expected)
    alike = metric_per_user("diversity", RANKED, target, 3, vectors=FACTS["vectors"])
    assert alike == pytest.approx([(1 + 0 + 1) / 3, (0 + 1 + 1) / 3, 2.0])
    assert metric_per_user("diversity", RANKED, target, 1, vectors=FACTS["vectors"]).tolist() == [0, 0, 0]


def test_a_table_gives_metrics_what_they_need_of_each_domain() -> None:
    facts = {"a": {"items": np.array([0, 1, 2])}, "b": {"items": np.array([3, 4])}}
    ranked, target, domains = np.array([[0], [0], [3]]), np.array([1, 0, 3]), ["a", "a", "b"]
    table = metrics_table(ranked, target, domains, [1], ["recall", "coverage"], facts)
    found = {(d, m): value for d, m, _, value, _ in table.iter_rows()}
    assert (found["a", "coverage"], found["b", "coverage"]) == (1 / 3, 1 / 2)
    assert found["average", "coverage"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    with pytest.raises(RankingError, match="metric 'gini' needs items of b, and there are none"):
        metrics_table(ranked, target, domains, [1], ["gini"], {"a": facts["a"]})
