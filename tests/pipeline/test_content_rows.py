"""The rows with item content in a run: what they are trained on, for how long, and why one is skipped."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from genrec_lab.data import Dataset, load_dataset
from genrec_lab.lab import load_prepared, open_run, prepare_data
from genrec_lab.lab.prepare import facts_in
from genrec_lab.lab.recommend import RECOMMENDING, item_model_tasks, load_item_model
from genrec_lab.lab.rows import Facts, facts_of
from genrec_lab.lab.tokenise import text_task
from genrec_lab.models.recommenders.base import ITEM_MODELS
from genrec_lab.presets import load
from genrec_lab.presets.sequential_rows import rows_over_items
from genrec_lab.training import TrainingResult

CONTENT = ("fdsa", "s3rec", "unisrec", "unisrec_inductive", "vqrec", "missrec", "recformer")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("runs"))


def opened(root, **dataset):
    """A run of these rows whose data and text vectors are made."""
    made = open_run(
        "content",
        dataset={"name": "bazaar", "items": 300, "users": 300, **dataset},
        preset="gmc_tiny",
        overrides={"compare": list(CONTENT), "rows.vqrec.training.epochs": 9},
        root=root,
    )
    prepare_data(made)
    made.make(text_task(facts_of(made)))
    return made


@pytest.fixture
def trainings(monkeypatch):
    """The trainings that stage 05 asks for, none of which is done: model, batches, config, validated."""
    asked = []

    def hear(model, batches, config, **rest):
        drawn = list(batches(0, 0))
        asked.append(SimpleNamespace(model=model, phase=model.phase, drawn=drawn, config=config, **rest))
        return TrainingResult((), 0, None, False, 0.0)

    monkeypatch.setattr("genrec_lab.models.sequential.base.train", hear)
    return asked


def train(run, name):
    """Train a row's models again, independent of other tests."""
    run.forget(RECOMMENDING)
    for task in item_model_tasks(facts_of(run), name, pretrained=True).values():
        run.make(task)


@pytest.mark.parametrize("name", CONTENT)
def test_every_phase_reads_the_training_part_alone_and_every_domain_gets_a_model(run, trainings, name):
    data = load_prepared(run)
    train(run, name)
    phases, domains = ITEM_MODELS.find(run.config.rows[name].model.kind).phases, data.dataset.domains
    assert len(trainings) == sum(1 if phase.shared else len(domains) for phase in phases)
    learnt = {pair for items in data.dataset.sequences["items"].to_list() for pair in pairwise(items[:-2])}
    held_out = {
        pair
        for items in data.dataset.sequences["items"].to_list()
        for pair in ((items[-3], items[-2]), (items[-2], items[-1]))
    } - learnt
    assert held_out
    for training in trainings:
        shared = training.phase == "pretraining" and any(phase.shared for phase in phases)
        assert len(training.model.items) == (300 if shared else 100)
        assert (training.validate is None) == (not _phase(phases, training.phase).validated)
        read = set()
        for batch in training.drawn:
            rows = batch["sequences"].tolist()
            if "wanted" in batch:
                rows = [
                    [place for place in row if place >= 0] + [wanted]
                    for row, wanted in zip(rows, batch["wanted"].tolist(), strict=True)
                ]
            items = [[int(training.model.items[place]) for place in row if place >= 0] for row in rows]
            read |= {pair for row in items for pair in pairwise(row)}
        assert read <= learnt
        assert not read & held_out
    for domain in domains:
        model = load_item_model(run, name, domain)
        assert model.items.tolist() == data.dataset.domain_items(domain).tolist()


def _phase(phases, name):
    return next(phase for phase in phases if phase.name == name)


def test_the_permutation_has_five_epochs_of_the_budget_and_pretraining_its_own(run, trainings):
    train(run, "vqrec")
    epochs = [(training.phase, training.config.epochs) for training in trainings]
    assert epochs == [("pretraining", 1), *[("permutation", 5), ("fine-tuning", 9)] * 3]


def test_what_was_pretrained_is_what_each_domain_starts_from(run, trainings):
    train(run, "unisrec")
    pretrained, *tuned = [training.model for training in trainings]
    assert len(tuned) == 3
    for model in tuned:
        assert model.pretrained
        np.testing.assert_array_equal(
            model.adaptor.weight.detach().numpy(), pretrained.adaptor.weight.detach().numpy()
        )
        assert not model.encoder.places.weight.requires_grad


def test_pictures_are_read_where_there_are_any(run, trainings, tmp_path, monkeypatch):
    train(run, "missrec")
    assert all(training.model.domain.pictures is None for training in trainings)
    trainings.clear()
    vectors = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    vectors[7] = 0
    monkeypatch.setattr("genrec_lab.lab.recommend.picture_vectors", lambda dataset, kind, cache: vectors)
    shown = opened(tmp_path, images=str(tmp_path / "pictures"))
    train(shown, "missrec")
    for training in trainings:
        np.testing.assert_array_equal(training.model.domain.pictures, vectors[training.model.items])
    loaded = load_item_model(shown, "missrec", "Garden")
    assert loaded.score([[7, 8]]).shape == (1, 100)


def facts(config, dataset):
    return Facts(SimpleNamespace(config=config), facts_in(dataset))


def test_rows_that_need_text_are_skipped_with_their_reason_on_data_without():
    dataset = load_dataset("bazaar", items=300, users=60)
    blank = Dataset("blank", dataset.items.with_columns(text=pl.lit(""), title=pl.lit("")), dataset.sequences)
    config = load("baselines_tiny", {"compare": ["sasrec", *CONTENT]})
    assert facts(config, dataset).skipped == {}
    skipped = facts(config, blank).skipped
    assert tuple(skipped) == CONTENT
    assert set(skipped.values()) == {"it needs item texts, and Garden has none"}
    assert list(facts(config, blank).over_items) == ["sasrec"]


def test_a_row_that_learns_its_target_alone_needs_nothing_of_the_other_domains():
    """TIGER_M on a shop with pictures, beside UTGRec pre-trained on shops without."""
    dataset = load_dataset("bazaar", domains=["Garden", "Wardrobe"], items=300, users=60)
    image = pl.when(pl.col("domain") == "Wardrobe").then(pl.lit("there.jpg"))
    shown = Dataset("shown", dataset.items.with_columns(image=image), dataset.sequences)
    compare = {"compare": ["tiger_multimodal", "sasrec"]}
    config = load("utgrec_tiny", {"transfer.targets": ["Wardrobe"], **compare})
    assert facts(config, shown).skipped == {}
    why = {"tiger_multimodal": "it needs item pictures, and Garden has none"}
    assert facts(load("utgrec_tiny", {"transfer.targets": ["Garden"], **compare}), shown).skipped == why
    assert facts(load("utgrec_tiny", compare), shown).skipped == why


@pytest.mark.parametrize("size", ["paper", "cpu", "small", "tiny"])
def test_rows_of_all_sizes_have_the_budget_of_the_others(size):
    rows = rows_over_items(epochs=40, size=size)
    assert {"sasrec", *CONTENT} <= set(rows)
    for name in CONTENT:
        if name != "recformer":
            assert rows[name].training == rows["sasrec"].training
            assert rows[name].model.max_history == rows["sasrec"].model.max_history
    assert rows["unisrec_inductive"].model.setting == "inductive"
    assert rows["unisrec"].model.setting == "transductive"
    assert (rows["recformer"].model.encoder is None) == (size != "paper")
