"""Components of somebody else: one file beside a run file, outside the repository, no edit of the package."""

from __future__ import annotations

import ast
import json
import linecache
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest

from genrec_lab.evaluation.significance import differences_to_rows
from genrec_lab.lab.adapt import adapt_to_domains
from genrec_lab.lab.chain import tasks_of
from genrec_lab.lab.code import _written
from genrec_lab.lab.evaluate import load_rankings, rank_test_users
from genrec_lab.lab.explore import explorer_state
from genrec_lab.lab.files import RunError
from genrec_lab.lab.notebooks import choose_notebooks, keep_cell
from genrec_lab.lab.preflight import check_run
from genrec_lab.lab.prepare import prepare_data
from genrec_lab.lab.recommend import train_recommenders
from genrec_lab.lab.store import Run, open_run
from genrec_lab.lab.tokenise import train_tokenizers
from genrec_lab.models.tokenizers import find_tokenizer
from genrec_lab.registry import relative_to
from tests.pipeline.wheel import OUTSIDE

REPOSITORY = Path(__file__).parents[2]
_STAGES = ("01_data_preparation", "02_tokenizer_training", "05_recommender_training", "07_evaluation")
_METRIC = "my_methods.py:hit_at_one"


def copied(folder: Path) -> Path:
    for name in ("my_methods.py", "my_methods.yaml"):
        shutil.copy(REPOSITORY / "examples" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("elsewhere"))


def opened(folder: Path) -> Run:
    checked = check_run(folder / "my_methods.yaml", root=folder / "runs", notebooks=REPOSITORY / "notebooks")
    return open_run(**checked.spec.parameters(), root=checked.root, base=checked.spec.base, change=True)


@contextmanager
def instead(folder: Path, before: str, after: str) -> Iterator[None]:
    """While the block lasts, the strangers' file has another text."""
    file = folder / "my_methods.py"
    text = file.read_text()
    assert text.count(before) == 1
    file.write_text(text.replace(before, after))
    try:
        yield
    finally:
        file.write_text(text)


def made(folder: Path) -> Run:
    run = opened(folder)
    for make in (prepare_data, train_tokenizers, train_recommenders, adapt_to_domains, rank_test_users):
        make(run)
    return run


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return made(folder)


def test_rows_of_strangers_are_in_the_table_with_their_metric_and_intervals(run: Run) -> None:
    metrics = run.metrics().filter(domain="average")
    assert set(metrics["method"]) == {"mine", "last_item", "popularity"}
    assert set(metrics["metric"]) == {"recall", "ndcg", _METRIC}
    measured = metrics.filter(k=5).pivot(on="metric", index="method", values="value")
    assert (measured[_METRIC] <= measured["recall"]).all()
    gains = differences_to_rows(load_rankings(run), "mine", seed=0)
    assert gains.height == 2
    assert (gains["low"] < gains["high"]).all()


def test_codes_of_a_stranger_are_open_in_the_explorer(run: Run) -> None:
    state = explorer_state(run)
    assert state.catalogue.n_items == 300
    assert run.codes().levels == 5  # four directions, and a level that tells equal ones apart


def test_results_say_which_code_of_the_stranger_made_them(run: Run) -> None:
    (made,) = {
        one["code"] for one in run.provenance() if one["row"] == "last_item" and one["scope"] == "Garden"
    }
    assert made
    record = run.state(tasks_of(run, "05_recommender_training")[0]).record
    assert record is not None
    assert any(name.startswith("genrec_file_my_methods.LastItem") for name in record.functions)


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        ("vectors.mean(axis=0)", "vectors.mean(0)", "02/mine 05/mine 07/mine"),
        ("sum(axis=1, keepdims=True)", "sum(1, keepdims=True)", "05/mine 07/mine"),
        ("self.config.smoothing, dtype", "1.0, dtype", "05/last_item 07/last_item"),
        ("users=300)", "users=299 + 1)", "01/data"),  # what follows is known once the data are there
        ("astype(float)", "astype(np.float64)", ""),  # metrics are computed from what is stored
    ],
    ids=["tokenizer", "recommender", "item model", "data source", "metric"],
)
def test_a_change_in_one_component_makes_its_rows_again_and_no_other(
    run: Run, folder: Path, before: str, after: str, again: str
) -> None:
    with instead(folder, before, after):
        changed = opened(folder)
        tasks = [task for stage in _STAGES for task in tasks_of(changed, stage) or []]
        anew = {task.place for task in tasks if changed.state(task).action == "run"}
    assert sorted({f"{place[:2]}/{place.split('/')[1]}" for place in anew}) == again.split()


