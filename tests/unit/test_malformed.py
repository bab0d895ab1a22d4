"""Damaged files, hand-made and generated, over every reader: a DataError that says what, or no loss."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_lab.data import DataError, Dataset, load_dataset
from tests.unit.amazon_raw import NAMES, raw

LOST = (
    "repeated_reviews_removed",
    "interactions_removed_by_k_core",
    "interactions_of_items_without_title_removed",
    "users_without_items",
)
counts: Counter[str] = Counter()


@dataclass(frozen=True)
class Source:
    """A reader's sound files by name, how it is called, and how many interactions its bytes hold."""

    name: str
    files: dict[str, bytes]
    interactions: str
    count: Callable[[bytes], int]
    options: Callable[[Path], dict[str, object]]

    def outcome(self, folder: Path, changed: dict[str, bytes]) -> str:
        """Read the files with some of them changed, and say what came of it; fails where it is neither."""
        for old in folder.iterdir():
            old.unlink()
        held = {**self.files, **changed}
        for name, content in held.items():
            (folder / name).write_bytes(content)
        counts["inputs"] += 1
        try:
            dataset = load_dataset(self.name, **self.options(folder))
        except DataError as error:
            says = str(error)
        else:
            says = ""
        if says:
            assert len(says) > 30
            counts[f"{self.name} refused"] += 1
            return "refused"
        kept = dataset.n_interactions + sum(dataset.repairs.get(what, 0) for what in LOST)
        assert kept == self.count(held[self.interactions])
        counts[f"{self.name} read"] += 1
        return "read"


def lines(content: bytes) -> int:
    """Filled lines of a file."""
    return sum(1 for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip())


def rows(content: bytes) -> int:
    """Filled lines below a header."""
    return lines(content) - 1


def listed(content: bytes) -> int:
    """Items in all lists of an object, users without any counted once as they are in the repairs."""
    return sum(len(items) or 1 for items in json.loads(content.decode("utf-8-sig")).values())


def amazon(edition: str) -> Source:
    """A small edition, unpacked, so that every byte that is changed is one of the text."""
    made = raw(edition, 1, users=14, items=8)
    reviews, metadata = (name.removesuffix(".gz") for name in NAMES[edition])
    content = ["".join(f"{line}\n" for line in part).encode() for part in (made.reviews, made.metadata)]
    return Source(
        edition,
        dict(zip((reviews, metadata), content, strict=True)),
        reviews,
        lines,
        lambda folder: {"folder": folder, "k_core": 2, "require_title": True},
    )


def parquet(frame: pl.DataFrame) -> bytes:
    """A frame as a parquet file's bytes."""
    written = io.BytesIO()
    frame.write_parquet(written)
    return written.getvalue()


INTER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
INTER += b"b\t8\t1\t30\na\t7\t5\t20\nb\t7\t2\t10\na\t8\t2\t3.5\n"
ITEM = (
    b"item_id:token\tmovie_title:token_seq\tclass:token_seq\tprice:float\n7\tSaw\tTools\t2.5\n8\tRake\t\t\n"
)
USERS = b'{"u1": ["7", "8"], "u2": ["8", "9", "7"]}'
ITEMS = b'{"7": {"title": "Saw", "categories": ["A", "B"]}, "8": {"title": "Rake"}, "9": {"title": ""}}'
FILM = b"%d|Caf\xe9 (1995)|01-Jan-1995||http://x/|" + b"|".join([b"0"] * 19) + b"\n"
RATED = "user,item,timestamp\na,7,30\na,8,20\nb,8,10\nb,7,11\n"
SOURCES = {
    **{edition: amazon(edition) for edition in NAMES},
    "lcrec": Source(
        "lcrec",
        {"S.inter.json": USERS, "S.item.json": ITEMS},
        "S.inter.json",
        listed,
        lambda f: {"folder": f},
    ),
    "recbole": Source(
        "recbole", {"s.inter": INTER, "s.item": ITEM}, "s.inter", rows, lambda f: {"folder": f}
    ),
    "ml-100k": Source(
        "movielens",
        {
            "u.data": b"1\t2\t5\t30\n1\t1\t3\t20\n2\t1\t4\t10\n",
            "u.item": FILM % 1 + FILM % 2,
        },
        "u.data",
        lines,
        lambda f: {"folder": f},
    ),
    "ml-1m": Source(
        "movielens",
        {
            "ratings.dat": b"1::2::5::30\n1::1::3::20\n2::1::4::10\n",
            "movies.dat": b"1::A::Drama\n2::B::Action\n",
        },
        "ratings.dat",
        lines,
        lambda f: {"folder": f},
    ),
    "ml-latest": Source(
        "movielens",
        {
            "ratings.csv": b"userId,movieId,rating,timestamp\n1,2,5.0,30\n1,1,3.5,20\n2,1,4.0,10\n",
            "movies.csv": b'movieId,title,genres\n1,"A, the",Drama\n2,B,Action|Drama\n',
        },
        "ratings.csv",
        rows,
        lambda f: {"folder": f},
    ),
    "csv": Source(
        "frames",
        {"r.csv": RATED.encode(), "i.csv": b"item,title,price\n7,Saw,2.5\n8,Rake,\n"},
        "r.csv",
        rows,
        lambda f: {"interactions": f / "r.csv", "items": f / "i.csv"},
    ),
}


