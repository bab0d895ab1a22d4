"""Figures of residuals: maps of each level's residuals, and the variance that each level explains or leaves.

Shapes: N items, n of them on the map, L levels, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike, NDArray

from genrec_lab.codes.identified import Identified
from genrec_lab.viz import FloatArray, IntArray, theme
from genrec_lab.viz.layout import MAX_POINTS, Panels, domains_of, panels
from genrec_lab.viz.projection import Projection, stratified_sample
from genrec_lab.viz.sentences import atlas_title, left_title, norms_title, unquantised_title
from genrec_lab.viz.text import counted, label, of_domains, percent
from genrec_lab.viz.theme import PALETTE, category_styles, ordered_styles

_MAP_NEIGHBOURS = 10
# SVG is slow to draw above this number of points. Below it, SVG works without WebGL and prints sharply.
_MOST_SVG_POINTS = 6_000
_METHOD_NAMES = {"tsne": "t-SNE", "umap": "UMAP"}
_NAMED_CODES = 8
_SLIDER = 74  # height of the slider below the axes, in pixels


def residual_atlas(
    coordinates: ArrayLike,
    domains: ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    method: str = "tsne",
    what: str = "the residuals that each level quantises",
    n_items: int | None = None,
    seed: int = 0,
) -> go.Figure:
    """Draw one map per level, coloured by domain, with the same items in each: GMC Figure 3, left.

    coordinates: (n, L, 2), as in `Projection.coordinates`. domains, titles: (n,) of these items. what:
    description of the mapped vectors for the note. n_items: size of the catalogue from which the n items
    come. If n times L is above 20,000, a stratified sample is drawn. The panels' titles state `map_purity`.
    """
    points = np.asarray(coordinates, dtype=np.float64)
    if points.ndim != 3 or points.shape[2] != 2 or 0 in points.shape:
        raise ValueError(f"coordinates: shape {points.shape}, expected (items, levels, 2), none of them 0")
    names, domain_index = domains_of(domains, expected=len(points))
    if titles is not None and len(titles) != len(points):
        raise ValueError(f"titles: {len(titles)} values for {len(points)} items, expected one per item")
    levels, several = points.shape[1], len(names) > 1
    purities = [map_purity(points[:, level], domain_index) for level in range(levels)]
    counts = np.bincount(domain_index)
    pairs = len(points) * (len(points) - 1)
    chance = float((counts * (counts - 1)).sum() / pairs) if several and pairs else float("nan")
    drawn = stratified_sample(domain_index, MAX_POINTS // levels, seed)
    of_own = " of nearest points from the same domain"
    own = [f": {percent(purity)}{of_own}" if several else "" for purity in purities]
    heads = [f"Level {level + 1}{text}" for level, text in enumerate(own)]
    made = panels(heads, columns=2 if levels != 3 else 3, row_height=330, column_gap=0.03, row_gap=20)
    hover = None if titles is None else np.array([label(titles[item], 70) for item in drawn])
    svg = len(drawn) * levels <= _MOST_SVG_POINTS
    size = 4 if svg else 3
    for panel in range(levels):
        places = points[drawn, panel].astype(np.float32)
        _add_domains(made, panel, places, domain_index[drawn], names, hover, svg=svg, size=size)
    _map_axes(made)
    total = len(points) if n_items is None else n_items
    sample = f" of {total:,}, stratified by domain" if len(drawn) < total else ", all of them"
    nearest = f"nearest: the {_MAP_NEIGHBOURS} nearest points" if several else ""
    note = (f"{_METHOD_NAMES.get(method, method)} of {what}", counted(len(drawn), "item") + sample, nearest)
    layout: dict[str, Any] = {"showlegend": several, "hovermode": "closest"}
    return made.finish(atlas_title(purities, chance), *note, seed=seed, **layout)


def residual_stepper(
    projection: Projection,
    residuals: ArrayLike,
    remainders: ArrayLike,
    codes: ArrayLike,
    domains: Sequence[object] | ArrayLike,
    titles: Sequence[str] | None = None,
) -> go.Figure:
    """Draw a map of the same items at every level, with a slider, next to the norms before and after it.

    residuals: (N, L, d), the input of each level. remainders: (N, L, d), what remains after each level.
    codes: (N, L). domains, titles: (N,). The numbers on the map mark the median position of the level's
    largest codes. All maps have the same extent. Raises ValueError if the shapes do not match.
    """
    seen, left = np.asarray(residuals, dtype=np.float32), np.asarray(remainders, dtype=np.float32)
    numbers, items = np.asarray(codes), projection.items
    levels = projection.coordinates.shape[1]
    if seen.ndim != 3 or left.shape != seen.shape or numbers.shape != seen.shape[:2]:
        shapes = f"shape {seen.shape} with remainders of {left.shape} and codes of {numbers.shape}"
        raise ValueError(f"residuals: {shapes}; expected (N, L, d) twice and (N, L)")
    if (projection.n_items, levels) != seen.shape[:2]:
        mapped = f"map of {projection.n_items} items and {levels} levels"
        raise ValueError(f"{mapped} for residuals of {seen.shape}; expected a map of these residuals")
    names, domain_index = domains_of(domains, len(seen))
    before, after = np.linalg.norm(seen, axis=2), np.linalg.norm(left, axis=2)
    heads = ["Items by what the level quantises", "Mean norm before and after each level"]
    made = panels(heads, columns=2, row_height=400, column_gap=0.13)
    svg = len(items) * levels <= _MOST_SVG_POINTS
    lines = ["" if titles is None else f"{label(titles[item], 70)}<br>" for item in items.tolist()]
    owners: list[int] = []
    for level in range(levels):
        # Shifted and scaled to fill -1..1, with the same scale in both directions.
        points, first = projection.coordinates[:, level], level == 0
        low, high = points.min(axis=0), points.max(axis=0)
        points = 2 * (points - (low + high) / 2) / max(float((high - low).max()), 1e-12)
        hover = [
            f"{line}code {numbers[item, level]}; norm {before[item, level]:.3g} before, "
            f"{after[item, level]:.3g} after"
            for line, item in zip(lines, items.tolist(), strict=True)
        ]
        own = domain_index[items]
        _add_domains(made, 0, points, own, names, np.array(hover), svg=svg, size=5, visible=first)
        _add_code_numbers(made, points, numbers[items, level], first)
        for name, norms, colour in (("before", before, theme.MUTED), ("after", after, theme.ACCENT)):
            # The selected level has full colour.
            opacity = [1.0 if other == level else 0.35 for other in range(levels)]
            look: dict[str, Any] = {"showlegend": True, "visible": first}
            look |= {"at": np.arange(1, levels + 1), "marker": {"color": colour, "opacity": opacity}}
            text = f"level %{{x}}: %{{y:.3g}} {name}<extra></extra>"
            made.bars(1, norms.mean(axis=0), text, f"norm {name}", **look)
        owners += [level] * (len(made.figure.data) - len(owners))
    _map_axes(made, 0, range=[-1.08, 1.08])
    made.x(1, title="level", tickmode="linear", dtick=1, showgrid=False)
    made.y(1, title="mean norm", rangemode="tozero")
    figure = made.finish(
        norms_title(before.mean(axis=0), after.mean(axis=0)),
        f"{_METHOD_NAMES.get(projection.method, projection.method)} of each level separately",
        f"{counted(len(items), 'item')} of {len(seen):,}",
        f"numbers mark the {_NAMED_CODES} largest codes of the level",
        seed=projection.seed,
        showlegend=True,
        hovermode="closest",
        barmode="group",
    )
    # A slider selects the traces of one level.
    shown = [{"visible": [one == level for one in owners]} for level in range(levels)]
    steps = [{"label": str(level), "method": "restyle", "args": [one]} for level, one in enumerate(shown, 1)]
    slider = {"x": 0, "len": 0.43, "y": 0, "yanchor": "top", "pad": {"t": 14, "b": 0, "l": 4}, "active": 0}
    current = {"prefix": "level ", "font": {"size": theme.PANEL_TITLE_SIZE}}
    slider |= {"steps": steps, "currentvalue": current}
    height, margin = figure.layout.height + _SLIDER, figure.layout.margin.b + _SLIDER
    return figure.update_layout(sliders=[slider], height=height, margin={"b": margin})


def map_purity(points: ArrayLike, domain: IntArray) -> float:
    """Return the mean share of a point's 10 nearest points on the map that belong to its own domain.

    points: (n, 2). domain: (n,). With fewer than 11 points, all others are counted; NaN for a single point.
    """
    from sklearn.neighbors import NearestNeighbors

    places = np.asarray(points, dtype=np.float64)
    near = min(_MAP_NEIGHBOURS, len(places) - 1)
    if near < 1:
        return float("nan")
    # Without an argument, a point is not its own neighbour, even if several points coincide.
    neighbours = NearestNeighbors(n_neighbors=near).fit(places).kneighbors(return_distance=False)
    return float((domain[neighbours] == domain[:, None]).mean())


def _map_axes(made: Panels, panel: int | None = None, **settings: object) -> None:
    """Remove the ticks from a map's axes, because its coordinates have no meaning."""
    for axis in (made.x, made.y):
        axis(panel, showticklabels=False, ticks="", showgrid=False, mirror=True, **settings)


