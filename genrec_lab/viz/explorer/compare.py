"""Comparison of two tokenizers on the same n items: how codes correspond, and agreement beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import polars as pl
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln

from genrec_lab.codes import row_ids
from genrec_lab.viz import IntArray, kept
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.layout import Panels, one_panel, panels
from genrec_lab.viz.sentences import ends, sentence
from genrec_lab.viz.text import counted, label, listed, percent

KEPT, MERGED, SPLIT, MOVED = "kept", "merged", "split", "moved"
_SPREAD, _TAIL = 8.0, 8
_MEASURES = {"adjusted Rand index": "ari", "adjusted mutual information": "ami"}
_MEASURES |= {"items in matched codes": "matched"}
_MOST_CODES = 64


@dataclass(frozen=True, eq=False)
class LevelMatch:
    """The correspondence of the codes of one level in two tokenizers.

    table: (K, J) items with code k in the first and j in the second. pairs: frame `code_a, code_b, items`,
    the one-to-one assignment with the most common items, largest first, without empty pairs. matched: share
    of the items in these pairs. ari, ami: adjusted Rand index and adjusted mutual information.
    """

    level: int
    table: IntArray
    pairs: pl.DataFrame
    matched: float
    ari: float
    ami: float


class Overlap(NamedTuple):
    """The companions (other items of the same group) that items keep from one partition to another.

    items: number of items with companions in either partition. kept: common companions divided by companions
    in either partition, each summed over items; NaN without any. chance: the same for a random second one.
    """

    items: int
    kept: float
    chance: float


class TwoTokenizers:
    """The items, (n,) indices in each catalogue, and levels that two catalogues have in common.

    left_out: descriptions of what could not be compared or differs in kind.
    """

    def __init__(self, a: CodedCatalogue, b: CodedCatalogue) -> None:
        self.a, self.b = a, b
        self.items_a, self.items_b = _common(a, b)
        self.n_items, self.levels = int(self.items_a.size), min(a.levels, b.levels)
        self.left_out = _left_out(a, b, self.items_a.size)

    @kept
    def level(self, level: int) -> LevelMatch:
        """Match the codes of a level (0-based); raises ValueError for other levels or no common items."""
        if not 0 <= level < self.levels:
            raise ValueError(f"level: {level}, expected 0..{self.levels - 1}, the levels that both have")
        if self.n_items == 0:
            raise ValueError(f"{self.a.name} and {self.b.name} have no item in common")
        one, other = self.codes_of(level)
        n_a, n_b = self.a.codes.sizes[level], self.b.codes.sizes[level]
        table = np.bincount(one * n_b + other, minlength=n_a * n_b).reshape(n_a, n_b)
        # Unused codes have nothing to match. They are left out because the assignment takes cubic time.
        rows, columns = np.flatnonzero(table.any(axis=1)), np.flatnonzero(table.any(axis=0))
        used = table[np.ix_(rows, columns)]
        first, second = linear_sum_assignment(used, maximize=True)
        found = {"code_a": rows[first], "code_b": columns[second], "items": used[first, second]}
        pairs = pl.DataFrame(found).filter(pl.col("items") > 0)
        pairs = pairs.sort("items", "code_a", descending=[True, False])
        matched = float(used[first, second].sum() / table.sum())
        return LevelMatch(level, table, pairs, matched, adjusted_rand(used), adjusted_mutual(one, other))

    @kept
    def company(self, length: int) -> Overlap:
        """Return the companions that the items keep: other items with the same first `length` codes.

        By chance, n items have sum(a) sum(b) / (n (n - 1)) common companions: the expectation over all
        permutations of the groups of b.
        """
        one = self.a.order.group_numbers(length)[self.items_a]
        other = self.b.order.group_numbers(length)[self.items_b]
        groups = (one, other, row_ids(np.column_stack([one, other])))
        with_a, with_b, both = (np.bincount(ids)[ids] - 1 if ids.size else ids for ids in groups)
        had = int((with_a + with_b > 0).sum())
        if not had:
            return Overlap(0, float("nan"), float("nan"))
        total_a, total_b = int(with_a.sum()), int(with_b.sum())
        expected = total_a * total_b / (self.n_items * (self.n_items - 1))
        same, chance = (part / (total_a + total_b - part) for part in (int(both.sum()), expected))
        return Overlap(had, same, chance)

    def codes_of(self, level: int) -> tuple[IntArray, IntArray]:
        """Return the common items' codes of a level (0-based) in a and in b, (n,) each, for `flows`."""
        return self.a.codes.codes[self.items_a, level], self.b.codes.codes[self.items_b, level]


