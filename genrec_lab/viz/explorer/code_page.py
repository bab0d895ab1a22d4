"""A code's page: who has it, how near its items lie to its codeword, which words tell it, what is around it.

Shapes: n items that have the code, K codes of its level, T domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.domain_sharing import level_sharing
from genrec_lab.viz.explorer.prefixes import entropy_bits, purity_of
from genrec_lab.viz.explorer.sentences import page_items_title, page_note, page_title
from genrec_lab.viz.explorer.words import Word
from genrec_lab.viz.layout import numbered_axis, panels
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.text import counted, label, noted

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ALIVE, NEARLY_DEAD, DEAD, EMPTY = "alive", "nearly dead", "dead", "not under this prefix"
_NEARLY_DEAD_SHARE = 0.1
_BINS = 24


@dataclass(frozen=True, eq=False)
class CodePage:
    """What is known of the items that have a code at a level, under one prefix or any.

    level: 0-based. within: the codes before it, or None for any. items: (n,) in the order of their codes.
    by_domain: (T,) items. state: "alive", "nearly dead" (under a tenth of an even share of the items),
    "dead" (nobody has the code at this level), or "not under this prefix". purity: the share of the commonest
    domain, NaN without items. entropy: of the domains, bits. nearest, median, farthest: items by distance to
    the codeword, farthest first, empty where no distances are known. norms: counts and edges of the norms of
    the residuals that this level quantises. nearest_codes: codes of the same codebook and the distance of
    their codewords. parents, children: codes of the levels before and after that its items have, and how
    many. ranked, distances: (n,) the items by distance, and that; in the order of their codes, and None.
    """

    level: int
    code: int
    within: tuple[int, ...] | None
    items: IntArray
    n_items: int
    domains: tuple[str, ...]
    by_domain: IntArray
    interactions: int
    traffic_share: float
    state: str
    nearest: IntArray
    median: IntArray
    farthest: IntArray
    norms: tuple[IntArray, FloatArray] | None
    words: list[Word]
    nearest_codes: list[tuple[int, float]]
    parents: list[tuple[int, int]]
    children: list[tuple[int, int]]
    ranked: IntArray
    distances: FloatArray | None

    @property
    def support(self) -> int:
        """How many items have the code."""
        return int(self.items.size)

    @property
    def purity(self) -> float:
        """The share of the items that are of the commonest domain; NaN without items."""
        return float(purity_of(self.by_domain[None, :])[0])

    @property
    def entropy(self) -> float:
        """The entropy of the items' domains in bits: 0 for one domain, log2(T) for all alike."""
        return entropy_bits(self.by_domain)

    def frame(self) -> pl.DataFrame:
        """Return the items by distance: `part` ("nearest", "median", "farthest" or null), `item`, `distance`.

        Where no distances are known, the items stand in the order of their codes.
        """
        part_of: dict[int, str] = {}
        for name in ("median", "farthest", "nearest"):
            part_of |= dict.fromkeys(getattr(self, name).tolist(), name)
        parts = [part_of.get(item) for item in self.ranked.tolist()]
        distance = [None] * self.support if self.distances is None else self.distances
        schema = {"part": pl.String, "item": pl.Int64, "distance": pl.Float64}
        return pl.DataFrame({"part": parts, "item": self.ranked, "distance": distance}, schema=schema)


