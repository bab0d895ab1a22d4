"""What a notebook shows of a training: curves that are updated in place, or printed lines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import plotly.graph_objects as go

from genrec_lab.training import Callback, EpochRecord, TrainingResult
from genrec_lab.training.callbacks import speed_parts
from genrec_lab.viz.figures.training import as_mapping, metric_name, recommender_curves, tokenizer_curves

_LINE_SECONDS = 10.0


class LiveCurves(Callback):
    """Draws the records of a training while it runs: a callback of `training.fit`, or a context manager.

    In a notebook with a front-end, it updates one plotly FigureWidget in place. Elsewhere, it prints a line
    from time to time. At the end, it shows the static figure, `figure`, if in a kernel. It can also be called
    with a record.

    draw: from all records so far to a figure. title: start of the printed lines. seconds: minimum time
    between two updates. live: whether there is a front-end; None detects it. keep: whether to show the static
    figure at the end, which the caller may draw itself.
    """

    def __init__(
        self,
        draw: Callable[[Sequence[Any]], go.Figure],
        *,
        title: str = "",
        seconds: float = 1.0,
        live: bool | None = None,
        keep: bool = True,
    ) -> None:
        self.records: list[Any] = []
        self.title, self._draw, self._seconds, self._keep = title, draw, seconds, keep
        self._live = has_front_end() if live is None else live
        self._widget: Any = None
        self._display: Any = None
        # The times of the last update and of the last update by a record with metrics.
        self._last_update = self._last_validated = float("-inf")
        self._printed: int | None = None  # epoch
        self._ended = False

    @classmethod
    def tokenizer(cls, *, n_items: int | None = None, seed: int | None = None, **options: Any) -> Self:
        """Return live `tokenizer_curves`; options: those of `LiveCurves`."""
        draw = partial(tokenizer_curves, n_items=n_items, seed=seed)
        return cls(draw, **{"title": "tokenizer"} | options)

    @classmethod
    def recommender(
        cls, *, monitor: str = "ndcg@10", users: int | None = None, seed: int | None = None, **options: Any
    ) -> Self:
        """Return live `recommender_curves`; options: those of `LiveCurves`."""
        draw = partial(recommender_curves, monitor=monitor, users=users, seed=seed)
        return cls(draw, **{"title": "recommender"} | options)

    @property
    def figure(self) -> go.Figure:
        """The static figure of all records so far; raises ValueError if there are none."""
        return self._draw(self.records)

    def __call__(self, record: object) -> None:
        """Add a record."""
        self._take(record, None)

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Add the record of one of `epochs` epochs."""
        self._take(record, epochs)

    def on_end(self, result: TrainingResult | None = None) -> None:
        """Show the static figure; the result of a resumed training also contains the earlier epochs."""
        if result is not None:
            self.records = list(result.history)
        if not self.records or self._ended:
            return
        self._ended = True
        if self._printed != as_mapping(self.records[-1])["epoch"] and not self._live:
            self._print(None)
        if self._display is not None:
            # A figure object would be shown twice, so its rendered form replaces the widget.
            shown = self.figure._repr_mimebundle_() if self._keep else {"text/plain": self._line(None)}
            self._display.update(shown, raw=True)
        elif self._keep and in_kernel():
            _display(self.figure)
        self._widget = self._display = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.on_end()

    def _take(self, record: object, epochs: int | None) -> None:
        self.records.append(record)
        self._ended = False
        wait = self._seconds if self._live else _LINE_SECONDS
        now, validated = time.monotonic(), bool(as_mapping(record).get("metrics"))
        # Records with metrics have their own timer: if only every second epoch is validated, the other epochs
        # might otherwise use up all lines.
        if now - self._last_update < wait and not (validated and now - self._last_validated >= wait):
            return
        self._last_update, self._last_validated = now, now if validated else self._last_validated
        if self._live:
            self._update()
        else:
            self._print(epochs)

    def _update(self) -> None:
        figure = self.figure
        if self._widget is None or len(self._widget.data) != len(figure.data):
            self._widget = go.FigureWidget(figure)
            if self._display is not None:
                self._display.update(self._widget)
            self._display = self._display or _display(self._widget)
            return
        with self._widget.batch_update():
            for trace, new in zip(self._widget.data, figure.data, strict=True):
                trace.update(x=new.x, y=new.y, mode=new.mode, text=new.text)
            self._widget.layout.title = figure.layout.title
            for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
                shown = self._widget.layout[axis.plotly_name]
                shown.update(type=axis.type, dtick=axis.dtick, range=axis.range)
                shown.autorange = axis.range is None

    def _print(self, epochs: int | None) -> None:
        self._printed = as_mapping(self.records[-1])["epoch"]
        print(self._line(epochs), flush=True)

    def _line(self, epochs: int | None) -> str:
        return record_line(as_mapping(self.records[-1]), self.title, epochs)


def record_line(record: Mapping[str, Any], title: str = "", epochs: int | None = None) -> str:
    """Format a record as a line: epoch, loss, validation metrics or code health, speed, seconds."""
    parts = [f"{title} epoch {record['epoch']}".strip() + (f"/{epochs}" if epochs is not None else "")]
    if record.get("loss") is not None:
        parts.append(f"loss {record['loss']:.4g}")
    parts += [f"{metric_name(name)} {value:.4f}" for name, value in (record.get("metrics") or {}).items()]
    if record.get("utilisation"):
        low, high = (f"{end(record['utilisation']):.0%}" for end in (min, max))
        parts.append(f"utilisation {low}" + (f" to {high}" if low != high else ""))
    if record.get("collision_rate") is not None:
        parts.append(f"collisions {record['collision_rate']:.1%}")
    if record.get("churn"):
        parts.append(f"up to {max(record['churn']):.1%} of a level's codes changed")
    parts += speed_parts(record)
    if record.get("seconds"):
        parts.append(f"{record['seconds']:.1f} s")
    return "  ".join(parts)


def in_kernel() -> bool:
    """Return whether this code runs in a Jupyter kernel."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and hasattr(shell, "kernel")


def has_front_end() -> bool:
    """Return whether this kernel has a front-end, detected by traces of Jupyter servers, VS Code and Colab.

    papermill, nbclient and nbval start kernels without these traces. Set `GENREC_LIVE` to 0 or 1 if the
    detection is wrong.
    """
    if not in_kernel():
        return False
    forced = os.environ.get("GENREC_LIVE")
    if forced not in {None, "0", "1"}:
        raise ValueError(f"GENREC_LIVE: {forced!r}, expected '0' or '1'")
    if forced is not None:
        return forced == "1"
    return "JPY_SESSION_NAME" in os.environ or "VSCODE_CWD" in os.environ or "google.colab" in sys.modules


def end_notebook(reason: str) -> None:
    """Print why a notebook has nothing to show, and skip the cells below until the kernel is restarted."""
    print(f"Nothing to show from here on: {reason} The cells below do nothing until the kernel is restarted.")
    if in_kernel():
        sys.modules["IPython"].get_ipython().input_transformers_post.append(lambda lines: [])


def _display(thing: object) -> Any:
    from IPython.display import display

    return display(thing, display_id=True)
