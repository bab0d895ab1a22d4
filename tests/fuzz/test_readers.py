"""Every reader of files with sound, damaged and hostile content.

Sound content is read as what it is. Any other is refused with an error of the reader's own that says why, or
read; without a pickle, a program or a file outside the reader's folder being opened, and in bounded memory.
A test run tries 500 inputs, `make nightly` 20,000; both print their counts.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.measuring import held as memory
from genrec_lab.codes import index_files
from genrec_lab.lab import own_tables
from genrec_lab.models import Recommender
from tests.fuzz.readers import CATALOGUE, READERS, Files
from tests.unit.test_malformed import damages

INPUTS = int(os.environ.get("GENREC_INPUTS", "500"))
EACH = -(-INPUTS // len(READERS))
MOST_MEMORY = (
    150 * 10**6
)  # bytes above what the process held; a hole is larger, and so is what a header claims
HOLE = 400 * 10**6
counts: Counter[str] = Counter()


class Broken(AssertionError):
    """What no reader may do."""


# --- what is watched

_seen: list[str] | None = None
_outside = ""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in ("pickle.find_class", "os.system", "subprocess.Popen"):
        _seen.append(f"{event} {arguments[:2]}")
    elif (
        event == "open"
        and isinstance(arguments[0], str | bytes | os.PathLike)
        and os.path.realpath(os.fsdecode(arguments[0])).startswith(_outside)
    ):
        _seen.append(f"opened {os.fsdecode(arguments[0])}")


sys.addaudithook(_watch)


@contextmanager
def watched(outside: Path) -> Iterator[None]:
    """Raise Broken where the block unpickles, starts a program or opens what lies in a folder."""
    global _seen, _outside
    _seen, _outside = [], str(outside.resolve())
    try:
        yield
    finally:
        seen, _seen = _seen, None
        if seen:
            raise Broken(seen[0])


# --- what is tried


class Trap:
    """What runs a program where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def a_pickle(name: str, content: bytes, rng: np.random.Generator) -> bytes:
    if not name.endswith(".npy"):
        return pickle.dumps(Trap())
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"
    return _npy(header) + pickle.dumps(np.array([[Trap()] * 2] * 2, dtype=object))


def _npy(header: bytes) -> bytes:
    padded = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def huge(name: str, content: bytes, rng: np.random.Generator) -> bytes:
    """Claims of more than there is: of an array, and every number of a JSON file."""
    if name.endswith(".npy"):
        rows = 10 ** int(rng.integers(8, 14))
        return _npy(b"{'descr': '<i8', 'fortran_order': False, 'shape': (%d, 2), }" % rows) + content[-64:]
    return _changed_json(content, rng, (int, float), lambda _: 10 ** int(rng.integers(7, 30)))


def nested(name: str, content: bytes, rng: np.random.Generator) -> bytes:
    return b"[" * 100_000


def outwards(name: str, content: bytes, rng: np.random.Generator) -> bytes:
    """A text of a JSON file becomes a path out of the folder, or one is among the keys of all its objects."""
    path = str(rng.choice(["../" * (name.count("/") + 1) + "outside/secret", "{outside}/secret"]))
    if rng.integers(3) == 0:
        return _changed_json(content, rng, (str,), lambda _: path)
    whole = _parsed(content)
    for part in _parts(whole):
        if isinstance(part, dict) and part:
            part[path] = next(iter(part.values()))
    return content if whole is None else json.dumps(whole).encode()


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _parts(whole: Any) -> list[Any]:
    """All objects and lists of a JSON value."""
    found, unseen = [], [whole]
    while unseen:
        part = unseen.pop()
        if isinstance(part, dict | list):
            found.append(part)
            unseen += part.values() if isinstance(part, dict) else part
    return found


def _changed_json(
    content: bytes, rng: np.random.Generator, kinds: tuple[type, ...], new: Callable[[Any], Any]
) -> bytes:
    """The file with one value of these kinds changed, where it has one."""
    whole = _parsed(content)
    places = [
        (part, key)
        for part in _parts(whole)
        for key in (part if isinstance(part, dict) else range(len(part)))
        if type(part[key]) in kinds
    ]
    if not places:
        return content
    part, key = places[int(rng.integers(len(places)))]
    part[key] = new(part[key])
    return json.dumps(whole).encode()


HOSTILE = {"pickle": a_pickle, "huge": huge, "nested": nested, "outwards": outwards}
WAYS = ("sound", "sound", "damaged", "damaged", "damaged", *HOSTILE, "outwards", "outwards", "hole")


