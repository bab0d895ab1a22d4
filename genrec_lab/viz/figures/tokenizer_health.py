"""Figure of several tokenizers on the same items: how each level is used, and what cannot be told apart."""

from __future__ import annotations

import math

import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz import theme
from genrec_lab.viz.layout import (
    Panels,
    counted,
    finish_panels,
    label,
    listed,
    panels,
    percent,
    require_columns,
    seeded,
)
from genrec_lab.viz.theme import Style, category_styles

_LINES = (
    ("Codes in use", "utilisation", 100.0, " %", "share of codes"),
    ("Perplexity", "perplexity", 1.0, "", "codes"),
    ("Gini of the codes", "gini", 1.0, "", "0 even, 1 one code"),
    ("Dead codes", "dead", 1.0, "", "codes"),
    ("Entropy of the prefix", "prefix_entropy", 1.0, "", "bits"),
)


def tokenizers_compared(health: pl.DataFrame, *, seed: int | None = None) -> go.Figure:
    """The use of each level as a line a tokenizer, and the share of items whose identifier another has too.

    health: frame of `health_table`. The grey line over the entropies is that of identifiers that are all
    distinct, log2 of the number of items. Raises ValueError for an empty frame.
    """
    require_columns(health, ("tokenizer", "level", "items", "collision_rate", "largest_collision"))
    names = health["tokenizer"].unique(maintain_order=True).to_list()
    styles = category_styles(names)
    made = panels(
        [*(title for title, *_ in _LINES), "Ambiguous items"],
        columns=3,
        row_height=200,
        column_gap=0.09,
        row_gap=54,
    )
    levels = int(health["level"].max())  # type: ignore[arg-type]
    for name in names:
        of_one = health.filter(pl.col("tokenizer") == name).sort("level")
        for panel, (_, field, scale, unit, _) in enumerate(_LINES):
            made.figure.add_scatter(
                x=of_one["level"].to_numpy(),
                y=scale * of_one[field].to_numpy(),
                mode="lines+markers",
                name=label(name),
                legendgroup=label(name),
                showlegend=panel == 0,
                line={"color": styles[name].colour, "dash": styles[name].dash, "width": 2},
                marker={"symbol": styles[name].symbol, "size": 7},
                hovertemplate="level %{x}: %{y:.3~g}" + unit,
                **made.place(panel),
            )
    for panel, (_, field, _, unit, title) in enumerate(_LINES):
        made.figure.update_yaxes(ticksuffix=unit, title=title, rangemode="tozero", **made.place(panel))
        made.figure.update_xaxes(
            title="level", dtick=1, range=[0.8, levels + 0.2], tickangle=0, **made.place(panel)
        )
        if field == "gini":
            made.figure.update_yaxes(range=[0, 1.03], **made.place(panel))
    items = health["items"].unique().to_list()
    if len(items) == 1 and items[0] > 1:
        made.figure.add_scatter(
            x=[0.8, levels + 0.2],
            y=[math.log2(items[0])] * 2,
            mode="lines",
            line={"color": theme.REFERENCE, "width": 1, "dash": "dot"},
            showlegend=False,
            hovertemplate="all identifiers distinct: %{y:.2f} bits<extra></extra>",
            **made.place(4),
        )
    one_each = health.unique("tokenizer", keep="first", maintain_order=True)
    _add_collisions(made, one_each, styles)
    made.figure.update_layout(showlegend=True, bargap=0.35)
    largest = one_each.sort("largest_collision", descending=True).row(0, named=True)
    note = f"The same {counted(max(items), 'item')}; "
    note += f"most items of one identifier: {largest['largest_collision']} ({listed([largest['tokenizer']])})"
    return finish_panels(made, _title(one_each, health), seeded(note, seed))


def _add_collisions(made: Panels, one_each: pl.DataFrame, styles: dict[str, Style]) -> None:
    rates = one_each["collision_rate"].to_list()
    for place, row in enumerate(one_each.iter_rows(named=True)):
        name = row["tokenizer"]
        made.figure.add_bar(
            x=[place],
            y=[100 * row["collision_rate"]],
            name=label(name),
            legendgroup=label(name),
            showlegend=False,
            marker=styles[name].bar,
            text=[percent(row["collision_rate"])],
            textposition="outside",
            textangle=0,
            cliponaxis=False,
            hovertemplate=f"at most {row['largest_collision']} items a row of codes",
            **made.place(5),
        )
    made.figure.update_xaxes(showticklabels=False, title="a bar a tokenizer", **made.place(5))
    top = 118 * max(rates) if max(rates) else 1.0
    made.figure.update_yaxes(ticksuffix=" %", title="share of items", range=[0, top], **made.place(5))


def _title(one_each: pl.DataFrame, health: pl.DataFrame) -> str:
    if one_each.height == 1:
        row = one_each.row(0, named=True)
        return (
            f"{row['tokenizer']} leaves {percent(row['collision_rate'])} of the items with an identifier "
            f"that another has too, and {counted(int(health['dead'].sum()), 'dead code')}"
        )
    ordered = one_each.sort("collision_rate", maintain_order=True)
    fewest, most = ordered.row(0, named=True), ordered.row(-1, named=True)
    if fewest["collision_rate"] == most["collision_rate"]:
        text = f"All leave {percent(most['collision_rate'])} of the items ambiguous"
    else:
        text = f"{most['tokenizer']} leaves {percent(most['collision_rate'])} of the items ambiguous, "
        text += f"{fewest['tokenizer']} {percent(fewest['collision_rate'])}"
    dead = health.group_by("tokenizer", maintain_order=True).agg(pl.col("dead").sum(), pl.col("codes").sum())
    worst = dead.with_columns(share=pl.col("dead") / pl.col("codes")).sort("share").row(-1, named=True)
    return f"{text}; {percent(worst['share'])} of the codes of {worst['tokenizer']} are dead"
