"""The users of Bazaar: the lengths of their sequences, their archetypes and their choices."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from genrec_lab.bazaar.world import MIN_LENGTH, BazaarWorld, DomainWorld, stream

# Lengths beyond the minimum follow a mixture of two geometric distributions: most users have a short
# sequence, a fifth have one that is six times as long. The shares and means keep the mixture's mean at 1.
LONG_STAY_SHARE: Final = 0.2
SHORT_STAY_MEAN: Final = 0.5
LONG_STAY_MEAN: Final = 3.0
# Probabilities of lengths are whole numbers, so that every machine draws the same lengths.
_LENGTH_SCALE: Final = 2**40
# The number of redraws for an item that the user already has, before the slower method is used.
_REDRAWS: Final = 4


class Sequences(NamedTuple):
    """The users of one domain, in order.

    `items` are the concatenated items of all users, as indices over all domains, oldest first. `lengths` (U,)
    are the users' numbers of items. `archetypes` (U,) are hidden from every model.
    """

    items: np.ndarray
    lengths: np.ndarray
    archetypes: np.ndarray


def draw_sequences(world: BazaarWorld) -> dict[str, Sequences]:
    """Draw every user of the world: domain -> `Sequences`."""
    config = world.config
    drawn = {}
    sizes = config.domain_sizes(config.n_users(), config.user_shares)
    for domain, n_users in zip(config.domains, sizes, strict=True):
        place = world.domains[domain]
        prior = np.cumsum(place.archetype_weights)
        chance = stream(config.seed, "archetypes", place.shop).integers(0, prior[-1], n_users)
        archetypes = np.searchsorted(prior, chance, side="right")
        # At most a third of a shop's items: beyond that, the remaining choices would say little about taste.
        longest = max(MIN_LENGTH, min(config.max_length, place.n_items // 3))
        lengths = draw_lengths(
            n_users, config.mean_length, longest, stream(config.seed, "lengths", place.shop)
        )
        items = _draw_choices(place, archetypes, lengths, stream(config.seed, "choices", place.shop))
        drawn[domain] = Sequences(items + place.first_item, lengths, archetypes)
    return drawn


def draw_lengths(n_users: int, mean: float, longest: int, rng: np.random.Generator) -> np.ndarray:
    """Draw (U,) sequence lengths from `MIN_LENGTH` to `longest`; `mean` is the mean before truncation."""
    extra = np.arange(longest - MIN_LENGTH + 1)
    weights = np.zeros(len(extra))
    for share, part in ((1 - LONG_STAY_SHARE, SHORT_STAY_MEAN), (LONG_STAY_SHARE, LONG_STAY_MEAN)):
        stop = 1 / (1 + part * (mean - MIN_LENGTH))
        weights += share * stop * (1 - stop) ** extra
    # Longer sequences are cut to `longest`, because a shop would keep only the most recent items.
    weights[-1] += 1 - weights.sum()
    cumulative = np.cumsum(np.rint(weights * _LENGTH_SCALE).astype(np.int64))
    return MIN_LENGTH + np.searchsorted(cumulative, rng.integers(0, cumulative[-1], n_users), side="right")


def _draw_choices(
    place: DomainWorld, archetypes: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the concatenated items of all users of one domain, as indices within the domain."""
    starts = np.cumsum(lengths) - lengths
    items = np.empty(int(lengths.sum()), dtype=np.int64)
    # Items are ordered by cell, so that a cell is a contiguous range of one cumulative sum.
    by_cell = np.argsort(place.cells, kind="stable")
    position_of = np.argsort(by_cell)
    cell_ends = np.cumsum(np.bincount(place.cells, minlength=place.n_cells))
    arrivals = bool(place.new.any())
    for archetype in range(place.n_archetypes):
        users = np.flatnonzero(archetypes == archetype)
        if not len(users):
            continue
        # Longest first, so that the users who are still choosing are always the first rows.
        users = users[np.argsort(-lengths[users], kind="stable")]
        weights = place.archetype_item_weights(archetype)[by_cell]
        late = _weights_before(weights, cell_ends)
        early = _weights_before(np.where(place.new[by_cell], 0, weights), cell_ends) if arrivals else late
        had = np.full((len(users), lengths[users[0]]), -1, dtype=np.int64)
        for step in range(had.shape[1]):
            choosing = int((lengths[users] > step).sum())
            # Only a last choice can be a new item. Without new items, all users draw together.
            staying = int((lengths[users] > step + 1).sum()) if arrivals else choosing
            last_cells = place.cells[had[:choosing, step - 1]] if step else np.full(choosing, place.n_cells)
            rows = np.arange(choosing)
            for pending, before in ((rows[:staying], early), (rows[staying:], late)):
                # Redrawing until the item is new to the user samples from the distribution without the
                # user's items. This is slow if the user already has nearly every item they like; in that
                # case the weights of the user's items are removed.
                for _ in range(_REDRAWS):
                    if not len(pending):
                        break
                    positions = _draw_positions(place.factors[last_cells[pending]], *before, rng)
                    had[pending, step] = by_cell[positions]
                    pending = pending[(had[pending, :step] == had[pending, step, None]).any(axis=1)]
                if len(pending):
                    taken = np.sort(position_of[had[pending, :step]], axis=1)
                    positions = _draw_positions(place.factors[last_cells[pending]], *before, rng, taken)
                    had[pending, step] = by_cell[positions]
        present = np.arange(had.shape[1]) < lengths[users][:, None]
        items[(starts[users][:, None] + np.arange(had.shape[1]))[present]] = had[present]
    return items


def _weights_before(weights: np.ndarray, cell_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of weights (N,) before each item, (N + 1,), and before each cell, (C + 1,).

    `cell_ends` (C,) are the ends of the cells.
    """
    upto = np.concatenate([[0], np.cumsum(weights)])
    return upto, upto[np.concatenate([[0], cell_ends])]


def _draw_positions(
    factors: np.ndarray,
    upto: np.ndarray,
    cell_upto: np.ndarray,
    rng: np.random.Generator,
    taken: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a cell for each row of `factors` (B, C), then a position among the items in cell order: (B,).

    `upto` (N + 1,) and `cell_upto` (C + 1,) are the sums of weights before each item and before each cell;
    `taken` (B, s), ascending, are positions that cannot be drawn.
    """
    of_cells = np.diff(cell_upto)
    if taken is None:
        cells = _chosen(factors * of_cells, rng)
        within = cell_upto[cells] + rng.integers(0, of_cells[cells])
        return np.searchsorted(upto, within, side="right") - 1
    rows = np.arange(len(factors))
    cell_weights = np.tile(of_cells, (len(factors), 1))
    taken_weights = upto[taken + 1] - upto[taken]
    taken_cells = np.searchsorted(cell_upto, upto[taken], side="right") - 1
    np.subtract.at(cell_weights, (rows[:, None], taken_cells), taken_weights)
    cells = _chosen(factors * cell_weights, rng)
    within = cell_upto[cells] + rng.integers(0, cell_weights[rows, cells])
    # The position drawn counts only the remaining items: skip each taken one before it in the cell.
    for column in range(taken.shape[1]):
        before = (taken_cells[:, column] == cells) & (upto[taken[:, column]] <= within)
        within = within + before * taken_weights[:, column]
    return np.searchsorted(upto, within, side="right") - 1


def _chosen(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a column of each row of weights (B, C): (B,)."""
    cumulative = np.cumsum(weights, axis=1)
    chance = rng.integers(0, cumulative[:, -1])
    return (cumulative <= chance[:, None]).sum(axis=1)
