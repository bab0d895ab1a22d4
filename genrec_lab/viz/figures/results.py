"""Results by method and domain: records of runs, their summary over seeds, the ranked table, and bars.

A records frame has `method, seed, domain, metric, k, value, users`: the `metrics_table` of each run plus its
method and seed. Rows of the domain "average" are weighted by users, and are computed if a run lacks them.
With a single domain, no average is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.evaluation.ranking import AVERAGE
from genrec_lab.viz import theme
from genrec_lab.viz.figures.training import metric_name
from genrec_lab.viz.layout import error_bars, panels, require_columns
from genrec_lab.viz.sentences import paper_title, records_note, winner_title
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.text import label, shorten

BEST_POSSIBLE = "best possible"
"""The method that is a bound, not a competitor: the best that any model could reach on Bazaar."""

_COLUMNS = ("method", "domain", "metric", "k", "value")
_METHODS = 170  # width of the names to the left of the bars, in pixels
_FAR_BELOW = -10.0  # percent; rows this far below the paper's value are bold


def summarise(records: pl.DataFrame, metric: str = "ndcg", k: int = 10) -> pl.DataFrame:
    """Return mean and standard deviation over seeds of one metric: frame `method, domain, mean, sd, seeds`.

    Domains are in order of first appearance, with "average" last (recomputed, for runs with all domains);
    methods by descending average. sd (n - 1) is null for one seed. Raises ValueError if the metric at k is
    not in the records, or if a run has a value twice.
    """
    require_columns(records, _COLUMNS)
    chosen = records.filter((pl.col("metric").str.to_lowercase() == metric.lower()) & (pl.col("k") == k))
    if chosen.height == 0:
        known = sorted({metric_name(*pair) for pair in records.select("metric", "k").unique().iter_rows()})
        raise ValueError(f"records: no values of {metric_name(metric, k)}; there are {', '.join(known)}")
    if "seed" not in chosen.columns:
        chosen = chosen.with_columns(seed=pl.lit(0))
    whole = _with_averages(chosen)
    twice = whole.filter(whole.select("method", "seed", "domain").is_duplicated())
    if twice.height:
        raise ValueError(
            f"records: {twice['method'][0]!r} with seed {twice['seed'][0]} states {metric_name(metric, k)} "
            f"of {twice['domain'][0]!r} more than once; keep one row per run and domain"
        )
    table = whole.group_by(["method", "domain"], maintain_order=True).agg(
        mean=pl.col("value").mean(), sd=pl.col("value").std(), seeds=pl.len()
    )
    # The best possible first, then methods by descending average, then those without one by mean value.
    average = pl.col("mean").filter(pl.col("domain") == AVERAGE).first()
    each = table.group_by("method", maintain_order=True).agg(average=average, mean=pl.col("mean").mean())
    value = pl.coalesce("average", "mean", 0.0)
    ranked = each.sort(
        pl.col("method") != BEST_POSSIBLE, pl.col("average").is_null(), -value, maintain_order=True
    )
    order: dict[str, Any] = {"method": ranked["method"], "domain": domain_order(table)}
    return table.sort([pl.col(name).cast(pl.Enum(values)) for name, values in order.items()])


def ranked_table(
    records: pl.DataFrame,
    metric: str = "ndcg",
    k: int = 10,
    *,
    columns: Literal["domains", "metrics"] = "domains",
) -> pl.DataFrame:
    """Return the results as text, ready to print: one row per method, ranked by one metric's average.

    columns: `rank, method, seeds`, and this metric in each domain and on average ("domains"), or the average
    of every metric at every k ("metrics"). Cells are "mean ± standard deviation", the latter for two or more
    seeds, or "–". The best possible comes first and has no rank.
    """
    ranking = summarise(records, metric, k)
    methods = ranking["method"].unique(maintain_order=True).to_list()
    if columns == "domains":
        shown = {name: ranking.filter(pl.col("domain") == name) for name in domain_order(ranking)}
    else:
        whole = domain_order(ranking)[-1]
        shown = {
            metric_name(name, cut): summarise(records, name, cut).filter(pl.col("domain") == whole)
            for name, cut in records.select("metric", "k").unique(maintain_order=True).iter_rows()
        }
    most = ranking.group_by("method", maintain_order=True).agg(pl.col("seeds").max().cast(pl.String))
    cells = {
        name: [_cell(frame.filter(pl.col("method") == method)) for method in methods]
        for name, frame in shown.items()
    }
    ranks = _ranks(ranking, methods)
    return pl.DataFrame({"rank": ranks, "method": methods, "seeds": most["seeds"], **cells})


def _ranks(table: pl.DataFrame, methods: Sequence[str]) -> list[str]:
    """Return each method's rank by its average; ties share the best rank, and the bound has "–"."""
    averages = dict(table.filter(pl.col("domain") == domain_order(table)[-1]).select("method", "mean").rows())
    values = [averages.get(method) for method in methods if method != BEST_POSSIBLE]
    # Methods without an average come last, and are not tied.
    ranks = (place if value is None else values.index(value) for place, value in enumerate(values))
    return ["–" if method == BEST_POSSIBLE else str(next(ranks) + 1) for method in methods]


