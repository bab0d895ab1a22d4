"""Raw Amazon reviews to a Dataset: the preparations of GMC (2018 edition) and UTGRec (2023 edition).

That repeated reviews count once, the earliest, is the rule of the 2023 edition's benchmark script; GMC's
published 2018 files hold no pair of user and item twice either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.data.amazon_editions import EDITIONS, Edition
from genrec_lab.data.amazon_records import read_metadata, read_reviews
from genrec_lab.data.assembly import RawDomain, ReadingRules, assemble
from genrec_lab.data.dataset import Dataset
from genrec_lab.data.downloads import download, public_address
from genrec_lab.data.item_text import DEFAULT_TEMPLATE
from genrec_lab.data.paths import existing_folder, expanded
from genrec_lab.data.picture_downloads import fetch_pictures
from genrec_lab.data.picture_pack import ENDING, SUFFIX
from genrec_lab.data.preparation import k_core as filtered
from genrec_lab.data.rules import DataError, nearest

# GMC Section 5.1.1 and UTGRec Section 3.1.1: 5-core.
CORE = 5
# What `images` says where pictures are to be fetched.
FETCH = "download"
# UTGRec Section 3.1.1: "we concatenate the title, feature, and category fields".
TEMPLATE_2023 = "{title} {features} {categories}"


@dataclass(frozen=True)
class AmazonOptions:
    """What may be asked of one category of the 2014 or the 2018 edition; DataError where it cannot be.

    `folder` holds all reviews and the metadata, by their published names, also unpacked; `category` may be
    left out where it holds one. `download=True` fetches what is missing from `mirrors`, in order, addresses
    under which the published paths lie. `reviews="5core"` takes the file of the published 5-core.
    `require_title` takes out items without a title, or without metadata at all. `repeats="first"` keeps the
    earliest of a user's reviews of one item. `images` is a template of pictures relative to `folder`, or
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
            if getattr(self, option) not in known:
                raise DataError(
                    f"{option} is {getattr(self, option)!r}, expected {' or '.join(map(repr, known))}"
                )
        for option in ("require_title", "download"):
            if not isinstance(getattr(self, option), bool):
                raise DataError(f"{option} is {getattr(self, option)!r}, expected true or false")
        category = self.category
        if category is not None and (
            not isinstance(category, str) or not category.replace("_", "").isalnum()
        ):
            raise DataError(
                f"category is {category!r}, expected a name as the files have, such as 'Office_Products'"
            )
        for mirror in self.mirrors or ():
            if public_address(mirror) != mirror:
                raise DataError(
                    f"mirrors: {public_address(mirror)!r} comes with a user, a query or a fragment, which "
                    "would stand in the run's manifest; give the plain address"
                )
        if self.download and category is None:
            raise DataError("category is not given; a download needs its name, such as 'Musical_Instruments'")


@dataclass(frozen=True, kw_only=True)
class Amazon2023Options(AmazonOptions):
    """What may be asked of one category of the 2023 edition, as `AmazonOptions`.

    Items without title stay unless `require_title`: UTGRec Section 3.1.1 names no such filter.
    """

    reviews: str = field(default="all", init=False)  # this edition has no file of a 5-core
    require_title: bool = False
    text_template: str = TEMPLATE_2023


@dataclass(frozen=True)
class AmazonRules:
    """What is asked of one category, and what was mended so far."""

    edition: Edition
    options: AmazonOptions
    folder: Path
    reading: ReadingRules
    repairs: dict[str, int] = field(default_factory=dict)


def _reader(edition: str, options: type[AmazonOptions]) -> Callable[..., Dataset]:
    """A reader of an edition, with the signature of its options, by which `load_dataset` knows them."""

    @wraps(options, assigned=("__doc__",), updated=())
    def read(*given: Any, **named: Any) -> Dataset:
        return _read(EDITIONS[edition], options(*given, **named))

    return read


