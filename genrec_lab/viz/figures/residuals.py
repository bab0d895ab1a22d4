"""Figures of residuals: what each level explains or loses, and how much is left to quantise.

Shapes: N items, L levels, d dimensions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz.layout import Panels, domains_of, panels
from genrec_lab.viz.text import counted, noted, percent
from genrec_lab.viz.theme import ordered_styles

FloatArray = npt.NDArray[np.float64]


def residual_energy(
    residuals: npt.ArrayLike, vectors: npt.ArrayLike, domains: npt.ArrayLike, *, seed: int | None = None
) -> go.Figure:
    """Variance explained by the first l codes, and the mean residual norm after each level by domain.

    residuals: (N, L, d), what each level quantised, as `Quantized.residuals`. vectors: (N, d), the sum of the
    codewords, as `Quantized.vectors`. domains: (N,). Explained: 1 - sum |r_l|^2 / sum |r_0 - mean r_0|^2.
    """
    explained, norms = explained_variance(residuals, vectors)
    made = panels(
        ["Explained variance", "Mean norm of what is left"], columns=2, row_height=270, column_gap=0.1
    )
    texts = [percent(float(value)) for value in explained]
    _level_bars(made, explained, "%{x} codes: %{y:.2f} %<extra></extra>", texts)
    n_domains = _domain_lines(made, norms, domains, "after %{x} codes: %{y:.4g}", first=0)
    lowest = min(0.0, 100 * float(explained.min()))
    made.y(0, range=[1.1 * lowest, 112], ticksuffix=" %", title="share of the variance of r₀")
    made.y(1, rangemode="tozero", title="Euclidean norm")
    made.x(dtick=1, title="codes kept")
    note = noted(f"All {counted(len(norms), 'item')} of {counted(n_domains, 'domain')}", seed=seed)
    return made.finish(_energy_title(explained), note, showlegend=n_domains > 1)


def quantisation_errors(
    vectors: npt.ArrayLike, codewords: npt.ArrayLike, domains: npt.ArrayLike, *, seed: int | None = None
) -> go.Figure:
    """Each level's quantisation error over the variance of what it quantised, and mean distances by domain.

    For levels that quantise independently of each other. vectors: (N, L, d), what each level quantised, as
    UTGRec's prefix residuals. codewords: (N, L, d), those that were chosen. domains: (N,). Above 100 % a
    level does worse than one codeword at the mean would.
    """
    shares, distances = error_shares(vectors, codewords)
    titles = ["Quantisation error over variance", "Mean distance to the codeword"]
    made = panels(titles, columns=2, row_height=270, column_gap=0.1)
    texts = [_error_text(float(share)) for share in shares]
    _level_bars(made, shares, "level %{x}: %{y:.2f} %<extra></extra>", texts)
    n_domains = _domain_lines(made, distances, domains, "level %{x}: %{y:.4g}", first=1)
    top = 112 * max(1.0, float(np.nanmax(shares, initial=0.0)))
    made.y(0, range=[0, top], ticksuffix=" %", title="of its variance")
    made.y(1, rangemode="tozero", title="Euclidean distance")
    made.x(dtick=1, title="level")
    note = f"All {counted(len(distances), 'item')} of {counted(n_domains, 'domain')}"
    note = noted(note, "every level by itself", seed=seed)
    return made.finish(_error_title(shares), note, showlegend=n_domains > 1)


def nothing_quantised(levels: int, n_items: int) -> go.Figure:
    """An empty figure for codes that do not quantise a vector: it says that nothing is left over."""
    made = panels(["What each level leaves"], columns=1, row_height=160)
    made.say(
        0, f"The {counted(levels, 'level')} of these codes quantise no vector, so nothing is left over.", 90
    )
    return made.finish("These codes quantise nothing", f"All {counted(n_items, 'item')}")


def explained_variance(residuals: npt.ArrayLike, vectors: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the variance explained by 1..L codes, (L,), and each item's norms after 0..L codes, (N, L + 1).

    residuals: (N, L, d). vectors: (N, d) sums of the chosen codewords. Raises ValueError where shapes differ.
    """
    left = np.asarray(residuals, dtype=np.float64)
    quantized = np.asarray(vectors, dtype=np.float64)
    if left.ndim != 3 or 0 in left.shape or quantized.shape != (left.shape[0], left.shape[2]):
        raise ValueError(
            f"residuals: shape {left.shape} with vectors of shape {quantized.shape}; "
            "expected (items, levels, dimensions) and (items, dimensions)"
        )
    first = left[:, 0]
    norms = np.linalg.norm(np.concatenate([left, (first - quantized)[:, None]], axis=1), axis=2)
    variance = float(((first - first.mean(axis=0)) ** 2).sum())
    if variance == 0:
        raise ValueError("residuals: all items have the same first residual; there is no variance to explain")
    return 1 - (norms[:, 1:] ** 2).sum(axis=0) / variance, norms


def error_shares(vectors: npt.ArrayLike, codewords: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return each level's squared error over its variance, (L,), and the items' distances, (N, L).

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
    return (distances**2).sum(axis=0) / np.where(variance > 0, variance, np.nan), distances


def _level_bars(made: Panels, shares: FloatArray, hover: str, texts: list[str]) -> None:
    """A bar a level in percent, (L,), in the left panel."""
    colours = [style.colour for style in ordered_styles(len(shares))]
    places = np.arange(1, len(shares) + 1)
    made.bars(0, 100 * shares, hover, at=places, marker_color=colours, text=texts)


def _domain_lines(made: Panels, values: FloatArray, domains: npt.ArrayLike, hover: str, first: int) -> int:
    """The means of (N, L) values over each domain's items as lines from `first` on; how many domains."""
    names = domains_of(domains, expected=len(values))
    x = np.arange(first, first + values.shape[1])
    for domain, name in enumerate(names.names):
        made.line(1, x, values[names.index == domain].mean(axis=0), name, hover)
    return len(names)


def _energy_title(explained: FloatArray) -> str:
    first = percent(float(explained[0]))
    if len(explained) == 1:
        return f"One code explains {first} of the variance"
    whole = percent(float(explained[-1]))
    return f"The first code explains {first} of the variance, all {len(explained)} together {whole}"


def _error_title(shares: FloatArray) -> str:
    if not np.isfinite(shares).any():
        return "No level has any variance to keep"
    worst = int(np.nanargmax(shares))
    level = "The level" if len(shares) == 1 else f"Level {worst + 1}"
    share = float(shares[worst])
    if share > 1:
        text = "is no better than one codeword at the mean: its error is"
        return f"{level} {text} {_error_text(share)} its variance"
    most = "" if len(shares) == 1 else "most: "
    return f"{level} loses {most}{percent(share)} of the variance of what it quantises"


def _error_text(share: float) -> str:
    """A share as a percentage; above 1 as a multiple, as codebooks have that are far from the vectors."""
    return f"{share:,.3g} times" if share > 1 else percent(share)
