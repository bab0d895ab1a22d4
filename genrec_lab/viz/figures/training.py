"""Figures of training: a tokenizer's and a recommender's curves by epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.training.callbacks import speed_parts
from genrec_lab.viz import theme
from genrec_lab.viz.layout import (
    MAX_POINTS,
    Panels,
    counted,
    finish_panels,
    label,
    listed,
    panels,
    percent,
    seeded,
)
from genrec_lab.viz.theme import Style, category_styles, ordered_styles

_LOSS_PARTS = {
    "loss": "total",
    "reconstruction": "reconstruction",
    "quantization": "quantisation",
    "contrastive": "domain contrast",
    "collaborative": "collaborative",
    "diversity": "diversity",
    "text": "text",
    "picture": "picture",
    "code": "codes",
    "alignment": "alignment",
    "neighbour_text": "neighbour's text",
    "neighbour_picture": "neighbour's picture",
}
# What later versions recorded too, by level: the panel's title, the scale and what its axis counts.
_LATER = {
    "churn": ("Items whose code changed since the record before", 100.0, "share of items"),
    "gini": ("Gini of the codes", 1.0, "0 even, 1 one code"),
}


def tokenizer_curves(
    epochs: Sequence[object], *, n_items: int | None = None, seed: int | None = None
) -> go.Figure:
    """A tokenizer's training by epoch: loss and its parts, collisions, use of the codes, change, evenness.

    epochs: `TokenizerEpoch` or `UniversalEpoch` records, or mappings with the same names; a part of the loss
    that is 0 or None in every epoch is not drawn, nor are change and evenness where no record has any, as of
    older versions. Of a very long training evenly spaced epochs are drawn, the
    first and the last included.
    """
    records = [as_mapping(record) for record in epochs]
    if not records:
        raise ValueError("epochs: no records; expected at least one")
    levels = len(records[0]["utilisation"])
    later = [name for name in _LATER if any(record.get(name) for record in records)]
    lines = len(_LOSS_PARTS) + (2 + len(later)) * levels + 1
    drawn = [records[place] for place in _kept(len(records), MAX_POINTS // lines)]
    x = np.array([record["epoch"] for record in drawn])
    made = panels(
        ["Loss", "Collision rate", "Utilisation", "Perplexity", *(_LATER[name][0] for name in later)],
        columns=2,
        row_height=200,
        column_gap=0.1,
        row_gap=44,
    )
    parts = _loss_parts(drawn)
    styles = category_styles(parts)
    for part, values in parts.items():
        _line(made, 0, x, values, part, styles[part], "%{y:.4g}", in_legend=True, group=part)
    _line(
        made,
        1,
        x,
        100 * np.array([record["collision_rate"] for record in drawn]),
        "collisions",
        Style(theme.BAD, "", "solid", "circle"),
        "%{y:.2f} %",
        in_legend=False,
    )
    for level, style in enumerate(ordered_styles(levels)):
        for panel, name, scale in ((2, "utilisation", 100.0), (3, "perplexity", 1.0)):
            values = scale * np.array([record[name][level] for record in drawn])
            text = "%{y:.1f} %" if panel == 2 else "%{y:.1f}"
            named = f"level {level + 1}"
            _line(made, panel, x, values, named, style, text, in_legend=panel == 2, group=named)
        for panel, name in enumerate(later, start=4):
            scale = _LATER[name][1]
            # None or nothing in records that were made before it was kept, and in the first of churn.
            of_records = [record.get(name) or None for record in drawn]
            values = np.array([math.nan if of is None else scale * of[level] for of in of_records])
            text = "%{y:.1f} %" if scale == 100 else "%{y:.2f}"
            _line(made, panel, x, values, named, style, text, in_legend=False, group=named)
    _name_tokenizer_axes(made, parts, later, int(records[-1]["epoch"]))
    last = records[-1]
    lowest = int(np.argmin(last["utilisation"]))
    least = float(last["utilisation"][lowest])
    title = (
        f"After {counted(int(last['epoch']), 'epoch')} every level uses "
        f"{'all' if least == 1 else f'at least {percent(least)}'} of its codes; "
        f"{percent(float(last['collision_rate']))} of the items collide"
    )
    note = f"{counted(n_items, 'item')}; " if n_items is not None else ""
    note += f"{counted(int(last['epoch']), 'epoch')} in {_duration(float(last.get('seconds') or 0))}"
    note += f", {len(records)} of them measured" if len(records) < int(last["epoch"]) else ""
    if speed := speed_parts(last):
        note += f"; the last at {' and '.join(speed)}"
    return finish_panels(made, title, seeded(note, seed))


def recommender_curves(
    history: Sequence[object] | Mapping[str, Sequence[object]],
    *,
    monitor: str = "ndcg@10",
    users: int | None = None,
    seed: int | None = None,
) -> go.Figure:
    """A recommender's training by epoch: the loss, and the validation metric with its best epoch marked.

    history: `EpochRecord`s (`epoch`, `loss`, `metrics`) or mappings with these names, of one training or of
    several by name. Epochs without validation have no point in the right panel. users: of the validation.
    """
    runs = dict(history) if isinstance(history, Mapping) else {"": history}
    records = {name: [as_mapping(record) for record in run] for name, run in runs.items()}
    if not any(records.values()):
        raise ValueError("history: no epochs; expected at least one")
    shown = metric_name(monitor)
    made = panels(["Training loss", f"Validation {shown}"], columns=2, row_height=280, column_gap=0.1)
    styles = category_styles(records)
    bests: dict[str, tuple[int, float]] = {}
    everything: list[float] = []
    most = MAX_POINTS // (2 * len(records)) - 1
    for name, run in records.items():
        style = styles[name]
        kept = [run[place] for place in _kept(len(run), most)]
        x = np.array([record["epoch"] for record in kept], dtype=np.int64)
        losses = np.array([record["loss"] for record in kept], dtype=float)
        _line(made, 0, x, losses, name or "loss", style, "%{y:.4f}", in_legend=True, group=name)
        when, values = _validation(run, monitor)
        best = int(np.argmax(values)) if len(values) else None
        places = _kept(len(values), most, keep=best)
        x, y = when[places], values[places]
        _line(made, 1, x, y, name or shown, style, "%{y:.4f}", in_legend=False, group=name)
        _mark_best(made, when, values, best, style, name, written=len(records) == 1)
        everything += values.tolist()
        if best is not None:
            bests[name] = (int(when[best]), float(values[best]))
    last = max(int(record["epoch"]) for run in records.values() for record in run)
    made.figure.update_xaxes(title="epoch", range=[0, 1.04 * last], dtick=1 if last <= 10 else None)
    made.figure.update_yaxes(title="loss", **made.place(0))
    made.figure.update_yaxes(title=shown, range=_room_for_star(everything), **made.place(1))
    made.figure.update_layout(showlegend=len(records) > 1, hovermode="x unified")
    note = counted(last, "epoch")
    note += f" at most, {len(records)} trainings" if len(records) > 1 else ""
    if users is not None:
        note += f"; {counted(users, 'validation user')}"
    return finish_panels(made, _best_title(bests, shown, last), seeded(note, seed))


def metric_name(metric: str, k: int | None = None) -> str:
    """How a metric is written: ("ndcg", 10) and "ndcg@10" give "NDCG@10", "recall@5" gives "Recall@5"."""
    name, _, cut = metric.partition("@")
    written = name.upper() if name.lower() in {"ndcg", "mrr"} else name[:1].upper() + name[1:]
    cut = str(k) if k is not None else cut
    return f"{written}@{cut}" if cut else written


def as_mapping(record: object) -> Mapping[str, Any]:
    """A record's fields by name, of a mapping, dataclass or named tuple; raises TypeError for others."""
    if isinstance(record, Mapping):
        return record
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    if hasattr(record, "_asdict"):
        return dict(record._asdict())
    raise TypeError(
        f"record: {type(record).__name__}, expected a mapping or a dataclass with a field a value"
    )


