"""Figures of sharing: which codes lean to which domain, and whether a longer common prefix means more alike.

Shapes: K codes of a level, T domains.
"""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz.explorer.sharing import LevelSharing, PairSimilarity
from genrec_lab.viz.layout import counted, escape, finish, label, numbered_axis, percent, seeded
from genrec_lab.viz.theme import LEAN, category_styles

# Lifts are drawn on a scale of doublings; beyond eight times, or an eighth, the colour stays.
_MOST_DOUBLINGS = 3


def domain_lift(sharing: LevelSharing, *, seed: int | None = None) -> go.Figure:
    """Domain against code: how much more often a domain's items have a code than items at large do.

    Codes stand in their own order, unused ones stay empty. A lift of 2 is twice as often; colours end at 8
    and 1/8, and a domain that does not have a used code has the colour of the lower end.
    """
    n_domains, n_codes = sharing.items.shape
    used = sharing.items.sum(axis=0) > 0
    doublings = np.full(sharing.lift.shape, np.nan)
    positive = np.nan_to_num(sharing.lift) > 0
    doublings[positive] = np.log2(sharing.lift[positive])
    doublings[(sharing.lift == 0) & used] = -_MOST_DOUBLINGS
    hover = np.empty((n_domains, n_codes), dtype=object)
    for place, name in enumerate(sharing.domains):
        for code in range(n_codes):
            lift = sharing.lift[place, code]
            text = (
                "dead"
                if not used[code]
                else f"lift {lift:.2f}, {counted(int(sharing.items[place, code]), 'item')}"
            )
            hover[place, code] = f"{label(name)}, code {code}: {text}"
    ticks = list(range(-_MOST_DOUBLINGS, _MOST_DOUBLINGS + 1))
    words = ["≤ ⅛ or none", "¼", "½", "1", "2", "4", "≥ 8"]
    figure = go.Figure(
        go.Heatmap(
            z=doublings,
            text=hover,
            hovertemplate="%{text}<extra></extra>",
            zmin=-_MOST_DOUBLINGS,
            zmax=_MOST_DOUBLINGS,
            colorscale=LEAN,
            ygap=2,
            xgap=0.5 if n_codes <= 128 else 0,
            hoverongaps=False,
            colorbar={
                "title": {"text": "lift", "side": "top"},
                "tickvals": ticks,
                "ticktext": words,
                "thickness": 14,
                "len": 1.0,
            },
        )
    )
    figure.update_xaxes(title=f"code of level {sharing.level + 1}", showgrid=False)
    figure.update_yaxes(**numbered_axis(sharing.domains, 24), autorange="reversed", showgrid=False)
    note = (
        f"{counted(int(sharing.items.sum()), 'item')}, all {n_codes:,} codes in their own order; empty: dead"
    )
    note += "; lift 1: as often in the domain as overall"
    return finish(figure, _lift_title(sharing), seeded(note, seed), plot_height=max(46 * n_domains, 170))


def similarity_by_prefix(pairs: PairSimilarity, levels: int) -> go.Figure:
    """Cosine similarity of pairs of items by the number of codes that they share from the first on.

    Points are means, whiskers the middle half of the pairs; pairs of one domain and of two stand apart.
    """
    groups = pairs.frame["group"].unique(maintain_order=True).to_list()
    styles = category_styles(groups)
    figure = go.Figure()
    for place, name in enumerate(groups):
        rows = pairs.frame.filter(pl.col("group") == name)
        mean = rows["mean"].to_numpy()
        shift = 0.08 * (place - (len(groups) - 1) / 2)
        figure.add_scatter(
            x=rows["common"].to_numpy() + shift,
            y=mean,
            mode="lines+markers",
            name=escape(name),
            line={"color": styles[name].colour, "dash": styles[name].dash, "width": 2},
            marker={"symbol": styles[name].symbol, "size": 9},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": np.maximum(rows["high"].to_numpy() - mean, 0),
                "arrayminus": np.maximum(mean - rows["low"].to_numpy(), 0),
                "thickness": 1.4,
                "width": 5,
            },
            customdata=rows["pairs"].to_numpy(),
            hovertemplate="mean %{y:.3f} of %{customdata:,} pairs",
        )
    figure.update_xaxes(tickvals=list(range(levels + 1)), range=[-0.4, levels + 0.4], title="codes in common")
    figure.update_yaxes(title="cosine similarity of the texts")
    figure.update_layout(showlegend=len(groups) > 1)
    note = f"Spearman's rho over {counted(pairs.pairs, 'pair')} drawn from all; the points are of pairs "
    note += "drawn anew for each number of common codes, whiskers their middle half"
    return finish(figure, _similarity_title(pairs), seeded(note, pairs.seed), plot_height=300)


def _lift_title(sharing: LevelSharing) -> str:
    level = f"level {sharing.level + 1}"
    used = int(sharing.used_by[1:].sum())
    if len(sharing.domains) == 1:
        return f"One domain uses {used} of {counted(sharing.items.shape[1], 'code')} of {level}"
    own = int(sharing.used_by[1])
    everyone = int(sharing.used_by[-1])
    return (
        f"{percent(own / max(used, 1))} of the used codes of {level} belong to one domain alone, "
        f"{percent(everyone / max(used, 1))} to all {len(sharing.domains)}"
    )


def _similarity_title(pairs: PairSimilarity) -> str:
    if math.isnan(pairs.rho):
        return "Common codes and similarity cannot be compared: one of the two never varies"
    strength = abs(pairs.rho)
    how = (
        "hardly"
        if strength < 0.1
        else "weakly"
        if strength < 0.3
        else "clearly"
        if strength < 0.6
        else "strongly"
    )
    less = "less" if pairs.rho < 0 and strength >= 0.1 else "more"
    return f"Items with more codes in common are {how} {less} alike: rho = {pairs.rho:.2f}"
