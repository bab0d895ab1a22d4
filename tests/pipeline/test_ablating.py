"""What parts are worth: against the metrics that stage 07 recorded, by plain statistics."""

import json
import statistics
from pathlib import Path

import polars as pl
import pytest

from genrec_lab.lab import (
    RunError,
    adapt_to_domains,
    open_run,
    prepare_data,
    rank_test_users,
    train_recommenders,
    train_tokenizers,
    weigh_parts,
)
from genrec_lab.lab.chain import plan
from genrec_lab.lab.compare import ABLATION, ablation_tasks
from genrec_lab.lab.results import RECORD

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / f"{ABLATION}.ipynb"
VARIANTS = ["gmc_without_lora", "gmc_without_dcl"]
STAGES = (prepare_data, train_tokenizers, train_recommenders, adapt_to_domains, rank_test_users)


def opened(root, name, seed=0, domains=("Garden", "Kitchen"), compare=VARIANTS):
    return open_run(
        name,
        dataset={"name": "bazaar", "domains": list(domains), "items": 300, "users": 450},
        preset="gmc_tiny",
        overrides={"compare": ["popularity", *compare], "tokenizer.epochs": 4},
        seed=seed,
        root=root,
    )


def evaluated(*where, **what):
    run = opened(*where, **what)
    for stage in STAGES:
        stage(run)
    return run


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Two evaluated seeds of "parts", and the folder that they are in."""
    root = tmp_path_factory.mktemp("runs")
    return root, [evaluated(root, f"parts-seed{seed}", seed=seed) for seed in (0, 1)]


def recorded(run, method, domain, metric, k):
    return run.metrics().filter(method=method, domain=domain, metric=metric, k=k)["value"].item()


def test_worth_is_the_mean_change_of_what_stage_07_recorded(seeds):
    root, runs = seeds
    ablation = weigh_parts(opened(root, "parts"))
    assert ablation.runs == ("parts-seed0", "parts-seed1")
    assert ablation.worth.height == 2 * 2 * 2 * 3  # variants, metrics, ks, two domains and their average
    for line in ablation.worth.iter_rows(named=True):
        cell = line["domain"], line["metric"], line["k"]
        whole = [recorded(run, "gmc_tiny", *cell) for run in runs]
        without = [recorded(run, line["variant"], *cell) for run in runs]
        assert line["whole"] == pytest.approx(statistics.mean(whole))
        assert line["without"] == pytest.approx(statistics.mean(without))
        change = 100 * (sum(without) / sum(whole) - 1)
        assert line["change"] == pytest.approx(change)
        assert line["low"] <= line["change"] <= line["high"]
        changes = [100 * (b / a - 1) for a, b in zip(whole, without, strict=True)]
        assert line["sd"] == pytest.approx(statistics.stdev(changes))
    average = ablation.overall("ndcg", 10)
    assert average["domain"].to_list() == ["average"] * 2
    assert average["users"].to_list() == [rank_test_users(runs[0]).users.height] * 2


def test_parts_are_told_by_the_settings_that_differ(seeds):
    parts = weigh_parts(opened(seeds[0], "parts")).parts
    changed = dict(parts.select("variant", "changed").iter_rows())
    assert changed["gmc_without_lora"] == "adaptation.kind: lora -> none"
    assert changed["gmc_without_dcl"].startswith("tokenizer.contrastive_weight: ")
    assert changed["gmc_without_dcl"].endswith(" -> 0.0")
    assert "Table 4 (4)" in parts.filter(variant="gmc_without_lora")["what"].item()


def test_codes_differ_only_where_the_tokenizer_does(seeds):
    health = weigh_parts(opened(seeds[0], "parts")).health
    of = {name: rows.drop("tokenizer") for (name,), rows in health.group_by("tokenizer")}
    assert of["gmc_without_lora"].equals(of["gmc_tiny"])
    assert not of["gmc_without_dcl"].equals(of["gmc_tiny"])
    assert set(health["items"]) == {300}


def test_papers_changes_are_those_of_the_variants_shown(seeds):
    ablation = weigh_parts(opened(seeds[0], "parts"))
    assert set(ablation.papers["row"]) == set(VARIANTS)
    assert set(ablation.papers["paper"]) == {"GMC Table 4"}


def test_files_hold_what_was_found_and_a_new_seed_makes_the_notebook_run_again(seeds, tmp_path):
    root, runs = seeds
    run = opened(root, "parts")
    ablation = weigh_parts(run)
    (task,) = ablation_tasks(run)
    folder = run.read(task)
    assert pl.read_parquet(folder / "worth.parquet").equals(ablation.worth)
    assert json.loads((folder / RECORD).read_text())["settings"]["method"] == "gmc_tiny"
    assert [(step.action, step.row) for step in plan(run, [NOTEBOOK])] == [("keep", ""), ("run", "")]
    manifest = runs[1].folder / "manifest.json"
    hidden = manifest.rename(manifest.with_suffix(".hidden"))
    try:
        results, _ = plan(run, [NOTEBOOK])
        assert results.action == "run" and "what it reads has changed since" in results.why
        one = weigh_parts(run)
        assert one.runs == ("parts-seed0",)
        assert one.worth["sd"].is_null().all()
    finally:
        hidden.rename(manifest)


def test_one_domain_has_no_average_beside_it(tmp_path):
    run = evaluated(tmp_path, "single", domains=("Garden",), compare=["gmc_without_lora"])
    ablation = weigh_parts(run)
    assert set(ablation.worth["domain"]) == {"Garden"}
    assert ablation.overall("recall", 5)["domain"].to_list() == ["Garden"]


def test_a_run_without_variants_has_nothing_to_weigh_and_its_chain_passes_over_the_notebook(tmp_path):
    run = opened(tmp_path, "plain", compare=["tiger"])
    with pytest.raises(RunError, match=r"no variant.*gmc_without_dcl"):
        weigh_parts(run)
    (step,) = plan(run, [NOTEBOOK])
    assert step.action == "skip"
    assert "gmc_without_lora" in step.why


def test_a_run_that_was_not_evaluated_says_which_notebook_is_to_be_run(tmp_path):
    with pytest.raises(RunError, match=r"07_evaluation\.ipynb"):
        weigh_parts(opened(tmp_path, "early"))
