"""The best possible ranking on Bazaar, and its expected Recall and NDCG.

A model sees a history h = (h_1, ..., h_n) but not the user's archetype t. Since the world is known, the exact
posterior predictive is known too (notation of `world.py`; S_s are the first s items):

    p(t | h)    proportional to  p(t) * product over s of p(h_s | t, h_(s-1), S_(s-1))
    p(i | h) =  sum over t of p(t | h) p(i | t, h_n, S_n)

Ranking by p(i | h) is Bayes-optimal: no ranking made from h has a higher expected Recall@K or NDCG@K. With
one target per user and r(i) the rank of item i, the expectations are sums over the first K items: of p(i | h)
for Recall@K, and of p(i | h) / log2(r(i) + 1) for NDCG@K. On the targets that were actually drawn, the score
of this ranking differs from its expectation only by chance.

The oracle sees every item before the target. A model that sees only the most recent items has less
information. For users with longer sequences, the oracle is therefore an upper bound that such a model cannot
quite reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from genrec_lab.bazaar.sequences import draw_sequences
from genrec_lab.bazaar.world import BazaarWorld, DomainWorld
from genrec_lab.data.rules import NO_ITEM, DataError, nearest

MAX_ORACLE_ITEMS: Final = 100_000
# Users are ranked in chunks: the most users per chunk, and the most numbers in its (users, items) table.
_CHUNK_USERS: Final = 1024
_CHUNK_NUMBERS: Final = 2**22


class OracleRanking(NamedTuple):
    """The K most likely next items of each user and their exact probabilities, most likely first.

    `items` (U, K) int64 are indices over all domains and `probabilities` (U, K) is float64. If the domain has
    fewer than K items that are new to the user, the rest is filled with -1 and 0. Ties are in index order.
    """

    items: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class BestPossible:
    """The oracle on one part of a split: its rankings in the order of the part's rows, and their metrics.

    `items`, `probabilities` (U, K) are as in `OracleRanking`, with K the largest cut-off. `metrics` is a
    frame `domain, metric, k, expected, realised, users`: `expected` is the highest expected value that any
    model can have on these histories, `realised` the oracle's score on the targets drawn. The last rows, with
    domain "average", weight the domains by their users.
    """

    items: np.ndarray
    probabilities: np.ndarray
    metrics: pl.DataFrame


def oracle_ranking(
    world: BazaarWorld,
    histories: Sequence[Sequence[int] | np.ndarray],
    domain: str,
    k: int,
    *,
    last: bool | np.ndarray = True,
) -> OracleRanking:
    """Rank the next items of one domain's users by their exact probability given the history.

    `last` (U,) marks users whose next choice is their last; only that can be one of the world's new items.
    `histories` are lists of item indices over all domains, oldest first. They start with the user's very
    first item and may be empty. Raises DataError for an unknown domain, an item of another domain, an item
    twice in a history (no user takes an item twice), `k` below 1, or a world of more than 100,000 items.
    """
    if k < 1:
        raise DataError(f"oracle_ranking: k is {k}, expected at least 1")
    found = np.full((len(histories), k), NO_ITEM, dtype=np.int64)
    probabilities = np.zeros((len(histories), k))
    for rows, table in _predictive(world, histories, domain, last):
        best = np.argsort(-table, axis=1, kind="stable")[:, :k]
        chances = np.take_along_axis(table, best, axis=1)
        probabilities[rows, : best.shape[1]] = chances
        first = world.domains[domain].first_item
        found[rows, : best.shape[1]] = np.where(chances > 0, best + first, NO_ITEM)
    return OracleRanking(found, probabilities)


def next_item_probabilities(
    world: BazaarWorld,
    histories: Sequence[Sequence[int] | np.ndarray],
    domain: str,
    *,
    last: bool | np.ndarray = True,
) -> np.ndarray:
    """Return p(i | h) of all items of the domain: (U, N) float64, columns as in `Dataset.domain_items`.

    Rows sum to 1. The arguments are those of `oracle_ranking`, which keeps only the K most likely items. The
    whole table must fit into memory.
    """
    tables = list(_predictive(world, histories, domain, last))
    probabilities = np.zeros((len(histories), world.domains[domain].n_items))
    for rows, table in tables:
        probabilities[rows] = table
    return probabilities


def best_possible(
    dataset_options: Mapping[str, Any], part: pl.DataFrame, ks: int | Sequence[int] = (5, 10)
) -> BestPossible:
    """Return the best possible ranking, Recall@k and NDCG@k on one part of a split of a Bazaar.

    `dataset_options` are the options that the Bazaar was made with. `part` has columns `user, domain,
    history, target`, like `Split.valid` and `Split.test`. The world and the full sequences are drawn again
    from the options, so histories that the split truncated are completed. Raises DataError if `part` does not
    come from this Bazaar, and in the cases of `oracle_ranking`.
    """
    cutoffs = (ks,) if isinstance(ks, int) else tuple(ks)
    if not cutoffs or min(cutoffs) < 1:
        raise DataError(f"best_possible: ks = {ks!r}, expected whole numbers of at least 1")
    world = BazaarWorld.from_options(dataset_options)
    _require_small(world)
    absent = [name for name in ("user", "domain", "history", "target") if name not in part.columns]
    if absent or not part.height:
        problem = f"no column {absent[0]!r}" if absent else "no row"
        raise DataError(f"best_possible: {problem} in `part`; give `valid` or `test` of leave_one_out")
    histories, last = _whole_histories(world, part)
    domains = part["domain"].to_numpy()
    targets = part["target"].to_numpy()
    items = np.full((part.height, max(cutoffs)), NO_ITEM, dtype=np.int64)
    probabilities = np.zeros((part.height, max(cutoffs)))
    for domain in world.domains:
        rows = np.flatnonzero(domains == domain)
        own = [histories[row] for row in rows]
        items[rows], probabilities[rows] = oracle_ranking(world, own, domain, max(cutoffs), last=last[rows])
    metrics = _metrics(items, probabilities, targets, domains, world, cutoffs)
    return BestPossible(items, probabilities, metrics)


def _require_small(world: BazaarWorld) -> None:
    if world.config.items > MAX_ORACLE_ITEMS:
        raise DataError(
            f"the oracle weighs every item for every user: {world.config.items:,} items are too many, "
            f"at most {MAX_ORACLE_ITEMS:,}; take a smaller `items`"
        )


def _padded_histories(
    histories: Sequence[Sequence[int] | np.ndarray], place: DomainWorld
) -> tuple[np.ndarray, np.ndarray]:
    """Return histories as indices within the domain, (U, longest) padded with -1, and their lengths (U,)."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    had = np.full((len(histories), int(lengths.max(initial=0))), NO_ITEM, dtype=np.int64)
    for row, history in enumerate(histories):
        own = np.asarray(history, dtype=np.int64) - place.first_item
        if len(own) and (own.min() < 0 or own.max() >= place.n_items):
            foreign = int(own[(own < 0) | (own >= place.n_items)][0]) + place.first_item
            raise DataError(
                f"history {row}: item {foreign} is not of domain {place.shop.name!r}, whose items are "
                f"{place.first_item}..{place.first_item + place.n_items - 1}"
            )
        if len(np.unique(own)) < len(own):
            raise DataError(f"history {row}: an item comes twice, which has no probability in a Bazaar")
        had[row, : len(own)] = own
    return had, lengths


