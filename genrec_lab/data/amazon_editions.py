"""Amazon's review data as McAuley's group publishes them: the editions of 2014, 2018 and 2023.

File names and fields follow the data sets' own pages: jmcauley.ucsd.edu/data/amazon (2014),
cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2 (2018), amazon-reviews-2023.github.io (2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from genrec_lab.data.amazon_records import ReviewFields, image_2014, image_2018, image_2023

_UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
_UCSD_2 = "https://datarepo.eng.ucsd.edu/mcauley_group/data"


@dataclass(frozen=True)
class Edition:
    """How one edition's files are called, where they are, and what their fields mean."""

    name: str
    mirrors: tuple[str, ...]
    # Paths below a mirror: all reviews, those of the published 5-core ("" where there is none), metadata.
    reviews: str
    five_core: str
    metadata: str
    fields: ReviewFields
    key: str
    texts: dict[str, tuple[str, ...]]
    image: Callable[[dict[str, Any]], str]
    literals: bool = False


_OLD_FIELDS = ReviewFields("reviewerID", "asin", "unixReviewTime")
_TEXTS: dict[str, tuple[str, ...]] = {"title": ("title",), "description": ("description",)}
EDITIONS = {
    "amazon2014": Edition(
        "amazon2014",
        ("https://snap.stanford.edu/data/amazon/productGraph",),
        "categoryFiles/reviews_{}.json.gz",
        "categoryFiles/reviews_{}_5.json.gz",
        "categoryFiles/meta_{}.json.gz",
        _OLD_FIELDS,
        "asin",
        {**_TEXTS, "brand": ("brand",), "categories": ("categories",)},
        image_2014,
        literals=True,
    ),
    "amazon2018": Edition(
        "amazon2018",
        (f"{_UCSD}/amazon_v2", f"{_UCSD_2}/amazon_v2", "https://jmcauley.ucsd.edu/data/amazon_v2"),
        "categoryFiles/{}.json.gz",
        "categoryFilesSmall/{}_5.json.gz",
        "metaFiles2/meta_{}.json.gz",
        _OLD_FIELDS,
        "asin",
        {**_TEXTS, "brand": ("brand",), "categories": ("category",), "features": ("feature",)},
        image_2018,
    ),
    "amazon2023": Edition(
        "amazon2023",
        (f"{_UCSD}/amazon_2023/raw", f"{_UCSD_2}/amazon_2023/raw"),
        "review_categories/{}.jsonl.gz",
        "",
        "meta_categories/meta_{}.jsonl.gz",
        ReviewFields("user_id", "parent_asin", "timestamp"),
        "parent_asin",
        {
            **_TEXTS,
            "brand": ("store",),
            "categories": ("categories", "main_category"),
            "features": ("features",),
        },
        image_2023,
    ),
}