def results_table(records: pl.DataFrame, metric: str = "ndcg", k: int = 10) -> go.Figure:
    """Draw `ranked_table` as a plotly table, the best of each column in bold."""
    table = ranked_table(records, metric, k)
    names = table.columns[3:]
    # The bound, which has no rank, and missing values are never bold.
    numbers = table.select(
        pl.when(pl.col("rank") != "–").then(pl.col(names).str.extract(r"^(\d\S*)").cast(pl.Float64))
    )
    bold = numbers.select(((pl.all() == pl.all().max()) & (pl.all() > 0)).fill_null(False))
    emphasis = [*[[False] * table.height] * 3, *(column.to_list() for column in bold)]
    # Seven or more columns of values leave little room for the others.
    narrow = len(names) >= 7
    widths = [44, 126, 58] if narrow else [50, 165, 60]
    widths += [round((868 - sum(widths)) / max(len(names), 1))] * len(names)
    return table_figure(
        winner_title(summarise(records, metric, k), metric_name(metric, k), BEST_POSSIBLE),
        records_note(records, f"ranked by the average {metric_name(metric, k)}"),
        table.to_dict(as_series=False),
        widths=widths,
        left=2,
        emphasis=emphasis,
    )


def paper_table(beside: pl.DataFrame) -> go.Figure:
    """Draw a paper's values next to ours, as returned by `evaluation.papers.beside_papers`.

    Raises ValueError if the frame is empty or has more than one paper.
    """
    papers = beside["paper"].unique(maintain_order=True).to_list()
    if len(papers) != 1:
        raise ValueError(f"paper_table draws one paper's table; got {papers or 'an empty frame'}")
    below, plain = (beside["difference"] < _FAR_BELOW).to_list(), [False] * beside.height
    domains = beside["domain"].unique(maintain_order=True).to_list()
    columns = {
        "domain": beside["domain"].to_list(),
        "row": beside["method"].to_list(),
        "metric": [f"{metric}@{k}" for metric, k in beside.select("metric", "k").iter_rows()],
        "ours": [f"{value:.4f}" for value in beside["ours"]],
        "paper": [f"{value:.4f}" for value in beside["theirs"]],
        "difference": [f"{value:+.1f} %" for value in beside["difference"]],
    }
    return table_figure(
        paper_title(papers[0], domains, sum(below), beside.height),
        f"Bold: more than {-_FAR_BELOW:.0f} % below the paper's figure. Several seeds are averaged.",
        columns,
        widths=(1.2, 1.4, 1.1, 0.8, 0.8, 1.0),
        left=3,
        emphasis=[plain, below, plain, plain, plain, below],
    )


def _with_averages(chosen: pl.DataFrame) -> pl.DataFrame:
    """Replace all averages by those of runs with every domain: columns method, seed, domain, value.

    The average of a run with fewer domains must not be compared with the average over all domains.
    """
    kept = ["method", "seed", "domain", "value"]
    by_domain = chosen.filter(pl.col("domain") != AVERAGE)
    n_domains = by_domain["domain"].n_unique()
    if n_domains <= 1:
        return by_domain.select(kept) if n_domains else chosen.select(kept)
    found = pl.col("domain").filter(pl.col("domain") != AVERAGE).n_unique().over("method", "seed")
    if "users" not in chosen.columns:
        return chosen.filter((pl.col("domain") != AVERAGE) | (found == n_domains)).select(kept)
    averages = (
        by_domain.filter(found == n_domains)
        .group_by("method", "seed", maintain_order=True)
        .agg(value=(pl.col("value") * pl.col("users")).sum() / pl.col("users").sum())
        .with_columns(domain=pl.lit(AVERAGE))
    )
    return pl.concat([by_domain.select(kept), averages.select(kept)])


def domain_order(table: pl.DataFrame) -> list[str]:
    """Return the domains in order of first appearance, with the average, if any, last."""
    names = table["domain"].unique(maintain_order=True).to_list()
    return [*(name for name in names if name != AVERAGE), *([AVERAGE] if AVERAGE in names else [])]


