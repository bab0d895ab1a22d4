"""Figures of comparisons: beam and exact top-k, before and after adaptation, one method and another."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.figures.intervals import add_intervals
from genrec_lab.viz.layout import (
    counted,
    domains_of,
    finish,
    finish_panels,
    label,
    listed,
    numbered_axis,
    panels,
    percent,
    require_columns,
    seeded,
)
from genrec_lab.viz.theme import category_styles

IntArray = npt.NDArray[np.int64]


def missed_share(exact: npt.ArrayLike, found: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(U,): the share of a user's exact top-k that the beam's list lacks.

    exact, found: (U, K) item indices, -1 past the end; K may differ. Users without any exact item give 0.
    """
    true, beam = np.asarray(exact, dtype=np.int64), np.asarray(found, dtype=np.int64)
    if true.ndim != 2 or beam.ndim != 2 or len(true) != len(beam):
        raise ValueError(
            f"exact: shape {true.shape}, found: shape {beam.shape}; expected (users, items) for both"
        )
    real = true >= 0
    in_beam = (true[:, :, None] == beam[:, None, :]).any(axis=2)
    return (real & ~in_beam).sum(axis=1) / np.maximum(real.sum(axis=1), 1)


def beam_misses(
    exact: npt.ArrayLike,
    beams: Mapping[int, npt.ArrayLike],
    domains: npt.ArrayLike,
    *,
    seed: int | None = None,
) -> go.Figure:
    """How much of the model's true top-k a beam search misses, over the number of beams, a line a domain.

    exact: (U, K) items of `exact_top_k`. beams: number of beams -> (U, K) items of `beam_search`. domains:
    (U,).
    """
    if not beams:
        raise ValueError("beams: no results; expected at least one number of beams")
    truth = np.asarray(exact, dtype=np.int64)
    names = domains_of(domains, expected=len(truth))
    widths = sorted(beams)
    missed = np.stack([missed_share(truth, beams[width]) for width in widths])
    styles = category_styles(names.names)
    figure = go.Figure()
    for domain, name in enumerate(names.names):
        mine = missed[:, names.index == domain]
        figure.add_scatter(
            x=np.arange(len(widths)),
            y=100 * mine.mean(axis=1),
            mode="lines+markers",
            name=label(name),
            line={"color": styles[name].colour, "dash": styles[name].dash, "width": 2},
            marker={"symbol": styles[name].symbol, "size": 8},
            customdata=np.column_stack([100 * (mine > 0).mean(axis=1), widths]),
            hovertemplate="%{customdata[1]} beams: %{y:.2f} % of items, %{customdata[0]:.1f} % of users",
        )
    # Beams are tried in doublings or so; even steps keep the small ones apart.
    figure.update_xaxes(
        tickvals=list(range(len(widths))), ticktext=[str(width) for width in widths], title="beams"
    )
    figure.update_yaxes(
        ticksuffix=" %", rangemode="tozero", title=f"missed items of the true top {truth.shape[1]}"
    )
    figure.update_layout(showlegend=len(names) > 1)
    least, most = float(missed[-1].mean()), float(missed[0].mean())
    top = f"the true top {truth.shape[1]}"
    title = f"With {counted(widths[-1], 'beam')} the search misses {percent(least)} of {top}"
    if len(widths) > 1:
        title += f", with {widths[0]} it misses {percent(most)}"
    note = (
        f"{counted(len(truth), 'user')} of {counted(len(names), 'domain')}; the true top by best-first search"
    )
    return finish(figure, title, seeded(note, seed), plot_height=300)


