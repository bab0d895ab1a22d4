"""Published splits: read as they are, in each of the forms that repositories give them; overlaps are said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_lab.data import DataError, Dataset, load_dataset, split_of
from genrec_lab.lab import open_run, prepare_data, ties_in_short
from genrec_lab.models.recommenders.base import TrainingData

# Every event of the toy: user, item, time; the split by last-out, 1 and 2 being validation and test.
EVENTS = {"u": [("a", 1), ("b", 2), ("c", 3), ("d", 4)], "v": [("b", 5), ("a", 6), ("d", 7)]}
TITLES = {"a": "Apple", "b": "Bean", "c": "Corn", "d": "Dill"}
META = "".join(
    json.dumps({"parent_asin": key, "title": title, "images": []}) + "\n" for key, title in TITLES.items()
)
Rows = list[tuple[str, list[str], str]]
TRAIN: Rows = [("u", ["a"], "b")]
VALID: Rows = [("u", ["a", "b"], "c"), ("v", ["b"], "a")]
TEST: Rows = [("u", ["a", "b", "c"], "d"), ("v", ["b", "a"], "d")]


def keyed(dataset: Dataset, rows: pl.DataFrame) -> Rows:
    """Rows of a split in the source's own ids."""
    items, users = dataset.items["key"].to_list(), dataset.sequences["key"].to_list()
    return [
        (users[user], [items[one] for one in history], items[target])
        for user, history, target in rows.select("user", "history", "target").iter_rows()
    ]


def require_split(dataset: Dataset, train: Rows = TRAIN, valid: Rows = VALID, test: Rows = TEST) -> None:
    """The dataset's split is this one, also after it was written and read, and is what models learn from."""
    split = split_of(dataset)
    assert keyed(dataset, split.train) == train
    assert keyed(dataset, split.valid) == valid
    assert keyed(dataset, split.test) == test
    assert keyed(dataset, TrainingData.of(dataset).pairs()) == train


def parted(last: int) -> dict[str, list[tuple[str, str, int]]]:
    """The events of the three files, the last of each user in test, the one before in valid."""
    found: dict[str, list[tuple[str, str, int]]] = {"train": [], "valid": [], "test": []}
    for user, events in EVENTS.items():
        for place, (item, time) in enumerate(events):
            part = {len(events) - 1: "test", len(events) - 2: "valid"}.get(place, "train")
            found[part].append((user, item, time * last))
    return found


def write_amazon(folder: Path, *, history: bool, ending: str = ".csv", core: bool = True) -> Path:
    """The prepared csv files of Amazon Reviews 2023, as their page shows them."""
    before: dict[str, list[str]] = {}
    for part, events in parted(1_000_000_000_000 if core else 1).items():
        lines = ["user_id,parent_asin,rating,timestamp" + (",history" if history else "")]
        for user, item, time in events:
            past = before.setdefault(user, [])
            lines.append(f"{user},{item},5.0,{time}" + (f",{' '.join(past)}" if history else ""))
            past.append(item)
        text = ("\n".join(lines) + "\n").encode()
        (folder / f"All_Beauty.{part}{ending}").write_bytes(
            gzip.compress(text) if ending.endswith("gz") else text
        )
    (folder / "meta_All_Beauty.jsonl").write_text(META)
    return folder


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
@pytest.mark.parametrize("source", ["amazon2023", "splits"])
def test_amazons_prepared_files_are_their_split(
    tmp_path: Path, source: str, ending: str, history: bool
) -> None:
    dataset = load_dataset(source, folder=write_amazon(tmp_path, history=history, ending=ending))
    assert dataset.domains == ("All_Beauty",)
    assert dataset.items.select("key", "title").rows() == list(TITLES.items())
    assert dataset.times is not None
    assert dataset.times.to_list()[1] == [time * 1_000_000_000_000 for _, time in EVENTS["v"]]
    assert not dataset.given  # every row follows from the sequences
    require_split(dataset)
    dataset.write(tmp_path / "kept")
    require_split(Dataset.read(tmp_path / "kept"))
    assert Dataset.read(tmp_path / "kept").fingerprint() == dataset.fingerprint()
    assert dataset.repairs == {}


