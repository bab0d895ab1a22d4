"""Figures of codes: which are used and by whom, how domains share them, and how healthy each level is.

Shapes: N items, L levels, K codes a level, T domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.evaluation import domain_sharing
from genrec_lab.viz import theme
from genrec_lab.viz.layout import (
    counted,
    finish_panels,
    label,
    panels,
    percent,
    seeded,
)
from genrec_lab.viz.theme import category_styles, ordered_styles

IntArray = npt.NDArray[np.int64]


class HealthLike(Protocol):
    """What the figure of health reads of `CodeHealth`: values by level and one rate over all."""

    @property
    def used(self) -> Sequence[int]:
        """Codes in use, by level."""

    @property
    def utilisation(self) -> Sequence[float]:
        """Share of codes in use, by level."""

    @property
    def perplexity(self) -> Sequence[float]:
        """Exponential of the entropy of the codes, by level."""

    @property
    def dead(self) -> Sequence[int]:
        """Codes that no item has, by level."""

    @property
    def collision_rate(self) -> float:
        """Share of items whose whole identifier another item has too."""


def code_usage(
    codes: npt.ArrayLike,
    sizes: Sequence[int],
    domains: npt.ArrayLike,
    *,
    top: int = 100,
    seed: int | None = None,
) -> go.Figure:
    """The `top` most frequent codes of each level as bars, stacked by domain: GMC Figure 3, right.

    codes: (N, L). sizes: (L,). domains: (N,) names. The titles count all codes, the dead ones too, not only
    those drawn. A code is shared if items of two or more domains have it.
    """
    names, counts = _counts(codes, sizes, domains)
    styles = category_styles(names)
    titles = [_level_title(level, table) for level, table in enumerate(counts)]
    made = panels(titles, columns=2, row_height=190, column_gap=0.08, row_gap=44)
    for panel, table in enumerate(counts):
        # Ties in frequency go to the lower code, so that the same codes always give the same figure.
        order = np.argsort(-table.sum(axis=1), kind="stable")[:top]
        order = order[table[order].sum(axis=1) > 0]
        for domain, name in enumerate(names):
            made.figure.add_bar(
                x=np.arange(1, order.size + 1),
                y=table[order, domain],
                name=label(name),
                legendgroup=str(domain),
                showlegend=panel == 0,
                marker=styles[name].bar,
                customdata=np.column_stack([order, table[order].sum(axis=1)]),
                hovertemplate="code %{customdata[0]}: %{y} of its %{customdata[1]} items",
                **made.place(panel),
            )
        bottom = made.is_bottom(panel)
        made.figure.update_xaxes(title="code, most frequent first" if bottom else None, **made.place(panel))
        made.figure.update_yaxes(
            title="items" if made.is_left(panel) else None, rangemode="tozero", **made.place(panel)
        )
    made.figure.update_layout(barmode="stack", bargap=0, showlegend=len(names) > 1)
    n_items = int(counts[0].sum())
    whole = all(int((table.sum(axis=1) > 0).sum()) <= top for table in counts)
    note = f"{counted(n_items, 'item')} of {counted(len(names), 'domain')}; "
    note += "all codes in use are drawn" if whole else f"the {top} most frequent codes a level are drawn"
    return finish_panels(made, _usage_title(counts), seeded(note, seed))


def code_sharing(
    codes: npt.ArrayLike, sizes: Sequence[int], domains: npt.ArrayLike, *, seed: int | None = None
) -> go.Figure:
    """How many domains use a code, by level: as a share of the codes, and of the items that have them.

    codes: (N, L). sizes: (L,). domains: (N,) names. Dead codes have no items, so they are in the left panel
    only.
    """
    names, counts = _counts(codes, sizes, domains)
    n_domains = len(names)
    n_items = int(counts[0].sum())
    made = panels(["Share of the codes", "Share of the items"], columns=2, row_height=44 * len(counts) + 24)
    styles = ordered_styles(n_domains)
    for used_by in range(n_domains + 1):
        colour = theme.TRACK if used_by == 0 else styles[used_by - 1].colour
        name = "dead" if used_by == 0 else f"used by {counted(used_by, 'domain')}"
        for panel in range(2):
            shares, numbers = _shares_used_by(counts, used_by, of_items=panel == 1)
            made.figure.add_bar(
                y=np.arange(len(counts)),
                x=100 * shares,
                orientation="h",
                name=name,
                legendgroup=name,
                showlegend=panel == 0,
                marker_color=colour,
                text=[percent(share) if share >= 0.09 else "" for share in shares],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                customdata=numbers,
                hovertemplate="%{customdata:,} " + ("items" if panel else "codes") + ", %{x:.1f} %",
                **made.place(panel),
            )
    for panel in range(2):
        made.figure.update_xaxes(range=[0, 100], ticksuffix=" %", **made.place(panel))
        made.figure.update_yaxes(
            tickvals=list(range(len(counts))),
            ticktext=[f"level {level + 1}" for level in range(len(counts))],
            range=[len(counts) - 0.5, -0.5],
            showticklabels=panel == 0,
            showgrid=False,
            **made.place(panel),
        )
    made.figure.update_layout(barmode="stack", showlegend=True)
    note = f"{counted(n_items, 'item')} of {counted(n_domains, 'domain')}; all codes"
    return finish_panels(made, _sharing_title(counts), seeded(note, seed))


def health_by_level(
    health: Mapping[str, HealthLike], *, n_items: int | None = None, seed: int | None = None
) -> go.Figure:
    """Utilisation and perplexity by level of several tokenizers side by side, from their `CodeHealth`.

    health: tokenizer name -> its health; they may have different numbers of levels.
    """
    if not health:
        raise ValueError("health: no tokenizers; expected at least one")
    styles = category_styles(health)
    made = panels(
        ["Utilisation: codes in use", "Perplexity: codes in even use"],
        columns=2,
        row_height=280,
        column_gap=0.1,
    )
    deepest = max(len(one.utilisation) for one in health.values())
    for name, one in health.items():
        levels = np.arange(len(one.utilisation))
        shown = ((100 * np.asarray(one.utilisation), " %"), (np.asarray(one.perplexity), ""))
        for panel, (values, unit) in enumerate(shown):
            made.figure.add_bar(
                x=levels,
                y=values,
                name=label(name),
                legendgroup=label(name),
                showlegend=panel == 0,
                marker=styles[name].bar,
                customdata=np.column_stack([one.used, one.dead]),
                hovertemplate="%{y:.1f}" + unit + ", %{customdata[0]} used, %{customdata[1]} dead",
                **made.place(panel),
            )
        made.figure.update_xaxes(
            tickvals=list(range(deepest)), ticktext=[f"level {level + 1}" for level in range(deepest)]
        )
    made.figure.update_yaxes(ticksuffix=" %", range=[0, 102], title="share of codes", **made.place(0))
    made.figure.update_yaxes(rangemode="tozero", title="codes", **made.place(1))
    made.figure.update_layout(barmode="group", showlegend=True, bargap=0.2)
    rates = [one.collision_rate for one in health.values()]
    note = f"All {counted(n_items, 'item')}; " if n_items is not None else "All items; "
    note += f"ambiguous identifiers: {percent(min(rates))}"
    note += f" to {percent(max(rates))}" if min(rates) < max(rates) else ""
    note += " of the items"
    return finish_panels(made, _health_title(health), seeded(note, seed))


def shared_share(counts: IntArray) -> float:
    """The share of a level's used codes that two or more domains use; counts: (K, T)."""
    used_by = (counts > 0).sum(axis=1)
    return float((used_by > 1).sum() / max((used_by > 0).sum(), 1))


