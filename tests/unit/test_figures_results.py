"""Figures of training, results and comparisons against plain Python; hostile text in every figure."""

from __future__ import annotations

import html
import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest

from genrec_lab.codes import ItemCodes
from genrec_lab.evaluation import health_table, metrics_table, neighbour_code_overlap
from genrec_lab.viz import figures
from genrec_lab.viz.layout import MAX_POINTS

HOSTILE = "<img src=x onerror=alert(1)> & 'Sons' $x$ <b>%{y}"
USERS = {"Garden": 100, "Kitchen": 300}


def plain(text: str) -> str:
    return html.unescape(text.replace("<br>", " ")).replace("\N{NO-BREAK SPACE}", " ")


def title_of(figure: go.Figure) -> str:
    return plain(figure.layout.title.text)


def records_of(values: dict[str, dict[str, list[float]]], metric: str = "ndcg", k: int = 10) -> pl.DataFrame:
    """Method -> domain -> one value per seed, as the records of runs."""
    rows = [
        (method, seed, domain, metric, k, value, USERS.get(domain, 50))
        for method, domains in values.items()
        for domain, seeds in domains.items()
        for seed, value in enumerate(seeds)
    ]
    return pl.DataFrame(
        rows, schema=["method", "seed", "domain", "metric", "k", "value", "users"], orient="row"
    )


RECORDS = records_of(
    {
        "Popularity": {"Garden": [0.02, 0.02], "Kitchen": [0.01, 0.01]},
        "GMC": {"Garden": [0.05, 0.07], "Kitchen": [0.04, 0.06]},
        "TIGER": {"Garden": [0.09, 0.07]},
        "best possible": {"Garden": [0.1, 0.1], "Kitchen": [0.2, 0.2]},
    }
)


# --- training


@dataclass(frozen=True)
class Epoch:
    epoch: int
    loss: float
    reconstruction: float
    quantization: float
    contrastive: float
    utilisation: tuple[float, ...]
    perplexity: tuple[float, ...]
    collision_rate: float
    seconds: float


def tokenizer_epochs(count: int, contrastive: float = 3.0) -> list[Epoch]:
    return [
        Epoch(
            e,
            4 / e,
            0.5 / e,
            0.5 / e,
            contrastive / e,
            (0.9, 0.5 + 0.4 * e / count),
            (9.0, 8.0),
            1 / e,
            0.5 * e,
        )
        for e in range(1, count + 1)
    ]


def test_tokenizer_curves_say_all_where_no_code_is_unused() -> None:
    full = replace(tokenizer_epochs(20)[-1], utilisation=(1.0, 1.0))
    assert "every level uses all of the codes" in title_of(figures.tokenizer_curves([full]))


def test_tokenizer_curves_state_the_last_epoch() -> None:
    figure = figures.tokenizer_curves(tokenizer_epochs(20), n_items=77, seed=3)
    assert title_of(figure) == (
        "After 20 epochs every level uses 90 % of the codes; 5.0 % of the items collide"
    )
    assert plain(figure.layout.title.subtitle.text) == (
        "77 items; 20 epochs in 10.0 s; 20 records up to epoch 20; "
        "the change of codes was not recorded; seed 3"
    )
    curves = {trace.name: trace for trace in figure.data[:4]}
    assert list(curves["reconstruction"].y) == pytest.approx([0.5 / e for e in range(1, 21)])
    collisions = next(trace for trace in figure.data if trace.name == "collisions")
    assert list(collisions.y) == pytest.approx([100 / e for e in range(1, 21)])


def test_tokenizer_curves_leave_out_a_loss_that_is_not_used() -> None:
    names = [trace.name for trace in figures.tokenizer_curves(tokenizer_epochs(3, contrastive=0.0)).data]
    assert "domain contrast" not in names
    assert {"total", "reconstruction", "quantisation"} <= set(names)


