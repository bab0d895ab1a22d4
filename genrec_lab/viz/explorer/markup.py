"""The HTML of the explorer: its style sheet in both themes, tables, and lines of escaped text."""

from __future__ import annotations

import html

import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.explorer.panels import Panel

ROOT = "genrec-explorer"
_MOST_ROWS = 20

# What ipywidgets and JupyterLab colour by; set on the explorer, so that it is dark or light by itself.
_BORROWED = {
    "--jp-widgets-color": "text",
    "--jp-widgets-label-color": "text",
    "--jp-widgets-readout-color": "text",
    "--jp-widgets-input-color": "text",
    "--jp-widgets-input-background-color": "page",
    "--jp-widgets-input-border-color": "line",
    "--jp-ui-font-color1": "text",
    "--jp-content-font-color1": "text",
    "--jp-layout-color1": "page",
    "--jp-layout-color2": "button",
    "--jp-layout-color3": "pressed",
    "--jp-border-color1": "line",
}

# The arrow of a drop-down is a picture, so it cannot take the colour of the text.
_ARROW = (
    "url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath fill='none' stroke='%23808A96' stroke-width='2' d='M5 7l4 4 4-4'/%3E%3C/svg%3E\")"
)

_RULES = """
.genrec-explorer { background: var(--genrec-page); color: var(--genrec-text); padding: 10px 12px 12px;
  border: 1px solid var(--genrec-line); border-radius: 8px; overflow: hidden; box-sizing: border-box; }
.genrec-explorer .widget-html, .genrec-explorer .widget-html-content { height: auto; line-height: 1.45;
  color: var(--genrec-text); margin: 0; }
.genrec-explorer .widget-html-content:empty { display: none; }
.genrec-explorer > .widget-toggle-buttons { margin: 6px 2px; }
.genrec-explorer input::placeholder { color: var(--genrec-quiet); opacity: 1; }
.genrec-explorer .jupyter-button { background: var(--genrec-button); color: var(--genrec-text);
  border-radius: 5px; }
.genrec-explorer .jupyter-button.mod-active, .genrec-explorer .jupyter-button:active {
  background: var(--genrec-pressed); color: var(--genrec-text); box-shadow: none; font-weight: 600; }
.genrec-explorer .jupyter-button:focus-visible, .genrec-explorer select:focus-visible,
.genrec-explorer input:focus-visible, .genrec-card:focus-visible { outline: 2px solid var(--genrec-accent);
  outline-offset: 1px; }
.genrec-explorer .genrec-wrap { flex-wrap: wrap; row-gap: 2px; overflow: visible; align-items: center; }
.genrec-explorer .genrec-name { font-weight: 600; margin-right: 8px; }
.genrec-explorer .genrec-chip .jupyter-button, .genrec-explorer .jupyter-button.genrec-chip {
  border: 1px solid var(--genrec-line); border-radius: 999px; background: transparent; padding: 0 9px;
  width: auto; height: 24px; line-height: 22px; font-size: 12px; }
.genrec-explorer .genrec-said { color: var(--genrec-accent); font-weight: 600; }
.genrec-explorer .genrec-finding b { font-size: 15px; }
.genrec-explorer .genrec-finding span { color: var(--genrec-quiet); }
.genrec-explorer table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.genrec-explorer th { color: var(--genrec-quiet); font-weight: 600; }
.genrec-explorer td, .genrec-explorer th { padding: 3px 10px 3px 0; vertical-align: top;
  border-bottom: 1px solid var(--genrec-line); }
.genrec-explorer pre { background: var(--genrec-button); color: var(--genrec-text); padding: 8px 10px;
  border-radius: 5px; white-space: pre-wrap; overflow-wrap: anywhere; margin: 4px 0; }
.genrec-explorer a { color: var(--genrec-accent); }
.genrec-explorer .genrec-columns { flex-wrap: wrap; align-items: flex-start; overflow: visible;
  gap: 8px 20px; }
.genrec-explorer .genrec-main { flex: 0 1 850px; min-width: 0; overflow-x: auto; }
.genrec-explorer .genrec-side { flex: 1 1 380px; min-width: 0; }
.genrec-head h4 { margin: 4px 0 2px; font-size: 15px; }
.genrec-side h5 { margin: 12px 0 0; font-size: 13px; color: var(--genrec-quiet); }
.genrec-head p { margin: 0 0 2px; overflow-wrap: anywhere; }
.genrec-told { display: flex; gap: 10px; align-items: center; margin: 6px 0; }
.genrec-drawn { width: 112px; height: 112px; border-radius: 5px; border: 1px solid var(--genrec-line); }
.genrec-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 8px;
  margin-top: 8px; }
.genrec-card { display: flex; flex-direction: column; gap: 6px; text-align: left; cursor: pointer;
  font: inherit; font-size: 12px; line-height: 1.35; color: var(--genrec-text); padding: 8px;
  background: var(--genrec-page); border: 1px solid var(--genrec-line); border-radius: 6px; }
.genrec-card:hover { border-color: var(--genrec-accent); }
.genrec-chosen { border: 2px solid var(--genrec-accent); padding: 7px; }
.genrec-picture { width: 100%; height: 96px; object-fit: contain; border-radius: 4px; }
.genrec-none { display: flex; align-items: center; justify-content: center; background: var(--genrec-button);
  color: var(--genrec-quiet); }
.genrec-words { display: flex; flex-direction: column; min-width: 0; }
.genrec-title { font-weight: 600; overflow-wrap: anywhere; unicode-bidi: plaintext; display: -webkit-box;
  -webkit-line-clamp: 3; -webkit-box-orient: vertical; overflow: hidden; }
.genrec-quiet { color: var(--genrec-quiet); overflow-wrap: anywhere; }
.genrec-codes { font-variant-numeric: tabular-nums; }
"""


