"""The figure of floor and ceiling."""

import polars as pl
import pytest

from genrec_lab.viz.figures import room_above


def records(best=True, domains=("A", "B", "average")):
    rows = []
    for method, share in (("popularity", 0.1), ("best possible", 0.4)):
        for domain in domains:
            for metric in ("recall", "ndcg"):
                users = {"A": 30, "B": 10, "average": 40}[domain]
                rows.append((method, domain, metric, 10, share, users))
    frame = pl.DataFrame(rows, schema=["method", "domain", "metric", "k", "value", "users"], orient="row")
    return frame if best else frame.filter(pl.col("method") == "popularity")


def drawn(figure):
    return {trace.name: list(trace.x) for trace in figure.data if trace.name and trace.showlegend}


def test_both_ends_of_every_domain_are_drawn_and_their_ratio_told():
    figure = room_above(records())
    assert drawn(figure) == {"popularity": [0.1] * 3, "best possible": [0.4] * 3}
    assert "is 0.400, 4.0 times that of popularity" in figure.layout.title.text.replace("<br>", " ")
    assert "40 validation users" in figure.layout.title.subtitle.text


def test_where_nobody_knows_the_ceiling_only_the_floor_is_drawn():
    figure = room_above(records(best=False, domains=("A",)))
    assert drawn(figure) == {"popularity": [0.1]}
    assert "Popularity alone reaches NDCG@10 0.1000" in figure.layout.title.text


def test_a_floor_that_never_hits_gives_no_ratio():
    never = records().with_columns(
        value=pl.when(pl.col("method") == "popularity").then(0.0).otherwise(pl.col("value"))
    )
    assert "popularity never hits" in room_above(never).layout.title.text.replace("<br>", " ")


def test_a_missing_floor_is_an_error():
    with pytest.raises(ValueError, match="no method 'sasrec'"):
        room_above(records(), floor="sasrec")