def test_a_split_by_time_tests_every_later_event(tmp_path: Path) -> None:
    parts = {
        "train": "u,a,5,1,\nu,b,5,2,a\n",
        "valid": "v,b,5,5,\n",
        "test": "u,c,5,8,a b\nu,d,5,9,a b c\nv,a,5,9,b\n",
    }
    for part, rows in parts.items():
        (tmp_path / f"X.{part}.csv").write_text("user_id,parent_asin,rating,timestamp,history\n" + rows)
    (tmp_path / "meta_X.jsonl").write_text(META)
    dataset = load_dataset("amazon2023", folder=tmp_path)
    (tmp_path / "X.valid.csv").write_text(
        "user_id,parent_asin,rating,timestamp,history\nv,b,5,5,\nu,a,5,6,a b\n"
    )
    with pytest.raises(DataError, match="the valid part has no target with a history before it"):
        split_of(dataset)
    dataset = load_dataset("amazon2023", folder=tmp_path)
    require_split(
        dataset,
        [("u", ["a"], "b")],
        [("u", ["a", "b"], "a")],
        [("u", ["a", "b"], "c"), ("u", ["a", "b", "c"], "d"), ("v", ["b"], "a")],
    )
    # The row c after a, b is the source's own: it does not follow the validation item a.
    assert list(dataset.given) == ["test"] or dataset.repairs["histories_other_than_their_sequences"] == 2
    assert dataset.repairs["valid_items_also_trained_on"] == 1
    assert dataset.training_sequences()["items"].to_list() == [[0, 1]]


def test_prepared_files_without_metadata_and_other_categories(tmp_path: Path) -> None:
    write_amazon(tmp_path, history=False)
    for part in ("train", "valid", "test"):
        (tmp_path / f"Toys.{part}.csv").write_text((tmp_path / f"All_Beauty.{part}.csv").read_text())
    with pytest.raises(DataError, match=r"has 2 train files \(All_Beauty.train.csv, Toys.train.csv\)"):
        load_dataset("splits", folder=tmp_path)
    assert load_dataset("amazon2023", folder=tmp_path, category="All_Beauty").domains == ("All_Beauty",)
    with pytest.raises(DataError, match=r"no item file beside Toys\.train\.csv"):
        load_dataset("splits", folder=tmp_path, stem="Toys")
    bare = load_dataset("splits", folder=tmp_path, stem="Toys", allow_missing_text=True)
    assert (bare.domains, bare.repairs) == (("Toys",), {"items_not_described": 4, "items_without_text": 4})
    require_split(bare)


# RecBole