class _Stock(NamedTuple):
    """The available items: weights (T, N) of the items, 0 if unavailable, and (T, C) of the cells."""

    weights: np.ndarray
    of_cells: np.ndarray

    @classmethod
    def of(cls, place: DomainWorld, weights: np.ndarray) -> _Stock:
        return cls(weights, np.stack([np.bincount(place.cells, row, place.n_cells) for row in weights]))


def _predictive(
    world: BazaarWorld, histories: Sequence[Sequence[int] | np.ndarray], domain: str, last: bool | np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield chunks of rows (B,) and their p(i | h): (B, N) float64; arguments as in `oracle_ranking`."""
    _require_small(world)
    if domain not in world.domains:
        raise DataError(f"oracle_ranking: unknown domain {domain!r}{nearest(domain, world.domains)}")
    place = world.domains[domain]
    had, lengths = _padded_histories(histories, place)
    last = np.broadcast_to(last, lengths.shape)
    late = _Stock.of(place, place.item_weights().astype(np.float64))
    early = _Stock.of(place, np.where(place.new, 0.0, late.weights)) if place.new.any() else late
    factors = place.factors.astype(np.float64)
    size = min(_CHUNK_USERS, max(1, _CHUNK_NUMBERS // place.n_items))
    for stock, rows_of in ((early, np.flatnonzero(~last)), (late, np.flatnonzero(last))):
        for start in range(0, len(rows_of), size):
            rows = rows_of[start : start + size]
            log_posterior = _log_posterior(place, late.weights, early, factors, had[rows], lengths[rows])
            posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
            posterior /= posterior.sum(axis=1, keepdims=True)
            totals = np.empty_like(posterior)
            for length in np.unique(lengths[rows]):
                own = lengths[rows] == length
                totals[own] = _totals(place, stock, factors, had[rows[own], :length])
            cells = _last_cells(place, had[rows], lengths[rows])
            # f does not depend on the archetype, so the mixture over archetypes is one matrix product.
            table = (posterior / totals) @ stock.weights * factors[cells][:, place.cells]
            present = np.arange(had.shape[1]) < lengths[rows][:, None]
            table[np.nonzero(present)[0], had[rows][present]] = 0.0
            yield rows, table


def _last_cells(place: DomainWorld, had: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the row of `place.factors` that applies after the given number of items: (B,)."""
    if not had.shape[1]:
        return np.full(len(had), place.n_cells)
    last = had[np.arange(len(had)), np.maximum(lengths - 1, 0)]
    return np.where(lengths > 0, place.cells[last], place.n_cells)


def _log_posterior(
    place: DomainWorld,
    weights: np.ndarray,
    early: _Stock,
    factors: np.ndarray,
    had: np.ndarray,
    lengths: np.ndarray,
) -> np.ndarray:
    """Return log p(t | h) up to a constant per row: (B, T).

    When the items of a history were chosen, only those with a weight in `early` were available. f of the
    chosen items is the same for all archetypes and cancels; the sums do not.
    """
    prior = place.archetype_weights / place.archetype_weights.sum()
    log_posterior = np.tile(np.log(prior), (len(had), 1))
    for step in range(had.shape[1]):
        rows = np.flatnonzero(lengths > step)
        totals = _totals(place, early, factors, had[rows, :step])
        log_posterior[rows] += np.log(weights[:, had[rows, step]].T) - np.log(totals)
    return log_posterior


def _totals(place: DomainWorld, stock: _Stock, factors: np.ndarray, had: np.ndarray) -> np.ndarray:
    """Return the sum of w_t(i) f(last, i) over the items i not in `had` (B, s): (B, T)."""
    rows = factors[_last_cells(place, had, np.full(len(had), had.shape[1]))]
    taken = np.einsum("tbs,bs->bt", stock.weights[:, had], np.take_along_axis(rows, place.cells[had], axis=1))
    # Weights are whole numbers, so the remaining weight is at least 1 unless no item remains.
    return np.maximum(rows @ stock.of_cells.T - taken, 1.0)


def _whole_histories(world: BazaarWorld, part: pl.DataFrame) -> tuple[list[np.ndarray], np.ndarray]:
    """Return all items of each row's user before the target, including those that the split cut off, and
    whether the target is the user's last item (U,)."""
    of_user: list[tuple[str, np.ndarray]] = []
    for domain, sequences in draw_sequences(world).items():
        of_user += [(domain, own) for own in np.split(sequences.items, np.cumsum(sequences.lengths)[:-1])]
    whole, last = [], []
    for user, domain, history, target in part.select("user", "domain", "history", "target").iter_rows():
        own_domain, items = of_user[user] if 0 <= user < len(of_user) else (None, np.empty(0, dtype=np.int64))
        before = items[: int(np.argmax(items == target))]
        from_here = own_domain == domain and target in items
        if not from_here or list(before[len(before) - len(history) :]) != list(history):
            raise DataError(
                f"best_possible: user {user} of domain {domain!r} with target {target} is not in the Bazaar "
                "of these options; give the options that the dataset was made with, and a part of its split"
            )
        whole.append(before)
        last.append(len(before) + 1 == len(items))
    return whole, np.array(last)


def _metrics(
    items: np.ndarray,
    probabilities: np.ndarray,
    targets: np.ndarray,
    domains: np.ndarray,
    world: BazaarWorld,
    cutoffs: tuple[int, ...],
) -> pl.DataFrame:
    """Return expected and realised Recall and NDCG by domain, metric and cut-off, then for all users."""
    discounts = 1 / np.log2(np.arange(items.shape[1]) + 2)
    hits = items == targets[:, None]
    groups = [(name, domains == name) for name in world.domains if (domains == name).any()]
    rows = []
    for name, members in [*groups, ("average", np.full(len(domains), True))]:
        for metric, gains in (("recall", np.ones_like(discounts)), ("ndcg", discounts)):
            for k in cutoffs:
                expected = (probabilities[members, :k] @ gains[:k]).mean()
                realised = (hits[members, :k] @ gains[:k]).mean()
                rows.append((name, metric, k, expected, realised, int(members.sum())))
    schema = {
        "domain": pl.String, "metric": pl.String, "k": pl.Int64, "expected": pl.Float64,
        "realised": pl.Float64, "users": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")
