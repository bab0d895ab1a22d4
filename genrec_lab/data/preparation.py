"""Preparation of interactions for training and testing: k-core, order of ties, splits, co-occurrence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.data.dataset import HELD_OUT, DataError, Dataset, Split, training_part
from genrec_lab.data.rules import count_repair, nearest

# GMC Section 5.1.1: "the maximal number of items is uniformly set to 20".
MAX_HISTORY = 20
# Rules for the order of a user's interactions at equal times; the first is the default.
TIE_RULES = ("file order", "item key", "seeded")
SPLITS = ("leave one out", "time", "given")
CHOICES = ("ties", "ties_seed", "split")
# Counts how many more targets the training sequences have than the pairs of a published training file.
FEWER_PAIRS = "training_targets_without_a_given_pair"
# For a split by time, the shares of all interactions before validation and before the test.
_TRAIN_SHARE, _VALID_SHARE = 0.8, 0.9


def k_core(interactions: pl.DataFrame | pl.LazyFrame, k: int) -> pl.DataFrame:
    """Remove users and items with fewer than `k` interactions until all have `k`; return the rest.

    `interactions` has columns `user`, `item` and any others, one row per interaction; a repeated pair counts
    twice. Rows keep their order and columns. The result may be empty. Raises DataError for a missing
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
    # Text ids are numbered while they are read, so that each row holds two numbers instead of two texts.
    texts = [name for name in ("user", "item") if known[name] == pl.String]
    frame = table.with_columns(pl.col(texts).cast(pl.Categorical)).collect(engine="streaming")
    for name in ("user", "item"):
        if frame[name].null_count():
            raise DataError(f"k_core: {frame[name].null_count()} rows have no {name}; fill or drop them")
    # With small numbers, every round takes two bincounts, regardless of the ids' type.
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
    """Split with each user's last item for testing, the one before for validation, the rest for training.

    Histories are the most recent `max_history` items before the target, oldest first, at least one. Users
    with fewer than three items are used only for training, with the whole sequence (counted as
    `users_too_short`); domains without test users are counted as `domains_without_test`. `max_sequence` first
    truncates sequences to their most recent items (counted as `sequences_shortened` and
    `interactions_left_out`); GMC Section 5.1.1 can be read both ways, and None is the usual reading. Raises
    DataError if no user can be tested.

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
            f"items, the longest sequence has {lengths.max()!r}; a user needs one item for training, one for "
            "validation and one for testing: use data with longer sequences"
        )
    count_repair(repairs, "users_too_short", sequences.height - testable.height)
    count_repair(repairs, "domains_without_test", len(dataset.domains) - testable["domain"].n_unique())
    last = pl.col("items").list.len().cast(pl.Int64) - 1
    valid, test = (_targets_at(testable.with_columns(place=place), max_history) for place in (last - 1, last))
    learnt = training_part(sequences)
    return Split(every_prefix(learnt, max_history), valid, test, max_history, repairs, learnt)


def _targets_at(places: pl.DataFrame, max_history: int) -> pl.DataFrame:
    """Return the item at each `place` of `items` as a target, with the items before it as its history."""
    start = pl.max_horizontal(0, pl.col("place") - max_history)
    return places.select(
        "user",
        "domain",
        history=pl.col("items").list.slice(start, pl.col("place") - start),
        target=pl.col("items").list.get(pl.col("place")),
    )


def ties(dataset: Dataset) -> pl.DataFrame:
    """Count the users whose held-out items have the same time as the item before, so that a rule orders them.

    One row per domain: `domain, users, timed` (users whose times are known), `test_tied` and `valid_tied` (of
    these, whose last item and the one before last are tied so), `interactions_tied` (with another of the same
    user); null where nobody's times are known.
    """
    frame = dataset.sequences.select("domain", times=_times_of(dataset))
    steps = pl.col("times").list.diff(null_behavior="drop")
    tied = pl.col("times").list.len() - pl.col("times").list.unique().list.len()
    known = pl.col("times").is_not_null()
    counted = frame.group_by("domain", maintain_order=True).agg(
        users=pl.len().cast(pl.Int64),
        timed=known.sum().cast(pl.Int64),
        test_tied=(steps.list.get(-1, null_on_oob=True) == 0).sum().cast(pl.Int64),
        valid_tied=(steps.list.get(-2, null_on_oob=True) == 0).sum().cast(pl.Int64),
        interactions_tied=tied.sum().cast(pl.Int64),
    )
    unknown = pl.col("timed") == 0
    return counted.with_columns(
        pl.when(~unknown).then(pl.col(name)) for name in ("test_tied", "valid_tied", "interactions_tied")
    )


def with_ties(dataset: Dataset, rule: str, seed: int = 0) -> Dataset:
    """Return the dataset with each user's interactions of equal times ordered by a rule.

    "file order" keeps the source's order, "item key" sorts by the items' keys, "seeded" draws an order.
    Users without times keep the source's order. Raises DataError for another rule, if nobody has times, and
    for a given split.
    """
    if rule not in TIE_RULES:
        raise DataError(f"ties is {rule!r}{nearest(rule, TIE_RULES)}")
    if rule == TIE_RULES[0]:
        return dataset
    if dataset.times is None or dataset.parts is not None:
        why = "the source gives no times" if dataset.times is None else "a given split is used as it is"
        raise DataError(f"ties is {rule!r}, but {why}; leave it out, or set {TIE_RULES[0]!r}")
    as_listed = dataset.sequences["items"].list.eval(pl.int_range(pl.len())).cast(dataset.times.dtype)
    times = dataset.times.to_frame("times").select(pl.col("times").fill_null(as_listed))["times"]
    places = dataset.sequences.select("user", "items", times=times).explode("items", "times")
    key = pl.Series(np.random.default_rng(seed).random(places.height))
    if rule == "item key":
        key = dataset.items["key"].gather(places["items"])
    ordered = places.with_columns(key=key).sort("user", "times", "key", maintain_order=True)
    items = ordered.group_by("user", maintain_order=True).agg("items")["items"]
    return replace(dataset, sequences=dataset.sequences.with_columns(items))


def choice_problems(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of `ties`, `ties_seed` and `split`, which every source has besides its options."""
    rule, seed, how = (options.get(name) for name in CHOICES)
    if rule is not None and rule not in TIE_RULES:
        yield f"ties is {rule!r}{nearest(str(rule), TIE_RULES)}"
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        yield f"ties_seed is {seed!r}; expected a whole number of at least 0"
    named = {"by": how} if how is None or isinstance(how, str) else how
    if how is None:
        return
    by = named.get("by", "time") if isinstance(named, Mapping) else None
    if by not in SPLITS or not set(named) <= {"by", *(("valid_from", "test_from") if by == "time" else ())}:
        known = ", ".join(map(repr, SPLITS))
        yield f"split is {how!r}; expected {known}, or {{by: time, valid_from: ..., test_from: ...}}"


