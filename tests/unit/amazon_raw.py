"""Raw Amazon files of three editions, quirks included, and a plain-Python twin of their preparation."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CATEGORY = "Garden_Tools"
NAMES = {
    "amazon2014": (f"reviews_{CATEGORY}.json.gz", f"meta_{CATEGORY}.json.gz"),
    "amazon2018": (f"{CATEGORY}.json.gz", f"meta_{CATEGORY}.json.gz"),
    "amazon2023": (f"{CATEGORY}.jsonl.gz", f"meta_{CATEGORY}.jsonl.gz"),
}
PLACES = {
    "amazon2014": ("categoryFiles", "categoryFiles"),
    "amazon2018": ("categoryFiles", "metaFiles2"),
    "amazon2023": ("review_categories", "meta_categories"),
}


@dataclass
class Raw:
    """The lines of one category, what should be read of its items, and its reviews as (user, item, time)."""

    edition: str
    reviews: list[str]
    metadata: list[str]
    events: list[tuple[str, str, int]]
    titles: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path, packed: bool = True) -> Path:
        """Write both files as published, or unpacked."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in zip(NAMES[self.edition], (self.reviews, self.metadata), strict=True):
            content = "".join(f"{line}\n" for line in lines).encode()
            if packed:
                (folder / name).write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name.removesuffix(".gz")).write_bytes(content)
        return folder

    def served(self, folder: Path) -> dict[str, bytes]:
        """The written files by their published paths."""
        pairs = zip(PLACES[self.edition], NAMES[self.edition], strict=True)
        return {f"/{place}/{name}": (folder / name).read_bytes() for place, name in pairs}


def raw(edition: str, seed: int = 0, users: int = 60, items: int = 25) -> Raw:
    """Reviews with repeats and ties, items without title or metadata, HTML, doubled records."""
    rng = np.random.default_rng(seed)
    keys = [f"B{number:09d}" for number in range(items)]
    events: list[tuple[str, str, int]] = []
    for number in range(users):
        count = int(rng.integers(1, 14))
        chosen = rng.choice(items, size=count, p=_shares(items))
        # Days: many reviews of a user share one.
        times = 1_300_000_000 + 86_400 * rng.integers(0, 9, count)
        events += [
            (f"A{number}USER", keys[item], int(time)) for item, time in zip(chosen, times, strict=True)
        ]
    events = [events[place] for place in rng.permutation(len(events))]
    if edition == "amazon2023":
        events = [(user, item, 1000 * time + place) for place, (user, item, time) in enumerate(events)]
    made = Raw(edition, [], [], events)
    made.reviews = [json.dumps(_review(edition, *event)) for event in events]
    # The last two items have no metadata at all.
    for number, key in enumerate(keys[:-2]):
        record, title = _item(edition, number, key)
        made.titles[key] = title
        line = repr(record) if edition == "amazon2014" else json.dumps(record)
        made.metadata.append(line)
        if edition == "amazon2018" and number % 5 == 0:
            made.metadata.append(line)
        if edition == "amazon2018" and number % 7 == 0:
            made.metadata.append(json.dumps({**record, "brand": "Another"}))
    return made


def _shares(items: int) -> np.ndarray:
    weights = 1 / np.arange(1, items + 1) ** 0.7
    return weights / weights.sum()


def _review(edition: str, user: str, item: str, time: int) -> dict[str, Any]:
    if edition == "amazon2023":
        return {
            "rating": 5.0, "title": "Nice", "text": "Line one<br />Line \"two\" \u00e9", "images": [],
            "asin": f"V{item[1:]}", "parent_asin": item, "user_id": user, "timestamp": time,
            "helpful_vote": 0, "verified_purchase": True,
        }  # fmt: skip
    review: dict[str, Any] = {
        "overall": 4.0, "reviewerID": user, "asin": item, "reviewerName": "J. \"Jo\" D.",
        "reviewText": "caf\u00e9 {not json}", "summary": "", "unixReviewTime": time, "reviewTime": "09 13, "
        "2009",
    }  # fmt: skip
    if edition == "amazon2014":
        return {**review, "helpful": [2, 3]}
    return {
        **review,
        "verified": True,
        "style": {"Color:": " Red"},
        "vote": "1,234",
        "image": ["https://x/a.jpg"],
    }