def try_one(name: str, place: Path, way: str, seed: int, damage: Callable[[bytes], bytes]) -> None:
    """Read one input; Broken, or whatever error is none of the reader's, where that goes wrong."""
    reader, rng = READERS[name], np.random.default_rng(seed)
    files, expected = reader.make(rng)
    names = sorted(set(files) - {CATALOGUE})
    if way in ("huge", "outwards"):  # which a file of another kind does not take
        names = [name for name in names if name.endswith((".json", ".npy"))] or names
    file = str(rng.choice(names))
    if way == "hole" and not reader.bounded:
        way = "damaged"
    if way == "damaged":
        files[file] = damage(files[file])
    elif way in HOSTILE:
        changed = HOSTILE[way](file, files[file], rng)
        files[file] = changed.replace(b"{outside}", str(place / "outside").encode())
        if way != "nested" and seed % 2:
            _seal(files, file)
    folder = place / "inside"
    shutil.rmtree(folder, ignore_errors=True)
    for written, content in files.items():
        (folder / written).parent.mkdir(parents=True, exist_ok=True)
        (folder / written).write_bytes(content)
    if way == "hole":
        os.truncate(folder / file, HOLE)
    counts["inputs"] += 1
    big = way in ("hole", "huge")
    if big:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = memory("VmRSS")
    try:
        with watched(place / "outside"):
            found = reader.read(folder)
    except reader.refuses as error:
        if way == "sound":
            raise Broken(f"{name}: sound content is refused: {error}") from error
        if len(str(error)) < 30:
            raise Broken(f"{name}: {error!r} does not say what is wrong") from error
        counts["refused"] += 1
    else:
        counts["read"] += 1
        if (way == "sound" or (reader.sealed and not (way in HOSTILE and seed % 2))) and found != expected:
            raise Broken(f"{name}: {way} content {expected} is read as {found}")
    if big and (used := memory("VmHWM") - before) > MOST_MEMORY:
        raise Broken(f"{name}: {used / 1e6:,.0f} MB for {way} content")


def _seal(files: Files, changed: str) -> None:
    """Write the hash of a changed file of a shared folder anew, as whoever means harm does."""
    import hashlib

    if "m/shared.json" in files and changed != "m/shared.json":
        described = json.loads(files["m/shared.json"])
        described["sha256"][Path(changed).name] = hashlib.sha256(files[changed]).hexdigest()
        files["m/shared.json"] = json.dumps(described).encode()


def fuzz(name: str, place: Path, inputs: int = EACH, *, shrink: bool = True) -> None:
    """Try a reader with so many inputs; the same ones every time, as far as a test run goes."""
    outside = place / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret").write_text('{"a": ["b"]}', encoding="utf-8")
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @settings(
        max_examples=inputs, deadline=None, derandomize=INPUTS <= 500, database=None, phases=phases,
        report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(way=st.sampled_from(WAYS), seed=st.integers(0, 2**32 - 1), damage=damages())
    def one(way: str, seed: int, damage: Callable[[bytes], bytes]) -> None:
        try_one(name, place, way, seed, damage)

    one()


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fuzz(name, tmp_path)


def test_so_many_inputs_were_tried(capsys: pytest.CaptureFixture[str]) -> None:
    if len(counts) == 0:
        pytest.skip("only with the other tests of this file")
    with capsys.disabled():
        print(f"\nfuzzed {len(READERS)} readers: {dict(sorted(counts.items()))}")
    assert counts["read"] > 0.2 * counts["inputs"] and counts["refused"] > 0.2 * counts["inputs"]


# --- faults that it must find


class Everything(tuple[str, ...]):
    """Names among which every name is."""

    def __contains__(self, name: object) -> bool:
        return True


def a_dropped_row(monkeypatch: pytest.MonkeyPatch) -> str:
    whole = own_tables._json_lines
    monkeypatch.setattr(own_tables, "_json_lines", lambda file: iter([*whole(file)][:3]))
    return "histories.jsonl"


def a_swapped_column(monkeypatch: pytest.MonkeyPatch) -> str:
    straight = index_files._tokens
    monkeypatch.setattr(index_files, "_tokens", lambda *given: straight(*given)[::-1])
    return "codes.json"


def an_unbounded_read(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(own_tables, "_LONGEST_LINE", 2**40)
    return "histories.jsonl"


def a_path_that_leaves_its_folder(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Recommender, "shared_files", Everything(Recommender.shared_files))
    return "shared folder"


def a_pickle_that_is_read(monkeypatch: pytest.MonkeyPatch) -> str:
    careful = np.load
    monkeypatch.setattr(np, "load", lambda file, **_: careful(file, allow_pickle=True))
    return "codes.npy"


PLANTED = {
    a_dropped_row: "is read as",
    a_swapped_column: "is read as",
    an_unbounded_read: "MB for hole content",
    a_path_that_leaves_its_folder: "opened .*outside",
    a_pickle_that_is_read: "pickle",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The five share the inputs of a test run."""
    name = plant(monkeypatch)
    with pytest.raises((Broken, pickle.UnpicklingError), match=PLANTED[plant]):
        fuzz(name, tmp_path, 100, shrink=False)