def with_choices(dataset: Dataset, options: Mapping[str, Any]) -> Dataset:
    """Return the dataset with ties ordered and split by the options `ties`, `ties_seed` and `split`.

    split: "leave one out" (the default), "time" or `{by: time, valid_from: ..., test_from: ...}`, see
    `split_by_time`, or "given" (the default if the source is already split). Raises DataError if a given
    split would be replaced.
    """
    if problems := list(choice_problems(options)):
        raise DataError("; ".join(problems))
    dataset = with_ties(dataset, options.get("ties") or TIE_RULES[0], options.get("ties_seed") or 0)
    how = options.get("split")
    if how is None:
        return dataset
    named = {"by": how} if isinstance(how, str) else dict(how)
    by = named.pop("by", "time")
    if (by == "given") != (dataset.parts is not None):
        has = "no split of its own" if by == "given" else "a split of its own, which is used as it is"
        raise DataError(f"split is {how!r}, but the source has {has}; leave `split` out")
    return split_by_time(dataset, **named) if by == "time" else dataset


def split_of(dataset: Dataset, max_history: int = MAX_HISTORY) -> Split:
    """Return the dataset's split, given or by time, else leave-one-out; see `leave_one_out`.

    Every held-out item is a target after the user's items before it; a target without a history is left out
    (counted as `valid_targets_without_history` and `test_targets_without_history`).
    """
    return (
        leave_one_out(dataset, max_history) if dataset.parts is None else _noted_split(dataset, max_history)
    )


def split_by_time(dataset: Dataset, valid_from: Any = None, test_from: Any = None) -> Dataset:
    """Return the dataset split by time: training before `valid_from`, testing from `test_from` on.

    Both are times in the source's unit, or text of a date if that is seconds or milliseconds; by default the
    times before which 80 % and 90 % of all interactions lie. Every held-out interaction is a target after the
    user's earlier ones. Raises DataError for users without times, and for an empty part.
    """
    times = _times_of(dataset)
    if times.null_count():
        raise DataError(
            f"split by time: the times of {times.null_count():,} of {dataset.n_users:,} users are unknown; "
            "use a source with times, or leave-one-out"
        )
    all_times = times.explode()
    earliest, latest = all_times.to_frame("t").select(first=pl.min("t"), last=pl.max("t")).row(0)
    asked = (("valid_from", valid_from, _TRAIN_SHARE), ("test_from", test_from, _VALID_SHARE))
    bounds: list[Any] = [
        all_times.quantile(share, "higher") if given is None else _moment(name, given, latest)
        for name, given, share in asked
    ]
    if not bounds[0] < bounds[1]:
        raise DataError(
            f"split by time: valid_from {bounds[0]} is not before test_from {bounds[1]}; correct them"
        )
    before = [times.list.eval(pl.element() < bound).list.sum().cast(pl.Int64) for bound in bounds]
    parts = pl.DataFrame({"learnt": before[0], "validated": before[1]})
    ends = [0, parts["learnt"].sum(), parts["validated"].sum(), len(all_times)]
    for part, (start, end) in zip(("training", "validation", "test"), pairwise(ends), strict=True):
        if start == end:
            raise DataError(
                f"split by time: no interaction is in the {part} part; times go from {earliest} to "
                f"{latest}, valid_from is {bounds[0]}, test_from {bounds[1]}"
            )
    return replace(dataset, parts=parts)


