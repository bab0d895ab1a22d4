"""The ranked table in terminals: no number is cut off, however narrow the terminal is."""

import io

import polars as pl
import pytest
from rich.console import Console

from genrec_lab.lab.prepare import ties_in_short
from genrec_lab.lab.tables import kept_rows, result_tables, terminal_table

DOMAINS = {"Scientific": 0.1017, "Pantry": 0.0523, "Instruments": 0.0948}


@pytest.fixture
def metrics():
    """NDCG@10 of one method in three domains and on average, two seeds that differ by 0.002."""
    rows = [
        ("gmc_separate_codebooks", domain, "ndcg", 10, value + shift, 100, seed)
        for seed, shift in ((1, 0.0), (2, 0.002))
        for domain, value in DOMAINS.items()
    ]
    names = ("method", "domain", "metric", "k", "value", "users", "seed")
    return pl.DataFrame(rows, schema=names, orient="row")


def printed(tables, width):
    shown = io.StringIO()
    Console(file=shown, width=width).print(
        terminal_table(tables.by_domain["NDCG@10"], "by domain", tables.note)
    )
    return shown.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_no_number_is_cut_off(metrics, width):
    text = printed(result_tables(metrics), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        for value in DOMAINS.values():
            assert f"{value + 0.001:.4f}" in text
        assert text.count("0.0014") == 4  # the standard deviation of two values 0.002 apart


def test_rows_that_were_kept_despite_changed_code_are_marked_and_explained(metrics):
    other = metrics.with_columns(method=pl.lit("sasrec"))
    both = pl.concat([metrics, other])
    provenance = [
        {"stage": "02_tokens", "row": "gmc_separate_codebooks", "kept_despite": ["[bold]losses.dcl"]},
        {"stage": "02_tokens", "row": "gmc_separate_codebooks", "kept_despite": ["[bold]losses.dcl"]},
        {"stage": "05_training", "row": "sasrec", "kept_despite": []},
        {"stage": "05_training", "row": "not in the table", "kept_despite": ["f"]},
    ]
    kept = kept_rows(provenance, both["method"].unique())
    lines = printed(result_tables(both, kept), 120).splitlines()
    assert [line.split()[2] == "†" for line in lines if "±" in line] == [True, False]
    note = " ".join(" ".join(lines).split()).partition("† Made")[2]
    assert note == (
        " by older code and kept by --keep-old-code. gmc_separate_codebooks: 02_tokens was made before "
        "[bold]losses.dcl changed."
    )
    assert "†" not in printed(result_tables(both), 120)


def test_ties_in_time_are_said_by_domain_and_unknown_where_there_are_no_times(monkeypatch):
    domains = [
        {"domain": "Beauty", "users": 200, "timed": 200, "test_tied": 87},
        {"domain": "Office", "users": 50, "timed": 0, "test_tied": None},
    ]
    found = {"ties": {"rule": "file order", "domains": domains}}
    monkeypatch.setattr("genrec_lab.lab.prepare.data_summary", lambda run: found)
    assert ties_in_short(None) == (
        "Test items that are tied in time with the item before: Beauty 43.5% of users, Office unknown; "
        "ordered by file order."
    )
    found.clear()
    assert ties_in_short(None) == ""
