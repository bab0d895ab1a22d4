"""The comparison of seeds: the runs it takes, its numbers against plain statistics, and what it says."""

import json
import shutil
import statistics

import nbformat
import polars as pl
import pytest

from genrec_lab.data.whole_files import sha256_of
from genrec_lab.lab import RunError, compare_runs, open_run, prepare_data, rank_test_users, train_recommenders
from genrec_lab.lab.chain import ChainResult, _source_of, plan
from genrec_lab.lab.chain import run as run_chain
from genrec_lab.lab.compare import comparison_tasks, runs_of
from genrec_lab.lab.evaluate import COMPARISON
from genrec_lab.lab.files import read_log

OVERRIDES = {"compare": ["sasrec", "popularity"], "rows.sasrec.training.epochs": 1}
METHODS = ("sasrec", "popularity", "best possible")


def opened_in(root, name="demo", seed=0, users=60, **overrides):
    """Opens a run, with these parameters from now on."""
    dataset = {"name": "bazaar", "domains": ["Garden", "Kitchen"], "items": 300, "users": users}
    return open_run(
        name,
        dataset=dataset,
        preset="baselines_tiny",
        overrides={**OVERRIDES, **overrides},
        seed=seed,
        root=root,
        change=True,
    )


def evaluated_in(root, *what, **changes):
    run = opened_in(root, *what, **changes)
    for stage in (prepare_data, train_recommenders, rank_test_users):
        stage(run)
    return run


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three evaluated seeds of "demo", to be copied."""
    root = tmp_path_factory.mktemp("seeds")
    for seed in (1, 2, 3):
        evaluated_in(root, f"demo-seed{seed}", seed)
    return root


@pytest.fixture
def opened(tmp_path):
    return lambda *what, **changes: opened_in(tmp_path, *what, **changes)


@pytest.fixture
def evaluated(tmp_path):
    return lambda *what, **changes: evaluated_in(tmp_path, *what, **changes)


@pytest.fixture
def three(seeds, tmp_path):
    """Three seeds of "demo" with two methods."""
    shutil.copytree(seeds, tmp_path, dirs_exist_ok=True)
    return [opened_in(tmp_path, f"demo-seed{seed}", seed) for seed in (1, 2, 3)]


def cell(frame, method, **where):
    asked = {"domain": "average", "metric": "ndcg", "k": 10, **where}
    return frame.filter(pl.col("method") == method, *(pl.col(n) == v for n, v in asked.items())).row(
        0, named=True
    )


def test_means_and_standard_deviations_are_those_of_plain_statistics(opened, three):
    comparison = compare_runs(opened())
    for method in METHODS:
        for where in ({}, {"domain": "Garden", "metric": "recall", "k": 5}):
            values = [cell(run.metrics(), method, **where)["value"] for run in three]
            found = cell(comparison.summary, method, **where)
            assert found["seeds"] == 3
            assert found["mean"] == pytest.approx(statistics.mean(values))
            assert found["sd"] == pytest.approx(statistics.stdev(values))
    assert cell(comparison.summary, "sasrec")["sd"] > 0
    assert cell(comparison.summary, "popularity")["sd"] == pytest.approx(0)
    assert comparison.durations.columns == ["stage", "demo-seed1", "demo-seed2", "demo-seed3"]
    assert comparison.differences.is_empty()
    assert "demo-seed1, demo-seed2, demo-seed3 (seeds 1, 2, 3)" in str(comparison)


def test_seeds_are_compared_by_the_metrics_that_the_run_names(opened, three):
    evaluation = {"evaluation": {"ks": [3], "metrics": ["mrr", "coverage"]}}
    runs = [opened(f"demo-seed{seed}", seed, **evaluation) for seed in (1, 2, 3)]
    for run in runs:
        rank_test_users(run)
    comparison = compare_runs(opened(**evaluation))
    learnt = comparison.records.filter(pl.col("method") != "best possible")
    # coverage needs more than rankings; NDCG@10 is always there
    assert set(learnt.select("metric", "k").iter_rows()) == {(m, k) for m in ("mrr", "ndcg") for k in (3, 10)}
    values = [cell(run.metrics(), "sasrec", metric="mrr", k=3)["value"] for run in runs]
    assert cell(comparison.summary, "sasrec", metric="mrr", k=3)["mean"] == pytest.approx(
        statistics.mean(values)
    )


def test_both_files_hold_what_was_compared(opened, three):
    run = opened()
    comparison = compare_runs(run)
    (task,) = comparison_tasks(run)
    assert pl.read_parquet(run.read(task) / "records.parquet").equals(comparison.records)
    written = json.loads((run.folder / "comparison.json").read_text())
    assert written["summary"] == comparison.summary.to_dicts()
    assert [made["run"] for made in written["runs"]] == ["demo-seed1", "demo-seed2", "demo-seed3"]


@pytest.mark.parametrize("alone", [True, False])
def test_a_dry_run_compares_what_the_run_file_asks_for_not_what_is_on_disk(opened, evaluated, three, alone):
    run = evaluated("alone") if alone else opened()
    compare_runs(run)
    asked = {"run": run.name, **run.parameters}
    seeds = None if alone else (1, 2, 3)
    for epochs, action in ((1, "keep"), (2, "run")):
        asked["overrides"] = {**run.parameters["overrides"], "rows.sasrec.training.epochs": epochs}
        planned = run_chain(asked, dry_run=True, seeds=seeds, root=run.folder.parent, quiet=True)
        step = next(step for step in planned.steps[run.name] if step.stage == COMPARISON)  # then its page
        assert step.action == action


def test_one_run_alone_has_no_standard_deviation(evaluated):
    run = evaluated("demo", 4)
    comparison = compare_runs(run)
    found = cell(comparison.summary, "sasrec")
    assert (found["mean"], found["sd"], found["seeds"]) == (cell(run.metrics(), "sasrec")["value"], None, 1)
    assert "no standard deviation" in str(comparison)


def test_a_run_on_other_data_is_left_out_and_said_to_be(opened, evaluated, three):
    evaluated("demo-seed4", 4, users=70)
    run = opened()
    comparison = compare_runs(run)
    assert set(comparison.records["run"]) == {"demo-seed1", "demo-seed2", "demo-seed3"}
    assert cell(comparison.summary, "sasrec")["seeds"] == 3
    assert "LEFT OUT: demo-seed4: ITS DATASET DIFFERS: fingerprint " in str(comparison)
    assert "demo-seed4" in json.loads((run.folder / "comparison.json").read_text())["left_out"]
    events, _ = read_log(run.folder)
    left = [event["run"] for event in events if event["event"] == "run_left_out_of_comparison"]
    assert left == ["demo-seed4"]


def test_other_parameters_are_named_and_the_standard_deviation_is_doubted(opened, evaluated, three):
    evaluated("demo-seed4", 4, **{"rows.sasrec.training.epochs": 2})
    comparison = compare_runs(opened())
    row = comparison.differences.row(0, named=True)
    assert comparison.differences["parameter"].to_list() == ["config.rows.sasrec.training.epochs"]
    assert (row["demo-seed1"], row["demo-seed4"]) == ("1", "2")
    assert "DIFFERENT between runs" in str(comparison)


def test_only_evaluated_runs_of_the_name_count_one_a_seed(opened, evaluated, three, tmp_path):
    evaluated("demo", 2)
    evaluated("demo-seedling", 7)
    evaluated("demo2-seed8", 8)
    opened("demo-seed9", 9)
    stale = evaluated("demo-seed10", 10)
    opened(stale.name, 11)
    found = runs_of("demo", tmp_path)
    assert [run.name for run in found.runs] == ["demo-seed1", "demo-seed2", "demo-seed3"]
    assert found.left_out["demo"] == "demo-seed2 already has seed 2."
    assert "have not been prepared" in found.left_out["demo-seed9"]
    assert "seed: 10 before, 11 now" in found.left_out["demo-seed10"]
    assert len(found.left_out) == 3


def test_seeds_come_in_the_order_of_their_numbers(evaluated, tmp_path):
    for seed in (10, 9, 100):
        evaluated(f"demo-seed{seed}", seed)
    assert [run.seed for run in runs_of("demo", tmp_path).runs] == [9, 10, 100]


def test_without_an_evaluated_run_the_error_names_the_notebook_and_the_reasons(opened):
    opened("demo-seed1", 1)
    reasons = r"07_evaluation\.ipynb first(.|\n)*demo-seed1: .*not been prepared"
    with pytest.raises(RunError, match=reasons):
        compare_runs(opened())


def test_a_comparison_lends_its_run_the_records_and_does_not_count_them_again(opened, three):
    run = opened()
    compare_runs(run)
    assert set(run.metrics()["seed"]) == {1, 2, 3}
    again = compare_runs(run)
    assert set(again.records["run"]) == {"demo-seed1", "demo-seed2", "demo-seed3"}
    everything = ChainResult((*three, run), {}, None).metrics()
    # seeds, methods, two domains and the average, two metrics, two ks
    assert everything.height == 3 * len(METHODS) * 3 * 2 * 2
    assert not everything.is_duplicated().any()


def test_a_run_with_results_of_its_own_keeps_them(evaluated, three):
    run = evaluated("demo", 0)
    compare_runs(run)
    assert set(run.metrics()["seed"]) == {0}


@pytest.fixture
def notebook(tmp_path):
    file = tmp_path / "notebooks" / f"{COMPARISON}.ipynb"
    file.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(), file)
    return file


def test_the_chain_compares_again_when_a_run_came_or_changed(opened, evaluated, three, notebook):
    run = opened()
    compare_runs(run)
    (run.folder / "notebooks").mkdir()
    (run.folder / "notebooks" / notebook.name).write_bytes(notebook.read_bytes())
    (task,) = comparison_tasks(run)
    prose, functions = _source_of(notebook)
    with run.edited_manifest() as manifest:
        manifest["pages"][COMPARISON] = {
            "status": "finished", "sha256": sha256_of(notebook), "prose": prose, "functions": functions,
            "reads": {task.place: run.state(task).digest},
        }  # fmt: skip

    def actions():
        return [step.action for step in plan(run, [notebook])]

    assert actions() == ["keep", "keep"]
    evaluated("demo-seed4", 4)
    compared, page = plan(run, [notebook])
    assert (compared.action, page.action) == ("run", "run")
    assert "seeds.demo-seed4: not set before, 4 now" in compared.why
    assert cell(compare_runs(run).summary, "sasrec")["seeds"] == 4
    assert actions() == ["keep", "run"]  # the page shows the former one
    evaluated("demo-seed4", 4, **{"rows.sasrec.training.epochs": 2})
    assert actions() == ["run", "run"]
