"""Figure of levels that quantise independently of each other: how much of its input each one loses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz.layout import counted, domains_of, finish_panels, label, panels, percent, seeded
from genrec_lab.viz.theme import category_styles, ordered_styles


def quantisation_errors(
    vectors: npt.ArrayLike, codewords: npt.ArrayLike, domains: npt.ArrayLike, *, seed: int | None = None
) -> go.Figure:
    """Each level's quantisation error over the variance of what it quantised, and mean distances by domain.

    vectors: (N, L, d), what each level quantised, as UTGRec's prefix residuals. codewords: (N, L, d), those
    that were chosen. domains: (N,). Above 100 % a level does worse than one codeword at the mean would.
    """
    shares, distances = error_shares(vectors, codewords)
    names = domains_of(domains, expected=len(distances))
    levels = np.arange(1, len(shares) + 1)
    made = panels(
        ["Quantisation error over variance", "Mean distance to the codeword"],
        columns=2,
        row_height=270,
        column_gap=0.1,
    )
    made.figure.add_bar(
        x=levels,
        y=100 * shares,
        marker_color=[style.colour for style in ordered_styles(len(levels))],
        text=[_written(float(share)) for share in shares],
        textposition="outside",
        cliponaxis=False,
        showlegend=False,
        hovertemplate="level %{x}: %{y:.2f} %<extra></extra>",
        **made.place(0),
    )
    styles = category_styles(names.names)
    for domain, name in enumerate(names.names):
        made.figure.add_scatter(
            x=levels,
            y=distances[names.index == domain].mean(axis=0),
            mode="lines+markers",
            name=label(name),
            line={"color": styles[name].colour, "dash": styles[name].dash, "width": 2},
            marker={"symbol": styles[name].symbol, "size": 7},
            hovertemplate="level %{x}: %{y:.4g}",
            **made.place(1),
        )
    top = 112 * max(1.0, float(np.nanmax(shares, initial=0.0)))
    made.figure.update_yaxes(range=[0, top], ticksuffix=" %", title="of its variance", **made.place(0))
    made.figure.update_yaxes(rangemode="tozero", title="Euclidean distance", **made.place(1))
    for panel in range(2):
        made.figure.update_xaxes(dtick=1, title="level", **made.place(panel))
    made.figure.update_layout(showlegend=len(names) > 1)
    note = f"All {counted(len(distances), 'item')} of {counted(len(names), 'domain')}; every level by itself"
    return finish_panels(made, _title(shares), seeded(note, seed))


def error_shares(
    vectors: npt.ArrayLike, codewords: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Squared error over variance of each level, (L,), and each item's distances to its codewords, (N, L).

    vectors, codewords: (N, L, d). A level without any variance has the share NaN. Raises ValueError where the
    shapes differ.
    """
    given, chosen = np.asarray(vectors, dtype=np.float64), np.asarray(codewords, dtype=np.float64)
    if given.ndim != 3 or 0 in given.shape or given.shape != chosen.shape:
        raise ValueError(
            f"vectors: shape {given.shape} with codewords of shape {chosen.shape}; expected (items, levels, "
            "dimensions) of both"
        )
    distances = np.linalg.norm(given - chosen, axis=2)
    variance = ((given - given.mean(axis=0)) ** 2).sum(axis=(0, 2))
    errors = (distances**2).sum(axis=0)
    known = np.where(variance > 0, variance, np.nan)
    return errors / known, distances


def _title(shares: npt.NDArray[np.float64]) -> str:
    if not np.isfinite(shares).any():
        return "No level has any variance to keep"
    worst = int(np.nanargmax(shares))
    level = "The level" if len(shares) == 1 else f"Level {worst + 1}"
    share = float(shares[worst])
    if share > 1:
        return (
            f"{level} is no better than one codeword at the mean: its error is {_written(share)} its variance"
        )
    most = "" if len(shares) == 1 else "most: "
    return f"{level} loses {most}{percent(share)} of the variance of what it quantises"


def _written(share: float) -> str:
    """A share as a percentage; one above 1 as a multiple, as books have that the vectors are far from."""
    return f"{share:,.3g} times" if share > 1 else percent(share)