# Metadata of 2014 are Python literals, read as such and never executed.
read_amazon2014 = _reader("amazon2014", AmazonOptions)
# Prepared as GMC Section 5.1.1 says.
read_amazon2018 = _reader("amazon2018", AmazonOptions)
# Prepared as UTGRec Section 3.1.1 says. An item is a `parent_asin`, a time is in milliseconds, `image_url` is
# the main "large" picture.
read_amazon2023 = _reader("amazon2023", Amazon2023Options)


def _read(edition: Edition, options: AmazonOptions) -> Dataset:
    """Read and prepare one category; raises DataError as the messages say, counts every repair."""
    if options.download and isinstance(options.folder, str | os.PathLike):
        Path(expanded(os.fspath(options.folder), "folder")).expanduser().mkdir(parents=True, exist_ok=True)
    folder = existing_folder(options.folder, "folder")
    rules = AmazonRules(edition, options, folder, ReadingRules(options.text_template))
    review_file, metadata_file, sources = _files(rules)
    interactions = _interactions(review_file, rules)
    wanted = set(interactions["item"].unique().cast(pl.String))
    items = read_metadata(
        metadata_file, edition.key, edition.texts, edition.image, wanted, rules.repairs, edition.literals
    )
    if options.require_title:
        interactions = _with_title(interactions, items, rules)
    kept = interactions.with_columns(pl.col("user", "item").cast(pl.String))
    described = _described(kept["item"].unique(), items, rules)
    images = options.images
    if images == FETCH:
        images = _fetched_pictures(described, metadata_file, rules)
    raw = RawDomain(
        domain=options.domain or review_file.name.split(".")[0].removeprefix("reviews_").removesuffix("_5"),
        interactions=kept,
        items=described,
        origin=str(review_file),
        items_origin=str(metadata_file),
        images=images,
        images_base=rules.folder,
        repairs=rules.repairs,
        sources=sources,
    )
    return assemble(raw, rules.reading)


def _interactions(file: Path, rules: AmazonRules) -> pl.DataFrame:
    """The reviews, each pair of user and item once, filtered to the k-core."""
    reviews = read_reviews(file, rules.edition.fields)
    if rules.options.repeats == "first":
        # A pair's two numbers as one: sorting 64-bit numbers needs a tenth of the memory of sorting rows.
        pairs = reviews["user"].to_physical().cast(pl.UInt64).to_numpy() << np.uint64(32)
        pairs |= reviews["item"].to_physical().cast(pl.UInt64).to_numpy()
        in_time = np.argsort(reviews["timestamp"].to_numpy(), kind="stable")
        _, first = np.unique(pairs[in_time], return_index=True)
        rows = np.sort(in_time[first])
        _count(rules, "repeated_reviews_removed", reviews.height - rows.size)
        reviews = reviews[rows]
    return _core(reviews, rules)


def _core(interactions: pl.DataFrame, rules: AmazonRules) -> pl.DataFrame:
    if rules.options.k_core is None:
        return interactions
    kept = filtered(interactions, rules.options.k_core)
    if kept.height == 0:
        raise DataError(
            f"the {rules.options.k_core}-core of {interactions.height:,} interactions is empty; give a "
            "smaller k_core, or more data"
        )
    for what, lost in (
        ("interactions", interactions.height - kept.height),
        ("users", interactions["user"].n_unique() - kept["user"].n_unique()),
        ("items", interactions["item"].n_unique() - kept["item"].n_unique()),
    ):
        _count(rules, f"{what}_removed_by_k_core", lost)
    return kept


