"""Tables of one's own in all the forms in which they come: read, counted, dropped, refused and said."""

from __future__ import annotations

import ast
import gzip
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from genrec_lab.cli import main
from genrec_lab.data import DataError, Dataset, load_dataset

ITEMS = "item,title,genres\n1,One,Drama|Horror\n2,Two,\n3,Three,Comedy\n"
GENRES = {"categories": "genres"}
EXPECTED = {"u": ["1", "2"], "v": ["3", "1"]}


def sequences(dataset: Dataset) -> dict[str, list[str]]:
    """Each user's sequence in the source's own ids."""
    keys = dataset.items["key"].to_list()
    return {key: [keys[item] for item in items] for _, _, items, key in dataset.sequences.iter_rows()}


def read(
    folder: Path, ratings: str | bytes, items: str | bytes = ITEMS, name: str = "r.csv", **options: Any
) -> Dataset:
    for file, text in ((folder / name, ratings), (folder / "items.csv", items)):
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    options = {"columns": GENRES, **options}
    return load_dataset("frames", interactions=folder / name, items=folder / "items.csv", **options)


PLAIN = "user,item,timestamp\nu,2,2018-05-02\nu,1,2018-05-01\nv,1,2018-06-01\nv,3,2018-01-09\n"
FORMS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "csv": ("r.csv", PLAIN.encode(), {}),
    "bom": ("r.csv", b"\xef\xbb\xbf" + PLAIN.encode(), {}),
    "windows lines": ("r.csv", PLAIN.replace("\n", "\r\n").encode(), {}),
    "gzip": ("r.csv.gz", gzip.compress(PLAIN.encode()), {}),
    "tsv": ("r.tsv", PLAIN.replace(",", "\t").encode(), {}),
    "semicolons": ("r.csv", PLAIN.replace(",", ";").encode(), {"separator": ";", "items": "same"}),
    "month first": (
        "r.csv",
        b"user,item,timestamp\nu,2,5/2/2018\nu,1,5/1/2018\nv,1,6/30/2018\nv,3,1/9/2018\n",
        {},
    ),
    "day first": (
        "r.csv",
        b"user,item,timestamp\nu,2,2.5.2018\nu,1,1.5.2018\nv,1,30.6.2018\nv,3,9.1.2018\n",
        {},
    ),
    "told format": (
        "r.csv",
        b"user,item,timestamp\nu,2,5/2/2018\nu,1,5/1/2018\nv,1,6/3/2018\nv,3,1/9/2018\n",
        {"time_format": "%m/%d/%Y"},
    ),
    "format with time": (
        "r.csv",
        b"user,item,timestamp\nu,2,20180502 10:01\nu,1,20180502 10:00\nv,1,20180601 00:00\n"
        b"v,3,20180109 23:59\n",
        {"time_format": "%Y%m%d %H:%M"},
    ),
    "iso with zone": (
        "r.csv",
        b"user,item,timestamp\nu,2,2018-05-02T10:00:00Z\nu,1,2018-05-01T10:00:00Z\nv,1,2018-06-01T10:00:00Z\n"
        b"v,3,2018-01-09T10:00:00Z\n",
        {},
    ),
    "numbers": ("r.csv", b"user,item,timestamp\nu,2,20\nu,1,10\nv,1,9\nv,3,8\n", {}),
    "quoted": ("r.csv", b'user,item,timestamp\n"u","2","20"\n"u","1","10"\n"v","1","9"\n"v","3","8"\n', {}),
    "extra columns": (
        "r.csv",
        b"x,user,item,timestamp,note\n1,u,2,20,\n2,u,1,10,hi\n3,v,1,9,\n4,v,3,8,\n",
        {},
    ),
    "no times": ("r.csv", b"user,item\nu,1\nu,2\nv,3\nv,1\n", {"columns": {"timestamp": None, **GENRES}}),
    "jsonl": (
        "r.jsonl",
        b'{"user": "u", "item": 2, "timestamp": 5}\n{"user": "u", "item": 1, "timestamp": 4}\n'
        b'{"user": "v", "item": 1, "timestamp": 9}\n{"user": "v", "item": 3, "timestamp": 1}\n',
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_interactions_of_every_form_are_read(tmp_path: Path, form: str) -> None:
    name, content, options = FORMS[form]
    items = ITEMS.replace(",", ";") if options.get("items") else ITEMS
    given = {option: value for option, value in options.items() if option != "items"}
    dataset = read(tmp_path, content, items, name, **given)
    assert sequences(dataset) == EXPECTED
    assert dataset.repairs == {}
    assert (dataset.times is None) == (form == "no times")
    assert dataset.items["categories"].to_list() == ["Drama, Horror", "", "Comedy"]


@pytest.mark.parametrize(
    ("cells", "title", "categories"),
    [
        ("Saw,Drama|Horror", "Saw", "Drama, Horror"),
        ("Saw,Drama | Horror", "Saw", "Drama, Horror"),
        ("Saw,\"['Drama', 'Horror']\"", "Saw", "Drama, Horror"),
        ('Saw,"[""Drama"", [""Horror""]]"', "Saw", "Drama, Horror"),
        ("Saw,[unread", "Saw", "[unread"),
        ('"The ""Big"" Saw",Drama', 'The "Big" Saw', "Drama"),
        ('"Saw, the",Drama', "Saw, the", "Drama"),
        ('The "Big" Saw,Drama', 'The "Big" Saw', "Drama"),
        ("Tom &amp;amp; Jerry,Kids &gt; Cartoon", "Tom & Jerry", "Kids > Cartoon"),
        ("Caf&#233; &#x41;,A&B; C", "Café A", "A&B; C"),
        ("Amélie,Comédie", "Amélie", "Comédie"),
        ('"two\nlines",Drama', "two\nlines", "Drama"),
        ("007,0108", "007", "0108"),
    ],
)
def test_cells_of_items_are_read_as_they_mean(
    tmp_path: Path, cells: str, title: str, categories: str
) -> None:
    ratings = "user,item,timestamp\nu,1,1\nu,1,2\n"
    for encoding in ("utf-8", "latin-1", "utf-16"):
        items = f"item,title,genres\n1,{cells}\n".encode(encoding)
        raw = ratings.encode(encoding)
        dataset = read(tmp_path, raw, items, encoding=encoding)
        assert (dataset.items["title"][0], dataset.items["categories"][0]) == (title, categories)
        counted = sum("&" in cell and ";" in cell and cell != "A&B; C" for cell in cells.split(","))
        assert dataset.repairs.get("texts_with_html_entities", 0) == counted


def test_attributes_and_ids_stay_as_they_are_written(tmp_path: Path) -> None:
    items = (
        "article_id,code,group,price,version,year\n0108,0108775,09,2.5,1.10,1999.0\n0110,10,10,3,1.1,2008.0\n"
    )
    ratings = "user,item,timestamp\n01,0108,1\n1,0110,2\n"
    columns = {"key": "article_id", "title": "code"}
    template = "{title} {group} {version} {price} {year}"
    dataset = read(tmp_path, ratings, items, columns=columns, text_template=template)
    assert dataset.items["text"].to_list() == ["0108775 09 1.10 2.5 1999", "10 10 1.1 3 2008"]
    assert dataset.items["group"].to_list() == ["09", "10"]
    assert dataset.items["price"].dtype == pl.Float64
    assert sequences(dataset) == {"01": ["0108"], "1": ["0110"]}
    assert dataset.sources == {}
    unsaid = read(tmp_path, ratings, items, columns=columns)
    assert unsaid.sources == {"r/items.csv": {"columns_not_in_text": ["group", "version"]}}


RATED = "user,item,rating,timestamp\nu,1,5,1\nu,2,2,2\nu,1,4,3\nv,3,3.5,1\nu,1,1,4\n"


@pytest.mark.parametrize(
    ("options", "expected", "repairs"),
    [
        ({}, {"u": "1211", "v": "3"}, {"repeated_interactions": 2}),
        ({"duplicates": "first"}, {"u": "12", "v": "3"}, {"repeated_interactions_removed": 2}),
        ({"duplicates": "last"}, {"u": "21", "v": "3"}, {"repeated_interactions_removed": 2}),
        (
            {"min_rating": 3.5},
            {"u": "11", "v": "3"},
            {
                "interactions_below_min_rating": 2,
                "repeated_interactions": 1,
                "items_without_interactions_removed": 1,
            },
        ),
        (
            {"min_rating": 3, "duplicates": "last"},
            {"u": "1", "v": "3"},
            {
                "interactions_below_min_rating": 2,
                "repeated_interactions_removed": 1,
                "items_without_interactions_removed": 1,
            },
        ),
    ],
)
def test_ratings_and_repeated_interactions(
    tmp_path: Path, options: dict[str, Any], expected: dict[str, str], repairs: dict[str, int]
) -> None:
    dataset = read(tmp_path, RATED, **options)
    assert {user: "".join(items) for user, items in sequences(dataset).items()} == expected
    assert dataset.repairs == repairs


BROKEN = (
    "user,item,rating,timestamp\n"
    "u,1,5,1\n"  # 1
    ",1,5,2\n"  # 2: no user
    "nan,1,5,2\n"  # 3: no user
    "null,1,5,2\n"  # 4: no user
    "u,,5,3\n"  # 5: no item
    "u,2,5,\n"  # 6: no time
    "u,2,5,noon\n"  # 7: unreadable time
    "u,99,5,4\n"  # 8: unknown item
    "u,2,best,5\n"  # 9: unreadable rating
    "u,2,5,6,7,8\n"  # 10: too many fields
    "u,3,5,7\n"  # 11
)
TWICE = ITEMS + "3,Drei,Comedy\n,Nothing,\n"


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, BROKEN, TWICE, min_rating=1)
    for part in (
        "row 10 has 6 fields, the header 4 (1 such rows)",
        "column 'timestamp' has 'noon' in row 7, which is not a time",
        "column 'rating' has 'best' in row 9, which is not a number",
        "3 interactions have no user, the first is number 2",
        "1 interactions have no item, the first is number 5",
        "1 interactions have no timestamp, the first is number 6",
        "user 'u' has item '99', which",
        "item number 5 has no id",
        "item '3' has 2 rows that differ",
    ):
        assert part in str(refused.value)
    with pytest.raises(
        DataError, match=r"no column 'usr' for the role 'user'.*; .*no column 'nam' for the role 'title'"
    ):
        read(tmp_path, PLAIN, columns={"user": "usr", "title": "nam"})