def style_sheet() -> str:
    """The style sheet, with the colours of the figures' themes."""
    sheets = [_RULES]
    for mode in ("light", "dark"):
        colours = {f"--genrec-{name}": value for name, value in theme.page_colours(mode).items()}
        colours |= {variable: colours[f"--genrec-{name}"] for variable, name in _BORROWED.items()}
        colours["--jp-widgets-dropdown-arrow"] = _ARROW
        own = "".join(f"{name}: {value}; " for name, value in colours.items())
        sheets.append(f".{ROOT}.genrec-{mode} {{ color-scheme: {mode}; {own}}}")
    return f"<style>{''.join(sheets)}</style>"


def table_markup(table: go.Table) -> str:
    """A table of plotly, whose texts are escaped, as HTML: plotly places cells by their drawn size too."""
    align = table.cells.align
    rows = [(table.header.values, "th"), *((row, "td") for row in zip(*table.cells.values, strict=True))]
    lines = [
        "".join(
            f'<{tag} style="text-align:{side}">{cell}</{tag}>' for cell, side in zip(row, align, strict=True)
        )
        for row, tag in rows
    ]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def still_life(name: str, panel: Panel) -> str:
    """The largest codes below the selection, for a page in which no widget lives."""
    said = f"The codebook explorer of {name}: its largest codes. Run this cell in a live kernel to explore."
    head = f"<p>{html.escape(said)}</p>"
    if panel.frame.is_empty():
        return f"{head}<p>{html.escape(panel.note)}</p>"
    largest = panel.frame.filter(pl.col("items") > 0).sort("items", "code", descending=[True, False])
    shown = largest.head(_MOST_ROWS).select("code", "words", "items", "interactions")
    rows = [f"<tr>{''.join(f'<th>{name}</th>' for name in shown.columns)}</tr>"]
    for row in shown.iter_rows():
        rows.append(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>")
    return f"{head}<table>{''.join(rows)}</table>"


def finding(title: str, note: str) -> str:
    """What a figure found, and what it is of."""
    return (
        f'<div class="genrec-finding"><b>{html.escape(title)}</b><br><span>{html.escape(note)}</span></div>'
    )


def line(text: str, name: str = "") -> str:
    """Escaped text, or nothing."""
    return f'<span class="{name}">{html.escape(text)}</span>' if text else ""


def code(text: str) -> str:
    """A piece of a program."""
    return f"<pre>{html.escape(text)}</pre>"
