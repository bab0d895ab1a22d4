"""Figures of exposure: which codes are recommended more than they are many, and what the long tail gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from genrec_lab.viz import theme
from genrec_lab.viz.explorer.catalogue import written
from genrec_lab.viz.explorer.exposure import Exposure
from genrec_lab.viz.layout import (
    counted,
    finish,
    finish_panels,
    label,
    listed,
    numbered_axis,
    panels,
    percent,
    seeded,
)
from genrec_lab.viz.theme import category_styles

_NAMED = 4


def exposure_by_code(
    found: Exposure,
    labels: Mapping[int, Sequence[str]] | None = None,
    *,
    method: str = "",
    seed: int | None = None,
) -> go.Figure:
    """A code's share of the recommendations over its share of the items; above the line it is shown more.

    labels: by code, the words that tell it. The codes farthest from the line are named.
    """
    table = found.by_code
    x, y = 100 * table["catalogue_share"].to_numpy(), 100 * table["recommendation_share"].to_numpy()
    names = [_named(code, (labels or {}).get(code, ())) for code in table["code"].to_list()]
    above = y > x
    figure = go.Figure()
    most = 1.08 * max(float(x.max(initial=0)), float(y.max(initial=0)), 1e-9)
    figure.add_scatter(
        x=[0, most],
        y=[0, most],
        mode="lines",
        line={"color": theme.REFERENCE, "width": 1.5, "dash": "dash"},
        name="shown as often as it is large",
        hoverinfo="skip",
    )
    for name, chosen, colour, symbol in (
        ("shown more", above, theme.ACCENT, "triangle-up"),
        ("shown less", ~above, theme.PALETTE[1], "triangle-down"),
    ):
        figure.add_scatter(
            x=x[chosen],
            y=y[chosen],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 9, "color": colour, "opacity": 0.85},
            customdata=[names[place] for place in np.flatnonzero(chosen)],
            hovertemplate="%{customdata}: %{y:.2f} % of recommendations, %{x:.2f} % of items<extra></extra>",
        )
    _name_outliers(figure, x, y, names)
    figure.update_xaxes(
        title="share of the items", ticksuffix=" %", range=[0, 1.12 * max(float(x.max(initial=0)), 1e-9)]
    )
    figure.update_yaxes(title="share of the recommendations", ticksuffix=" %", range=[0, most])
    figure.update_layout(showlegend=True)
    where = f"below {written(found.prefix)}" if found.prefix else f"of level {found.level + 1}"
    note = f"{counted(table.height, 'used code')} {where}, {counted(found.recommendations, 'recommendation')}"
    note += f" of {listed([method])}" if method else ""
    return finish(figure, _code_title(found, x, y), seeded(note, seed), plot_height=360)


def exposure_by_popularity(found: Mapping[str, Exposure], *, seed: int | None = None) -> go.Figure:
    """What the items of each group of popularity get: of the interactions and of each method's lists.

    found: by method, the exposure of the same items. The right panel has the Gini coefficient of each.
    """
    if not found:
        raise ValueError("found: no methods; expected at least one")
    first = next(iter(found.values()))
    groups = first.groups["group"].to_list()
    made = panels(
        ["Share by popularity of the items", "Gini coefficient over items"],
        columns=2,
        row_height=270,
        column_gap=0.16,  # room for the names of rows
    )
    styles = category_styles(found)
    bars: list[tuple[str, np.ndarray, dict[str, object]]] = [
        ("share of items", first.groups["catalogue_share"].to_numpy(), {"color": theme.TRACK}),
        ("share of interactions", first.groups["traffic_share"].to_numpy(), {"color": theme.MUTED}),
    ]
    bars += [
        (name, one.groups["recommendation_share"].to_numpy(), styles[name].bar) for name, one in found.items()
    ]
    for name, values, marker in bars:
        made.figure.add_bar(
            x=np.arange(len(groups)),
            y=100 * values,
            name=label(name),
            marker=marker,
            hovertemplate="%{y:.1f} %",
            **made.place(0),
        )
    made.figure.update_xaxes(**numbered_axis(groups), **made.place(0))
    made.figure.update_yaxes(ticksuffix=" %", rangemode="tozero", title="share", **made.place(0))
    names = ["interactions", *found]
    ginis = [first.traffic_gini, *(one.gini for one in found.values())]
    made.figure.add_bar(
        y=np.arange(len(names)),
        x=ginis,
        orientation="h",
        marker_color=[theme.MUTED, *(styles[name].colour for name in found)],
        text=[f"{value:.2f}" for value in ginis],
        textposition="outside",
        cliponaxis=False,
        showlegend=False,
        hovertemplate="%{x:.3f}<extra></extra>",
        **made.place(1),
    )
    made.figure.update_yaxes(
        **numbered_axis(names, 16), range=[len(names) - 0.5, -0.5], showgrid=False, **made.place(1)
    )
    made.figure.update_xaxes(
        range=[0, 1.12], tickvals=[0, 0.5, 1], title="0: even, 1: one has all", **made.place(1)
    )
    made.figure.update_layout(barmode="group", showlegend=True, bargap=0.2)
    note = f"{counted(int(first.groups['items'].sum()), 'item')} by their interactions; "
    note += "; ".join(
        f"{listed([name])} shows {percent(one.coverage)} of them at all" for name, one in found.items()
    )
    return finish_panels(made, _popularity_title(found), seeded(note, seed))


def _named(code: int, words: Sequence[str]) -> str:
    return label(f"{code} · {', '.join(words)}" if words else str(code), 34)


def _name_outliers(figure: go.Figure, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Names of the codes farthest above and below the line, those that do not cover one already named."""
    taken: list[tuple[float, float]] = []
    wide, high = max(float(x.max(initial=0)), 1e-9), max(float(y.max(initial=0)), 1e-9)
    for place in np.argsort(-np.abs(y - x), kind="stable").tolist():
        if len(taken) == _NAMED or y[place] == x[place]:
            return
        spot = (x[place] / wide, y[place] / high)
        if any(abs(spot[1] - other[1]) < 0.06 and abs(spot[0] - other[0]) < 0.35 for other in taken):
            continue
        taken.append(spot)
        left = spot[0] > 0.6
        figure.add_annotation(
            x=x[place],
            y=y[place],
            text=names[place],
            showarrow=False,
            xanchor="right" if left else "left",
            xshift=-8 if left else 8,
            font={"size": 11},
        )


def _code_title(found: Exposure, x: np.ndarray, y: np.ndarray) -> str:
    if found.recommendations == 0:
        return "Nothing of this part of the catalogue is recommended"
    ratio = found.by_code["ratio"].to_numpy()
    never = int((ratio == 0).sum())
    most = int(np.argmax(y - x))
    code = int(found.by_code["code"][most])
    text = f"Code {code} is recommended {ratio[most]:.1f} times as often as it is large"
    if y[most] <= x[most]:
        return "Every code is recommended as often as it is large"
    return f"{text}; {never} of {counted(len(ratio), 'code')} never" if never else text


def _popularity_title(found: Mapping[str, Exposure]) -> str:
    tail = {name: float(one.groups["recommendation_share"][-1]) for name, one in found.items()}
    best, worst = max(tail, key=lambda name: tail[name]), min(tail, key=lambda name: tail[name])
    text = f"The less popular half of the items gets {percent(tail[best])} of the recommendations"
    if len(tail) == 1:
        return text
    return f"{text} of {listed([best])}, {percent(tail[worst])} of {listed([worst])}"
