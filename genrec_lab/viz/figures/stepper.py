"""Figure that steps through the levels: where items lie before each, which code they get, what is left.

Shapes: N items, n of them on the map, L levels, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz import theme
from genrec_lab.viz.layout import counted, domains_of, finish_panels, label, panels, percent, seeded
from genrec_lab.viz.projection import Projection
from genrec_lab.viz.theme import category_styles

_METHOD_NAMES = {"tsne": "t-SNE", "umap": "UMAP"}
_NAMED_CODES = 8
_MOST_SVG_POINTS = 6_000
_SLIDER = 74
"""Pixels that the slider takes below the axes."""

FloatArray = npt.NDArray[np.float64]


def residual_stepper(
    projection: Projection,
    residuals: npt.ArrayLike,
    remainders: npt.ArrayLike,
    codes: npt.ArrayLike,
    domains: Sequence[object] | npt.ArrayLike,
    titles: Sequence[str] | None = None,
) -> go.Figure:
    """A map of the same items at every level, one at a time by a slider, beside the norms before and after.

    residuals: (N, L, d), what each level quantises. remainders: (N, L, d), what it leaves of that.
    codes: (N, L). domains, titles: (N,). A point's text has its code and the norm of its residual before and
    after; the numbers on the map stand where most items of the level's largest codes lie. Each map fills the
    same square, so that nothing jumps. Raises ValueError where the shapes do not agree.
    """
    seen, left = np.asarray(residuals, dtype=np.float32), np.asarray(remainders, dtype=np.float32)
    numbers, items = np.asarray(codes), projection.items
    levels = projection.coordinates.shape[1]
    if seen.ndim != 3 or left.shape != seen.shape or numbers.shape != seen.shape[:2]:
        raise ValueError(
            f"residuals: shape {seen.shape} with remainders of {left.shape} and codes of {numbers.shape}; "
            "expected (N, L, d) twice and (N, L)"
        )
    if levels != seen.shape[1] or projection.n_items != len(seen):
        raise ValueError(
            f"map of {projection.n_items} items and {levels} levels for {len(seen)} items and "
            f"{seen.shape[1]} levels; expected a map of these residuals"
        )
    names = domains_of(domains, len(seen))
    before, after = np.linalg.norm(seen, axis=2), np.linalg.norm(left, axis=2)
    made = panels(
        ["Items by what the level quantises", "Mean norm before and after each level"],
        columns=2,
        row_height=400,
        column_gap=0.13,
    )
    owners: list[int] = []
    for level in range(levels):
        points = _in_square(projection.coordinates[:, level])
        hover = [
            f"{label(titles[item], 70) + '<br>' if titles is not None else ''}code {numbers[item, level]}; "
            f"norm {before[item, level]:.3g} before, {after[item, level]:.3g} after"
            for item in items.tolist()
        ]
        trace = go.Scattergl if len(items) * levels > _MOST_SVG_POINTS else go.Scatter
        styles = category_styles(names.names)
        for place, name in enumerate(names.names):
            own = np.flatnonzero(names.index[items] == place)
            colour = styles[name].colour
            made.figure.add_trace(
                trace(
                    x=points[own, 0],
                    y=points[own, 1],
                    mode="markers",
                    name=label(name),
                    legendgroup=str(place),
                    marker={"color": colour, "size": 5, "opacity": 0.75, "line": {"width": 0}},
                    text=[hover[row] for row in own.tolist()],
                    hovertemplate="%{text}",
                    visible=level == 0,
                ),
                **made.place(0),
            )
        _add_code_numbers(made.figure, points, numbers[items, level], level == 0, made.place(0))
        _add_norms(made.figure, before.mean(axis=0), after.mean(axis=0), level, made.place(1))
        owners += [level] * (len(made.figure.data) - len(owners))
    made.figure.update_xaxes(
        range=[-1.08, 1.08], showticklabels=False, ticks="", showgrid=False, mirror=True, **made.place(0)
    )
    made.figure.update_yaxes(
        range=[-1.08, 1.08], showticklabels=False, ticks="", showgrid=False, mirror=True, **made.place(0)
    )
    made.figure.update_xaxes(title="level", tickmode="linear", dtick=1, showgrid=False, **made.place(1))
    made.figure.update_yaxes(title="mean norm", rangemode="tozero", **made.place(1))
    made.figure.update_layout(showlegend=True, hovermode="closest", barmode="group")
    method = _METHOD_NAMES.get(projection.method, projection.method)
    note = f"{method} of each level by itself; {counted(len(items), 'item')} of {len(seen):,}; "
    note += f"the numbers stand where the {_NAMED_CODES} largest codes of the level lie"
    title = _title(before.mean(axis=0), after.mean(axis=0))
    return _with_slider(finish_panels(made, title, seeded(note, projection.seed)), np.array(owners), levels)


def _in_square(points: npt.NDArray[np.float32]) -> FloatArray:
    """Coordinates moved and scaled, alike in both directions, to fill -1..1."""
    low, high = points.min(axis=0), points.max(axis=0)
    size = max(float((high - low).max()), 1e-12)
    return np.asarray(2 * (points - (low + high) / 2) / size, dtype=np.float64)


def _add_code_numbers(
    figure: go.Figure, points: FloatArray, codes: npt.NDArray[np.int64], visible: bool, place: dict[str, int]
) -> None:
    """The largest codes' numbers at the median of their points."""
    found, counts = np.unique(codes, return_counts=True)
    largest = found[np.argsort(-counts, kind="stable")[:_NAMED_CODES]]
    middles = np.array([np.median(points[codes == code], axis=0) for code in largest])
    figure.add_scatter(
        x=middles[:, 0],
        y=middles[:, 1],
        mode="text",
        text=[f"<b>{code}</b>" for code in largest.tolist()],
        textfont={"size": theme.PANEL_TITLE_SIZE + 2},
        showlegend=False,
        hoverinfo="skip",
        visible=visible,
        **place,
    )