def _common(a: CodedCatalogue, b: CodedCatalogue) -> tuple[IntArray, IntArray]:
    """Return the indices in a and in b of items with equal domain and key, in a's order."""
    same_domains = a.domains == b.domains and np.array_equal(a.codes.domain_index, b.codes.domain_index)
    same_keys = a.keys is b.keys or (a.keys == b.keys and len(set(map(str, a.keys))) == a.n_items)
    if same_domains and same_keys:  # the same object: two epochs of one tokenizer
        return np.arange(a.n_items), np.arange(a.n_items)
    frames = []
    for one, name in ((a, "a"), (b, "b")):
        domain, keys = [one.domains[place] for place in one.codes.domain_index], list(map(str, one.keys))
        frame = pl.DataFrame({"domain": domain, "key": keys, name: np.arange(one.n_items)})
        frames.append(frame.unique(["domain", "key"], keep="none"))
    joined = frames[0].join(frames[1], on=["domain", "key"]).sort("a")
    return joined["a"].to_numpy(), joined["b"].to_numpy()


def _left_out(a: CodedCatalogue, b: CodedCatalogue, common: int) -> list[str]:
    said = []
    for one in (a, b):
        if missing := one.n_items - common:
            said.append(f"{missing:,} of {one.n_items:,} items of {one.name} have no counterpart")
    fewer, more = sorted((a, b), key=lambda one: one.levels)
    first = fewer.levels + 1
    if more.levels >= first:
        last = f"levels {first} to {more.levels}" if more.levels > first else f"level {first}"
        said.append(f"{last} of {more.name}: {fewer.name} has only {counted(fewer.levels, 'level')}")
    of_a, of_b = (", ".join(map(str, one.codes.sizes[: fewer.levels])) for one in (a, b))
    if of_a != of_b:
        said.append(f"codes per level: {of_a} in {a.name}, {of_b} in {b.name}")
    return said


def flows(before: ArrayLike, after: ArrayLike) -> pl.DataFrame:
    """Return the number of items that changed from one code to another, largest first.

    before, after: (n,) codes of the same items. Frame `code_a, code_b, items, share_a` (of the items of a),
    `share_b`, `expected` (items if codes were assigned at random), `lift` (items divided by expected).
    """
    one, other = (np.asarray(codes, dtype=np.int64) for codes in (before, after))
    pairs, found = np.unique(one * (other.max(initial=0) + 1) + other, return_counts=True)
    code_a, code_b = np.divmod(pairs, other.max(initial=0) + 1)
    counts = pl.DataFrame({"code_a": code_a, "code_b": code_b, "items": found})
    of_a, of_b = pl.Series(np.bincount(one)[code_a]), pl.Series(np.bincount(other)[code_b])
    items, by_lot = pl.col("items"), of_a * of_b / max(one.size, 1)
    shares = {"share_a": items / of_a, "share_b": items / of_b}
    counts = counts.with_columns(**shares, expected=by_lot, lift=items / by_lot)
    return counts.sort("items", "code_a", "code_b", descending=[True, False, False])


def fates(went: pl.DataFrame) -> pl.DataFrame:
    """Return what became of each code that had items; went: frame of `flows`.

    Half means at least half. "kept": half of its items are in one new code, and half of that code's items
    come from it. "merged": half of its items are in one new code, but most of that code's items come from
    elsewhere. "split": half of its items are in several new codes where half of the items come from this
    code. "moved": none of these. Frame `code_a, items, fate, code_b` (the code with most of its items; ties
    go to the lower code), `share` (of its items there), `pieces` (new codes where half of the items come from
    this code), most items first.
    """
    half_a, half_b = pl.col("share_a") >= 0.5, pl.col("share_b") >= 0.5
    made_of_it = pl.col("share_a").filter(half_b).sum()
    alone = pl.when((half_a & half_b).any()).then(pl.lit(KEPT)).when(half_a.any()).then(pl.lit(MERGED))
    fate = alone.when(made_of_it >= 0.5 - 1e-12).then(pl.lit(SPLIT)).otherwise(pl.lit(MOVED))
    codes = went.group_by("code_a", maintain_order=True).agg(
        pl.col("items").sum(),
        fate.alias("fate"),
        pl.col("code_b").first(),
        share=pl.col("share_a").first(),
        pieces=half_b.sum().cast(pl.Int64),
    )
    return codes.sort("items", "code_a", descending=[True, False])