def test_tokenizer_curves_show_the_change_of_codes_where_it_was_recorded() -> None:
    records = [vars(epoch) for epoch in tokenizer_epochs(4)]
    old = figures.tokenizer_curves(records)
    new = figures.tokenizer_curves(
        [one | {"churn": (0.1 * e, 0.5) if e else None} for e, one in enumerate(records)]
    )
    assert "yaxis5" not in old.to_dict()["layout"]
    lines = [trace for trace in new.data if trace.yaxis == "y5"]
    assert [trace.name for trace in lines] == ["level 1", "level 2"]
    assert list(lines[0].y)[1:] == pytest.approx([10, 20, 30]) and np.isnan(lines[0].y[0])
    titles = [note.text for note in new.layout.annotations]
    assert [title for title in titles if title not in [note.text for note in old.layout.annotations]] == [
        "Items whose code changed since the last record"
    ]


def test_tokenizer_curves_show_how_even_the_codes_are_where_it_was_recorded() -> None:
    records = [
        vars(epoch) | {"gini": (0.2, 0.1 * e) if e else ()} for e, epoch in enumerate(tokenizer_epochs(4))
    ]
    figure = figures.tokenizer_curves(records)
    lines = [trace for trace in figure.data if trace.yaxis == "y5"]
    assert list(lines[1].y)[1:] == pytest.approx([0.1, 0.2, 0.3]) and np.isnan(lines[1].y[0])
    assert "Gini of the codes" in [note.text for note in figure.layout.annotations]


def test_a_long_training_is_thinned_to_its_ends() -> None:
    figure = figures.tokenizer_curves(tokenizer_epochs(10_000))
    assert sum(len(trace.x) for trace in figure.data) <= MAX_POINTS
    assert all(trace.x[0] == 1 and trace.x[-1] == 10_000 for trace in figure.data)


def history_of(values: list[float | None], monitor: str = "ndcg@10") -> list[dict[str, object]]:
    return [
        {"epoch": epoch, "loss": 5 / epoch, "metrics": {} if value is None else {monitor: value}}
        for epoch, value in enumerate(values, start=1)
    ]


def test_recommender_curves_mark_the_best_of_the_validated_epochs() -> None:
    figure = figures.recommender_curves(history_of([None, 0.03, None, 0.08, 0.05]), users=9)
    loss, validation, best = figure.data
    assert list(loss.x) == [1, 2, 3, 4, 5]
    assert list(validation.x) == [2, 4, 5]
    assert (list(best.x), list(best.y), list(best.text)) == ([4], [0.08], ["0.0800"])
    assert title_of(figure) == "Validation NDCG@10 is highest at epoch 4 of 5: 0.0800"
    low, high = figure.layout.yaxis2.range
    assert low < 0.03 and high > 0.08


def test_the_best_epoch_of_a_long_training_is_drawn() -> None:
    values: list[float | None] = [0.1] * 30_000
    values[12_345] = 0.5
    figure = figures.recommender_curves(history_of(values))
    assert sum(len(trace.x) for trace in figure.data) <= MAX_POINTS
    assert 12_346 in figure.data[1].x


def test_several_trainings_and_none_validated() -> None:
    figure = figures.recommender_curves({"Garden": history_of([0.1, 0.2]), "Kitchen": history_of([0.3])})
    assert title_of(figure) == "Validation NDCG@10 is highest for Kitchen: 0.3000 at epoch 1"
    assert title_of(figures.recommender_curves(history_of([None]))) == "1 epoch trained, none validated yet"
    with pytest.raises(ValueError, match="no epochs"):
        figures.recommender_curves([])


# --- results


def test_summary_against_plain_statistics() -> None:
    table = figures.summarise(RECORDS)
    rows = {(row["method"], row["domain"]): row for row in table.iter_rows(named=True)}
    averages = [(100 * g + 300 * k) / 400 for g, k in ((0.05, 0.04), (0.07, 0.06))]
    assert rows["GMC", "average"]["mean"] == pytest.approx(statistics.mean(averages))
    assert rows["GMC", "average"]["sd"] == pytest.approx(statistics.stdev(averages))
    assert rows["GMC", "Garden"]["sd"] == pytest.approx(statistics.stdev([0.05, 0.07]))
    # TIGER knows one domain only, so it has no average to be ranked by.
    assert ("TIGER", "average") not in rows
    assert table["method"].unique(maintain_order=True).to_list() == [
        "best possible",
        "GMC",
        "Popularity",
        "TIGER",
    ]


