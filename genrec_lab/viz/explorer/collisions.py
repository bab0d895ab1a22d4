"""Items that their codes cannot tell apart, and what each conflict policy would do to them.

Shapes: N items, G ambiguous identifiers, n items of one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.codes import CONFLICT_POLICIES, CodesError, ItemCodes, Resolution
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.domain_sharing import cosine
from genrec_lab.viz.explorer.sentences import group_title
from genrec_lab.viz.explorer.words import stretches
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.text import counted, noted, written

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

_MOST_INSIDE = 60
"""Items of a group whose distances to one another are measured; a larger group shows its first ones."""
# By policy, the most items under one prefix for which it is tried: each takes about 0.1 s for so many.
_MOST_MOVED = {"nearest_free": 2_000, "optimal": 1_000, "sinkhorn": 30}
_MOST_ROWS = 14
_SHOWN = {
    "nearest_free": "nearest free",
    "optimal": "optimal",
    "sinkhorn": "Sinkhorn",
    "extra_level": "extra level",
}


@dataclass(frozen=True, eq=False)
class Collisions:
    """The identifiers that two or more items of one domain have, largest group first, then by codes.

    starts, sizes: (G,) where a group begins in `items`, and how many it has. items: by group, in each by
    index. prefix: below which this was asked.
    """

    catalogue: CodedCatalogue
    prefix: tuple[int, ...]
    starts: IntArray
    sizes: IntArray
    items: IntArray

    @property
    def ambiguous(self) -> int:
        """How many items share their identifier with another one."""
        return int(self.sizes.sum())

    def group(self, place: int) -> IntArray:
        """The items of a group by its place in the order of size; raises ValueError where there is none."""
        if not 0 <= place < self.sizes.size:
            raise ValueError(f"group {place}: there are {self.sizes.size} ambiguous identifiers, from 0")
        return np.sort(self.items[self.starts[place] : self.starts[place] + self.sizes[place]])

    def among(self, items: IntArray) -> Collisions:
        """Return the groups of which at least one of these items is a member."""
        by_start = np.argsort(self.starts)
        group = np.repeat(by_start, self.sizes[by_start])
        kept = np.zeros(self.sizes.size, dtype=bool)
        kept[group[np.isin(self.items, items)]] = True
        sizes = np.where(kept, self.sizes, 0)[by_start]
        starts = np.empty_like(self.starts)
        starts[by_start] = np.cumsum(sizes) - sizes
        return Collisions(
            self.catalogue, self.prefix, starts[kept], self.sizes[kept], self.items[kept[group]]
        )

    def frame(self, most: int | None = None) -> pl.DataFrame:
        """One row an identifier: `identifier`, `domain`, `items`, `interactions`, `first_title`."""
        kept = slice(None) if most is None else slice(most)
        starts, sizes = self.starts[kept], self.sizes[kept]
        firsts, codes = self.items[starts], self.catalogue.codes
        traffic = self.catalogue.traffic[self.items]
        sums = np.concatenate([[0], np.cumsum(traffic)])
        texts = [written(row) for row in codes.codes[firsts].tolist()]
        domains = [self.catalogue.domains[place] for place in codes.domain_index[firsts]]
        columns = {
            "identifier": pl.Series(texts, dtype=pl.String),
            "domain": pl.Series(domains, dtype=pl.String),
            "items": sizes,
            "interactions": sums[starts + sizes] - sums[starts],
            "first_title": self.catalogue.titles.gather(firsts),
        }
        return pl.DataFrame(columns)


def collisions(
    catalogue: CodedCatalogue, prefix: tuple[int, ...] = (), domain: str | None = None
) -> Collisions:
    """The ambiguous identifiers below a prefix, in one domain or in each."""
    order, number = catalogue.order, catalogue.domain_number(domain)
    low, high = order.span(prefix)
    borders = order.starts[-1]
    lengths = np.diff(borders)
    # Only identifiers of several items can be ambiguous; those are split by domain.
    several = np.flatnonzero((lengths > 1) & (borders[:-1] >= low) & (borders[:-1] < high))
    places = stretches(borders[several], lengths[several])
    group = np.repeat(np.arange(several.size), lengths[several])
    n_domains = len(catalogue.domains)
    cell = group * n_domains + order.domain_index[places]
    counts = np.bincount(cell, minlength=several.size * n_domains)
    wanted = counts > 1
    if number is not None:
        wanted &= np.arange(wanted.size) % n_domains == number
    kept = wanted[cell]
    # Inside an identifier the order is by item already; a stable sort keeps it within each domain.
    items = order.items[places[kept]][np.argsort(cell[kept], kind="stable")]
    sizes = counts[wanted]
    starts = np.cumsum(sizes) - sizes
    by_size = np.argsort(-sizes, kind="stable")
    return Collisions(catalogue, tuple(prefix), starts[by_size], sizes[by_size], items)


@dataclass(frozen=True, eq=False)
class Group:
    """One ambiguous identifier: its items and how far they are from one another.

    items: (n,). shown: the first 60 of them, those that were measured. distances: between those, (m, m).
    measure: what the distances are, in words; None where neither vectors nor residuals are known.
    """

    items: IntArray
    shown: IntArray
    distances: FloatArray | None
    measure: str | None

    @property
    def mean_distance(self) -> float:
        """The mean over the pairs that were measured; NaN without any."""
        if self.distances is None or len(self.shown) < 2:
            return float("nan")
        return float(self.distances[np.triu_indices(len(self.shown), 1)].mean())


def inside(catalogue: CodedCatalogue, items: npt.ArrayLike) -> Group:
    """How far items with one identifier are from one another, by content if known, else by residual."""
    members = np.sort(np.asarray(items, dtype=np.int64))
    shown = members[:_MOST_INSIDE]
    one, other = (part.reshape(-1) for part in np.meshgrid(shown, shown, indexing="ij"))
    shape = (len(shown), len(shown))
    if catalogue.vectors is not None:
        table = 1 - cosine(catalogue.vectors, one, other).reshape(shape)
        np.fill_diagonal(table, 0.0)
        return Group(members, shown, table, "1 − cosine similarity of the texts")
    if catalogue.residuals is not None:
        last = catalogue.residuals[:, -1].astype(np.float64)
        table = np.linalg.norm(last[one] - last[other], axis=1).reshape(shape)
        return Group(members, shown, table, "distance of the last residuals")
    return Group(members, shown, None, None)


def policy_effects(catalogue: CodedCatalogue, items: npt.ArrayLike, seed: int | None = None) -> pl.DataFrame:
    """What each conflict policy would do to items with one identifier, and what it would cost.

    Frame `policy, item, before, after, moved, policy_moved, policy_cost, note`, a row a policy and item. The
    last three are of the policy over all items of the domain that have the same codes before the last one, of
    which others may move too; that is how far the moves of a policy reach, unless more items share those
    codes than there are last codes. `note` says why a policy was not tried: distances are not known, items
    are more than there are identifiers, or they are too many to wait for.
    """
    chosen = np.asarray(items, dtype=np.int64)
    codes = catalogue.codes
    row = codes.codes[chosen[0]]
    if not (codes.codes[chosen] == row).all() or len(np.unique(codes.domain_index[chosen])) > 1:
        raise ValueError("items: of several identifiers or domains; give the items of one group")
    domain = int(codes.domain_index[chosen[0]])
    members = np.sort(catalogue.order.members(tuple(row[:-1].tolist()), domain))
    # Where a domain has codebooks of its own its codes start at its block; policies count from 0 in it.
    width = np.array(codes.sizes) // catalogue.books
    first = row // width * width
    within = ItemCodes(codes.codes[members] - first, width.tolist())
    residuals = None if catalogue.residuals is None else catalogue.residuals[members, -1]
    book = None
    if catalogue.codewords is not None:
        book = catalogue.codewords[-1][first[-1] : first[-1] + width[-1]]
    place = np.searchsorted(members, chosen)
    before = [written(codes.codes[item].tolist()) for item in chosen]
    rows: list[tuple[object, ...]] = []
    for policy in CONFLICT_POLICIES:
        try:
            done = _resolved(within, policy, residuals, book, catalogue.seed if seed is None else seed)
        except CodesError as error:
            unknown = (None, None, None, None, f"not known: {error}".split(";")[0])
            rows += [(policy, item, was, *unknown) for item, was in zip(chosen.tolist(), before, strict=True)]
            continue
        after = done.codes.codes[place].copy()
        after[:, : row.size] += first
        note = f"{counted(done.displaced, 'item')} found the prefix full" if done.displaced else ""
        for item, was, now in zip(chosen.tolist(), before, after.tolist(), strict=True):
            moved = now[: row.size] != row.tolist()
            rows.append((policy, item, was, written(now), moved, done.moved, done.cost, note))
    schema = {"policy": pl.String, "item": pl.Int64, "before": pl.String, "after": pl.String}
    schema |= {"moved": pl.Boolean, "policy_moved": pl.Int64, "policy_cost": pl.Float64, "note": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _resolved(
    codes: ItemCodes,
    policy: str,
    residuals: npt.NDArray[np.float32] | None,
    book: npt.NDArray[np.float32] | None,
    seed: int,
) -> Resolution:
    """`resolve_with_cost`, but not for so many items that nobody would wait for it."""
    most = _MOST_MOVED.get(policy, codes.n_items)
    if codes.n_items > most:
        many = f"{codes.n_items:,} items share all codes but the last"
        raise CodesError(f"{many}; more than {most:,} take too long")
    return codes.resolve_with_cost(policy, residuals, book, seed)


def collision_group(
    catalogue: CodedCatalogue, items: npt.ArrayLike, *, rank: int | None = None, seed: int | None = None
) -> go.Figure:
    """The items of one ambiguous identifier as a table: how alike they are, their codes under each policy.

    items: all of one identifier and domain. rank: the group's place by size, from 1, for the note. Codes in
    bold differ from what the item has now; the note has the cost of each policy.
    """
    measured = inside(catalogue, items)
    shown, total = measured.items[:_MOST_ROWS], counted(len(measured.items), "item")
    cards, effects = catalogue.cards(shown), policy_effects(catalogue, measured.items, seed)
    away = [""] * len(shown)
    if measured.distances is not None and len(measured.shown) > 1:
        mean = measured.distances.sum(axis=1) / (len(measured.shown) - 1)
        away = [f"{value:.2f}" for value in mean[: len(shown)]]
    visits = [f"{count:,}" for count in cards["interactions"]]
    columns: list[list[str]] = [cards["title"].to_list(), visits, away]
    bold = [[False] * len(shown) for _ in columns]
    for policy in _SHOWN:
        of_policy = effects.filter(pl.col("policy") == policy).head(len(shown))
        columns.append([text or "not known" for text in of_policy["after"].to_list()])
        bold.append((of_policy["after"] != of_policy["before"]).fill_null(False).to_list())
    title = group_title(len(measured.items), cards["domain"][0], cards["codes"][0], measured.mean_distance)
    dear = effects.filter(pl.col("policy_cost") > 0).unique("policy", maintain_order=True)
    costs = [
        f"{_SHOWN[policy]} {cost:.3g} ({counted(moved, 'item')} moved)"
        for policy, cost, moved in dear.select("policy", "policy_cost", "policy_moved").iter_rows()
    ]
    note = noted(
        f"{len(shown)} of {total}" + ("" if rank is None else f", number {rank} of the groups by size"),
        f"distance: {measured.measure}" if measured.measure else "",
        f"added distance to the last codewords: {', '.join(costs)}" if costs else "",
        "in bold: another identifier than now",
        seed=seed,
    )
    headers = ["title", "interactions", "mean distance", *_SHOWN.values()]
    widths = [2.8, 1.65, 1.1, 1.5, 1.5, 1.5, 1.9]
    return table_figure(title, note, headers, columns, widths=widths, emphasis=bold, most_lines=6)
