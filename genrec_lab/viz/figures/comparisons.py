"""Figures that compare: beam search and exact top-k, before and after adaptation, two methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike, NDArray

from genrec_lab.viz import FloatArray, theme
from genrec_lab.viz.layout import Panels, domains_of, error_bars, numbered_axis, one_panel, require_columns
from genrec_lab.viz.sentences import adaptation_title, beams_title, differences_title, tail_title, worth_title
from genrec_lab.viz.text import counted, escape, label, listed, of_domains, percent

_ABOVE = 0.32  # distance of papers' points above a variant's own point, in lines
# Symbols of the papers' data sets; our own points use other symbols.
_MARKS = ("diamond-open", "triangle-up-open", "cross-open", "star-open", "hexagon-open", "pentagon-open")
_MOST = 100  # percent; the end of the colour scale of the long tail
_DARK = -65  # percent; colours below this are too dark for dark text


def missed_share(exact: ArrayLike, found: ArrayLike) -> FloatArray:
    """Return the share of each user's exact top-k that is missing from the beam's list, (U,).

    exact, found: (U, K) item indices, -1 past the end; K may differ. It is 0 for users without exact items.
    """
    true, beam = np.asarray(exact, dtype=np.int64), np.asarray(found, dtype=np.int64)
    if true.ndim != 2 or beam.ndim != 2 or len(true) != len(beam):
        shapes = f"exact: shape {true.shape}, found: shape {beam.shape}"
        raise ValueError(f"{shapes}; expected (users, items) for both")
    real = true >= 0
    in_beam = (true[:, :, None] == beam[:, None, :]).any(axis=2)
    return (real & ~in_beam).sum(axis=1) / np.maximum(real.sum(axis=1), 1)


def beam_misses(
    exact: ArrayLike, beams: Mapping[int, ArrayLike], domains: ArrayLike, *, seed: int | None = None
) -> go.Figure:
    """Draw how much of the exact top-k a beam search misses over the number of beams, one line per domain.

    exact: (U, K) items of `exact_top_k`. beams: number of beams -> (U, K) items of `beam_search`.
    """
    if not beams:
        raise ValueError("beams: no results; expected at least one number of beams")
    truth = np.asarray(exact, dtype=np.int64)
    names, domain_index = domains_of(domains, expected=len(truth))
    widths = sorted(beams)
    missed = np.stack([missed_share(truth, beams[width]) for width in widths])
    made = one_panel(300)
    for domain, name in enumerate(names):
        mine = missed[:, domain_index == domain]
        hover = "%{customdata[1]} beams: %{y:.2f} % of items, %{customdata[0]:.1f} % of users"
        custom = np.column_stack([100 * (mine > 0).mean(axis=1), widths])
        x, y = np.arange(len(widths)), 100 * mine.mean(axis=1)
        made.line(0, x, y, name, hover, size=8, customdata=custom)
    # Numbers of beams roughly double from one to the next; equal spacing keeps the small ones readable.
    made.x(**numbered_axis([str(width) for width in widths]), title="beams")
    made.y(ticksuffix=" %", rangemode="tozero", title=f"missed items of the true top {truth.shape[1]}")
    title = beams_title(widths, missed.mean(axis=1).tolist(), truth.shape[1])
    note = (of_domains(len(truth), names, "user"), "true top found by best-first search")
    return made.finish(title, *note, seed=seed, showlegend=len(names) > 1)


def adaptation_change(changes: pl.DataFrame, *, metric: str = "NDCG@10") -> go.Figure:
    """Draw a metric of validation users before and after adaptation as dumbbells, the largest gain on top.

    changes: frame `domain, before, after`, and `seed` if domains have several rows, of which means are drawn,
    with one standard deviation over seeds as error bars.
    """
    require_columns(changes, ("domain", "before", "after"))
    ends = pl.col("before", "after")
    table = changes.group_by("domain", maintain_order=True).agg(ends.mean(), ends.std().name.suffix("_sd"))
    table = table.sort(pl.col("after") - pl.col("before"), descending=True, maintain_order=True)
    domains, spans = table["domain"].to_list(), table.select(ends).to_numpy()
    names, places = [label(domain) for domain in domains], np.arange(len(domains))
    made = one_panel(46 * len(domains) + 30)
    for place, (low, high) in enumerate(spans.tolist()):
        colour = theme.GOOD if high > low else theme.BAD if high < low else theme.MUTED
        made.segments(0, [[low, high]], [[place, place]], colour, 4)
    seeds = sorted(changes["seed"].unique().to_list()) if "seed" in changes.columns else []
    kinds = (
        ("before adaptation", "before", theme.MUTED, "circle-open"),
        ("best epoch of adaptation", "after", theme.ACCENT, "circle"),
    )
    for name, column, colour, symbol in kinds:
        spread = error_bars(table[f"{column}_sd"].fill_null(0.0).to_numpy(), width=4)
        x, marker, hover = table[column].to_numpy(), theme.mark(colour, symbol, 10), "%{customdata}: %{x:.4f}"
        made.points(0, x, places, name, hover, marker=marker, error_x=spread, customdata=names)
    texts = [f"   {_signed_percent(low, high)}" for low, high in spans.tolist()]
    made.write(0, spans.max(axis=1), places, texts)
    least, most = float(spans.min()), float(spans.max())
    room = (most - least) or abs(most) or 1.0
    made.x(0, title=label(metric), range=[least - 0.08 * room, most + 0.2 * room])
    made.rows(0, domains, 34)
    return made.finish(
        adaptation_title(spans[:, 0].tolist(), spans[:, 1].tolist(), domains, metric),
        counted(len(domains), "domain"),
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}" if seeds else "",
        "error bars: one standard deviation over seeds" if len(seeds) > 1 else "",
        "best of several epochs on these users; new users would score lower",
        showlegend=True,
    )


def long_tail(by_group: pl.DataFrame, reference: str, *, metric: str = "NDCG@10") -> go.Figure:
    """Draw a metric by row and popularity group (UTGRec Figure 4); colour shows the change from a reference.

    by_group: `group, low, users, row, value`, as from `metric_by_popularity`. The best value of a group is
    bold. If the reference's value is 0, there is no colour. Raises ValueError if the reference is not a row.
    """
    require_columns(by_group, ("group", "low", "users", "row", "value"))
    wide = by_group.sort("low").pivot(on="group", index="row", values="value", maintain_order=True)
    groups = by_group.sort("low").unique("group", maintain_order=True)
    if reference not in wide["row"]:
        raise ValueError(f"reference is {reference!r}; expected one of {sorted(wide['row'])}")
    values = wide.drop("row").to_numpy()
    order = np.argsort(-(values @ groups["users"].to_numpy()), kind="stable")
    values, names = values[order], [wide["row"][int(place)] for place in order]
    base = values[names.index(reference)]
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.where(base > 0, 100 * (values / base - 1), np.nan)
    best = (values == values.max(axis=0, keepdims=True)) & (values > 0)
    made = one_panel(max(30 * len(names) + 40, 170))
    ticks = {-100: "−100 %", -50: "−50 %", 0: "0", 50: "+50 %", 100: "≥ +100 %"}
    scale = {"tickvals": list(ticks), "ticktext": list(ticks.values()), "thickness": 14, "len": 1.0}
    look = {"zmin": -_MOST, "zmax": _MOST, "colorscale": theme.LEAN, "colorbar": scale, "xgap": 2, "ygap": 2}
    hover = "%{z:+.0f} %<extra></extra>"
    made.add(0, go.Heatmap(z=change, hoverongaps=False, hovertemplate=hover, **look))
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.4f}".removeprefix("0") if value < 1 else "1"
        text = f"<b>{text}</b>" if best[row, column] else text
        # A cell without a colour has letters of the default colour.
        shade = "#FFFFFF" if change[row, column] < _DARK else "#14181D"
        font = {"color": shade if np.isfinite(change[row, column]) else None}
        made.figure.add_annotation(x=column, y=row, text=text, showarrow=False, font=font)
    users = groups["users"].to_list()
    each = zip(groups["group"], users, strict=True)
    heads = [f"{escape(name)}<br>{counted(count, 'user')}" for name, count in each]
    title = "interactions of the target in the training part"
    made.x(tickvals=list(range(len(heads))), ticktext=heads, title=title, showgrid=False)
    made.y(**numbered_axis(names, 24), autorange="reversed", showgrid=False)
    return made.finish(
        tail_title(names, values, groups["group"].to_list()),
        f"{metric} of {counted(sum(users), 'test user')}",
        f"colour: change from {reference} in the same group",
        "rows by their mean over all users",
        "bold: best of each group",
        f"no colour where {reference} finds nothing" if np.isnan(change).any() else "",
    )


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
    """Draw the difference of two methods with its bootstrap interval, one line per domain (or per `name`).

    differences: frame `name, difference, low, high`, first minus second. level: coverage of the intervals.
    Points are filled if the interval excludes zero.
    """
    require_columns(differences, ("name", "difference", "low", "high"))
    names = [str(name) for name in differences["name"].to_list()]
    intervals = differences.select(pl.col("difference", "low", "high").cast(pl.Float64)).to_numpy().T
    middle, low, high = intervals
    outside = np.flatnonzero((low > high) | (middle < low) | (middle > high))
    if outside.size:
        bad = outside[0]
        raise ValueError(
            f"differences: {names[bad]!r} has {middle[bad]} outside its interval {low[bad]}..{high[bad]}; "
            "expected low <= difference <= high"
        )
    made = one_panel(40 * len(names) + 30)
    shown = [label(name, 60) for name in names]
    hover = "%{customdata[0]}: %{x:+.4f}, %{customdata[1]:+.4f} to %{customdata[2]:+.4f}<extra></extra>"
    custom = np.column_stack([np.array(shown, dtype=object), low, high])
    _add_intervals(made, intervals, f"{first} better", f"{second} better", hover, custom)
    short = f"{listed([first])} minus {listed([second])}"
    made.x(title=f"difference in {label(metric)}: {label(short, 70)}")
    made.rows(0, names, 34)
    title = differences_title(first, second, low, high, metric, level)
    note = f"Paired bootstrap over {'users' if users is None else counted(users, 'user')}"
    return made.finish(title, note, seed=seed, showlegend=True)


def worth_of_parts(
    worth: pl.DataFrame,
    papers: pl.DataFrame | None = None,
    *,
    method: str,
    metric: str = "NDCG@10",
    users: int | None = None,
    seed: int | None = None,
) -> go.Figure:
    """Draw the change of a metric, in percent, when a part of the method is left out; one line per variant.

    worth: frame `variant, change, low, high`, and `sd` (over seeds, null for one seed); one row per variant.
    papers: frame `row, paper, domain, change`, drawn as open symbols above the variant of that name. Raises
    ValueError for an empty frame or a variant with two rows.
    """
    require_columns(worth, ("variant", "change", "low", "high", "sd"))
    names = worth["variant"].to_list()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"worth: {twice!r} has more than one row; keep one domain, metric and k")
    intervals = worth.select(pl.col("change", "low", "high").cast(pl.Float64)).to_numpy().T
    change, low, high = intervals
    spread = ["" if sd is None else f"<br>± {sd:.1f} over seeds" for sd in worth["sd"].to_list()]
    spans = [f"{least:+.1f} to {most:+.1f} %" for least, most in zip(low, high, strict=True)]
    made = one_panel(52 * len(names) + 40)
    custom = np.array([[label(name, 60) for name in names], spans, spread], dtype=object).T
    hover = "%{customdata[0]}: %{x:+.1f} %, %{customdata[1]}%{customdata[2]}<extra></extra>"
    _add_intervals(made, intervals, "better without", "worse without", hover, custom)
    sources = _add_papers(made, papers, names)
    made.x(title=f"change of {label(metric)} without the part", ticksuffix=" %")
    made.rows(0, names, 44, above=0.6)
    return made.finish(
        worth_title(method, metric, names, change, high),
        "Points: means over seeds" if worth["sd"].is_not_null().any() else "One seed",
        "bars: 95 % bootstrap intervals over users" + (f" ({counted(users, 'test user')})" if users else ""),
        f"open marks: {listed(sources)}, on other data" if sources else "",
        seed=seed,
        showlegend=True,
    )


def _add_intervals(
    made: Panels, intervals: FloatArray, above: str, below: str, hover: str, custom: NDArray[np.object_]
) -> None:
    """Draw (3, N) middles, lows and highs, one line each from the top, and a line at zero.

    above, below: legend entries for intervals entirely above and below zero; the others are undecided.
    """
    middle, low, high = intervals
    kinds = {
        above: (low > 0, theme.GOOD, "circle"),
        below: (high < 0, theme.BAD, "square"),
        "undecided": ((low <= 0) & (high >= 0), theme.MUTED, "circle-open"),
    }
    for kind, (chosen, colour, symbol) in kinds.items():
        places = np.flatnonzero(chosen)
        if places.size:
            ends = {"array": (high - middle)[places], "arrayminus": (middle - low)[places]}
            bars = {"symmetric": False, "width": 5, "thickness": 2.5} | ends
            look: dict[str, Any] = {"error_x": bars, "customdata": custom[places]}
            made.points(0, middle[places], places, kind, hover, marker=theme.mark(colour, symbol, 11), **look)
    made.figure.add_vline(x=0, line_color=theme.REFERENCE, line_width=1.5, line_dash="dash")


def _add_papers(made: Panels, papers: pl.DataFrame | None, names: list[str]) -> list[str]:
    """Draw the papers' values, one series per data set; return the tables that they are from."""
    if papers is None:
        return []
    require_columns(papers, ("row", "paper", "domain", "change"))
    shown = papers.filter(pl.col("row").is_in(names))
    # A paper's data set may have the same name as one of ours; the symbols distinguish them.
    series = shown.select("paper", "domain").unique(maintain_order=True).rows()
    for place, (paper, domain) in enumerate(series):
        name = f"{paper}, {domain}"
        rows = shown.filter((pl.col("paper") == paper) & (pl.col("domain") == domain))
        y = [names.index(row) - _ABOVE for row in rows["row"]]
        hover, custom = "%{customdata}: %{x:+.1f} %<extra></extra>", [label(name, 60)] * rows.height
        marker = theme.mark(made.style(name).colour, _MARKS[place % len(_MARKS)], 9, width=1.5)
        made.points(0, rows["change"].to_numpy(), y, name, hover, marker=marker, customdata=custom)
    return list(dict.fromkeys(paper for paper, _ in series))


def _signed_percent(before: float, after: float) -> str:
    if before <= 0:
        return "±0" if after == before else "from 0"
    change = after / before - 1
    return ("+" if change > 0 else "−" if change < 0 else "±") + percent(abs(change))
