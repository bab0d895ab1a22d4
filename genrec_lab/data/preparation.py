"""From interactions to what is trained and tested on: k-core, leave-one-out, co-occurrence."""

from __future__ import annotations

import numpy as np
import polars as pl

from genrec_lab.data.dataset import DataError, Dataset, Split
from genrec_lab.data.rules import count_repair, nearest

# GMC Section 5.1.1: "the maximal number of items is uniformly set to 20".
MAX_HISTORY = 20
# Leave-one-out takes the last item for the test and the one before for validation; a history needs one more.
HELD_OUT = 2


def k_core(interactions: pl.DataFrame | pl.LazyFrame, k: int) -> pl.DataFrame:
    """The interactions left when users and items with fewer than `k` are taken out until all have `k`.

    `interactions` has columns `user`, `item` and any others, one row per interaction; a pair that comes twice
    counts twice. Rows keep their order and columns. The result may be empty. Raises DataError for a missing
    column, a null id, or `k` below 1.

    >>> bought = pl.DataFrame({"user": [1, 1, 2, 2, 3], "item": [7, 8, 7, 8, 9]})
    >>> k_core(bought, 2).rows()
    [(1, 7), (1, 8), (2, 7), (2, 8)]
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise DataError(f"k_core: k is {k!r}, expected a whole number of at least 1 (1 keeps everything)")
    table = interactions.lazy()
    known = table.collect_schema()
    for name in ("user", "item"):
        if name not in known:
            raise DataError(f"k_core: no column {name!r}{nearest(name, known.names())}; rename yours")
    # Ids of text are numbered while they are read: each row holds two numbers, not two texts.
    texts = [name for name in ("user", "item") if known[name] == pl.String]
    frame = table.with_columns(pl.col(texts).cast(pl.Categorical)).collect(engine="streaming")
    for name in ("user", "item"):
        if frame[name].null_count():
            raise DataError(f"k_core: {frame[name].null_count()} rows have no {name}; fill or drop them")
    # Small numbers let every round be two bincounts, whatever type the ids have.
    users, items = _numbered(frame["user"]), _numbered(frame["item"])
    rows = np.arange(frame.height)
    while rows.size:
        enough_user = np.bincount(users[rows])[users[rows]] >= k
        enough_item = np.bincount(items[rows])[items[rows]] >= k
        kept = rows[enough_user & enough_item]
        if kept.size == rows.size:
            break
        rows = kept
    kept_frame = frame if len(rows) == frame.height else frame[rows]
    return kept_frame.with_columns(pl.col(texts).cast(pl.String))


def leave_one_out(dataset: Dataset, max_history: int = MAX_HISTORY, max_sequence: int | None = None) -> Split:
    """Each user's last item tests, the one before validates, every prefix of the rest trains.

    Histories are the items before the target, oldest first, the most recent `max_history` of them, at least
    one. A user with fewer than three items is only trained on, with the whole sequence (counted as
    `users_too_short`); a domain without any test user is counted as `domains_without_test`. `max_sequence`
    keeps only a sequence's most recent items before all else (counted as `sequences_shortened` and
    `interactions_left_out`); GMC Section 5.1.1 can be read both ways, None is the usual reading. Raises
    DataError where not one user can be tested on.

    >>> items = pl.DataFrame({"item": range(5), "domain": "shop", "title": "", "text": ""})
    >>> sequences = pl.DataFrame({"user": [0], "domain": "shop", "items": [[4, 2, 0, 1]]})
    >>> split = leave_one_out(Dataset("mine", items, sequences))
    >>> split.train["target"].to_list(), split.valid["target"].to_list(), split.test["target"].to_list()
    ([2], [0], [1])
    """
    if isinstance(max_history, bool) or not isinstance(max_history, int) or max_history < 1:
        raise DataError(
            f"leave_one_out: max_history is {max_history!r}, expected a whole number of at least 1"
        )
    if max_sequence is not None and (not isinstance(max_sequence, int) or max_sequence <= HELD_OUT):
        raise DataError(
            f"leave_one_out: max_sequence is {max_sequence!r}, expected None or at least {HELD_OUT + 1}, as "
            "a test needs a history, a validation item and a test item"
        )
    repairs: dict[str, int] = {}
    sequences = dataset.sequences.select("user", "domain", "items")
    lengths = sequences["items"].list.len().cast(pl.Int64)
    if max_sequence is not None:
        count_repair(repairs, "sequences_shortened", int((lengths > max_sequence).sum()))
        count_repair(
            repairs, "interactions_left_out", int((lengths - max_sequence).clip(lower_bound=0).sum())
        )
        sequences = sequences.with_columns(pl.col("items").list.tail(max_sequence))
        lengths = lengths.clip(upper_bound=max_sequence)
    testable = sequences.filter(lengths > HELD_OUT)
    if testable.height == 0:
        raise DataError(
            f"leave_one_out: none of the {dataset.n_users} users of {dataset.name!r} has {HELD_OUT + 1} "
            f"items, the longest has {lengths.max()!r}; one to learn from, one to validate and one to test "
            "are needed: use data with longer sequences"
        )
    count_repair(repairs, "users_too_short", sequences.height - testable.height)
    count_repair(repairs, "domains_without_test", len(dataset.domains) - testable["domain"].n_unique())
    ends = {
        name: testable.select(
            "user",
            "domain",
            history=pl.col("items").list.head(pl.col("items").list.len() - back).list.tail(max_history),
            target=pl.col("items").list.get(-back),
        )
        for name, back in (("valid", 2), ("test", 1))
    }
    train = every_prefix(training_part(sequences), max_history)
    return Split(train, ends["valid"], ends["test"], max_history, repairs)


def co_occurrence_neighbours(dataset: Dataset) -> pl.DataFrame:
    """`neighbours_in` the training part of a data set's sequences, without what leave-one-out holds out."""
    return neighbours_in(training_part(dataset.sequences.select("user", "domain", "items")), dataset.items)