def write_recbole(folder: Path, rows: dict[str, Rows], user: str = "user_id", *, item: bool = True) -> Path:
    for part, of_part in rows.items():
        lines = [f"{user}:token\titem_id_list:token_seq\titem_id:token"]
        lines += [f"{who}\t{' '.join(history)}\t{target}" for who, history, target in of_part]
        (folder / f"ds.{part}.inter").write_text("\n".join(lines) + "\n")
    if item:
        lines = [f"{key}\t{title}" for key, title in TITLES.items()]
        (folder / "ds.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *lines]) + "\n")
    return folder


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("user", ["user_id", "session_id"])
def test_recboles_benchmark_files_are_their_split(tmp_path: Path, user: str, backwards: bool) -> None:
    train: Rows = [("u", ["a"], "b"), ("u", ["a", "b"], "c"), ("u", ["a", "b", "c"], "a")]
    valid: Rows = [("u", ["a", "b", "c", "a"], "d")]
    test: Rows = [("u", ["a", "b", "c", "a", "d"], "b"), ("w", ["c"], "d")]
    given = {"train": train[::-1] if backwards else train, "valid": valid, "test": test}
    dataset = load_dataset("recbole", folder=write_recbole(tmp_path, given, user))
    require_split(dataset, train, valid, test)
    # Nothing of a session that is only tested is trained on.
    assert dataset.training_sequences()["user"].to_list() == [0]
    assert dataset.sequences["items"].to_list() == [[0, 1, 2, 0, 3, 1], [2, 3]]
    with pytest.raises(DataError, match="k_core: a given split is used as it is"):
        load_dataset("recbole", folder=tmp_path, k_core=2)


def test_recboles_events_are_their_split(tmp_path: Path) -> None:
    for part, events in parted(1).items():
        lines = [f"{user}\t{item}\t{time}.0" for user, item, time in events]
        header = "user_id:token\titem_id:token\ttimestamp:float"
        (tmp_path / f"ds.{part}.inter").write_text("\n".join([header, *lines]) + "\n")
    dataset = load_dataset("recbole", folder=tmp_path, allow_missing_text=True)
    require_split(dataset)
    assert dataset.repairs["items_not_described"] == 4


def test_cut_histories_and_lone_rows_are_used_as_given(tmp_path: Path) -> None:
    """Histories of at most two items, and a user with one training row of a long history."""
    train: Rows = [("u", ["a", "b"], "c"), ("u", ["b", "c"], "d"), ("v", ["d", "c"], "b")]
    valid: Rows = [("u", ["c", "d"], "a")]
    test: Rows = [("u", ["c", "d"], "b"), ("v", ["c", "b"], "a")]
    dataset = load_dataset(
        "recbole", folder=write_recbole(tmp_path, {"train": train, "valid": valid, "test": test})
    )
    require_split(dataset, train, valid, test)
    assert set(dataset.given) == {"train", "valid", "test"}
    assert dataset.training_sequences()["items"].to_list() == [[0, 1, 2, 3], [3, 2, 1]]
    # One of the two rows after c, d cannot be the sequence's own.
    assert dataset.repairs == {"histories_other_than_their_sequences": 1, "repeated_interactions": 2}
    part = dataset.select("ds")
    assert part.fingerprint() == dataset.fingerprint()
    dataset.write(tmp_path / "kept")
    require_split(Dataset.read(tmp_path / "kept"), train, valid, test)


def test_targets_that_the_published_pairs_lack_are_counted(tmp_path: Path) -> None:
    """One training pair per user, whose history has three targets more for models that read sequences."""
    train: Rows = [(user, list("abcd"), "a") for user in "uv"]
    valid: Rows = [(user, list("abcda"), "b") for user in "uv"]
    test: Rows = [(user, list("abcdab"), "c") for user in "uv"]
    write_recbole(tmp_path, {"train": train, "valid": valid, "test": test})
    split = split_of(load_dataset("recbole", folder=tmp_path))
    assert split.train.height == 2
    assert split.repairs == {"training_targets_without_a_given_pair": 6}
    every: Rows = [(user, list("abcda"[:n]), "abcda"[n]) for user in "uv" for n in range(1, 5)]
    opened = {}
    for name, rows in (("few", train), ("all", every)):
        write_recbole(tmp_path, {"train": rows, "valid": valid, "test": test})
        source = {"name": "recbole", "folder": str(tmp_path)}
        run = open_run(name, dataset=source, preset="baselines_tiny", root=tmp_path / "runs")
        prepare_data(run)
        opened[name] = ties_in_short(run)
    assert "the training sequences have 6 targets more than the published training pairs" in opened["few"]
    assert opened["all"] == "Ties in time are unknown: the source gives no times."


def test_one_file_of_histories_is_not_split(tmp_path: Path) -> None:
    rows: Rows = [("0", ["a", "b", "c"], "d"), ("0", ["a", "b"], "c"), ("0", ["a"], "b"), ("1", ["c"], "a")]
    write_recbole(tmp_path, {"train": rows})
    (tmp_path / "ds.train.inter").rename(tmp_path / "ds.inter")
    dataset = load_dataset("recbole", folder=tmp_path)
    assert dataset.sequences["items"].to_list() == [[0, 1, 2, 3], [2, 0]]
    assert dataset.parts is None
    assert keyed(dataset, split_of(dataset).test) == [("0", ["a", "b", "c"], "d")]


def test_a_given_split_is_never_made_anew(tmp_path: Path) -> None:
    write_recbole(tmp_path, {"train": [("u", ["a"], "b")], "valid": VALID[:1], "test": TEST})
    for how in ("leave one out", "time", {"by": "time", "test_from": 3}):
        with pytest.raises(DataError, match="the source has a split of its own, which is used as it is"):
            load_dataset("recbole", folder=tmp_path, split=how)
    with pytest.raises(DataError, match="ties is 'item key', but "):
        load_dataset("recbole", folder=tmp_path, ties="item key")
    assert load_dataset("recbole", folder=tmp_path, split="given").parts is not None


def test_given_and_other_domains_stand_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_recbole(
        tmp_path / "a", {"train": [("u", ["a", "b"], "c")], "valid": [("u", ["b"], "d")], "test": TEST}
    )
    (tmp_path / "b" / "s.txt").write_text("x a b c d\ny d c\n")
    (tmp_path / "b" / "i.txt").write_text("".join(f"{key} {title}\n" for key, title in TITLES.items()))
    dataset = load_dataset(
        "recbole",
        domains={
            "A": tmp_path / "a",
            "B": {"name": "sequences", "file": tmp_path / "b" / "s.txt", "items": tmp_path / "b" / "i.txt"},
        },
    )
    dataset.write(tmp_path / "kept")
    for one in (dataset, Dataset.read(tmp_path / "kept")):
        require_split(
            one,
            [("u", ["a", "b"], "c"), ("x", ["a"], "b"), ("y", ["d"], "c")],
            [("u", ["b"], "d"), ("x", ["a", "b"], "c")],
            [*TEST, ("x", ["a", "b", "c"], "d")],
        )
        assert keyed(one.select("B"), split_of(one.select("B")).test) == [("x", ["a", "b", "c"], "d")]
        assert keyed(one.select("A"), split_of(one.select("A")).test) == TEST
        assert keyed(one, TrainingData.of(one).of_domains("B").pairs()) == [
            ("x", ["a"], "b"),
            ("y", ["d"], "c"),
        ]


# MiniOneRec


def write_minionerec(folder: Path, *, folders: bool, sid: bool) -> Path:
    """Tables of MiniOneRec's kind: Python lists in cells, ids as numbers, windows of ten, sorted by time."""
    numbers = {key: number for number, key in enumerate(TITLES)}
    times = {user: dict(events) for user, events in EVENTS.items()}
    for part, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        frame = pl.DataFrame({
            "user_id": [f"A{user}" for user, _, _ in rows],
            "item_asins": [str(history) for _, history, _ in rows],
            "item_asin": [target for _, _, target in rows],
            "history_item_id": [str([numbers[one] for one in history]) for _, history, _ in rows],
            "item_id": [numbers[target] for _, _, target in rows],
            "history_item_title": [str([TITLES[one] for one in history]) for _, history, _ in rows],
            "item_title": [TITLES[target] for _, _, target in rows],
            "history_rating": [str([5.0] * len(history)) for _, history, _ in rows],
            "rating": [5.0] * len(rows),
            "history_timestamp": [str([times[user][one] for one in history]) for user, history, _ in rows],
            "timestamp": [times[user][target] for user, _, target in rows],
            **({"item_sid": ["<a_1><b_2>"] * len(rows)} if sid else {}),
        })  # fmt: skip
        file = folder / part / "Office_5_2016-10-2018-11.csv" if folders else folder / f"{part}.csv"
        file.parent.mkdir(exist_ok=True, parents=True)
        frame.write_csv(file)
    return folder


@pytest.mark.parametrize("folders", [True, False])
@pytest.mark.parametrize("sid", [True, False])
def test_minionerecs_csv_are_their_split(tmp_path: Path, folders: bool, sid: bool) -> None:
    dataset = load_dataset(
        "splits", folder=write_minionerec(tmp_path, folders=folders, sid=sid), domain="Office"
    )
    letters = {str(number): key for number, key in enumerate(TITLES)}

    def read(rows: pl.DataFrame) -> Rows:
        return [
            (user[1:], [letters[one] for one in history], letters[target])
            for user, history, target in keyed(dataset, rows)
        ]

    split = split_of(dataset)
    assert (read(split.train), read(split.valid), read(split.test)) == (TRAIN, VALID, TEST)
    assert dict(dataset.items.filter(pl.col("title") != "").select("key", "title").iter_rows()) == {
        "1": "Bean", "2": "Corn", "0": "Apple", "3": "Dill",
    }  # fmt: skip
    assert dataset.times is not None and dataset.times.to_list() == [[1, 2, 3, 4], [5, 6, 7]]


def test_items_are_read_beside_minionerecs_csv(tmp_path: Path) -> None:
    write_minionerec(tmp_path, folders=True, sid=False)
    texts = {str(number): {"title": f"{title} &amp; more"} for number, title in enumerate(TITLES.values())}
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "Office.item.json").write_text(json.dumps(texts))
    dataset = load_dataset("splits", folder=tmp_path)
    assert dataset.domains == ("Office_5_2016-10-2018-11",)
    assert dataset.items["title"].to_list() == [f"{title} & more" for title in TITLES.values()]
    assert dataset.repairs == {"texts_with_html_entities": 4}


