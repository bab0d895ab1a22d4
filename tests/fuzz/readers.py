"""Every reader of files with random sound content that is known, for the fuzzer.

A reader has `make`, which draws the bytes of its files and what they hold, and `read`, which says what it
found in a comparable form. `sealed` files are written with a checksum: changed, they are refused or read as
they were written. `bounded` readers take a file of any length in little memory.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from genrec_lab.codes import CodesError, ItemCodes
from genrec_lab.data import DataError, Dataset, load_dataset
from genrec_lab.lab import RunError, own_tables
from genrec_lab.lab.runfile import read_run_file
from genrec_lab.lab.store import existing_run, open_run
from genrec_lab.models import Recommender
from genrec_lab.models.hub import CardFacts
from genrec_lab.models.tokenizers import GivenCodes
from genrec_lab.models.tokenizers.base import ItemContent, TokenizerError
from tests.unit.conftest import tiny_recommender
from tests.unit.test_malformed import SOURCES, Source

Files = dict[str, bytes]
Made = tuple[Files, Any]
CATALOGUE = "items"  # what a reader is given beside its file, and no file to damage


@dataclass(frozen=True)
class Reader:
    """How files of one kind are made, read and compared."""

    make: Callable[[np.random.Generator], Made]
    read: Callable[[Path], Any]
    refuses: tuple[type[Exception], ...]
    sealed: bool = False
    bounded: bool = False


def words(rng: np.random.Generator, most: int = 8) -> list[str]:
    """Distinct keys, some of them numbers, with accents and blanks."""
    drawn = rng.choice(["7", "42", "B0", "saw, red", "Café", "x y", "杯", "a'b", "null", "1e3", "é"], most)
    return [f"{word}{place}" for place, word in enumerate(drawn[: rng.integers(1, most + 1)].tolist())]


def parquet(frame: pl.DataFrame) -> bytes:
    """A frame as the bytes of a parquet file."""
    written = io.BytesIO()
    frame.write_parquet(written)
    return written.getvalue()


def folder_of(write: Callable[[Path], Any]) -> Files:
    """The files that a function writes into a folder."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        return {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in Path(place).rglob("*")
            if path.is_file()
        }


# --- histories


def make_histories(ending: str) -> Callable[[np.random.Generator], Made]:
    def make(rng: np.random.Generator) -> Made:
        held = [(user, str(rng.choice(["a", "b"])), words(rng)) for user in words(rng)]
        frame = pl.DataFrame(held, schema=["user", "domain", "history"], orient="row")
        if ending == "jsonl":
            lines = (json.dumps(row, ensure_ascii=bool(rng.integers(2))) for row in frame.to_dicts())
            content = "\n".join(lines).encode()
        elif ending == "csv":
            content = frame.explode("history").rename({"history": "item"}).write_csv().encode()
        else:
            content = parquet(frame)
        return {f"h.{ending}": content}, held

    return make


def read_histories(ending: str) -> Callable[[Path], Any]:
    return lambda folder: own_tables.read_histories(folder / f"h.{ending}").rows()


# --- codes


