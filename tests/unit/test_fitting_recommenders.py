"""Recommenders by hand: fitted on a Dataset, adapted, stored; what they may not see changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset, load_dataset
from genrec_lab.data.batches import PairsConfig
from genrec_lab.models.recommenders.adapters import LoRAConfig
from genrec_lab.models.recommenders.base import TrainingData, recommend_to
from genrec_lab.models.recommenders.causal import CausalConfig, CausalRecommender
from genrec_lab.models.recommenders.recommender import Recommender
from genrec_lab.models.sequential.sasrec import SASRec
from genrec_lab.models.sequential.unisrec import UniSRec
from genrec_lab.training import Callback, TrainingConfig
from tests.unit.conftest import TINY, unique_codes

FEW = TrainingConfig(epochs=2, batch_size=64, validation_users=30)
STEADY = FEW.model_copy(update={"schedule": "constant", "warmup": 0.0})  # does not depend on the epochs
SIZES = {"width": 8, "layers": 1, "feed_forward": 16}
PAIRS = PairsConfig(max_history=6, per_user=2)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("bazaar", items=300, users=120, domains=("Garden", "Kitchen"))


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def sasrec(data: Dataset | TrainingData, seed: int = 0) -> SASRec:
    return SASRec(SASRec.Config(**SIZES)).fit(data, training=FEW, seed=seed)


def codes_of(*domains: str, seed: int = 0, sizes: tuple[int, ...] = (8, 8, 8)) -> ItemCodes:
    """Identifiers of 150 items a domain, in the order of Bazaar's."""
    parts = [unique_codes({domain: 150}, sizes, seed).codes for domain in domains]
    return ItemCodes(np.concatenate(parts), sizes, domains=np.repeat(domains, 150).tolist())


def t5(data: Dataset | TrainingData) -> Recommender:
    torch.manual_seed(0)
    model = Recommender(codes_of("Garden", "Kitchen"), TINY)
    return model.fit(data, training=FEW, one_pass=FEW, pairs=PAIRS, seed=0)


def test_a_model_over_items_is_fitted_on_a_data_set_of_one_domain(dataset: Dataset) -> None:
    model = sasrec(dataset.select("Garden"))
    assert model.recommend([[3, 14], [5]], 4).items.shape == (2, 4)
    assert list(model.results_) == ["training"] and len(model.results_["training"].history) == 2
    # The part of a larger data set keeps its numbers.
    data = TrainingData.of(dataset).of_domains("Kitchen")
    kitchen = sasrec(data)
    assert kitchen.items.tolist() == dataset.domain_items("Kitchen").tolist()
    recommend_to(kitchen, data.valid, 10, kitchen.items)


def test_a_seed_fixes_everything(dataset: Dataset) -> None:
    garden = dataset.select("Garden")
    torch.manual_seed(99)
    one, same = sasrec(garden), sasrec(garden)
    assert equal(one, same) and not equal(one, sasrec(garden, seed=1))


def test_what_is_missing_is_told(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"SASRec serves one domain, but the data have \['Garden', 'Kit"):
        sasrec(dataset)
    with pytest.raises(ValueError, match=r"UniSRec needs text of its items; pass it to fit"):
        UniSRec(UniSRec.Config(**SIZES)).fit(dataset.select("Garden"), training=FEW)
    with pytest.raises(RuntimeError, match="SASRec has no items yet; call fit or load first"):
        SASRec().recommend([[1]], 3)
    with pytest.raises(TypeError, match="data is a list; expected a Dataset, which load_dataset"):
        SASRec().fit([[1, 2, 3]])
    codes = codes_of("Garden")
    for model in (sasrec(dataset.select("Garden")), Recommender(codes)):
        with pytest.raises(TypeError, match=r"histories: \[1, 2\], expected a list of item indices per user"):
            model.recommend([1, 2], top_k=5)
    with pytest.raises(ValueError, match="a CausalRecommender always learns in one pass"):
        CausalRecommender(codes, CausalConfig()).fit(dataset.select("Garden"), one_pass=FEW)


