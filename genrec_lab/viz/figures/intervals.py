"""Figures of intervals: one method against another, and a method without each of its parts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.layout import Panels, interval, one_panel, require_columns
from genrec_lab.viz.text import counted, label, listed, noted
from genrec_lab.viz.theme import category_styles

FloatArray = npt.NDArray[np.float64]

_ABOVE = 0.32  # of a variant's own point, where those of papers are, in lines
# Of the papers' data sets; none that a variant's own point has.
_MARKS = ("diamond-open", "triangle-up-open", "cross-open", "star-open", "hexagon-open", "pentagon-open")


def difference_intervals(
    differences: pl.DataFrame,
    *,
    first: str,
    second: str,
    metric: str = "NDCG@10",
    level: float = 0.95,
    users: int | None = None,
    seed: int | None = None,
) -> go.Figure:
    """The difference of two methods with its bootstrap interval, a line a domain (or whatever `name` says).

    differences: frame `name, difference, low, high`, first minus second. level: the intervals' coverage.
    Filled points: the interval excludes zero.
    """
    require_columns(differences, ("name", "difference", "low", "high"))
    names = [str(name) for name in differences["name"].to_list()]
    middle, low, high = (
        differences[column].to_numpy().astype(float) for column in ("difference", "low", "high")
    )
    outside = np.flatnonzero((low > high) | (middle < low) | (middle > high))
    if outside.size:
        bad = int(outside[0])
        raise ValueError(
            f"differences: {names[bad]!r} has {middle[bad]} outside its interval {low[bad]}..{high[bad]}; "
            "expected low <= difference <= high"
        )
    made = one_panel(40 * len(names) + 30)
    shown = [label(name, 60) for name in names]
    hover = "%{customdata[0]}: %{x:+.4f}, %{customdata[1]:+.4f} to %{customdata[2]:+.4f}<extra></extra>"
    custom = np.column_stack([np.array(shown, dtype=object), low, high])
    _add_intervals(made, (middle, low, high), f"{first} better", f"{second} better", hover, custom)
    short = f"{listed([first])} minus {listed([second])}"
    made.x(title=f"difference in {label(metric)}: {label(short, 70)}")
    made.rows(0, names, 34)
    better, worse = int((low > 0).sum()), int((high < 0).sum())
    title = f"{listed([first])} beats {listed([second])} in {better} of {counted(len(names), 'comparison')}"
    title += f" and loses in {worse}" if worse else ""
    title += f" ({metric}, {100 * level:g} % intervals exclude zero)"
    note = f"Paired bootstrap over {'users' if users is None else counted(users, 'user')}"
    return made.finish(title, noted(note, seed=seed), showlegend=True)


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
    spans = [f"{least:+.1f} to {most:+.1f} %" for least, most in zip(low, high, strict=True)]
    made = one_panel(52 * len(names) + 40)
    custom = np.array([[label(name, 60) for name in names], spans, spread], dtype=object).T
    hover = "%{customdata[0]}: %{x:+.1f} %, %{customdata[1]}%{customdata[2]}<extra></extra>"
    _add_intervals(made, (change, low, high), "better without", "worse without", hover, custom)
    sources = _add_papers(made, papers, names)
    made.x(title=f"change of {label(metric)} without the part", ticksuffix=" %")
    made.rows(0, names, 44, above=0.6)
    draws = "bars: 95 % of draws of users" + (f" ({counted(users, 'test user')})" if users else "")
    note = noted(
        "Points: means over seeds" if worth["sd"].is_not_null().any() else "One seed",
        draws,
        f"open marks: {listed(sources)}, other data" if sources else "",
        seed=seed,
    )
    return made.finish(_worth_title(method, metric, names, change, high), note, showlegend=True)


def _add_intervals(
    made: Panels,
    intervals: tuple[FloatArray, FloatArray, FloatArray],
    above: str,
    below: str,
    hover: str,
    customdata: npt.NDArray[np.object_],
) -> None:
    """Draw (N,) middles with their lows and highs, a line each from the top, and a line at zero.

    above, below: what the legend calls intervals wholly above and below zero; the others are undecided.
    """
    middle, low, high = intervals
    kinds = {
        above: (low > 0, theme.GOOD, "circle"),
        below: (high < 0, theme.BAD, "square"),
        "undecided": ((low <= 0) & (high >= 0), theme.MUTED, "circle-open"),
    }
    for kind, (chosen, colour, symbol) in kinds.items():
        places = np.flatnonzero(chosen)
        if not places.size:
            continue
        made.points(
            0,
            middle[places],
            places,
            theme.mark(colour, symbol, 11),
            hover,
            name=kind,
            error_x=interval(middle[places], low[places], high[places], thickness=2.5),
            customdata=customdata[places],
        )
    made.figure.add_vline(x=0, line_color=theme.REFERENCE, line_width=1.5, line_dash="dash")


def _add_papers(made: Panels, papers: pl.DataFrame | None, names: list[str]) -> list[str]:
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
        made.points(
            0,
            rows["change"].to_numpy(),
            [names.index(row) - _ABOVE for row in rows["row"]],
            theme.mark(styles[name].colour, _MARKS[place % len(_MARKS)], 9, width=1.5),
            "%{customdata}: %{x:+.1f} %<extra></extra>",
            name=name,
            customdata=[label(name, 60)] * rows.height,
        )
    return list(dict.fromkeys(paper for paper, _ in series))


def _worth_title(method: str, metric: str, names: list[str], change: FloatArray, high: FloatArray) -> str:
    worse = int((high < 0).sum())
    if not worse:
        parts = "the part" if len(names) == 1 else "no part" if len(names) > 2 else "neither part"
        verb = "is not certainly missed" if len(names) == 1 else "is certainly missed"
        return f"{listed([method])}: {parts} {verb} ({metric}, 95 % intervals)"
    worst = int(np.argmin(change))
    of = "" if len(names) == 1 else f"; {worse} of {len(names)} parts are certainly missed"
    less = f"{abs(change[worst]):.0f} % less {metric}"
    return f"{listed([names[worst]])} has {less} than {listed([method])}{of}"
