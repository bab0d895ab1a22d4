"""Metrics by the target's popularity: groups by hand, by force, and the figure of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.evaluation.beyond import metric_by_popularity, popularity_edges
from genrec_lab.viz.figures import long_tail

POPULARITY = [0, 0, 1, 2, 3, 5, 8, 40, 41, 100]


def test_groups_have_about_as_many_users() -> None:
    assert popularity_edges(POPULARITY, groups=4) == (0, 2, 5, 40, 100)
    assert popularity_edges([7, 7, 7], groups=4) == (7,)
    assert popularity_edges([0, 0], groups=4) == (0,)


def members_of(line: dict[str, int], counts: list[int]) -> list[int]:
    return [count for count in counts if line["low"] <= count <= line["high"]]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 6))
def test_every_user_is_in_one_group_and_the_means_are_those_by_force(counts: list[int], groups: int) -> None:
    values = np.arange(len(counts), dtype=float)
    frame = metric_by_popularity({"row": values}, counts, popularity_edges(counts, groups))
    assert frame["users"].sum() == len(counts)
    for line in frame.iter_rows(named=True):
        members = [v for v, count in zip(values, counts, strict=True) if line["low"] <= count <= line["high"]]
        assert (line["users"], line["value"]) == (len(members), pytest.approx(np.mean(members)))
        assert line["high"] == 0 or 0 not in members_of(line, counts), "what training never had stands apart"


def test_edges_by_hand_and_what_is_beyond_them() -> None:
    values = {"own": np.arange(10.0), "other": np.zeros(10)}
    frame = metric_by_popularity(values, POPULARITY, (20, 40))
    own = frame.filter(row="own")
    assert own["group"].to_list() == ["0 to 20", "21 to 40", "41 to 100"]
    assert own["value"].to_list() == [3.0, 7.0, 8.5]
    (low,) = metric_by_popularity({"own": [0.5, 0.1]}, [3, 4], (20,))["low"]
    assert low == 3  # nobody's target is rarer
    assert own["users"].to_list() == [7, 1, 2]


def test_what_cannot_be_grouped_is_refused() -> None:
    with pytest.raises(ValueError, match=r"edges are \[5, 5\]; expected .* each larger"):
        metric_by_popularity({"own": [0.0]}, [1], (5, 5))
    with pytest.raises(ValueError, match=r"own has \(2,\) values, expected one for each of 1 users"):
        metric_by_popularity({"own": [0.0, 1.0]}, [1])
    with pytest.raises(ValueError, match="no users"):
        popularity_edges([])


def test_the_figure_colours_by_the_change_from_the_reference() -> None:
    counts = [1, 1, 9, 9]
    by_group = metric_by_popularity(
        {"tiger": [0.2, 0.2, 0.4, 0.4], "ours": [0.3, 0.3, 0.2, 0.2], "none": [0.0] * 4}, counts, (1, 9)
    )
    figure = long_tail(by_group, "tiger")
    (heatmap,) = figure.data
    assert list(figure.layout.yaxis.ticktext) == ["tiger", "ours", "none"]  # by the mean over all
    np.testing.assert_allclose(heatmap.z, [[0, 0], [50, -50], [-100, -100]], atol=1e-9)
    texts = {(int(a.x), int(a.y)): a.text for a in figure.layout.annotations}
    assert (texts[0, 1], texts[1, 1]) == ("<b>.3000</b>", ".2000")
    assert figure.layout.title.text.startswith("ours finds targets with 1 interaction best")
    assert [tick.split("<br>")[1] for tick in figure.layout.xaxis.ticktext] == ["2 users", "2 users"]


def test_where_the_reference_finds_nothing_there_is_no_colour() -> None:
    by_group = metric_by_popularity({"tiger": [0.0, 0.5], "ours": [0.1, 0.5]}, [0, 9])
    (heatmap,) = long_tail(by_group, "tiger").data
    assert np.isnan(heatmap.z[0][0]) and np.isnan(heatmap.z[1][0])
    assert heatmap.z[1][1] == 0


def test_what_nobody_finds_is_said_and_not_the_best() -> None:
    values = {"tiger": [0.0, 0.2, 0.5], "ours": [0.0, 0.3, 0.3]}
    figure = long_tail(metric_by_popularity(values, [0, 2, 9]), "tiger")
    assert figure.layout.title.text.replace("<br>", " ") == (
        "No row finds targets with 0 interactions; tiger finds targets with 3 to 9 interactions best"
    )
    bold = {(int(a.x), int(a.y)) for a in figure.layout.annotations if a.text.startswith("<b>")}
    assert bold == {(1, 1), (2, 0)}


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference is 'gmc'; expected one of \['own'\]"):
        long_tail(metric_by_popularity({"own": [0.1]}, [1]), "gmc")