def test_rows_that_cannot_be_read_are_dropped_counted_and_listed(tmp_path: Path) -> None:
    dataset = read(tmp_path, BROKEN, TWICE, min_rating=1, on_error="drop")
    assert sequences(dataset) == {"u": ["1", "3"]}
    reasons = {
        "no_user": 3, "no_item": 1, "no_timestamp": 1, "unreadable_timestamp": 1, "unknown_item": 1,
        "unreadable_rating": 1, "too_many_fields": 1, "item_without_id": 1, "item_again,_otherwise": 1,
    }  # fmt: skip
    dropped = {
        name.removeprefix("rows_dropped_"): count
        for name, count in dataset.repairs.items()
        if "dropped" in name
    }
    assert dropped == reasons
    assert dataset.items["title"].to_list() == ["One", "Three"]
    dataset.write(tmp_path / "kept")
    listed = pl.read_csv(tmp_path / "kept" / "dropped.csv")
    assert listed.filter(file="r.csv").sort("row")["row"].to_list() == list(range(2, 11))
    assert listed.filter(reason="no user")["row"].to_list() == [2, 3, 4]
    assert listed.filter(file="items.csv").sort("row").select("row", "reason").rows() == [
        (4, "item again, otherwise"),
        (5, "item without id"),
    ]
    assert Dataset.read(tmp_path / "kept").fingerprint() == dataset.fingerprint()


