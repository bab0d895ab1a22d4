"""The explorer's page: scripts, style sheet and pieces of HTML, from the files in `static`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from genrec_lab.viz import theme

ROOT = "genrec-explorer"
_STATIC = Path(__file__).with_name("static")
_PAGES = Environment(loader=FileSystemLoader(_STATIC), autoescape=True)

_PIECES = _PAGES.get_template("markup.html").module


def piece(name: str, *values: Any) -> str:
    """Return a piece of HTML by the name of its macro in markup.html, the values escaped."""
    return str(getattr(_PIECES, name)(*values))


def style_sheet() -> str:
    """Return the style sheet in its element, with the colours of the figures' themes."""
    modes = {mode: theme.page_colours(mode) for mode in ("light", "dark")}
    return f"<style>{_PAGES.get_template('explorer.css').render(modes=modes)}</style>"


def script(name: str) -> str:
    """Return a script of `static`."""
    return (_STATIC / name).read_text(encoding="utf-8")
