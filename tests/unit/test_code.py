"""What was read of a module is kept beside its bytecode, and never outlives the module's content."""

import ast
import os
import sys
from pathlib import Path

import pytest

from genrec_lab.lab import code

SOURCE = """
import math

def area(r):
    return math.pi * r * twice(r)

def twice(r):
    return 2 * r
"""


def kept(file: Path) -> list[Path]:
    return list((file.parent / "__pycache__").glob("*.definitions"))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "circles.py"
    file.write_text(SOURCE)
    return file


def test_the_second_reading_parses_nothing_and_finds_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = code._read(file, "genrec_lab.circles")
    assert set(first.parts) == {"area", "twice", "*"} and len(kept(file)) == 1
    assert ["genrec_lab.circles", "twice"] in first.parts["area"].uses
    monkeypatch.setattr(ast, "parse", lambda source: pytest.fail("it was parsed again"))
    assert code._read(file, "genrec_lab.circles") == first


def test_a_change_that_keeps_size_and_time_is_seen(file: Path) -> None:
    first, status = code._read(file, "genrec_lab.circles"), file.stat()
    file.write_text(SOURCE.replace("2 * r", "3 * r"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = code._read(file, "genrec_lab.circles")
    assert second.parts["twice"] != first.parts["twice"] and second.parts["area"] == first.parts["area"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"of": 1}', "\0"])
def test_what_is_no_longer_readable_is_made_again(file: Path, content: str) -> None:
    first = code._read(file, "genrec_lab.circles")
    kept(file)[0].write_text(content)
    assert code._read(file, "genrec_lab.circles") == first
    assert kept(file)[0].read_text() != content


def test_nothing_is_kept_for_strangers_or_where_bytecode_is_not(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code._read(file, "my_package.circles")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code._read(file, "genrec_lab.circles")
    assert kept(file) == []


def test_statements_that_define_nothing_count_also_under_a_condition(file: Path) -> None:
    before = code._read(file, "genrec_lab.circles")
    file.write_text(f"{SOURCE}\nif math.pi > 3:\n    math.tau = 6\n    print(area(1))\n")
    found = code._read(file, "genrec_lab.circles")
    assert "<module>" not in before.parts
    assert ["genrec_lab.circles", "area"] in found.parts["<module>"].uses
