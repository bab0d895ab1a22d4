"""What papers print of the same data, beside what a run measured."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from genrec_lab.evaluation.papers import beside_papers, other_data
from genrec_lab.lab.store import Run
from genrec_lab.viz.figures import paper_table


def show_beside_papers(run: Run, metrics: pl.DataFrame | None = None) -> list[go.Figure]:
    """Draw and save a table for each paper that has a run's data, ours beside theirs; say where none has.

    `metrics` are by default the run's own, and may be those of several seeds.
    """
    measured = run.metrics() if metrics is None else metrics
    figures = []
    for (paper,), rows in beside_papers(measured).group_by("paper", maintain_order=True):
        name = "beside_" + str(paper).lower().replace(" ", "_")
        figures.append(run.figure(name, paper_table(rows), f"The rows of {paper} beside ours, same data."))
    if not figures:
        print("No table of the papers has rows on these data.")
    for sentence in other_data(measured):
        print(sentence)
    return figures
