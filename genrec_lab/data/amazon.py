"""Raw Amazon reviews to a Dataset: the preparations of GMC (2018 edition) and UTGRec (2023 edition).

Of repeated reviews only the earliest counts, as in the 2023 edition's benchmark script; GMC's published 2018
files have no repeated pair of user and item either. This file also holds the papers' statistics, to compare a
prepared Dataset with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.data.amazon_records import EDITIONS, Edition, read_metadata, read_reviews
from genrec_lab.data.assembly import ReadingRules, assemble, kept_core
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.downloads import download, public_address
from genrec_lab.data.given_splits import read_splits, split_files
from genrec_lab.data.item_text import DEFAULT_TEMPLATE
from genrec_lab.data.paths import absolute_path, existing_folder
from genrec_lab.data.picture_files import PACK_SUFFIX, PICTURE_ENDING, fetch_pictures
from genrec_lab.data.rules import DataError, count_repair, nearest, require_bool, require_one_of
from genrec_lab.data.sources import finds, one_domain

# GMC Section 5.1.1 and UTGRec Section 3.1.1: 5-core.
CORE = 5
# The value of `images` that fetches pictures.
FETCH = "download"
# UTGRec Section 3.1.1: "we concatenate the title, feature, and category fields".
TEMPLATE_2023 = "{title} {features} {categories}"


@dataclass(frozen=True)
class AmazonOptions:
    """The options of one category of the 2014 or the 2018 edition; raises DataError for an invalid option.

    `folder` holds all reviews and the metadata under their published names, packed or unpacked; `category`
    may be omitted if there is only one. `download=True` fetches missing files from `mirrors`, a list of base
    addresses that are tried in order. `reviews="5core"` reads the file of the published 5-core.
    `require_title` removes items without a title, or without any metadata. `repeats="first"` keeps
    the earliest of a user's reviews of one item. `images` is a template of pictures relative to `folder`, or
    "download": each item's picture (its attribute `image_url`) is fetched into `<Category>.pictures`, see
    `fetch_pictures`.
    """

    folder: str | os.PathLike[str]
    _: KW_ONLY
    category: str | None = None
    download: bool = False
    mirrors: Sequence[str] | None = None
    reviews: str = "all"
    repeats: str = "first"
    require_title: bool = True
    images: str | None = None
    domain: str | None = None
    text_template: str = DEFAULT_TEMPLATE
    k_core: int | None = CORE

    def __post_init__(self) -> None:
        if isinstance(self.mirrors, str) or not all(isinstance(one, str) for one in self.mirrors or ()):
            raise DataError(f"mirrors is {self.mirrors!r}, expected a list of addresses")
        for option, known in (("reviews", ("all", "5core")), ("repeats", ("first", "all"))):
            require_one_of(option, getattr(self, option), known)
        for option in ("require_title", "download"):
            require_bool(option, getattr(self, option))
        category = self.category
        if category is not None and (
            not isinstance(category, str) or not category.replace("_", "").isalnum()
        ):
            raise DataError(
                f"category is {category!r}, expected a name as in the files' names, such as 'Office_Products'"
            )
        for mirror in self.mirrors or ():
            if public_address(mirror) != mirror:
                raise DataError(
                    f"mirrors: {public_address(mirror)!r} has a user, a query or a fragment, which would be "
                    "written into the run's manifest; give the plain address"
                )
        if self.download and category is None:
            raise DataError("category is not given; a download needs its name, such as 'Musical_Instruments'")


@dataclass(frozen=True, kw_only=True)
class Amazon2023Options(AmazonOptions):
    """The options of one category of the 2023 edition; see `AmazonOptions`.

    Items without a title stay unless `require_title`, because UTGRec Section 3.1.1 has no such filter.
    """

    reviews: str = field(default="all", init=False)  # this edition has no 5-core file
    require_title: bool = False
    text_template: str = TEMPLATE_2023


def _reader(edition: str, options: type[AmazonOptions]) -> Callable[..., Dataset]:
    """Return the reader of an edition; its signature lists its options, for `load_dataset`."""

    def files(named: Mapping[str, Any]) -> object:
        if split := _split_files(edition, options(**named)):
            return split
        return _Category(EDITIONS[edition], options(**named)).files()

    @finds(files)
    @one_domain("category")
    @wraps(options, assigned=("__doc__",), updated=())
    def read(*given: Any, **named: Any) -> Dataset:
        asked = options(*given, **named)
        if _split_files(edition, asked):
            return read_splits(
                asked.folder, stem=asked.category, domain=asked.domain, text_template=asked.text_template
            )
        return _Category(EDITIONS[edition], asked).dataset()

    return read


def _split_files(edition: str, options: AmazonOptions) -> list[Path]:
    """Return the prepared csv files of the 2023 edition, if the folder has them instead of raw reviews."""
    if edition != "amazon2023" or options.download:
        return []
    folder, named = existing_folder(options.folder, "folder"), options.category or "*"
    raw = [file for file in folder.glob(f"{named}.jsonl*") if not file.name.startswith("meta_")]
    if raw or not any(folder.glob(f"{named}.train.csv*")):
        return []
    return list(split_files(folder, options.category).values())


# Metadata of 2014 are Python literals, read as such and never executed.
read_amazon2014 = _reader("amazon2014", AmazonOptions)
# Prepared as GMC Section 5.1.1 says.
read_amazon2018 = _reader("amazon2018", AmazonOptions)
# Prepared as UTGRec Section 3.1.1 says; a folder of the edition's prepared csv files is read as their split.
# An item is a `parent_asin`, a time is in milliseconds, `image_url` is the main "large" picture.
read_amazon2023 = _reader("amazon2023", Amazon2023Options)


@dataclass(frozen=True)
class _Category:
    """One category in a folder, and the repairs so far."""

    edition: Edition
    options: AmazonOptions
    repairs: dict[str, int] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        if self.options.download:
            absolute_path(self.options.folder, "folder").mkdir(parents=True, exist_ok=True)
        return existing_folder(self.options.folder, "folder")

    def dataset(self) -> Dataset:
        options, repairs = self.options, self.repairs
        review_file, metadata_file, sources = self.files()
        interactions = self._interactions(review_file)
        wanted = set(interactions["item"].unique().cast(pl.String))
        items = read_metadata(metadata_file, self.edition, wanted, repairs)
        if options.require_title:
            interactions = self._with_title(interactions, items)
        kept = interactions.with_columns(pl.col("user", "item").cast(pl.String))
        # Ordered by id; the metadata's order is that of the crawl.
        described = kept.select(key=pl.col("item").unique()).join(items, on="key", how="left").sort("key")
        count_repair(repairs, "items_not_described", described["title"].null_count())
        described = described.with_columns(pl.all().fill_null(""))
        images = options.images
        if images == FETCH:
            images = self._fetched_pictures(described, metadata_file)
        name = review_file.name.split(".")[0].removeprefix("reviews_").removesuffix("_5")
        return assemble(
            options.domain or name,
            kept,
            described,
            ReadingRules(options.text_template),
            origin=review_file,
            items_origin=metadata_file,
            images=images,
            images_base=self.folder,
            repairs=repairs,
            sources=sources,
        )

    def _interactions(self, file: Path) -> pl.DataFrame:
        """Return the reviews, each pair of user and item once, filtered to the k-core."""
        reviews = read_reviews(file, self.edition)
        if self.options.repeats == "first":
            # Pack a pair into one number: sorting 64-bit numbers needs a tenth of the memory of sorting rows.
            pairs = reviews["user"].to_physical().cast(pl.UInt64).to_numpy() << np.uint64(32)
            pairs |= reviews["item"].to_physical().cast(pl.UInt64).to_numpy()
            in_time = np.argsort(reviews["timestamp"].to_numpy(), kind="stable")
            _, first = np.unique(pairs[in_time], return_index=True)
            rows = np.sort(in_time[first])
            count_repair(self.repairs, "repeated_reviews_removed", reviews.height - rows.size)
            reviews = reviews[rows]
        return kept_core(reviews, self.options.k_core, self.repairs, str(file))

    def _with_title(self, interactions: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
        """Return the interactions with titled items, filtered to the k-core again.

        This equals removing the others first, because the k-core of a part lies within that of the whole.
        """
        titled = items.filter(pl.col("title") != "")["key"]
        has_title = interactions["item"].cast(pl.String).is_in(titled.implode())
        untitled = interactions.filter(~has_title)["item"].n_unique()
        if not untitled:
            return interactions
        removed = int((~has_title).sum())
        count_repair(self.repairs, "items_without_title_removed", untitled)
        count_repair(self.repairs, "interactions_of_items_without_title_removed", removed)
        if removed == interactions.height:
            raise DataError(
                f"none of {untitled:,} items has a title; check that reviews and metadata are of the same "
                "category, or set require_title=False"
            )
        left = interactions.filter(has_title)
        return kept_core(left, self.options.k_core, self.repairs, "items with a title")

    def _fetched_pictures(self, items: pl.DataFrame, metadata_file: Path) -> str:
        """Fetch the items' pictures into one file next to the raw files; return the template of paths."""
        name = metadata_file.name.split(".")[0].removeprefix("meta_") + PACK_SUFFIX
        addresses = dict(items.select("key", "image_url").iter_rows())
        for reason, number in fetch_pictures(addresses, self.folder / name).missing.items():
            what = f"pictures_missing_{reason.replace(' ', '_').replace(',', '')}"
            count_repair(self.repairs, what, number)
        return f"{name}/{{key}}{PICTURE_ENDING}"

    def files(self) -> tuple[Path, Path, dict[str, dict[str, Any]]]:
        """Return the two files, fetched if requested, and a record of their origin."""
        edition, options = self.edition, self.options
        pattern = edition.five_core if options.reviews == "5core" else edition.reviews
        category = options.category or self._only_category(pattern)
        mirrors = options.mirrors or edition.mirrors
        found, sources = [], {}
        for path in (pattern.format(category), edition.metadata.format(category)):
            name = path.rpartition("/")[2]
            places = (self.folder / name, self.folder / name.removesuffix(".gz"))
            file = next((place for place in places if place.is_file()), places[0])
            if not file.is_file() and not options.download:
                there = sorted(entry.name for entry in self.folder.iterdir())
                raise DataError(
                    f"folder: no {name} in {self.folder}{nearest(name, there[:20])}; put it there, or set "
                    "download=True"
                )
            if options.download and file.name == name:
                record = download([f"{mirror.rstrip('/')}/{path}" for mirror in mirrors], file)
                sources[name] = {"bytes": record.bytes, "sha256": record.sha256, "address": record.address}
            sources.setdefault(file.name, {"bytes": file.stat().st_size})
            found.append(file)
        return found[0], found[1], sources

    def _only_category(self, pattern: str) -> str:
        """Return the only category with metadata in the folder."""
        before, after = self.edition.metadata.rpartition("/")[2].split("{}")
        there = [entry.name.removesuffix(".gz") for entry in self.folder.iterdir()]
        ending = after.removesuffix(".gz")
        names = {
            name.removeprefix(before).removesuffix(ending)
            for name in there
            if name.startswith(before) and name.endswith(ending)
        }
        if len(names) != 1:
            wanted = pattern.rpartition("/")[2].format("<Category>")
            raise DataError(
                f"folder: {self.folder} holds metadata of {len(names)} categories "
                f"({', '.join(sorted(names)) or 'none'}); expected one {wanted} and one "
                f"{before}<Category>{after}; choose a category with category=..."
            )
        return names.pop()


