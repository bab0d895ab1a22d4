"""The data source `halves`: one shop as two domains, a control with a known answer."""

from __future__ import annotations

import polars as pl
import pytest

from genrec_lab.data import DataError, load_dataset, split_of
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


def test_halves_keep_the_split_and_the_times_of_the_whole(tmp_path):
    frame = pl.DataFrame(
        [(f"u{user}", f"i{(user + place) % 7}", user + place) for user in range(6) for place in range(5)],
        schema=["user", "item", "timestamp"],
        orient="row",
    )
    frame.write_csv(tmp_path / "events.csv")
    frame.select("item").unique(maintain_order=True).write_csv(tmp_path / "items.csv")
    of = {
        "name": "frames",
        "interactions": str(tmp_path / "events.csv"),
        "items": str(tmp_path / "items.csv"),
    }
    of |= {"allow_missing_text": True, "split": {"by": "time", "valid_from": 5, "test_from": 7}}
    assert keyed(load_dataset("halves", of=of)) == keyed(load_dataset(**of))
    later = {option: value for option, value in of.items() if option != "split"}
    assert keyed(load_dataset("halves", of=later, split=of["split"])) == keyed(load_dataset(**of))


def test_halves_keep_a_published_split(tmp_path):
    titles, rows = "abcd", {"train": ["ab c", "b d"], "valid": ["bc d", "d a"], "test": ["c a", "da b"]}
    for part, of_part in rows.items():
        lines = [f"{user}\t{' '.join(row[:-2])}\t{row[-1]}" for user, row in zip("uv", of_part, strict=True)]
        header = "user_id:token\titem_id_list:token_seq\titem_id:token"
        (tmp_path / f"ds.{part}.inter").write_text("\n".join([header, *lines]) + "\n")
    lines = [f"{key}\t{key}" for key in titles]
    (tmp_path / "ds.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *lines]) + "\n")
    of = {"name": "recbole", "folder": str(tmp_path)}
    whole, halves = load_dataset(**of), load_dataset("halves", of=of)
    assert set(halves.given) == set(whole.given) and "train" in whole.given
    assert keyed(halves) == keyed(whole)
    assert split_of(halves).train.height == 2


def keyed(dataset):
    """A split by the sources' keys, and the times, by user."""
    items, users = dataset.items["key"], dataset.sequences["key"]
    split = split_of(dataset)
    rows = [
        (part, users[user], items.gather(history).to_list(), items[target])
        for part in ("train", "valid", "test")
        for user, history, target in getattr(split, part).select("user", "history", "target").iter_rows()
    ]
    times = [] if dataset.times is None else dataset.times.to_list()
    return sorted(rows), sorted(zip(users, times, strict=False))


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