def adjusted_rand(table: IntArray) -> float:
    """Return the adjusted Rand index of two partitions from the table of their common items (K, J).

    It is 0 on average for unrelated partitions, and 1 for equal ones (Hubert and Arabie 1985).
    """
    of_a, of_b = table.sum(axis=1), table.sum(axis=0)
    together, in_a, in_b, every = (float((n * (n - 1) / 2).sum()) for n in (table, of_a, of_b, of_a.sum()))
    if together == in_a == in_b:
        return 1.0
    by_lot = in_a * in_b / every
    return (together - by_lot) / ((in_a + in_b) / 2 - by_lot)


def adjusted_mutual(before: ArrayLike, after: ArrayLike) -> float:
    """Return the adjusted mutual information of two partitions (n,), with mean entropy (Vinh et al. 2010).

    It is 0 on average for unrelated partitions of any sizes, and 1 for equal ones, including two trivial
    ones. The value is that of scikit-learn, computed about 100 times faster at 100,000 items.
    """
    rows, columns = (np.unique(np.asarray(part), return_counts=True)[1] for part in (before, after))
    n = int(rows.sum())
    if len(rows) == len(columns) in (1, n):
        return 1.0
    together = flows(before, after)
    information = float((together["items"] * together["lift"].log()).sum()) / n
    expected = _expected_information(rows, columns, n)
    space = sum(-(part / n * np.log(part / n)).sum() for part in (rows, columns)) / 2 - expected
    # The same convention as scikit-learn if nothing is left to explain.
    space = np.copysign(max(abs(space), np.finfo(float).eps), space)
    return float((information - expected) / space)


