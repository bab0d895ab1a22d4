"""Figures of training: curves of tokenizers and recommenders by epoch, and the use of a codebook."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import NDArray

from genrec_lab.training.callbacks import speed_parts
from genrec_lab.viz import FloatArray, IntArray, theme
from genrec_lab.viz.layout import MAX_POINTS, Panels, panels, require_columns
from genrec_lab.viz.sentences import best_title, tokenizer_title
from genrec_lab.viz.text import counted, label, listed, noted
from genrec_lab.viz.theme import Style, ordered_styles

_LOSS_PARTS = {
    "loss": "total", "reconstruction": "reconstruction", "quantization": "quantisation",
    "contrastive": "domain contrast", "collaborative": "collaborative", "diversity": "diversity",
    "text": "text", "picture": "picture", "code": "codes", "alignment": "alignment",
    "neighbour_text": "neighbour's text", "neighbour_picture": "neighbour's picture",
}  # fmt: skip
# Columns of `training_frame` by level: a panel's title, unit, axis title and end of the axis.
_BY_LEVEL = {
    "utilisation": ("Codes in use", " %", "share of codes", 103),
    "perplexity": ("Perplexity", "", "codes", None),
    "dead": ("Dead codes", "", "codes", None),
    "churn": ("Items whose code changed since the last record", " %", "share of items", None),
    "gini": ("Gini of the codes", "", "0: even, 1: a single code", None),
}
_NUMBERS = ("perplexity", "churn", "gini")
_MOST_MARKERS = 40  # longer lines have no markers; a single epoch needs one to be visible


def tokenizer_curves(
    epochs: Sequence[object], *, n_items: int | None = None, seed: int | None = None
) -> go.Figure:
    """Draw a tokenizer's training by epoch: loss and its parts, collisions, code use, change, evenness.

    epochs: records such as a tokenizer's `epochs`, as mappings or objects. Parts of the loss that are 0 or
    None in every epoch, and fields that no record has, are not drawn.
    """
    records = [as_mapping(record) for record in epochs]
    if not records:
        raise ValueError("epochs: no records; expected at least one")
    sizes = [1] * len(records[0]["utilisation"])
    last = records[-1]
    seconds = float(last.get("seconds") or 0)
    unit, length = ("s", 1) if seconds < 120 else ("min", 60) if seconds < 7200 else ("h", 3600)
    trained = f"{counted(int(last['epoch']), 'epoch')} in {seconds / length:.1f} {unit}"
    speed = speed_parts(last)
    said = noted(trained, f"the last at {' and '.join(speed)}" if speed else "")
    # Dead codes require the sizes of the codebooks, which the records do not contain.
    frame = training_frame({"": records}, sizes).with_columns(dead=pl.lit(None, pl.Int64))
    return codebook_by_epoch(frame, parts=_loss_parts(records), said=said, n_items=n_items, seed=seed)


def recommender_curves(
    history: Sequence[object] | Mapping[str, Sequence[object]],
    *,
    monitor: str = "ndcg@10",
    users: int | None = None,
    seed: int | None = None,
) -> go.Figure:
    """Draw a recommender's training by epoch: the loss, and the validation metric with its best epoch marked.

    history: `EpochRecord`s (`epoch`, `loss`, `metrics`) or mappings with these names, of one training or of
    several by name. users: number of validation users.
    """
    runs = dict(history) if isinstance(history, Mapping) else {"": history}
    records = {name: [as_mapping(record) for record in run] for name, run in runs.items()}
    if not any(records.values()):
        raise ValueError("history: no epochs; expected at least one")
    shown = metric_name(monitor)
    made = panels(["Training loss", f"Validation {shown}"], columns=2, row_height=280, column_gap=0.1)
    bests: dict[str, tuple[int, float]] = {}
    everything: list[float] = []
    most = MAX_POINTS // (2 * len(records)) - 1
    star: dict[str, Any] = {"symbol": "star", "size": 14, "line": {"width": 1, "color": theme.REFERENCE}}
    above: dict[str, Any] = {"textposition": "top center", "cliponaxis": False, "showlegend": False}
    above["mode"] = "markers+text" if len(records) == 1 else "markers"
    for name, run in records.items():
        kept = [run[place] for place in _kept(len(run), most)]
        epochs, losses = _columns((record["epoch"], record["loss"]) for record in kept)
        style = made.style(name)
        look: dict[str, Any] = {"style": style, "legendgroup": label(name)}
        _curve(made, 0, epochs, losses, name or "loss", "%{y:.4f}", **look)
        validated = [record for record in run if monitor in (record.get("metrics") or {})]
        when, values = _columns((record["epoch"], record["metrics"][monitor]) for record in validated)
        best = [int(np.argmax(values))] if len(values) else []
        places = _kept(len(values), most, *best)
        _curve(made, 1, when[places], values[places], name or shown, "%{y:.4f}", showlegend=False, **look)
        # Drawn even if no epoch was validated yet, so that a figure updated in place keeps its traces.
        hover, texts = "best, epoch %{x}: %{y:.4f}<extra></extra>", [f"{values[place]:.4f}" for place in best]
        more = above | {"text": texts, "legendgroup": label(name), "marker": star | {"color": style.colour}}
        made.points(1, when[best], values[best], f"best {name}".strip(), hover, **more)
        everything += values.tolist()
        for place in best:
            bests[name] = int(when[place]), float(values[place])
    last = max(int(record["epoch"]) for run in records.values() for record in run)
    made.x(title="epoch", range=[0, 1.04 * last], dtick=1 if last <= 10 else None)
    made.y(0, title="loss")
    made.y(1, title=shown, range=_room_for_star(everything))
    return made.finish(
        best_title(bests, shown, last),
        counted(last, "epoch") + (f" at most, {len(records)} trainings" if len(records) > 1 else ""),
        "" if users is None else counted(users, "validation user"),
        seed=seed,
        showlegend=len(records) > 1,
        hovermode="x unified",
    )


def codebook_by_epoch(
    epochs: pl.DataFrame,
    *,
    scope: str | None = None,
    parts: Mapping[str, FloatArray] | None = None,
    said: str = "",
    n_items: int | None = None,
    seed: int | None = None,
) -> go.Figure:
    """Draw how a tokenizer used its codes during training, one line per level.

    epochs: frame of `training_frame`. scope: which tokenizer, by default the first. parts: parts of the loss
    by record, drawn in an additional first panel. said: a clause of the note. Quantities that no epoch
    recorded have no panel. Raises ValueError for an unknown scope or without epochs.
    """
    require_columns(epochs, ("scope", "epoch", "level", *_BY_LEVEL))
    scopes = epochs["scope"].unique(maintain_order=True).to_list()
    chosen = scopes[0] if scope is None else scope
    if chosen not in scopes:
        raise ValueError(f"scope: {scope!r}, expected one of {scopes}")
    frame = epochs.filter(pl.col("scope") == chosen)
    known = [name for name in _BY_LEVEL if frame[name].null_count() < frame.height]
    if not known:
        raise ValueError(f"epochs: nothing was recorded of {chosen!r}; expected utilisation or perplexity")
    whole = frame.unique("epoch", keep="first", maintain_order=True)
    first = ["Loss"] if parts else []
    first += ["Collision rate"] if whole["collision_rate"].null_count() < whole.height else []
    titles = [*first, *(_BY_LEVEL[name][0] for name in known)]
    made = panels(titles, columns=2, row_height=195, column_gap=0.1, row_gap=46)
    x = whole["epoch"].to_numpy()
    drawn = _kept(whole.height, MAX_POINTS // (len(_LOSS_PARTS) + made.count * frame["level"].n_unique()))
    for part, values in (parts or {}).items():
        _curve(made, 0, x[drawn], values[drawn], part, "%{y:.4g}")
    if parts:
        losses = np.concatenate(list(parts.values()))
        losses = losses[np.isfinite(losses)]
        wide = losses.size and losses.min() > 0 and losses.max() > 20 * losses.min()
        log = {"type": "log", "dtick": 1, "exponentformat": "power"} if wide else {}
        made.y(0, title="loss (log)" if wide else "loss", **log)
    if "Collision rate" in first:
        plain = Style(theme.BAD, "", "solid", "circle")
        rates = 100 * whole["collision_rate"].to_numpy()[drawn]
        place = len(first) - 1
        _curve(made, place, x[drawn], rates, "collisions", "%{y:.2f} %", style=plain, showlegend=False)
        made.y(place, ticksuffix=" %", rangemode="tozero", title="share of items")
    _draw_levels(made, frame, known, len(first))
    made.x(dtick=1 if x.max() <= 10 else None)
    others = [name for name in scopes if name != chosen]
    last = frame.filter(pl.col("epoch") == pl.col("epoch").max()).sort("level")
    ending: dict[str, Any] = last.select("epoch", "collision_rate").row(0, named=True)
    ending["utilisation"], churn = last["utilisation"].to_list(), last["churn"].to_list()
    return made.finish(
        tokenizer_title(ending, None if None in churn else churn),
        "" if n_items is None else counted(n_items, "item"),
        said,
        f"{counted(whole.height, 'record')} up to epoch {x.max()}",
        f"tokenizer of {listed([chosen])}, the others are {listed(others)}" if others else "",
        "" if "churn" in known else "the change of codes was not recorded",
        seed=seed,
        showlegend=True,
        hovermode="x unified",
    )


def training_frame(
    epochs: Mapping[str, Sequence[Mapping[str, Any]]], sizes: Mapping[str, Sequence[int]] | Sequence[int]
) -> pl.DataFrame:
    """Return the recorded epochs of tokenizers: one row per scope, epoch and level; may be empty.

    epochs: by scope ("all", or one per domain), records with `epoch`. Optional fields are `utilisation,
    perplexity, churn` (share of items whose code changed since the last record) and `gini`, by level, and
    `collision_rate` and `loss`. sizes: codes per level, of all scopes or by scope. Columns are `scope, epoch,
    level` (from 1), these fields, and `dead`; missing fields are null.
    """
    rows: list[tuple[object, ...]] = []
    for scope, records in epochs.items():
        for record in records:
            whole = (record.get("collision_rate"), record.get("loss"))
            for level, size in enumerate(sizes[scope] if isinstance(sizes, Mapping) else sizes):
                by_level = (record.get(name) or () for name in ("utilisation", *_NUMBERS))
                used, *others = (values[level] if level < len(values) else None for values in by_level)
                dead = None if used is None else round(size * (1 - used))
                rows.append((scope, int(record["epoch"]), level + 1, used, *others, dead, *whole))
    columns = ("scope", "epoch", "level", "utilisation", *_NUMBERS, "dead", "collision_rate", "loss")
    types = {"scope": pl.String} | dict.fromkeys(("epoch", "level", "dead"), pl.Int64)
    return pl.DataFrame(rows, {name: types.get(name, pl.Float64) for name in columns}, orient="row")


def metric_name(metric: str, k: int | None = None) -> str:
    """Return the display name of a metric: ("ndcg", 10) and "ndcg@10" give "NDCG@10"."""
    name, _, cut = metric.partition("@")
    written = name.upper() if name.lower() in {"ndcg", "mrr"} else name[:1].upper() + name[1:]
    cut = str(k) if k is not None else cut
    return f"{written}@{cut}" if cut else written


def as_mapping(record: object) -> Mapping[str, Any]:
    """Return the fields of a mapping, dataclass or named tuple by name; raises TypeError for other types."""
    if isinstance(record, Mapping):
        return record
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    if hasattr(record, "_asdict"):
        return dict(record._asdict())
    raise TypeError(f"record: {type(record).__name__}, expected a mapping or a dataclass")


def _kept(count: int, most: int, *keep: int) -> list[int]:
    """Return at most `most` evenly spaced indices below `count`, including the first, the last and `keep`."""
    if count <= most:
        return list(range(count))
    places = set(np.round(np.linspace(0, count - 1, most - 1)).astype(int).tolist())
    return sorted(places | set(keep))


def _loss_parts(records: Sequence[Mapping[str, Any]]) -> dict[str, FloatArray]:
    parts = {}
    for key, name in _LOSS_PARTS.items():
        values = [record.get(key) for record in records]
        if any(value not in (None, 0, 0.0) for value in values):
            parts[name] = np.array([math.nan if value is None else float(value) for value in values])
    return parts


def _curve(
    made: Panels, panel: int, x: NDArray[Any], y: NDArray[Any], name: str, hover: str, **trace: Any
) -> None:
    mode = "lines+markers" if len(x) <= _MOST_MARKERS else "lines"
    made.line(panel, x, y, name, hover, size=5, **{"mode": mode} | trace)


def _columns(pairs: Iterable[tuple[int, float]]) -> tuple[IntArray, FloatArray]:
    """Return epochs and their values as two arrays."""
    epochs, values = np.array(list(pairs), dtype=float).reshape(-1, 2).T
    return epochs.astype(np.int64), values


def _room_for_star(values: Sequence[float]) -> list[float] | None:
    """Return an axis range with room for the number above the best value."""
    if not values:
        return None
    low, high = min(values), max(values)
    if high > low:
        return [low - 0.06 * (high - low), high + 0.16 * (high - low)]
    # The axis of a single value starts at 0; plotly would put the value in the middle of -1..1.
    return [0.0, high + 0.3 * (abs(high) or 1.0)]


def _draw_levels(made: Panels, frame: pl.DataFrame, fields: Sequence[str], first: int = 0) -> None:
    """Draw one panel per field of `training_frame`, starting at panel `first`, with one line per level."""
    levels = frame["level"].unique().sort().to_list()
    for level, style in zip(levels, ordered_styles(len(levels)), strict=True):
        line = frame.filter(pl.col("level") == level).sort("epoch")
        line = line[_kept(line.height, MAX_POINTS // (len(levels) * made.count))]
        for panel, name in enumerate(fields, first):
            unit, x = _BY_LEVEL[name][1], line["epoch"].to_numpy()
            y, hover = (100 if unit else 1) * line[name].to_numpy(), "%{y:.3~g}" + unit
            _curve(made, panel, x, y, f"level {level}", hover, style=style)
    for panel, name in enumerate(fields, first):
        _, unit, title, most = _BY_LEVEL[name]
        ends = {"rangemode": "tozero"} if most is None else {"range": [0, most]}
        made.y(panel, ticksuffix=unit, title=title, **ends)
    for panel in range(made.count):
        made.outer(panel, "epoch")
