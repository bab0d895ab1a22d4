"""Identifier files of public repositories: read, matched, refused; the reference ones by brute force."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from genrec_lab.codes import CodesError, read_index_file, read_index_files
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
    assert found.codes.sizes == (5, 5)  # as many as the largest code of any level asks for
    assert found.of_items(["x y", "3"]).codes.tolist() == [[2, 0], [0, 4]]
    assert read_index_file(tmp_path / "Some.index.json", (3, 9)).codes.sizes == (3, 9)
    with pytest.raises(CodesError, match="item '4' and 0 more have no identifier in this file of 3 items"):
        found.of_items(["3", "4"])


def test_a_folder_is_read_by_the_names_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.index.json", "a.index.rq.json", "notes.json"):
        written(tmp_path / name, CODES if "index" in name else {})
    monkeypatch.setenv("HERE", str(tmp_path))
    assert list(read_index_files("${HERE}")) == ["a.rq", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CodesError, match=r"has no \*\.index\.json; it has nothing"):
        read_index_files(tmp_path / "empty")
    with pytest.raises(DataError, match="is not there"):
        read_index_files(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"1": ["<a_1>", "<c_1>"]}, r"item '1' has '<c_1>' at level 2; expected a token as <b_12>"),
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
            expected = twin(rows, row["level"] - 1, 256)
            assert {part: row[part] for part in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    figure = tokenizers_compared(table)
    assert "rkmeans_native leaves 31" in figure.layout.title.text.replace("<br>", " ")


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
    one = read_index_file(written(tmp_path / "one.index.json", CODES)).codes
    other = read_index_file(written(tmp_path / "o.index.json", {**CODES, "7": ["<a_1>", "<b_1>"]})).codes
    table = health_table({"<b>one</b>": one, "other": other})
    figure = tokenizers_compared(table, seed=3)
    lines = [trace for trace in figure.data if trace.type == "scatter" and trace.xaxis == "x2"]
    assert [list(line.y) for line in lines] == [
        table.filter(tokenizer=name)["perplexity"].to_list() for name in ("<b>one</b>", "other")
    ]
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.y[0] for bar in bars] == pytest.approx([200 / 3, 0])
    assert bars[0].name == "&lt;b&gt;one&lt;/b&gt;"
    limit = next(trace for trace in figure.data if trace.line.dash == "dot")
    assert limit.y[0] == pytest.approx(math.log2(3))
    with pytest.raises(ValueError, match="no rows"):
        tokenizers_compared(table.clear())
