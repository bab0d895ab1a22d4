"""Results that are published in pieces, a row and a seed at a time, from any machine: none is lost."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from docs.publish import FOLDER, settings, table, together, without
from genrec_lab import presets
from genrec_lab.lab.files import read_json


def run(seed: int, rows: dict[str, float], settings_hash: str = "same", **fields: Any) -> dict[str, Any]:
    records = [
        {
            "method": method,
            "domain": domain,
            "metric": metric,
            "k": 10,
            "value": value,
            "users": 8317,
            "seed": seed,
        }
        for method, value in rows.items()
        for domain in ("Scientific", "average")
        for metric in ("recall", "ndcg")
    ]
    about = {"run": f"all-seed{seed}", "seed": seed, "dataset": "abc", "processor": "one"}
    made = {"settings": settings_hash, "revision": "4d015e4"}
    return {**about, "rows": dict.fromkeys(rows, made), "records": records, **fields}


def values(content: dict[str, Any], method: str) -> dict[int, float]:
    cell = {"method": method, "metric": "ndcg", "domain": "Scientific"}
    rows = [row for row in content["records"] if cell.items() <= row.items()]
    assert len({row["seed"] for row in rows}) == len(rows), "a seed stands there twice"
    return {row["seed"]: row["value"] for row in rows}


def test_rows_and_seeds_come_together_over_several_calls() -> None:
    first = together("all", None, [run(0, {"sasrec": 0.06, "hgn": 0.04}), run(1, {"sasrec": 0.07})])
    second = together("all", first, [run(1, {"hgn": 0.05}), run(2, {"sasrec": 0.08})])
    assert values(second, "sasrec") == {0: 0.06, 1: 0.07, 2: 0.08}
    assert values(second, "hgn") == {0: 0.04, 1: 0.05}
    cell = {"method": "sasrec", "metric": "ndcg", "domain": "Scientific"}
    (mean,) = [row for row in second["summary"] if cell.items() <= row.items()]
    assert (mean["mean"], mean["sd"], mean["seeds"]) == (pytest.approx(0.07), pytest.approx(0.01), 3)
    assert [(told["run"], sorted(told["rows"])) for told in second["runs"]] == [
        ("all-seed0", ["hgn", "sasrec"]),
        ("all-seed1", ["sasrec"]),
        ("all-seed1", ["hgn"]),
        ("all-seed2", ["sasrec"]),
    ]


def test_a_later_measurement_takes_the_place_of_the_earlier_one() -> None:
    first = together("all", None, [run(0, {"sasrec": 0.06, "hgn": 0.04})])
    second = together("all", first, [run(0, {"sasrec": 0.065}, processor="two")])
    assert (values(second, "sasrec"), values(second, "hgn")) == ({0: 0.065}, {0: 0.04})
    assert [(told["processor"], list(told["rows"])) for told in second["runs"]] == [
        ("one", ["hgn"]),
        ("two", ["sasrec"]),
    ]
    third = together("all", second, [run(0, {"hgn": 0.05})])
    assert [list(told["rows"]) for told in third["runs"]] == [["sasrec"], ["hgn"]]


def test_what_is_published_twice_changes_nothing() -> None:
    runs = [run(0, {"sasrec": 0.06}), run(1, {"sasrec": 0.07})]
    once = together("all", None, runs)
    assert together("all", copy.deepcopy(once), runs) == once


def test_other_data_or_settings_are_refused() -> None:
    first = together("all", None, [run(0, {"sasrec": 0.06})])
    with pytest.raises(ValueError, match=r"all-seed1 has the data xyz, but all-seed0 in the file abc"):
        together("all", first, [run(1, {"sasrec": 0.07}, dataset="xyz")])
    with pytest.raises(ValueError, match=r"sasrec has other settings in all-seed1 than in all-seed0"):
        together("all", first, [run(1, {"sasrec": 0.07}, settings_hash="other")])
    # With the only seed that it had, a row may change.
    changed = together("all", first, [run(0, {"sasrec": 0.07}, settings_hash="other")])
    assert values(changed, "sasrec") == {0: 0.07}


def test_a_row_is_taken_out_alone_and_may_then_have_other_settings() -> None:
    first = together("all", None, [run(0, {"sasrec": 0.06, "hgn": 0.04}), run(1, {"sasrec": 0.07})])
    left = without("sasrec", first)
    assert left == together("all", None, [run(0, {"hgn": 0.04})])
    assert values(first, "sasrec") == {0: 0.06, 1: 0.07}
    anew = together("all", left, [run(1, {"sasrec": 0.08}, settings_hash="other")])
    assert (values(anew, "sasrec"), values(anew, "hgn")) == ({1: 0.08}, {0: 0.04})
    with pytest.raises(ValueError, match=r"no records of 'gru4rec' to take out; there are hgn, sasrec"):
        without("gru4rec", first)


def test_the_table_has_the_papers_figures_beside_ours() -> None:
    content = together("all", None, [run(0, {"hgn": 0.05, "fmlp_rec": 0.07}), run(1, {"hgn": 0.07})])
    lines = table(content).splitlines()
    assert lines[0] == "**Scientific**"
    # GMC Table 3, HGN on Scientific: Recall@10 .0916, NDCG@10 .0491
    assert lines[4] == "| hgn | 2 | .0600 ± .0141 | .0916 | -34 % | .0600 ± .0141 | .0491 | +22 % |"
    assert "average" not in table(content)  # of one domain it is that domain's
    assert "Data abc." in lines
    assert lines[5] == "| fmlp_rec | 1 | .0700 |  |  | .0700 |  |  |"


def test_a_rows_settings_are_its_own_alone() -> None:
    plain = presets.load("baselines")
    names = ["sasrec", "hgn", "tiger", "popularity"]
    before = settings(plain, names)
    fewer = settings(presets.load("baselines", {"compare": names}), names)
    assert fewer == before
    wider = settings(presets.load("baselines", {"rows.hgn.model.width": 32}), names)
    assert {name for name in names if wider[name] != before[name]} == {"hgn"}
    longer = settings(presets.load("baselines", {"training.epochs": 3}), names)
    assert {name for name in names if longer[name] != before[name]} == {"tiger"}


def test_rows_that_were_kept_despite_changed_code_are_marked() -> None:
    results = [{"stage": "05_training", "code": "abc", "kept_despite": ["losses.dcl"]}]
    old = {"hgn": {"settings": "same", "revision": "4d015e4", "results": results}}
    fresh = {
        "sasrec": {"settings": "same", "revision": "b3f5987", "results": [{"stage": "05", "code": "abc"}]}
    }
    first = run(0, {"hgn": 0.05, "sasrec": 0.06})
    text = table(together("all", None, [{**first, "rows": old | fresh}]))
    assert "| hgn † | 1 | " in text
    assert "| sasrec | 1 | " in text
    assert "† Made by older code and kept by --keep-old-code. hgn: 05_training was made before" in text
    assert "- revision 4d015e4: hgn (seeds 0)" in text
    assert "Unknown" not in text
    assert "precision and package versions of hgn, sasrec" in table(together("all", None, [first]))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_every_published_result_says_which_code_made_it(file: Path) -> None:
    content = read_json(file)
    by_row = {
        (row, each["seed"]): how["revision"]
        for each in content["runs"]
        for row, how in each.get("rows", {}).items()
    }
    by_seed = {each["seed"]: each.get("revision") for each in content["runs"]}
    for record in content.get("records", ()):
        assert re.match("[0-9a-f]{12}", by_row[record["method"], record["seed"]]), record
    if "records" not in content:
        assert all(re.match("[0-9a-f]{12}", revision) for revision in by_seed.values())
        assert {row["seeds"] for row in content["summary"]} == {len(by_seed)}


@pytest.mark.parametrize("name", ["baselines_scientific", "baselines_instruments"])
def test_the_documents_hold_the_tables_of_the_files(name: str) -> None:
    def cells(line: str) -> list[str]:
        first, *others = [cell.strip() for cell in line.strip().strip("|").split("|")]
        return [re.sub("[-_]", "", first).lower(), *(cell.replace("−", "-") for cell in others)]

    content = read_json(FOLDER / f"{name}.json")
    published = [cells(line) for line in table(content).splitlines() if line.startswith("| ")][1:]
    document = (FOLDER.parent / "results.md").read_text(encoding="utf-8")
    _, _, after = document.partition(f"python -m docs.publish {name}\n\n| row |")
    told = [cells(line) for line in after.split("\n\n")[0].splitlines()[2:]]
    assert sorted(told) == sorted(published)


def test_the_results_of_the_readme_stand_in_the_tables() -> None:
    documents = (FOLDER.parents[1] / "README.md", FOLDER.parent / "results.md")
    readme, results = (file.read_text(encoding="utf-8") for file in documents)
    shown = re.findall(r"(\w+)\**(?: with)? (\.\d{4} ± \.\d{4})", readme)
    assert len(shown) >= 6
    for row, value in shown:
        lines = [line for line in results.splitlines() if value in line and row in line]
        assert lines, f"{row} {value} of README.md is not in docs/results.md"