def test_pretraining_on_all_domains_is_what_a_domain_starts_from(
    dataset: Dataset, text: np.ndarray, tmp_path: Path
) -> None:
    data, config = TrainingData.of(dataset), UniSRec.Config(**SIZES, experts=2)
    given = {"pretraining": FEW, "text": text}
    heard: list[str] = []

    def watch(phase: str) -> tuple[Callback, ...]:
        heard.append(phase)
        return ()

    pretrained = UniSRec(config).pretrain(data, **given, callbacks=watch, checkpoints=tmp_path)
    garden = data.of_domains("Garden")
    model = UniSRec(config).fit(garden, **given, training=FEW, pretrained=pretrained, callbacks=watch)
    assert heard == ["pretraining", "fine-tuning"] and (tmp_path / "pretraining").is_dir()
    assert torch.equal(model.encoder.places.weight, pretrained.encoder.places.weight)  # frozen
    assert list(pretrained.results_) == ["pretraining"] and list(model.results_) == ["fine-tuning"]
    alone = UniSRec(config).fit(garden, **given, training=FEW)  # pre-trained on its own domain
    assert not torch.equal(alone.encoder.places.weight, pretrained.encoder.places.weight)
    again = UniSRec.load(model.save(tmp_path / "saved"))
    histories = garden.valid["history"].to_list()
    np.testing.assert_array_equal(again.score(histories), model.score(histories))


