"""load_dataset: names, options, several domains of several sources, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_lab.data import SOURCES, DataError, datasets, load_dataset

RATINGS = pl.DataFrame({"user": ["b", "b"], "item": [7, 8], "timestamp": [1, 2]})
BOOKS = pl.DataFrame({"item": [7, 8], "title": ["Seven", "Eight"], "year": [1999, 2008]})


def write_pair(folder: Path, sequences: dict[str, list[int]] | None = None) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    items = {"9": {"title": "Saw"}, "10": {"title": "Rake", "brand": "Oak"}, "11": {"title": "Pot"}}
    (folder / "Shed.inter.json").write_text(json.dumps(sequences or {"u2": [10, 9, 11], "u1": [9, 10]}))
    (folder / "Shed.item.json").write_text(json.dumps(items))
    return folder


def test_several_domains_of_several_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATA", str(tmp_path))
    write_pair(tmp_path / "shed")
    books = {"name": "frames", "interactions": RATINGS, "items": BOOKS}
    dataset = load_dataset(
        "lcrec", domains={"Shed": "${SHOP_DATA}/shed", "Books": books}, text_template="{title}!"
    )
    assert dataset.domains == ("Shed", "Books")
    assert dataset.name == "Shed+Books"
    assert dataset.items["text"].to_list() == ["Saw!", "Rake!", "Pot!", "Seven!", "Eight!"]
    assert dataset.select("Shed").fingerprint() == (
        load_dataset("lcrec", folder=tmp_path / "shed", text_template="{title}!").fingerprint()
    )


def test_a_domain_sets_its_own_options_over_the_shared_ones(tmp_path: Path) -> None:
    folder = write_pair(tmp_path)
    domains = {"A": {"folder": folder, "text_template": "{brand}"}, "B": folder}
    dataset = load_dataset("lcrec", domains=domains, text_template="{title}")
    assert dataset.items["text"].to_list() == ["Saw", "Oak", "Pot", "Saw", "Rake", "Pot"]
    # Brands are missing in the first domain alone: there the title stands in.
    assert dataset.repairs == {"items_without_text": 2}


def test_names_are_listed() -> None:
    assert datasets() == (
        "bazaar",
        "lcrec",
        "recbole",
        "movielens",
        "frames",
        "amazon2014",
        "amazon2018",
        "amazon2023",
    )
    assert set(SOURCES) == set(datasets())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lcrek", {}, r"unknown dataset 'lcrek' \(did you mean 'lcrec'"),
        ("netflix", {}, "unknown dataset 'netflix'; known: bazaar, lcrec"),
        ("lcrec", {}, "the option 'folder' is missing; give it, or domains="),
        ("frames", {}, "the option 'interactions' is missing"),
        ("lcrec", {"foldr": "x"}, r"unknown option 'foldr' \(did you mean 'folder'"),
        ("lcrec", {"folder": "x", "k_kore": 5}, r"unknown option 'k_kore' \(did you mean 'k_core'"),
        ("lcrec", {"folder": "${NOT_SET_HERE}/x"}, "environment variable NOT_SET_HERE, which is not set"),
        ("lcrec", {"folder": 5}, "folder: 5 is no path"),
        ("lcrec", {"domains": {}}, "no mapping of at least one domain"),
        ("lcrec", {"domains": "Scientific"}, "no mapping of at least one domain"),
        ("lcrec", {"domains": {"A": 5}}, r"domains\['A'\]: 5, expected a folder or a mapping"),
        ("lcrec", {"domains": {"": "x"}}, "'' is no name for a domain"),
        ("lcrec", {"domains": {"A": {"name": "fames"}}}, r"unknown dataset 'fames' \(did you mean 'frames'"),
        ("lcrec", {"domains": {"A": {"folder": "x", "domain": "B"}}}, "`domain` is set twice"),
        ("lcrec", {"domains": {"A": {"name": "bazaar"}}}, "bazaar makes its domains itself"),
        (
            "lcrec",
            {"domains": {"A": {"fold": "x"}}},
            r"domains\['A'\]: unknown option 'fold' \(did you mean 'folder'",
        ),
        (
            "lcrec",
            {"domains": {"A": "x"}, "k_kore": 5},
            r"unknown option 'k_kore' beside domains \(did you mean",
        ),
        ("lcrec", {"domains": {"A": "x"}, "folder": "y"}, "unknown option 'folder' beside domains"),
        ("frames", {"domains": {"A": "x"}}, "'frames' has no option 'folder'; give a mapping of its options"),
    ],
)
def test_calls_that_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(name, **options)


def test_an_error_in_one_of_several_domains_names_it(tmp_path: Path) -> None:
    good, bad = write_pair(tmp_path / "good"), write_pair(tmp_path / "bad", {"u": [77]})
    with pytest.raises(DataError, match=r"domains\['Bad'\]: .*user 'u' has item '77'"):
        load_dataset("lcrec", domains={"Good": good, "Bad": bad})
