"""Anybody's codes: files of several kinds, what is not known, and the file that needs no kernel."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from genrec_lab.cli import genrec, main
from genrec_lab.codes import CodesError
from genrec_lab.viz.explorer import answers
from genrec_lab.viz.explorer.html_file import write_html
from genrec_lab.viz.explorer.published import Opened, open_codes
from genrec_lab.viz.explorer.state import ExplorerState

CODES = {"a": ["<a_1>", "<b_0>"], "b": ["<a_1>", "<b_2>"], "c": ["<a_0>", "<b_2>"]}
ITEMS = {
    "a": {"title": "Oak chair", "brand": "Elm", "categories": "Home, Chairs", "price": "$1,020.50"},
    "b": {"title": "Oak table &amp; bench", "brand": "Elm", "categories": ["Home", "Tables"]},
    "c": {"title": "Copper lamp", "brand": "", "price": None},
}


def codes_of(opened: Opened) -> list[list[int]]:
    return opened.state.catalogue.codes.codes.tolist()


@pytest.mark.parametrize(
    "written",
    [
        CODES,
        {key: [int(token[3]) for token in tokens] for key, tokens in CODES.items()},
        {key: "".join(tokens) for key, tokens in CODES.items()},
        {key: " ".join(token[3] for token in tokens) for key, tokens in CODES.items()},
        {key: [f"<Z{token[3]}>" for token in tokens] for key, tokens in CODES.items()},
        [[1, 0], [1, 2], [0, 2]],
    ],
)
def test_codes_of_any_letter_or_numbers_are_read(tmp_path: Path, written: object) -> None:
    file = tmp_path / "mine.index.json"
    file.write_text(json.dumps(written), encoding="utf-8")
    for given in (file, written):
        assert codes_of(open_codes(given)) == [[1, 0], [1, 2], [0, 2]]  # type: ignore[arg-type]
    assert open_codes(file).state.catalogue.name == "mine"


def test_a_second_file_is_compared_by_the_keys_of_its_items() -> None:
    other = {"c": [0], "a": [3], "new": [5], "b": [3]}
    two = open_codes(CODES, ITEMS, other=other).state.two
    assert two is not None and two.levels == 1
    before, after = two.codes_of(0)
    assert sorted(zip(before.tolist(), after.tolist(), strict=True)) == [(0, 0), (1, 3), (1, 3)]


def test_what_is_not_known_is_said_and_not_claimed() -> None:
    opened = open_codes({**CODES, "d": None, "e": []}, ITEMS)
    assert "2 items without codes left out" in opened.notes
    assert any("sizes of the levels are not known" in note for note in opened.notes)
    assert opened.state.catalogue.codes.sizes == (2, 3) and not opened.state.catalogue.sizes_known
    told = open_codes(CODES, ITEMS, sizes=(4, 4))
    assert answers.grid(told.state)["columns"][-1]["values"] == ["alive", "alive", "dead", "dead"]
    assert open_codes(CODES, {"a": "Oak chair"}).notes[1] == "2 items of the codes have no title"


def test_attributes_come_from_any_kind_of_table(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "asin": list(ITEMS),
            "title": [one["title"] for one in ITEMS.values()],
            "brand": ["Elm", "Elm", None],
        }
    )
    frame.write_csv(tmp_path / "items.csv")
    frame.write_parquet(tmp_path / "items.parquet")
    frame.write_csv(tmp_path / "items.tsv", separator="\t")
    atomic = {"asin": "item_id:token", "title": "movie_title:token_seq", "brand": "brand:token"}
    plain = frame.rename(atomic).write_csv(separator="\t", quote_style="never")
    (tmp_path / "shop.item").write_text(plain)
    files = [tmp_path / name for name in ("items.csv", "items.parquet", "items.tsv", "shop.item")]
    for items in (*files, frame):
        assert open_codes(CODES, items).state.catalogue.titles[0] == "Oak chair"
        assert open_codes(CODES, items).state.catalogue.attributes["brand"].to_list() == ["Elm", "Elm", None]
    catalogue = open_codes(CODES, ITEMS).state.catalogue
    assert catalogue.attributes["price"].to_list() == [1020.5, None, None]
    assert catalogue.attributes["category"].to_list() == ["Chairs", "Tables", None]
    assert catalogue.titles[1] == "Oak table & bench"


@pytest.mark.parametrize(
    ("codes", "items", "vectors", "said"),
    [
        ({"a": [1], "b": [1, 2]}, None, None, "item 'b' has another number of codes"),
        ({}, None, None, "expected at least one item"),
        ({"a": ["x"]}, None, None, "item 'a' has 'x'"),
        ({"a": [-1]}, None, None, "item 'a' has -1"),
        ({"a": [1.5]}, None, None, "item 'a' has 1.5"),
        (CODES, None, np.zeros((2, 4)), "vectors: shape \\(2, 4\\) for 3 items"),
        (CODES, None, np.full((3, 4), np.nan), "3 rows have a NaN"),
        (CODES, pl.DataFrame({"title": ["a"]}), None, "expected one of \\['key'"),
    ],
)
def test_what_does_not_fit_is_refused(codes: object, items: object, vectors: object, said: str) -> None:
    with pytest.raises((CodesError, ValueError), match=said):
        open_codes(codes, items, vectors)  # type: ignore[arg-type]


def content_of(file: Path) -> dict:
    packed = re.search(r'<script id="data"[^>]*>([^<]*)<', file.read_text(encoding="utf-8"))
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def many() -> ExplorerState:
    generator = np.random.default_rng(0)
    codes = {f"item {place}": generator.integers(0, 5, 3).tolist() for place in range(120)}
    words = ["oak", "lamp", "red", "kettle", "chair"]
    items = {key: {"title": f"{words[row[0]]} {words[row[1]]}"} for key, row in codes.items()}
    return open_codes(codes, items).state


def test_the_file_answers_as_the_kernel_does(tmp_path: Path) -> None:
    state = many()
    before = state.selection
    content = content_of(write_html(state, tmp_path / "new" / "a.html"))
    assert state.selection == before
    for key, page in content["pages"].items():
        if key.startswith("*"):
            level, code = key[1:].split(".")
            state.select(everywhere=(int(level), int(code)))
        else:
            state.select(prefix=tuple(map(int, key.split("."))) if key else ())
        facts = json.loads(json.dumps(answers.page(state)["facts"]))
        assert page["page"]["facts"] == facts
        table = {one["name"]: one["values"] for one in page["grid"]["columns"]}
        assert (
            sum(table["items"]) == state.items().size
            if "items" in table
            else len(table["title"]) == state.items().size
        )
    codes = state.catalogue.codes.codes
    wanted = {".".join(map(str, codes[item, :length])) for item in range(120) for length in (0, 1, 2, 3)}
    several = {
        key
        for key in wanted
        if sum(".".join(map(str, row[: len(key.split(".")) if key else 0])) == key for row in codes) > 1
    }
    assert several <= set(content["pages"])


def test_the_file_asks_no_network_and_its_titles_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    file = write_html(
        open_codes(
            {"a": [0], "b": [0]},
            {"a": evil, "b": "plain"},
        ).state,
        tmp_path / "a.html",
    )
    text = file.read_text(encoding="utf-8")
    assert "alert(1)" not in text and content_of(file)["items"]["title"][0] == evil
    assert not re.findall(r"""(?:src|href)\s*=\s*["']https?:""", text)
    assert "default-src 'none'" in text