def _add_domains(
    made: Panels,
    panel: int,
    points: NDArray[np.floating[Any]],
    domain: IntArray,
    names: Sequence[str],
    hover: NDArray[np.str_] | None,
    *,
    svg: bool,
    size: float,
    visible: bool = True,
) -> None:
    """Add one trace of (n, 2) points per domain; hover: (n,) texts."""
    kind = go.Scatter if svg else go.Scattergl
    shown = {"mode": "markers", "showlegend": panel == 0, "visible": visible}
    shown["hovertemplate"] = "%{fullData.name}<extra></extra>" if hover is None else "%{text}"
    for place, (name, style) in enumerate(category_styles(names).items()):
        own = domain == place
        # Other symbols are slower to draw, so they are only used when there are more domains than colours.
        symbol = style.symbol if place >= len(PALETTE) else "circle"
        look = {"color": style.colour, "size": size, "opacity": 0.72, "line": {"width": 0}, "symbol": symbol}
        named = {"name": label(name), "legendgroup": str(place), "marker": look}
        texts = None if hover is None else hover[own].tolist()
        made.add(panel, kind(x=points[own, 0], y=points[own, 1], text=texts, **named, **shown))


def _add_code_numbers(made: Panels, points: FloatArray, codes: IntArray, visible: bool) -> None:
    """Write the numbers of the largest codes at the median of their points."""
    found, counts = np.unique(codes, return_counts=True)
    largest = found[np.argsort(-counts, kind="stable")[:_NAMED_CODES]]
    x, y = np.array([np.median(points[codes == code], axis=0) for code in largest]).T
    # Dark text on a light disc is readable on points of any colour, in both modes.
    disc = {"size": 24, "color": "rgba(255,255,255,0.88)", "line": {"width": 1, "color": theme.MUTED}}
    font = {"size": theme.PANEL_TITLE_SIZE, "color": "#14181D"}
    look = {"mode": "markers+text", "marker": disc, "textfont": font, "hoverinfo": "skip"}
    texts = [f"<b>{code}</b>" for code in largest.tolist()]
    made.add(0, go.Scatter(x=x, y=y, text=texts, showlegend=False, visible=visible, **look))


