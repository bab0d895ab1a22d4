"""The Dataset: a catalogue of items in one or several domains, and the users' sequences."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.data.rules import (
    ITEM_TYPES,
    NO_ITEM,
    DataError,
    checked_items,
    checked_sequences,
    content_fingerprint,
    count_repair,
    nearest,
    relabelled,
    renumbered,
)
from genrec_lab.data.whole_files import whole_file

__all__ = ["DataError", "Dataset", "Split"]

# Incremented when the meaning of the files of `write` changes.
FORMAT_VERSION = 1
# What a user may have besides the sequence: columns of its file.
_BESIDE = ("times", "learnt", "validated")
# Leave-one-out takes the last item for the test and the one before for validation; a history needs one more.
HELD_OUT = 2
FILES = ("items.parquet", "sequences.parquet", "dataset.json")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Items and sequences of one or several domains; users of different domains are different users.

    `items`: `item` Int64 0..N-1 in order, `domain`, `title`, `text` strings, `image` path or null, `key` the
    source's id, then any attribute columns. `sequences`: `user` Int64 0..U-1 in order, `domain`, `items`
    List(Int64) oldest first, `key`. Without a column `image` there are no pictures; without `key` the numbers
    are the keys. `repairs` counts repairs during reading. `sources` holds bytes, sha256 and address of raw
    files by "domain/file". `times` holds the interactions' times from the source, null for users without
    times. If a split was given or is by time, `parts` holds for each user the number of training items
    (`learnt`) and the end of validation (`validated`), null for leave-one-out; `given` holds the source's
    rows `user, history, target` by part, if it lists them. `dropped` holds the rows that were left out.
    Raises DataError if the tables contradict each other.

    >>> titles = pl.Series("title", ["Spade", "Rake"])
    >>> items = pl.DataFrame({"item": [0, 1], "domain": "shop", "title": titles, "text": titles})
    >>> sequences = pl.DataFrame({"user": [0], "domain": "shop", "items": [[1, 0]]})
    >>> data = Dataset("mine", items, sequences)
    >>> data.n_items, data.domains, data.domain_items("shop").tolist()
    (2, ('shop',), [0, 1])
    """

    name: str
    items: pl.DataFrame
    sequences: pl.DataFrame
    repairs: dict[str, int] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    times: pl.Series | None = None  # (U,) List of numbers
    parts: pl.DataFrame | None = None  # (U,) learnt, validated: Int64
    given: dict[str, pl.DataFrame] = field(default_factory=dict)
    dropped: pl.DataFrame | None = None  # file, row, reason

    def __post_init__(self) -> None:
        if not self.name:
            raise DataError("dataset: `name` is empty; give it a name such as 'Scientific'")
        items = checked_items(self.items)
        sequences = checked_sequences(self.sequences, items)
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "sequences", sequences)
        object.__setattr__(self, "repairs", dict(self.repairs))
        lengths = sequences["items"].list.len()
        if self.times is not None and not (self.times.list.len() == lengths).fill_null(True).all():
            raise DataError("times: a user has more or fewer times than items; give one time per item")
        if self.parts is not None and self.parts.height != sequences.height:
            raise DataError(
                f"parts: {self.parts.height} rows for {sequences.height} users; give one row per user"
            )

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {', '.join(self.domains)}; {self.n_users:,} users, {self.n_items:,} "
            f"items, {self.n_interactions:,} interactions)"
        )

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains, in the order of their first items."""
        return tuple(self.items["domain"].unique(maintain_order=True))

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue, including those without interactions."""
        return self.items.height

    @property
    def n_users(self) -> int:
        """Number of users over all domains."""
        return self.sequences.height

    @property
    def n_interactions(self) -> int:
        """Number of interactions in all sequences."""
        return int(self.sequences["items"].list.len().sum())

    def item_domains(self) -> np.ndarray:
        """Return each item's domain as an index into `domains`, (N,) int64."""
        index = {name: position for position, name in enumerate(self.domains)}
        return self.items["domain"].replace_strict(index, return_dtype=pl.Int64).to_numpy()

    def domain_items(self, domain: str) -> np.ndarray:
        """Return the item indices of one domain, ascending int64; raises DataError for an unknown domain."""
        self._require_domains([domain])
        return self.items.filter(pl.col("domain") == domain)["item"].to_numpy()

    def training_sequences(self) -> pl.DataFrame:
        """Return `user, domain, items` without held-out items, by the given split or else leave-one-out.

        Users without training items have no row.
        """
        sequences = self.sequences.select("user", "domain", "items")
        left = training_part(sequences)
        if self.parts is not None:
            learnt = self.parts["learnt"].fill_null(left["items"].list.len().cast(pl.Int64))
            cut = sequences.with_columns(learnt=learnt)
            left = cut.with_columns(pl.col("items").list.head("learnt")).drop("learnt")
        return left.filter(pl.col("items").list.len() > 0)

    def select(self, domains: str | Iterable[str]) -> Dataset:
        """Return the data of the named domains, with items and users renumbered from 0.

        Rows keep their order; attribute columns without values are removed; `repairs` does not change. Raises
        DataError for an unknown domain or an empty selection.
        """
        wanted = [domains] if isinstance(domains, str) else list(domains)
        if not wanted:
            raise DataError(f"select: no domain given; choose from {', '.join(self.domains)}")
        self._require_domains(wanted)
        kept = _without_void_attributes(self.items.filter(pl.col("domain").is_in(wanted)))
        new_index = np.full(self.n_items, NO_ITEM, dtype=np.int64)
        new_index[kept["item"].to_numpy()] = np.arange(kept.height)
        theirs = self.of_users(self.sequences["domain"].is_in(wanted).arg_true().to_numpy())
        items = relabelled(theirs.sequences["items"], new_index)
        users = np.arange(theirs.n_users)
        return replace(
            theirs,
            name=self.name if set(wanted) == set(self.domains) else "+".join(dict.fromkeys(wanted)),
            items=kept.with_columns(item=pl.int_range(kept.height, dtype=pl.Int64)),
            sequences=theirs.sequences.with_columns(items),
            given={part: renumbered(rows, users, new_index) for part, rows in theirs.given.items()},
        )

    def of_users(self, chosen: np.ndarray) -> Dataset:
        """Return the data of the chosen users, ascending, renumbered from 0; the items stay as they are."""
        users, items = np.searchsorted(chosen, np.arange(self.n_users)), np.arange(self.n_items)
        given = {part: rows.filter(pl.col("user").is_in(chosen)) for part, rows in self.given.items()}
        return Dataset.from_users(
            self.name,
            self.items,
            self.users()[chosen].with_columns(user=pl.int_range(len(chosen), dtype=pl.Int64)),
            repairs=self.repairs,
            sources=self.sources,
            given={part: renumbered(rows, users, items) for part, rows in given.items() if rows.height},
            dropped=self.dropped,
        )

    @classmethod
    def concat(cls, datasets: Sequence[Dataset], name: str | None = None) -> Dataset:
        """Join several datasets, renumbering items and users; their users stay different users.

        Missing attribute columns become null. Raises DataError if there is no dataset, two of them have the
        same domain, or an attribute column has two types.
        """
        if not datasets:
            raise DataError("concat: no dataset given; give at least one")
        items, users, repairs = [], [], dict[str, int]()
        given: dict[str, list[pl.DataFrame]] = {}
        home: dict[str, str] = {}
        first_item = first_user = 0
        for dataset in datasets:
            for domain in dataset.domains:
                if domain in home:
                    raise DataError(
                        f"concat: domain {domain!r} is in {home[domain]!r} and in {dataset.name!r}; a domain "
                        "may occur only once: rename one of them or leave it out with `select`"
                    )
                home[domain] = dataset.name
            items.append(dataset.items.with_columns(pl.col("item") + first_item))
            own_items = pl.col("items").list.eval(pl.element() + first_item)
            users.append(dataset.users().with_columns(pl.col("user") + first_user, own_items))
            for what, count in dataset.repairs.items():
                count_repair(repairs, what, count)
            new_user = np.arange(dataset.n_users) + first_user
            new_item = np.arange(dataset.n_items) + first_item
            for part, rows in dataset.given.items():
                given.setdefault(part, []).append(renumbered(rows, new_user, new_item))
            first_item, first_user = first_item + dataset.n_items, first_user + dataset.n_users
        try:
            all_items = pl.concat(items, how="diagonal_relaxed")
        except pl.exceptions.PolarsError as error:
            schemas = "; ".join(
                f"{d.name!r}: {dict(list(d.items.schema.items())[len(ITEM_TYPES) :])}" for d in datasets
            )
            raise DataError(
                f"concat: attribute columns have different types ({schemas}); cast or drop them"
            ) from error
        dropped = [dataset.dropped for dataset in datasets if dataset.dropped is not None]
        return cls.from_users(
            name or "+".join(home),
            all_items,
            pl.concat(users, how="diagonal_relaxed"),
            repairs=repairs,
            sources={name: known for dataset in datasets for name, known in dataset.sources.items()},
            given={part: pl.concat(rows) for part, rows in given.items()},
            dropped=pl.concat(dropped) if dropped else None,
        )

    @classmethod
    def from_users(cls, name: str, items: pl.DataFrame, users: pl.DataFrame, **fields: Any) -> Dataset:
        """Return a Dataset from `users`, its sequences with any of the columns times, learnt, validated."""
        there = users.columns
        times = users["times"] if "times" in there else None
        parts = users.select("learnt", "validated") if "learnt" in there else None
        return cls(name, items, users.drop(_BESIDE, strict=False), times=times, parts=parts, **fields)

    def users(self) -> pl.DataFrame:
        """Return the sequences with the columns `times`, `learnt` and `validated` where they are known."""
        beside = [] if self.times is None else [self.times.alias("times")]
        return self.sequences.hstack(beside + ([] if self.parts is None else self.parts.get_columns()))

    def statistics(self) -> pl.DataFrame:
        """Return one row per domain as in GMC Table 2, and the number of items without interactions.

        Columns `domain, users, items, interactions, sparsity` (share of user-item cells that are empty),
        `mean_length` (interactions per user), `items_without_interactions`. A domain without users has null
        for sparsity and mean length.
        """
        lengths = self.sequences.select("domain", length=pl.col("items").list.len().cast(pl.Int64))
        users = lengths.group_by("domain").agg(users=pl.len(), interactions=pl.col("length").sum())
        seen = self.sequences["items"].explode().unique()
        items = self.items.group_by("domain", maintain_order=True).agg(
            items=pl.len(), items_without_interactions=(~pl.col("item").is_in(seen.implode())).sum()
        )
        counts = pl.col("users", "items", "interactions", "items_without_interactions")
        cells = pl.col("users").cast(pl.Float64) * pl.col("items")
        return (
            items.join(users, on="domain", how="left", maintain_order="left")
            .with_columns(counts.fill_null(0).cast(pl.Int64))
            .select(
                pl.col("domain", "users", "items", "interactions"),
                (1 - pl.col("interactions") / cells).fill_nan(None).alias("sparsity"),
                (pl.col("interactions") / pl.col("users")).fill_nan(None).alias("mean_length"),
                pl.col("items_without_interactions"),
            )
        )

    def fingerprint(self) -> str:
        """Return a hex hash of the content, equal for equal content on every machine and in every process.

        It does not depend on row chunks, the order of attribute columns, attribute columns without values,
        the name, the repairs, or the folders of pictures, but on the pictures' file names. Times are not
        included, because their effects are: the order of the items, and the parts of a split.
        """
        picture = pl.col("image").str.replace_all("\\", "/", literal=True).str.split("/").list.last()
        items = _without_void_attributes(self.items).with_columns(picture)
        tables = {"items": items, "sequences": self.sequences}
        tables |= {} if self.parts is None else {"parts": self.parts}
        return content_fingerprint(tables | {f"given {part}": rows for part, rows in self.given.items()})

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write `items.parquet`, `sequences.parquet` and `dataset.json` into `folder`.

        Also writes a given split's rows, such as `given_train.parquet`, and dropped rows, `dropped.csv`. If
        writing fails, the previous files stay. Pictures are not copied, only their paths are written. Raises
        OSError if the disk is full.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        description = {
            "format": FORMAT_VERSION,
            "name": self.name,
            "domains": list(self.domains),
            "repairs": self.repairs,
            "sources": self.sources,
            "given": list(self.given),
            "fingerprint": self.fingerprint(),
        }
        for part, rows in self.given.items():
            rows.write_parquet(target / f"given_{part}.parquet")
        if self.dropped is not None:
            self.dropped.write_csv(target / "dropped.csv")
        items, sequences, described = (target / name for name in FILES)
        # All three are renamed at the end, the last one first, so that a full disk does not damage old files.
        with whole_file(described) as file, whole_file(sequences) as second, whole_file(items) as first:
            self.items.write_parquet(first)
            self.users().write_parquet(second)
            file.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Read a folder that `write` wrote; raises DataError for a missing, foreign or altered one."""
        source = Path(folder)
        for name in FILES:
            if not (source / name).is_file():
                raise DataError(
                    f"{source}: {name} is missing; the folder is not a finished dataset, write it again"
                )
        try:
            description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{source / 'dataset.json'}: cannot be read ({error}); write the dataset again"
            ) from error
        found = description.get("format") if isinstance(description, dict) else None
        if found != FORMAT_VERSION:
            raise DataError(
                f"{source}: format {found!r}, this version reads {FORMAT_VERSION}; write it again"
            )
        for key, kind in {"name": str, "repairs": dict, "fingerprint": str}.items():
            if not isinstance(description.get(key), kind):
                raise DataError(
                    f"{source / 'dataset.json'}: {key} is {description.get(key)!r}, expected a "
                    f"{kind.__name__}; write the dataset again"
                )
        parts = description.get("given", [])
        # Names of files in this folder.
        if not isinstance(parts, list) or not all(isinstance(p, str) and p.isidentifier() for p in parts):
            raise DataError(
                f"{source / 'dataset.json'}: given is {parts!r}, expected names of parts such as "
                f"['train']; write the dataset again"
            )
        try:
            items, users = (pl.read_parquet(source / name) for name in FILES[:2])
            given = {name: pl.read_parquet(source / f"given_{name}.parquet") for name in parts}
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"{source}: its parquet files cannot be read ({error}); write it again"
            ) from error
        facts = {"repairs": description["repairs"], "sources": description.get("sources", {})}
        dataset = cls.from_users(description["name"], items, users, given=given, **facts)
        if dataset.fingerprint() != description["fingerprint"]:
            raise DataError(
                f"{source}: content has fingerprint {dataset.fingerprint()[:12]}, dataset.json says "
                f"{str(description['fingerprint'])[:12]}; the files were altered, write the dataset again"
            )
        return dataset

    def _require_domains(self, wanted: Iterable[str]) -> None:
        for domain in wanted:
            if domain not in self.domains:
                raise DataError(f"unknown domain {domain!r}{nearest(domain, self.domains)}")


def training_part(sequences: pl.DataFrame) -> pl.DataFrame:
    """Return sequences without the items that leave-one-out holds out; short sequences stay whole."""
    length = pl.col("items").list.len().cast(pl.Int64)
    kept = pl.when(length > HELD_OUT).then(length - HELD_OUT).otherwise(length)
    return sequences.with_columns(pl.col("items").list.head(kept))


def _without_void_attributes(items: pl.DataFrame) -> pl.DataFrame:
    attributes = items.columns[len(ITEM_TYPES) :]
    return items.drop(name for name in attributes if items[name].null_count() == items.height)


@dataclass(frozen=True, eq=False)
class Split:
    """Leave-one-out parts: frames `user:Int64, domain, history:List(Int64) oldest first, target:Int64`.

    `repairs` counts users that could not be split normally; `max_history` is the longest history.
    `sequences` holds the training sequences `user, domain, items` of `leave_one_out`; None means those of the
    data set.

    >>> import genrec_lab
    >>> split = genrec_lab.leave_one_out(genrec_lab.load_dataset("bazaar", items=300, users=300))
    >>> split.test.columns, split.test.height
    (['user', 'domain', 'history', 'target'], 300)
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    max_history: int
    repairs: dict[str, int] = field(default_factory=dict)
    sequences: pl.DataFrame | None = None

    def __repr__(self) -> str:
        return (
            f"Split({self.train.height:,} train, {self.valid.height:,} valid, {self.test.height:,} test, "
            f"history <= {self.max_history})"
        )
