"""Items that share an identifier: ranked at their expected place, against all orders and by a search."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.codes import ItemCodes
from genrec_lab.evaluation import metrics_table
from genrec_lab.evaluation.ranking import (
    SharedRanking,
    metric_per_user,
    mrr_per_user,
    ndcg_per_user,
    recall_per_user,
)

GROUPS = st.lists(st.integers(0, 3), min_size=3, max_size=6)


def every_order(groups: list[list[int]]) -> list[list[int]]:
    """All rankings of items in which the groups keep their order and the items in each come in any."""
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    return [list(itertools.chain(*order)) for order in orders]


@settings(max_examples=60)
@given(GROUPS, st.integers(1, 6), st.data())
def test_expected_metrics_are_means_over_all_orders(names: list[int], k: int, data: st.DataObject) -> None:
    codes = ItemCodes(np.array(names)[:, None], (4,))
    lowest = codes.representatives()
    assert lowest.tolist() == [names.index(name) for name in names]
    order = data.draw(st.permutations(sorted(set(lowest.tolist()))))
    ranked = order[: data.draw(st.integers(1, len(order)))]
    row = np.full((1, len(names)), -1)
    row[0, : len(ranked)] = ranked
    ranking, target = SharedRanking(row, lowest), data.draw(st.integers(0, len(names) - 1))
    k = min(k, len(names))
    members = [[item for item, one in enumerate(lowest) if one == group] for group in ranked]
    orders = every_order(members)
    padded = np.full((len(orders), len(names)), -1)
    padded[:, : len(orders[0])] = orders
    targets = np.full(len(orders), target)
    for name, per_user in (("recall", recall_per_user), ("ndcg", ndcg_per_user), ("mrr", mrr_per_user)):
        expected = per_user(padded, targets, k).mean()
        assert metric_per_user(name, ranking, [target], k)[0] == pytest.approx(expected)
    assert ranking.optimistic_recall([target], k)[0] == float(lowest[target] in ranked[:k])
    assert ranking.optimistic_recall([target], k)[0] >= metric_per_user("recall", ranking, [target], k)[0]
    assert ranking.items[0][ranking.items[0] >= 0].tolist() == list(itertools.chain(*members))[: len(names)]


def test_a_group_at_the_edge_by_hand() -> None:
    """Three items share the second identifier; of the first two places they have one."""
    ranking = SharedRanking(np.array([[4, 0], [0, 4]]), np.array([0, 0, 0, 3, 4]))
    assert ranking.items.tolist() == [[4, 0], [0, 1]]
    assert metric_per_user("recall", ranking, [1, 4], 2).tolist() == [1 / 3, 0.0]
    assert metric_per_user("ndcg", ranking, [1, 2], 2).tolist() == pytest.approx(
        [1 / math.log2(3) / 3, (1 + 1 / math.log2(3)) / 3]
    )
    assert ranking.optimistic_recall([1, 4], 2).tolist() == [1.0, 1.0]
    table = metrics_table(ranking, [1, 2], ["A", "A"], (2,))
    assert table.filter(domain="A", metric="recall")["value"].to_list() == pytest.approx(
        [(1 / 3 + 2 / 3) / 2]
    )
    for metric in ("recall", "hit_rate"):
        assert metric_per_user(metric, ranking, np.array([1, 4]), 2).tolist() == [1 / 3, 0.0]
    assert metric_per_user("mrr", ranking, np.array([1, 2]), 2).tolist() == [1 / 6, (1 + 1 / 2) / 3]


def test_unique_identifiers_are_ranked_as_items() -> None:
    rng = np.random.default_rng(0)
    rows = np.array([rng.permutation(9)[:5] for _ in range(40)])
    target = rng.integers(0, 9, 40)
    ranking = SharedRanking(rows, np.arange(9))
    assert (ranking.items == rows).all()
    for k in (1, 3, 5):
        assert (metric_per_user("recall", ranking, target, k) == recall_per_user(rows, target, k)).all()
        assert metric_per_user("ndcg", ranking, target, k) == pytest.approx(ndcg_per_user(rows, target, k))