def levels_leave(
    shares: FloatArray, norms: FloatArray, domains: ArrayLike, *, together: bool, seed: int | None = None
) -> go.Figure:
    """Draw the variance that levels leave unexplained, and the mean norm of the remainder by domain.

    shares: (L,) of the variance; above 1 if a level is worse than a single codeword at the mean.
    norms: (N, L) after each level, or (N, L + 1) with the norms before the first level. together: whether the
    levels refine each other; the shares are then those that the first 1, 2, … codes leave.
    """
    levels, x = len(shares), "codes kept" if together else "level"
    left = "Variance left by the first codes" if together else "Variance that each level leaves of its input"
    made = panels([left, "Mean norm of what is left"], columns=2, row_height=270, column_gap=0.1)
    texts = [f"{share:,.3g} times" if share > 1 else percent(float(share)) for share in shares]
    colours, places = [style.colour for style in ordered_styles(levels)], np.arange(1, levels + 1)
    hover = f"{x} %{{x}}: %{{y:.2f}} %<extra></extra>"
    made.bars(0, 100 * shares, hover, at=places, marker_color=colours, text=texts)
    names, domain_index = domains_of(domains, expected=len(norms))
    after = np.arange(levels + 1 - norms.shape[1], levels + 1)
    for domain, name in enumerate(names):
        made.line(1, after, norms[domain_index == domain].mean(axis=0), name, f"{x} %{{x}}: %{{y:.4g}}")
    most = max(1.0, float(np.nanmax(shares, initial=0.0)))
    made.y(0, range=[0, 112 * most], ticksuffix=" %", title="of the variance")
    made.y(1, rangemode="tozero", title="Euclidean norm")
    made.x(dtick=1, title=x)
    title = left_title(shares, together=together)
    return made.finish(title, f"All {of_domains(len(norms), names)}", seed=seed, showlegend=len(names) > 1)


