"""Items with ambiguous identifiers: which items, why, and what each conflict policy would do to them.

Shapes: N items, G ambiguous identifiers, n items of one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from genrec_lab.codes import CONFLICT_POLICIES, CodesError, ItemCodes
from genrec_lab.viz import Float32Array, IntArray
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.sharing import group_similarity
from genrec_lab.viz.text import counted, written

EQUAL, NEAR, FEW = "equal texts", "near texts", "too few codes"
_RANDOM_PAIRS = 20_000
_NEAR = 0.999
"""Texts are near where their mean similarity is above that of 999 of 1,000 random pairs of the catalogue."""
_ALIKE_WORDS = 0.5
_MOST_WORDS = 60
_PART = re.compile(r"\S+")
# By policy, the largest number of items under one prefix for which it is tried; this takes about 0.1 s each.
_MOST_MOVED = {"nearest_free": 2_000, "optimal": 1_000, "sinkhorn": 30}


@dataclass(frozen=True, eq=False)
class Collisions:
    """The identifiers shared by two or more items of one domain, largest first, then by domain and codes.

    starts, sizes: (G,) start of each group in `items`, and its number of items. items: item indices by group,
    ascending within each group.
    """

    catalogue: CodedCatalogue
    starts: IntArray
    sizes: IntArray
    items: IntArray

    def group(self, place: int) -> IntArray:
        """Return the items of a group by its position in order of size; raises ValueError if out of range."""
        if not 0 <= place < self.sizes.size:
            raise ValueError(f"group {place}: there are {self.sizes.size} ambiguous identifiers, from 0")
        return self.items[self.starts[place] : self.starts[place] + self.sizes[place]]

    def frame(self, most: int | None = None) -> pl.DataFrame:
        """Return a frame `identifier, domain, items, interactions, first_title`, one row per identifier."""
        starts, sizes = self.starts[:most], self.sizes[:most]
        cards = self.catalogue.cards(self.items[starts])
        sums = np.concatenate([[0], np.cumsum(self.catalogue.traffic[self.items])])
        columns = {"items": sizes, "interactions": sums[starts + sizes] - sums[starts]}
        cards = cards.with_columns(**columns, identifier="codes", first_title="title")
        return cards.select("identifier", "domain", "items", "interactions", "first_title")


def collisions(catalogue: CodedCatalogue, among: IntArray | None = None) -> Collisions:
    """Return the ambiguous identifiers within domains; among: only those of these items."""
    ids = catalogue.codes.identifier_ids
    counts = np.bincount(ids)
    wanted = counts > 1
    if among is not None:
        wanted &= np.bincount(ids[among], minlength=wanted.size) > 0
    items = np.flatnonzero(wanted[ids])
    # By size, then by identifier; items stay in their order within each.
    items = items[np.lexsort((ids[items], -counts[ids[items]]))]
    sizes = -np.sort(-counts[wanted])
    return Collisions(catalogue, np.cumsum(sizes) - sizes, sizes, items)


def collision_causes(
    found: Collisions, unit: Float32Array | None, generator: np.random.Generator
) -> pl.DataFrame:
    """Return the cause of every ambiguous identifier, one row per group in the order of `found`.

    "equal texts": no tokenizer could separate the items; titles are compared without whitespace and case.
    "near texts": their vectors are closer than those of 999 of 1,000 random pairs; without vectors, their
    titles have half of their words in common. "too few codes": more codes would separate the items. unit:
    (N, D) of `unit_vectors`, or None. Frame `group, items, texts` (number of different titles), `similarity`
    (mean over pairs, null if unknown), `under_prefix` (items of the domain with the same codes except the
    last), `cause`.
    """
    members, count = found.items, len(found.sizes)
    group = np.repeat(np.arange(count), found.sizes)
    titles = found.catalogue.titles.gather(members)
    plain = titles.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    frame = pl.DataFrame({"group": group, "text": plain})
    different = frame.group_by("group").agg(pl.col("text").n_unique()).sort("group")["text"]
    if unit is None:
        # Of all words in the texts of a group, the share that is in each of them.
        words = frame.with_columns(pl.col("text").str.split(" ").list.unique(), size=pl.len().over("group"))
        uses = words.explode("text").group_by("group", "text").agg(pl.len(), pl.col("size").first())
        shares = uses.group_by("group").agg(alike=(pl.col("len") == pl.col("size")).mean())
        alike, border = shares.sort("group")["alike"], _ALIKE_WORDS
    else:
        one, other = generator.integers(0, len(unit), size=(2, _RANDOM_PAIRS))
        pairs = np.einsum("pd,pd->p", unit[one[one != other]], unit[other[one != other]])
        border = float(np.quantile(pairs, _NEAR)) if pairs.size else 1.0
        alike = pl.Series(group_similarity(unit, members, group, count))
    ids, firsts = found.catalogue.stem_ids, members[found.starts]
    columns = {
        "group": np.arange(count), "items": found.sizes, "texts": different.cast(pl.Int64),
        "similarity": alike.fill_nan(None), "under_prefix": np.bincount(ids)[ids[firsts]],
    }  # fmt: skip
    near = pl.when(pl.col("similarity") >= border).then(pl.lit(NEAR)).otherwise(pl.lit(FEW))
    cause = pl.when(pl.col("texts") == 1).then(pl.lit(EQUAL)).otherwise(near)
    return pl.DataFrame(columns).with_columns(cause=cause)


def causes_by_size(causes: pl.DataFrame) -> pl.DataFrame:
    """Count groups and items by group size and cause: `size, cause, groups, items`, largest first."""
    counted = causes.group_by(size=pl.col("items"), cause=pl.col("cause")).agg(groups=pl.len().cast(pl.Int64))
    counted = counted.with_columns(items=pl.col("size") * pl.col("groups"))
    return counted.sort("size", "cause", descending=[True, False])


def differences(titles: Sequence[str]) -> list[list[tuple[str, bool]]]:
    """Split titles into at most 60 words; without the marked ones (ignoring case), all would be the same."""
    cut = [_PART.findall(title)[:_MOST_WORDS] for title in titles]
    lowered = [[word.lower() for word in words] for words in cut]
    common = lowered[0] if lowered else []
    for words in lowered[1:]:
        blocks = SequenceMatcher(None, common, words, autojunk=False).get_matching_blocks()
        common = [word for block in blocks for word in common[block.a : block.a + block.size]]
    marked = []
    for words, low in zip(cut, lowered, strict=True):
        place, flags = 0, []
        for word, small in zip(words, low, strict=True):
            same = place < len(common) and small == common[place]
            place += same
            flags.append((word, not same))
        marked.append(flags)
    return marked


def policy_summary(effects: pl.DataFrame) -> pl.DataFrame:
    """Summarise `policy_effects` of one group, one row per policy.

    Frame `policy, moved` (items of the group whose codes change), `others` (items outside the group whose
    codes change), `cost` (added distance to the last codewords over all these items), `lengthens` (whether
    the policy appends a level), `note`; null if the policy was not tried.
    """
    parts = pl.col("after").str.count_matches("›") > pl.col("before").str.count_matches("›")
    return effects.group_by("policy", maintain_order=True).agg(
        moved=pl.when(pl.col("moved").is_not_null().any()).then(pl.col("moved").sum().cast(pl.Int64)),
        others=pl.col("policy_moved").first() - pl.col("moved").sum().cast(pl.Int64),
        cost=pl.col("policy_cost").first(),
        lengthens=parts.first(),
        note=pl.col("note").first(),
    )


def policy_effects(catalogue: CodedCatalogue, items: ArrayLike) -> pl.DataFrame:
    """Return what each conflict policy would do to items with one identifier, and what it would cost.

    Frame `policy, item, before, after, moved, policy_moved, policy_cost, note`, one row per policy and item.
    The last three are for all items of the domain with the same codes before the last one, because a policy
    may move these too. `note` states why a policy was not tried: distances are unknown, there are more items
    than identifiers, or there are too many items to compute quickly.
    """
    chosen = np.asarray(items, dtype=np.int64)
    codes = catalogue.codes
    row = codes.codes[chosen[0]]
    if not (codes.codes[chosen] == row).all() or len(np.unique(codes.domain_index[chosen])) > 1:
        raise ValueError("items: of several identifiers or domains; give the items of one group")
    domain = int(codes.domain_index[chosen[0]])
    members = np.sort(catalogue.order.members(tuple(row[:-1].tolist()), domain))
    # If each domain has its own codebooks, its codes start at its block, but policies count from 0.
    width = np.array(codes.sizes) // catalogue.books
    first = row // width * width
    within = ItemCodes(codes.codes[members] - first, width.tolist())
    residuals = None if catalogue.residuals is None else catalogue.residuals[members, -1]
    part = slice(first[-1], first[-1] + width[-1])
    book = None if catalogue.codewords is None else catalogue.codewords[-1][part]
    place, before = np.searchsorted(members, chosen), written(row)
    rows: list[tuple[object, ...]] = []
    for policy in CONFLICT_POLICIES:
        try:
            if within.n_items > _MOST_MOVED.get(policy, within.n_items):
                many = f"{within.n_items:,} items share all codes but the last"
                raise CodesError(f"{many}; more than {_MOST_MOVED[policy]:,} take too long")
            done = within.resolve_with_cost(policy, residuals, book, catalogue.seed)
        except CodesError as error:
            unknown = (None, None, None, None, f"not known: {error}".split(";")[0])
            rows += [(policy, item, before, *unknown) for item in chosen.tolist()]
            continue
        after = done.codes.codes[place].copy()
        after[:, : row.size] += first
        note = f"{counted(done.displaced, 'item')} found the prefix full" if done.displaced else ""
        for item, now in zip(chosen.tolist(), after.tolist(), strict=True):
            moved = now[: row.size] != row.tolist()
            rows.append((policy, item, before, written(now), moved, done.moved, done.cost, note))
    schema = {"policy": pl.String, "item": pl.Int64, "before": pl.String, "after": pl.String}
    schema |= {"moved": pl.Boolean, "policy_moved": pl.Int64, "policy_cost": pl.Float64, "note": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")