_FIELDS = ("users", "items", "interactions")
_TOGETHER, _PRETRAINING_DOMAINS = "Pre-training", 5
# The table of the paper that uses an edition: users, items and interactions by domain. The pre-training row
# counts its five domains together.
PUBLISHED: dict[str, tuple[str, dict[str, tuple[int, int, int]]]] = {
    "amazon2018": ("GMC Table 2", {
        "Scientific": (8_317, 4_344, 58_492),
        "Pantry": (13_073, 4_897, 126_693),
        "Instruments": (24_772, 9_922, 206_153),
        "Arts": (45_141, 20_956, 390_832),
        "Office": (86_554, 25_847, 675_882),
    }),
    "amazon2023": ("UTGRec Table 1", {
        _TOGETHER: (999_334, 344_412, 8_609_909),
        "Instrument": (57_439, 24_587, 511_836),
        "Scientific": (50_985, 25_848, 412_947),
        "Game": (94_762, 25_612, 814_586),
        "Office": (223_308, 77_551, 1_577_570),
    }),
}  # fmt: skip


def lines_beside_paper(dataset: Dataset, source: str, targets: Sequence[str] = ()) -> list[str]:
    """Return sentences that compare an Amazon dataset with the table of the paper that uses its edition.

    `targets` are the downstream domains; five other domains without their own row form UTGRec's pre-training
    row. There are no sentences for other sources, or if no domain has the name of a row.
    """
    table, printed = PUBLISHED.get(source, ("", {}))
    rows = {row: [row] for row in printed if row in dataset.domains}
    others = [domain for domain in dataset.domains if domain not in targets]
    pretraining = len(others) == _PRETRAINING_DOMAINS and not any(domain in rows for domain in others)
    if _TOGETHER in printed and pretraining:
        rows = {_TOGETHER: others} | rows
    counted, lines = dataset.statistics(), []
    for row, domains in rows.items():
        ours = counted.filter(pl.col("domain").is_in(domains)).select(pl.col(_FIELDS).sum()).row(0)
        numbers = zip(_FIELDS, ours, printed[row], strict=True)
        parts = [
            f"{own:,} {name}" + (f" ({own - theirs:+,})" if own != theirs else "")
            for name, own, theirs in numbers
        ]
        verdict = f"as {table}" if ours == printed[row] else f"DIFFERS from {table}"
        lines.append(f"{row}: {', '.join(parts)}: {verdict}")
    return lines
