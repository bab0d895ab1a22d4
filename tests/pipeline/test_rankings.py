"""The ranked table in terminals: no number is cut off, however narrow the terminal is."""

import io

import polars as pl
import pytest
from rich.console import Console

from genrec_lab.lab.rankings import rankings, terminal_table

DOMAINS = {"Scientific": 0.1017, "Pantry": 0.0523, "Instruments": 0.0948}


@pytest.fixture
def table():
    """NDCG@10 of one method in three domains and on average, two seeds that differ by 0.002."""
    rows = [
        ("gmc_separate_codebooks", domain, "ndcg", 10, value + shift, 100, seed)
        for seed, shift in ((1, 0.0), (2, 0.002))
        for domain, value in DOMAINS.items()
    ]
    names = ("method", "domain", "metric", "k", "value", "users", "seed")
    return rankings(pl.DataFrame(rows, schema=names, orient="row")).by_domain["NDCG@10"]


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_no_number_is_cut_off(table, width):
    shown = io.StringIO()
    Console(file=shown, width=width).print(terminal_table(table, "NDCG@10"))
    text = shown.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    if width >= 80:
        for value in DOMAINS.values():
            assert f"{value + 0.001:.4f}" in text
        assert text.count("0.0014") == 4  # the standard deviation of two values 0.002 apart