def test_an_average_of_a_part_of_the_domains_does_not_count() -> None:
    partial = pl.DataFrame(
        {
            "method": ["TIGER"],
            "seed": [0],
            "domain": ["average"],
            "metric": ["ndcg"],
            "k": [10],
            "value": [0.9],
        }
    ).with_columns(users=pl.lit(100, dtype=pl.Int64))
    with_partial = pl.concat([RECORDS, partial])
    assert figures.summarise(with_partial).equals(figures.summarise(RECORDS))
    without_users = with_partial.drop("users")
    assert "average" not in figures.summarise(without_users)["domain"].to_list()


def test_ranked_table_is_ready_to_print() -> None:
    table = figures.ranked_table(RECORDS)
    assert table.columns == ["rank", "method", "seeds", "Garden", "Kitchen", "average"]
    assert table.rows() == [
        ("–", "best possible", "2", "0.1000 ± 0.0000", "0.2000 ± 0.0000", "0.1750 ± 0.0000"),
        ("1", "GMC", "2", "0.0600 ± 0.0141", "0.0500 ± 0.0141", "0.0525 ± 0.0141"),
        ("2", "Popularity", "2", "0.0200 ± 0.0000", "0.0100 ± 0.0000", "0.0125 ± 0.0000"),
        ("3", "TIGER", "2", "0.0800 ± 0.0141", "–", "–"),
    ]


def test_methods_with_equal_averages_share_a_rank_and_zeros_are_never_bold() -> None:
    rows = {"a": 0.2, "b": 0.3, "c": 0.2, "d": 0.0, "e": 0.0}
    records = records_of({name: {"Garden": [value]} for name, value in rows.items()})
    table = figures.ranked_table(records)
    assert dict(table.select("method", "rank").rows()) == {"b": "1", "a": "2", "c": "2", "d": "4", "e": "4"}
    nothing = records_of({name: {"Garden": [0.0]} for name in rows})
    assert figures.ranked_table(nothing)["rank"].to_list() == ["1"] * 5
    figure = figures.results_table(nothing)
    assert not any(cell.startswith("<b>") for cell in figure.data[0].cells.values[3])
    assert title_of(figure) == "No method has NDCG@10 above 0 in Garden"


def test_one_seed_has_no_deviation_and_one_domain_no_average() -> None:
    one = RECORDS.filter((pl.col("seed") == 0) & (pl.col("domain") == "Garden"))
    table = figures.ranked_table(one)
    assert table.columns == ["rank", "method", "seeds", "Garden"]
    assert table["Garden"].to_list() == ["0.1000", "0.0900", "0.0500", "0.0200"]


def test_table_of_all_metrics_has_a_column_each() -> None:
    both = pl.concat([RECORDS, RECORDS.with_columns(metric=pl.lit("recall"), value=pl.col("value") * 2)])
    table = figures.ranked_table(both, columns="metrics")
    assert table.columns[3:] == ["NDCG@10", "Recall@10"]
    assert table.row(1)[3:] == ("0.0525 ± 0.0141", "0.1050 ± 0.0283")


def test_records_come_from_metrics_tables() -> None:
    generator = np.random.default_rng(0)
    domains = np.repeat(["Garden", "Kitchen"], [30, 70])
    ranked = np.stack([generator.permutation(20)[:10] for _ in range(100)])
    targets = generator.integers(0, 20, 100)
    measured = metrics_table(ranked, targets, domains)
    records = measured.with_columns(method=pl.lit("ours"), seed=pl.lit(0))
    for metric, k in (("recall", 5), ("ndcg", 10)):
        expected = measured.filter((pl.col("metric") == metric) & (pl.col("k") == k))
        found = figures.summarise(records, metric, k)
        assert found["domain"].to_list() == expected["domain"].to_list()
        assert found["mean"].to_list() == pytest.approx(expected["value"].to_list())


def test_results_that_cannot_be_ranked_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no values of Recall@5; there are NDCG@10"):
        figures.ranked_table(RECORDS, "recall", 5)
    with pytest.raises(ValueError, match="'GMC' with seed 0 states NDCG@10 of 'Garden' more than once"):
        figures.ranked_table(pl.concat([RECORDS, RECORDS.filter(pl.col("method") == "GMC")]))
    with pytest.raises(ValueError, match="columns \\['value'\\] are missing"):
        figures.summarise(RECORDS.drop("value"))


