"""Every sentence about numbers in a figure, a table or the explorer, each written by a registered function.

A sentence states only what its plot shows: no superlative for ties or zeros, samples named, and the value
expected by chance if there is one. `tests/unit/test_sentences.py` asks for a property test of each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from genrec_lab.evaluation.ranking import AVERAGE
from genrec_lab.viz import FloatArray, IntArray
from genrec_lab.viz.text import counted, listed, noted, percent

Written = TypeVar("Written", bound=Callable[..., Any])

SENTENCES: dict[str, Callable[..., Any]] = {}
"""The functions that write sentences, by module and name."""


def sentence(function: Written) -> Written:
    """Register a function that writes a sentence, so that the tests require a property test for it."""
    SENTENCES[f"{function.__module__}.{function.__qualname__}"] = function
    return function


def ends(values: ArrayLike) -> tuple[int, int] | None:
    """Return the indices of the smallest and the largest value; None if all are equal or there are none."""
    known = np.asarray(values, dtype=np.float64)
    low, high = int(np.nanargmin(known)), int(np.nanargmax(known))
    return None if known[low] == known[high] else (low, high)


def leaders(names: Sequence[str], values: Sequence[float]) -> list[str]:
    """Return all names with the largest value; an empty list if it is not above 0."""
    most = max(values, default=0.0)
    return [name for name, value in zip(names, values, strict=True) if value == most and most > 0]


def _every(levels: Sequence[object]) -> str:
    return "every level" if len(levels) > 1 else "the only level"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


@sentence
def statistics_title(users: int, items: int, interactions: int, domains: int) -> str:
    """State the size of a data set."""
    of = f"{counted(interactions, 'interaction')} of {counted(users, 'user')} with {counted(items, 'item')}"
    return f"{of} in {counted(domains, 'domain')}"


@sentence
def lengths_title(medians: Mapping[str, int]) -> str:
    """State the lengths of sequences; medians: the lower median by domain."""
    names = list(medians)
    between = ends(list(medians.values()))
    if between is None:
        where = " in every domain" if len(names) > 1 else ""
        return f"At least half of the users have at most {counted(medians[names[0]], 'interaction')}{where}"
    low, high = (names[place] for place in between)
    first = f"The median user has {counted(medians[low], 'interaction')} in {listed([low])}"
    return f"{first} and {medians[high]:,} in {listed([high])}"


@sentence
def popularity_title(tops: Mapping[str, tuple[int, int, float]]) -> str:
    """State how unequal popularity is; tops: by domain, how many top items of how many have which share."""

    def said(name: str) -> str:
        top, items, share = tops[name]
        verb = "takes" if top == 1 else "take"
        return f"{top:,} of {counted(items, 'item')} {verb} {percent(share)}"

    names = list(tops)
    between = ends([tops[name][2] for name in names])
    low, high = (names[place] for place in between or (0, 0))
    text = f"The most popular {said(high)} of the interactions"
    if len(names) == 1:
        return text
    rest = f"{said(low)} in {listed([low])}" if between else "the same share in every domain"
    return f"{text} in {listed([high])}, {rest}"


def shared_by_chance(table: IntArray) -> float:
    """Return the expected share of used codes that two or more domains use if domains are assigned at random.

    table: (K, T) items by code and domain. A code of n items belongs to a single domain with probability
    C(N_t, n) / C(N, n), summed over domains t.
    """
    from scipy.special import gammaln  # slow to import

    sizes, of_domain = table.sum(axis=1), table.sum(axis=0)
    used = sizes[sizes > 0]
    logs = gammaln(np.arange(int(table.sum()) + 1) + 1.0)
    left = of_domain[None, :] - used[:, None]
    every = logs[-1] - logs[len(logs) - 1 - used]
    alone = logs[of_domain][None, :] - logs[np.maximum(left, 0)] - every[:, None]
    return float(1 - np.where(left >= 0, np.exp(alone), 0.0).sum(axis=1).mean())


def _shared(table: IntArray) -> float:
    used_by = (table > 0).sum(axis=1)
    return float((used_by > 1).sum() / max((used_by > 0).sum(), 1))


@sentence
def sharing_title(tables: Sequence[IntArray]) -> str:
    """State how many codes domains share at each level, and how many are dead; tables: (K, T) per level."""
    dead = sum(int((table.sum(axis=1) == 0).sum()) for table in tables)
    unused = f"{dead:,} of {counted(sum(map(len, tables)), 'code')} are dead"
    if tables[0].shape[1] == 1:
        return f"One domain: {unused}"
    shares = [_shared(table) for table in tables]
    between = ends(shares)
    if between is None:
        return f"Domains share {percent(shares[0])} of the used codes at {_every(tables)}; {unused}"
    low, high = between
    said = f"Domains share {percent(shares[low])} of the used codes at level {low + 1}"
    return f"{said}, {percent(shares[high])} at level {high + 1}; {unused}"


@sentence
def level_title(level: int, table: IntArray) -> str:
    """Write a panel's title for a level (0-based): dead codes, and shared codes compared with chance."""
    dead = f"Level {level + 1}: {int((table.sum(axis=1) == 0).sum())} of {len(table)} dead"
    if table.shape[1] == 1:
        return dead
    return f"{dead}, {percent(_shared(table))} shared (by chance {percent(shared_by_chance(table))})"