def _moment(name: str, given: Any, latest: float) -> float:
    """Return a bound as a number in the unit of the times, inferred from the latest one."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return given
    try:
        moment = datetime.fromisoformat(str(given))
    except ValueError as error:
        raise DataError(
            f"split.{name} is {given!r}; expected a number or a date such as 2018-05-17"
        ) from error
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    # Seconds, milliseconds, microseconds or nanoseconds since 1970, by the number of digits.
    digits = len(str(int(abs(latest))))
    return seconds * 1000 ** max(0, round((digits - 10) / 3))


def _noted_split(dataset: Dataset, max_history: int) -> Split:
    """Return the split in the dataset's parts; leave-one-out for users without parts."""
    repairs: dict[str, int] = {}
    assert dataset.parts is not None  # noqa: S101 - checked by the caller
    length = pl.col("items").list.len().cast(pl.Int64)
    held_out = pl.when(length > HELD_OUT).then(HELD_OUT).otherwise(0)
    frame = dataset.sequences.select("user", "domain", "items").hstack(dataset.parts)
    frame = frame.with_columns(
        pl.col("learnt").fill_null(length - held_out), pl.col("validated").fill_null(length - held_out // 2)
    )
    ranges = {"valid": (pl.col("learnt"), pl.col("validated")), "test": (pl.col("validated"), length)}
    found: dict[str, pl.DataFrame] = {}
    for part, (first, last) in ranges.items():
        listed, others = _listed(dataset.given.get(part), frame, max_history)
        places = others.with_columns(place=pl.int_ranges(first, last)).explode("place").drop_nulls("place")
        count_repair(repairs, f"{part}_targets_without_history", places.filter(pl.col("place") == 0).height)
        found[part] = _targets_at(places.filter(pl.col("place") > 0), max_history)
        if listed is not None:
            found[part] = pl.concat([found[part], listed]).sort("user", maintain_order=True)
        if not found[part].height:
            raise DataError(f"split: the {part} part has no target with a history before it; give more data")
    learnt = dataset.training_sequences()
    train = every_prefix(learnt, max_history)
    if "train" in dataset.given:
        whole = train.height
        train = given_pairs(dataset.given["train"], learnt, max_history)
        count_repair(repairs, FEWER_PAIRS, max(0, whole - train.height))
    return Split(train, found["valid"], found["test"], max_history, repairs)


def given_pairs(given: pl.DataFrame, sequences: pl.DataFrame, max_history: int) -> pl.DataFrame:
    """Return a source's training pairs, `user, history, target`; for other domains every prefix."""
    listed, others = _listed(given, sequences, max_history)
    parts = [] if listed is None else [listed]
    return pl.concat([*parts, every_prefix(others, max_history)] if others.height else parts)


def _listed(
    given: pl.DataFrame | None, users: pl.DataFrame, max_history: int
) -> tuple[pl.DataFrame | None, pl.DataFrame]:
    """Return the rows that a source lists for a part, and the users of domains without such rows."""
    if given is None:
        return None, users
    rows = given.join(users.select("user", "domain"), on="user", maintain_order="left")
    rows = rows.select("user", "domain", pl.col("history").list.tail(max_history), "target")
    return rows, users.filter(~pl.col("domain").is_in(rows["domain"].unique().implode()))


def _times_of(dataset: Dataset) -> pl.Series:
    if dataset.times is not None:
        return dataset.times
    return pl.Series([None], dtype=pl.List(pl.Int64)).new_from_index(0, dataset.n_users)


def co_occurrence_neighbours(dataset: Dataset) -> pl.DataFrame:
    """Return `neighbours_in` the training part of a data set's sequences."""
    return neighbours_in(dataset.training_sequences(), dataset.items)


def neighbours_in(sequences: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Return the items adjacent to each item in sequences `user, items`. UTGRec Section 2.3.2.

    Columns `item:Int64`, a row for every item of the catalogue in order, and `neighbours:List(Int64)`:
    ascending, distinct, without the item itself, possibly empty.
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


def every_prefix(sequences: pl.DataFrame, max_history: int) -> pl.DataFrame:
    """Return a row for every item of every sequence except the first: the items before it, and the item.

    `sequences` has columns `user`, ascending, `items` and any others; in place of `items` the result has
    `history`, the most recent `max_history` items, and `target`.
    """
    places = sequences.with_columns(place=pl.int_ranges(pl.col("items").list.len().cast(pl.Int64))).explode(
        "items", "place"
    )
    # A right-open window: at most max_history positions before this one.
    windows = places.rolling("place", period=f"{max_history}i", closed="left", group_by="user")
    before = windows.agg(history=pl.col("items")).sort("user", "place")
    targets = places.select(pl.exclude("items"), before["history"], target="items")
    return targets.filter(pl.col("place") > 0).drop("place")


def _numbered(ids: pl.Series) -> np.ndarray:
    """Return a number for each id, the same for equal ids, with few unused numbers."""
    return (ids.to_physical() if ids.dtype == pl.Categorical else ids.rank("dense")).to_numpy()
