"""Figures of residuals: what each level explains or loses, and how much is left to quantise.

Shapes: N items, L levels, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.codes.identified import Identified
from genrec_lab.viz.layout import domains_of, panels
from genrec_lab.viz.sentences import left_title, unquantised_title
from genrec_lab.viz.text import counted, noted, percent
from genrec_lab.viz.theme import ordered_styles

FloatArray = npt.NDArray[np.float64]


def levels_leave(
    shares: FloatArray, norms: FloatArray, domains: npt.ArrayLike, *, together: bool, seed: int | None = None
) -> go.Figure:
    """The variance that levels leave, and the mean norm of what is left by domain.

    shares: (L,) of the variance, above 1 where a level does worse than one codeword at the mean would.
    norms: (N, L) after each level, or (N, L + 1) with those before the first. together: whether the levels
    refine each other, so that the shares are what the first 1, 2, … codes leave.
    """
    levels, x = len(shares), "codes kept" if together else "level"
    left = "Variance left by the first codes" if together else "Variance that each level leaves of its own"
    made = panels([left, "Mean norm of what is left"], columns=2, row_height=270, column_gap=0.1)
    texts = [f"{share:,.3g} times" if share > 1 else percent(float(share)) for share in shares]
    colours, places = [style.colour for style in ordered_styles(levels)], np.arange(1, levels + 1)
    hover = f"{x} %{{x}}: %{{y:.2f}} %<extra></extra>"
    made.bars(0, 100 * shares, hover, at=places, marker_color=colours, text=texts)
    names = domains_of(domains, expected=len(norms))
    after = np.arange(levels + 1 - norms.shape[1], levels + 1)
    for domain, name in enumerate(names.names):
        made.line(1, after, norms[names.index == domain].mean(axis=0), name, f"{x} %{{x}}: %{{y:.4g}}")
    made.y(
        0,
        range=[0, 112 * max(1.0, float(np.nanmax(shares, initial=0.0)))],
        ticksuffix=" %",
        title="of the variance",
    )
    made.y(1, rangemode="tozero", title="Euclidean norm")
    made.x(dtick=1, title=x)
    note = noted(f"All {counted(len(norms), 'item')} of {counted(len(names), 'domain')}", seed=seed)
    return made.finish(left_title(shares, together=together), note, showlegend=len(names) > 1)


def what_levels_leave(own: Identified, domains: Sequence[str], seed: int = 0) -> go.Figure:
    """`levels_leave` of a tokenizer.

    Levels that hand nothing on, as the increments of UTGRec's (Eqs 3 and 4) and the sub-vectors of product
    quantisation, are measured each by itself; codes that quantise nothing have a figure that says so.
    """
    if not own.quantises:
        made = panels(["What each level leaves"], columns=1, row_height=160)
        made.say(0, "Nothing is quantised, so nothing is left over.", 90)
        return made.finish(unquantised_title(own.raw.levels), f"All {counted(own.raw.n_items, 'item')}")
    together = own.refines or own.prefixed is not None
    if together:
        explained, norms = explained_variance(own.residuals, own.codeword_sums())
        shares = 1 - explained
    else:
        shares, norms = error_shares(own.residuals, own.chosen_codewords())
    return levels_leave(shares, norms, domains, together=together, seed=seed)


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
