"""Figures of two tokenizers on the same items: how alike they are, and which items changed company."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from genrec_lab.viz.explorer.matching import LevelMatch, TwoTokenizers
from genrec_lab.viz.layout import counted, finish, finish_panels, label, listed, panels, percent, seeded
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.theme import category_styles

_MEASURES = (
    ("adjusted Rand index", "ari"),
    ("normalised mutual information", "nmi"),
    ("items in matched codes", "matched"),
)
_MOST_CODES = 64


def tokenizer_match(two: TwoTokenizers, *, level: int = 0, seed: int | None = None) -> go.Figure:
    """How alike two tokenizers are at each level, and the codes of one level beside their counterparts.

    The heatmap has the matched codes of `level` (0-based) in the order of their common items, at most 64 of
    them: what lies off the diagonal went to other codes. Raises ValueError for a level that not both have.
    """
    matches = [match for place in range(two.levels) if (match := two.level(place)) is not None]
    if not matches:
        return _nothing_common(two)
    if not 0 <= level < two.levels:
        raise ValueError(f"level: {level}, expected 0..{two.levels - 1}, the levels that both have")
    chosen = matches[level]
    made = panels(
        ["Agreement by level", f"Items by matched codes of level {level + 1}, share of the row"],
        columns=2,
        row_height=330,
        column_gap=0.13,
    )
    styles = category_styles([name for name, _ in _MEASURES])
    for name, field in _MEASURES:
        values = [float(getattr(match, field)) for match in matches]
        made.figure.add_bar(
            x=[match.level + 1 for match in matches],
            y=values,
            name=name,
            marker=styles[name].bar,
            hovertemplate="%{y:.3f}",
            **made.place(0),
        )
    low = min(0.0, *(match.ari for match in matches))
    made.figure.update_yaxes(range=[1.1 * low, 1.03], title="1: the same, 0: unrelated", **made.place(0))
    made.figure.update_xaxes(dtick=1, title="level", **made.place(0))
    _add_table(made.figure, chosen, two, made.place(1))
    made.figure.update_layout(barmode="group", showlegend=True, bargap=0.25)
    note = (
        f"{counted(two.n_items, 'item')} that both have; codes matched one to one by common items (Hungarian)"
    )
    note += f". They differ: {'; '.join(two.left_out)}" if two.left_out else ""
    return finish_panels(made, _title(matches, two), seeded(note, seed))


def changed_company(
    two: TwoTokenizers, *, length: int = 1, top: int = 12, seed: int | None = None
) -> go.Figure:
    """The items whose companions (items with the same first `length` codes) changed most, as a table."""
    if not two.n_items:
        return _nothing_common(two)
    kept = two.company(length)[0]
    rows = two.changes(length, top)
    prefix = "code" if length == 1 else f"{length} codes"
    title = f"Items keep {percent(float(kept.mean()))} of their company under the first {prefix}, on average"
    note = f"{rows.height} of {counted(two.n_items, 'item')}, most changed first; kept: companions in both "
    note += "tokenizers, of those in either"
    return table_figure(
        title,
        seeded(note, seed),
        ["title", "kept", f"companions in {two.a.name}", f"companions in {two.b.name}", "in both"],
        [
            rows["title"].to_list(),
            [percent(share) for share in rows["kept"].to_list()],
            *(
                [f"{count:,}" for count in rows[name].to_list()]
                for name in ("company_a", "company_b", "common")
            ),
        ],
        widths=[4, 1, 2, 2, 1],
    )


def _add_table(figure: go.Figure, match: LevelMatch, two: TwoTokenizers, place: dict[str, int]) -> None:
    shown = match.pairs.head(_MOST_CODES)
    rows, columns = shown["code_a"].to_numpy(), shown["code_b"].to_numpy()
    table = match.table[np.ix_(rows, columns)]
    share = 100 * table / np.maximum(match.table[rows].sum(axis=1), 1)[:, None]
    figure.add_heatmap(
        z=np.where(table > 0, share, np.nan),
        customdata=np.stack(np.broadcast_arrays(rows[:, None], columns[None, :], table), axis=2),
        hovertemplate="code %{customdata[0]} and code %{customdata[1]}: %{customdata[2]} items, "
        "%{z:.0f} % of the row<extra></extra>",
        colorscale="Viridis",
        zmin=0,
        zmax=100,
        colorbar={"ticksuffix": " %", "thickness": 12, "len": 1.0},
        **place,
    )
    sides = ((figure.update_xaxes, columns, two.b.name), (figure.update_yaxes, rows, two.a.name))
    for update, codes, name in sides:
        step = max(1, -(-len(codes) // 16))
        update(
            tickvals=list(range(0, len(codes), step)),
            ticktext=[str(code) for code in codes[::step]],
            title=f"code in {label(name, 30)}",
            showgrid=False,
            **place,
        )
    figure.update_yaxes(autorange="reversed", **place)


def _nothing_common(two: TwoTokenizers) -> go.Figure:
    figure = go.Figure()
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    title = f"{listed([two.a.name])} and {listed([two.b.name])} have no item in common"
    return finish(figure, title, "Items are the same where domain and key are equal", plot_height=60)


def _title(matches: list[LevelMatch], two: TwoTokenizers) -> str:
    best = max(matches, key=lambda match: match.nmi)
    names = f"{listed([two.a.name])} and {listed([two.b.name])}"
    if all(match.ari > 0.999 for match in matches):
        return f"{names} part the items alike at every level"
    return (
        f"{names} agree most at level {best.level + 1}: {percent(best.matched)} of the items have "
        f"matched codes (ARI {best.ari:.2f})"
    )