def packed(source: Source) -> dict[str, bytes]:
    """A source's files as gzip under their published names."""
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in source.files.items()}


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A change of bytes: cut, drop, insert, repeat, swap, or replace a token by one of another kind."""
    kind = draw(st.sampled_from(("cut", "drop", "insert", "repeat", "token", "line", "blank")))
    place, length = draw(st.floats(0, 0.999)), draw(st.integers(1, 40))
    bits = draw(st.binary(min_size=1, max_size=6))
    old = draw(
        st.sampled_from(
            (b'"', b":", b",", b"{", b"}", b"[", b"]", b"\t", b"7", b"1", b"B0", b"title", b"asin")
        )
    )
    new = draw(
        st.sampled_from(
            (
                b"",
                b"null",
                b"[]",
                b"{}",
                b"NaN",
                b"1e999",
                b"-1",
                b"\xff",
                b"\x00",
                b"\\ud83d",
                b"true",
                b'""',
                b"  ",
                b"\n",
                b"99999999999999999999",
                b"'",
                b"\xef\xbb\xbf",
            )
        )
    )

    def changed(content: bytes) -> bytes:
        at = int(place * len(content))
        if kind == "cut":
            return content[:at]
        if kind == "drop":
            return content[:at] + content[at + length :]
        if kind == "insert":
            return content[:at] + bits + content[at:]
        if kind == "repeat":
            return content[:at] + content[at : at + length] + content[at:]
        if kind == "blank":
            return content.replace(b"\n", b"\n\n\r\n", 1)
        if kind == "line":
            parts = content.split(b"\n")
            parts[int(place * len(parts))] = new
            return b"\n".join(parts)
        found = content.find(old, at)
        return content if found < 0 else content[:found] + new + content[found + len(old) :]

    return changed


@pytest.mark.parametrize("name", SOURCES)
def test_generated_damage_is_refused_or_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    source, folder = SOURCES[name], tmp_path_factory.mktemp(name)
    assert source.outcome(folder, {}) == "read"

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(file=st.sampled_from(sorted(source.files)), damage=damages())
    def damaged(file: str, damage: Callable[[bytes], bytes]) -> None:
        source.outcome(folder, {file: damage(source.files[file])})

    damaged()


REVIEW = {
    "amazon2014": '{"reviewerID": "A0", "asin": "B000000001", "unixReviewTime": 5}',
    "amazon2018": '{"reviewerID": "A0", "asin": "B000000001", "unixReviewTime": 5}',
    "amazon2023": '{"user_id": "A0", "parent_asin": "B000000001", "timestamp": 5}',
}
BAD_REVIEWS = (
    ('"A0"', "null", "is 'None', expected an id as text"),
    ('"A0"', '""', "expected an id as text"),
    ('"A0"', '"  "', "expected an id as text"),
    ('"A0"', '["A0"]', "expected an id as text"),
    ('"A0"', '{"a": 1}', "expected an id as text"),
    ('"A0"', '"a\\u0000b"', "expected an id as text"),
    ('"A0"', '"\\ud83d"', "expected an id as text"),
    ('"B000000001"', "null", "expected an id as text"),
    ("5}", "null}", "is 'None', expected a whole number"),
    ("5}", '"5"}', "is '5', expected a whole number"),
    ("5}", "5.5}", "expected a whole number"),
    ("5}", "true}", "expected a whole number"),
    ("5}", "NaN}", "NaN is not a JSON value"),
    ("5}", "99999999999999999999}", "expected a whole number"),
    ("5}", "[5]}", "expected a whole number"),
    ("5}", "5", "malformed JSON"),
    ("5}", "5} {}", "malformed JSON"),
    ("{", "[", "malformed JSON"),
    ('"A0"', "A0", "malformed JSON"),
)


@pytest.mark.parametrize("edition", REVIEW)
@pytest.mark.parametrize(("old", "new", "message"), BAD_REVIEWS)
def test_a_bad_review_is_named_by_its_line(
    tmp_path: Path, edition: str, old: str, new: str, message: str
) -> None:
    source = SOURCES[edition]
    sound = source.files[source.interactions]
    bad = REVIEW[edition].replace(old, new, 1).encode()
    changed = sound.replace(b"\n", b"\n\n" + bad + b"\n", 1)
    assert source.outcome(tmp_path, {source.interactions: changed}) == "refused"
    with pytest.raises(DataError, match=rf"line 3: .*{message}"):
        load_dataset(source.name, **source.options(tmp_path))


BAD_METADATA = (
    (b"[1, 2]", "a list, expected an object|list, expected an object"),
    (b"", None),
    (b"17", "an int, expected|a int, expected an object"),
    (b"{", "malformed JSON|not a Python literal"),
    (b"\xff\xfe", "malformed JSON|not a Python literal"),
    (b"__import__('os').system('true')", "malformed JSON|not a Python literal"),
    (b"[" * 100_000, "malformed JSON|not a Python literal"),
    (b"{'asin': open('x')}", "malformed JSON|not a Python literal"),
    (b"{'asin': 'B000000001', 'title': 1j}", "malformed JSON|a complex"),
    (b"{}", "expected the item's id as text"),
)


@pytest.mark.parametrize("edition", REVIEW)
@pytest.mark.parametrize(("bad", "message"), BAD_METADATA)
def test_bad_metadata_are_named_by_their_line(
    tmp_path: Path, edition: str, bad: bytes, message: str | None
) -> None:
    source = SOURCES[edition]
    file = next(name for name in source.files if name != source.interactions)
    changed = {file: bad + b"\n" + source.files[file]}
    assert source.outcome(tmp_path, changed) == ("refused" if message else "read")
    if message:
        with pytest.raises(DataError, match=f"line 1: .*({message})"):
            load_dataset(source.name, **source.options(tmp_path))


@pytest.mark.parametrize("edition", REVIEW)
@pytest.mark.parametrize("damage", ["cut", "tail", "sum", "garbage", "page", "empty", "nothing in it"])
@pytest.mark.parametrize("which", [0, 1])
def test_damaged_gzip_files_are_refused(tmp_path: Path, edition: str, damage: str, which: int) -> None:
    source = SOURCES[edition]
    whole = packed(source)
    file = sorted(whole, key=lambda name: name.startswith("meta"))[which]
    content = whole[file]
    changed = {
        "cut": content[: len(content) // 2],
        "tail": content[:-4],
        "sum": content[:-8] + b"abcd" + content[-4:],
        "garbage": content + b"garbage",
        "page": b"<html>Not found</html>",
        "empty": b"",
        "nothing in it": gzip.compress(b""),
    }[damage]
    for name, kept in {**whole, file: changed}.items():
        (tmp_path / name).write_bytes(kept)
    counts["inputs"] += 1
    with pytest.raises(DataError, match=r"fetch|has a title|is empty|Python literal|malformed"):
        load_dataset(edition, **source.options(tmp_path))
    counts[f"{edition} refused"] += 1


@pytest.mark.parametrize("name", ["items.parquet", "sequences.parquet", "dataset.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "list", "null"])
def test_a_written_dataset_that_was_damaged_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    source = SOURCES["lcrec"]
    (tmp_path / "raw").mkdir()
    for file, content in source.files.items():
        (tmp_path / "raw" / file).write_bytes(content)
    load_dataset("lcrec", folder=tmp_path / "raw").write(tmp_path / "kept")
    file = tmp_path / "kept" / name
    content = file.read_bytes()
    changed = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "other": parquet(pl.DataFrame({"item": [1]})),
        "list": b"[]",
        "null": b'{"format": 1}',
    }[damage]
    file.write_bytes(changed)
    counts["inputs"] += 1
    with pytest.raises(DataError):
        Dataset.read(tmp_path / "kept")
    counts["written datasets refused"] += 1


def test_at_least_two_hundred_inputs_were_tried(capsys: pytest.CaptureFixture[str]) -> None:
    if counts["inputs"] < 100:
        pytest.skip("only with the other tests of this file")
    with capsys.disabled():
        print(f"\nmalformed inputs: {dict(sorted(counts.items()))}")
    refused = sum(number for what, number in counts.items() if what.endswith("refused"))
    assert refused >= 200
