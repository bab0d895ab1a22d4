"""Figure of one user's beam search: the prefixes kept level by level, and where the target left the beam."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.catalogue import written
from genrec_lab.viz.layout import counted, finish, label, seeded

_ROW = 24
_TITLE_CHARACTERS = 34


def beam_way(tree: BeamTree, *, seed: int | None = None) -> go.Figure:
    """The beam as a tree from left to right, best prefixes on top, the target's way in its own colour.

    Open circles are prefixes that no kept prefix goes on from. A cross marks the level where the target left,
    below the beams, at its log-probability if that is known. Numbers on the nodes are codes, those at the
    right end titles.
    """
    figure = go.Figure()
    levels, widest = len(tree.target), int(tree.nodes["rank"].max() or 1)  # type: ignore[arg-type]
    rows = list(tree.nodes.iter_rows(named=True))
    places = {"": (0.0, 1.0)} | {row["prefix"]: (float(row["level"]), float(row["rank"])) for row in rows}
    for on_target, colour, width in ((False, theme.TRACK, 2), (True, theme.BAD, 3)):
        chosen = [row for row in rows if row["on_target"] == on_target]
        xs, ys = _edges([(places[row["parent"]], places[row["prefix"]]) for row in chosen])
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={"color": colour, "width": width},
            hoverinfo="skip",
            showlegend=False,
        )
    kinds = (
        ("goes on", "circle", theme.ACCENT, pl.col("survives") & ~pl.col("on_target")),
        ("ends here", "circle-open", theme.MUTED, ~pl.col("survives") & ~pl.col("on_target")),
        ("on the target's way", "diamond", theme.BAD, pl.col("on_target")),
    )
    for name, symbol, colour, condition in kinds:
        nodes = tree.nodes.filter(condition)
        if nodes.is_empty():
            continue
        figure.add_scatter(
            x=nodes["level"].to_numpy(),
            y=nodes["rank"].to_numpy(),
            mode="markers+text",
            text=[str(code) for code in nodes["code"].to_list()],
            textposition="top center",
            textfont={"size": 10},
            name=name,
            marker={"symbol": symbol, "size": 9, "color": colour, "line": {"width": 1.5, "color": colour}},
            customdata=[_hover(row) for row in nodes.iter_rows(named=True)],
            hovertemplate="%{customdata}<extra></extra>",
        )
    _add_titles(figure, tree, levels)
    if tree.left_at is not None:
        _add_leaving(figure, tree, places, widest)
    names = ["start", *(f"level {level}" for level in range(1, levels + 1))]
    # A third of the width is for the titles, however many levels share the rest: as many pixels as they need.
    figure.update_xaxes(
        tickvals=list(range(levels + 1)), ticktext=names, range=[-0.15, 1.52 * levels + 0.15], showgrid=False
    )
    figure.update_yaxes(range=[widest + 1.9, 0.2], visible=False)
    figure.update_layout(showlegend=True)
    note = f"{counted(widest, 'beam')}, the likeliest prefix of each level on top; "
    note += f"target {written(tree.target)}; at the right: log-probability and title"
    return finish(figure, tree.told(), seeded(note, seed), plot_height=_ROW * (widest + 2) + 20)


def _edges(
    pairs: list[tuple[tuple[float, float], tuple[float, float]]],
) -> tuple[list[float | None], list[float | None]]:
    """Lines from parents to children with a gap after each."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for (x0, y0), (x1, y1) in pairs:
        xs += [x0, x1, None]
        ys += [y0, y1, None]
    return xs, ys


def _hover(row: dict[str, object]) -> str:
    title = f"<br>{label(str(row['example']), 60)}" if row["example"] else ""
    return (
        f"{written(str(row['prefix']).split())}: place {row['rank']}, log-probability "  # type: ignore[arg-type]
        f"{row['log_probability']:.2f}, last code {row['step']:.2f}{title}"
    )


def _add_titles(figure: go.Figure, tree: BeamTree, levels: int) -> None:
    """Beside the whole identifiers, their log-probability and title."""
    for row in tree.nodes.filter(pl.col("level") == levels).iter_rows(named=True):
        title = f"  {label(row['example'], _TITLE_CHARACTERS)}" if row["example"] else ""
        figure.add_annotation(
            x=levels + 0.08,
            y=row["rank"],
            text=f"{row['log_probability']:.2f}{title}",
            xanchor="left",
            showarrow=False,
            align="left",
            font={"size": 11},
        )


def _add_leaving(
    figure: go.Figure, tree: BeamTree, places: dict[str, tuple[float, float]], widest: int
) -> None:
    """A cross below the beams of the level where the target is no longer kept, and the way there."""
    assert tree.left_at is not None  # noqa: S101 - the caller asks only then
    before = " ".join(str(code) for code in tree.target[: tree.left_at - 1])
    start, end = places[before], (float(tree.left_at), widest + 1.2)
    at = "" if tree.steps is None else f" at {tree.steps[tree.left_at - 1]:.2f}"
    figure.add_scatter(
        x=[start[0], end[0]],
        y=[start[1], end[1]],
        mode="lines",
        line={"color": theme.BAD, "width": 2, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=[end[0]],
        y=[end[1]],
        mode="markers+text",
        text=[f"  {tree.target[tree.left_at - 1]}{at}"],
        textposition="middle right",
        textfont={"size": 11},
        name="where the target left",
        marker={"symbol": "x", "size": 11, "color": theme.BAD},
        hovertemplate="the target is not kept here<extra></extra>",
    )
