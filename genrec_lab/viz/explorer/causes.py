"""Why items share an identifier, what sets their titles apart, and what a conflict policy does to them.

Shapes: N items, G ambiguous identifiers, n items of one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes import row_ids
from genrec_lab.viz.explorer.collisions import Collisions
from genrec_lab.viz.explorer.similarity import Vectors, group_similarity

EQUAL, NEAR, FEW = "equal texts", "near texts", "too few codes"
_RANDOM_PAIRS = 20_000
_NEAR = 0.999
"""Texts are near where their mean similarity is above that of 999 of 1,000 random pairs of the catalogue."""
_ALIKE_WORDS = 0.5
_MOST_WORDS = 60
_PART = re.compile(r"\S+")


def collision_causes(
    found: Collisions, unit: Vectors | None, generator: np.random.Generator, texts: pl.Series | None = None
) -> pl.DataFrame:
    """Say of every ambiguous identifier why its items have it, a row a group in the order of `found`.

    "equal texts": no tokenizer could separate them. "near texts": they differ, but their vectors are nearer
    than those of 999 of 1,000 random pairs; without vectors, their titles have half of their words in
    common. "too few codes": they are no more alike than that, and more codes would separate them.
    unit: (N, D) of `unit_vectors`, or None. texts: (N,), by default the titles; equal but for blanks and
    case are equal. Frame `group, items, texts` (different ones), `similarity` (mean over pairs, null where
    not known), `under_prefix` (items of the domain with the same codes but the last), `cause`.
    """
    codes, members = found.catalogue.codes, found.items
    count = len(found.sizes)
    # `items` is in the order of codes, groups in that of size: the number of each item's group.
    group = np.empty(len(members), dtype=np.int64)
    by_start = np.argsort(found.starts)
    group[:] = np.repeat(by_start, found.sizes[by_start])
    raw = (found.catalogue.titles if texts is None else texts).gather(members)
    plain = raw.fill_null("").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    frame = pl.DataFrame({"group": group, "text": plain})
    different = frame.group_by("group").agg(pl.col("text").n_unique()).sort("group")["text"]
    if unit is None:
        alike, border = _word_overlap(frame, count), _ALIKE_WORDS
    else:
        alike, border = group_similarity(unit, members, group, count), _border(unit, generator)
    ids = row_ids(np.column_stack([codes.domain_index, codes.codes[:, :-1]]))
    firsts = members[found.starts]
    columns = {
        "group": np.arange(count), "items": found.sizes, "texts": different.cast(pl.Int64),
        "similarity": pl.Series(alike).fill_nan(None), "under_prefix": np.bincount(ids)[ids[firsts]],
    }  # fmt: skip
    near = pl.when(pl.col("similarity") >= border).then(pl.lit(NEAR)).otherwise(pl.lit(FEW))
    cause = pl.when(pl.col("texts") == 1).then(pl.lit(EQUAL)).otherwise(near)
    return pl.DataFrame(columns).with_columns(cause=cause)


def causes_by_size(causes: pl.DataFrame) -> pl.DataFrame:
    """Count groups and items by size of group and cause: `size, cause, groups, items`, largest first."""
    counted = causes.group_by(size=pl.col("items"), cause=pl.col("cause")).agg(groups=pl.len().cast(pl.Int64))
    counted = counted.with_columns(items=pl.col("size") * pl.col("groups"))
    return counted.sort("size", "cause", descending=[True, False])


def differences(titles: Sequence[str]) -> list[list[tuple[str, bool]]]:
    """Cut each title into words and say of each whether it is one of those that set the titles apart.

    A word is not, where it belongs to a row of words that all titles hold in this order, upper and lower
    case alike: without the marked words all titles read the same. At most 60 words of a title count.
    """
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
    """Sum up `policy_effects` of one group, a row a policy.

    Frame `policy, moved` (items of the group whose codes change), `others` (items outside it that change
    too), `cost` (added distance to the last codewords over all that move), `lengthens` (whether it appends a
    level), `note`; null where the policy was not tried.
    """
    parts = pl.col("after").str.count_matches("›") > pl.col("before").str.count_matches("›")
    return effects.group_by("policy", maintain_order=True).agg(
        moved=pl.when(pl.col("moved").is_not_null().any()).then(pl.col("moved").sum().cast(pl.Int64)),
        others=pl.col("policy_moved").first() - pl.col("moved").sum().cast(pl.Int64),
        cost=pl.col("policy_cost").first(),
        lengthens=parts.first(),
        note=pl.col("note").first(),
    )


def _border(unit: Vectors, generator: np.random.Generator) -> float:
    one, other = generator.integers(0, len(unit), size=(2, _RANDOM_PAIRS))
    different = one != other
    alike = np.einsum("pd,pd->p", unit[one[different]], unit[other[different]])
    return float(np.quantile(alike, _NEAR)) if alike.size else 1.0


def _word_overlap(frame: pl.DataFrame, count: int) -> npt.NDArray[np.float64]:
    """(G,) words that all texts of a group hold over words that any of them holds."""
    words = frame.with_row_index("row").with_columns(
        pl.col("text").str.split(" ").list.unique(), size=pl.len().over("group")
    )
    counts = words.explode("text").group_by("group", "text").agg(times=pl.len(), size=pl.col("size").first())
    alike = counts.group_by("group").agg(share=(pl.col("times") == pl.col("size")).mean())
    found = np.full(count, np.nan)
    found[alike["group"].to_numpy()] = alike["share"].to_numpy()
    return found