def test_results_table_sets_the_best_in_bold() -> None:
    figure = figures.results_table(RECORDS)
    garden = figure.data[0].cells.values[3]
    assert [cell.startswith("<b>") for cell in garden] == [False, False, False, True]
    assert title_of(figure) == "GMC has the highest NDCG@10 on average: 0.0525, 30 % of the best possible"


def test_metric_bars_show_means_deviations_and_the_bound() -> None:
    figure = figures.metric_bars(RECORDS)
    garden, kitchen, average = [trace for trace in figure.data if trace.type == "bar"]
    assert list(garden.x) == pytest.approx([0.06, 0.02, 0.08])
    assert list(garden.error_x.array) == pytest.approx(
        [statistics.stdev([0.05, 0.07]), 0, 0.0141421], abs=1e-6
    )
    assert list(kitchen.y) == [0, 1] and list(average.y) == [0, 1]
    assert [shape.x0 for shape in figure.layout.shapes] == pytest.approx([0.1, 0.2, 0.175])
    assert figure.layout.yaxis.ticktext == ("GMC", "Popularity", "TIGER")
    assert "2 domains; seeds 0, 1" in plain(figure.layout.title.subtitle.text)
    with pytest.raises(ValueError, match="GMCC"):
        figures.metric_bars(RECORDS, highlight=["GMCC"])


def test_error_bars_are_said_of_several_seeds_only() -> None:
    note = figures.metric_bars(RECORDS).layout.title.subtitle.text
    assert "error bars" in note
    one = RECORDS.filter((pl.col("seed") == 0) | (pl.col("method") == "best possible"))
    figure = figures.metric_bars(one)
    assert "error bars" not in figure.layout.title.subtitle.text
    assert figure.data[0].customdata[0][2] == "1 seed" and not figure.data[0].error_x.visible


def test_shares_of_the_best_possible_divide_by_the_domain_s_bound() -> None:
    figure = figures.metric_bars(RECORDS, of_best=True)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert list(bars[0].x) == pytest.approx([60, 20, 80])
    assert list(bars[1].x) == pytest.approx([25, 5])
    assert list(bars[2].x) == pytest.approx([30, 100 * 0.0125 / 0.175])
    with pytest.raises(ValueError, match="only Bazaar"):
        figures.metric_bars(RECORDS.filter(pl.col("method") != "best possible"), of_best=True)


# --- comparisons


def test_beam_misses_against_sets() -> None:
    generator = np.random.default_rng(0)
    exact = np.stack([generator.permutation(30)[:5] for _ in range(40)])
    exact[3, 2:] = -1
    found = {width: np.stack([generator.permutation(30)[:5] for _ in range(40)]) for width in (50, 10)}
    domains = np.repeat(["Garden", "Kitchen"], [15, 25])
    figure = figures.beam_misses(exact, found, domains)
    for trace in figure.data:
        users = np.flatnonzero(domains == trace.name)
        for place, width in enumerate([10, 50]):
            shares = [
                len(set(exact[u].tolist()) - {-1} - set(found[width][u].tolist())) / (exact[u] >= 0).sum()
                for u in users
            ]
            assert trace.y[place] == pytest.approx(100 * sum(shares) / len(shares))
            assert trace.customdata[place][1] == width
    assert figures.missed_share(exact, exact).tolist() == [0.0] * 40
    assert "With 50 beams the search misses" in title_of(figure)


def test_adaptation_change_from_nothing_has_no_share() -> None:
    changes = pl.DataFrame({"domain": ["A", "B", "C"], "before": [0.1, 0.0, 0.0], "after": [0.2, 0.1, 0.0]})
    figure = figures.adaptation_change(changes)
    (texts,) = [[text.strip() for text in trace.text] for trace in figure.data if trace.mode == "text"]
    assert texts == ["+100\N{NO-BREAK SPACE}%", "from 0", "±0"]


