"""Figures of one code: what follows a prefix, and the page of a code.

Shapes: K codes of a level, T domains, n items of a code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from genrec_lab.viz import theme
from genrec_lab.viz.explorer.catalogue import CodedCatalogue, written
from genrec_lab.viz.explorer.code_page import CodePage
from genrec_lab.viz.explorer.prefixes import DEAD, Children
from genrec_lab.viz.layout import (
    counted,
    finish_panels,
    label,
    listed,
    numbered_axis,
    panels,
    percent,
    seeded,
    wrapped,
)
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.theme import category_styles

_MOST_NAMED = 8
_HOLLOW = 2


def prefix_bars(
    children: Children,
    labels: Mapping[int, Sequence[str]] | None = None,
    *,
    top: int = 20,
    seed: int | None = None,
) -> go.Figure:
    """The largest codes that follow a prefix: items by domain, and share of items against share of traffic.

    labels: by code, the words that tell it. Up to two codes that nobody has follow as hollow bars; the note
    names more of them.
    """
    sizes = children.sizes
    order = np.argsort(-sizes, kind="stable")
    shown = order[: min(top, int((sizes > 0).sum()))]
    dead = np.array([code for code, state in enumerate(children.states) if state == DEAD], dtype=np.int64)
    rows = np.concatenate([shown, dead[:_HOLLOW]])
    names = [_named(int(code), (labels or {}).get(int(code), ())) for code in rows]
    several = len(children.domains) > 1
    made = panels(
        ["Items" + (" by domain" if several else ""), "Share of items and of interactions"],
        columns=2,
        row_height=21 * max(len(rows), 3) + 10,
        left_labels=210,
        column_gap=0.05,
    )
    styles = category_styles(children.domains)
    for domain, name in enumerate(children.domains):
        made.figure.add_bar(
            y=np.arange(len(shown)),
            x=children.items[shown, domain],
            orientation="h",
            name=label(name),
            marker=styles[name].bar,
            # The codes, for whoever listens to clicks on the bars.
            ids=[str(code) for code in shown],
            customdata=names[: len(shown)],
            hovertemplate="%{customdata}: %{x} items",
            **made.place(0),
        )
    _add_hollow(made.figure, len(shown), names[len(shown) :], sizes, made.place(0))
    share = sizes / max(int(sizes.sum()), 1)
    of_prefix = children.interactions.sum(axis=1) / max(int(children.interactions.sum()), 1)
    _add_shares(made.figure, share[shown], of_prefix[shown], names[: len(shown)], made.place(1))
    for panel in range(2):
        made.figure.update_yaxes(
            **numbered_axis(names, 44) | {"ticktext": names},
            range=[len(rows) - 0.4, -0.6],
            showticklabels=panel == 0,
            showgrid=False,
            **made.place(panel),
        )
    made.figure.update_xaxes(title="items", rangemode="tozero", **made.place(0))
    made.figure.update_xaxes(
        title="of what lies below the prefix", ticksuffix=" %", rangemode="tozero", **made.place(1)
    )
    made.figure.update_layout(barmode="stack", showlegend=True, bargap=0.3)
    return finish_panels(
        made, _prefix_title(children), seeded(_prefix_note(children, len(shown), dead), seed)
    )


def code_profile(page: CodePage, *, top: int = 8, seed: int | None = None) -> go.Figure:
    """A code at a glance: its telling words, the domains of its items, and how long their residuals are."""
    made = panels(
        ["Words that its titles hold more often than others", "Items by domain", "Norm of the residual"],
        columns=3,
        row_height=230,
        left_labels=70,
        column_gap=0.1,
    )
    words = page.words[:top]
    made.figure.add_bar(
        y=np.arange(len(words)),
        x=[word.score for word in words],
        orientation="h",
        marker_color=theme.ACCENT,
        customdata=[f"{label(word.word)}: in {counted(word.titles, 'title')}" for word in words],
        hovertemplate="%{customdata}, z = %{x:.1f}<extra></extra>",
        **made.place(0),
    )
    made.figure.update_yaxes(
        **numbered_axis([word.word for word in words], 16),
        range=[max(len(words), 1) - 0.4, -0.6],
        showgrid=False,
        **made.place(0),
    )
    made.figure.update_xaxes(title="z-score of log-odds", rangemode="tozero", nticks=5, **made.place(0))
    styles = category_styles(page.domains)
    made.figure.add_bar(
        x=np.arange(len(page.domains)),
        y=page.by_domain,
        marker_color=[styles[name].colour for name in page.domains],
        customdata=[label(name) for name in page.domains],
        hovertemplate="%{customdata}: %{y} items<extra></extra>",
        **made.place(1),
    )
    made.figure.update_xaxes(**numbered_axis(page.domains, 12), **made.place(1))
    made.figure.update_yaxes(title="items", rangemode="tozero", **made.place(1))
    if not page.support:
        _say(made.figure, "No item has it.", made.place(1))
    if page.norms is None or not page.support:
        _say(made.figure, "No residuals are known." if page.support else "No item has it.", made.place(2))
    else:
        counts, edges = page.norms
        made.figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges),
            marker_color=theme.ACCENT,
            hovertemplate="norm %{x:.3g}: %{y} items<extra></extra>",
            **made.place(2),
        )
        made.figure.update_xaxes(title="Euclidean norm", range=[0, edges[-1]], nticks=5, **made.place(2))
        made.figure.update_yaxes(title="items", rangemode="tozero", **made.place(2))
    if not words:
        _say(made.figure, "No word tells it from the others.", made.place(0))
    made.figure.update_layout(showlegend=False, bargap=0.25)
    return finish_panels(made, _page_title(page), seeded(_page_note(page), seed))


def code_items(page: CodePage, catalogue: CodedCatalogue, *, seed: int | None = None) -> go.Figure:
    """The items nearest to the codeword, around the median and farthest from it, as a table."""
    placed = page.frame()
    known = placed["part"].drop_nulls().len() > 0
    shown = placed.filter(placed["part"].is_not_null()) if known else placed.head(12)
    cards = catalogue.cards(shown["item"].to_numpy())
    title = f"{_name_of(page)}: no item has it" if not page.support else _items_title(page)
    distance = [("" if value is None else f"{value:.3g}") for value in shown["distance"].to_list()]
    note = f"{shown.height} of {counted(page.support, 'item')}"
    note += "; distance of the residual to the codeword" if known else "; no distances are known"
    columns = [
        [part or "" for part in shown["part"].to_list()],
        cards["title"].to_list(),
        cards["domain"].to_list(),
        cards["codes"].to_list(),
        distance,
        [f"{count:,}" for count in cards["interactions"].to_list()],
    ]
    headers = ["", "title", "domain", "identifier", "distance", "interactions"]
    return table_figure(
        title, seeded(note, seed), headers, columns, widths=[1.2, 3.9, 1.5, 1.7, 1.2, 1.75], left=4
    )


def _named(code: int, words: Sequence[str]) -> str:
    """The code and its words, escaped: "12 · oak, lamp"."""
    return label(f"{code} · {', '.join(words)}" if words else str(code), 36)


def _add_hollow(
    figure: go.Figure, first: int, names: Sequence[str], sizes: np.ndarray, place: dict[str, int]
) -> None:
    """Hollow bars of a visible length for codes without items."""
    if names:
        figure.add_bar(
            y=np.arange(first, first + len(names)),
            x=np.full(len(names), max(float(sizes.max(initial=0)), 1.0) * 0.06),
            orientation="h",
            name="dead: no item has it",
            marker={"color": "rgba(0,0,0,0)", "line": {"width": 1.5, "color": theme.BAD}},
            customdata=list(names),
            hovertemplate="%{customdata}: dead<extra></extra>",
            **place,
        )


def _add_shares(
    figure: go.Figure,
    items: np.ndarray,
    traffic: np.ndarray,
    names: Sequence[str],
    place: dict[str, int],
) -> None:
    """A dumbbell a code: from its share of the items to its share of the interactions."""
    places = np.arange(len(items))
    gaps = np.full(len(items), np.nan)
    figure.add_scatter(
        x=100 * np.column_stack([items, traffic, gaps]).reshape(-1),
        y=np.column_stack([places, places, gaps]).reshape(-1),
        mode="lines",
        line={"color": theme.TRACK, "width": 4},
        showlegend=False,
        hoverinfo="skip",
        **place,
    )
    for name, values, colour, symbol in (
        ("share of items", items, theme.MUTED, "circle-open"),
        ("share of interactions", traffic, theme.ACCENT, "circle"),
    ):
        figure.add_scatter(
            x=100 * values,
            y=places,
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}},
            customdata=list(names),
            hovertemplate="%{customdata}: %{x:.2f} %",
            **place,
        )


def _say(figure: go.Figure, text: str, place: dict[str, int]) -> None:
    """Words in the middle of a panel that has nothing to draw."""
    axis = figure.get_subplot(place["row"], place["col"])
    figure.add_annotation(
        text=wrapped(text, 22)[0],
        x=sum(axis.xaxis.domain) / 2,
        y=sum(axis.yaxis.domain) / 2,
        xref="paper",
        yref="paper",
        # Left to itself plotly would hang the text to the right of this place in the left third.
        xanchor="center",
        showarrow=False,
    )
    figure.update_xaxes(showticklabels=False, ticks="", **place)
    figure.update_yaxes(showticklabels=False, ticks="", **place)


def _prefix_title(children: Children) -> str:
    sizes = children.sizes
    used = int((sizes > 0).sum())
    where = f"Below {written(children.prefix)}" if children.prefix else "Level 1"
    if used == 0:
        return f"{where}: no item has this prefix"
    largest = int(np.argmax(sizes))
    text = (
        f"{where} uses {used} of {counted(len(sizes), 'code')}"
        if not children.prefix
        else (f"{where}, {counted(used, 'code')} of {len(sizes)} follow")
    )
    return f"{text}; code {largest} alone has {percent(sizes[largest] / sizes.sum())} of the items"


def _prefix_note(children: Children, shown: int, dead: np.ndarray) -> str:
    used = int((children.sizes > 0).sum())
    note = f"{counted(int(children.sizes.sum()), 'item')}; "
    note += "all used codes" if shown == used else f"the {shown} largest of {used} used codes"
    note += ", each with its three most telling words"
    if dead.size:
        named = ", ".join(str(code) for code in dead[:_MOST_NAMED].tolist())
        more = f" and {dead.size - _MOST_NAMED} more" if dead.size > _MOST_NAMED else ""
        note += f"; dead at this level: {named}{more}"
    return note


def _name_of(page: CodePage) -> str:
    if page.within is None:
        return f"Code {page.code} of level {page.level + 1}"
    return f"Prefix {written([*page.within, page.code])}"


def _page_title(page: CodePage) -> str:
    if page.support == 0:
        return f"{_name_of(page)} is {page.state}: no item has it"
    words = f", mostly “{listed([word.word for word in page.words[:3]])}”" if page.words else ""
    if len(page.domains) == 1 or page.purity == 1:
        of = f" of {listed([page.domains[int(page.by_domain.argmax())]])}" if len(page.domains) > 1 else ""
        return f"{_name_of(page)} has {counted(page.support, 'item')}{of}{words}"
    most = page.domains[int(page.by_domain.argmax())]
    return (
        f"{_name_of(page)} has {counted(page.support, 'item')}, {percent(page.purity)} of them of "
        f"{listed([most])}{words}"
    )


def _page_note(page: CodePage) -> str:
    note = f"{page.state}; {counted(page.support, 'item')} of {page.n_items:,}"
    note += f"; {percent(page.traffic_share)} of the interactions; domain entropy {page.entropy:.2f} bits"
    if page.nearest_codes:
        near = ", ".join(f"{code} ({distance:.2g})" for code, distance in page.nearest_codes[:3])
        note += f"; nearest codewords: {near}"
    return note


def _items_title(page: CodePage) -> str:
    if page.distances is None or page.support < 2:
        return f"{_name_of(page)}: {counted(page.support, 'item')}"
    low, high = float(page.distances.min()), float(page.distances.max())
    return (
        f"{_name_of(page)}: the farthest of its {counted(page.support, 'item')} lies "
        f"{high / low:.1f} times as far from the codeword as the nearest"
        if low > 0
        else f"{_name_of(page)}: its {counted(page.support, 'item')} lie up to {high:.2g} from the codeword"
    )