def test_fit_of_a_tokenizer_gets_the_arguments_that_its_signature_names(run: Run, folder: Path) -> None:
    whole = """    def fit(
        self, content: Any, *, seed: int = 0, on_epoch: Any = None, checkpoint: Any = None
    ) -> "Directions":"""
    with instead(folder, whole, '    def fit(self, content: Any) -> "Directions":\n        seed = 0'):
        again = opened(folder)
        train_tokenizers(again)
        assert np.array_equal(again.codes().codes, run.codes().codes)


# -- what cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('fit(self, data: Any) -> "LastItem"', "learn(self, data)", "LastItem lacks fit; an item model has"),
        ("decay: float", "decay: bool", r"recommender.decay = 0.3: .*Config of .*:CodeTransitions"),
        ("class CodeTransitions:", "1 / 0\n\n\nclass Other:", r"cannot be imported \(ZeroDivisionError"),
        (
            "class CodeTransitions:",
            "class Transitions:",
            "has no CodeTransitions .did you mean 'Transitions'",
        ),
        ("def hit_at_one(", "def hit(", "has no hit_at_one"),
        ("def small_shop(size:", "def small_shop(shelves:", "size"),
    ],
    ids=["no fit", "refused by Config", "fails on import", "no class", "no metric", "no option"],
)
def test_what_is_known_to_be_wrong_is_said_before_anything_runs(
    folder: Path, before: str, after: str, message: str
) -> None:
    with instead(folder, before, after), pytest.raises(RunError, match=message):
        opened(folder)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "> self.borders).sum(axis=1)",
            "> self.borders)[:, 0] + 99",
            "Directions.encode gave item 0 the code (99|100) at level 1; expected 0 to 15",
        ),
        (
            "> self.borders).sum(axis=1)",
            "> self.borders).sum(axis=2)",
            "Directions.encode gave codes of shape",
        ),
        (
            "(places[:, None] > self.borders).sum(axis=1)",
            "np.random.default_rng().integers(16, size=places.shape)",
            "Directions.encode gave .* different codes when called twice",
        ),
        (
            "self.codes.domain_items(name)",
            "np.arange(300)",
            "recommend gave user . the item .* not one of the 100",
        ),
        (
            "Ranked.best(items[None], scores[None], top_k)",
            "Ranked(items[None, [0] * top_k], scores[None, :top_k])",
            "CodeTransitions.recommend gave user 0 the item 0, twice",
        ),
        ("return self.counts[", "return self.counts[:, :-1][", r"LastItem.score gave an array of shape \("),
        ("return self.counts[", "return np.nan * self.counts[", "LastItem.score gave NaN for history 0"),
    ],
    ids=["outside sizes", "shape", "not deterministic", "another domain", "twice", "length", "NaN"],
)
def test_what_a_stranger_gives_that_cannot_be_is_said_of_its_class(
    run: Run, folder: Path, before: str, after: str, message: str
) -> None:
    with instead(folder, before, after), pytest.raises(ValueError, match=message):
        made(folder)


# -- classes in a notebook ----------------------------------------------------------------------------------

CELL = """\
import numpy as np
from genrec_lab.models.tokenizers import ItemContent, Tokenizer

class Signs(Tokenizer):
    def fit(self, content):
        self.sizes = (2,) * ItemContent.of(content).vectors.shape[1]
        return self

    def encode(self, content):
        return (ItemContent.of(content).vectors > BORDER).astype(np.int64)
"""


def in_a_cell(source: str, number: int) -> Any:
    """The class of a cell, as a kernel makes it."""
    name, names = f"<cell {number}>", {"__name__": "__main__"}
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), names)  # noqa: S102 - it is the text above
    return names["Signs"]


