"""Two tokenizers on the same items: which code became which, how alike the levels are, who changed company.

Shapes: n items that both have, K and J codes of a level in the two, L levels that both have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
from scipy.optimize import linear_sum_assignment

from genrec_lab.codes import row_ids
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.flows import Overlap, adjusted_mutual, company_kept
from genrec_lab.viz.explorer.sentences import company_title, match_title, nothing_common_title
from genrec_lab.viz.layout import Panels, finish, panels
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.text import counted, label, noted, percent

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_MEASURES = (
    ("adjusted Rand index", "ari"),
    ("adjusted mutual information", "ami"),
    ("items in matched codes", "matched"),
)
_MOST_CODES = 64


@dataclass(frozen=True, eq=False)
class LevelMatch:
    """How the codes of one level of two tokenizers go together.

    table: (K, J) items with code k in the first and j in the second. pairs: frame `code_a, code_b, items,
    share_a, share_b, jaccard`, the one-to-one assignment with the most items in common, largest first;
    pairs without any common item are left out. matched: share of the items in matched pairs. ari, ami:
    adjusted Rand index and adjusted mutual information (arithmetic mean) of the two partitions.
    """

    level: int
    table: IntArray
    pairs: pl.DataFrame
    matched: float
    ari: float
    ami: float


class TwoTokenizers:
    """The items and levels that two catalogues have in common, and what can be said of them.

    items_a, items_b: (n,) the same items as each numbers them. levels: those that both have. left_out: in
    words, what could not be compared or differs in kind; empty where nothing does.
    """

    def __init__(self, a: CodedCatalogue, b: CodedCatalogue) -> None:
        self.a, self.b = a, b
        self.items_a, self.items_b = _common(a, b)
        self.levels = min(a.levels, b.levels)
        self.left_out = _left_out(a, b, self.items_a.size)

    @property
    def n_items(self) -> int:
        """How many items both have, n."""
        return int(self.items_a.size)

    def level(self, level: int) -> LevelMatch | None:
        """Match the codes of a level (0-based); None without a common item; ValueError for another level."""
        if not 0 <= level < self.levels:
            raise ValueError(f"level: {level}, expected 0..{self.levels - 1}, the levels that both have")
        if self.n_items == 0:
            return None
        one, other = self._codes[0][level], self._codes[1][level]
        return match_level(level, one, other, (self.a.codes.sizes[level], self.b.codes.sizes[level]))

    def changes(self, length: int, top: int = 20) -> pl.DataFrame:
        """The items whose company changed most: those that share `length` codes with them in each tokenizer.

        Frame `item_a, item_b, title, kept, company_a, company_b, common`, `kept` being the Jaccard index of
        the two sets of companions, least first, larger sets first; items that are alone in both come last.
        """
        kept, with_a, with_b, both = self.company(length)
        order = np.lexsort((self.items_a, -(with_a + with_b), kept))[:top]
        columns = {"item_a": self.items_a, "item_b": self.items_b, "kept": kept}
        columns |= {"company_a": with_a, "company_b": with_b, "common": both}
        frame = pl.DataFrame({name: values[order] for name, values in columns.items()})
        return frame.insert_column(2, self.a.titles.gather(frame["item_a"]))

    def company(self, length: int) -> tuple[FloatArray, IntArray, IntArray, IntArray]:
        """(n,) share of companions kept, companions in a, in b, and in both, under `length` equal codes."""
        if not 1 <= length <= self.levels:
            raise ValueError(f"length: {length}, expected 1..{self.levels} codes, which both have")
        one = self.a.order.group_numbers(length)[self.items_a]
        other = self.b.order.group_numbers(length)[self.items_b]
        both_ids = row_ids(np.column_stack([one, other]))
        groups = (one, other, both_ids)
        with_a, with_b, both = (np.bincount(ids)[ids] - 1 if ids.size else ids for ids in groups)
        union = with_a + with_b - both
        kept = np.where(union > 0, both / np.maximum(union, 1), 1.0)
        return kept, with_a, with_b, both

    def overlap(self, length: int) -> Overlap:
        """How much company was kept by the items that had any, corrected for chance."""
        _, with_a, with_b, both = self.company(length)
        return company_kept(with_a, with_b, both)

    def codes_of(self, level: int) -> tuple[IntArray, IntArray]:
        """(n,) the codes of a level (0-based) of the items that both have, in a and in b, for `flows`."""
        return self._codes[0][level], self._codes[1][level]

    @cached_property
    def _codes(self) -> list[IntArray]:
        pairs = ((self.a, self.items_a), (self.b, self.items_b))
        return [np.ascontiguousarray(one.codes.codes[items, : self.levels].T) for one, items in pairs]


def match_level(level: int, one: IntArray, other: IntArray, shape: tuple[int, int]) -> LevelMatch:
    """Match the codes (n,) of one level under two tokenizers with `shape` = (K, J) possible codes."""
    n_a, n_b = shape
    table = np.bincount(one * n_b + other, minlength=n_a * n_b).reshape(n_a, n_b)
    # Unused codes have nothing to match; the assignment is cubic, so they are left out of it.
    rows, columns = np.flatnonzero(table.any(axis=1)), np.flatnonzero(table.any(axis=0))
    used = table[np.ix_(rows, columns)]
    first, second = linear_sum_assignment(used, maximize=True)
    items = used[first, second]
    kept = items > 0
    first, second, items = first[kept], second[kept], items[kept]
    size_a, size_b = used.sum(axis=1)[first], used.sum(axis=0)[second]
    order = np.lexsort((rows[first], -items))
    found = {
        "code_a": rows[first],
        "code_b": columns[second],
        "items": items,
        "share_a": items / size_a,
        "share_b": items / size_b,
        "jaccard": items / (size_a + size_b - items),
    }
    pairs = pl.DataFrame({name: values[order] for name, values in found.items()})
    matched = float(items.sum() / table.sum())
    return LevelMatch(level, table, pairs, matched, adjusted_rand(used), adjusted_mutual(one, other))


def adjusted_rand(table: npt.ArrayLike) -> float:
    """The adjusted Rand index of two partitions from their contingency table (Hubert and Arabie 1985, Eq. 5).

    1 for equal partitions, about 0 for unrelated ones; 1 too where both are trivial in the same way.
    """
    counts = np.asarray(table, dtype=np.float64)
    total = counts.sum()
    pairs = (counts * (counts - 1)).sum() / 2
    in_rows = (counts.sum(axis=1) * (counts.sum(axis=1) - 1)).sum() / 2
    in_columns = (counts.sum(axis=0) * (counts.sum(axis=0) - 1)).sum() / 2
    all_pairs = total * (total - 1) / 2
    expected = in_rows * in_columns / all_pairs if all_pairs else 0.0
    most = (in_rows + in_columns) / 2
    return 1.0 if most == expected else float((pairs - expected) / (most - expected))


def _common(a: CodedCatalogue, b: CodedCatalogue) -> tuple[IntArray, IntArray]:
    """The items of equal domain and key, as both number them, in a's order."""
    if a.keys == b.keys and a.domains == b.domains:
        same = np.array_equal(a.codes.domain_index, b.codes.domain_index)
        if same and len(set(map(str, a.keys))) == a.n_items:
            return np.arange(a.n_items), np.arange(b.n_items)
    frames = [
        pl.DataFrame(
            {
                "domain": [one.domains[place] for place in one.codes.domain_index],
                "key": [str(key) for key in one.keys],
                name: np.arange(one.n_items),
            }
        ).unique(["domain", "key"], keep="none", maintain_order=True)
        for one, name in ((a, "a"), (b, "b"))
    ]
    joined = frames[0].join(frames[1], on=["domain", "key"], how="inner").sort("a")
    return joined["a"].to_numpy(), joined["b"].to_numpy()


