"""Figure of one level's map with a prefix in colour: where its items lie among all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz import theme
from genrec_lab.viz.explorer.catalogue import CodedCatalogue, written
from genrec_lab.viz.layout import MAX_POINTS, counted, finish, label, labels, percent, seeded
from genrec_lab.viz.projection import Projection, stratified_sample
from genrec_lab.viz.theme import category_styles

_METHOD_NAMES = {"tsne": "t-SNE", "umap": "UMAP"}


def prefix_map(
    catalogue: CodedCatalogue, projection: Projection, prefix: Sequence[int] = (), *, level: int | None = None
) -> go.Figure:
    """The residuals of one level on a map: items of the prefix by domain, all others grey.

    level: 0-based, by default that of the prefix's children. At most 20,000 points are drawn, a sample that
    keeps the share of the prefix. Raises ValueError for a map of another catalogue or a level without a map.
    """
    levels = projection.coordinates.shape[1]
    shown = min(len(prefix), levels - 1) if level is None else level
    if projection.n_items != catalogue.n_items or not 0 <= shown < levels:
        raise ValueError(
            f"map of {projection.n_items} items and {levels} levels for {catalogue.n_items} items at level "
            f"{shown}; expected a map of this catalogue and one of its levels"
        )
    chosen = np.isin(projection.items, catalogue.order.members(tuple(prefix)))
    drawn = stratified_sample(chosen.astype(int), MAX_POINTS, projection.seed)
    points, items, inside = projection.coordinates[drawn, shown], projection.items[drawn], chosen[drawn]
    styles = category_styles(catalogue.domains)
    figure = go.Figure()
    trace = go.Scattergl if len(drawn) > 6_000 else go.Scatter
    domain = catalogue.codes.domain_index[items]
    if not inside.all():
        rest = items[~inside]
        figure.add_trace(_points(trace, points[~inside], rest, "other items", theme.MUTED, 3, None))
    for place, name in enumerate(catalogue.domains):
        own = inside & (domain == place)
        if own.any():
            titles = labels(catalogue.titles.gather(items[own]), 70)
            size = 5 if inside.all() else 8
            colour = styles[name].colour
            figure.add_trace(_points(trace, points[own], items[own], label(name), colour, size, titles))
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, mirror=True)
    figure.update_yaxes(showticklabels=False, ticks="", showgrid=False, mirror=True)
    figure.update_layout(showlegend=True, hovermode="closest")
    note = (
        f"{_METHOD_NAMES.get(projection.method, projection.method)} of the residuals of level {shown + 1}; "
    )
    note += f"{counted(len(drawn), 'item')} of {projection.n_items:,}"
    title = _title(catalogue, points, inside, tuple(prefix), shown)
    return finish(figure, title, seeded(note, projection.seed), plot_height=460)


def _points(
    trace: type,
    points: npt.NDArray[np.float32],
    items: npt.NDArray[np.int64],
    name: str,
    colour: str,
    size: int,
    titles: npt.NDArray[np.object_] | None,
) -> go.Scatter | go.Scattergl:
    opacity = 0.45 if titles is None else 0.85
    return trace(
        x=points[:, 0],
        y=points[:, 1],
        # For whoever listens to clicks and to the lasso; numbers, for of texts plotly copies each.
        customdata=items,
        meta="items",
        mode="markers",
        name=name,
        marker={"color": colour, "size": size, "opacity": opacity, "line": {"width": 0}},
        text=titles,
        hovertemplate="%{text}" if titles is not None else None,
        hoverinfo=None if titles is not None else "skip",
    )


def _title(
    catalogue: CodedCatalogue,
    points: npt.NDArray[np.float32],
    inside: npt.NDArray[np.bool_],
    prefix: tuple[int, ...],
    level: int,
) -> str:
    if not prefix:
        return f"Residuals of level {level + 1}, all items by domain"
    found = int(inside.sum())
    if found == 0:
        return f"No item on the map has the prefix {written(prefix)}"
    text = f"Prefix {written(prefix)} has {counted(found, 'item')}, {percent(found / len(inside))} of the map"
    if found < 2:
        return text
    # How far the prefix spreads, against all points: 1 is as far as all.
    spread = float(points[inside].std(axis=0).mean() / max(float(points.std(axis=0).mean()), 1e-12))
    kind = (
        "lie close together"
        if spread < 0.5
        else "are spread as far as all others"
        if spread > 0.8
        else "lie in one region"
    )
    return f"{text}; they {kind} at level {level + 1}"