def _item(edition: str, number: int, key: str) -> tuple[dict[str, Any], str]:
    """A record as the edition writes it, and the title that should be read."""
    if edition == "amazon2014":
        record: dict[str, Any] = {
            "asin": key,
            "categories": [["Garden", "Hand Tools"], ["Garden", f"Kind {number % 3}"]],
            "description": 'It\'s "sharp" &amp; light',
            "related": {"also_bought": ["B000000001"], "buy_after_viewing": []},
            "salesRank": {"Garden": number},
            "price": 3.17,
            "imUrl": f"http://ecx.images-amazon.com/images/I/{number}.jpg",
        }
        if number % 6 == 5:
            return record, ""
        return {
            **record,
            "title": f'Rake\'s No. {number} &amp; "More"',
            "brand": None,
        }, f'Rake\'s No. {number} & "More"'
    if edition == "amazon2018":
        title, clean = f'Saw &amp;amp; Co <span class="a-size">{number}</span>', f"Saw & Co {number}"
        if number % 6 == 5:
            title, clean = "var aPageStart = (new Date()).getTime();", ""
        record = {
            "category": ["Patio", "<span>Garden</span>", f"Kind {number % 3}"],
            "tech1": "", "tech2": "", "fit": "", "main_cat": "<img src=\"https://x/y.png\"/>",
            "description": ["<b>Steel</b>", "blade"] if number % 2 else "", "title": title,
            "brand": "by\n    \n    Oak", "also_buy": [], "rank": ["#1 in <a href=\"/x\">Garden</a>"],
            "feature": ["<li>Long</li>"], "similar_item": " class=\"a-bordered\"><tr><td>x</td></tr>",
            "imageURL": [f"https://images/{number}_US40_.jpg"],
            "imageURLHighRes": [f"https://images/{number}.jpg"], "asin": key, "details": {},
        }  # fmt: skip
        return record, clean
    images = [
        {
            "thumb": "https://t/0.jpg",
            "large": f"https://large/{number}_side.jpg",
            "variant": "PT01",
            "hi_res": None,
        },
        {
            "thumb": "https://t/1.jpg",
            "large": f"https://large/{number}.jpg",
            "variant": "MAIN",
            "hi_res": None,
        },
    ]
    title = "" if number % 6 == 5 else f"Hoe {number}"
    return {
        "main_category": "Patio", "title": title, "average_rating": 4.5, "rating_number": 3,
        "features": ["Ash handle", "Forged head"], "description": [], "price": None,
        "images": images if number % 4 else [], "videos": [], "store": "Oak",
        "categories": ["Patio", "Tools"] if number % 3 else [], "details": {"Deep": {"a": [1]}},
        "parent_asin": key, "bought_together": None,
    }, title  # fmt: skip


def expected_sequences(made: Raw, k: int = 5, require_title: bool | None = None) -> dict[str, list[str]]:
    """Each user's items, oldest first, by loops: repeats and untitled items out, then the k-core."""
    if require_title is None:
        require_title = made.edition != "amazon2023"
    earliest: dict[tuple[str, str], tuple[int, int]] = {}
    for place, (user, item, time) in enumerate(made.events):
        if (user, item) not in earliest or time < earliest[user, item][0]:
            earliest[user, item] = (time, place)
    kept = {pair: when for pair, when in earliest.items() if not require_title or made.titles.get(pair[1])}
    while True:
        users = Counter(user for user, _ in kept)
        items = Counter(item for _, item in kept)
        left = {pair: when for pair, when in kept.items() if users[pair[0]] >= k and items[pair[1]] >= k}
        if len(left) == len(kept):
            break
        kept = left
    sequences: dict[str, list[tuple[tuple[int, int], str]]] = {}
    for (user, item), when in kept.items():
        sequences.setdefault(user, []).append((when, item))
    return {user: [item for _, item in sorted(places)] for user, places in sequences.items()}
