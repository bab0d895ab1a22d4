"""What the explorer's figures say about a selection, each registered as `viz.sentences` asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from genrec_lab.viz.sentences import IntArray, ends, leaders, sentence
from genrec_lab.viz.text import counted, listed, noted, percent, written

if TYPE_CHECKING:
    from genrec_lab.viz.explorer.beams import BeamTree
    from genrec_lab.viz.explorer.code_page import CodePage
    from genrec_lab.viz.explorer.compare import LevelMatch
    from genrec_lab.viz.explorer.domain_sharing import LevelSharing, PairSimilarity
    from genrec_lab.viz.explorer.exposure import Exposure
    from genrec_lab.viz.explorer.flows import Overlap
    from genrec_lab.viz.explorer.prefixes import Children

_MOST_NAMED = 8


def _name_of(page: CodePage) -> str:
    if page.within is None:
        return f"Code {page.code} of level {page.level + 1}"
    return f"Prefix {written([*page.within, page.code])}"


@sentence
def page_title(page: CodePage) -> str:
    """A code: how many items it has, whose, and the words that its titles have more often than others."""
    if page.support == 0:
        return f"{_name_of(page)} is {page.state}: no item has it"
    words = f"; typical words: {listed([word.word for word in page.words[:3]])}" if page.words else ""
    most = leaders(page.domains, page.by_domain.tolist())
    whose = f", {percent(page.purity)} of them of {most[0]}" if len(most) == 1 < len(page.domains) else ""
    return f"{_name_of(page)} has {counted(page.support, 'item')}{whose}{words}"


@sentence
def page_note(page: CodePage) -> str:
    """A code's state, its share of the catalogue and of the interactions, and the nearest codewords."""
    near = ", ".join(f"{code} ({distance:.2g})" for code, distance in page.nearest_codes[:3])
    return noted(
        page.state,
        f"{counted(page.support, 'item')} of {page.n_items:,}",
        f"{percent(page.traffic_share)} of the interactions",
        f"domain entropy {page.entropy:.2f} bits" if len(page.domains) > 1 else "",
        f"nearest codewords (distance): {near}" if near else "",
    )


@sentence
def page_items_title(page: CodePage) -> str:
    """How far from its codeword a code's items lie."""
    name, items = _name_of(page), counted(page.support, "item")
    if not page.support:
        return f"{name}: no item has it"
    if page.distances is None or page.support < 2:
        return f"{name}: {items}"
    return f"{name}: {items}, {page.distances[0]:.3g} to {page.distances[-1]:.3g} from its codeword"


@sentence
def children_title(children: Children) -> str:
    """How many codes follow a prefix, and the share of the largest."""
    sizes = children.sizes
    used = int((sizes > 0).sum())
    where = f"Below {written(children.prefix)}" if children.prefix else "Level 1"
    if used == 0:
        return f"{where}: no item has this prefix"
    text = f"{where}: {used} of {counted(len(sizes), 'code')} used"
    largest = leaders([str(code) for code in range(len(sizes))], sizes.tolist())
    share = percent(float(sizes.max() / sizes.sum()))
    if len(largest) == 1:
        return f"{text}; code {largest[0]}, the largest, has {share} of the items"
    return f"{text}; the largest are {len(largest)} codes with {share} of the items each"


@sentence
def children_note(sizes: IntArray, shown: int, dead: Sequence[int]) -> str:
    """How many of the codes below a prefix are drawn, and the first of those that no item has."""
    used = int((sizes > 0).sum())
    more = f" and {len(dead) - _MOST_NAMED} more" if len(dead) > _MOST_NAMED else ""
    return noted(
        counted(int(sizes.sum()), "item"),
        "all used codes" if shown == used else f"the {shown} largest of {used} used codes",
        f"dead at this level: {', '.join(map(str, dead[:_MOST_NAMED]))}{more}" if dead else "",
    )


@sentence
def map_title(prefix: Sequence[int], level: int, on_map: int, drawn: int, of_prefix: int) -> str:
    """What a map shows: of a sample, how many of a prefix's items are on it."""
    if not prefix:
        return f"Residuals of level {level + 1}, {counted(drawn, 'item')} by domain"
    name = f"Prefix {written(prefix)}"
    if on_map == of_prefix:
        return f"{name}: {counted(of_prefix, 'item')} among {drawn:,} on the map of level {level + 1}"
    return f"{name}: {on_map:,} of its {counted(of_prefix, 'item')} are on the map of level {level + 1}"


@sentence
def group_title(items: int, domain: str, codes: str, distance: float) -> str:
    """One ambiguous identifier: how many items have it, and how far apart they are on average."""
    text = f"{counted(items, 'item')} of {listed([domain])} have the codes {codes}"
    return f"{text}, {distance:.2f} apart on average" if np.isfinite(distance) else text


