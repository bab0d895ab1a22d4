"""Figure of a codebook's training: utilisation, perplexity, dead codes and churn by epoch, a line a level."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz.explorer.training import settled
from genrec_lab.viz.layout import (
    MAX_POINTS,
    counted,
    finish_panels,
    listed,
    panels,
    percent,
    require_columns,
    seeded,
)
from genrec_lab.viz.theme import ordered_styles

_PANELS = (
    ("Codes in use", "utilisation", 100.0, " %", "share of codes"),
    ("Perplexity", "perplexity", 1.0, "", "codes"),
    ("Dead codes", "dead", 1.0, "", "codes"),
    ("Items whose code changed since the record before", "churn", 100.0, " %", "share of items"),
)


def codebook_by_epoch(
    epochs: pl.DataFrame, *, scope: str | None = None, n_items: int | None = None, seed: int | None = None
) -> go.Figure:
    """How the codes of one tokenizer were used while it trained, a line a level.

    epochs: frame of `training_frame`. scope: which tokenizer, by default the first. What no epoch recorded,
    as churn by older versions, has no panel. Raises ValueError for an unknown scope or without epochs.
    """
    require_columns(epochs, ("scope", "epoch", "level", *(field for _, field, *_ in _PANELS)))
    scopes = epochs["scope"].unique(maintain_order=True).to_list()
    chosen = scopes[0] if scope is None else scope
    if chosen not in scopes:
        raise ValueError(f"scope: {scope!r}, expected one of {scopes}")
    frame = epochs.filter(pl.col("scope") == chosen).sort("level", "epoch")
    known = [panel for panel in _PANELS if frame[panel[1]].null_count() < frame.height]
    if not known:
        raise ValueError(f"epochs: nothing was recorded of {chosen!r}; expected utilisation or perplexity")
    levels = frame["level"].unique(maintain_order=True).to_list()
    made = panels([name for name, *_ in known], columns=2, row_height=190, column_gap=0.1, row_gap=48)
    step = max(1, -(-frame.height * len(known) // MAX_POINTS))
    for level, style in zip(levels, ordered_styles(len(levels)), strict=True):
        for panel, (_, field, scale, unit, _) in enumerate(known):
            line = frame.filter((pl.col("level") == level) & pl.col(field).is_not_null())
            line = line.gather(sorted({*range(0, line.height, step), line.height - 1}) if line.height else [])
            made.figure.add_scatter(
                x=line["epoch"].to_numpy(),
                y=scale * line[field].to_numpy(),
                mode="lines+markers" if line.height <= 40 else "lines",
                name=f"level {level}",
                legendgroup=f"level {level}",
                showlegend=panel == 0,
                line={"color": style.colour, "dash": style.dash, "width": 2},
                marker={"symbol": style.symbol, "size": 5},
                hovertemplate="%{y:.3~g}" + unit,
                **made.place(panel),
            )
    for panel, (_, field, _, unit, title) in enumerate(known):
        made.figure.update_yaxes(ticksuffix=unit, title=title, rangemode="tozero", **made.place(panel))
        if field == "utilisation":
            made.figure.update_yaxes(range=[0, 103], **made.place(panel))
        made.figure.update_xaxes(title="epoch" if made.is_bottom(panel) else None, **made.place(panel))
    made.figure.update_layout(showlegend=True, hovermode="x unified")
    note = f"{counted(n_items, 'item')}; " if n_items is not None else ""
    seen = frame["epoch"].unique().sort().to_list()
    note += f"{counted(len(seen), 'record')} up to epoch {seen[-1]}"
    note += (
        f"; tokenizer of {listed([chosen])}, the others are {listed([s for s in scopes if s != chosen])}"
        if len(scopes) > 1
        else ""
    )
    note += (
        "" if any(field == "churn" for _, field, *_ in known) else "; the change of codes was not recorded"
    )
    return finish_panels(made, _title(frame), seeded(note, seed))


def _title(frame: pl.DataFrame) -> str:
    used = frame.drop_nulls("utilisation")
    if used.is_empty():
        return f"The codes of {counted(frame['level'].n_unique(), 'level')} by epoch"
    last = used.filter(pl.col("epoch") == used["epoch"].max())
    worst = last.sort("utilisation").row(0, named=True)
    text = f"Level {worst['level']} ends with the fewest codes in use, {percent(worst['utilisation'])}"
    if last["utilisation"].n_unique() == 1:
        share = "all" if worst["utilisation"] == 1 else percent(worst["utilisation"])
        text = f"Every level ends with {share} of its codes in use"
    return f"{text}; use of codes settles at epoch {settled(frame)}"
