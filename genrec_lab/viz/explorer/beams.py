"""A user's beam search as a tree: the prefixes kept at each level, and the level that lost the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.layout import one_panel
from genrec_lab.viz.sentences import sentence
from genrec_lab.viz.text import counted, label, written

_ROW = 24  # pixels
_TITLE_CHARACTERS = 34


class Exactly(NamedTuple):
    """A user's exact ranking beside the beam's: the target's rank among all items, and what the beam found.

    rank: from 1. items: number of items. found: how many of the best `of` items the beam ends with.
    """

    rank: int
    items: int
    found: int
    of: int


@dataclass(frozen=True, eq=False)
class BeamTree:
    """The prefixes that a beam search kept, as a tree, and the path of the target.

    nodes: frame `level` (from 1), `prefix` (written "12 4"), `parent`, `code`, `rank` (from 1),
    `log_probability` of the prefix, `step` (the contribution of its last code), `survives` (whether a prefix
    of the next level extends it; true at the last level), `on_target`, `example` (the title of an item below,
    if given). left_at: the first level (from 1) that kept no prefix of the target, or None. target: its
    codes. missed_by: how far its log-probability is below the lowest one kept there, if known. steps: the
    target's log-probability after each level, if known. history, target_item, results: item indices if the
    search was for items, from the oldest and from the best. exactly: the same model's ranking of all items.
    """

    nodes: pl.DataFrame
    target: tuple[int, ...]
    left_at: int | None
    missed_by: float | None
    steps: tuple[float, ...] | None
    history: tuple[int, ...] = ()
    target_item: int | None = None
    results: tuple[int, ...] = ()
    exactly: Exactly | None = None

    @property
    def rank(self) -> int | None:
        """The final rank of the target among the beams, from 1; None if it was lost."""
        last = self.nodes.filter((pl.col("level") == len(self.target)) & pl.col("on_target"))
        return int(last["rank"][0]) if last.height else None


def beam_tree(
    prefixes: Sequence[Sequence[Sequence[int]]],
    log_probabilities: Sequence[Sequence[float]],
    target: Sequence[int],
    target_log_probabilities: Sequence[float] | None = None,
    examples: Mapping[tuple[int, ...], str] | None = None,
) -> BeamTree:
    """Build the tree from the prefixes that a beam search kept, of l + 1 codes for each level l.

    log_probabilities: of these prefixes, in the same order. target_log_probabilities: (L,) of the target's
    own. examples: titles by prefix. Raises ValueError if lengths do not match or a parent was not kept.
    """
    wanted = tuple(int(code) for code in target)
    if not prefixes or len(prefixes) != len(wanted) or len(prefixes) != len(log_probabilities):
        given = f"{len(prefixes)} levels with {len(log_probabilities)} of log-probabilities"
        raise ValueError(f"prefixes: {given} for a target of {len(wanted)} codes; expected as many of each")
    kept: list[dict[tuple[int, ...], float]] = [
        {tuple(map(int, prefix)): float(score) for prefix, score in zip(*of_level, strict=True)}
        for of_level in zip(prefixes, log_probabilities, strict=True)
    ]
    grow = [*({prefix[:-1] for prefix in after} for after in kept[1:]), set(kept[-1])]
    rows: list[tuple[object, ...]] = []
    for level, now in enumerate(kept):
        before: dict[tuple[int, ...], float] = kept[level - 1] if level else {(): 0.0}
        for rank, prefix in enumerate(sorted(now, key=lambda prefix: (-now[prefix], prefix)), start=1):
            if len(prefix) != level + 1 or prefix[:-1] not in before:
                expected = f"expected {level + 1} codes that go on from a prefix kept before"
                raise ValueError(f"prefixes: {list(prefix)} at level {level + 1}; {expected}")
            row = (level + 1, _text(prefix), _text(prefix[:-1]), prefix[-1], rank, now[prefix])
            way = (prefix in grow[level], prefix == wanted[: level + 1], (examples or {}).get(prefix))
            rows.append((*row, now[prefix] - before[prefix[:-1]], *way))
    lost = next((level for level, now in enumerate(kept) if wanted[: level + 1] not in now), None)
    steps = None if target_log_probabilities is None else tuple(map(float, target_log_probabilities))
    missed_by = None
    if steps is not None and lost is not None and kept[lost]:
        missed_by = min(kept[lost].values()) - steps[lost]
    schema = {"level": pl.Int64, "prefix": pl.String, "parent": pl.String, "code": pl.Int64, "rank": pl.Int64}
    schema |= {"log_probability": pl.Float64, "step": pl.Float64}
    schema |= {"survives": pl.Boolean, "on_target": pl.Boolean, "example": pl.String}
    nodes = pl.DataFrame(rows, schema=schema, orient="row")
    return BeamTree(nodes, wanted, None if lost is None else lost + 1, missed_by, steps)


def _text(prefix: tuple[int, ...]) -> str:
    return " ".join(str(code) for code in prefix)


@sentence
def beam_title(tree: BeamTree) -> str:
    """State where a beam search lost the target, or its final rank there, and its exact rank if known."""
    known = tree.exactly
    exactly = "" if known is None else f"; its exact rank is {known.rank:,} of {known.items:,}"
    if tree.left_at is None:
        return f"The target stays in the beam and ends at place {tree.rank}{exactly}"
    width = tree.nodes.filter(pl.col("level") == tree.left_at).height
    text = f"The target leaves the beam at level {tree.left_at} of {len(tree.target)}"
    if tree.missed_by is not None:
        text += f": {tree.missed_by:.2f} below the last of {width} kept"
    return text + exactly


@sentence
def beam_found(known: Exactly) -> str:
    """State how many of the exact best items the beam found."""
    return f"the beam found {known.found} of the {known.of} that an exact search ranks first"


def beam_way(tree: BeamTree) -> go.Figure:
    """Draw the beam as a tree from left to right, best prefixes on top, with the target's path in colour.

    Open circles are prefixes that no kept prefix extends. A cross below the beams marks the level where the
    target was lost. Nodes are labelled with codes, and the right ends with titles.
    """
    levels, widest = len(tree.target), int(tree.nodes["rank"].to_numpy().max(initial=1))
    made = one_panel(_ROW * (widest + 2) + 20)
    rows = list(tree.nodes.iter_rows(named=True))
    places = {"": (0.0, 1.0)} | {row["prefix"]: (float(row["level"]), float(row["rank"])) for row in rows}
    for on_target, colour, width in ((False, theme.TRACK, 2), (True, theme.BAD, 3)):
        own = [row for row in rows if row["on_target"] == on_target]
        ways = [(places[row["parent"]], places[row["prefix"]]) for row in own]
        ends = np.array(ways, dtype=float).reshape(-1, 2, 2)
        made.segments(0, ends[:, :, 0], ends[:, :, 1], colour, width)
    target, survives = pl.col("on_target"), pl.col("survives")
    kinds = (
        ("goes on", "circle", theme.ACCENT, survives & ~target),
        ("ends here", "circle-open", theme.MUTED, ~survives & ~target),
        ("on the target's way", "diamond", theme.BAD, target),
    )
    written_above = {"mode": "markers+text", "textposition": "top center", "textfont": {"size": 10}}
    for name, symbol, colour, condition in kinds:
        nodes = tree.nodes.filter(condition)
        if not nodes.is_empty():
            x, y, codes = (nodes[column].to_numpy() for column in ("level", "rank", "code"))
            hover = [
                f"{written(row['prefix'].split())}: place {row['rank']}, log-probability "
                f"{row['log_probability']:.2f}, last code {row['step']:.2f}"
                + (f"<br>{label(row['example'], 60)}" if row["example"] else "")
                for row in nodes.iter_rows(named=True)
            ]
            look = {"text": list(map(str, codes)), "customdata": hover} | written_above
            marker = theme.mark(colour, symbol, 9, width=1.5)
            made.points(0, x, y, name, "%{customdata}<extra></extra>", marker=marker, **look)
    # Complete identifiers are labelled with their log-probability and title.
    for row in (row for row in rows if row["level"] == levels):
        title = f"  {label(row['example'], _TITLE_CHARACTERS)}" if row["example"] else ""
        text = f"{row['log_probability']:.2f}{title}"
        place = {"x": levels + 0.08, "y": row["rank"], "xanchor": "left", "align": "left"}
        made.figure.add_annotation(text=text, **place, showarrow=False, font={"size": 11})
    if tree.left_at is not None:
        # A cross below the beams of the level where the target was lost, and the path to it.
        (x, y), code, bottom = places[_text(tree.target[: tree.left_at - 1])], tree.left_at - 1, widest + 1.2
        made.segments(0, [[x, tree.left_at]], [[y, bottom]], theme.BAD, 2, dash="dot")
        at = "" if tree.steps is None else f" at {tree.steps[code]:.2f}"
        look = {"mode": "markers+text", "textposition": "middle right", "textfont": {"size": 11}}
        look |= {"text": [f"  {tree.target[code]}{at}"]}
        look |= {"marker": {"symbol": "x", "size": 11, "color": theme.BAD}}
        name, text = "where the target left", "the target is not kept here<extra></extra>"
        made.points(0, [float(tree.left_at)], [bottom], name, text, **look)
    names = ["start", *(f"level {level}" for level in range(1, levels + 1))]
    # Titles take a third of the width, for any number of levels, because they always need the same space.
    reach = [-0.15, 1.52 * levels + 0.15]
    made.x(tickvals=list(range(levels + 1)), ticktext=names, range=reach, showgrid=False)
    made.y(range=[widest + 1.9, 0.2], visible=False)
    return made.finish(
        beam_title(tree),
        f"{counted(widest, 'beam')}, the likeliest prefix of each level on top",
        f"target {written(tree.target)}",
        "" if tree.exactly is None else beam_found(tree.exactly),
        "at the right: log-probability and title",
        showlegend=True,
    )
