"""Published files: what is read in which order, and what is said of files that are wrong."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from genrec_lab.data import DataError, Dataset, load_dataset

ITEMS = {
    "10": {"title": "Rake", "description": "Long.", "brand": "Oak", "categories": "Garden, Tools"},
    "9": {"title": "Saw", "description": "", "brand": "", "categories": ["Tools", "Saws"]},
    "11": {"title": "Pot", "brand": None, "description": ["Red", "clay"], "categories": [["Garden"], "Pots"]},
}  # fmt: skip
SEQUENCES: dict[str, list[Any]] = {"u2": [10, 9, 11], "u1": ["9", "10"]}


def write_pair(folder: Path, inter: Any = None, items: Any = None, name: str = "Shed") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for suffix, content in ((".inter.json", SEQUENCES if inter is None else inter), (".item.json", items)):
        if content is not None or suffix == ".item.json":
            text = content if isinstance(content, str) else json.dumps(ITEMS if content is None else content)
            (folder / f"{name}{suffix}").write_text(text, encoding="utf-8")
    return folder


def by_key(dataset: Dataset) -> dict[str, list[str]]:
    """Each user's sequence in the source's own ids."""
    keys = dataset.items["key"].to_list()
    return {key: [keys[item] for item in items] for _, _, items, key in dataset.sequences.iter_rows()}


# LC-Rec pairs


def test_lcrec_pair_is_read_with_items_in_number_order(tmp_path: Path) -> None:
    dataset = load_dataset("lcrec", folder=write_pair(tmp_path))
    assert dataset.name == "Shed"
    assert dataset.items["key"].to_list() == ["9", "10", "11"]
    assert dataset.items["text"].to_list() == [
        "Saw Tools, Saws",
        "Rake Oak Garden, Tools",
        "Pot Garden, Pots",
    ]
    assert dataset.items["description"].to_list() == ["", "Long.", "Red clay"]
    assert dataset.sequences["key"].to_list() == ["u2", "u1"]
    assert dataset.sequences["items"].to_list() == [[1, 0, 2], [0, 1]]
    assert dataset.repairs == {}


def test_lcrec_ids_that_are_no_numbers_keep_the_order_of_the_file(tmp_path: Path) -> None:
    items = {"b": {"title": "B"}, "a": {"title": "A"}}
    dataset = load_dataset("lcrec", folder=write_pair(tmp_path, {"u": ["a", "b"]}, items), domain="Letters")
    assert dataset.items["key"].to_list() == ["b", "a"]
    assert dataset.domains == ("Letters",)


def test_lcrec_counts_what_it_mends(tmp_path: Path) -> None:
    items = {**ITEMS, "12": {"title": "", "brand": " "}, "13": {"title": "Unseen"}}
    inter = {**SEQUENCES, "u3": [], "u4": ["12", "9", "9", "9"]}
    dataset = load_dataset("lcrec", folder=write_pair(tmp_path, inter, items))
    assert dataset.repairs == {"users_without_items": 1, "repeated_interactions": 2, "items_without_text": 1}
    assert dataset.items["text"].to_list()[3:] == ["12", "Unseen"]
    assert by_key(dataset)["u4"] == ["12", "9", "9", "9"]
    assert dataset.statistics()["items_without_interactions"].to_list() == [1]


def test_lcrec_may_leave_out_items_nobody_interacted_with(tmp_path: Path) -> None:
    folder = write_pair(tmp_path, {"u": [11]})
    dataset = load_dataset("lcrec", folder=folder, keep_unseen_items=False)
    assert dataset.items["key"].to_list() == ["11"]
    assert dataset.repairs == {"items_without_interactions_removed": 2}


def test_lcrec_without_texts_is_read_only_on_demand(tmp_path: Path) -> None:
    folder = write_pair(tmp_path)
    (folder / "Shed.item.json").unlink()
    with pytest.raises(DataError, match=r"no Shed\.item\.json; add it, or set allow_missing_text=True"):
        load_dataset("lcrec", folder=folder)
    dataset = load_dataset("lcrec", folder=folder, allow_missing_text=True)
    assert dataset.items["title"].to_list() == ["", "", ""]
    assert dataset.items["text"].to_list() == ["9", "10", "11"]
    assert dataset.repairs == {"items_not_described": 3, "items_without_text": 3}


def test_lcrec_unknown_item_names_user_and_item(tmp_path: Path) -> None:
    folder = write_pair(tmp_path, {"u1": [10, 9], "u2": [9, 77, 78]})
    with pytest.raises(
        DataError, match=r"user 'u2' has item '77', which .*Shed\.item\.json does not contain \(2 "
    ):
        load_dataset("lcrec", folder=folder)
    dataset = load_dataset("lcrec", folder=folder, allow_missing_text=True)
    assert by_key(dataset)["u2"] == ["9", "77", "78"]
    assert dataset.repairs == {"items_not_described": 2, "items_without_text": 2}


@pytest.mark.parametrize(
    ("inter", "items", "message"),
    [
        ('{"u1": [10, 9],\n "u2": [9 10]}', None, r"Shed\.inter\.json, line 2, column 11: malformed JSON"),
        ('{"u1": [10, 9]', None, r"Shed\.inter\.json, line 1, column 15: malformed JSON"),
        (None, '{\n"9": {"title": "a",}}', r"Shed\.item\.json, line 2, column \d+: malformed JSON"),
        (
            '{"u1": [9],\n\n "u1": [10]}',
            None,
            r"Shed\.inter\.json, line 3: key 'u1' occurs twice; keep one or rename it",
        ),
        (
            None,
            '{"9": {"title": "a"},\n"9": {"title": "b"}}',
            r"Shed\.item\.json, line 2: key '9' occurs twice",
        ),
        ("", None, r"Shed\.inter\.json is empty"),
        (None, "", r"Shed\.item\.json is empty"),
        ("{}", None, "the object is empty"),
        ('{"u1": []}', None, "it has no interactions"),
        ("[[1, 2]]", None, "holds a list, expected an object"),
        ('{"u1": 10}', None, r"user 'u1' has 10, expected a list of item ids"),
        ('{"u1": [10], "u2": [null]}', None, r"user 'u2' has \[None\], expected a list"),
        ('{"u1": [10], "u2": [[10]]}', None, r"user 'u2' has \[\['10'\]\], expected a list"),
        ('{"u1": [10], "u2": [1.5]}', None, r"user 'u2' has \[1\.5\], expected a list"),
        ('{"u1": [10], "u2": [NaN]}', None, "NaN is not a JSON value"),
        ('{"u1": [10], "u2": ["  "]}', None, r"user 'u2' has item '  '"),
        ('{"u1": [10], "u2": [""]}', None, "1 interactions have no item, the first is number 2"),
        (None, '{"9": "Saw"}', r"item '9' has Saw, expected an object"),
        (None, '{"9": {"title": {"en": "Saw"}}}', r"item '9': has an object inside a field"),
        (None, '{\n"9": {"title": "\\ud83d"}}', r"Shed\.item\.json, line 2: .* is half of a character"),
    ],
)
def test_lcrec_files_that_are_refused(tmp_path: Path, inter: str, items: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset("lcrec", folder=write_pair(tmp_path, inter, items))


def test_lcrec_file_that_is_not_utf8_says_the_line(tmp_path: Path) -> None:
    folder = write_pair(tmp_path)
    (folder / "Shed.item.json").write_bytes(b'{\n\n"9": {"title": "Caf\xe9"}}')
    with pytest.raises(DataError, match=r"Shed\.item\.json, line 3: not UTF-8"):
        load_dataset("lcrec", folder=folder)


def test_lcrec_takes_whole_emoji_and_byte_order_marks(tmp_path: Path) -> None:
    folder = write_pair(tmp_path, {"u": [9]}, '\ufeff{"9": {"title": "Saw \\ud83d\\ude00"}}')
    assert load_dataset("lcrec", folder=folder).items["title"].to_list() == ["Saw \U0001f600"]


def test_lcrec_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not there; give the folder"):
        load_dataset("lcrec", folder=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no \*\.inter\.json in .* \(found: nothing\)"):
        load_dataset("lcrec", folder=tmp_path)
    write_pair(tmp_path)
    with pytest.raises(DataError, match="is a file, expected a folder"):
        load_dataset("lcrec", folder=tmp_path / "Shed.inter.json")
    write_pair(tmp_path, name="Attic")
    with pytest.raises(
        DataError, match=r"has 2 \*\.inter\.json files \(Attic\.inter\.json, Shed\.inter\.json\)"
    ):
        load_dataset("lcrec", folder=tmp_path)
    (tmp_path / "Attic.inter.json").unlink()
    (tmp_path / "Shed.item.json").unlink()
    with pytest.raises(DataError, match=r"Shed\.inter\.json and Attic\.item\.json in .* are not a pair"):
        load_dataset("lcrec", folder=tmp_path)


# RecBole atomic files

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\tclass:token_seq\tprice:float\n"
ITEM += '7\tThe "Saw"\tTools Saws\t2.5\n8\tRake\t\t\n'


def write_atomic(folder: Path, inter: str, item: str | None = ITEM) -> Path:
    (folder / "shed.inter").write_text(inter, encoding="utf-8")
    if item is not None:
        (folder / "shed.item").write_text(item, encoding="utf-8")
    return folder


def test_recbole_files_are_read_in_time_order_ties_in_file_order(tmp_path: Path) -> None:
    folder = write_atomic(
        tmp_path, INTER + "b\t8\t1\t30\na\t7\t5\t20\nb\t7\t2\t10\nb\t8\t2\t10\na\t8\t2\t3.5\n"
    )
    dataset = load_dataset("recbole", folder=folder)
    assert dataset.domains == ("shed",)
    assert by_key(dataset) == {"b": ["7", "8", "8"], "a": ["8", "7"]}
    assert dataset.items["title"].to_list() == ['The "Saw"', "Rake"]
    assert dataset.items["text"].to_list() == ['The "Saw" Tools Saws', "Rake"]
    assert dataset.items["price"].to_list() == [2.5, None]
    assert dataset.repairs == {"repeated_interactions": 1}


def test_recbole_takes_a_mapping_of_fields(tmp_path: Path) -> None:
    inter = "who:token\titem_id:token\nb\t8\nb\t7\n"
    columns = {"user": "who", "timestamp": None, "title": "class"}
    dataset = load_dataset("recbole", folder=write_atomic(tmp_path, inter), columns=columns)
    assert by_key(dataset) == {"b": ["8", "7"]}
    assert dataset.items["title"].to_list() == ["Tools Saws", ""]


@pytest.mark.parametrize(
    ("inter", "item", "message"),
    [
        (INTER, ITEM, "it has no interactions"),
        ("user_id\titem_id:token\ta\t7\n", ITEM, r"line 1: field 'user_id' is not of the form name:type"),
        ("user_id:tokn\titem_id:token\na\t7\n", ITEM, "types are token, token_seq, float, float_seq"),
        (
            "user_id:token\titem_id:token\na\t7\n",
            ITEM,
            r'no column \'timestamp\'.*columns=\{"timestamp": None\}',
        ),
        (INTER + "a\t7\t1\tnoon\n", ITEM, "'timestamp' has 'noon' in row 1, which is not a time"),
        (INTER + "a\t7\tbest\t1\n", ITEM, r"shed\.inter, line 2: rating is 'best', its header says float"),
        (INTER + "a\t9\t1\t1\n", ITEM, "user 'a' has item '9'"),
        (INTER + "a\t7\t1\t\n", ITEM, "1 interactions have no timestamp, the first is number 1"),
        (INTER + "a\t7\t1\t1\n", None, r"no shed\.item; add it, or set allow_missing_text=True"),
    ],
)
def test_recbole_files_that_are_refused(tmp_path: Path, inter: str, item: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset("recbole", folder=write_atomic(tmp_path, inter, item))


def test_recbole_without_item_file_is_read_on_demand(tmp_path: Path) -> None:
    folder = write_atomic(tmp_path, INTER + "a\t7\t1\t1\na\t5\t1\t2\n", None)
    dataset = load_dataset("recbole", folder=folder, allow_missing_text=True)
    assert by_key(dataset) == {"a": ["7", "5"]}
    assert dataset.repairs["items_not_described"] == 2


# GroupLens folders


def write_ml_100k(folder: Path) -> Path:
    (folder / "u.data").write_text("1\t2\t5\t30\n1\t1\t3\t20\n2\t1\t4\t10\n")
    flags = {"1": "0|0|0|1|1|1" + "|0" * 13, "2": "0" + "|1" + "|0" * 17, "3": "1" + "|0" * 18}
    lines = [f"{film}|Caf\xe9 {film} (1995)|01-Jan-1995||http://x/|{flag}" for film, flag in flags.items()]
    (folder / "u.item").write_bytes("\n".join([*lines, ""]).encode("latin-1"))
    return folder


def write_ml_1m(folder: Path) -> Path:
    (folder / "ratings.dat").write_text("1::2::5::30\n1::1::3::20\n2::1::4::10\n")
    films = "1::Café: 1 (1995)::Animation|Children's|Comedy\n2::Café 2 (1995)::Action\n3::Café 3::Drama\n"
    (folder / "movies.dat").write_bytes(films.encode("latin-1"))
    return folder


def write_ml_latest(folder: Path) -> Path:
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,2,5.0,30\n1,1,3.5,20\n2,1,4.0,10\n"
    )
    films = '1,"Café, 1 (1995)",Animation|Children|Comedy\n2,Café 2,(no genres listed)\n3,Café 3,Drama\n'
    (folder / "movies.csv").write_text("movieId,title,genres\n" + films, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (write_ml_100k, ["Café 1 (1995) Animation, Children's, Comedy", "Café 2 (1995) Action"]),
        (write_ml_1m, ["Café: 1 (1995) Animation, Children's, Comedy", "Café 2 (1995) Action"]),
        (write_ml_latest, ["Café, 1 (1995) Animation, Children, Comedy", "Café 2"]),
    ],
)
def test_movielens_folders_are_known_by_their_files(tmp_path: Path, write: Any, text: list[str]) -> None:
    dataset = load_dataset("movielens", folder=write(tmp_path))
    assert dataset.domains == ("Movies",)
    assert dataset.items["text"].to_list() == text
    assert by_key(dataset) == {"1": ["1", "2"], "2": ["1"]}
    assert dataset.repairs == {"items_without_interactions_removed": 1}


def test_movielens_finds_posters(tmp_path: Path) -> None:
    posters = tmp_path / "posters"
    posters.mkdir()
    (posters / "2.jpg").write_bytes(b"a picture")
    dataset = load_dataset("movielens", folder=write_ml_1m(tmp_path), posters=posters)
    assert dataset.items["image"].to_list() == [None, str(posters / "2.jpg")]
    assert dataset.repairs["items_without_image"] == 1
    (posters / "2.jpg").unlink()
    with pytest.raises(DataError, match=r"none of 2 pictures exists, the first path is .*posters/1\.jpg"):
        load_dataset("movielens", folder=tmp_path, posters=posters)


def test_movielens_lines_that_are_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a GroupLens folder; expected u"):
        load_dataset("movielens", folder=tmp_path)
    write_ml_1m(tmp_path)
    (tmp_path / "ratings.dat").write_text("1::2::5::30\n\n1::2::5\n")
    with pytest.raises(DataError, match=r"ratings\.dat, line 3: 3 fields separated by '::', expected 4"):
        load_dataset("movielens", folder=tmp_path)
    (tmp_path / "ratings.dat").write_text("1::2::5::30\n1::99::5::31\n")
    with pytest.raises(DataError, match=r"user '1' has item '99', which .*movies\.dat does not contain"):
        load_dataset("movielens", folder=tmp_path)
    (tmp_path / "movies.dat").unlink()
    with pytest.raises(DataError, match=r"movies\.dat is not there"):
        load_dataset("movielens", folder=tmp_path)


# Real data


@pytest.mark.real_data
def test_scientific_text_is_title_brand_and_categories(real_data: Path) -> None:
    folder = real_data / "scientific_2018"
    dataset = load_dataset("lcrec", domains={"Scientific": folder})
    source = json.loads((folder / "Scientific.item.json").read_text(encoding="utf-8"))
    expected = [
        " ".join(html.unescape(" ".join((fields["title"], fields["brand"], fields["categories"]))).split())
        for fields in source.values()
    ]
    assert dataset.items["text"].to_list() == expected
    assert dataset.items["key"].to_list() == list(source)
