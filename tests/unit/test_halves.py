"""The data source `halves`: one shop as two domains, a control with a known answer."""

from __future__ import annotations

import polars as pl
import pytest

from genrec_lab.data import DataError, load_dataset
from genrec_lab.data.checking import dataset_files, dataset_problems

SHOP = {"name": "bazaar", "domains": ["Garden"], "items": 300}


def test_halves_have_all_items_and_half_of_the_users_each():
    whole = load_dataset(**SHOP, users=91)
    halves = load_dataset("halves", of={**SHOP, "users": 91}, seed=3)
    assert halves.domains == ("Garden A", "Garden B")
    first, second = (halves.items.filter(domain=name).drop("item", "domain") for name in halves.domains)
    assert first.equals(second) and first.equals(whole.items.drop("item", "domain"))
    assert [halves.sequences.filter(domain=name).height for name in halves.domains] == [46, 45]
    same_shop = halves.sequences.with_columns(pl.col("items").list.eval(pl.element() % whole.n_items))
    expected = whole.sequences.sort("key")["key", "items"]
    assert same_shop.sort("key")["key", "items"].equals(expected)
    other = load_dataset("halves", of={**SHOP, "users": 91}, seed=4)
    assert halves.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"items": 300}, "of is {'items': 300}, which has no name"),
        ({**SHOP, "users": 1}, "Garden has 1 users; expected two or more"),
    ],
)
def test_what_cannot_be_halved_is_refused(of, message):
    with pytest.raises(DataError, match=message):
        load_dataset("halves", of=of)


def test_a_run_file_of_halves_is_checked_down_to_the_files_of_the_whole(tmp_path):
    (tmp_path / "Shop.inter.json").write_text("{}")
    halves = {"name": "halves", "of": {"name": "lcrec", "folder": str(tmp_path)}}
    assert dataset_problems({"name": "halves", "of": {"name": "lcrec", "folder": "nowhere"}})
    assert ["no Shop.item" in problem for problem in dataset_problems(halves)] == [True]
    halves["of"]["allow_missing_text"] = True
    assert not dataset_problems(halves)
    assert dataset_files(halves) == [tmp_path / "Shop.inter.json"]
