"""Identifier files of public repositories: read, matched, refused; the reference ones by brute force."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec_lab.codes import CodesError, ItemCodes, code_health, read_index_file, read_index_files
from genrec_lab.data import DataError
from genrec_lab.evaluation import health_table
from genrec_lab.viz.figures import tokenizers_compared

CODES = {"7": ["<a_2>", "<b_0>"], "3": ["<a_0>", "<b_4>"], "x y": ["<a_2>", "<b_0>"]}


def written(file: Path, content: object) -> Path:
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_a_file_is_read_and_put_in_the_order_of_items(tmp_path: Path) -> None:
    found = read_index_file(written(tmp_path / "Some.index.json", CODES))
    assert (found.name, found.keys) == ("Some", ("7", "3", "x y"))
    assert found.codes.codes.tolist() == [[2, 0], [0, 4], [2, 0]]
    # As many as the largest code asks for, and nobody knows how many there could be.
    assert (found.codes.sizes, found.codes.known_sizes) == ((3, 5), (None, None))
    assert found.of_items(["x y", "3"]).codes.tolist() == [[2, 0], [0, 4]]
    assert read_index_file(tmp_path / "Some.index.json", (3, 9)).codes.sizes == (3, 9)
    with pytest.raises(CodesError, match="item '4' and 0 more have no identifier in this file of 3 items"):
        found.of_items(["3", "4"])


def test_a_folder_is_read_by_the_names_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.index.json", "a.index.rq.json", "b.index_lemb.json", "notes.json"):
        written(tmp_path / name, CODES if "index" in name else {})
    monkeypatch.setenv("HERE", str(tmp_path))
    assert list(read_index_files("${HERE}")) == ["a.rq", "b", "b_lemb"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CodesError, match=r"has no \*\.index\.json; it has nothing"):
        read_index_files(tmp_path / "empty")
    with pytest.raises(DataError, match="is not there"):
        read_index_files(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"1": ["<a_1>", "<b_1>"], "2": ["<a_1>", "<c_1>"]},
            r"item '2' has '<c_1>' at level 2; the first item has '<b_1>' there",
        ),
        (
            {"1": [1, "<b_1>"]},
            "item '1' has '<b_1>' at level 2; expected a token such as <a_12>, or whole numbers",
        ),
        ({"1": [1.5]}, "item '1' has 1.5 at level 1"),
        ({"1": ["a1b2"]}, "item '1' has 'a1b2' at level 1"),
        ({"1": ["<a_-1>"]}, "has '<a_-1>' at level 1"),
        ({"1": ["<a_1>", 4]}, "has '4' at level 2"),
        ({"1": "<a_1>"}, "item '1' has '<a_1>'; expected tokens"),
        ({"1": []}, r"item '1' has \[\]; expected tokens"),
        ({"1": ["<a_1>"], "2": ["<a_1>", "<b_1>"]}, "item '2' has 2 codes, the first item has 1"),
    ],
)
def test_what_is_no_identifier_is_refused_by_file_and_item(
    tmp_path: Path, content: object, message: str
) -> None:
    with pytest.raises(CodesError, match=message) as error:
        read_index_file(written(tmp_path / "bad.index.json", content))
    assert "bad.index.json" in str(error.value)


@pytest.mark.parametrize(
    "tokens",
    [
        lambda row: [f"<A_{code}>" for code in row],
        lambda row: [f"<{letter}_{code}>" for letter, code in zip("xyz", row, strict=True)],
        lambda row: [f"<|code_{code}|>" for code in row],
        lambda row: row,
        lambda row: [str(code) for code in row],
        lambda row: [f"C{code}" for code in row],
    ],
)
def test_tokens_of_any_letters_and_whole_numbers_are_read(tmp_path: Path, tokens: Any) -> None:
    rows = {"7": [2, 0, 154], "3": [0, 4, 0], "x y": [2, 0, 1]}
    file = written(tmp_path / "Some.index_lemb.json", {key: tokens(row) for key, row in rows.items()})
    found = read_index_file(file)
    assert (found.name, found.codes.codes.tolist()) == ("Some_lemb", list(rows.values()))


def test_collapsed_codes_claim_nothing_unless_sizes_are_told(tmp_path: Path) -> None:
    """Identifiers of 4 levels of 256 codes that fell to 2 codes a level."""
    rng = np.random.default_rng(0)
    rows = {str(item): [f"<{letter}_{rng.integers(2)}>" for letter in "abcd"] for item in range(500)}
    file = written(tmp_path / "toy.index.json", rows)
    told = code_health((codes := read_index_file(file, [256] * 4).codes).codes, codes.known_sizes)
    assert told.utilisation == pytest.approx((0.0078125,) * 4) and told.dead == (254,) * 4
    codes = read_index_file(file).codes
    health = code_health(codes.codes, codes.known_sizes)
    assert health.used == (2, 2, 2, 2)
    assert all(math.isnan(value) for value in (*health.utilisation, *health.dead, *health.gini))
    assert health.collision_rate == told.collision_rate
    codes.write(tmp_path / "codes.parquet")
    assert ItemCodes.read(tmp_path / "codes.parquet").known_sizes == (None,) * 4
    assert codes.select([3, 1]).known_sizes == (None,) * 4 and codes.select([3, 1]).sizes == codes.sizes
    title = tokenizers_compared(health_table({"toy": codes})).layout.title.text
    assert "unknown" in title and "dead" not in title


def test_a_level_that_only_counts_equal_ones_is_known_by_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 256, (4000, 3))
    rows = {
        str(item): [
            *(f"<{letter}_{code}>" for letter, code in zip("abc", row, strict=True)),
            f"<d_{item % 3}>",
        ]
        for item, row in enumerate(drawn.tolist())
    }
    codes = read_index_file(written(tmp_path / "toy.index.json", rows)).codes
    assert codes.sizes == (256, 256, 256, 3) and codes.known_sizes == (None, None, None, 3)
    health = code_health(codes.codes, codes.known_sizes)
    assert (health.used[3], health.dead[3], health.utilisation[3]) == (3, 0, 1.0)
    # Where whole identifiers are shared, it does not only tell apart what is equal before it.
    shared = {"a": ["<a_9>", "<b_0>"], "b": ["<a_9>", "<b_0>"], "c": ["<a_0>", "<b_1>"]}
    assert read_index_file(written(tmp_path / "s.index.json", shared)).codes.known_sizes == (None, None)


def twin(rows: list[tuple[int, ...]], level: int, size: int) -> dict[str, float]:
    """The health of one level and of the whole, by counting."""
    counts = Counter(row[level] for row in rows)
    shares = [count / len(rows) for count in counts.values()]
    values = sorted([*counts.values(), *[0] * (size - len(counts))])
    # Gini by the area under the Lorenz curve, trapezia between the codes.
    area = sum(
        (2 * sum(values[:place]) + value) / (2 * len(rows) * size) for place, value in enumerate(values)
    )
    prefixes = Counter(row[: level + 1] for row in rows)
    whole = Counter(rows)
    return {
        "used": len(counts),
        "utilisation": len(counts) / size,
        "perplexity": math.prod(share**-share for share in shares),
        "gini": 1 - 2 * area,
        "dead": size - len(counts),
        "prefix_entropy": sum(n / len(rows) * math.log2(len(rows) / n) for n in prefixes.values()),
        "collision_rate": sum(whole[row] > 1 for row in rows) / len(rows),
        "largest_collision": max(whole.values()),
        "unique_ratio": len(whole) / len(rows),
    }


def test_the_four_reference_identifiers_by_brute_force(real_data: Path) -> None:
    folder = real_data / "scientific_2018" / "reference_codes"
    read = read_index_files(folder)
    assert list(read) == ["letter_native", "mql4grec", "rkmeans_native", "rqvae_native"]
    table = health_table({name: one.codes for name, one in read.items()})
    assert table.height == 16 and set(table["items"]) == {4344}
    for name in read:
        content = json.loads((folder / f"{name}.index.json").read_text())
        rows = [tuple(int(token[3:-1]) for token in tokens) for tokens in content.values()]
        for row in table.filter(tokenizer=name).iter_rows(named=True):
            assert (row["utilisation"], row["gini"], row["dead"]) == (None, None, None)
        told = health_table({name: read_index_file(folder / f"{name}.index.json", [256] * 4).codes})
        for row in told.iter_rows(named=True):
            expected = twin(rows, row["level"] - 1, 256)
            assert {part: row[part] for part in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    figure = tokenizers_compared(table)
    assert "rkmeans_native 31\u00a0% of the items ambiguous" in figure.layout.title.text.replace("<br>", " ")


@pytest.mark.parametrize(
    ("file", "items", "distinct"),
    [
        ("office_2014/Office.index.rq-kmeans.json", 2420, 2415),
        ("instruments_2018/Instruments.index.json", 9922, 9897),
    ],
)
def test_other_published_files_are_read(real_data: Path, file: str, items: int, distinct: int) -> None:
    found = read_index_file(real_data / file)
    assert found.codes.n_items == items and found.codes.sizes == (256,) * 4
    assert len({tuple(row) for row in found.codes.codes.tolist()}) == distinct


def test_the_figure_draws_each_level_of_each_tokenizer(tmp_path: Path) -> None:
    one = read_index_file(written(tmp_path / "one.index.json", CODES), (5, 5)).codes
    changed = {**CODES, "7": ["<a_1>", "<b_1>"]}
    other = read_index_file(written(tmp_path / "o.index.json", changed), (5, 5)).codes
    table = health_table({"<b>one</b>": one, "other": other})
    figure = tokenizers_compared(table, seed=3)
    lines = [trace for trace in figure.data if trace.type == "scatter" and trace.xaxis == "x2"]
    assert [list(line.y) for line in lines] == [
        pytest.approx((100 * table.filter(tokenizer=name)["perplexity"] / 5).to_list())
        for name in ("<b>one</b>", "other")
    ]
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.y[0] for bar in bars] == pytest.approx([200 / 3, 0])
    assert bars[0].name == "&lt;b&gt;one&lt;/b&gt;"
    limit = next(trace for trace in figure.data if trace.line.dash == "dot")
    assert limit.y[0] == pytest.approx(math.log2(3))
    with pytest.raises(ValueError, match="no rows"):
        tokenizers_compared(table.clear())