def neighbours_in(sequences: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """The items that are next to each item, left or right, in sequences `user, items`. UTGRec Section 2.3.2.

    Columns `item:Int64`, a row for every item of the catalogue in order, and `neighbours:List(Int64)`: a set,
    ascending, without the item itself, empty where there is none.
    """
    places = sequences.lazy().explode("items").select("user", item="items")
    beside = places.with_columns(next=pl.col("item").shift(-1).over("user"))
    pairs = (
        beside.drop_nulls("next").filter(pl.col("item") != pl.col("next")).select("item", neighbours="next")
    )
    both = pl.concat([pairs, pairs.select(item="neighbours", neighbours="item")])
    sets = both.unique().sort("item", "neighbours").group_by("item", maintain_order=True).agg("neighbours")
    table = catalogue.lazy().select("item").join(sets, on="item", how="left", maintain_order="left")
    return table.with_columns(pl.col("neighbours").fill_null(pl.lit([], dtype=pl.List(pl.Int64)))).collect()


def training_part(sequences: pl.DataFrame) -> pl.DataFrame:
    """Sequences without the items held out; those too short to hold any out stay whole."""
    length = pl.col("items").list.len().cast(pl.Int64)
    kept = pl.when(length > HELD_OUT).then(length - HELD_OUT).otherwise(length)
    return sequences.with_columns(pl.col("items").list.head(kept))


def every_prefix(sequences: pl.DataFrame, max_history: int) -> pl.DataFrame:
    """A row for every item of every sequence but its first: the items before it, and it.

    `sequences` has columns `user`, ascending, `items` and any others; in place of `items` the result has
    `history`, the most recent `max_history` items, and `target`.
    """
    places = sequences.with_columns(place=pl.int_ranges(pl.col("items").list.len().cast(pl.Int64))).explode(
        "items", "place"
    )
    # A window that is open to the right: the places before this one, at most max_history of them.
    windows = places.rolling("place", period=f"{max_history}i", closed="left", group_by="user")
    before = windows.agg(history=pl.col("items")).sort("user", "place")
    targets = places.select(pl.exclude("items"), before["history"], target="items")
    return targets.filter(pl.col("place") > 0).drop("place")


def _numbered(ids: pl.Series) -> np.ndarray:
    """Each id's number, equal ids equal numbers; there are few more numbers than ids."""
    if ids.dtype == pl.Categorical:
        return ids.to_physical().to_numpy()
    known = pl.DataFrame({"id": ids.unique()}).with_row_index("number")
    return ids.to_frame("id").join(known, on="id", how="left", maintain_order="left")["number"].to_numpy()
