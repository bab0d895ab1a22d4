"""What the site adds to the files of the repository: outputs, code and the explorer. From text to text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat

PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"
EXPLORER = (
    '<iframe class="explorer" src="../explorer.html" title="The codebook explorer"></iframe>'
    '<p><a href="../explorer.html">The explorer on a page of its own</a></p>'
)
CODE = re.compile(r"\[`\w+\.([\w.]+)`\]\(\.\./((?:genrec_lab|tests)/[\w/]+\.py)\)")
"""A name in a file, as docs/equations.md has it: [`file.name`](../folder/file.py)."""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^):#]+)\)")
_PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)$", re.MULTILINE)


def with_outputs(source: str, executed: str | None, *, explorer: bool = False) -> str:
    """The notebook `source` with the outputs that its cells have in `executed`, where the code is the same.

    Figures become elements that report.js draws without a network. explorer: the site has its file.
    """
    notebook = nbformat.reads(source, as_version=4)
    ran = nbformat.reads(executed, as_version=4).cells if executed is not None else []
    outputs = {cell.source: cell.outputs for cell in ran if cell.cell_type == "code"}
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            found = [one for one in outputs.get(cell.source, []) if not _loads_plotly(one)]
            cell.outputs = [_shown(one, f"figure-{place}-{k}", explorer) for k, one in enumerate(found)]
    return nbformat.writes(notebook)


def _loads_plotly(output: Any) -> bool:
    """Whether plotly put this before a kernel's first figure, to load its script from the web."""
    data = output.get("data", {})
    return PLOTLY not in data and "window.PlotlyConfig" in data.get("text/html", "")


def _shown(output: Any, name: str, explorer: bool) -> Any:
    data = output.get("data", {})
    if PLOTLY in data:
        figure = json.dumps(data[PLOTLY], separators=(",", ":")).replace("<", "\\u003c")
        page = (
            f'<div class="drawing" data-figure="{name}"></div>'
            f'<script type="application/json" id="{name}">{figure}</script>'
        )
    elif WIDGET in data:
        page = EXPLORER if explorer else data.get("text/html", "")
    else:
        return output
    return nbformat.v4.new_output("display_data", {"text/html": page, "text/plain": ""})


def with_code(page: str) -> str:
    """The page of equations with the code of every function and test below it, to which its table leads."""
    places = dict.fromkeys((file, name) for name, file in CODE.findall(page))
    for title, folder in (("The functions", "genrec_lab/"), ("The tests", "tests/")):
        page += f"\n## {title}\n"
        for file, name in places:
            if file.startswith(folder):
                page += (
                    f"\n({_anchor(file, name)})=\n### {name}\n\n`{file}`\n\n```{{literalinclude}} ../{file}\n"
                    f":pyobject: {name}\n:lineno-match:\n:language: python\n```\n"
                )
    return CODE.sub(lambda found: f"[`{found[1]}`](#{_anchor(found[2], found[1])})", page)


def _anchor(file: str, name: str) -> str:
    return re.sub(r"[\W_]+", "-", f"{Path(file).stem}-{name}").lower()


def with_explorer(page: str) -> str:
    """The page with the explorer itself in place of its first picture."""
    return _PICTURE.sub(lambda _: EXPLORER, page, count=1)


def without_folders(page: str, folder: Path) -> str:
    """The page without its links to folders, which the site does not have."""
    return _LINK.sub(lambda found: found[1] if (folder / found[2]).is_dir() else found[0], page)