def test_adaptation_change_averages_seeds_and_sorts_by_gain() -> None:
    changes = pl.DataFrame(
        {
            "domain": ["Garden", "Garden", "Kitchen", "Kitchen"],
            "seed": [0, 1, 0, 1],
            "before": [0.10, 0.20, 0.10, 0.10],
            "after": [0.10, 0.19, 0.12, 0.14],
        }
    )
    figure = figures.adaptation_change(changes)
    (texts,) = [[text.strip() for text in trace.text] for trace in figure.data if trace.mode == "text"]
    assert [text[:2] for text in texts] == ["+3", "−3"]
    before = next(trace for trace in figure.data if trace.name == "before adaptation")
    assert list(before.x) == pytest.approx([0.10, 0.15])
    assert list(before.error_x.array) == pytest.approx([0, statistics.stdev([0.1, 0.2])])
    assert "higher than before in 1 of 2 domains, most in Kitchen (+0.0300)" in title_of(figure)
    assert "best of several epochs" in figure.layout.title.subtitle.text


def test_difference_intervals_sort_the_decided_from_the_undecided() -> None:
    differences = pl.DataFrame(
        {
            "name": ["a", "b", "c", "d"],
            "difference": [0.2, 0.1, -0.2, 0.3],
            "low": [0.1, -0.1, -0.3, 0.0],
            "high": [0.3, 0.2, -0.1, 0.4],
        }
    )
    figure = figures.difference_intervals(differences, first="GMC", second="TIGER", users=50)
    kinds = {trace.name: list(trace.y) for trace in figure.data}
    assert kinds == {"GMC better": [0], "TIGER better": [2], "undecided": [1, 3]}
    assert list(figure.data[0].error_x.array) == pytest.approx([0.1])
    assert title_of(figure).startswith("GMC beats TIGER in 1 of 4 comparisons and loses in 1")
    with pytest.raises(ValueError, match=r"'a' has 0\.2 outside"):
        figures.difference_intervals(differences.with_columns(low=0.25), first="GMC", second="TIGER")


WORTH = pl.DataFrame(
    {
        "variant": ["without a", "without b", "without c"],
        "change": [-20.0, -3.0, 4.0],
        "low": [-30.0, -8.0, 1.0],
        "high": [-12.0, 2.0, 9.0],
        "sd": [2.0, None, 1.0],
    }
)


def test_worth_of_parts_tells_missed_parts_from_others_and_puts_the_papers_above() -> None:
    papers = pl.DataFrame(
        {
            "row": ["without c", "without a", "another method's"],
            "paper": ["P Table 1"] * 3,
            "domain": ["Office", "Office", "Office"],
            "change": [-1.0, -5.0, -9.0],
        }
    )
    figure = figures.worth_of_parts(WORTH, papers, method="GMC", users=70)
    drawn = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in figure.data}
    assert drawn["worse without"] == {0: -20.0}
    assert drawn["better without"] == {2: 4.0}
    assert drawn["undecided"] == {1: -3.0}
    above = {round(place + 0.32): change for place, change in drawn["P Table 1, Office"].items()}
    assert above == {0: -5.0, 2: -1.0}
    worse = next(trace for trace in figure.data if trace.name == "worse without").error_x
    assert (list(worse.array), list(worse.arrayminus)) == ([8.0], [10.0])
    assert (
        title_of(figure)
        == "without a has 20 % lower NDCG@10 than GMC; significantly lower without 1 of 3 parts"
    )
    marks = [trace.marker.symbol for trace in figure.data]
    assert len(set(marks)) == len(marks)


def test_worth_of_parts_without_a_missed_one_says_so_and_refuses_several_rows_of_a_variant() -> None:
    figure = figures.worth_of_parts(WORTH[1:], method="GMC")
    assert title_of(figure) == "GMC: NDCG@10 is not significantly lower without any of 2 parts"
    with pytest.raises(ValueError, match="'without a' has more than one row"):
        figures.worth_of_parts(pl.concat([WORTH, WORTH[:1]]), method="GMC")
    with pytest.raises(ValueError, match="no rows"):
        figures.worth_of_parts(WORTH[:0], method="GMC")


# --- hostile text


