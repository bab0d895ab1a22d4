"""Figures of ablations: what a method loses without each of its parts, beside what papers print of it."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz.figures.intervals import add_intervals
from genrec_lab.viz.layout import counted, finish, label, listed, numbered_axis, require_columns, seeded
from genrec_lab.viz.theme import category_styles

_ABOVE = 0.32  # of a variant's own point, where those of papers are, in lines
# Of the papers' data sets; none that a variant's own point has.
_MARKS = ("diamond-open", "triangle-up-open", "cross-open", "star-open", "hexagon-open", "pentagon-open")


def worth_of_parts(
    worth: pl.DataFrame,
    papers: pl.DataFrame | None = None,
    *,
    method: str,
    metric: str = "NDCG@10",
    users: int | None = None,
    seed: int | None = None,
) -> go.Figure:
    """What a metric changes by when a part of the method is left out, in percent, a line a variant.

    worth: frame `variant, change, low, high`, and `sd`, over seeds, null for one; one row a variant. papers:
    frame `row, paper, domain, change`, drawn as open marks above the variant of that name. Raises ValueError
    for an empty frame or a variant with two rows.
    """
    require_columns(worth, ("variant", "change", "low", "high", "sd"))
    names = worth["variant"].to_list()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"worth: {twice!r} has more than one row; keep one domain, metric and k")
    change, low, high = (worth[column].to_numpy().astype(float) for column in ("change", "low", "high"))
    spread = ["" if sd is None else f"<br>± {sd:.1f} over seeds" for sd in worth["sd"].to_list()]
    told = [f"{least:+.1f} to {most:+.1f} %" for least, most in zip(low, high, strict=True)]
    figure = go.Figure()
    add_intervals(
        figure,
        change,
        low,
        high,
        above="better without",
        below="worse without",
        customdata=np.array(
            list(zip((label(name, 60) for name in names), told, spread, strict=True)), dtype=object
        ),
        hovertemplate="%{customdata[0]}: %{x:+.1f} %, %{customdata[1]}%{customdata[2]}<extra></extra>",
    )
    sources = _add_papers(figure, papers, names)
    figure.update_xaxes(title=f"change of {label(metric)} without the part", ticksuffix=" %")
    figure.update_yaxes(**numbered_axis(names, 44), range=[len(names) - 0.5, -0.6], showgrid=False)
    figure.update_layout(showlegend=True)
    note = "Points: means over seeds" if worth["sd"].is_not_null().any() else "One seed"
    note += "; bars: 95 % of draws of users" + (f" ({counted(users, 'test user')})" if users else "")
    note += f"; open marks: {listed(sources)}, other data" if sources else ""
    return finish(
        figure,
        _title(method, metric, names, change, high),
        seeded(note, seed),
        plot_height=52 * len(names) + 40,
    )


def _add_papers(figure: go.Figure, papers: pl.DataFrame | None, names: list[str]) -> list[str]:
    """Draw what papers print, a series a data set; return the tables that it is from."""
    if papers is None:
        return []
    require_columns(papers, ("row", "paper", "domain", "change"))
    shown = papers.filter(pl.col("row").is_in(names))
    # A paper's data may have the name of one of ours; the marks say whose they are.
    series = shown.select("paper", "domain").unique(maintain_order=True).rows()
    styles = category_styles([f"{paper}, {domain}" for paper, domain in series])
    for place, (paper, domain) in enumerate(series):
        name = f"{paper}, {domain}"
        rows = shown.filter((pl.col("paper") == paper) & (pl.col("domain") == domain))
        figure.add_scatter(
            x=rows["change"].to_numpy(),
            y=[names.index(row) - _ABOVE for row in rows["row"]],
            mode="markers",
            name=label(name),
            showlegend=True,
            marker={
                "color": styles[name].colour,
                "size": 9,
                "symbol": _MARKS[place % len(_MARKS)],
                "line": {"width": 1.5, "color": styles[name].colour},
            },
            customdata=[label(name, 60)] * rows.height,
            hovertemplate="%{customdata}: %{x:+.1f} %<extra></extra>",
        )
    return list(dict.fromkeys(paper for paper, _ in series))


def _title(method: str, metric: str, names: list[str], change: np.ndarray, high: np.ndarray) -> str:
    worse = int((high < 0).sum())
    if not worse:
        parts = "the part" if len(names) == 1 else "no part" if len(names) > 2 else "neither part"
        verb = "is not certainly missed" if len(names) == 1 else "is certainly missed"
        return f"{listed([method])}: {parts} {verb} ({metric}, 95 % intervals)"
    worst = int(np.argmin(change))
    of = "" if len(names) == 1 else f"; {worse} of {len(names)} parts are certainly missed"
    less = f"{abs(change[worst]):.0f} % less {metric}"
    return f"{listed([names[worst]])} has {less} than {listed([method])}{of}"
