"""The explorer in one HTML file that needs neither a kernel nor a network.

Every prefix of two or more items, and every code under any prefix, has its answer in the file, made by the
same functions that answer from a kernel; `offline.js` looks them up. Whoever opens the file can walk, search
and colour the map; views that compute, and the lasso's page, need a kernel.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.viz.explorer import answers, markup, points
from genrec_lab.viz.explorer.selection import Selection
from genrec_lab.viz.explorer.state import ExplorerState

_MOST_PAGES = 20_000


def write_html(state: ExplorerState, file: str | os.PathLike[str], *, maps: list[str] | None = None) -> Path:
    """Write the file; returns its path. maps: the kinds of map in it, by default those that are made already.

    Raises ValueError for an unknown kind of map.
    """
    path = Path(file)
    content = gzip.compress(
        json.dumps(_content(state, maps), separators=(",", ":"), ensure_ascii=False).encode(), 6, mtime=0
    )
    page = markup.page(
        "alone.html",
        name=state.catalogue.name,
        style=markup.style_sheet(),
        shell=markup.shell(),
        script=markup.script("offline.js"),
        data=base64.b64encode(content).decode(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _content(state: ExplorerState, maps: list[str] | None) -> dict[str, Any]:
    catalogue = state.catalogue
    kinds = points.methods(state) if maps is None else [*maps, points.BY_CODES]
    if maps is None:
        kinds = [name for name in kinds if not callable(state.maps.get(name))]
    cards = catalogue.cards(np.arange(catalogue.n_items))
    several = len(catalogue.domains) > 1
    items: dict[str, Any] = {
        "title": cards["title"].str.slice(0, 200).to_list(),
        "codes": catalogue.codes.codes.T.tolist(),
        "domain": catalogue.codes.domain_index.tolist() if several else [],
        "traffic": catalogue.traffic.tolist() if catalogue.traffic.any() else [],
    }
    texts = [name for name in catalogue.attributes.columns if catalogue.attributes[name].dtype == pl.String]
    items["more"] = (
        catalogue.attributes.select(pl.concat_str(texts, separator=" · ", ignore_nulls=True))
        .to_series()
        .to_list()
        if texts
        else []
    )
    start = answers.start(state, alone=True)
    levels = range(catalogue.levels)
    placed = {name: [_flat(points.places(state, name, level)) for level in levels] for name in kinds}
    # Maps that are the same at every level stand there once.
    for name, by_level in placed.items():
        if all(one == by_level[0] for one in by_level):
            placed[name] = by_level[:1]
    ways = points.colourings(state)
    numbers = {}
    for name, way in ways.items():
        if name not in ("code", "domain"):
            found = []
            for level in levels:
                with _looking(state, Selection(level=level)):
                    one = way(state, state.items())
                found.append(
                    {
                        "values": one.values.tolist(),
                        "palette": one.palette,
                        "names": one.names,
                        "said": one.said,
                    }
                )
            numbers[name] = found if name in ("distance", "churn") else found[:1]
    return {
        "start": {**start, "methods": kinds},
        "items": items,
        "points": placed,
        "colours": numbers,
        "pages": _pages(state),
    }


def _flat(places: Any) -> list[list[float | None]]:
    return [
        [None if value != value else value for value in np.round(places[:, axis].astype(float), 3).tolist()]
        for axis in (0, 1)
    ]


def _pages(state: ExplorerState) -> dict[str, Any]:
    """By prefix ("", "12", "12.4") or code everywhere ("*1.240"): grid and page, for the largest first."""
    order, catalogue = state.catalogue.order, state.catalogue
    wanted: list[tuple[int, str, Selection]] = [(catalogue.n_items, "", Selection())]
    for level, starts in enumerate(order.starts):
        sizes = np.diff(starts)
        for place in np.flatnonzero(sizes > 1).tolist():
            prefix = tuple(order.columns[: level + 1, starts[place]].tolist())
            wanted.append(
                (
                    int(sizes[place]),
                    ".".join(map(str, prefix)),
                    Selection(prefix, min(level + 1, catalogue.levels - 1)),
                )
            )
        if level:
            counts = np.bincount(order.columns[level])
            wanted += [
                (int(counts[code]), f"*{level}.{code}", Selection(level=level, everywhere=(level, code)))
                for code in np.flatnonzero(counts > 1).tolist()
            ]
    pages = {}
    for _, key, selection in sorted(wanted, key=lambda one: -one[0])[:_MOST_PAGES]:
        with _looking(state, selection):
            shown = answers.page(state)
            if "same" in shown:  # the page of the code everywhere has it
                del shown["same"]
            pages[key] = {"grid": _sparse(answers.grid(state)), "page": shown}
    return pages


def _sparse(grid: dict[str, Any]) -> dict[str, Any]:
    """A grid without the codes that only other prefixes have, which are most of them below a prefix."""
    states = next((one["values"] for one in grid["columns"] if one["name"] == "state"), None)
    if states is None or "only elsewhere" not in states:
        return grid
    kept = [place for place, one in enumerate(states) if one != "only elsewhere"]
    for column in grid["columns"]:
        column["values"] = [column["values"][place] for place in kept]
    return {**grid, "go": [grid["go"][place] for place in kept]}


class _looking:
    """The state with another selection for a while, without a step in its history."""

    def __init__(self, state: ExplorerState, selection: Selection) -> None:
        self.state, self.selection = state, selection

    def __enter__(self) -> None:
        self.before = self.state.look(self.selection)

    def __exit__(self, *_: object) -> None:
        self.state.look(self.before)
