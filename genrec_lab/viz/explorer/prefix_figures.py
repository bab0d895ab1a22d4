"""Figures of a prefix: the codes that follow it, and where its items lie on a level's map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz import theme
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.prefixes import DEAD, Children
from genrec_lab.viz.explorer.sentences import children_note, children_title, map_title
from genrec_lab.viz.figures.maps import dot, map_axes, map_trace, method_name
from genrec_lab.viz.layout import MAX_POINTS, Panels, one_panel, panels
from genrec_lab.viz.projection import Projection, stratified_sample
from genrec_lab.viz.text import code_label, counted, label, labels, noted
from genrec_lab.viz.theme import category_styles


def prefix_bars(
    children: Children,
    labels: Mapping[int, Sequence[str]] | None = None,
    *,
    top: int = 20,
    seed: int | None = None,
) -> go.Figure:
    """The largest codes that follow a prefix: items by domain, and share of items against share of traffic.

    labels: by code, the words that describe it. Codes that nobody has are named in the note.
    """
    sizes = children.sizes
    order = np.argsort(-sizes, kind="stable")
    shown = order[: min(top, int((sizes > 0).sum()))]
    dead = [code for code, state in enumerate(children.states) if state == DEAD]
    names = [code_label(code, (labels or {}).get(code, ()), 36) for code in shown.tolist()]
    titles = [
        "Items by domain" if len(children.domains) > 1 else "Items",
        "Share of items and of interactions",
    ]
    height = 21 * max(len(names), 3) + 10
    made = panels(titles, columns=2, row_height=height, left_labels=210, column_gap=0.05)
    for domain, name in enumerate(children.domains):
        # The codes, for whoever listens to clicks on the bars.
        ids = {"ids": [str(code) for code in shown], "customdata": names}
        made.bars(0, children.items[shown, domain], "%{customdata}: %{x} items", name, flat=True, **ids)
    share = sizes / max(int(sizes.sum()), 1)
    traffic = children.interactions.sum(axis=1) / max(int(children.interactions.sum()), 1)
    _add_shares(made, share[shown], traffic[shown], names)
    for panel in range(2):
        made.rows(panel, names, ticktext=names)
    made.x(0, title="items", rangemode="tozero")
    made.x(1, title="of what lies below the prefix", ticksuffix=" %", rangemode="tozero")
    note = noted(children_note(sizes, len(shown), dead), seed=seed)
    return made.finish(children_title(children), note, barmode="stack", showlegend=True, bargap=0.3)


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
    kind, domain = map_trace(len(drawn)), catalogue.codes.domain_index[items]
    made = one_panel(460)

    def draw(which: npt.NDArray[np.bool_], name: str, marker: dict[str, object], **hover: object) -> None:
        if which.any():
            x, y = points[which].T
            # The items, for whoever listens to clicks and to the lasso: numbers, since plotly copies texts.
            ids = {"customdata": items[which], "meta": "items"}
            made.add(0, kind(x=x, y=y, mode="markers", name=name, marker=marker, **ids, **hover))

    draw(~inside, "other items", dot(theme.MUTED, 3, 0.45), hoverinfo="skip")
    for place, (name, style) in enumerate(category_styles(catalogue.domains).items()):
        own = inside & (domain == place)
        titles = labels(catalogue.titles.gather(items[own]), 70)
        marker = dot(style.colour, 5 if inside.all() else 8, 0.85)
        draw(own, label(name), marker, text=titles, hovertemplate="%{text}")
    map_axes(made)
    note = noted(
        f"{method_name(projection.method)} of the residuals of level {shown + 1}",
        f"{counted(len(drawn), 'item')} of {projection.n_items:,}",
        seed=projection.seed,
    )
    members = catalogue.order.members(tuple(prefix)).size
    title = map_title(tuple(prefix), shown, int(chosen.sum()), len(drawn), members)
    return made.finish(title, note, showlegend=True, hovermode="closest")


def _add_shares(
    made: Panels, items: npt.NDArray[np.float64], traffic: npt.NDArray[np.float64], names: Sequence[str]
) -> None:
    """A dumbbell a code: from its share of the items to its share of the interactions."""
    places = np.arange(len(items))
    ends = np.column_stack([items, traffic])
    made.segments(1, 100 * ends, np.column_stack([places, places]), theme.TRACK, 4)
    for name, values, colour, symbol in (
        ("share of items", items, theme.MUTED, "circle-open"),
        ("share of interactions", traffic, theme.ACCENT, "circle"),
    ):
        marker, hover = theme.mark(colour, symbol, 9), "%{customdata}: %{x:.2f} %"
        made.points(1, 100 * values, places, name, hover, marker, customdata=list(names))
