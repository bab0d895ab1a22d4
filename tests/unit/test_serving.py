"""Files of histories: what is written is what the library recommends, also when the work was killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec_lab.lab import serving
from genrec_lab.lab.files import RunError
from genrec_lab.lab.own_tables import read_histories, read_keys
from genrec_lab.lab.serving import open_served, recommend_to_file
from genrec_lab.models.hub import CardFacts
from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.hgn import HGN
from genrec_lab.models.sequential.sasrec import SASRec
from tests.unit.conftest import tiny_recommender, unique_codes

USERS = 10_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    codes = unique_codes({"Garden": 40, "Shed": 20}, (4, 5, 6))
    model = tiny_recommender(codes, sharpness=3.0)
    assert codes.domains is not None
    items = pl.DataFrame({"domain": codes.domains.tolist(), "key": [f"K{item}" for item in range(60)]})
    items = items.with_columns(title=pl.lit("Rake"))
    about = CardFacts(dataset="made up", max_history=4)
    return model.save_pretrained(tmp_path_factory.mktemp("shared") / "it", about, items)


def histories_of(shared: Path, users: int, file: Path) -> pl.DataFrame:
    rng, items = np.random.default_rng(0), pl.read_parquet(shared / "items.parquet")
    keys = {name: rows["key"].to_list() for (name,), rows in items.group_by("domain")}
    domains = rng.choice(["Garden", "Shed"], size=users).tolist()
    histories = [rng.choice(keys[name], size=rng.integers(1, 7)).tolist() for name in domains]
    frame = pl.DataFrame({"user": [f"u{n}" for n in range(users)], "domain": domains, "history": histories})
    frame.write_parquet(file)
    return frame


def test_ten_thousand_histories_killed_twice_equal_one_go(shared: Path, tmp_path: Path) -> None:
    histories_of(shared, USERS, tmp_path / "users.parquet")
    code = (
        "import sys; from pathlib import Path; from genrec_lab.lab.serving import recommend_to_file;"
        "recommend_to_file(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), 3, beams=3, exclude_seen=True)"
    )
    command = [sys.executable, "-c", code, shared, tmp_path / "users.parquet", tmp_path / "killed.parquet"]
    parts = tmp_path / "killed.parquet.parts"
    for least in (2, 5):
        process = subprocess.Popen([*map(str, command)])
        while len(list(parts.glob("0*.parquet"))) < least:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not (tmp_path / "killed.parquet").exists()
    stamps = {file: file.stat().st_mtime_ns for file in parts.glob("0*.parquet")}
    assert 5 <= len(stamps) < -(-USERS // serving._PART)
    again = recommend_to_file(
        shared, tmp_path / "users.parquet", tmp_path / "killed.parquet", 3, beams=3, exclude_seen=True
    )
    killed = pl.read_parquet(again)
    out = recommend_to_file(
        shared, tmp_path / "users.parquet", tmp_path / "whole.parquet", 3, beams=3, exclude_seen=True
    )
    assert killed.equals(pl.read_parquet(out)) and killed.height == 3 * USERS
    assert not parts.exists()


def test_rows_are_what_the_library_recommends(shared: Path, tmp_path: Path) -> None:
    users = histories_of(shared, 40, tmp_path / "users.parquet")
    said: list[str] = []
    out = recommend_to_file(
        shared, tmp_path / "users.parquet", tmp_path / "out.parquet", 6, exclude_seen=True, say=said.append
    )
    found, served = pl.read_parquet(out), open_served(shared)
    longer = (users["history"].list.len() > 4).sum()
    assert said == [f"{longer} histories are longer than 4; their most recent items are read."]
    keys = served.catalogue.items["key"].to_list()
    for user, domain, history in users.iter_rows():
        items = [keys.index(key) for key in history]
        ranked = served.model(domain).recommend([items[-4:]], 6, domain, exclude_seen=[items])
        own = found.filter(user=user)
        assert own["item"].to_list() == [keys[item] for item in ranked.items[0] if item >= 0]
        assert own["rank"].to_list() == list(range(1, own.height + 1))
        np.testing.assert_allclose(own["score"], ranked.scores[0][ranked.items[0] >= 0], atol=1e-5)


def test_a_model_that_knows_users_is_said_to_take_them_as_unknown(tmp_path: Path) -> None:
    items = pl.DataFrame({"domain": "Garden", "key": [f"K{item}" for item in range(6)], "title": "Rake"})
    users = pl.DataFrame({"user": ["0", "1"], "domain": "Garden", "history": [["K1", "K2"], ["K3"]]})
    users.write_parquet(tmp_path / "users.parquet")
    said: list[str] = []
    for kind in (SASRec, HGN):
        model = kind(kind.Config(width=8)).build(DomainItems(np.arange(6), np.arange(2)))
        model.save_pretrained(tmp_path / kind.__name__, CardFacts(dataset="made up"), items)
        recommend_to_file(
            tmp_path / kind.__name__, tmp_path / "users.parquet", tmp_path / "out.csv", 2, say=said.append
        )
    (sentence,) = said
    assert sentence.startswith("HGN has learned vectors of its training users, but a file's users count as")


def test_other_settings_begin_anew(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories_of(shared, 30, tmp_path / "users.parquet")
    monkeypatch.setattr(serving, "_PART", 10)
    part, calls = serving._part, []

    def second_fails(*given: Any, **asked: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise RunError("the power is gone")
        return part(*given, **asked)

    monkeypatch.setattr(serving, "_part", second_fails)
    given = shared, tmp_path / "users.parquet", tmp_path / "out.csv"
    with pytest.raises(RunError, match="the power is gone"):
        recommend_to_file(*given, 3)
    recommend_to_file(*given, 4)  # three parts again, because the first one holds three items per user
    assert len(calls) == 2 + 3
    assert pl.read_csv(tmp_path / "out.csv").group_by("user").len()["len"].to_list() == [4] * 30


@pytest.mark.parametrize("domain", [None, "Garden"])
def test_a_history_that_crosses_domains_is_called_so(
    shared: Path, tmp_path: Path, domain: str | None
) -> None:
    items = pl.read_parquet(shared / "items.parquet")
    shed, garden = (items.filter(domain=name)["key"][0] for name in ("Shed", "Garden"))
    users = {"user": ["u", "v"], "domain": [domain, "Shed"], "history": [[shed, garden], [shed]]}
    pl.DataFrame(users).write_parquet(tmp_path / "users.parquet")
    said: list[str] = []
    given = shared, tmp_path / "users.parquet", tmp_path / "out.csv", 3
    crosses = (
        f"1 of 3 items of histories are in a history that crosses domains, the first is '{shed}' of Shed in "
        "the Garden history of 'u'"
    )
    with pytest.raises(RunError, match=f"{crosses}. Give each domain's items a history of their own"):
        recommend_to_file(*given)
    found = pl.read_csv(recommend_to_file(*given, unknown="drop", say=said.append))
    assert said == [f"{given[1]}: {crosses}; they are left out."]
    assert found["domain"].to_list() == ["Garden"] * 3 + ["Shed"] * 3
    only = {"user": ["u", "v"], "domain": ["Garden", "Shed"], "history": [[garden], [shed]]}
    pl.DataFrame(only).write_parquet(tmp_path / "only.parquet")
    assert found.equals(pl.read_csv(recommend_to_file(shared, tmp_path / "only.parquet", given[2], 3)))


@pytest.mark.parametrize("domain", [None, "Garden"])
def test_users_of_whom_no_item_is_known_are_dropped_alone(
    shared: Path, tmp_path: Path, domain: str | None
) -> None:
    key = pl.read_parquet(shared / "items.parquet").filter(domain="Garden")["key"][0]
    users = {"user": ["u1", "u2", "u3"], "domain": domain, "history": [[key], ["who", "knows"], ["x", key]]}
    pl.DataFrame(users).write_parquet(tmp_path / "users.parquet")
    said: list[str] = []
    given = shared, tmp_path / "users.parquet", tmp_path / "out.csv", 2
    with pytest.raises(RunError, match=r"unknown to .*, the first is 'who' of user 'u2'\. Leave"):
        recommend_to_file(*given)
    found = pl.read_csv(recommend_to_file(*given, unknown="drop", say=said.append))
    assert found["user"].to_list() == ["u1", "u1", "u3", "u3"]
    assert said == [
        f"{given[1]}: 3 of 5 items of histories are unknown to {shared}, the first is 'who' of user 'u2'; "
        "they are left out.",
        "Left out 1 user without a known item, the first is 'u2'.",
    ]
    pl.DataFrame({"user": ["u2"], "history": [["who"]]}).write_parquet(given[1])
    with pytest.raises(RunError, match="no user has an item that"):
        recommend_to_file(*given, unknown="drop")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("u.csv", "user,thing\na,b\n", "'item' is missing"),
        ("u.csv", "user,item\na,\n", "rows without a user, a history or an item"),
        ("u.xlsx", "x", "unknown ending"),
        ("u.parquet", "x", "cannot be read"),
        ("u.jsonl", '{"user": "a", "history": ["K1", null]}\n', "line 1"),
        ("u.jsonl", '{"user": "a", "history": ["K1"]}\nnonsense\n', "line 2: not JSON"),
        ("u.jsonl", '{"user": "a", "history": ["K1"], "domain": 3}\n', "line 1"),
    ],
)
def test_files_that_hold_no_histories(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RunError, match=message):
        read_histories(tmp_path / name)


def test_keys_are_texts_and_rows_of_a_csv_are_in_order(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text("user,item\n1,007\n2,9\n1,7\n")
    assert read_histories(tmp_path / "u.csv").rows() == [("1", None, ["007", "7"]), ("2", None, ["9"])]
    (tmp_path / "u.jsonl").write_text('{"user": 1, "history": [7, "007"]}\n')
    assert read_histories(tmp_path / "u.jsonl").rows() == [("1", None, ["7", "007"])]
    (tmp_path / "keys").write_text("007\n\n 7 \n")
    assert read_keys(tmp_path / "keys") == ["007", "7"]
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="is not UTF-8"):
        read_keys(tmp_path / "bytes")