def hostile_figures() -> dict[str, Callable[[], go.Figure]]:
    codes = np.random.default_rng(0).integers(0, 8, (40, 3))
    domains = np.repeat([HOSTILE, "Kitchen"], 20)
    sizes = (8, 8, 8)
    health = health_table({HOSTILE: ItemCodes(codes, sizes, domains.tolist())})
    points = np.random.default_rng(1).normal(size=(40, 3, 2))
    sequences = pl.DataFrame({"domain": [HOSTILE, "Kitchen"], "items": [[0, 1], [2, 3, 3]]})
    records = RECORDS.with_columns(
        method=pl.col("method").replace({"GMC": HOSTILE}),
        domain=pl.col("domain").replace({"Garden": HOSTILE}),
    )
    overlap = neighbour_code_overlap(points[:, 0], codes, [2, 3], domains).with_columns(
        tokenizer=pl.lit(HOSTILE)
    )
    statistics_frame = pl.DataFrame({"domain": [HOSTILE], "users": [1], "items": [2], "interactions": [3]})
    changes = pl.DataFrame({"domain": [HOSTILE], "before": [0.1], "after": [0.2]})
    difference = pl.DataFrame({"name": [HOSTILE], "difference": [0.2], "low": [0.1], "high": [0.3]})
    costs = pl.DataFrame({"policy": [HOSTILE], "moved": [1], "cost": [1.0]})
    told = pl.DataFrame({name: [HOSTILE] for name in ("title", "domain", "text")}).with_columns(
        image=pl.lit(None, pl.String)
    )
    exact = np.arange(40 * 5).reshape(40, 5)
    titles = [HOSTILE] * 40
    return {
        "sequence_lengths": lambda: figures.sequence_lengths(sequences),
        "popularity_curve": lambda: figures.popularity_curve(sequences),
        "statistics_table": lambda: figures.statistics_table(statistics_frame),
        "recommender_curves": lambda: figures.recommender_curves({HOSTILE: history_of([0.1, 0.2])}),
        "code_usage": lambda: figures.code_usage(codes, sizes, domains),
        "code_sharing": lambda: figures.code_sharing(codes, sizes, domains),
        "tokenizers_compared": lambda: figures.tokenizers_compared(health),
        "neighbour_overlap": lambda: figures.neighbour_overlap(overlap),
        "collision_groups": lambda: figures.collision_groups(codes, domains),
        "policy_costs": lambda: figures.policy_costs(costs),
        "identifier_examples": lambda: figures.identifier_examples(codes, titles, domains),
        "residual_atlas": lambda: figures.residual_atlas(points, domains, titles=titles, method=HOSTILE),
        "levels_leave": lambda: figures.levels_leave(
            points[0, :, 0] ** 2, points[:, :, 0], domains, together=True
        ),
        "kept_by_codes": lambda: figures.kept_by_codes(told, [[1]], [[[HOSTILE]]], None),
        "metric_bars": lambda: figures.metric_bars(records),
        "results_table": lambda: figures.results_table(records),
        "share_of_best": lambda: figures.metric_bars(records, of_best=True),
        "beam_misses": lambda: figures.beam_misses(exact, {5: exact}, domains),
        "adaptation_change": lambda: figures.adaptation_change(changes, metric=HOSTILE),
        "difference_intervals": lambda: figures.difference_intervals(difference, first=HOSTILE, second="b"),
        "worth_of_parts": lambda: figures.worth_of_parts(
            WORTH.with_columns(variant=pl.concat_str(pl.lit(HOSTILE), "variant")),
            pl.DataFrame(
                {"row": [f"{HOSTILE}without a"], "paper": [HOSTILE], "domain": [HOSTILE], "change": [1.0]}
            ),
            method=HOSTILE,
            metric=HOSTILE,
        ),
    }


@pytest.mark.parametrize("name", sorted(hostile_figures()))
def test_no_figure_draws_data_as_markup_or_tex(name: str) -> None:
    figure = hostile_figures()[name]().to_plotly_json()
    del figure["layout"]["template"]
    texts = re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(figure, default=lambda value: value.tolist()))
    drawn = [text for text in texts if "img src" in html.unescape(text) or "Sons" in html.unescape(text)]
    own_markup = re.compile(r"</?[bi]>|<br>")
    for text in drawn:
        assert "<" not in own_markup.sub("", text), text
        assert "$" not in text, text
    # Field names in braces would be filled in a hover template; data must not get into one.
    templates = [trace.get("hovertemplate") or "" for trace in figure["data"]]
    assert not any("Sons" in template for template in templates)