def _left_out(a: CodedCatalogue, b: CodedCatalogue, common: int) -> list[str]:
    said = []
    for one in (a, b):
        if missing := one.n_items - common:
            said.append(f"{missing:,} of {one.n_items:,} items of {one.name} have no counterpart")
    if a.levels != b.levels:
        more, fewer = (a, b) if a.levels > b.levels else (b, a)
        first = fewer.levels + 1
        last = f"levels {first} to {more.levels}" if more.levels > first else f"level {first}"
        said.append(f"{last} of {more.name}: {fewer.name} has only {counted(fewer.levels, 'level')}")
    both = min(a.levels, b.levels)
    sizes_a, sizes_b = a.codes.sizes[:both], b.codes.sizes[:both]
    if sizes_a != sizes_b:
        of_a, of_b = (", ".join(map(str, sizes)) for sizes in (sizes_a, sizes_b))
        said.append(f"codes per level: {of_a} in {a.name}, {of_b} in {b.name}")
    return said


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
    titles = ["Agreement by level", f"Items by matched codes of level {level + 1}, share of the row"]
    made = panels(titles, columns=2, row_height=330, column_gap=0.13)
    levels = [match.level + 1 for match in matches]
    for name, field in _MEASURES:
        values = [float(getattr(match, field)) for match in matches]
        made.bars(0, values, "%{y:.3f}", name, at=levels)
    low = min(0.0, *(match.ari for match in matches))
    made.y(0, range=[1.1 * low, 1.03], title="1: the same, 0: chance")
    made.x(0, dtick=1, title="level")
    _add_table(made, matches[level], two)
    note = noted(
        f"{counted(two.n_items, 'item')} that both have",
        "codes matched one to one by common items (Hungarian)",
        company_title(two.overlap(level + 1), level + 1),
        f"they differ: {', '.join(two.left_out)}" if two.left_out else "",
    )
    layout = {"barmode": "group", "showlegend": True, "bargap": 0.25}
    return made.finish(match_title(matches, (two.a.name, two.b.name)), noted(note, seed=seed), **layout)