def _add_norms(
    figure: go.Figure, before: FloatArray, after: FloatArray, level: int, place: dict[str, int]
) -> None:
    """Two bars a level, those of the shown level in full colour."""
    for name, values, colour in (("before", before, theme.MUTED), ("after", after, theme.ACCENT)):
        figure.add_bar(
            x=np.arange(1, len(values) + 1),
            y=values,
            name=f"norm {name}",
            legendgroup=name,
            marker={
                "color": colour,
                "opacity": [1.0 if other == level else 0.35 for other in range(len(values))],
            },
            hovertemplate=f"level %{{x}}: %{{y:.3g}} {name}<extra></extra>",
            visible=level == 0,
            **place,
        )


def _with_slider(figure: go.Figure, owners: npt.NDArray[np.int64], levels: int) -> go.Figure:
    """A slider that shows one level's traces; owners: each trace's level."""
    steps = [
        {
            "label": str(level + 1),
            "method": "restyle",
            "args": [{"visible": [bool(of_level) for of_level in owners == level]}],
        }
        for level in range(levels)
    ]
    slider = {
        "active": 0,
        "steps": steps,
        "currentvalue": {"prefix": "level ", "font": {"size": theme.PANEL_TITLE_SIZE}},
        "x": 0,
        "len": 0.43,
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 14, "b": 0, "l": 4},
    }
    margin = figure.layout.margin.b
    figure.update_layout(
        sliders=[slider], height=figure.layout.height + _SLIDER, margin={"b": margin + _SLIDER}
    )
    return figure


def _title(before: FloatArray, after: FloatArray) -> str:
    removed = 1 - after / np.maximum(before, 1e-12)
    if len(removed) == 1:
        return f"The level takes {percent(float(removed[0]))} off the norm of what it quantises"
    most, least = int(removed.argmax()), int(removed.argmin())
    return (
        f"Level {most + 1} takes {percent(float(removed[most]))} off the norm of what it quantises, "
        f"level {least + 1} takes {percent(float(removed[least]))}"
    )