# Overlaps


def test_held_out_rows_that_are_trained_on_are_refused_or_counted(tmp_path: Path) -> None:
    write_amazon(tmp_path, history=True)
    with (tmp_path / "All_Beauty.train.csv").open("a") as file:
        file.write((tmp_path / "All_Beauty.test.csv").read_text().split("\n")[1] + "\n")
    with pytest.raises(
        DataError, match=r"test.csv: 1 of its 2 rows are also in All_Beauty.train.csv, the first has user 'u'"
    ):
        load_dataset("splits", folder=tmp_path)
    kept = load_dataset("splits", folder=tmp_path, overlap="keep")
    assert kept.repairs["test_rows_also_in_training"] == 1
    assert kept.repairs["valid_earlier_than_training"] == 1
    assert keyed(kept, split_of(kept).test) == TEST
    with pytest.raises(DataError, match="overlap is 'drop', expected 'refuse' or 'keep'"):
        load_dataset("splits", folder=tmp_path, overlap="drop")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("X.valid.csv", None, r"has 0 valid files \(none\); expected one, such as <name>.valid.csv"),
        ("X.valid.csv", "user_id,parent_asin,rating,timestamp\nu,c,5,3\n", "have different columns"),
        ("X.test.csv", "user_id,asin,timestamp,history\nu,d,4,a b\n", "no column 'item' for the role 'item'"),
        ("X.test.csv", "user_id,parent_asin,timestamp,history\n,d,4,a b\n", "1 interactions have no user"),
        (
            "X.test.csv",
            "user_id,parent_asin,timestamp,history\nu,d,noon,a b\n",
            "'noon' in row 1, which is not a time",
        ),
    ],
)
def test_split_files_that_are_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    header = "user_id,parent_asin,timestamp,history\n"
    for part, row in (("train", "u,a,1,\nu,b,2,a\n"), ("valid", "u,c,3,a b\n"), ("test", "u,d,4,a b c\n")):
        (tmp_path / f"X.{part}.csv").write_text(header + row)
    (tmp_path / "meta_X.jsonl").write_text(META)
    require_split(load_dataset("splits", folder=tmp_path), TRAIN, VALID[:1], TEST[:1])
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset("splits", folder=tmp_path)