def what_levels_leave(own: Identified, domains: Sequence[str], seed: int = 0) -> go.Figure:
    """Draw `levels_leave` for a tokenizer; for codes that do not quantise vectors, the figure says so.

    Levels that do not pass a residual on are measured separately, such as UTGRec's increments (Eqs 3 and 4)
    and the sub-vectors of product quantisation.
    """
    if not own.quantises:
        made = panels(["What each level leaves"], columns=1, row_height=160)
        made.say(0, "Nothing is quantised, so nothing is left over.", 90)
        return made.finish(unquantised_title(own.raw.levels), f"All {counted(own.raw.n_items, 'item')}")
    if together := own.refines or own.prefixed is not None:
        explained, norms = explained_variance(own.residuals, own.codeword_sums())
        shares = 1 - explained
    else:
        shares, norms = error_shares(own.residuals, own.chosen_codewords())
    return levels_leave(shares, norms, domains, together=together, seed=seed)


def explained_variance(residuals: ArrayLike, vectors: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the variance explained by 1..L codes, (L,), and each item's norms after 0..L codes, (N, L + 1).

    residuals: (N, L, d). vectors: (N, d) sums of the chosen codewords. Raises ValueError if shapes differ.
    """
    left = np.asarray(residuals, dtype=np.float64)
    quantized = np.asarray(vectors, dtype=np.float64)
    if left.ndim != 3 or 0 in left.shape or quantized.shape != (left.shape[0], left.shape[2]):
        shapes = f"shape {left.shape} with vectors of shape {quantized.shape}"
        raise ValueError(f"residuals: {shapes}; expected (items, levels, dimensions) and (items, dimensions)")
    first = left[:, 0]
    norms = np.linalg.norm(np.concatenate([left, (first - quantized)[:, None]], axis=1), axis=2)
    variance = float(((first - first.mean(axis=0)) ** 2).sum())
    if variance == 0:
        raise ValueError("residuals: all items have the same first residual; there is no variance to explain")
    return 1 - (norms[:, 1:] ** 2).sum(axis=0) / variance, norms


def error_shares(vectors: ArrayLike, codewords: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return each level's squared error divided by its variance, (L,), and the items' distances, (N, L).

    vectors, codewords: (N, L, d). The share of a level without variance is NaN. Raises ValueError if the
    shapes differ.
    """
    given, chosen = np.asarray(vectors, dtype=np.float64), np.asarray(codewords, dtype=np.float64)
    if given.ndim != 3 or 0 in given.shape or given.shape != chosen.shape:
        shapes = f"shape {given.shape} with codewords of shape {chosen.shape}"
        raise ValueError(f"vectors: {shapes}; expected (items, levels, dimensions) of both")
    distances = np.linalg.norm(given - chosen, axis=2)
    variance = ((given - given.mean(axis=0)) ** 2).sum(axis=(0, 2))
    return (distances**2).sum(axis=0) / np.where(variance > 0, variance, np.nan), distances


def mapped_things(own: Identified) -> str:
    """Return a description of what the maps of stage 03 show, for a figure's note."""
    if not own.quantises:
        return "the text vectors, because these codes quantise nothing"
    if own.prefixed is not None:
        return "the residuals that each level quantises, relative to the centres of their clusters"
    if own.refines:
        return "the residuals that each level quantises"
    return "the part of each item's vector that each level quantises"


def step_through(own: Identified, tsne: Projection, items: pl.DataFrame) -> go.Figure:
    """Draw `residual_stepper` on the t-SNE map, or `what_levels_leave` if there is no quantisation."""
    if not own.quantises:
        return what_levels_leave(own, items["domain"].to_list())
    if own.prefixed is not None:
        remainders = np.concatenate([own.residuals[:, 1:], own.remainder()[:, None]], axis=1)
    else:
        remainders = own.residuals - own.chosen_codewords()
    codes, (domains, titles) = own.comparable_codes().codes, items.select("domain", "title")
    return residual_stepper(tsne, own.residuals, remainders, codes, domains.to_list(), titles.to_list())
