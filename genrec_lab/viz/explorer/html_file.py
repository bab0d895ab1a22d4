"""The explorer in one HTML file that works without a kernel or a network.

The file contains the kernel's answers for every prefix of two or more items, and for every code under any
prefix; `offline.js` looks them up. Views that compute, and the lasso's page, need a kernel.
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
    """Return a page of `static` with these values inserted and escaped."""
    return _PAGES.get_template(template).render(**values)


@cache
def style_sheet() -> str:
    """Return the style sheet with the theme colours of the figures."""
    return page("explorer.css", modes={mode: theme.page_colours(mode) for mode in ("light", "dark")})


@cache
def script(*more: str) -> str:
    """Return the explorer's scripts, followed by others of `static`, as one module."""
    files = [(_STATIC / name).read_text(encoding="utf-8") for name in (*_SCRIPTS, *more)]
    return "\n".join([*files, "export default {render};"])


def write_html(state: ExplorerState, file: str | os.PathLike[str], *, maps: list[str] | None = None) -> Path:
    """Write the file and return its path.

    maps: the kinds of map in it, by default those that already exist. Raises ValueError for an unknown kind.
    """
    path = Path(file)
    text = json.dumps(_content(state, maps), separators=(",", ":"), ensure_ascii=False)
    whole = page(
        "alone.html",
        name=state.catalogue.name,
        style=style_sheet(),
        shell=page("shell.html"),
        script=script("offline.js"),
        data=base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(whole, encoding="utf-8")
    return path


def _content(state: ExplorerState, maps: list[str] | None) -> dict[str, Any]:
    catalogue = state.catalogue
    made = [name for name, projection in state.maps.items() if not callable(projection)]
    kinds = [*(made if maps is None else maps), points.BY_CODES]
    texts = catalogue.attributes.select(pl.col(pl.String))
    more = pl.concat_str(pl.all(), separator=" · ", ignore_nulls=True)
    items: dict[str, Any] = {
        "title": catalogue.titles.str.slice(0, 200).to_list(),
        "codes": catalogue.codes.codes.T.tolist(),
        "domain": catalogue.codes.domain_index.tolist() if len(catalogue.domains) > 1 else [],
        "traffic": catalogue.traffic.tolist() if catalogue.traffic.any() else [],
        "more": texts.select(more).to_series().to_list() if texts.width else [],
    }
    start, levels = answers.start(state, alone=True), range(catalogue.levels)
    placed = {name: [_flat(points.places(state, name, level)) for level in levels] for name in kinds}
    # Maps that are the same at every level are stored once.
    for name, by_level in placed.items():
        if all(one == by_level[0] for one in by_level):
            placed[name] = by_level[:1]
    numbers: dict[str, list[dict[str, Any]]] = {}
    for name, way in points.colourings(state).items():
        # The page computes the colours of codes and domains, and only distances differ between levels.
        for level in {"code": (), "domain": (), "distance": levels}.get(name, (0,)):
            with state.looking(Selection(level=level)):
                one = way()
            shown = {"palette": one.palette, "names": one.names, "said": one.said}
            numbers.setdefault(name, []).append({"values": one.values.tolist()} | shown)
    start["methods"] = kinds
    return {"start": start, "items": items, "points": placed, "colours": numbers, "pages": _pages(state)}


def _flat(places: Any) -> list[list[float | None]]:
    return [pl.Series(axis.astype(float)).round(3).fill_nan(None).to_list() for axis in places.T]


def _pages(state: ExplorerState) -> dict[str, Any]:
    """Return grid and page of the largest prefixes ("", "12", "12.4") and codes anywhere ("*1.240")."""
    order, catalogue = state.catalogue.order, state.catalogue
    wanted: list[tuple[int, str, Selection]] = [(catalogue.n_items, "", Selection())]
    for level, starts in enumerate(order.starts):
        sizes = np.diff(starts)
        for place in np.flatnonzero(sizes > 1).tolist():
            prefix = tuple(order.columns[: level + 1, starts[place]].tolist())
            chosen = Selection(prefix, min(level + 1, catalogue.levels - 1))
            wanted.append((int(sizes[place]), ".".join(map(str, prefix)), chosen))
        if level:
            for code, count in enumerate(np.bincount(order.columns[level]).tolist()):
                if count > 1:
                    chosen = Selection(level=level, everywhere=(level, code))
                    wanted.append((count, f"*{level}.{code}", chosen))
    pages = {}
    for _, key, selection in sorted(wanted, key=lambda one: -one[0])[:_MOST_PAGES]:
        with state.looking(selection):
            shown = answers.page(state)
            shown.pop("same", None)  # included in the page of the code under any prefix
            pages[key] = {"grid": _sparse(answers.grid(state)), "page": shown}
    return pages


def _sparse(grid: dict[str, Any]) -> dict[str, Any]:
    """Remove the codes that only occur under other prefixes, usually the majority, from a grid."""
    states = next((one["values"] for one in grid["columns"] if one["name"] == "state"), None)
    if states is None or "only elsewhere" not in states:
        return grid
    kept = [place for place, one in enumerate(states) if one != "only elsewhere"]
    for column in grid["columns"]:
        column["values"] = [column["values"][place] for place in kept]
    return {**grid, "go": [grid["go"][place] for place in kept]}
