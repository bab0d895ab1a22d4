"""Figures of residuals: where each level's vectors lie, how the domains mix, and what is left to quantise.

Shapes: N items, n of them on the map, L levels, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz.layout import (
    MAX_POINTS,
    Domains,
    Panels,
    counted,
    domains_of,
    escape,
    finish_panels,
    label,
    panels,
    percent,
    seeded,
    shorten,
)
from genrec_lab.viz.projection import stratified_sample
from genrec_lab.viz.theme import PALETTE, category_styles, ordered_styles

_MAP_NEIGHBOURS = 10
# Above this many points SVG gets slow to draw; below it, it needs no WebGL and prints sharply.
_MOST_SVG_POINTS = 6_000
_METHOD_NAMES = {"tsne": "t-SNE", "umap": "UMAP"}


def residual_atlas(
    coordinates: npt.ArrayLike,
    domains: npt.ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    method: str = "tsne",
    what: str = "the residuals that each level quantises",
    n_items: int | None = None,
    seed: int = 0,
) -> go.Figure:
    """One map a level, coloured by domain, the same items in each: GMC Figure 3, left.

    coordinates: (n, L, 2), as `Projection.coordinates`. domains: (n,) of these items. titles: (n,) for the
    hover. what: the note's words for what is mapped. n_items: the catalogue from which the n come. Where n
    times L is above 20,000, a stratified sample is drawn. The titles state how often a point's 10 nearest
    points on the map are of its own domain.
    """
    points = np.asarray(coordinates, dtype=np.float64)
    if points.ndim != 3 or points.shape[2] != 2 or 0 in points.shape:
        raise ValueError(
            f"coordinates: shape {points.shape}, expected (items, levels, 2) with at least one item"
        )
    names = domains_of(domains, expected=len(points))
    if titles is not None and len(titles) != len(points):
        raise ValueError(f"titles: {len(titles)} values for {len(points)} items, expected one an item")
    purities = [map_purity(points[:, level], names.index) for level in range(points.shape[1])]
    chance = float(((np.bincount(names.index) / len(points)) ** 2).sum())
    drawn = stratified_sample(names.index, MAX_POINTS // points.shape[1], seed)
    several = len(names) > 1
    made = panels(
        [
            f"Level {level + 1}: {percent(purity)} own-domain neighbours" if several else f"Level {level + 1}"
            for level, purity in enumerate(purities)
        ],
        columns=2 if points.shape[1] != 3 else 3,
        row_height=330,
        column_gap=0.03,
        row_gap=20,
    )
    hover = None if titles is None else [escape(shorten(titles[item], 70)) for item in drawn]
    for panel in range(points.shape[1]):
        _scatter(made, panel, points[drawn, panel], names, names.index[drawn], hover)
    made.figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, mirror=True)
    made.figure.update_yaxes(showticklabels=False, ticks="", showgrid=False, mirror=True)
    made.figure.update_layout(showlegend=several, hovermode="closest")
    note = f"{_METHOD_NAMES.get(method, method)} of {what}; "
    note += counted(len(drawn), "item")
    total = len(points) if n_items is None else n_items
    note += f" of {total:,}, stratified by domain" if len(drawn) < total else ", all of them"
    if several:
        note += f"; by chance {percent(chance)} of a point's neighbours are of its own domain"
    return finish_panels(made, _atlas_title(purities, chance, several), seeded(note, seed))


def map_purity(points: npt.ArrayLike, domain: npt.NDArray[np.int64]) -> float:
    """Mean share of a point's 10 nearest points on the map that are of its own domain.

    points: (n, 2). domain: (n,). Fewer than 11 points: of all the others; NaN for a single point.
    """
    from sklearn.neighbors import NearestNeighbors

    places = np.asarray(points, dtype=np.float64)
    near = min(_MAP_NEIGHBOURS, len(places) - 1)
    if near < 1:
        return float("nan")
    # Without an argument, a point is not among its own neighbours, even where several lie on one spot.
    neighbours = NearestNeighbors(n_neighbors=near).fit(places).kneighbors(return_distance=False)
    return float((domain[neighbours] == domain[:, None]).mean())


def residual_energy(
    residuals: npt.ArrayLike, vectors: npt.ArrayLike, domains: npt.ArrayLike, *, seed: int | None = None
) -> go.Figure:
    """Variance explained by the first l codes, and the mean residual norm after each level by domain.

    residuals: (N, L, d), what each level quantised, as `Quantized.residuals`. vectors: (N, d), the sum of the
    codewords, as `Quantized.vectors`. domains: (N,). Explained: 1 - sum |r_l|^2 / sum |r_0 - mean r_0|^2.
    """
    explained, norms = explained_variance(residuals, vectors)
    names = domains_of(domains, expected=len(norms))
    levels = len(explained)
    styles = category_styles(names.names)
    made = panels(
        ["Explained variance", "Mean norm of what is left"], columns=2, row_height=270, column_gap=0.1
    )
    ramp = ordered_styles(levels)
    made.figure.add_bar(
        x=np.arange(1, levels + 1),
        y=100 * explained,
        marker_color=[style.colour for style in ramp],
        text=[percent(float(value)) for value in explained],
        textposition="outside",
        cliponaxis=False,
        showlegend=False,
        hovertemplate="%{x} codes: %{y:.2f} %<extra></extra>",
        **made.place(0),
    )
    for domain, name in enumerate(names.names):
        made.figure.add_scatter(
            x=np.arange(levels + 1),
            y=norms[names.index == domain].mean(axis=0),
            mode="lines+markers",
            name=label(name),
            line={"color": styles[name].colour, "dash": styles[name].dash, "width": 2},
            marker={"symbol": styles[name].symbol, "size": 7},
            hovertemplate="after %{x} codes: %{y:.4g}",
            **made.place(1),
        )
    lowest = min(0.0, 100 * float(explained.min()))
    made.figure.update_yaxes(
        range=[1.1 * lowest, 112], ticksuffix=" %", title="share of the variance of r₀", **made.place(0)
    )
    made.figure.update_yaxes(rangemode="tozero", title="Euclidean norm", **made.place(1))
    for panel in range(2):
        made.figure.update_xaxes(dtick=1, title="codes kept", **made.place(panel))
    made.figure.update_layout(showlegend=len(names) > 1)
    text = f"All {counted(len(norms), 'item')} of {counted(len(names), 'domain')}"
    return finish_panels(made, _energy_title(explained), seeded(text, seed))


def nothing_quantised(levels: int, n_items: int) -> go.Figure:
    """An empty figure for codes that do not quantise a vector: it says that nothing is left over."""
    made = panels(["What each level leaves"], columns=1, row_height=160)
    made.figure.add_annotation(
        text=f"The {counted(levels, 'level')} of these codes quantise no vector, so nothing is left over.",
        showarrow=False,
        xref="x domain",
        yref="y domain",
        x=0.5,
        y=0.5,
    )
    made.figure.update_xaxes(visible=False)
    made.figure.update_yaxes(visible=False)
    return finish_panels(made, "These codes quantise nothing", f"All {counted(n_items, 'item')}")


def explained_variance(
    residuals: npt.ArrayLike, vectors: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The variance explained by 1..L codes, (L,), and each item's norms after 0..L codes, (N, L + 1).

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
    remainder = first - quantized
    norms = np.linalg.norm(np.concatenate([left, remainder[:, None]], axis=1), axis=2)
    variance = float(((first - first.mean(axis=0)) ** 2).sum())
    if variance == 0:
        raise ValueError("residuals: all items have the same first residual; there is no variance to explain")
    return 1 - (norms[:, 1:] ** 2).sum(axis=0) / variance, norms


def _scatter(
    made: Panels,
    panel: int,
    points: npt.NDArray[np.float64],
    names: Domains,
    index: npt.NDArray[np.int64],
    hover: Sequence[str] | None,
) -> None:
    styles = category_styles(names.names)
    total = len(points) * made.count
    trace = go.Scattergl if total > _MOST_SVG_POINTS else go.Scatter
    size = 3 if total > _MOST_SVG_POINTS else 4
    for domain, name in enumerate(names.names):
        chosen = np.flatnonzero(index == domain)
        text = None if hover is None else [hover[int(place)] for place in chosen]
        made.figure.add_trace(
            trace(
                x=points[chosen, 0].astype(np.float32),
                y=points[chosen, 1].astype(np.float32),
                mode="markers",
                name=label(name),
                legendgroup=str(domain),
                showlegend=panel == 0,
                marker={
                    "color": styles[name].colour,
                    # Crosses are slower to draw, so symbols come in where the colours run out.
                    "symbol": styles[name].symbol if domain >= len(PALETTE) else "circle",
                    "size": size,
                    "opacity": 0.7,
                    "line": {"width": 0},
                },
                text=text,
                hovertemplate="%{text}" if text is not None else "%{fullData.name}<extra></extra>",
            ),
            **made.place(panel),
        )


def _atlas_title(purities: Sequence[float], chance: float, several: bool) -> str:
    if not several:
        return f"Residuals of {counted(len(purities), 'level')}, one domain"
    parted = [level for level, purity in enumerate(purities) if purity > (1 + chance) / 2]
    mixed = [level for level in range(len(purities)) if level not in parted]
    best = int(np.argmax(purities))
    of_own = f"{percent(purities[best])} of a point's neighbours are of its own domain"
    if not parted:
        return f"The domains mix at every level: at most {of_own}"
    text = f"Level {best + 1} separates the domains: {of_own}"
    if not mixed:
        return f"{text}, and no level mixes them"
    least = min(mixed, key=lambda level: purities[level])
    return f"{text}, {percent(purities[least])} at level {least + 1}"


def _energy_title(explained: npt.NDArray[np.float64]) -> str:
    levels = len(explained)
    if levels == 1:
        return f"One code explains {percent(float(explained[0]))} of the variance"
    return (
        f"The first code explains {percent(float(explained[0]))} of the variance, "
        f"all {levels} together {percent(float(explained[-1]))}"
    )
