"""Components of somebody else: one file beside a run file, outside the repository, no edit of the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from genrec_lab.lab.adapt import adapt_to_domains
from genrec_lab.lab.chain import tasks_of
from genrec_lab.lab.evaluate import rank_test_users
from genrec_lab.lab.explore import explorer_state
from genrec_lab.lab.preflight import check_run
from genrec_lab.lab.prepare import prepare_data
from genrec_lab.lab.recommend import train_recommenders
from genrec_lab.lab.store import Run, open_run
from genrec_lab.lab.tokenise import train_tokenizers

REPOSITORY = Path(__file__).parents[2]
_STAGES = ("01_data_preparation", "02_tokenizer_training", "05_recommender_training", "07_evaluation")
_METRIC = "my_methods.py:hit_at_one"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("my_methods.py", "my_methods.yaml"):
        shutil.copy(REPOSITORY / "examples" / name, folder / name)
    return folder


def opened(folder: Path) -> Run:
    checked = check_run(folder / "my_methods.yaml", root=folder / "runs", notebooks=REPOSITORY / "notebooks")
    return open_run(**checked.spec.parameters(), root=checked.root, base=checked.spec.base, change=True)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    run = opened(folder)
    for make in (prepare_data, train_tokenizers, train_recommenders, adapt_to_domains, rank_test_users):
        make(run)
    return run


def test_rows_of_strangers_are_in_the_table_with_their_metric(run: Run) -> None:
    metrics = run.metrics().filter(domain="average")
    assert set(metrics["method"]) >= {"gmc_tiny", "last_item", "popularity"}
    assert set(metrics["metric"]) == {"recall", "ndcg", _METRIC}
    hits = metrics.filter(metric=_METRIC, k=5)["value"].to_list()
    assert all(
        0 <= hit <= recall
        for hit, recall in zip(hits, metrics.filter(metric="recall", k=5)["value"], strict=True)
    )


def test_codes_of_a_stranger_are_open_in_the_explorer(run: Run) -> None:
    state = explorer_state(run)
    assert state.catalogue.n_items == 300
    assert run.codes().levels == 7  # six halves, and a level that tells equal ones apart


def test_results_say_which_code_of_the_stranger_made_them(run: Run) -> None:
    (made,) = {
        one["code"] for one in run.provenance() if one["row"] == "last_item" and one["scope"] == "Garden"
    }
    assert made
    record = run.state(tasks_of(run, "05_recommender_training")[0]).record
    assert record is not None
    assert any(name.startswith("genrec_file_my_methods.LastItem") for name in record.functions)


def test_a_change_in_one_component_makes_its_rows_again_and_no_other(run: Run, folder: Path) -> None:
    file = folder / "my_methods.py"
    before = file.read_text()
    file.write_text(before.replace('kind="stable"', 'kind="quicksort"') + "\n# a comment\n")
    try:
        changed = opened(folder)
        states = {
            task.place: changed.state(task).action
            for stage in _STAGES
            for task in tasks_of(changed, stage) or []
        }
    finally:
        file.write_text(before)
    again = {place for place, action in states.items() if action == "run"}
    assert again
    assert all("last_item" in place for place in again), again