@pytest.mark.parametrize(
    ("ratings", "options", "message"),
    [
        (
            "user,item,timestamp\nu,1,01/02/2018\nu,2,03/04/2018\n",
            {},
            "'01/02/2018' in row 1, which is day 2 of month 1 or day 1 of month 2; say which with time",
        ),
        (
            PLAIN.replace(",", ";"),
            {},
            r"only one column, 'user;item;timestamp'; name the separator of the columns, separator=';'",
        ),
        (PLAIN.encode("utf-16"), {}, "cannot be read as UTF-8; give encoding, such as 'utf-16'"),
        (PLAIN.replace("u", "\xfc").encode("latin-1"), {}, "cannot be read as UTF-8; give encoding"),
        (PLAIN.replace("u,", "\xfc,").encode("latin-1"), {}, "cannot be read as UTF-8; give encoding"),
        (PLAIN, {"encoding": "latin-99"}, "encoding is 'latin-99'"),
        (PLAIN, {"duplicates": "once"}, "duplicates is 'once', expected 'keep' or 'first' or 'last'"),
        (PLAIN, {"on_error": "skip"}, "on_error is 'skip', expected 'refuse' or 'drop'"),
        (PLAIN, {"min_rating": 3}, "no column 'rating' for the role 'rating'"),
        (RATED, {"min_rating": 6}, "min_rating is 6, and no rating is that high"),
        (PLAIN, {"time_format": "%d.%m.%Y"}, "'2018-05-02' in row 1, which is not a time"),
        ("user,item,timestamp\n,1,2\n", {"on_error": "drop"}, "every row was dropped"),
    ],
)
def test_tables_that_are_refused(
    tmp_path: Path, ratings: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, ratings, **options)