def test_test_targets_change_nothing_and_validation_targets_choose_among_epochs(
    dataset: Dataset,
) -> None:
    def with_other(place: int) -> Dataset:
        changed = [
            [*items[:place], (items[place] + 1) % 150 + 150 * (items[place] // 150), *items[place:][1:]]
            for items in dataset.sequences["items"].to_list()
        ]
        sequences = dataset.sequences.with_columns(items=pl.Series(changed))
        return Dataset(dataset.name, dataset.items, sequences)

    other_test, other_valid = with_other(-1), with_other(-2)
    for fitted in (lambda data: sasrec(TrainingData.of(data).of_domains("Garden")), t5):
        model = fitted(dataset)
        (result,) = model.results_.values()
        poisoned = fitted(other_test)
        (same,) = poisoned.results_.values()
        assert equal(model, poisoned) and same.best_epoch == result.best_epoch
        assert [one.metrics for one in same.history] == [one.metrics for one in result.history]
        (other,) = fitted(other_valid).results_.values()
        first = slice(2)  # a second training begins where the best epoch of the first was
        assert [one.loss for one in other.history[first]] == [one.loss for one in result.history[first]]
        assert [one.metrics for one in other.history] != [one.metrics for one in result.history]


def test_a_generative_recommender_learns_in_one_pass_first_where_it_is_asked_to(dataset: Dataset) -> None:
    model = t5(dataset)
    assert [record.epoch for record in model.results_["training"].history] == [1, 2, 3, 4]
    assert model.reads_whole and not model.learns_in_one_pass
    data = TrainingData.of(dataset)
    ranked = recommend_to(model, data.valid, 5, np.arange(300), beams=10)
    assert (ranked.items < 150).all(1).tolist() == (data.valid["domain"] == "Garden").to_list()


@pytest.mark.parametrize("lora", [LoRAConfig(rank=2, alpha=4.0), None])
def test_an_adapted_copy_is_stored_beside_what_it_was_made_of(
    dataset: Dataset, tmp_path: Path, lora: LoRAConfig | None
) -> None:
    base = t5(dataset)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    adapted = base.adapt(dataset, "Kitchen", lora=lora, training=FEW, pairs=PAIRS)
    assert all(torch.equal(before[name], weight) for name, weight in base.state_dict().items())
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert len(trained) < len(list(adapted.parameters())) if lora else len(trained) == len(before)
    folder = adapted.save_adaptation(tmp_path / "kitchen")
    assert (folder / "config.json").is_file() is (lora is None)
    again = base.with_adaptation("Kitchen", folder)
    histories = TrainingData.of(dataset).of_domains("Kitchen").valid["history"].to_list()
    one, other = (model.recommend(histories, 5, "Kitchen") for model in (adapted, again))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_weights_go_over_to_identifiers_of_as_many_tokens(dataset: Dataset) -> None:
    model = t5(dataset)
    other = codes_of("Garden", "Kitchen", seed=5)
    moved = model.with_codes(other)
    assert moved.codes is other and equal(moved.body, model.body)
    with pytest.raises(ValueError, match="has 26 tokens, the new identifiers have 34"):
        model.with_codes(codes_of("Garden", sizes=(16, 16)))


def test_identifiers_of_other_items_are_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"to 300 items of \['Kitchen', 'Garden'\], which are not the items"):
        Recommender(codes_of("Kitchen", "Garden"), TINY).fit(dataset, training=FEW)


def test_checkpoints_of_another_training_over_items_are_refused(
    dataset: Dataset, text: np.ndarray, tmp_path: Path
) -> None:
    garden = dataset.select("Garden")

    def fitted(
        data: Dataset = garden, seed: int = 0, folder: Path | None = tmp_path, width: int = 8, **changes: Any
    ) -> SASRec:
        training = STEADY.model_copy(update=changes)
        model = SASRec(SASRec.Config(**SIZES | {"width": width}))
        return model.fit(data, training=training, seed=seed, checkpoints=folder)

    first = fitted()
    assert equal(first, fitted(folder=None)) and equal(first, fitted())  # resumed, with the same weights
    with pytest.raises(ValueError, match="a training with seed = 0, this one has 1; delete it"):
        fitted(seed=1)
    with pytest.raises(ValueError, match=r"training\.learning_rate = 0.001, this one has 0.01"):
        fitted(learning_rate=1e-2)
    with pytest.raises(ValueError, match="width = 8, this one has 12"):
        fitted(width=12)
    fewer = Dataset(garden.name, garden.items, garden.sequences.head(40))
    with pytest.raises(ValueError, match="a training with sequences = "):
        fitted(fewer)
    assert equal(fitted(epochs=4), fitted(folder=None, epochs=4))  # more epochs continue it

    config, given = UniSRec.Config(**SIZES, experts=2), {"training": FEW, "pretraining": FEW, "text": text}
    one, other = (UniSRec(config).pretrain(garden, **given, seed=seed) for seed in (0, 1))
    given["checkpoints"] = tmp_path / "unisrec"
    UniSRec(config).fit(garden, **given, pretrained=one)
    with pytest.raises(ValueError, match="a training with pretrained = "):
        UniSRec(config).fit(garden, **given, pretrained=other)
    with pytest.raises(ValueError, match="a training with items = "):
        UniSRec(config).fit(garden, **given | {"text": 2 * text}, pretrained=one)


def test_checkpoints_of_another_recommender_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    codes, other_codes = (codes_of("Garden", "Kitchen", seed=seed) for seed in (0, 1))

    def fitted(
        data: Dataset = dataset, codes: ItemCodes = codes, folder: Path | None = tmp_path, **given: Any
    ) -> Recommender:
        torch.manual_seed(0)
        training = STEADY.model_copy(update={"epochs": given.pop("epochs", 2)})
        asked = {"pairs": PAIRS, "training": training, "checkpoints": folder, **given}
        return Recommender(codes, TINY).fit(data, **asked)

    first = fitted()
    assert equal(first, fitted(folder=None)) and equal(first, fitted())
    fewer = Dataset(dataset.name, dataset.items, dataset.sequences.head(100))
    refused = {
        "seed = 0, this one has 1": {"seed": 1},
        "temperature = 1.0, this one has 0.5": {"temperature": 0.5},
        "pairs = ": {"pairs": PairsConfig(max_history=6)},
        "identifiers = ": {"codes": other_codes},
        "sequences = ": {"data": fewer},
    }
    for message, changes in refused.items():
        with pytest.raises(ValueError, match=f"belongs to a training with {message}"):
            fitted(**changes)
    assert equal(fitted(epochs=4), fitted(folder=None, epochs=4))
    lora = {"lora": LoRAConfig(rank=2), "training": FEW, "pairs": PAIRS, "checkpoints": tmp_path / "lora"}
    first.adapt(dataset, "Garden", **lora)
    with pytest.raises(ValueError, match="a training with frozen weights = "):
        fitted(folder=None, seed=1).adapt(dataset, "Garden", **lora)
