"""How well each row finds targets that are rare, and those that are popular (UTGRec Figure 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go
import polars as pl

from genrec_lab.data import training_sequences
from genrec_lab.evaluation.long_tail import metric_by_popularity
from genrec_lab.lab.stages.differences import per_user
from genrec_lab.lab.stages.evaluating import Rankings
from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.store import Run
from genrec_lab.viz.figures import long_tail

_USUAL = "tiger"  # UTGRec draws what others gain over it


def rows_by_popularity(
    run: Run, rankings: Rankings, metric: str = "ndcg", k: int = 10, edges: Sequence[int] | None = None
) -> pl.DataFrame:
    """Each row's metric by how often the training part has the target; see `metric_by_popularity`."""
    data = load_prepared(run)
    sequences = training_sequences(data.dataset, data.dataset.domains)
    counts = Counter(item for sequence in sequences for item in sequence)
    popularity = [counts[target] for target in rankings.users["target"].to_list()]
    values = {row: per_user(rankings, row, metric, k) for row in rankings.items}
    return metric_by_popularity(values, popularity, edges)


def long_tail_figure(
    run: Run, rankings: Rankings, method: str, edges: Sequence[int] | None = None
) -> go.Figure:
    """Draw NDCG@10 by the target's popularity, rows beside TIGER where it is one, else beside the method."""
    reference = _USUAL if _USUAL in rankings.items else method
    return long_tail(rows_by_popularity(run, rankings, edges=edges), reference)
