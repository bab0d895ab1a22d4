"""The comparison of seeds: the runs it takes, its numbers against plain statistics, and what it says."""

import json
import statistics

import nbformat
import polars as pl
import pytest
from genrec_lab.lab.manifest import edited_manifest
from genrec_lab.lab.pipeline import ChainResult
from genrec_lab.lab.plan import plan_step
from genrec_lab.lab.seeds import COMPARISON, EVALUATION, runs_of
from genrec_lab.lab.stages import compare_runs

from genrec_lab.lab import RunError
from genrec_lab.lab.files import hash_file
from genrec_lab.lab.results import read_log

USERS = {"a": 30, "b": 10}


def records(values):
    """NDCG@10 of two domains and their average over users."""
    mean = sum(value * USERS[domain] for domain, value in values.items()) / sum(USERS.values())
    users = {**USERS, "average": sum(USERS.values())}
    return [
        {"domain": domain, "metric": "ndcg", "k": 10, "value": value, "users": users[domain]}
        for domain, value in {**values, "average": mean}.items()
    ]


@pytest.fixture
def evaluated(opened):
    """Opens a run and writes what stages 01 and 07 would, NDCG@10 of methods by domain."""

    def make(name, seed, fingerprint="same data", changes=None, **methods):
        run = opened(run=name, seed=seed, **(changes or {}))
        run.record_dataset(fingerprint)
        with run.stage(EVALUATION, uses=("seed", "tokenizer")) as stage:
            (stage.folder / "gmc.txt").write_text(f"ranked with seed {seed}")
            for method, values in methods.items():
                run.record_metrics(method, records(values))
        return run

    return make


@pytest.fixture
def three(evaluated):
    """Three seeds of "demo" with two methods."""
    values = {1: (0.10, 0.30, 0.05), 2: (0.12, 0.20, 0.05), 3: (0.17, 0.25, 0.05)}
    for seed, (a, b, plain) in values.items():
        evaluated(f"demo-seed{seed}", seed, gmc={"a": a, "b": b}, popularity={"a": plain, "b": plain})
    return values


def of_average(comparison, method):
    return comparison.summary.row(by_predicate=(pl.col("method") == method) & (pl.col("domain") == "average"))


def test_means_and_standard_deviations_are_those_of_plain_statistics(opened, three):
    comparison = compare_runs(opened())
    averages = [(30 * a + 10 * b) / 40 for a, b, _ in three.values()]
    method, domain, metric, k, mean, sd, seeds = of_average(comparison, "gmc")
    assert (method, domain, metric, k, seeds) == ("gmc", "average", "ndcg", 10, 3)
    assert mean == pytest.approx(statistics.mean(averages))
    assert sd == pytest.approx(statistics.stdev(averages))
    assert of_average(comparison, "popularity")[5] == pytest.approx(0)
    assert comparison.durations.columns == ["stage", "demo-seed1", "demo-seed2", "demo-seed3"]
    assert comparison.differences.is_empty()
    assert "demo-seed1, demo-seed2, demo-seed3 (seeds 1, 2, 3)" in str(comparison)


def test_both_files_hold_what_was_compared(opened, three):
    run = opened()
    comparison = compare_runs(run)
    folder = run.read_stage(COMPARISON)
    assert pl.read_parquet(folder / "comparison.parquet").equals(comparison.records)
    written = json.loads((folder / "comparison.json").read_text())
    assert written["summary"] == comparison.summary.to_dicts()
    assert [made["run"] for made in written["runs"]] == ["demo-seed1", "demo-seed2", "demo-seed3"]


def test_one_run_alone_has_no_standard_deviation(evaluated):
    comparison = compare_runs(evaluated("demo", 4, gmc={"a": 0.1, "b": 0.2}))
    *_, mean, sd, seeds = of_average(comparison, "gmc")
    assert (mean, sd, seeds) == (pytest.approx(0.125), None, 1)
    assert "no standard deviation" in str(comparison)


