"""load_dataset: names, options, several domains of several sources, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_lab.data import SOURCES, DataError, Dataset, datasets, load_dataset, register_source
from genrec_lab.registry import relative_to

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
        "splits",
        "sequences",
        "amazon2014",
        "amazon2018",
        "amazon2023",
        "halves",
    )
    assert set(SOURCES) == set(datasets())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lcrek", {}, r"dataset\.name is 'lcrek' \(did you mean 'lcrec'"),
        ("netflix", {}, "dataset.name is 'netflix'; known: bazaar, lcrec"),
        ("lcrec", {}, r"dataset lacks folder, which lcrec needs; add folder: \.\.\., or domains"),
        ("frames", {}, "dataset lacks interactions, which frames needs"),
        ("lcrec", {"foldr": "x"}, r"dataset\.foldr is unknown \(did you mean 'folder'"),
        ("lcrec", {"folder": "x", "k_kore": 5}, r"dataset\.k_kore is unknown \(did you mean 'k_core'"),
        ("lcrec", {"folder": "${NOT_SET_HERE}/x"}, "environment variable NOT_SET_HERE, which is not set"),
        ("lcrec", {"folder": 5}, "folder: 5 is not a path"),
        ("lcrec", {"domains": {}}, r"dataset\.domains is {}; expected at least one domain"),
        ("lcrec", {"domains": "Scientific"}, "is 'Scientific'; expected at least one domain"),
        ("lcrec", {"domains": {"A": 5}}, r"domains\.A is 5; expected a folder or a mapping"),
        ("lcrec", {"domains": {"": "x"}}, "'' is not a name for a domain"),
        ("lcrec", {"domains": {"A": {"name": "fames"}}}, r"A\.name is 'fames' \(did you mean 'frames'"),
        (
            "lcrec",
            {"domains": {"A": {"folder": "x", "domain": "B"}}},
            "domain is 'B', but the domain's name is already its key",
        ),
        ("lcrec", {"domains": {"A": {"name": "bazaar"}}}, "bazaar makes its domains itself"),
        (
            "lcrec",
            {"domains": {"A": {"fold": "x"}}},
            r"domains\.A\.fold is unknown \(did you mean 'folder'",
        ),
        (
            "lcrec",
            {"domains": {"A": "x"}, "k_kore": 5},
            r"dataset\.k_kore is not an option of these domains \(did you mean",
        ),
        ("lcrec", {"domains": {"A": "x"}, "folder": "y"}, "folder is not an option of these domains"),
        ("frames", {"domains": {"A": "x"}}, "frames takes no folder; give a mapping of its options"),
    ],
)
def test_calls_that_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(name, **options)


def test_an_error_in_one_of_several_domains_names_it(tmp_path: Path) -> None:
    good, bad = write_pair(tmp_path / "good"), write_pair(tmp_path / "bad", {"u": [77]})
    with pytest.raises(DataError, match=r"domains\.Bad: .*user 'u' has item '77'"):
        load_dataset("lcrec", domains={"Good": good, "Bad": bad})


SHOP = """
import polars as pl
from genrec_lab.data import Dataset

def shop(titles: list, domain: str = "Shop", text: str = "") -> Dataset:
    texts = [text + title for title in titles]
    items = {"item": range(len(titles)), "domain": domain, "title": titles, "text": texts}
    users = {"user": [0], "domain": domain, "items": [list(range(len(titles)))]}
    return Dataset(domain, pl.DataFrame(items), pl.DataFrame(users))

def whole(size: int = 2) -> Dataset:
    return shop(["a"] * size)

def table() -> pl.DataFrame:
    return pl.DataFrame({"item": [1]})

def broken() -> Dataset:
    raise KeyError("no such shop")
"""


def test_a_source_in_a_file_beside_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "shops.py").write_text(SHOP)
    write_pair(tmp_path / "shed")
    with relative_to(tmp_path):
        domains = {"A": {"titles": ["x", "y"]}, "Shed": {"name": "lcrec", "folder": "shed"}}
        dataset = load_dataset("shops.py:shop", domains=domains, text="the ")
        assert dataset.domains == ("A", "Shed")
        assert dataset.items["text"][:2].to_list() == ["the x", "the y"]
        assert load_dataset("shops.py:whole").n_items == 2
        for name, options, message in (
            ("shops.py:shop", {"titels": []}, r"titels is unknown \(did you mean 'titles'"),
            ("shops.py:shop", {}, "dataset lacks titles"),
            ("shops.py:shap", {}, r"shops\.py has no shap \(did you mean 'shop'"),
            ("shops.py:table", {}, r"table returned a DataFrame; expected a genrec_lab\.data\.Dataset"),
            ("shops.py:whole", {"domains": {"A": {"size": 3}}}, "makes its domains itself"),
            (
                "shops.py:shop",
                {"domains": {"A": {"titles": ["x"]}}, "titles": ["y"]},
                "titles is not an option of these domains",
            ),
            ("shop.py:shop", {}, r"no file shop\.py"),
            ("no_such_module:shop", {}, "no_such_module cannot be imported"),
        ):
            with pytest.raises(DataError, match=message):
                load_dataset(name, **options)
        with pytest.raises(KeyError) as error:
            load_dataset("shops.py:broken")
        assert "'shops.py:broken'" in error.value.__notes__[0]


def test_a_registered_source_is_like_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOURCES, "_components", dict(SOURCES._components))

    @register_source("one_book")
    def one_book(domain: str = "Books") -> Dataset:
        items = pl.DataFrame({"item": [0], "domain": domain, "title": ["Emma"], "text": ["Emma"]})
        return Dataset("One", items, pl.DataFrame({"user": [0], "domain": domain, "items": [[0]]}))

    assert datasets()[-1] == "one_book"
    assert load_dataset("one_book", domains={"A": {}, "B": {}}).domains == ("A", "B")
    with pytest.raises(DataError, match=r"dataset\.name is 'one_bok' \(did you mean 'one_book'"):
        load_dataset("one_bok")


@pytest.mark.parametrize("place", ["run", "elsewhere"])
def test_relative_paths_begin_at_the_base_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    base = tmp_path / place
    write_pair(base / "shed")
    RATINGS.write_csv(base / "ratings.csv")
    BOOKS.write_csv(base / "books.csv")
    monkeypatch.chdir(base if place == "run" else tmp_path)
    with relative_to(None if place == "run" else base):
        assert load_dataset("lcrec", folder="shed").n_items == 3
        assert load_dataset("frames", interactions="ratings.csv", items="books.csv").n_items == 2
        world = load_dataset("bazaar", items=300, users=3, images="drawn")
    assert world.items["image"][0].startswith(str(base / "drawn"))
