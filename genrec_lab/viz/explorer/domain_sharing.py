"""How domains share codes, and whether items with a longer common prefix are more alike.

Shapes: N items, L levels, K codes of a level, T domains, P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
from scipy.stats import rankdata

from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.prefixes import PrefixOrder
from genrec_lab.viz.explorer.sentences import lift_title, similarity_title
from genrec_lab.viz.layout import interval, lean_heatmap, numbered_axis, one_panel
from genrec_lab.viz.text import code_label, counted, label, noted

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_PAIRS = 4_000
# Lifts are drawn on a scale of doublings; beyond eight times, or an eighth, the colour stays.
_MOST_DOUBLINGS = 3
_DOUBLINGS = dict(enumerate(("≤ ⅛ or none", "¼", "½", "1", "2", "4", "≥ 8"), start=-_MOST_DOUBLINGS))


@dataclass(frozen=True, eq=False)
class LevelSharing:
    """Who uses the codes of one level, or of one level below a prefix.

    items: (T, K) items of each domain with each code. lift: (T, K), the share of a domain's items that have a
    code over the share of all items that have it: 1 where a code takes no side, T at most where all domains
    are of one size and the code is one domain's own, 0 where the domain does not have it, NaN for unused
    codes and for domains without items. used_by: (T + 1,) codes that exactly 0, 1, …, T domains use.
    """

    level: int
    domains: tuple[str, ...]
    items: IntArray
    lift: FloatArray
    used_by: IntArray

    @property
    def shared(self) -> float:
        """The share of the used codes that two or more domains use; 0 where no code is used."""
        return float(self.used_by[2:].sum() / max(int(self.used_by[1:].sum()), 1))

    def order(self) -> IntArray:
        """Return the used codes by what they mean: by the domain that they lean to, its strongest first."""
        used = np.flatnonzero(self.items.sum(axis=0))
        lift = np.nan_to_num(self.lift[:, used], nan=-1.0)
        order: IntArray = used[np.lexsort((used, -lift.max(axis=0), lift.argmax(axis=0)))]
        return order

    def frame(self) -> pl.DataFrame:
        """One row a code and domain: `level` (from 1), `code`, `domain`, `items`, `lift`."""
        n_domains, n_codes = self.items.shape
        columns = {
            "level": np.full(n_domains * n_codes, self.level + 1),
            "code": np.repeat(np.arange(n_codes), n_domains),
            "domain": list(self.domains) * n_codes,
            "items": self.items.T.reshape(-1),
            "lift": pl.Series(self.lift.T.reshape(-1)).fill_nan(None),
        }
        return pl.DataFrame(columns)


def level_sharing(catalogue: CodedCatalogue, level: int, among: IntArray | None = None) -> LevelSharing:
    """Who uses the codes of a level (0-based), under any prefix; raises ValueError for no such level.

    among: the items that count, all by default.
    """
    sizes = catalogue.codes.sizes
    if not 0 <= level < len(sizes):
        raise ValueError(f"level: {level}, expected 0..{len(sizes) - 1}")
    n_domains, chosen = len(catalogue.domains), slice(None) if among is None else among
    cells = catalogue.codes.domain_index[chosen] * sizes[level] + catalogue.codes.codes[chosen, level]
    items = np.bincount(cells, minlength=n_domains * sizes[level]).reshape(n_domains, sizes[level])
    of_domain, of_code = items.sum(axis=1), items.sum(axis=0)
    expected = of_domain[:, None] * of_code[None, :] / max(int(items.sum()), 1)
    with np.errstate(invalid="ignore"):
        lift = items / np.where(expected > 0, expected, np.nan)
    used_by = np.bincount((items > 0).sum(axis=0), minlength=n_domains + 1)
    return LevelSharing(level, catalogue.domains, items, lift, used_by)


@dataclass(frozen=True, eq=False)
class PairSimilarity:
    """Common prefix against cosine similarity of the content vectors, over sampled pairs of items.

    rho: Spearman's correlation over `pairs` pairs drawn from all pairs alike, NaN where one of the two never
    varies. frame: a row a number of common codes 0..L: `common`, `group` ("same domain", "two domains"),
    `pairs`, `mean`, `low`, `high` (quartiles), from pairs drawn anew among those with exactly that many.
    """

    rho: float
    pairs: int
    seed: int
    frame: pl.DataFrame


def pair_similarity(
    catalogue: CodedCatalogue, pairs: int = _PAIRS, seed: int | None = None
) -> PairSimilarity | None:
    """Compare common prefixes with cosine similarity; None where there are no vectors or fewer than 2 items.

    pairs: drawn for rho, and again for each number of common codes, with replacement.
    """
    if catalogue.vectors is None or catalogue.n_items < 2:
        return None
    seed = catalogue.seed if seed is None else seed
    generator = np.random.default_rng(seed)
    first, second = _any_pairs(catalogue.n_items, pairs, generator)
    common = common_codes(catalogue, first, second)
    rho = spearman(common, cosine(catalogue.vectors, first, second))
    rows = []
    for length in range(catalogue.levels + 1):
        one, other = pairs_below(catalogue.order, length, pairs, generator)
        exact = common_codes(catalogue, one, other) == length
        one, other = one[exact], other[exact]
        alike = cosine(catalogue.vectors, one, other)
        same = catalogue.codes.domain_index[one] == catalogue.codes.domain_index[other]
        for name, chosen in (("same domain", same), ("two domains", ~same)):
            if chosen.any():
                low, middle, high = np.quantile(alike[chosen], [0.25, 0.5, 0.75])
                mean = float(alike[chosen].mean())
                rows.append((length, name, int(chosen.sum()), mean, float(low), float(middle), float(high)))
    columns = {"common": pl.Int64, "group": pl.String, "pairs": pl.Int64}
    columns |= dict.fromkeys(("mean", "low", "median", "high"), pl.Float64)
    return PairSimilarity(rho, len(first), seed, pl.DataFrame(rows, schema=columns, orient="row"))


def common_codes(catalogue: CodedCatalogue, first: IntArray, second: IntArray) -> IntArray:
    """(P,) how many codes from level 0 on the two items of each pair have in common."""
    equal = catalogue.codes.codes[first] == catalogue.codes.codes[second]
    lengths: IntArray = np.logical_and.accumulate(equal, axis=1).sum(axis=1)
    return lengths


def cosine(vectors: npt.NDArray[np.float32], first: IntArray, second: IntArray) -> FloatArray:
    """(P,) cosine similarity of pairs of vectors; 0 where one of them is zero."""
    one, other = vectors[first], vectors[second]
    # In float32, which is what the vectors are: the same sums in float64 take four times as long.
    dots, squares, others = (
        np.einsum("pd,pd->p", *pair).astype(np.float64) for pair in ((one, other), (one, one), (other, other))
    )
    norms = np.sqrt(squares * others)
    similarity: FloatArray = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    return similarity


def spearman(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Spearman's rho with average ranks of ties; NaN where one of the two never varies."""
    first, second = rankdata(one), rankdata(other)
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / scale) if scale > 0 else float("nan")