def drawn_codes(rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    keys = words(rng)
    return keys, rng.integers(0, 9, (len(keys), int(rng.integers(2, 5))))


def make_codes(ending: str) -> Callable[[np.random.Generator], Made]:
    """Codes of the items of the catalogue, in another order where the file names its items."""

    def make(rng: np.random.Generator) -> Made:
        keys, codes = drawn_codes(rng)
        order = rng.permutation(len(keys))
        if ending == "npy":
            written = io.BytesIO()
            np.save(written, codes)
            content = written.getvalue()
        elif ending == "json":
            tokens = {keys[i]: [f"<{'abcd'[at]}_{code}>" for at, code in enumerate(codes[i])] for i in order}
            content = json.dumps(tokens).encode()
        else:
            columns = {f"code_{level}": codes[order, level] for level in range(codes.shape[1])}
            content = parquet(pl.DataFrame({"key": [keys[i] for i in order], **columns}))
        return {f"c.{ending}": content, CATALOGUE: json.dumps(keys).encode()}, codes.tolist()

    return make


def read_codes(ending: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        keys = json.loads((folder / CATALOGUE).read_bytes())
        items = pl.DataFrame({"item": range(len(keys)), "domain": "a", "key": keys})
        numbers = np.arange(len(keys))
        content = ItemContent(np.zeros((len(keys), 1)), np.zeros_like(numbers), numbers, items=items)
        given = GivenCodes(GivenCodes.Config(kind="given", file=str(folder / f"c.{ending}")))
        return given.fit(content).encode(content).tolist()

    return read


def make_item_codes(rng: np.random.Generator) -> Made:
    keys, codes = drawn_codes(rng)
    made = ItemCodes(codes, (9,) * codes.shape[1], ["ab"[i % 2] for i in range(len(keys))])
    return folder_of(lambda folder: made.write(folder / "codes.parquet")), made


# --- run files, manifests, shared folders, written datasets


def make_run_file(rng: np.random.Generator) -> Made:
    held = {
        "run": f"r{rng.integers(99)}",
        "preset": "gmc_tiny",
        "seed": int(rng.integers(99)),
        "dataset": {"name": "bazaar", "items": int(rng.integers(100, 999))},
        "overrides": {"training.epochs": int(rng.integers(1, 9))},
    }
    return {"r.yaml": yaml.safe_dump(held, sort_keys=False).encode()}, held


def of_run_file(folder: Path) -> Any:
    found = read_run_file(folder / "r.yaml").parameters()
    return {name: found[name] for name in ("run", "preset", "seed", "dataset", "overrides")}


@cache
def run_folder() -> Files:
    return folder_of(lambda folder: open_run("mine", preset="gmc_tiny", root=folder))


def make_manifest(rng: np.random.Generator) -> Made:
    return {"mine/manifest.json": run_folder()["mine/manifest.json"]}, "gmc_tiny"


@cache
def shared_folder() -> Files:
    codes = ItemCodes([[0, 1], [1, 2], [2, 0]], (3, 3), ["a"] * 3)
    items = pl.DataFrame({"domain": "a", "key": ["k0", "k1", "k2"], "title": ["Saw", "Rake", "Pot"]})
    facts = CardFacts(dataset="toy")
    return folder_of(lambda folder: tiny_recommender(codes).save_pretrained(folder / "m", facts, items))


def make_shared(rng: np.random.Generator) -> Made:
    return dict(shared_folder()), [[0, 1], [1, 2], [2, 0]]


def make_written(rng: np.random.Generator) -> Made:
    files, held = make_lcrec(rng)

    def write(folder: Path) -> None:
        (folder / "raw").mkdir()
        for name, content in files.items():
            (folder / "raw" / name).write_bytes(content)
        load_dataset("lcrec", folder=folder / "raw").write(folder / "kept")

    written = folder_of(write)
    return {name: content for name, content in written.items() if name.startswith("kept/")}, held


# --- sources of interactions


def as_lists(dataset: Dataset) -> Any:
    """Sequences of titles by user, which no reader may order or name otherwise."""
    titles = dataset.items["title"].to_list()
    return sorted([titles[item] for item in items] for items in dataset.sequences["items"].to_list())


def make_lcrec(rng: np.random.Generator) -> Made:
    titles = [f"t{place} {word}" for place, word in enumerate(words(rng))]
    users = {str(user): rng.permutation(len(titles)).tolist() for user in range(rng.integers(1, 5))}
    items = {str(place): {"title": title} for place, title in enumerate(titles)}
    files = {"S.inter.json": json.dumps(users).encode(), "S.item.json": json.dumps(items).encode()}
    return files, sorted([titles[item] for item in of_user] for of_user in users.values())


def make_csv(rng: np.random.Generator) -> Made:
    files, held = make_lcrec(rng)
    users, items = json.loads(files["S.inter.json"]), json.loads(files["S.item.json"])
    rows = [
        {"user": f"u{user}", "item": f"i{item}", "timestamp": 100 + place}
        for user, of_user in users.items()
        for place, item in enumerate(of_user)
    ]
    table = pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=int(rng.integers(99)))
    named = pl.DataFrame(
        {"item": [f"i{key}" for key in items], "title": [i["title"] for i in items.values()]}
    )
    return {"r.csv": table.write_csv().encode(), "i.csv": named.write_csv().encode()}, held


def of_source(source: Source) -> Reader:
    """A source of tests/unit/test_malformed.py: what is left of the interactions is counted there."""
    return Reader(
        lambda rng: (dict(source.files), None),
        lambda folder: load_dataset(source.name, **source.options(folder)) and None,
        (DataError,),
    )


READERS: dict[str, Reader] = {
    "histories.jsonl": Reader(make_histories("jsonl"), read_histories("jsonl"), (RunError,), bounded=True),
    "histories.csv": Reader(make_histories("csv"), read_histories("csv"), (RunError,)),
    "histories.parquet": Reader(make_histories("parquet"), read_histories("parquet"), (RunError,)),
    "codes.json": Reader(make_codes("json"), read_codes("json"), (TokenizerError,)),
    "codes.npy": Reader(make_codes("npy"), read_codes("npy"), (TokenizerError,), bounded=True),
    "codes.parquet": Reader(make_codes("parquet"), read_codes("parquet"), (TokenizerError,)),
    "item codes": Reader(make_item_codes, lambda f: ItemCodes.read(f / "codes.parquet"), (CodesError,)),
    "run file": Reader(make_run_file, of_run_file, (RunError,), bounded=True),
    "manifest": Reader(
        make_manifest, lambda f: existing_run("mine", f).parameters["preset"], (RunError,), sealed=True
    ),
    "shared folder": Reader(
        make_shared,
        lambda f: Recommender.from_pretrained(f / "m").codes.codes.tolist(),
        (ValueError, FileNotFoundError),
        sealed=True,
    ),
    "written dataset": Reader(
        make_written, lambda f: as_lists(Dataset.read(f / "kept")), (DataError,), sealed=True
    ),
    "lcrec": Reader(make_lcrec, lambda f: as_lists(load_dataset("lcrec", folder=f)), (DataError,)),
    "csv": Reader(
        make_csv,
        lambda f: as_lists(load_dataset("frames", interactions=f / "r.csv", items=f / "i.csv")),
        (DataError,),
    ),
    **{name: of_source(source) for name, source in SOURCES.items() if name not in ("lcrec", "csv")},
}
