"""What leaves the explorer: a link that holds a panel's CSV."""

from __future__ import annotations

import base64

from genrec_lab.viz.explorer.panels import Panel

_LARGEST_LINK = 8_000_000
"""Bytes of CSV that a link in the page may hold; a larger panel is exported by its Python."""


def download(panel: Panel) -> str | None:
    """A link to a panel's CSV, which it holds itself; None where there is nothing, or too much for a link."""
    content = panel.csv().encode()
    if not content or len(content) > _LARGEST_LINK:
        return None
    data = base64.b64encode(content).decode()
    return (
        f'<a download="{panel.name}.csv" href="data:text/csv;base64,{data}">{panel.name}.csv</a> '
        f"{panel.frame.height:,} rows"
    )