def _expected_information(rows: IntArray, columns: IntArray, n: int) -> float:
    """Return the expected mutual information if one of the partitions is assigned at random (hypergeometric).

    Equal sizes are computed once, from counts within 8 standard deviations plus 8 of a cell's mean.
    """
    size_a, times_a = np.unique(rows, return_counts=True)
    size_b, times_b = np.unique(columns, return_counts=True)
    a, b = (part.reshape(-1) for part in np.meshgrid(size_a, size_b, indexing="ij"))
    times = np.outer(times_a, times_b).reshape(-1)
    mean = a * b / n
    reach = _SPREAD * np.sqrt(mean * (1 - a / n) * (1 - b / n) * n / max(n - 1, 1)) + _TAIL
    low = np.maximum(np.floor(mean - reach).astype(np.int64), np.maximum(1, a + b - n))
    high = np.minimum(np.ceil(mean + reach).astype(np.int64), np.minimum(a, b))
    lengths = np.maximum(high - low + 1, 0)
    cell = np.repeat(np.arange(len(a)), lengths)
    count = np.arange(len(cell)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + low[cell]
    logs = gammaln(np.arange(n + 1) + 1.0)
    fixed = logs[a] + logs[b] + logs[n - a] + logs[n - b] - logs[n]
    of_count = logs[count] + logs[a[cell] - count] + logs[b[cell] - count]
    chance = np.exp(fixed[cell] - of_count - logs[n - a[cell] - b[cell] + count])
    information = count / n * (np.log(count) - np.log(mean)[cell])
    return float((times[cell] * chance * information).sum())


@sentence
def match_title(matches: Sequence[LevelMatch], names: tuple[str, str]) -> str:
    """State at which level two tokenizers agree most beyond chance, by adjusted mutual information."""
    both, values = f"{listed(names[:1])} and {listed(names[1:])}", [match.ami for match in matches]
    if all(match.ari == 1 for match in matches):
        return f"{both} group the items alike at every level"
    between = ends([round(value, 2) for value in values])
    if between is None:
        where = "every level" if len(values) > 1 else "the one level"
        return f"{both} agree by AMI {values[0]:.2f} at {where}"
    low, high = between
    first, last = (f"{values[place]:.2f} at level {matches[place].level + 1}" for place in (high, low))
    return f"{both} agree by AMI {first}, {last} (0: chance, 1: the same groups)"


@sentence
def company_title(overlap: Overlap, length: int) -> str:
    """State the share of companions that items keep, compared with chance."""
    prefix = "code" if length == 1 else f"{length} codes"
    if overlap.items == 0:
        return f"No item shares its first {prefix} with another one in either tokenizer"
    return (
        f"{percent(overlap.kept)} of the companions under the first {prefix} are the same in both, by chance "
        f"{percent(overlap.chance)} ({counted(overlap.items, 'item')} with company)"
    )


@sentence
def nothing_common_title(names: tuple[str, str]) -> str:
    """State that two tokenizers have no common items."""
    return f"{listed(names[:1])} and {listed(names[1:])} have no item in common"


def tokenizer_match(two: TwoTokenizers, *, level: int = 0) -> go.Figure:
    """Draw how similar two tokenizers are at each level, and how the codes of one level correspond.

    The heatmap has at most 64 matched codes of `level` (0-based) in the order of their common items. Cells
    off the diagonal are items that went to other codes. Raises ValueError for a level that one lacks.
    """
    if not two.n_items:
        made = one_panel(60)
        made.x(visible=False)
        made.y(visible=False)
        title = nothing_common_title((two.a.name, two.b.name))
        return made.finish(title, "Items are the same where domain and key are equal")
    chosen, matches = two.level(level), [two.level(place) for place in range(two.levels)]
    titles = ["Agreement by level", f"Items by matched codes of level {level + 1}, share of the row"]
    made = panels(titles, columns=2, row_height=330, column_gap=0.13)
    levels = [match.level + 1 for match in matches]
    for name, field in _MEASURES.items():
        made.bars(0, [float(getattr(match, field)) for match in matches], "%{y:.3f}", name, at=levels)
    low = min(0.0, *(match.ari for match in matches))
    made.y(0, range=[1.1 * low, 1.03], title="1: the same, 0: chance")
    made.x(0, dtick=1, title="level")
    _add_table(made, chosen, two)
    return made.finish(
        match_title(matches, (two.a.name, two.b.name)),
        f"{counted(two.n_items, 'item')} that both have",
        "codes matched one to one by common items (Hungarian)",
        company_title(two.company(level + 1), level + 1),
        f"they differ: {', '.join(two.left_out)}" if two.left_out else "",
        barmode="group",
        showlegend=True,
        bargap=0.25,
    )


def _add_table(made: Panels, match: LevelMatch, two: TwoTokenizers) -> None:
    shown = match.pairs.head(_MOST_CODES)
    rows, columns = shown["code_a"].to_numpy(), shown["code_b"].to_numpy()
    table = match.table[np.ix_(rows, columns)]
    share = 100 * table / np.maximum(match.table[rows].sum(axis=1), 1)[:, None]
    hover = "code %{customdata[0]} and code %{customdata[1]}: %{customdata[2]} items, "
    hover += "%{z:.0f} % of the row<extra></extra>"
    custom = np.stack(np.broadcast_arrays(rows[:, None], columns[None, :], table), axis=2)
    look = {"colorbar": {"ticksuffix": " %", "thickness": 12, "len": 1.0}, "zmin": 0, "zmax": 100}
    z = np.where(table > 0, share, np.nan)
    made.add(1, go.Heatmap(z=z, customdata=custom, hovertemplate=hover, colorscale="Viridis", **look))
    for axis, codes, name in ((made.x, columns, two.b.name), (made.y, rows, two.a.name)):
        step = max(1, -(-len(codes) // 16))
        texts, title = [str(code) for code in codes[::step]], f"code in {label(name, 30)}"
        axis(1, tickvals=list(range(0, len(codes), step)), ticktext=texts, title=title, showgrid=False)
    made.y(1, autorange="reversed")