def pairs_below(
    order: PrefixOrder, length: int, pairs: int, generator: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw pairs of items that have the first `length` codes in common, every such pair being as likely.

    Two arrays of items, empty where no two items have so many codes in common.
    """
    n_items = len(order.items)
    borders = np.array([0, n_items]) if length == 0 else order.starts[length - 1]
    sizes = np.diff(borders).astype(np.float64)
    # A group of n items holds n (n - 1) ordered pairs, so that is how often it must be drawn.
    sums = np.cumsum(sizes * (sizes - 1))
    if not sums.size or sums[-1] == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    group = np.searchsorted(sums, generator.random(pairs) * sums[-1], side="right")
    low, count = borders[group], np.diff(borders)[group]
    one = generator.integers(0, count)
    other = generator.integers(0, count - 1)
    other += other >= one
    return order.items[low + one], order.items[low + other]


def _any_pairs(n_items: int, pairs: int, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    one = generator.integers(0, n_items, size=pairs)
    other = generator.integers(0, n_items - 1, size=pairs)
    return one, other + (other >= one)


def domain_lift(
    sharing: LevelSharing, labels: Mapping[int, Sequence[str]] | None = None, *, seed: int | None = None
) -> go.Figure:
    """Domain against code: how much more often a domain's items have a code than items at large do.

    Used codes stand by the domain that they lean to, its strongest first. labels: by code, the words that
    describe it. A lift of 2 is twice as often; colours end at 8 and 1/8, and a domain that does not have a
    code has the colour of the lower end.
    """
    order = sharing.order()
    lift, items = sharing.lift[:, order], sharing.items[:, order]
    with np.errstate(divide="ignore"):
        doublings = np.maximum(np.log2(lift), -_MOST_DOUBLINGS)
    names = [code_label(code, (labels or {}).get(code, ()), 40) for code in order.tolist()]
    hover = np.array([
        [f"{label(domain)}, code {name}: lift {lift[row, at]:.2f}, {counted(int(items[row, at]), 'item')}"
         for at, name in enumerate(names)]
        for row, domain in enumerate(sharing.domains)
    ], dtype=object)  # fmt: skip
    made = one_panel(max(46 * len(sharing.domains), 170))
    gaps = {"ygap": 2, "xgap": 0.5 if len(order) <= 128 else 0}
    heat = lean_heatmap(doublings, _MOST_DOUBLINGS, _DOUBLINGS, "%{text}<extra></extra>", text=hover, **gaps)
    heat.colorbar.title = {"text": "lift", "side": "top"}
    made.add(0, heat)
    step = max(1, -(-len(order) // 24))
    ticks = numbered_axis([str(code) for code in order])
    ticks = {name: values[::step] for name, values in ticks.items()}
    axis = f"used codes of level {sharing.level + 1}, by the domain that they lean to"
    made.x(title=axis, showgrid=False, tickangle=0, **ticks)
    made.y(**numbered_axis(sharing.domains, 24), autorange="reversed", showgrid=False)
    dead = sharing.items.shape[1] - len(order)
    note = noted(
        counted(int(sharing.items.sum()), "item"),
        f"{counted(dead, 'dead code')} not shown" if dead else "",
        "lift 1: as often in the domain as overall",
        seed=seed,
    )
    return made.finish(lift_title(sharing), note)


def similarity_by_prefix(pairs: PairSimilarity, levels: int) -> go.Figure:
    """Cosine similarity of pairs of items by the number of codes that they share from the first on.

    Points are means, whiskers the middle half of the pairs; pairs of one domain and of two stand apart.
    """
    groups = pairs.frame["group"].unique(maintain_order=True).to_list()
    made = one_panel(300)
    for place, name in enumerate(groups):
        rows = pairs.frame.filter(pl.col("group") == name)
        mean, low, high = (rows[column].to_numpy() for column in ("mean", "low", "high"))
        made.line(
            0,
            rows["common"].to_numpy() + 0.08 * (place - (len(groups) - 1) / 2),
            mean,
            name,
            "mean %{y:.3f} of %{customdata:,} pairs",
            size=9,
            error_y=interval(mean, low, high, thickness=1.4),
            customdata=rows["pairs"].to_numpy(),
        )
    made.x(tickvals=list(range(levels + 1)), range=[-0.4, levels + 0.4], title="codes in common")
    made.y(title="cosine similarity of the texts")
    note = noted(
        f"Up to {counted(pairs.pairs, 'pair')} drawn for each number of common codes",
        "whiskers: their middle half",
        seed=pairs.seed,
    )
    return made.finish(similarity_title(pairs), note, showlegend=len(groups) > 1)
