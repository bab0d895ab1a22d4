"""What leaves the explorer: a link that holds a panel's CSV, and pictures of its figures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from genrec_lab.viz.explorer.panels import Panel

EXPORTS = Path("exports")
"""Where in a run's folder the explorer writes files."""

_PIXELS_A_POINT = 2  # sharp on today's screens and in print

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


def write_png(figures: Sequence[go.Figure], folder: Path, name: str) -> list[Path]:
    """Draw figures as `<name>_1.png`, … in a folder, and return the files.

    Raises ValueError where no browser is there to draw them, or kaleido is not installed; it says what helps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}_{place}.png" for place in range(1, len(figures) + 1)]
    for figure, file in zip(figures, files, strict=True):
        try:
            # Drawn first and written then, so that a browser that fails leaves no half file.
            drawn = figure.to_image(format="png", scale=_PIXELS_A_POINT)
        except (ValueError, RuntimeError, OSError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"No picture: {first} It needs kaleido (pip install kaleido) and Chrome or Chromium, on the "
                "path or named by BROWSER_PATH. The camera above a figure saves what this browser drew."
            ) from error
        file.write_bytes(drawn)
    return files