def test_the_command_writes_a_file_and_says_what_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "codes.json").write_text(json.dumps(CODES))
    (tmp_path / "items.json").write_text(json.dumps(ITEMS))
    asked = ["explore", "codes.json", "--items", "items.json", "--map", "PCA"]
    done = CliRunner().invoke(genrec, asked)
    assert done.exit_code == 0, done.output
    assert "sizes of the levels are not known" in done.output and (tmp_path / "codes-explorer.html").is_file()
    sized = CliRunner().invoke(genrec, [*asked, "--sizes", "4,4", "--html", "b.html"])
    assert sized.exit_code == 0 and "sizes of the levels" not in sized.output
    for wrong in (["--sizes", "4,x"], ["--sizes", "1,1"], ["--map", "nothing"]):
        assert main([*asked[:4], *wrong]) == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("nothing.json", "codes: .*nothing.json is not there"),
        ("nothing.npy", "codes: .*nothing.npy is not there"),
        ("nothing", r"There is no run 'nothing' in .*\(found from .*, without GENREC_RUNS\)"),
        ("broken.npy", "codes: .*broken.npy is not an .npy file of numbers"),
        ("broken.json", "broken.json: malformed JSON"),
        ("codes.json --row gmc", "row 'gmc' is given with codes"),
        ("codes.json --items folder", "'folder' is a directory"),
        ("codes.json --items broken.parquet", "broken.parquet: cannot be read"),
        ("codes.json --items broken.item", "field '.x' is not of the form name:type"),
        ("codes.json --vectors folder", "'folder' is a directory"),
        ("codes.json --vectors broken.npy", "vectors: .*broken.npy is not an .npy file of numbers"),
        ("codes.json --vectors broken.safetensors", "vectors: broken.safetensors holds no tensor"),
        ("codes.json --html folder", "'folder' is a directory"),
        ("codes.json --html broken.json/a.html", "broken.json is a file, not a folder"),
        ("codes.json --html /no_such_root/new/a.html", "there is no folder /no_such_root"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENREC_RUNS", raising=False)
    (tmp_path / "codes.json").write_text(json.dumps(CODES))
    (tmp_path / "folder").mkdir()
    for ending in ("json", "npy", "parquet", "item", "safetensors"):
        (tmp_path / f"broken.{ending}").write_text("[x")
    before = set(tmp_path.rglob("*"))
    assert main(["explore", *asked.split()]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert set(tmp_path.rglob("*")) == before and not Path("/no_such_root").exists()


def test_missing_folders_below_an_existing_one_are_made_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "codes.json").write_text(json.dumps(CODES))
    assert main(["explore", "codes.json", "--html", "new/folder/a.html"]) == 0
    assert capsys.readouterr().out.startswith("written: new/folder/a.html (")
    assert (tmp_path / "new" / "folder" / "a.html").is_file()