def test_a_run_on_other_data_is_left_out_and_said_to_be(opened, evaluated, three):
    evaluated("demo-seed4", 4, fingerprint="other data", gmc={"a": 0.9, "b": 0.9})
    run = opened()
    comparison = compare_runs(run)
    assert set(comparison.records["run"]) == {"demo-seed1", "demo-seed2", "demo-seed3"}
    assert of_average(comparison, "gmc")[6] == 3
    assert "LEFT OUT: demo-seed4: ITS DATASET DIFFERS: fingerprint other data" in str(comparison)
    assert (
        "demo-seed4" in json.loads((run.read_stage(COMPARISON) / "comparison.json").read_text())["left_out"]
    )
    assert [
        event["run"] for event in read_log(run.folder) if event["event"] == "run_left_out_of_comparison"
    ] == ["demo-seed4"]


def test_other_parameters_are_named_and_the_standard_deviation_is_doubted(opened, evaluated, three):
    evaluated("demo-seed4", 4, changes={"overrides": {"tokenizer.levels": 4}}, gmc={"a": 0.1, "b": 0.1})
    comparison = compare_runs(opened())
    row = comparison.differences.row(0, named=True)
    assert comparison.differences["parameter"].to_list() == ["config.tokenizer.levels"]
    assert (row["demo-seed1"], row["demo-seed4"]) == ("3", "4")
    assert "NOT EQUAL in all runs" in str(comparison)


def test_only_evaluated_runs_of_the_name_count_one_a_seed(opened, evaluated, three, tmp_path):
    evaluated("demo", 2, gmc={"a": 0.9, "b": 0.9})
    evaluated("demo-seedling", 7, gmc={"a": 0.9, "b": 0.9})
    evaluated("demo2-seed8", 8, gmc={"a": 0.9, "b": 0.9})
    opened(run="demo-seed9", seed=9)
    stale = evaluated("demo-seed10", 10, gmc={"a": 0.9, "b": 0.9})
    opened(run=stale.name, seed=11)
    found = runs_of("demo", tmp_path)
    assert [run.name for run in found.runs] == ["demo-seed1", "demo-seed2", "demo-seed3"]
    assert found.left_out["demo"] == "demo-seed2 has its seed, 2, already."
    assert "has not been run yet" in found.left_out["demo-seed9"]
    assert "seed: 10 before, 11 now" in found.left_out["demo-seed10"]
    assert len(found.left_out) == 3


def test_seeds_come_in_the_order_of_their_numbers(evaluated, tmp_path):
    for seed in (10, 9, 100):
        evaluated(f"demo-seed{seed}", seed, gmc={"a": 0.1, "b": 0.1})
    assert [run.seed for run in runs_of("demo", tmp_path).runs] == [9, 10, 100]


def test_without_an_evaluated_run_the_error_names_the_notebook_and_the_reasons(opened):
    opened(run="demo-seed1", seed=1)
    with pytest.raises(RunError, match=r"07_evaluation\.ipynb first(.|\n)*demo-seed1: .*not been run yet"):
        compare_runs(opened())


def test_a_comparison_lends_its_run_the_records_and_does_not_count_them_again(opened, three):
    run = opened()
    compare_runs(run)
    assert set(run.metrics()["seed"]) == {1, 2, 3}
    again = compare_runs(run)
    assert set(again.records["run"]) == {"demo-seed1", "demo-seed2", "demo-seed3"}
    seeds = [opened(run=f"demo-seed{seed}", seed=seed) for seed in (1, 2, 3)]
    everything = ChainResult((*seeds, run), {}, None).metrics()
    assert everything.height == 3 * 2 * 3  # seeds, methods, two domains and the average
    assert not everything.is_duplicated().any()


def test_a_run_with_results_of_its_own_keeps_them(evaluated, three):
    run = evaluated("demo", 0, gmc={"a": 0.5, "b": 0.5})
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
    with edited_manifest(run.folder) as manifest:
        manifest["notebooks"][COMPARISON] = {"status": "finished", "source": hash_file(notebook)}
    assert plan_step(run, notebook, resume=True).action == "skip"
    evaluated("demo-seed4", 4, gmc={"a": 0.1, "b": 0.1})
    step = plan_step(run, notebook, resume=True)
    assert (step.action, step.reason) == ("run", "the runs that it compares have changed since.")
    assert of_average(compare_runs(run), "gmc")[6] == 4
    assert plan_step(run, notebook, resume=True).action == "skip"
    opened(run="demo-seed4", seed=4).record_metrics("gmc", records({"a": 0.4, "b": 0.4}))
    assert plan_step(run, notebook, resume=True).action == "run"