def changed_company(
    two: TwoTokenizers, *, length: int = 1, top: int = 12, seed: int | None = None
) -> go.Figure:
    """The items whose companions (items with the same first `length` codes) changed most, as a table."""
    if not two.n_items:
        return _nothing_common(two)
    rows = two.changes(length, top)
    note = f"{rows.height} of {counted(two.n_items, 'item')}, most changed first"
    counts = [[f"{count:,}" for count in rows[name]] for name in ("company_a", "company_b", "common")]
    return table_figure(
        company_title(two.overlap(length), length),
        noted(note, "kept: companions in both tokenizers, of those in either", seed=seed),
        ["title", "kept", f"companions in {two.a.name}", f"companions in {two.b.name}", "in both"],
        [rows["title"].to_list(), [percent(share) for share in rows["kept"].to_list()], *counts],
        widths=[4, 1, 2, 2, 1],
    )


def _add_table(made: Panels, match: LevelMatch, two: TwoTokenizers) -> None:
    shown = match.pairs.head(_MOST_CODES)
    rows, columns = shown["code_a"].to_numpy(), shown["code_b"].to_numpy()
    table = match.table[np.ix_(rows, columns)]
    share = 100 * table / np.maximum(match.table[rows].sum(axis=1), 1)[:, None]
    hover = "code %{customdata[0]} and code %{customdata[1]}: %{customdata[2]} items, "
    heatmap = go.Heatmap(
        z=np.where(table > 0, share, np.nan),
        customdata=np.stack(np.broadcast_arrays(rows[:, None], columns[None, :], table), axis=2),
        hovertemplate=hover + "%{z:.0f} % of the row<extra></extra>",
        colorscale="Viridis",
        zmin=0,
        zmax=100,
        colorbar={"ticksuffix": " %", "thickness": 12, "len": 1.0},
    )
    made.add(1, heatmap)
    for axis, codes, name in ((made.x, columns, two.b.name), (made.y, rows, two.a.name)):
        step = max(1, -(-len(codes) // 16))
        texts, title = [str(code) for code in codes[::step]], f"code in {label(name, 30)}"
        axis(1, tickvals=list(range(0, len(codes), step)), ticktext=texts, title=title, showgrid=False)
    made.y(1, autorange="reversed")


def _nothing_common(two: TwoTokenizers) -> go.Figure:
    figure = go.Figure()
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    title = nothing_common_title((two.a.name, two.b.name))
    return finish(figure, title, "Items are the same where domain and key are equal", plot_height=60)