@sentence
def tokenizers_title(health: pl.DataFrame) -> str:
    """State collisions and dead codes of tokenizers; health: frame of `health_table`."""
    each = health.group_by("tokenizer", maintain_order=True).agg(
        pl.col("collision_rate").first(),
        dead=pl.when(pl.col("dead").is_not_null().all()).then(pl.col("dead").sum() / pl.col("codes").sum()),
    )
    names, parts = each["tokenizer"].to_list(), []
    for column, what, none in (
        ("collision_rate", "of the items ambiguous", "no ambiguous items"),
        ("dead", "of its codes dead", "no dead codes"),
    ):
        values = each[column].to_list()
        if None in values:
            parts.append("the number of possible codes is unknown")
        elif max(values) == 0:
            parts.append(none)
        elif between := ends(values):
            low, high = between
            parts.append(f"{names[high]} {percent(values[high])} {what}, {names[low]} {percent(values[low])}")
        else:
            parts.append(f"{percent(values[0])} {what}{' with each' if len(names) > 1 else ''}")
    text = (f"{names[0]}: " if len(names) == 1 else "") + "; ".join(parts)
    return _capital(text) if text.startswith("no ") else text


@sentence
def overlap_title(overlap: pl.DataFrame) -> str:
    """State for which tokenizer similar items share more codes; overlap: `tokenizer, domain, k, overlap`."""
    names, domains = (overlap[name].unique(maintain_order=True).to_list() for name in ("tokenizer", "domain"))
    if len(names) == 1:
        low, high = overlap["overlap"].to_numpy().min(), overlap["overlap"].to_numpy().max()
        span = percent(low) if low == high else f"{percent(low)} to {percent(high)}"
        return f"Nearby items share {span} of their codes under {listed(names)}"
    means = overlap.group_by("tokenizer", "domain").agg(pl.col("overlap").mean())
    first: Counter[str] = Counter()  # by tokenizer, the domains where it alone leads
    for domain in domains:
        values = dict(means.filter(pl.col("domain") == domain).select("tokenizer", "overlap").iter_rows())
        best = leaders(list(values), list(values.values()))
        first.update(best if len(best) == 1 else [])
    if not first:
        return "No single tokenizer gives nearby items the most codes in common"
    ((most, times),) = first.most_common(1)
    where = f"in {times} of {counted(len(domains), 'domain')}"
    if times == len(domains):
        where = "in every domain" if len(domains) > 1 else f"in {listed(domains)}"
    return f"Nearby items have more codes in common under {listed([most])} than under the others, {where}"


@sentence
def collisions_title(sizes: IntArray, domain_index: IntArray, domains: Sequence[str]) -> str:
    """State how many items share an identifier; sizes: (N,) items of the domain with an item's identifier."""
    share = float((sizes > 1).mean())
    if share == 0:
        return "Every identifier belongs to one item of its domain"
    largest = f"the largest group has {int(sizes.max()):,} items"
    text = f"{percent(share)} of the items share their identifier; {largest}"
    by_domain = [float((sizes[domain_index == place] > 1).mean()) for place in range(len(domains))]
    most = leaders(domains, by_domain)
    if len(most) > 1 or len(domains) == 1:
        return text
    return f"{text}; most in {listed(most)} ({percent(max(by_domain))})"


