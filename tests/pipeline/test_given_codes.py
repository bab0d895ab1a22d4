"""A run on identifiers that somebody else made: they stay as they are, shared ones are ranked honestly."""

import json

import numpy as np
import polars as pl
import pytest

from genrec_lab.evaluation.ranking import SharedRanking, metric_per_user
from genrec_lab.lab import (
    adapt_to_domains,
    compare_runs,
    load_identified,
    load_prepared,
    load_rankings,
    open_run,
    prepare_data,
    rank_test_users,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.lab.evaluate import load_serving, ranking_tasks, run_notes
from genrec_lab.lab.rows import facts_of
from genrec_lab.lab.tokenise import codes_task, tokenizer_tasks


def write_codes(file, dataset, codes):
    """Tokens with letters of nobody's, keyed by the items' own ids."""
    keys = dataset.items["key"].to_list()
    tokens = {
        key: [f"<{letter}_{code}>" for letter, code in zip("ABX", row, strict=True)]
        for key, row in zip(keys, codes.tolist(), strict=True)
    }
    file.write_text(json.dumps(tokens))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A run on the codes of 300 items, of which some share theirs, and these codes."""
    root = tmp_path_factory.mktemp("given")
    names = {"name": "bazaar", "domains": ["Garden"], "items": 300, "users": 300}
    fast = {"text.kind": "tfidf", "recommenders": "separate", "adaptation.kind": "none", "one_pass": None}
    overrides = {
        "compare": [], **fast, "training.epochs": 2,
        "tokenizer": {"kind": "given", "file": str(root / "theirs.index_lemb.json")},
    }  # fmt: skip
    run = open_run("given", dataset=names, preset="gmc_tiny", overrides=overrides, root=root)
    dataset = prepare_data(run).dataset
    codes = np.random.default_rng(0).integers(0, 6, (dataset.n_items, 3))
    write_codes(root / "theirs.index_lemb.json", dataset, codes)
    train_tokenizers(run)
    return run, root, codes, overrides


def test_identifiers_are_unchanged_and_their_sizes_are_not_claimed(given):
    run, _, codes, _ = given
    own = load_identified(run)
    np.testing.assert_array_equal(own.codes.codes, codes)
    assert not own.codes.unique and own.resolution["policy"] == "none"
    assert own.raw.known_sizes == own.codes.known_sizes == (None, None, None)


def test_a_recommender_is_trained_on_them_and_ranks_at_the_expected_place(given):
    run, _, codes, _ = given
    train_recommenders(run)
    adapt_to_domains(run)
    rankings = rank_test_users(run)
    (row,) = rankings.shared
    ranking, target = rankings.shared[row], rankings.users["target"].to_numpy()
    assert isinstance(ranking, SharedRanking)
    np.testing.assert_array_equal(rankings.items[row], ranking.items)
    assert load_rankings(run).shared[row].identifiers.tolist() == ranking.identifiers.tolist()
    for table in (run.metrics(), compare_runs(run).records):
        measured = table.filter(method=row, domain="average")
        for metric, values in (
            ("recall", metric_per_user("recall", ranking, target, 10)),
            ("ndcg", metric_per_user("ndcg", ranking, target, 10)),
        ):
            assert measured.filter(metric=metric, k=10)["value"][0] == pytest.approx(values.mean())
    groups = {
        tuple(code): [item for item, other in enumerate(codes.tolist()) if other == code]
        for code in codes.tolist()
    }
    sharing = sum(len(items) for items in groups.values() if len(items) > 1)
    note = run_notes(run)[row]
    assert note["items_sharing_identifiers"] == sharing
    assert note["optimistic_recall@10"] == pytest.approx(ranking.optimistic_recall(target, 10).mean())
    assert note["optimistic_recall@10"] >= metric_per_user("recall", ranking, target, 10).mean()
    # Items of one identifier have one score, and stand next to each other.
    model, users = load_serving(run, "Garden", row), load_prepared(run).split.test.head(5)
    found = model.recommend(users["history"].to_list(), 30)
    scores = model.score(users["history"].to_list())
    for items, kept, all_scores in zip(found.items, found.scores, scores, strict=True):
        np.testing.assert_allclose(kept, all_scores[items], atol=1e-4)
        named = [tuple(codes[item]) for item in items]
        assert all(
            named[place] in named[place - 1 : place] or named[place] not in named[:place]
            for place in range(30)
        )
        assert len(set(items.tolist())) == 30


def test_a_changed_file_is_noticed_and_a_policy_is_opt_in(given):
    run, root, codes, fast = given
    facts, row = facts_of(run), run.config.name
    (task,) = tokenizer_tasks(facts, row).values()
    assert run.state(task).usable
    write_codes(root / "theirs.index_lemb.json", load_prepared(run).dataset, (codes + 1) % 6)
    overrides = {**fast, "tokenizer": {**fast["tokenizer"], "policy": "extra_level"}}
    fresh = open_run("given", dataset=run.dataset, preset="gmc_tiny", overrides=fast, root=root)
    (again,) = tokenizer_tasks(facts_of(fresh), row).values()
    assert fresh.state(again).action == "run"
    own = open_run("opted", dataset=run.dataset, preset="gmc_tiny", overrides=overrides, root=root)
    prepare_data(own)
    train_tokenizers(own)
    identified = load_identified(own)
    assert identified.codes.unique and identified.codes.levels == 4
    np.testing.assert_array_equal(identified.codes.codes[:, :3], (codes + 1) % 6)
    assert ranking_tasks(facts_of(own)) and codes_task(facts_of(own), row)
    assert pl.read_parquet(own.read(codes_task(facts_of(own), row)) / "codes.parquet").height == 300