def test_other_names_of_parts_and_columns(tmp_path: Path) -> None:
    for part, rows in (("training", TRAIN), ("dev", VALID), ("testing", TEST)):
        frame = pl.DataFrame(rows, schema=["who", "past", "next"], orient="row")
        frame.write_parquet(tmp_path / f"{part}.parquet")
    pl.DataFrame({"item": list(TITLES), "title": list(TITLES.values())}).write_csv(tmp_path / "items.csv")
    columns = {"user": "who", "history": "past", "item": "next"}
    dataset = load_dataset("splits", folder=tmp_path, columns=columns)
    require_split(dataset)
    with pytest.raises(DataError, match=r"columns: unknown role 'usr' \(did you mean 'user'"):
        load_dataset("splits", folder=tmp_path, columns={"usr": "who"})
    with pytest.raises(DataError, match=r"no column 'pst' for the role 'history' \(did you mean 'past'"):
        load_dataset("splits", folder=tmp_path, columns={**columns, "history": "pst"})


# One line per user


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u a b c\nv b a\n", {"u": ["a", "b", "c"], "v": ["b", "a"]}),  # S3-Rec, P5
        ("\ufeffu a  b\tc \r\n\r\nv b a\r\n", {"u": ["a", "b", "c"], "v": ["b", "a"]}),
        ("u a\nu b\nv b\nu c\nv a\n", {"u": ["a", "b", "c"], "v": ["b", "a"]}),  # SASRec
        ("u a\nv b\n", {"u": ["a"], "v": ["b"]}),
        ("007 a a\n7 b\n", {"007": ["a", "a"], "7": ["b"]}),
    ],
)  # fmt: skip
def test_text_of_a_line_a_user_or_an_interaction(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    (tmp_path / "sequential_data.txt").write_bytes(text.encode())
    dataset = load_dataset(
        "sequences", file=tmp_path / "sequential_data.txt", allow_missing_text=True, domain="B"
    )
    keys = dataset.items["key"].to_list()
    found = {key: [keys[item] for item in items] for _, _, items, key in dataset.sequences.iter_rows()}
    assert found == expected and dataset.times is None and dataset.parts is None


def test_idgenrecs_texts_are_read(tmp_path: Path) -> None:
    (tmp_path / "user_sequence.txt").write_text("A1 B07 B01\nA2 B01 B07\n")
    (tmp_path / "item_plain_text.txt").write_text(
        "B01 title: Rake; brand: Oak &amp; Co\nB07 title: Saw\n\nB09 title: Pot\n"
    )
    dataset = load_dataset(
        "sequences",
        file=tmp_path / "user_sequence.txt",
        items=tmp_path / "item_plain_text.txt",
        text_template="{title}",
    )
    assert dict(dataset.items.select("key", "text").iter_rows()) == {
        "B01": "title: Rake; brand: Oak & Co", "B07": "title: Saw",
    }  # fmt: skip
    assert dataset.repairs == {"texts_with_html_entities": 1, "items_without_interactions_removed": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u a b\nv\n", "line 2: user 'v' has no item; expected lines such as 'user item item"),
        ("u a b\nv b\nu c\n", "line 3: user 'u' occurs again; expected one line per user"),
        ("  \n", "it has no lines"),
        ("u a \xff", "not UTF-8"),
    ],
)
def test_text_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        load_dataset("sequences", file=tmp_path / "s.txt", allow_missing_text=True)


def test_three_text_files_are_a_split(tmp_path: Path) -> None:
    for part, text in (("train", "u a b\nv b\n"), ("valid", "u c\nv a\n"), ("test", "u d\nv d\n")):
        (tmp_path / f"{part}.txt").write_text(text)
    require_split(load_dataset("splits", folder=tmp_path, allow_missing_text=True))