def test_month_first_and_day_first_give_their_own_orders(tmp_path: Path) -> None:
    dates = "user,item,timestamp\nA,1,01/02/2018\nA,2,02/01/2018\nA,3,03/05/2018\nA,4,04/04/2018\n"
    items = "item,title\n1,One\n2,Two\n3,Three\n4,Four\n"
    for time_format, expected in (("%m/%d/%Y", "1234"), ("%d/%m/%Y", "2143")):
        dataset = read(tmp_path, dates, items, columns={}, time_format=time_format)
        assert "".join(sequences(dataset)["A"]) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize("kind", ["dat", "100k", "csv"])
def test_movielens_is_read_in_either_encoding(tmp_path: Path, kind: str, encoding: str) -> None:
    titles = {"73": "Misérables, Les (1995)", "2": "Amélie &amp; moi (2001)"}
    flags = "|".join("0" * 19)
    ratings = {"dat": "ratings.dat", "100k": "u.data", "csv": "ratings.csv"}[kind]
    films = {"dat": "movies.dat", "100k": "u.item", "csv": "movies.csv"}[kind]
    lines = {
        "dat": [f"{key}::{title}::Drama|Comedy" for key, title in titles.items()],
        "100k": [f"{key}|{title}|01-Jan-1995||http://x/|{flags}" for key, title in titles.items()],
        "csv": ["movieId,title,genres", *(f'{key},"{title}",Drama|Comedy' for key, title in titles.items())],
    }[kind]
    (tmp_path / films).write_bytes(("\n".join(lines) + "\n").encode(encoding))
    mark = {"dat": "::", "100k": "\t", "csv": ","}[kind]
    rated = [mark.join(row) for row in (("1", "73", "4.5", "8"), ("1", "2", "5", "9"))]
    header = ["userId,movieId,rating,timestamp"] if kind == "csv" else []
    (tmp_path / ratings).write_text("\n".join([*header, *rated]) + "\n")
    dataset = load_dataset("movielens", folder=tmp_path)
    assert dict(dataset.items.select("key", "title").iter_rows()) == {
        "73": "Misérables, Les (1995)", "2": "Amélie & moi (2001)",
    }  # fmt: skip
    assert dataset.repairs == {"texts_with_html_entities": 1}


