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
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jinja2 import Environment, FileSystemLoader

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import answers, points
from genrec_lab.viz.explorer.selection import Selection
from genrec_lab.viz.explorer.state import ExplorerState

_STATIC = Path(__file__).with_name("static")
_PAGES = Environment(loader=FileSystemLoader(_STATIC), autoescape=True)
_SCRIPTS = ("shared.js", "grid.js", "map.js", "page.js", "plots.js", "screen.js")
_MOST_PAGES = 20_000


def page(template: str, **values: Any) -> str:
    """Return a page of `static` with these values put in, escaped."""
    return _PAGES.get_template(template).render(**values)


@cache
def style_sheet() -> str:
    """Return the style sheet with the colours of the figures' themes."""
    return page("explorer.css", modes={mode: theme.page_colours(mode) for mode in ("light", "dark")})


@cache
def shell() -> str:
    """Return the HTML of the screen, without data."""
    return (_STATIC / "shell.html").read_text(encoding="utf-8")


@cache
def script(*more: str) -> str:
    """Return the screen's scripts as one module, others of `static` after them."""
    files = [(_STATIC / name).read_text(encoding="utf-8") for name in (*_SCRIPTS, *more)]
    return "\n".join([*files, "export default {render};"])


def write_html(state: ExplorerState, file: str | os.PathLike[str], *, maps: list[str] | None = None) -> Path:
    """Write the file; returns its path. maps: the kinds of map in it, by default those that are made already.

    Raises ValueError for an unknown kind of map.
    """
    path = Path(file)
    text = json.dumps(_content(state, maps), separators=(",", ":"), ensure_ascii=False)
    whole = page(
        "alone.html",
        name=state.catalogue.name,
        style=style_sheet(),
        shell=shell(),
        script=script("offline.js"),
        data=base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(whole, encoding="utf-8")
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
    more = pl.concat_str(texts, separator=" · ", ignore_nulls=True)
    items["more"] = catalogue.attributes.select(more).to_series().to_list() if texts else []
    start = answers.start(state, alone=True)
    levels = range(catalogue.levels)
    placed = {name: [_flat(points.places(state, name, level)) for level in levels] for name in kinds}
    # Maps that are the same at every level stand there once.
    for name, by_level in placed.items():
        if all(one == by_level[0] for one in by_level):
            placed[name] = by_level[:1]
    numbers: dict[str, list[dict[str, Any]]] = {}
    for name, way in points.colourings(state).items():
        # Codes and domains are coloured by the page, and only distances differ from level to level.
        for level in {"code": (), "domain": (), "distance": levels}.get(name, (0,)):
            with state.looking(Selection(level=level)):
                one = way(state, state.items())
            shown = {"palette": one.palette, "names": one.names, "said": one.said}
            numbers.setdefault(name, []).append({"values": one.values.tolist()} | shown)
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
            chosen = Selection(prefix, min(level + 1, catalogue.levels - 1))
            wanted.append((int(sizes[place]), ".".join(map(str, prefix)), chosen))
        if level:
            counts = np.bincount(order.columns[level])
            wanted += [
                (int(counts[code]), f"*{level}.{code}", Selection(level=level, everywhere=(level, code)))
                for code in np.flatnonzero(counts > 1).tolist()
            ]
    pages = {}
    for _, key, selection in sorted(wanted, key=lambda one: -one[0])[:_MOST_PAGES]:
        with state.looking(selection):
            shown = answers.page(state)
            shown.pop("same", None)  # the page of the code everywhere has it
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