@sentence
def match_title(matches: Sequence[LevelMatch], names: tuple[str, str]) -> str:
    """At which level two tokenizers agree, beyond chance: by adjusted mutual information."""
    both, values = f"{listed(names[:1])} and {listed(names[1:])}", [match.ami for match in matches]
    if all(match.ari == 1 for match in matches):
        return f"{both} group the items alike at every level"
    between = ends([round(value, 2) for value in values])
    if between is None:
        return (
            f"{both} agree by AMI {values[0]:.2f} at {'every level' if len(values) > 1 else 'the one level'}"
        )
    low, high = between
    first, last = (f"{values[place]:.2f} at level {matches[place].level + 1}" for place in (high, low))
    return f"{both} agree by AMI {first}, {last} (0: chance, 1: the same groups)"


@sentence
def company_title(overlap: Overlap, length: int) -> str:
    """How many companions items keep, among those that had any, beside chance."""
    prefix = "code" if length == 1 else f"{length} codes"
    if overlap.items == 0:
        return f"No item shares its first {prefix} with another one in either tokenizer"
    return (
        f"{percent(overlap.kept)} of the companions under the first {prefix} are the same in both, by chance "
        f"{percent(overlap.chance)} ({counted(overlap.items, 'item')} with company)"
    )


@sentence
def lift_title(sharing: LevelSharing) -> str:
    """How many of a level's used codes are one domain's own, and how many all domains have."""
    level, used = f"level {sharing.level + 1}", int(sharing.used_by[1:].sum())
    if len(sharing.domains) == 1:
        return f"One domain uses {used} of {counted(sharing.items.shape[1], 'code')} of {level}"
    own, everyone = (percent(int(sharing.used_by[place]) / max(used, 1)) for place in (1, -1))
    return (
        f"{own} of the used codes of {level} belong to one domain, {everyone} to all {len(sharing.domains)}"
    )


@sentence
def similarity_title(pairs: PairSimilarity) -> str:
    """The mean similarity of sampled pairs with the fewest and with the most codes in common."""
    table = pairs.frame.group_by("common").agg(
        mean=(pl.col("mean") * pl.col("pairs")).sum() / pl.col("pairs").sum(), pairs=pl.col("pairs").sum()
    )
    rows = table.sort("common").rows()
    if not rows:
        return "No pairs of items to compare"

    def said(row: tuple[int, float, int]) -> str:
        return f"{row[1]:.2f} for pairs with {counted(row[0], 'code')} in common"

    text = f"Mean cosine similarity is {said(rows[0])}"
    return text if len(rows) == 1 else f"{text}, {said(rows[-1])}"


@sentence
def exposure_title(found: Exposure) -> str:
    """Which code the recommendations favour most, in points of their share, and how many codes get none."""
    if found.recommendations == 0:
        return "Nothing of this part of the catalogue is recommended"
    table = found.by_code
    gains = (table["recommendation_share"] - table["catalogue_share"]).to_list()
    never = int((table["shown"] == 0).sum())
    most = leaders([str(code) for code in table["code"].to_list()], gains)
    rest = f"; {never} of {counted(table.height, 'used code')} never" if never else ""
    if not most:
        return "Every code is recommended as often as it is large"
    if len(most) > 1:
        return f"{len(most)} codes are recommended most above their size, by the same share{rest}"
    row = table.row(gains.index(max(gains)), named=True)
    shares = (
        f"{percent(row['recommendation_share'])} of the recommendations and {percent(row['catalogue_share'])}"
    )
    return f"Code {most[0]} has {shares} of the items, the largest gain{rest}"


@sentence
def tail_exposure_title(shares: Mapping[str, float], items: int, of: int) -> str:
    """What the least popular items get of each method's recommendations; items: how many of `of` they are."""
    text = f"The {items:,} least popular of {counted(of, 'item')} get"
    names = list(shares)
    between = ends(list(shares.values()))
    if len(names) == 1:
        return f"{text} {percent(shares[names[0]])} of the recommendations of {listed(names)}"
    if between is None:
        return f"{text} {percent(shares[names[0]])} of the recommendations of every method"
    low, high = (names[place] for place in between)
    high_share = f"{percent(shares[high])} of the recommendations of {listed([high])}"
    return f"{text} {high_share}, {percent(shares[low])} of {listed([low])}"


@sentence
def beam_title(tree: BeamTree) -> str:
    """Where the target of a beam search left the beam, or its place at the end."""
    if tree.left_at is None:
        return f"The target stays in the beam and ends at place {tree.rank}"
    width = tree.nodes.filter(pl.col("level") == tree.left_at).height
    text = f"The target leaves the beam at level {tree.left_at} of {len(tree.target)}"
    if tree.missed_by is None:
        return text
    return f"{text}: {tree.missed_by:.2f} below the last of {width} kept"


@sentence
def nothing_common_title(names: tuple[str, str]) -> str:
    """Of two tokenizers without a common item."""
    return f"{listed(names[:1])} and {listed(names[1:])} have no item in common"
