"""What a run does not serve is not trained; what it serves is named as in a run that serves all."""

import numpy as np
import pytest
import torch

from genrec_lab.data import load_dataset
from genrec_lab.lab import (
    adapt_to_domains,
    learnt_from,
    load_identified,
    load_prepared,
    load_rankings,
    open_run,
    prepare_data,
    rank_test_users,
    starting_recommender,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.lab.rows import facts_of
from genrec_lab.lab.tokenise import load_row_tokenizer, tokenizer_tasks
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.tokenizers import ItemContent, textual_ids
from genrec_lab.models.tokenizers.textual_ids import TextualIds, TextualIdsConfig
from genrec_lab.presets import NamingConfig
from genrec_lab.training import TrainingConfig

ROWS = ["tiger", "p5_cid", "idgenrec"]
TARGET = {"transfer.targets": ["Wardrobe"], "transfer.pretrain_on_targets": True}


def opened(root, name, compare, **overrides):
    return open_run(
        name,
        dataset={"name": "bazaar", "domains": ["Garden", "Wardrobe"], "items": 300, "users": 300},
        preset="baselines_tiny",
        overrides={"compare": compare, "text.kind": "tfidf", "training.epochs": 1, **overrides},
        root=root,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    one, both = opened(root, "one", ROWS, **TARGET), opened(root, "both", ["tiger", "p5_cid"])
    for lab in (one, both):
        prepare_data(lab)
        train_tokenizers(lab)
    train_recommenders(one)
    adapt_to_domains(one)
    rank_test_users(one)
    return one, both


def test_only_the_served_domain_has_tokenizers_and_they_are_those_of_a_run_of_all(runs) -> None:
    one, both = runs
    assert set(learnt_from(one, load_prepared(one).split.test)["domain"]) == {"Wardrobe"}
    items = load_prepared(one).dataset.domain_items("Wardrobe")
    for row in ("tiger", "p5_cid"):
        alone, among = load_identified(one, row), load_identified(both, row)
        assert list(alone.epochs) == ["Wardrobe"] and set(among.epochs) == {"Garden", "Wardrobe"}
        assert list(tokenizer_tasks(facts_of(one), row)) == ["Wardrobe"]
        assert not list((one.folder / "02_tokenizer_training").glob("*/tokenizers/Garden"))
        np.testing.assert_array_equal(alone.raw.codes[items, 0], among.raw.codes[items, 0])
        np.testing.assert_array_equal(alone.raw.codes[items, -1], among.raw.codes[items, -1])
        np.testing.assert_array_equal(alone.residuals[items], among.residuals[items])
        assert alone.codes.unique and alone.codes.n_items == 300


def test_the_others_are_named_by_the_served_domains_tokenizer_or_numbered(runs) -> None:
    one, _ = runs
    others = load_prepared(one).dataset.domain_items("Garden")
    tiger = load_identified(one, "tiger")
    for level, (books, other) in enumerate(
        zip(tiger.codebooks_of("Garden"), tiger.codebooks_of("Wardrobe"), strict=True)
    ):
        np.testing.assert_array_equal(books, other)
        left = tiger.residuals[others, level]
        nearest = ((left[:, None] - books[None]) ** 2).sum(-1).argmin(1)
        np.testing.assert_array_equal(tiger.raw.codes[others, level], nearest)
    for row in ("p5_cid", "idgenrec"):
        codes = load_identified(one, row).codes.codes[others]
        assert len(np.unique(codes, axis=0)) == len(others)


@pytest.mark.parametrize(("on_targets", "learnt"), [(True, {"Garden", "Wardrobe"}), (False, {"Garden"})])
def test_gmc_learns_from_the_domains_of_pretraining_and_is_adapted_to_what_is_served(
    tmp_path, monkeypatch, on_targets, learnt
) -> None:
    lab = opened(tmp_path, "gmc", ["gmc"], **{**TARGET, "transfer.pretrain_on_targets": on_targets})
    prepare_data(lab)
    train_tokenizers(lab)
    domain_of = load_prepared(lab).dataset.items["domain"].to_numpy()
    taught = {}

    of_model = CodeRecommender.batches

    def seen(model, data, *given):
        taught.setdefault(stage, set()).update(domain_of[data.sequences["items"].explode()])
        return of_model(model, data, *given)

    monkeypatch.setattr(CodeRecommender, "batches", seen)
    stage = "recommending"
    train_recommenders(lab)
    stage = "adapting"
    changes = adapt_to_domains(lab)
    assert taught == {"recommending": learnt, "adapting": {"Wardrobe"}}
    assert set(changes["method"]) == {"gmc"} and set(changes["domain"]) == {"Wardrobe"}
    assert set(learnt_from(lab, load_prepared(lab).split.test)["domain"]) == learnt
    assert list(load_identified(lab, "gmc").epochs) == ["all"]
    rank_test_users(lab)
    ranked = load_rankings(lab).items["gmc"]
    assert set(domain_of[ranked[ranked >= 0]]) == {"Wardrobe"}


def test_idgenrec_writes_ids_from_texts_and_its_recommender_goes_on(runs) -> None:
    one, _ = runs
    items = load_prepared(one).dataset.domain_items("Wardrobe")
    found = load_identified(one, "idgenrec")
    written = load_row_tokenizer(one, "idgenrec", "Wardrobe")
    np.testing.assert_array_equal(written.item_codes, found.codes.codes[items])
    assert found.codes.shared_levels == tuple(range(found.codes.levels))
    assert found.codes.vocabulary_size == written.pieces.size
    texts = load_prepared(one).dataset.items["text"].to_list()
    known = {word for item in items for word in texts[item].lower().split()}
    assert any(word in known for words in written.words() for word in words.split())
    model = starting_recommender(one, "idgenrec", "Wardrobe")
    assert model.t5.embedding.weight.shape == written.weights["recommender"]["embedding.weight"].shape
    ranked = load_rankings(one).items["idgenrec"]
    assert set(ranked[ranked >= 0].tolist()) <= set(items.tolist())
    assert all(len(set(row)) == len(row) for row in ranked.tolist())


@pytest.mark.parametrize(
    ("turns", "reads"), [pytest.param(1, "whole", marks=pytest.mark.nightly), (3, "past")]
)
def test_a_killed_writing_of_ids_goes_on_and_ends_the_same(tmp_path, monkeypatch, turns, reads) -> None:
    dataset = load_dataset("bazaar", items=300, users=60, domains=["Garden"])
    body = T5Config(d_model=16, d_kv=8, heads=2, d_ff=16, encoder_layers=1, decoder_layers=1, reads=reads)
    config = TextualIdsConfig(levels=3, candidates=3, text_tokens=8, vocabulary=200, body=body)
    once = TrainingConfig(epochs=1, batch_size=50)
    budget = NamingConfig(rounds=2, labels=once, generator=once, recommender=once, max_history=3, per_user=1)

    def written(folder):
        made = TextualIds(config, naming=budget)
        return made.fit(ItemContent.from_dataset(dataset), checkpoint=folder)

    whole, fit, done = written(tmp_path / "whole"), textual_ids.fit, []

    def killed(*given, **named):
        if len(done) == turns:
            raise KeyboardInterrupt
        done.append(fit(*given, **named))

    monkeypatch.setattr(textual_ids, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "killed")
    monkeypatch.setattr(textual_ids, "fit", fit)
    again = written(tmp_path / "killed")
    np.testing.assert_array_equal(again.item_codes, whole.item_codes)
    for part, weights in whole.weights.items():
        for name, tensor in weights.items():
            assert torch.equal(tensor, again.weights[part][name]), (part, name)