def code_page(
    catalogue: CodedCatalogue,
    level: int,
    code: int,
    within: Sequence[int] | None = None,
    *,
    domain: str | None = None,
    top: int = 5,
) -> CodePage:
    """The page of a code of a level (0-based), of all its items or of those under a prefix.

    within: the codes of the levels before, None for any. top: how many items of each kind, words and codes.
    Raises ValueError for a level or code that does not exist, or a prefix of another length.
    """
    sizes, order = catalogue.codes.sizes, catalogue.order
    if not 0 <= level < len(sizes) or not 0 <= code < sizes[level]:
        raise ValueError(
            f"code {code} at level {level}: expected a level of 0..{len(sizes) - 1} and its codes"
        )
    if within is not None and len(within) != level:
        many = f"within: {len(within)} codes"
        raise ValueError(f"{many}, a code of level {level} (0-based) has {level} before it")
    prefix = None if within is None else tuple(int(value) for value in within)
    everywhere = order.with_code(level, code)
    places = everywhere if prefix is None else np.arange(*order.span([*prefix, code]))
    number = catalogue.domain_number(domain)
    if number is not None:
        places = places[order.domain_index[places] == number]
    items = order.items[places]
    ranked, distances, near, middle, far = items, None, 0, slice(0), items.size
    if catalogue.distances is not None:
        distances = catalogue.distances[items, level].astype(np.float64)
        # Ties by item, so that the same catalogue always shows the same cards.
        by_distance = np.lexsort((items, distances))
        ranked, distances = items[by_distance], distances[by_distance]
        near = min(top, items.size)
        far = items.size - min(top, items.size - near)
        count = min(top, far - near)
        first = min(max((items.size - count) // 2, near), far - count)
        middle = slice(first, first + count)
    traffic = catalogue.traffic[items].sum()
    return CodePage(
        level=level,
        code=code,
        within=prefix,
        items=items,
        n_items=catalogue.n_items,
        domains=catalogue.domains,
        by_domain=np.bincount(order.domain_index[places], minlength=len(catalogue.domains)),
        interactions=int(traffic),
        traffic_share=float(traffic / max(int(catalogue.traffic.sum()), 1)),
        state=state_of(items.size, everywhere.size, catalogue.n_items / sizes[level]),
        nearest=ranked[:near],
        median=ranked[middle],
        farthest=ranked[far:][::-1],
        norms=_norm_histogram(catalogue, items, level),
        words=catalogue.words.telling(places, 2 * top),
        nearest_codes=_nearest_codes(catalogue, level, code, top),
        parents=_commonest(order.columns[level - 1][places], top) if level else [],
        children=_commonest(order.columns[level + 1][places], top) if level + 1 < len(sizes) else [],
        ranked=ranked,
        distances=distances,
    )


def code_survey(catalogue: CodedCatalogue) -> pl.DataFrame:
    """Return one row a code of each level, under any prefix: who has it, and whether it is used.

    Frame `level` (from 1), `code`, `items`, `domains` (how many use it), `purity` (share of the commonest
    domain, null for a dead code), `interactions` (of its items), `state` as on its page: "alive", "nearly
    dead" or "dead".
    """
    parts = []
    for level, size in enumerate(catalogue.codes.sizes):
        by_domain = level_sharing(catalogue, level).items.T
        items = by_domain.sum(axis=1)
        traffic = np.bincount(catalogue.codes.codes[:, level], weights=catalogue.traffic, minlength=size)
        even = catalogue.n_items / size
        part = {
            "level": np.full(size, level + 1),
            "code": np.arange(size),
            "items": items,
            "domains": (by_domain > 0).sum(axis=1),
            "purity": pl.Series(purity_of(by_domain)).fill_nan(None),
            "interactions": traffic.astype(np.int64),
            "state": [state_of(count, count, even) for count in items.tolist()],
        }
        parts.append(pl.DataFrame(part))
    return pl.concat(parts)


def state_of(support: int, everywhere: int, even_share: float) -> str:
    """A code's state by its items here and under any prefix; even_share: items a code if all had as many."""
    if everywhere == 0:
        return DEAD
    if support == 0:
        return EMPTY
    return NEARLY_DEAD if everywhere < _NEARLY_DEAD_SHARE * even_share else ALIVE


def _norm_histogram(
    catalogue: CodedCatalogue, items: IntArray, level: int
) -> tuple[IntArray, FloatArray] | None:
    """Counts of the norms in bins that are the same for all codes of a level, so that pages compare."""
    if catalogue.norms is None:
        return None
    norms = catalogue.norms[:, level]
    highest = float(norms.max())
    edges = np.linspace(0.0, highest if highest > 0 else 1.0, _BINS + 1)
    return np.histogram(norms[items], bins=edges)[0], edges


def _nearest_codes(catalogue: CodedCatalogue, level: int, code: int, top: int) -> list[tuple[int, float]]:
    """The codes of the same codebook with the nearest codewords; of other codebooks nothing is comparable."""
    if catalogue.codewords is None:
        return []
    book = catalogue.codewords[level].astype(np.float64)
    width = len(book) // catalogue.books
    first = code // width * width
    distance = np.linalg.norm(book[first : first + width] - book[code], axis=1)
    distance[code - first] = np.inf
    order = np.argsort(distance, kind="stable")[: min(top, width - 1)]
    return [(int(first + place), float(distance[place])) for place in order]


def _commonest(codes: npt.NDArray[np.int32], top: int) -> list[tuple[int, int]]:
    """The commonest codes with their counts, equal ones by code."""
    counts = np.bincount(codes)
    order = np.argsort(-counts, kind="stable")[:top]
    return [(int(place), int(counts[place])) for place in order if counts[place] > 0]


def code_profile(page: CodePage, *, top: int = 8, seed: int | None = None) -> go.Figure:
    """A code at a glance: its telling words, the domains of its items, and how long their residuals are."""
    titles = ["Words that its titles hold more often than others", "Items by domain", "Norm of the residual"]
    made = panels(titles, columns=3, row_height=230, left_labels=70, column_gap=0.1)
    words, domains = page.words[:top], page.domains
    texts = [f"{label(word.word)}: in {counted(word.titles, 'title')}" for word in words]
    scores, hover = [word.score for word in words], "%{customdata}, z = %{x:.1f}<extra></extra>"
    made.bars(0, scores, hover, flat=True, customdata=texts)
    made.rows(0, [word.word for word in words], 16)
    made.x(0, title="z-score of log-odds", rangemode="tozero", nticks=5)
    colours, names = [made.style(name).colour for name in domains], [label(name) for name in domains]
    hover = "%{customdata}: %{y} items<extra></extra>"
    made.bars(1, page.by_domain, hover, marker_color=colours, customdata=names)
    made.x(1, **numbered_axis(domains, 12))
    made.y(1, title="items", rangemode="tozero")
    if page.support and page.norms is not None:
        counts, edges = page.norms
        middles, hover = (edges[:-1] + edges[1:]) / 2, "norm %{x:.3g}: %{y} items<extra></extra>"
        made.bars(2, counts, hover, at=middles, width=np.diff(edges))
        made.x(2, title="Euclidean norm", range=[0, edges[-1]], nticks=5)
        made.y(2, title="items", rangemode="tozero")
    else:
        made.say(2, "No residuals are known." if page.support else "No item has it.")
    if not page.support:
        made.say(1, "No item has it.")
    if not words:
        made.say(0, "No word tells it from the others.")
    return made.finish(page_title(page), noted(page_note(page), seed=seed), showlegend=False, bargap=0.25)


def code_items(page: CodePage, catalogue: CodedCatalogue, *, seed: int | None = None) -> go.Figure:
    """The items nearest to the codeword, around the median and farthest from it, as a table."""
    placed = page.frame()
    known = placed["part"].drop_nulls().len() > 0
    shown = placed.filter(placed["part"].is_not_null()) if known else placed.head(12)
    cards = catalogue.cards(shown["item"].to_numpy())
    note = f"{shown.height} of {counted(page.support, 'item')}"
    which = "distance of the residual to the codeword" if known else "no distances are known"
    return table_figure(
        page_items_title(page),
        noted(note, which, seed=seed),
        ["", "title", "domain", "identifier", "distance", "interactions"],
        [
            [part or "" for part in shown["part"].to_list()],
            cards["title"].to_list(),
            cards["domain"].to_list(),
            cards["codes"].to_list(),
            ["" if value is None else f"{value:.3g}" for value in shown["distance"].to_list()],
            [f"{count:,}" for count in cards["interactions"].to_list()],
        ],
        widths=[1.2, 3.9, 1.5, 1.7, 1.2, 1.75],
        left=4,
    )