def adaptation_change(
    changes: pl.DataFrame,
    *,
    metric: str = "NDCG@10",
    before: str = "before adaptation",
    after: str = "after adaptation",
    users: int | None = None,
) -> go.Figure:
    """A metric before and after adaptation as dumbbells, a line a domain, sorted by the relative change.

    changes: frame `domain, before, after`, and `seed` where there are several rows a domain: then means are
    drawn, with one standard deviation over seeds as error bars. before, after: what the two ends are called.
    """
    require_columns(changes, ("domain", "before", "after"))
    table = (
        changes.group_by("domain", maintain_order=True)
        .agg(
            before=pl.col("before").mean(),
            after=pl.col("after").mean(),
            before_sd=pl.col("before").std().fill_null(0.0),
            after_sd=pl.col("after").std().fill_null(0.0),
        )
        # From nothing to something is no finite share: infinite, first in the order, without a bar.
        .with_columns(
            change=pl.when(pl.col("after") == pl.col("before"))
            .then(0.0)
            .otherwise(pl.col("after") / pl.col("before") - 1)
        )
        .sort("change", descending=True)
    )
    domains = table["domain"].to_list()
    places = np.arange(len(domains))
    made = panels(
        ["Before and after", "Relative change"],
        columns=2,
        row_height=46 * len(domains) + 30,
        left_labels=190,
        column_gap=0.05,
    )
    for place, row in enumerate(table.iter_rows(named=True)):
        made.figure.add_scatter(
            x=[row["before"], row["after"]],
            y=[place, place],
            mode="lines",
            line={"color": theme.GOOD if row["change"] >= 0 else theme.BAD, "width": 4},
            showlegend=False,
            hoverinfo="skip",
            **made.place(0),
        )
    for name, column, colour, symbol in (
        (before, "before", theme.MUTED, "circle-open"),
        (after, "after", theme.ACCENT, "circle"),
    ):
        spread = table[f"{column}_sd"].to_numpy()
        made.figure.add_scatter(
            x=table[column].to_numpy(),
            y=places,
            mode="markers",
            name=label(name),
            showlegend=True,
            marker={"color": colour, "size": 10, "symbol": symbol, "line": {"width": 2, "color": colour}},
            error_x={
                "type": "data",
                "array": spread,
                "visible": bool(spread.any()),
                "thickness": 1.2,
                "width": 4,
            },
            customdata=[label(domain) for domain in domains],
            hovertemplate="%{customdata}: %{x:.4f}",
            **made.place(0),
        )
    relative = table["change"].to_numpy()
    changes_in_percent = 100 * np.where(np.isfinite(relative), relative, 0.0)
    made.figure.add_bar(
        x=changes_in_percent,
        y=places,
        orientation="h",
        width=0.4,
        showlegend=False,
        marker_color=[theme.GOOD if change >= 0 else theme.BAD for change in relative],
        text=[_signed_percent(change) for change in relative],
        textposition="outside",
        cliponaxis=False,
        customdata=[label(domain) for domain in domains],
        hovertemplate="%{customdata}: %{text}<extra></extra>",
        **made.place(1),
    )
    reach = float(np.abs(changes_in_percent).max()) or 1.0
    low, high = min(float(changes_in_percent.min()), 0.0), max(float(changes_in_percent.max()), 0.0)
    room = 0.45 * max(high - low, reach)
    made.figure.update_xaxes(title=label(metric), **made.place(0))
    made.figure.update_xaxes(
        range=[low - (room if low < 0 else 0), high + (room if high > 0 else 0)],
        ticksuffix=" %",
        title="after against before",
        zeroline=True,
        zerolinecolor=theme.REFERENCE,
        **made.place(1),
    )
    for panel in range(2):
        made.figure.update_yaxes(
            **numbered_axis(domains, 34),
            range=[len(domains) - 0.5, -0.5],
            showgrid=False,
            showticklabels=panel == 0,
            **made.place(panel),
        )
    made.figure.update_layout(showlegend=True)
    n_seeds = changes["seed"].n_unique() if "seed" in changes.columns else 1
    note = f"{counted(len(domains), 'domain')}"
    if users is not None:
        note = f"{counted(users, 'test user')} of {note}"
    if "seed" in changes.columns:
        seeds = ", ".join(str(seed) for seed in sorted(changes["seed"].unique().to_list()))
        note += f"; {'seed' if n_seeds == 1 else 'seeds'} {seeds}"
    note += "; error bars: one standard deviation over seeds" if n_seeds > 1 else ""
    return finish_panels(made, _adaptation_title(table, metric), note)


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
    if (low > high).any() or (middle < low).any() or (middle > high).any():
        bad = int(np.flatnonzero((low > high) | (middle < low) | (middle > high))[0])
        raise ValueError(
            f"differences: {names[bad]!r} has {middle[bad]} outside its interval {low[bad]}..{high[bad]}; "
            "expected low <= difference <= high"
        )
    figure = go.Figure()
    add_intervals(
        figure,
        middle,
        low,
        high,
        above=f"{first} better",
        below=f"{second} better",
        customdata=np.column_stack([np.array([label(name, 60) for name in names], dtype=object), low, high]),
        hovertemplate="%{customdata[0]}: %{x:+.4f}, %{customdata[1]:+.4f} to %{customdata[2]:+.4f}"
        "<extra></extra>",
    )
    short = f"{listed([first])} minus {listed([second])}"
    figure.update_xaxes(title=f"difference in {label(metric)}: {label(short, 70)}")
    figure.update_yaxes(**numbered_axis(names, 34), range=[len(names) - 0.5, -0.5], showgrid=False)
    figure.update_layout(showlegend=True)
    better, worse = int((low > 0).sum()), int((high < 0).sum())
    title = f"{listed([first])} beats {listed([second])} in {better} of {counted(len(names), 'comparison')}"
    title += f" and loses in {worse}" if worse else ""
    title += f" ({metric}, {100 * level:g} % intervals exclude zero)"
    note = (
        f"Paired bootstrap over {counted(users, 'user')}"
        if users is not None
        else "Paired bootstrap over users"
    )
    return finish(figure, title, seeded(note, seed), plot_height=40 * len(names) + 30)


def _signed_percent(change: float) -> str:
    if math.isinf(change):
        return "from 0"
    return ("+" if change > 0 else "−" if change < 0 else "±") + percent(abs(change))


def _adaptation_title(table: pl.DataFrame, metric: str) -> str:
    risen = table.filter(pl.col("after") > pl.col("before"))
    if risen.height == 0:
        return f"Adaptation raises {metric} in no domain"
    most = risen.row(0, named=True)
    if table.height == 1:
        return f"Adaptation raises {metric} by {percent(most['change'])}"
    where = "every domain" if risen.height == table.height else f"{risen.height} of {table.height} domains"
    change = _signed_percent(most["change"])
    return f"Adaptation raises {metric} in {where}, most in {listed([most['domain']])} ({change})"
