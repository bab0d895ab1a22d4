"""The papers' figures: as printed, and beside measured ones only where the data are the same."""

from __future__ import annotations

import polars as pl
import pytest

from genrec_lab.evaluation import user_weighted_average
from genrec_lab.evaluation.papers import beside_papers, other_data, paper_ablations, paper_results
from genrec_lab.presets import ABLATIONS
from genrec_lab.viz.figures import paper_table

GMC_AVERAGES = {  # the line AVERAGE of GMC Table 3, which is no part of the resource
    ("SASRec", "recall", 5): 0.0808, ("BERT4Rec", "recall", 10): 0.0860, ("HGN", "ndcg", 5): 0.0565,
    ("GRU4Rec", "ndcg", 10): 0.0740, ("FDSA", "recall", 5): 0.0819, ("S3-Rec", "ndcg", 10): 0.0617,
    ("UniSRec", "recall", 10): 0.1135, ("VQ-Rec", "recall", 10): 0.1138, ("RecFormer", "ndcg", 5): 0.0570,
    ("P5-CID", "ndcg", 10): 0.0686, ("TIGER", "recall", 10): 0.1066, ("IDGenRec", "ndcg", 10): 0.0797,
    ("GMC", "ndcg", 10): 0.0850,
}  # fmt: skip


def metrics(*rows: tuple) -> pl.DataFrame:
    columns = ("method", "domain", "metric", "k", "value", "users", "seed")
    return pl.DataFrame(rows, schema=columns, orient="row")


@pytest.mark.parametrize("cell", GMC_AVERAGES, ids=str)
def test_the_columns_of_gmc_table_3_average_to_its_last_line(cell: tuple) -> None:
    """A figure in the wrong row, column or domain would move the average that the paper prints."""
    row, metric, k = cell
    found = paper_results().filter(pl.col("paper") == "GMC", row=row, metric=metric, k=k)
    assert found["domain"].to_list() == ["Scientific", "Pantry", "Instruments", "Arts", "Office"]
    average = user_weighted_average(found["value"].to_list(), found["users"].to_list())
    assert average == pytest.approx(GMC_AVERAGES[cell], abs=1.5e-4)


def test_some_cells_of_utgrec_table_2() -> None:
    table = paper_results().filter(pl.col("paper") == "UTGRec")
    cells = {
        ("Instrument", "GRU4Rec", "recall", 5): 0.0324, ("Scientific", "LETTER", "ndcg", 5): 0.0182,
        ("Game", "MISSRec", "recall", 10): 0.0862, ("Office", "UTGRec", "ndcg", 10): 0.0269,
        ("Office", "TIGER_M", "ndcg", 10): 0.0234, ("Scientific", "FMLP-Rec", "recall", 10): 0.0422,
    }  # fmt: skip
    for (domain, row, metric, k), value in cells.items():
        assert table.filter(domain=domain, row=row, metric=metric, k=k)["value"].to_list() == [value]


def test_tables_are_whole_and_recall_is_never_below_ndcg() -> None:
    table = paper_results()
    assert table.height == 5 * 4 * 13 + 4 * 4 * 13
    assert table.select("paper", "domain", "row", "metric", "k").is_duplicated().sum() == 0
    wide = table.pivot(on=["metric"], index=["paper", "domain", "row", "k"], values="value")
    assert (wide["recall"] > wide["ndcg"]).all()


# "RI" of GMC Table 4: what GMC gains over each variant, in percent; a column that the resource does not have.
GMC_GAINS = {
    ("gmc_separate_codebooks", "Scientific", "recall"): 25.1,
    ("gmc_separate_codebooks", "Office", "ndcg"): 6.5,
    ("gmc_separate_recommenders", "Pantry", "recall"): 49.2,
    ("gmc_separate_recommenders", "Office", "ndcg"): 3.2,
    ("gmc_without_dcl", "Instruments", "recall"): 4.1, ("gmc_without_dcl", "Scientific", "ndcg"): 1.7,
    ("gmc_without_lora", "Pantry", "ndcg"): 5.8, ("gmc_without_lora", "Scientific", "recall"): 3.5,
    ("gmc_full_finetuning", "Pantry", "recall"): 7.0, ("gmc_full_finetuning", "Instruments", "recall"): 0.8,
}  # fmt: skip