def _cell(row: pl.DataFrame) -> str:
    if row.height == 0:
        return "–"
    mean, sd = row["mean"][0], row["sd"][0]
    return f"{mean:.4f}" if sd is None else f"{mean:.4f} ± {sd:.4f}"


def metric_bars(
    records: pl.DataFrame,
    metric: str = "ndcg",
    k: int = 10,
    *,
    highlight: Sequence[str] | None = None,
    of_best: bool = False,
    users: str = "test user",
) -> go.Figure:
    """Draw one metric with one panel per domain and one for the average, and one bar per method in each.

    Methods are ranked by the average; the best possible is a dotted line. highlight: the methods in full
    colour; by default the best. of_best: show each value as a share of the best possible in its domain;
    domains without one are left out. users: the kind of users, for the note. Raises ValueError for an unknown
    method in `highlight`, and with `of_best` if no domain has a best possible above 0.
    """
    table = summarise(records, metric, k)
    methods = [name for name in table["method"].unique(maintain_order=True) if name != BEST_POSSIBLE]
    if not methods:
        raise ValueError(f"records: no method but {BEST_POSSIBLE!r}; expected at least one more")
    strong = methods[:1] if highlight is None else list(highlight)
    if unknown := [name for name in strong if name not in methods]:
        raise ValueError(f"highlight: {unknown} not among the methods {methods}")
    best = dict(table.filter(pl.col("method") == BEST_POSSIBLE).select("domain", "mean").iter_rows())
    bounds: dict[str, float | None] = {name: best.get(name) for name in domain_order(table)}
    domains = [name for name, bound in bounds.items() if not of_best or bound]
    if not domains:
        raise ValueError(
            f"records: no value above 0 of the method {BEST_POSSIBLE!r} among {methods}; only Bazaar knows it"
        )
    shown = metric_name(metric, k)
    names = ["Average, weighted by users" if name == AVERAGE else name for name in domains]
    if of_best:
        names = [f"{shorten(name, 36)}: {bounds[name]:.4f}" for name in domains]
    layout: dict[str, Any] = {"left_labels": _METHODS, "column_gap": 0.035, "row_gap": 46}
    made = panels(names, columns=4 if len(names) <= 4 else 3, row_height=26 * len(methods) + 12, **layout)
    compared = table.filter(pl.col("method") != BEST_POSSIBLE)
    several = bool((compared["seeds"] > 1).any())
    for panel, domain in enumerate(domains):
        made.rows(panel, methods, 26)
        rows = compared.filter(pl.col("domain") == domain)
        places = [methods.index(name) for name in rows["method"]]
        scale = 100 / (bounds[domain] or 1.0) if of_best else 1.0
        means, spreads = (scale * rows[name].fill_null(0.0).to_numpy() for name in ("mean", "sd"))
        custom = [
            (label(name, 60), mean, "1 seed" if sd is None else f"± {sd:.4f} over {seeds} seeds")
            for name, mean, sd, seeds in rows.select("method", "mean", "sd", "seeds").iter_rows()
        ]
        look: dict[str, Any] = {"customdata": np.array(custom, dtype=object).reshape(-1, 3)}
        look["marker_color"] = [theme.ACCENT if name in strong else theme.MUTED for name in rows["method"]]
        hover = "%{customdata[0]}: %{customdata[1]:.4f}, %{customdata[2]}<extra></extra>"
        made.bars(panel, means, hover, at=places, flat=True, error_x=error_bars(spreads), **look)
        # The number is placed after the error bar, so that they do not overlap.
        texts = [f" {value:.0f} %" if of_best else f" {value:.4f}" for value in means]
        made.write(panel, means + spreads, places, texts, textfont_size=11)
        bound = 100.0 if of_best else bounds[domain]
        if bound is not None:
            dotted = {"line_dash": "dot", "line_color": theme.REFERENCE}
            made.figure.add_vline(x=bound, **dotted, **made.place(panel))
        reach = max(float((means + spreads).max(initial=0.0)), (bound or 0.0) / 1.3) or 1.0
        axis = "share of the best possible" if of_best else shown
        unit = {"ticksuffix": " %"} if of_best else {}
        made.x(panel, range=[0, 1.42 * reach], nticks=4, **unit)
        made.outer(panel, axis)
    note = records_note(
        records,
        "error bars: one standard deviation over seeds" if several else "",
        "dotted: the best possible" if any(bounds.values()) else "",
        "above each panel: the best possible" if of_best else "",
        of=users,
    )
    return made.finish(winner_title(table, shown, BEST_POSSIBLE), note)
