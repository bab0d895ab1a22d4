"""Files and folders that come whole or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from genrec_lab.data.whole_files import whole_file, whole_folder

KINDS = pytest.mark.parametrize("several_writers", [False, True])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@KINDS
def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path, several_writers: bool) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    with whole_file(file, several_writers=several_writers) as partial:
        partial.write_text("new")
        assert partial.parent == tmp_path  # a rename is one step only within a file system
        assert partial.name.startswith("a.json.")
        assert partial.name.endswith(".partial")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


@KINDS
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, several_writers: bool, error: type[BaseException]
) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")

    def fail_half_way() -> None:
        with whole_file(file, several_writers=several_writers) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_failure_before_the_first_byte_is_the_error_that_is_seen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first"), whole_file(tmp_path / "a"):
        raise ValueError("first")
    assert names(tmp_path) == []


def test_a_rename_that_fails_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError), whole_file(tmp_path / "a") as partial:  # noqa: PT011 - the system's own words
        partial.write_text("new")
    assert names(tmp_path) == ["a"]


def test_what_a_kill_left_is_written_over(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as partial:
        partial.write_text("a long half")
    partial.write_text("the half of a killed writer, longer than the whole")
    with whole_file(tmp_path / "a") as again:
        again.write_text("whole")
    assert (tmp_path / "a").read_text() == "whole"
    assert names(tmp_path) == ["a"]


def test_several_writers_never_mix(tmp_path: Path) -> None:
    file = tmp_path / "cache"

    def write(letter: str) -> None:
        with whole_file(file, several_writers=True) as partial, partial.open("w") as stream:
            for _ in range(200):
                stream.write(letter * 100)
                stream.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcdefgh"))
    content = file.read_text()
    assert content == content[0] * 20_000
    assert names(tmp_path) == ["cache"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "epoch-2"
    with whole_folder(folder) as partial:
        (partial / "old").write_text("old")
    with whole_folder(folder) as partial:
        assert names(partial) == []
        (partial / "new").write_text("new")
        assert names(folder) == ["old"]
    assert names(folder) == ["new"]
    assert names(folder.parent) == ["epoch-2"]


def test_a_folder_starts_empty_and_goes_when_it_fails(tmp_path: Path) -> None:
    folder = tmp_path / "epoch-2"
    left = tmp_path / "epoch-2.partial"  # of a kill
    left.mkdir()
    (left / "state").write_text("half")
    (folder / "inner").mkdir(parents=True)

    def fail() -> None:
        with whole_folder(folder) as partial:
            assert names(partial) == []
            raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        fail()
    assert names(tmp_path) == ["epoch-2"]
    assert names(folder) == ["inner"]