@pytest.mark.parametrize("cell", GMC_GAINS, ids=str)
def test_gains_of_gmc_over_its_variants_are_those_that_the_paper_prints(cell: tuple) -> None:
    row, domain, metric = cell
    change = paper_ablations().filter(row=row, domain=domain, metric=metric)["change"].item()
    assert 100 / (1 + change / 100) - 100 == pytest.approx(GMC_GAINS[cell], abs=0.25)


def test_ablations_are_whole_and_named_as_rows_are() -> None:
    table = paper_ablations()
    assert table.height == 4 * 2 * 6 + 2 * 2 * 8
    assert set(table["row"]) == {*ABLATIONS, "gmc", "utgrec"}
    assert table.filter(pl.col("row").is_in(["gmc", "utgrec"]))["change"].to_list() == [0.0] * 12
    cells = {
        ("utgrec_without_tree", "Instrument", "recall"): 0.0591,
        ("utgrec_full_finetuning", "Scientific", "ndcg"): 0.0225,
        ("utgrec_without_pretraining", "Scientific", "recall"): 0.0444,
    }
    for (row, domain, metric), value in cells.items():
        assert table.filter(row=row, domain=domain, metric=metric)["value"].to_list() == [value]


def test_rows_stand_beside_their_papers_with_the_difference_in_percent() -> None:
    measured = metrics(
        ("sasrec", "Scientific", "recall", 10, 0.10, 8317, 0),
        ("sasrec", "Scientific", "recall", 10, 0.12, 8317, 1),
        ("s3rec", "scientific", "ndcg", 10, 0.0251, 8317, 0),
        ("gmc_cpu", "Scientific", "ndcg", 10, 0.0652, 8317, 0),
        ("popularity", "Scientific", "ndcg", 10, 0.01, 8317, 0),
        ("sasrec", "Movies", "recall", 10, 0.10, 943, 0),
    )
    beside = beside_papers(measured)
    assert beside.select("paper", "domain", "method", "metric", "k", "ours", "theirs").rows() == [
        ("GMC Table 3", "Scientific", "sasrec", "recall", 10, pytest.approx(0.11), 0.1017),
        ("GMC Table 3", "scientific", "s3rec", "ndcg", 10, 0.0251, 0.0502),
        ("GMC Table 3", "Scientific", "gmc_cpu", "ndcg", 10, 0.0652, 0.0652),
    ]
    assert beside["difference"].to_list() == pytest.approx([100 * (0.11 / 0.1017 - 1), -50.0, 0.0])


def test_equally_named_data_with_other_users_are_not_compared() -> None:
    measured = metrics(("sasrec", "Scientific", "recall", 10, 0.10, 900, 0))
    assert beside_papers(measured).is_empty()
    assert other_data(measured) == [
        f"Scientific has 900 users here and {users} in the table of {paper}: these are other data, so "
        "the numbers cannot be compared."
        for users, paper in (("8,317", "GMC"), ("50,985", "UTGRec"))
    ]
    assert other_data(metrics(("sasrec", "Movies", "recall", 10, 0.1, 9, 0))) == []


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("tiger_multimodal", "TIGER_M"),
        ("vqrec", "VQ-Rec"),
        ("fmlp_rec", "FMLP-Rec"),
        ("utgrec_small", "UTGRec"),
    ],
)
def test_rows_are_known_by_our_names(method: str, row: str) -> None:
    (printed,) = paper_results().filter(pl.col("users") == 57439, row=row, metric="ndcg", k=10)["value"]
    beside = beside_papers(metrics((method, "Instrument", "ndcg", 10, 0.03, 57439, 0)))
    assert beside["theirs"].to_list() == [printed]


def test_a_variant_of_a_method_is_not_the_method() -> None:
    measured = metrics(("gmc_without_lora", "Scientific", "ndcg", 10, 0.06, 8317, 0))
    assert beside_papers(measured).is_empty()


def test_the_table_shows_every_row_and_marks_those_far_below() -> None:
    measured = metrics(
        ("sasrec", "Scientific", "recall", 10, 0.1017, 8317, 0),
        ("hgn", "Scientific", "recall", 10, 0.05, 8317, 0),
    )
    figure = paper_table(beside_papers(measured))
    cells = figure.data[0].cells.values
    assert list(cells[1]) == ["sasrec", "<b>hgn</b>"]
    assert list(cells[3]) == ["0.1017", "0.0500"]
    assert list(cells[4]) == ["0.1017", "0.0916"]
    assert list(cells[5]) == ["+0.0 %", "<b>-45.4 %</b>"]
    with pytest.raises(ValueError, match="draws one paper's table; got an empty frame"):
        paper_table(beside_papers(measured).clear())