def _kept(count: int, most: int, keep: int | None = None) -> list[int]:
    """At most `most` evenly spaced places of `count`, the first, the last and `keep` among them."""
    if count <= most:
        return list(range(count))
    places = set(np.round(np.linspace(0, count - 1, most - 1)).astype(int).tolist())
    return sorted(places | ({keep} if keep is not None else set()))


def _loss_parts(records: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float64]]:
    parts = {}
    for key, name in _LOSS_PARTS.items():
        values = [record.get(key) for record in records]
        if any(value not in (None, 0, 0.0) for value in values):
            parts[name] = np.array([math.nan if value is None else float(value) for value in values])
    return parts


def _line(
    made: Panels,
    panel: int,
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.float64],
    name: str,
    style: Style,
    hover: str,
    *,
    in_legend: bool,
    group: str | None = None,
) -> None:
    made.figure.add_scatter(
        x=x,
        y=y,
        # A lone epoch has no line to see.
        mode="lines+markers" if len(x) <= 40 else "lines",
        name=label(name),
        legendgroup=None if group is None else label(group),
        showlegend=in_legend,
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"symbol": style.symbol, "size": 5},
        hovertemplate=hover,
        **made.place(panel),
    )


def _validation(
    run: Sequence[Mapping[str, Any]], monitor: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The epochs that were validated, and the metric at each."""
    validated = [record for record in run if monitor in (record.get("metrics") or {})]
    epochs = np.array([record["epoch"] for record in validated], dtype=np.int64)
    return epochs, np.array([record["metrics"][monitor] for record in validated], dtype=float)


def _room_for_star(values: Sequence[float]) -> list[float] | None:
    """A range of the axis with room for the best value's number above it."""
    if not values:
        return None
    low, high = min(values), max(values)
    # A lone value stands on an axis from 0; plotly would put it in the middle of -1..1.
    span = high - low if high > low else abs(high) or 1.0
    return [low - 0.06 * span, high + 0.16 * span] if high > low else [0.0, high + 0.3 * span]


def _mark_best(
    made: Panels,
    epochs: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    best: int | None,
    style: Style,
    name: str,
    written: bool,
) -> None:
    # Drawn empty where nothing is validated yet, so that a figure updated in place keeps its traces.
    places = [] if best is None else [best]
    made.figure.add_scatter(
        x=epochs[places],
        y=values[places],
        mode="markers+text" if written else "markers",
        text=[f"{values[place]:.4f}" for place in places],
        textposition="top center",
        cliponaxis=False,
        marker={
            "symbol": "star",
            "size": 14,
            "color": style.colour,
            "line": {"width": 1, "color": theme.REFERENCE},
        },
        name=label(f"best {name}".strip()),
        legendgroup=label(name),
        showlegend=False,
        hovertemplate="best, epoch %{x}: %{y:.4f}<extra></extra>",
        **made.place(1),
    )


def _name_tokenizer_axes(
    made: Panels, parts: Mapping[str, npt.NDArray[np.float64]], later: Sequence[str], last: int
) -> None:
    figure = made.figure
    everything = np.concatenate([values[np.isfinite(values)] for values in parts.values()] or [np.ones(1)])
    if everything.size and everything.min() > 0 and everything.max() > 20 * everything.min():
        figure.update_yaxes(type="log", dtick=1, exponentformat="power", title="loss (log)", **made.place(0))
    else:
        figure.update_yaxes(title="loss", **made.place(0))
    figure.update_yaxes(ticksuffix=" %", rangemode="tozero", title="share of items", **made.place(1))
    figure.update_yaxes(ticksuffix=" %", range=[0, 103], title="codes in use", **made.place(2))
    figure.update_yaxes(rangemode="tozero", title="codes", **made.place(3))
    for panel, name in enumerate(later, start=4):
        _, scale, title = _LATER[name]
        figure.update_yaxes(
            ticksuffix=" %" if scale == 100 else "", rangemode="tozero", title=title, **made.place(panel)
        )
    for panel in range(made.count):
        figure.update_xaxes(title="epoch" if made.is_bottom(panel) else None, **made.place(panel))
    if last <= 10:
        figure.update_xaxes(dtick=1)
    figure.update_layout(showlegend=True, hovermode="x unified")


def _best_title(bests: Mapping[str, tuple[int, float]], metric: str, trained: int) -> str:
    if not bests:
        return f"{counted(trained, 'epoch')} trained, none validated yet"
    if len(bests) == 1:
        ((name, (epoch, value)),) = bests.items()
        whose = f" of {name}" if name else ""
        return f"Validation {metric}{whose} is best at epoch {epoch} of {trained}: {value:.4f}"
    leader = max(bests, key=lambda name: bests[name][1])
    epoch, value = bests[leader]
    return f"Validation {metric} is highest for {listed([leader])}: {value:.4f} at epoch {epoch}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
