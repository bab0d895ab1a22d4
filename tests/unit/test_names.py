"""Folder names made of any text, and names of runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.lab.files import LONGEST, run_name_problem, safe_name

NAMES = [
    "/etc/passwd",
    "../../x",
    ".",
    "..",
    "",
    "a/b",
    "a_b",
    "average",
    "Average",
    "all",
    "x" * 300,
    "x" * 301,
    "用户",
    "Bücher",
    "Bu\u0308cher",
    "a\\b",
    "C:",
    "con",
    "NUL.txt",
    "a ",
    " a",
    "a.",
    "~",
    "a\0b",
    "a\nb",
    "é" * 60,
    "x~1",
    "\ud800",
]


@pytest.mark.parametrize(
    "name", ["Garden", "Musical Instruments", "games_2", "Video-Games", "v1.2", "用户", "Bücher"]
)
def test_a_plain_name_stays(name: str) -> None:
    assert safe_name(name) == name


@given(st.text() | st.sampled_from(NAMES))
def test_every_name_becomes_one_plain_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    made = safe_name(name)
    assert 0 < len(made.encode()) <= LONGEST
    assert not set(made) & set('/\\:*?"<>|\0\n') and made not in (".", "..")
    assert made.strip(" .") == made
    assert made.casefold() not in ("average", "all", "con", "nul", "com1")
    parent = tmp_path_factory.getbasetemp() / "names"
    (parent / made).mkdir(parents=True, exist_ok=True)
    assert (parent / made).resolve().parent == parent.resolve()


@given(
    st.lists(
        st.text(alphabet="aAä/.~_ x\u0308", max_size=6) | st.sampled_from(NAMES), min_size=2, unique=True
    )
)
def test_two_names_never_share_a_folder(names: list[str]) -> None:
    made = [safe_name(name) for name in names]
    assert len(set(made)) == len(names)
    again = [safe_name(name) for name in made]  # nor does a name that looks like a made one
    assert all(
        other not in made for other, first, name in zip(again, made, names, strict=True) if first != name
    )


@pytest.mark.parametrize("name", ["demo", "gmc_2018-seed0", "x" * LONGEST, "all", "1"])
def test_runs_may_be_called_so(name: str) -> None:
    assert run_name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["cache", "Cache", "con", "../x", "", ".x", "x.", "a b", "用户", "x" * (LONGEST + 1)]
)
def test_runs_may_not_be_called_so(name: str) -> None:
    assert run_name_problem(name)