def _counts(
    codes: npt.ArrayLike, sizes: Sequence[int], domains: npt.ArrayLike
) -> tuple[tuple[str, ...], list[IntArray]]:
    """The domains, and for each level the (K, T) number of items that have a code, by domain."""
    sharing = domain_sharing(codes, np.asarray(domains).reshape(-1).tolist(), sizes)
    return sharing.domains, [table.T for table in sharing.counts]


def _shares_used_by(
    counts: Sequence[IntArray], used_by: int, of_items: bool
) -> tuple[npt.NDArray[np.float64], IntArray]:
    """By level, the share and the number of codes (or of items) whose code exactly `used_by` domains use."""
    chosen = [(table > 0).sum(axis=1) == used_by for table in counts]
    if of_items:
        numbers = np.array([table[mask].sum() for table, mask in zip(counts, chosen, strict=True)])
        return numbers / np.array([table.sum() for table in counts]), numbers
    numbers = np.array([mask.sum() for mask in chosen])
    return numbers / np.array([len(table) for table in counts]), numbers


def _level_title(level: int, counts: IntArray) -> str:
    dead = int((counts.sum(axis=1) == 0).sum())
    text = f"Level {level + 1}: {dead} of {len(counts)} dead"
    return text if counts.shape[1] == 1 else f"{text}, {percent(shared_share(counts))} shared"


def _dead_text(counts: Sequence[IntArray]) -> str:
    dead = sum(int((table.sum(axis=1) == 0).sum()) for table in counts)
    total = sum(len(table) for table in counts)
    return f"{dead:,} of {total:,} codes are dead"


def _sharing_title(counts: Sequence[IntArray]) -> str:
    if counts[0].shape[1] == 1:
        return f"One domain: {_dead_text(counts)}"
    shares = [shared_share(table) for table in counts]
    least, most = int(np.argmin(shares)), int(np.argmax(shares))
    if shares[least] < 0.2:
        text = f"Level {least + 1} separates the domains: {percent(shares[least])} of its codes are shared"
        return text if least == most else f"{text}, {percent(shares[most])} at level {most + 1}"
    if least == most:
        return f"Domains share {percent(shares[least])} of the codes" + (
            " at every level" if len(counts) > 1 else ""
        )
    return (
        f"Domains share codes at every level: from {percent(shares[least])} (level {least + 1}) "
        f"to {percent(shares[most])} (level {most + 1})"
    )


def _usage_title(counts: Sequence[IntArray]) -> str:
    if counts[0].shape[1] == 1:
        return _sharing_title(counts)
    return f"{_sharing_title(counts)}; {_dead_text(counts)}"


def _health_title(health: Mapping[str, HealthLike]) -> str:
    lowest = {name: min(one.utilisation) for name, one in health.items()}
    best = max(lowest, key=lambda name: lowest[name])
    worst = min(lowest, key=lambda name: lowest[name])
    if len(health) == 1 or lowest[best] == lowest[worst]:
        return f"Every level uses at least {percent(lowest[worst])} of its codes"
    return (
        f"{best} uses at least {percent(lowest[best])} of the codes of every level, "
        f"{worst} only {percent(lowest[worst])} of its poorest"
    )