@sentence
def policies_title(policies: Sequence[str], moved: Sequence[int], cost: Sequence[float]) -> str:
    """State which of the conflict policies that change codes adds the least distance."""
    movers = [place for place, count in enumerate(moved) if count > 0]
    if not movers:
        return "No policy had to change a code"
    between = ends([cost[place] for place in movers])
    if between is None:
        who = listed([policies[place] for place in movers])
        verb = "changes" if len(movers) == 1 else "change"
        return f"Of the policies, {who} {verb} codes, adding a distance of {cost[movers[0]]:,.3g}"
    low, high = (movers[place] for place in between)
    cheap = [policies[place] for place in movers if cost[place] == cost[low]]
    least = f"{listed(cheap)} {'adds' if len(cheap) == 1 else 'add'} the least distance"
    against = f"{cost[low]:,.3g} against {cost[high]:,.3g} for {policies[high]}"
    return f"Of the policies that change codes, {least}: {against}"


@sentence
def examples_title(shown: int, items: int, levels: int) -> str:
    """State what a table of identifiers shows."""
    return f"{shown} of {counted(items, 'item')} with their identifiers of {counted(levels, 'code')}"


@sentence
def atlas_title(purities: Sequence[float], chance: float) -> str:
    """State how well maps separate domains: the share of nearest points in the same domain, by level."""
    if math.isnan(chance) or not np.isfinite(purities).any():
        return f"Residuals of {counted(len(purities), 'level')} on a map, one domain"
    of_own, by_chance = "of a point's nearest points are from its own domain", f"by chance {percent(chance)}"
    between = ends(purities)
    if between is None:
        return f"{percent(purities[0])} {of_own} at {_every(purities)}; {by_chance}"
    low, high = between
    least = f"{percent(purities[low])} at level {low + 1}"
    return f"{percent(purities[high])} {of_own} at level {high + 1}, {least}; {by_chance}"


@sentence
def norms_title(before: FloatArray, after: FloatArray) -> str:
    """State how much each level reduces the mean norm of its input; before, after: (L,)."""
    removed = 1 - after / np.maximum(before, 1e-12)
    said = [f"{'takes' if share >= 0 else 'adds'} {percent(abs(float(share)))}" for share in removed]
    whole = " off the mean norm" if (removed >= 0).all() else " of the mean norm"
    between = ends(removed)
    if between is None:
        return f"{'Every level' if len(said) > 1 else 'The level'} {said[0]}{whole} of what it quantises"
    low, high = between
    return f"Level {high + 1} {said[high]}{whole} of what it quantises, level {low + 1} {said[low]}"


@sentence
def left_title(shares: FloatArray, *, together: bool) -> str:
    """State the unexplained variance: after the first 1, 2, … codes together, or of each level separately."""

    def said(share: float) -> str:
        return f"{share:,.3g} times" if share > 1 else f"{percent(share)} of"

    if not np.isfinite(shares).any():
        return "No level has any variance to explain"
    if together:
        first = f"The first code leaves {said(float(shares[0]))} the variance"
        return first if len(shares) == 1 else f"{first}, all {len(shares)} leave {said(float(shares[-1]))} it"
    between = ends(shares)
    if between is None:
        every = "Every level leaves" if len(shares) > 1 else "The level leaves"
        return f"{every} {said(float(np.nanmax(shares)))} the variance of what it quantises"
    low, high = between
    text = f"Level {high + 1} leaves {said(float(shares[high]))} the variance of what it quantises"
    return f"{text}, level {low + 1} {said(float(shares[low])).removesuffix(' of')}"


@sentence
def unquantised_title(levels: int) -> str:
    """State that codes do not quantise vectors."""
    return f"These codes of {counted(levels, 'level')} quantise no vectors, so no level leaves a residual"


@sentence
def pictures_title(shown: int, items: int, domains: Sequence[str]) -> str:
    """State what a sheet of pictures shows."""
    return f"{shown} of {counted(items, 'item')} with a picture, from {listed(domains)}"


@sentence
def kept_title(shares: FloatArray) -> str:
    """State the share of decoded words in the items' texts, for 1 and for all codes; shares: (L,)."""
    if not np.isfinite(shares).all():
        return "What the codes keep of an item"
    first = f"{percent(float(shares[0]))} of the words decoded from 1 code are in the item's text"
    return first if len(shares) == 1 else f"{first}, {percent(float(shares[-1]))} from {len(shares)} codes"