def test_a_class_of_a_cell_is_found_by_its_place_from_the_runs_base(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(folder=tmp_path / "runs" / "demo", base=tmp_path / "work")
    run.base.mkdir()
    with pytest.raises(RunError, match="The cell of Signs uses BORDER, which another cell defines"):
        keep_cell(run, in_a_cell(CELL, 1))
    place = keep_cell(run, in_a_cell(CELL.replace("BORDER", "0"), 2))
    assert place == "../runs/demo/cells/signs.py:Signs"
    vectors = np.array([[0.5, 2.0]])
    with relative_to(run.base):
        first = find_tokenizer(place)
        keep_cell(run, in_a_cell(CELL.replace("BORDER", "1"), 3))
        changed = find_tokenizer(place)
    assert first().fit(vectors).encode(vectors).tolist() == [[1, 1]]
    assert changed().fit(vectors).encode(vectors).tolist() == [[0, 1]]
    with pytest.raises(RunError, match="test_strangers:in_a_cell was not written in a cell"):
        keep_cell(run, in_a_cell)


def test_the_notebook_has_the_classes_of_the_example_and_is_executed_where_it_is_named() -> None:
    notebooks = REPOSITORY / "notebooks"
    cells = nbformat.read(notebooks / "10_your_own_method.ipynb", as_version=4).cells
    written = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    example = ast.parse((REPOSITORY / "examples" / "my_methods.py").read_text())
    for name, most in (("Directions", 25), ("CodeTransitions", 40)):
        here, there = (
            next(node for tree in trees for node in tree.body if getattr(node, "name", "") == name)
            for trees in (written, [example])
        )
        assert _written(here) == _written(there)  # but for docstrings and annotations
        assert here.end_lineno - here.lineno < most
    assert [file.stem[:2] for file in choose_notebooks(notebooks, None, None, None)][-1] == "09"
    assert [file.stem[:2] for file in choose_notebooks(notebooks, None, ["10"], None)] == ["10"]
    assert [file.stem[:2] for file in choose_notebooks(notebooks, None, ["5", "06"], None)] == ["05", "06"]
    assert [file.stem[:2] for file in choose_notebooks(notebooks, None, None, "8")] == ["08", "09"]
    with pytest.raises(RunError, match="--only names '55'"):
        choose_notebooks(notebooks, None, ["55"], None)
    assert [file.stem[:2] for file in choose_notebooks(notebooks, None, None, "09")] == ["09"]


# -- the wheel alone ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_wheel_alone_runs_strangers_outside_the_checkout_and_goes_on_after_a_kill(
    genrec: Path, tmp_path: Path
) -> None:
    command = genrec
    python, (packages,) = command.with_name("python"), command.parents[1].glob("lib/python*/site-packages")

    def started(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [command, *arguments], env=OUTSIDE, text=True, stdout=pipe, stderr=pipe, **options
        )

    assert started("init", "x", cwd=tmp_path).wait(300) == 0
    work = copied(tmp_path / "x")
    folder, chain = work / "runs" / "my_methods", ("run", "my_methods.yaml", "--only", "01,02,05,07")
    killed = started(*chain, cwd=work, start_new_session=True)
    log, began = folder / "log.jsonl", time.monotonic()
    while not (log.is_file() and '"place": "05_' in log.read_text()):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() - began < 600
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = {file: file.stat().st_mtime_ns for file in folder.glob("0[12]*/**/result.json")}
    assert before

    resumed = started(*chain, cwd=work)
    said = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, said
    assert {file: file.stat().st_mtime_ns for file in before} == before
    report = (folder / "report.html").read_text()
    assert all(word in report for word in ("mine", "last_item", _METRIC))
    assert {"results_ndcg", "differences"} <= {file.stem for file in (folder / "figures").iterdir()}

    code = (
        "import genrec_lab; from genrec_lab.lab import explorer_state\n"
        "state = explorer_state(genrec_lab.existing_run('my_methods'))\n"
        "print(genrec_lab.__file__, state.catalogue.name, len(state.shown('mine')))"
    )
    explored = subprocess.run(
        [python, "-c", code], cwd=work, env=OUTSIDE, capture_output=True, text=True, timeout=300
    )
    assert explored.returncode == 0, explored.stderr
    assert str(packages) in explored.stdout
    assert "my_methods · mine" in explored.stdout

    file = work / "my_methods.py"
    file.write_text(file.read_text().replace("dtype=np.float32)", "dtype=np.float64)"))
    planned = started(*chain, "--dry-run", "--json", cwd=work).communicate(timeout=300)[0]
    again = {step["row"] for step in json.loads(planned) if step["row"] and step["action"] == "run"}
    assert again == {"last_item"}