def test_init_writes_a_run_file_and_says_what_it_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "customer_id;article_id;t_dat\nA;0108;2018-05-01\nA;0110;2018-05-02\nA;0111;2018-05-02\n"
    (tmp_path / "transactions.csv").write_text(rows)
    (tmp_path / "articles.csv").write_text(
        "article_id;prod_name;detail_desc\n0108;Top;x\n0110;Shirt;y\n0111;Sock;z\n"
    )
    assert main(["init", "work", "--data", "transactions.csv", "articles.csv"]) == 0
    said = capsys.readouterr().out
    for part in (
        "user: column 'customer_id' of transactions.csv",
        "key of the items: column 'article_id' of articles.csv",
        "read: 1 users, 3 items, 3 interactions",
        "not in the text: description; add them with text_template",
        "users whose last two items have the same time: 1",
    ):
        assert part in said
    content = yaml.safe_load((tmp_path / "work" / "transactions.yaml").read_text())
    dataset = load_dataset(**content["dataset"])
    assert sequences(dataset) == {"A": ["0108", "0110", "0111"]}
    assert (content["run"], content["dataset"]["separator"]) == ("transactions", ";")
    assert main(["run", "work/transactions.yaml", "--dry-run", "--json"]) == 0
    rows_of = json.loads(capsys.readouterr().out)
    assert {row["action"] for row in rows_of} <= {"run", "skip"} and rows_of


def test_init_understands_the_tables_of_the_page_on_choosing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
    found = re.search(r"columns=(\{.*\})", page)
    assert found is not None
    columns = ast.literal_eval(found[1])
    monkeypatch.chdir(tmp_path)
    Path("ratings.csv").write_text(
        f"{columns['user']},{columns['item']},{columns['timestamp']}\nu,1,1\nu,2,2\n"
    )
    Path("films.csv").write_text(f"{columns['item']},{columns['title']}\n1,One\n2,Two\n")
    assert main(["init", "work", "--data", "ratings.csv", "films.csv"]) == 0
    written = yaml.safe_load((tmp_path / "work" / "ratings.yaml").read_text())
    assert written["dataset"]["columns"] == columns


def test_init_refuses_tables_without_ids_and_says_what_is_to_be_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("who,what\nA,1\n")
    (tmp_path / "i.csv").write_text("item,title\n1,One\n")
    assert main(["init", "one", "--data", "a.csv", "i.csv"]) == 2
    assert "no column looks like the user's id; it has who, what" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()
    (tmp_path / "a.csv").write_text("user,item,date\nA,1,01/02/2018\n")
    assert main(["init", "two", "--data", "a.csv", "i.csv"]) == 2
    said = capsys.readouterr()
    assert "timestamp: column 'date' of a.csv" in said.out and "is ready" not in said.out
    assert said.err.startswith("error: the tables cannot be read yet: ")
    mend = "Complete `dataset` in two/a.yaml, then check it with: genrec run two/a.yaml --dry-run"
    assert "time_format" in said.err and mend in said.err
    text = (tmp_path / "two" / "a.yaml").read_text()
    assert "# NOT READ YET: " in text and "time_format" in text


def test_init_says_what_ratings_and_items_without_interactions_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("user,item,stars,time\nA,1,1,1\nA,2,5,2\nA,3,4,3\nA,2,4,4\n")
    (tmp_path / "i.csv").write_text("item,title\n1,One\n2,Two\n3,Three\n4,Four\n")
    assert main(["init", "work", "--data", "a.csv", "i.csv"]) == 0
    said = capsys.readouterr().out
    assert "rating: column 'stars' of a.csv; not used, so rows with a low rating count as well" in said
    assert "keep items without interactions in the catalogue: keep_unseen_items: true" in said
    text = (tmp_path / "work" / "a.yaml").read_text()
    dataset = yaml.safe_load(text)["dataset"]
    assert load_dataset(**dataset).n_interactions == 4
    changed = text.replace("# min_rating: 4", "min_rating: 4")
    assert changed != text and sequences(load_dataset(**yaml.safe_load(changed)["dataset"])) == {
        "A": list("232")
    }
    dataset["keep_unseen_items"] = True
    assert load_dataset(**dataset).items["key"].to_list() == list("1234")