@sentence
def tokenizer_title(last: Mapping[str, Any], churn: Sequence[float] | None = None) -> str:
    """State how a tokenizer's training ends: the least used level, collisions, and codes still changing.

    last: `epoch`, `utilisation` by level, `collision_rate`. churn: by level, the share of items whose code
    changed since the previous record.
    """
    used, epoch = list(last["utilisation"]), int(last["epoch"])
    if None in used:
        return f"Use of the codes up to epoch {epoch}"
    share, lowest = min(used), ", the lowest share"
    least = [str(level) for level, value in enumerate(used, 1) if value == share]
    who = f"level {least[0]} uses" if len(least) == 1 else f"levels {' and '.join(least)} use"
    if len(least) == len(used):
        who, lowest = "every level uses", ""
    amount = "all" if share == 1 else percent(float(share))
    text = f"After {counted(epoch, 'epoch')} {who} {amount} of the codes{lowest}"
    if last.get("collision_rate") is not None:
        text += f"; {percent(float(last['collision_rate']))} of the items collide"
    if churn:
        place = int(np.argmax(churn))
        text += f"; {percent(float(churn[place]))} still change their code at level {place + 1}"
    return text


@sentence
def best_title(bests: Mapping[str, tuple[int, float]], metric: str, trained: int) -> str:
    """State the best epoch on validation users; bests: epoch and value by training."""
    if not bests:
        return f"{counted(trained, 'epoch')} trained, none validated yet"
    names = leaders(list(bests), [value for _, value in bests.values()])
    if not names:
        return f"Validation {metric} is 0 at every validated epoch"
    epoch, value = bests[names[0]]
    if len(bests) == 1:
        whose = f" of {listed(names)}" if names[0] else ""
        return f"Validation {metric}{whose} is highest at epoch {epoch} of {trained}: {value:.4f}"
    at = f" at epoch {epoch}" if len(names) == 1 else ""
    return f"Validation {metric} is highest for {listed(names)}: {value:.4f}{at}"


@sentence
def winner_title(table: pl.DataFrame, shown: str, bound: str) -> str:
    """State the best method and its lead; table: `method, domain, mean` of `summarise`, bound: a method."""
    domains = table["domain"].unique(maintain_order=True).to_list()
    where = AVERAGE if AVERAGE in domains else domains[-1]
    here = table.filter(pl.col("domain") == where)
    rows = here.filter(pl.col("method") != bound).sort("mean", descending=True, maintain_order=True)
    best = here.filter(pl.col("method") == bound)["mean"].to_list()
    names, values = rows["method"].to_list(), rows["mean"].to_list()
    first, place = leaders(names, values), "on average" if where == AVERAGE else f"in {listed([where])}"
    if not first:
        return f"No method has {shown} above 0 {place}"
    limit = f", {percent(values[0] / best[0])} of the best possible" if best and best[0] > 0 else ""
    if len(names) == 1:
        return f"{listed(names)}: {shown} {values[0]:.4f} {place}{limit}"
    verb = "has" if len(first) == 1 else "have"
    text = f"{listed(first)} {verb} the highest {shown} {place}: {values[0]:.4f}{limit}"
    if len(first) > 1 or limit or values[1] <= 0:
        return text
    return f"{text}, {percent(values[0] / values[1] - 1)} above {listed([names[1]])}"


@sentence
def records_note(records: pl.DataFrame, *clauses: str, of: str = "test user") -> str:
    """State the users, domains and seeds of a records frame, and other clauses; of: the kind of users."""
    own = records.filter(pl.col("domain") != AVERAGE)
    users = seeds = ""
    if "users" in records.columns:
        most = own.group_by("domain").agg(pl.col("users").max())
        users = f"{counted(int(most['users'].sum()), of)} of "
    if "seed" in records.columns:
        known = sorted(records["seed"].drop_nulls().unique().to_list())
        few = ", ".join(map(str, known))
        few = few if len(known) <= 6 else f"{known[0]} to {known[-1]}, {len(known)} of them"
        seeds = f"{'seed' if len(known) == 1 else 'seeds'} {few}" if known else ""
    return noted(users + counted(own["domain"].n_unique(), "domain"), seeds, *clauses)