def _with_title(interactions: pl.DataFrame, items: pl.DataFrame, rules: AmazonRules) -> pl.DataFrame:
    """The interactions with titled items, filtered to the k-core again.

    Equal to filtering them out first: the k-core of a part lies within the k-core of the whole.
    """
    titled = items.filter(pl.col("title") != "")["key"]
    has_title = interactions["item"].cast(pl.String).is_in(titled.implode())
    untitled = interactions.filter(~has_title)["item"].n_unique()
    if not untitled:
        return interactions
    _count(rules, "items_without_title_removed", untitled)
    _count(rules, "interactions_of_items_without_title_removed", int((~has_title).sum()))
    left = interactions.filter(has_title)
    if left.height == 0:
        raise DataError(
            f"not one of {untitled:,} items has a title; check that reviews and metadata are of one "
            "category, or set "
            "require_title=False"
        )
    return _core(left, rules)


def _described(keys: pl.Series, items: pl.DataFrame, rules: AmazonRules) -> pl.DataFrame:
    """A row for each of these items, without texts where there is no metadata, in the order of their ids."""
    # Not in the order of the metadata, which is that of the crawl.
    table = keys.to_frame("key").join(items, on="key", how="left").sort("key")
    _count(rules, "items_not_described", table["title"].null_count())
    return table.with_columns(pl.all().fill_null(""))


def _fetched_pictures(items: pl.DataFrame, metadata_file: Path, rules: AmazonRules) -> str:
    """Fetch the items' pictures into one file beside the raw ones; the template of their paths."""
    name = metadata_file.name.split(".")[0].removeprefix("meta_") + SUFFIX
    addresses = dict(items.select("key", "image_url").iter_rows())
    found = fetch_pictures(addresses, rules.folder / name)
    for reason, number in found.missing.items():
        _count(rules, f"pictures_missing_{reason.replace(' ', '_').replace(',', '')}", number)
    return f"{name}/{{key}}{ENDING}"


def _files(rules: AmazonRules) -> tuple[Path, Path, dict[str, dict[str, Any]]]:
    """The two files, fetched where that is asked for, and what is known of where they came from."""
    edition = rules.edition
    pattern = edition.five_core if rules.options.reviews == "5core" else edition.reviews
    category = rules.options.category or _only_category(rules, pattern)
    mirrors = rules.options.mirrors or edition.mirrors
    found, sources = [], {}
    for path in (pattern.format(category), edition.metadata.format(category)):
        name = path.rpartition("/")[2]
        file = next(
            (f for f in (rules.folder / name, rules.folder / name.removesuffix(".gz")) if f.is_file()), None
        )
        if file is None and not rules.options.download:
            there = sorted(entry.name for entry in rules.folder.iterdir())
            raise DataError(
                f"folder: no {name} in {rules.folder}{nearest(name, there[:20])}; put it there, or set "
                "download=True"
            )
        if rules.options.download and (file is None or file.name == name):
            file = rules.folder / name
            record = download([f"{mirror.rstrip('/')}/{path}" for mirror in mirrors], file)
            sources[name] = {"bytes": record.bytes, "sha256": record.sha256, "address": record.address}
        assert file is not None  # noqa: S101 - missing files were refused or fetched above
        sources.setdefault(file.name, {"bytes": file.stat().st_size})
        found.append(file)
    return found[0], found[1], sources


def _only_category(rules: AmazonRules, pattern: str) -> str:
    """The one category whose metadata lie in the folder."""
    before, after = rules.edition.metadata.rpartition("/")[2].split("{}")
    endings = (after, after.removesuffix(".gz"))
    names = {
        entry.name.removeprefix(before).removesuffix(ending)
        for entry in rules.folder.iterdir()
        for ending in endings
        if entry.name.startswith(before) and entry.name.endswith(ending)
    }
    if len(names) != 1:
        wanted = pattern.rpartition("/")[2].format("<Category>")
        raise DataError(
            f"folder: {rules.folder} holds metadata of {len(names)} categories "
            f"({', '.join(sorted(names)) or 'none'}); "
            f"expected {wanted} and {before}<Category>{after}, or name one with category=..."
        )
    return names.pop()


def _count(rules: AmazonRules, what: str, number: int) -> None:
    if number:
        rules.repairs[what] = rules.repairs.get(what, 0) + number
