"""The explorer's page: its scripts, style sheet and HTML, from the files in `static`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from genrec_lab.viz import theme

_STATIC = Path(__file__).with_name("static")
_PAGES = Environment(loader=FileSystemLoader(_STATIC), autoescape=True)
_SCRIPTS = ("shared.js", "grid.js", "map.js", "page.js", "plots.js", "screen.js")


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
