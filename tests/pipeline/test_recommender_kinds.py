"""Stages 05 to 07 with each way of learning: whole histories, one pass before them, one pass alone."""

import json

import polars as pl
import pytest

from genrec_lab.lab import (
    adapt_to_domains,
    load_adapted,
    load_prepared,
    open_run,
    prepare_data,
    rank_test_users,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.models.recommenders.causal import CausalRecommender
from genrec_lab.models.recommenders.recommender import Recommender
from genrec_lab.viz.stories import history_tokens

QUICK = {"epochs": 1, "batch_size": 256, "learning_rate": 0.003, "validation_users": 20}
WAYS = {
    "whole": {"one_pass": None},
    "one pass, then whole": {"one_pass": {**QUICK, "epochs": 2}},
    "past": {"one_pass": None, "recommender.reads": "past"},
    "causal": {
        "one_pass": None,
        "recommender": {"kind": "causal", "d_model": 32, "d_kv": 8, "heads": 4, "d_ff": 64, "layers": 1},
    },
}


@pytest.fixture(scope="module", params=WAYS)
def run(request, tmp_path_factory):
    opened = open_run(
        "way-" + request.param.replace(", ", "-").replace(" ", "-"),
        dataset={"name": "bazaar", "items": 300, "users": 300},
        preset="gmc_tiny",
        overrides={"compare": [], "tokenizer.epochs": 2, "training": QUICK, **WAYS[request.param]},
        root=tmp_path_factory.mktemp("runs"),
    )
    prepare_data(opened)
    train_tokenizers(opened)
    return opened, request.param


@pytest.fixture(scope="module")
def trained(run):
    opened, way = run
    return opened, way, train_recommenders(opened)


def test_the_epochs_of_both_phases_are_counted_on(trained):
    _, way, histories = trained
    epochs = [record["epoch"] for record in histories["gmc_tiny"]["all"]]
    assert epochs == ([1, 2, 3] if way == "one pass, then whole" else [1])


def test_the_model_is_of_the_kind_that_the_config_names_and_reads_as_it_says(trained):
    opened, way, _ = trained
    adapt_to_domains(opened)
    domain = load_prepared(opened).dataset.domains[0]
    model = load_adapted(opened, "gmc_tiny", domain)
    assert isinstance(model, CausalRecommender if way == "causal" else Recommender)
    rows = history_tokens(model, load_prepared(opened).dataset, [0, 1])
    outside = rows.filter(pl.col("item").is_null())["title"].to_list()
    expected = {"past": [], "causal": ["(begin of the history)"]}
    assert outside == expected.get(way, ["(end of the history)"])
    assert rows["item"].drop_nulls().to_list() == [0, 1]


def test_every_test_user_is_ranked(trained):
    opened, _, _ = trained
    adapt_to_domains(opened)
    rankings = rank_test_users(opened)
    items = rankings.items["gmc_tiny"]
    data = load_prepared(opened).dataset
    for row, domain in zip(items, rankings.users["domain"].to_list(), strict=True):
        assert len(set(row.tolist())) == 10
        assert set(row.tolist()) <= set(data.domain_items(domain).tolist())


def test_a_finished_training_is_not_repeated(trained):
    opened, _, histories = trained
    before = json.dumps(histories)
    assert json.dumps(train_recommenders(opened)) == before