@sentence
def paper_title(paper: str, domains: Sequence[str], below: int, rows: int) -> str:
    """Compare our numbers with a paper's; below: how many of the rows are far below it."""
    head = f"Ours compared with {paper} on {listed(domains)}"
    return f"{head}: {below} of {counted(rows, 'value')} far below the paper's"


@sentence
def beams_title(widths: Sequence[int], missed: Sequence[float], top: int) -> str:
    """State how much of the exact top a beam search misses; missed: user means by ascending width."""
    beams = counted(widths[-1], "beam")
    title = f"With {beams} the search misses {percent(missed[-1])} of the true top {top}"
    return title if len(widths) == 1 else f"{title}, with {widths[0]} it misses {percent(missed[0])}"


@sentence
def adaptation_title(
    before: Sequence[float], after: Sequence[float], domains: Sequence[str], metric: str
) -> str:
    """State a metric of validation users before adaptation and at its best epoch, by domain."""
    rises = [two - one for one, two in zip(before, after, strict=True)]
    start, most = f"Validation {metric} at the best epoch of adaptation", leaders(domains, rises)
    if not most:
        return f"{start} is not higher than before in any domain"
    where = f"in {sum(rise > 0 for rise in rises)} of {counted(len(domains), 'domain')}"
    return f"{start} is higher than before {where}, most in {listed(most)} (+{max(rises):.4f})"


@sentence
def tail_title(names: Sequence[str], values: FloatArray, groups: Sequence[str]) -> str:
    """State the best rows on the rarest and most popular targets; values: (rows, groups), rarest first."""

    def said(column: int) -> str:
        best = leaders(names, values[:, column].tolist())
        group = f"{groups[column]} interaction{'' if groups[column] == '1' else 's'}"
        if not best:
            return f"no row finds targets with {group}"
        if len(best) == len(names) > 1:
            return f"all rows find targets with {group} equally well"
        return f"{listed(best)} {'finds' if len(best) == 1 else 'find'} targets with {group} best"

    if len(names) == 1:
        return f"{listed(names)} by how often the target was seen in training"
    text = said(0) if len(groups) == 1 else f"{said(0)}; {said(-1)}"
    return _capital(text) if text.startswith(("no ", "all ")) else text


@sentence
def differences_title(
    first: str, second: str, low: FloatArray, high: FloatArray, metric: str, level: float
) -> str:
    """State how often one method beats another; low, high: the intervals of first minus second."""
    better, worse = int((low > 0).sum()), int((high < 0).sum())
    title = f"{listed([first])} beats {listed([second])} in {better} of {counted(len(low), 'comparison')}"
    title += f" and loses in {worse}" if worse else ""
    return f"{title} ({metric}, {100 * level:g} % intervals exclude zero)"


@sentence
def lead_title(method: str, other: str, metric: str, interval: tuple[float, float, float], users: int) -> str:
    """Compare a method with another one over all users; interval: the difference and its 95 % limits."""
    difference, low, high = interval
    limits = f"{difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, {counted(users, 'test user')})"
    if low <= 0 <= high:
        return f"{listed([method])} and {listed([other])} do not differ significantly in {metric}: {limits}"
    place = "above" if low > 0 else "below"
    return f"{listed([method])} is {place} {listed([other])} in {metric}: {limits}"


@sentence
def worth_title(method: str, metric: str, names: Sequence[str], change: FloatArray, high: FloatArray) -> str:
    """State which parts help: without them, the interval of the change, in percent, is below zero."""
    missed = [place for place in range(len(names)) if high[place] < 0]
    if not missed:
        if len(names) == 1:
            return f"{metric} of {listed(names)} is not significantly lower than that of {listed([method])}"
        return f"{listed([method])}: {metric} is not significantly lower without any of {len(names)} parts"
    worst = min(missed, key=lambda place: float(change[place]))
    of = f"; significantly lower without {len(missed)} of {len(names)} parts" if len(names) > 1 else ""
    lower = f"{abs(change[worst]):.0f} % lower {metric}"
    return f"{listed([names[worst]])} has {lower} than {listed([method])}{of}"


@sentence
def story_title(method: str, place: int | None, shown: int) -> str:
    """State the rank that a method gives to a user's next item, if it is among those shown."""
    if place is not None:
        return f"{listed([method])} ranks the user's next item number {place} of {shown} shown"
    return f"The user's next item is not among the first {shown} of {listed([method])}"
