"""The codes below a selection, dead ones too, as tables and bars. Shapes: K codes per level, T domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import FloatArray, IntArray, theme
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.sharing import level_sharing
from genrec_lab.viz.explorer.state import ExplorerState, Table
from genrec_lab.viz.layout import panels
from genrec_lab.viz.sentences import leaders, sentence
from genrec_lab.viz.text import counted, label, noted, percent, shorten, written

ALIVE, NEARLY_DEAD, DEAD, ELSEWHERE, UNKNOWN = "alive", "nearly dead", "dead", "only elsewhere", "no item"
_NEARLY_DEAD_SHARE = 0.1
_LONGEST = 300  # characters of a title
_MOST_SAME = 400
_SAME_WORDS = 12
_MOST_NAMED = 8


def below(state: ExplorerState) -> Table:
    """Return a table of the codes below the selection, of the prefixes that end in a code, or of items."""
    if state.selection.everywhere is not None:
        return prefixes_of(state)
    return members(state) if len(state.selection.prefix) == state.catalogue.levels else codes_below(state)


def codes_below(state: ExplorerState) -> Table:
    """Return all codes of the next level: words, items, traffic, purity, coherence, collisions, state."""
    catalogue, prefix, items = state.catalogue, state.selection.prefix, state.items()
    level = len(prefix)
    size, codes = catalogue.codes.sizes[level], state.codes_at(level)
    counts, used = np.bincount(codes, minlength=size), np.arange(size)
    columns: dict[str, Any] = {"code": used, "words": state.words(used, level), "items": counts}
    if catalogue.traffic.any():
        traffic = np.bincount(codes, weights=catalogue.traffic[items], minlength=size)
        columns["traffic"] = traffic / max(traffic.sum(), 1)
    if len(catalogue.domains) > 1 and state.selection.domain is None:
        columns["pure"] = purity_of(level_sharing(catalogue, level, items).items.T)
    if catalogue.unit is not None:
        columns["alike"] = state.alike_by_code(level)
    columns["twins"] = np.bincount(codes[catalogue.ambiguous[items]], minlength=size)
    columns["state"] = code_states(catalogue, level, counts)
    return Table(
        pl.DataFrame(columns), state.goes_to(level, used), shares=("traffic", "pure"), bars=("items",)
    )


def code_states(catalogue: CodedCatalogue, level: int, here: IntArray) -> list[str]:
    """Return the state of each code of a level, (K,), from its number of selected items, `here` (K,).

    States are "alive", "nearly dead" (below a tenth of an even share of the items), "only elsewhere" (under
    another prefix or in another domain), and "dead", or "no item" if the number of codes is unknown.
    """
    everywhere = np.bincount(catalogue.order.columns[level], minlength=here.size)
    rare = (everywhere < _NEARLY_DEAD_SHARE * catalogue.n_items / here.size) & catalogue.sizes_known
    nobody = DEAD if catalogue.sizes_known else UNKNOWN
    kinds = np.select([everywhere == 0, here == 0, rare], [nobody, ELSEWHERE, NEARLY_DEAD], ALIVE)
    return [str(kind) for kind in kinds]


def purity_of(items: IntArray) -> FloatArray:
    """Return the share of the most common domain, (K,), from items by domain (K, T); NaN for empty rows."""
    sizes = items.sum(axis=1)
    return np.where(sizes > 0, items.max(axis=1) / np.maximum(sizes, 1), np.nan)


def members(state: ExplorerState) -> Table:
    """Return the selected items as a table."""
    cards = state.catalogue.cards(state.items())
    domain = ["domain"] if len(state.catalogue.domains) > 1 else []
    frame = cards.select(pl.col("title").str.slice(0, _LONGEST), "interactions", *domain)
    return Table(frame, [{"item": item} for item in cards["item"]])


def prefixes_of(state: ExplorerState) -> Table:
    """Return a table to compare the prefixes that end in a code of a level: items, words, coherence."""
    catalogue, order, (level, code) = state.catalogue, state.catalogue.order, state.place()
    starts, sizes = order.starts[level], np.diff(order.starts[level])
    groups = np.flatnonzero(order.columns[level][starts[:-1]] == code)
    groups = groups[np.argsort(-sizes[groups], kind="stable")][:_MOST_SAME]
    prefixes = order.columns[: level + 1, starts[groups]].T.tolist()
    words = catalogue.titles.gather(order.items[starts[groups]]).to_list()
    words = [shorten(title, 60) for title in words]
    for place, group in enumerate(groups[:_SAME_WORDS].tolist()):
        telling = catalogue.words.telling(np.arange(starts[group], starts[group + 1]), 3)
        words[place] = ", ".join(word.word for word in telling) or words[place]
    frame = pl.DataFrame({"prefix": [*map(written, prefixes)], "words": words, "items": sizes[groups]})
    if catalogue.unit is not None:
        frame = frame.with_columns(alike=catalogue.prefix_pairs(level + 1).by_group()[groups])
    return Table(frame, [{"prefix": prefix} for prefix in prefixes], bars=("items",))


def code_survey(catalogue: CodedCatalogue) -> pl.DataFrame:
    """Return the use of each code of each level under any prefix: frame `level` (from 1), `code`, `items`, …

    `domains` is the number of domains that use it, `purity` the share of the most common one, null for a dead
    code. The others are `interactions`, of its items, and `state`: "alive", "nearly dead" or "dead".
    """
    parts = []
    for level, size in enumerate(catalogue.codes.sizes):
        by_domain = level_sharing(catalogue, level).items.T
        items = by_domain.sum(axis=1)
        traffic = np.bincount(catalogue.codes.codes[:, level], weights=catalogue.traffic, minlength=size)
        part = {"level": np.full(size, level + 1), "code": np.arange(size), "items": items}
        part |= {"domains": (by_domain > 0).sum(axis=1), "purity": purity_of(by_domain)}
        part |= {"interactions": traffic.astype(np.int64), "state": code_states(catalogue, level, items)}
        parts.append(pl.DataFrame(part))
    return pl.concat(parts).with_columns(pl.col("purity").fill_nan(None))


@sentence
def children_title(prefix: Sequence[int], sizes: IntArray) -> str:
    """State how many codes follow a prefix, and the share of the largest."""
    used = int((sizes > 0).sum())
    where = f"Below {written(prefix)}" if prefix else "Level 1"
    if used == 0:
        return f"{where}: no item has this prefix"
    text = f"{where}: {used} of {counted(len(sizes), 'code')} used"
    largest = leaders([str(code) for code in range(len(sizes))], sizes.tolist())
    share = percent(float(sizes.max() / sizes.sum()))
    if len(largest) == 1:
        return f"{text}; code {largest[0]}, the largest, has {share} of the items"
    return f"{text}; the largest are {len(largest)} codes with {share} of the items each"


@sentence
def children_note(sizes: IntArray, shown: int, dead: Sequence[int]) -> str:
    """State how many of the codes below a prefix are drawn, and name the first codes without items."""
    used = int((sizes > 0).sum())
    more = f" and {len(dead) - _MOST_NAMED} more" if len(dead) > _MOST_NAMED else ""
    return noted(
        counted(int(sizes.sum()), "item"),
        "all used codes" if shown == used else f"the {shown} largest of {used} used codes",
        f"dead at this level: {', '.join(map(str, dead[:_MOST_NAMED]))}{more}" if dead else "",
    )


def prefix_bars(state: ExplorerState, *, top: int = 20, seed: int | None = None) -> go.Figure:
    """Draw the largest codes that follow the selected prefix: items by domain, share of items and of traffic.

    The note names codes without items. Raises ValueError for a complete identifier.
    """
    catalogue, prefix, chosen = state.catalogue, state.selection.prefix, state.items()
    level = len(prefix)
    if level == catalogue.levels:
        raise ValueError(f"prefix: {list(prefix)} is a whole identifier; no code follows it")
    items = level_sharing(catalogue, level, chosen).items
    sizes = items.sum(axis=0)
    weights, codes = catalogue.traffic[chosen], catalogue.codes.codes[chosen, level]
    traffic = np.bincount(codes, weights=weights, minlength=sizes.size) / max(int(weights.sum()), 1)
    shown = np.argsort(-sizes, kind="stable")[: min(top, int((sizes > 0).sum()))]
    dead = [code for code, kind in enumerate(code_states(catalogue, level, sizes)) if kind == DEAD]
    described = zip(shown.tolist(), state.words(shown, level), strict=True)
    names = [label(f"{code} · {text}" if text else code, 36) for code, text in described]
    several = len(catalogue.domains) > 1
    titles = ["Items by domain" if several else "Items", "Share of items and of interactions"]
    height = 21 * max(len(names), 3) + 10
    made = panels(titles, columns=2, row_height=height, left_labels=210, column_gap=0.05)
    for domain, name in enumerate(catalogue.domains):
        made.bars(0, items[domain, shown], "%{customdata}: %{x} items", name, flat=True, customdata=names)
    # One dumbbell per code, from its share of the items to its share of the interactions.
    share, places = sizes / max(int(sizes.sum()), 1), np.arange(len(shown))
    both = 100 * np.column_stack([share, traffic])[shown]
    made.segments(1, both, np.column_stack([places, places]), theme.TRACK, 4)
    ends = (("items", theme.MUTED, "circle-open"), ("interactions", theme.ACCENT, "circle"))
    for at, (name, colour, symbol) in enumerate(ends):
        marker, hover = theme.mark(colour, symbol, 9), "%{customdata}: %{x:.2f} %"
        made.points(1, both[:, at], places, f"share of {name}", hover, marker=marker, customdata=names)
    for panel in range(2):
        made.rows(panel, names, ticktext=names)
    made.x(0, title="items", rangemode="tozero")
    made.x(1, title="of what lies below the prefix", ticksuffix=" %", rangemode="tozero")
    title = children_title(prefix, sizes)
    note = children_note(sizes, len(shown), dead)
    return made.finish(title, note, seed=seed, barmode="stack", showlegend=True, bargap=0.3)
