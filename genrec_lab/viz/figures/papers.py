"""A paper's table beside ours, row by row."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz.tables import table_figure

_FAR_BELOW = -10.0  # percent; a row this far below its paper's figure is in bold


def paper_table(beside: pl.DataFrame) -> go.Figure:
    """Draw one paper's figures beside ours, as `evaluation.papers.beside_papers` gives them.

    Raises ValueError where there is nothing to draw, or more than one paper.
    """
    papers = beside["paper"].unique(maintain_order=True).to_list()
    if len(papers) != 1:
        raise ValueError(f"paper_table draws one paper's table; got {papers or 'an empty frame'}")
    below = (beside["difference"] < _FAR_BELOW).to_list()
    domains = ", ".join(beside["domain"].unique(maintain_order=True))
    columns = [
        beside["domain"].to_list(),
        beside["method"].to_list(),
        [f"{metric}@{k}" for metric, k in beside.select("metric", "k").iter_rows()],
        [f"{value:.4f}" for value in beside["ours"]],
        [f"{value:.4f}" for value in beside["theirs"]],
        [f"{value:+.1f} %" for value in beside["difference"]],
    ]
    plain = [False] * beside.height
    return table_figure(
        f"Ours beside {papers[0]}: {domains}",
        f"Bold: more than {-_FAR_BELOW:.0f} % below the paper's figure. Several seeds are averaged.",
        ("domain", "row", "metric", "ours", "paper", "difference"),
        columns,
        widths=(1.2, 1.4, 1.1, 0.8, 0.8, 1.0),
        left=3,
        emphasis=[plain, below, plain, plain, plain, below],
    )
