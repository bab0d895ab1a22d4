"""What every recommender is: found by name or place, given what may be learnt, checked in what it gives."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from genrec_lab import presets
from genrec_lab.data import leave_one_out, load_dataset
from genrec_lab.decoding import Ranked
from genrec_lab.evaluation import ndcg_at_k, recall_at_k
from genrec_lab.models.popularity import Popularity
from genrec_lab.models.recommenders.base import (
    ITEM_MODELS,
    RECOMMENDERS,
    RecommenderError,
    TrainingData,
    checked_ranking,
    checked_scores,
    needs_of,
    pretrains,
    recommend_to,
    register_item_model,
    with_accepted,
)
from genrec_lab.models.sequential.unisrec import UniSRec
from genrec_lab.presets import PresetError
from genrec_lab.registry import Registry, RegistryError, component_config
from genrec_lab.training import TrainingConfig, validation_metrics
from tests.unit.conftest import unique_codes
from tests.unit.strangers import FirstCodes, LastItem, ranked

HERE = Path(__file__).parent / "strangers.py"
LAST, FIRST = f"{HERE}:LastItem", f"{HERE}:FirstCodes"


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("bazaar", items=300, users=200, domains=("Garden", "Kitchen"))


# --- registries and configs


def test_ours_are_found_by_kind_and_have_what_is_required() -> None:
    for registry in (RECOMMENDERS, ITEM_MODELS):
        for kind in registry:
            model = registry.find(kind)
            assert component_config(registry, {"kind": kind}) == model.Config()
            assert model.Config().kind == kind


def test_a_strangers_config_gets_its_place_as_kind_and_keeps_its_own_types() -> None:
    config = component_config(ITEM_MODELS, {"kind": LAST, "reach": 2, "weights": (0.5, 2)})
    assert (config.kind, config.reach, config.weights) == (LAST, 2.0, [0.5, 2.0])
    assert config.model_dump() == {"kind": LAST, "reach": 2.0, "weights": [0.5, 2.0]}
    assert component_config(ITEM_MODELS, config) is config
    assert component_config(ITEM_MODELS, config.model_dump()) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "sasrek"}, r"no item model 'sasrek' \(did you mean 'sasrec'\?\)"),
        ({"width": 8}, "kind is missing; expected one of gru4rec, sasrec"),
        (7, "7 is a int; expected `kind`, the name of the item model, and its settings"),
        ({"kind": f"{HERE}:Unfinished"}, "lacks fit, recommend, save, load"),
        ({"kind": f"{HERE}:NoConfig"}, r"NoConfig.Config is <class 'dict'>; expected a class of pydantic"),
        ({"kind": f"{HERE}:Lost"}, r"has no Lost \(did you mean 'LastItem'\?\)"),
    ],
)  # fmt: skip
def test_components_that_cannot_be_are_refused(given: object, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        component_config(ITEM_MODELS, given)


def test_what_a_config_refuses_is_told_with_its_key_and_a_strangers_class() -> None:
    with pytest.raises(ValidationError) as refused:
        component_config(ITEM_MODELS, {"kind": LAST, "reach": "far", "colour": 1})
    errors = {one["loc"]: one["msg"] for one in refused.value.errors()}
    assert set(errors) == {("reach",), ("colour",)}
    assert all("strangers" in message and "LastItem" in message for message in errors.values())
    with pytest.raises(ValidationError) as refused:
        component_config(ITEM_MODELS, {"kind": "sasrec", "width": 1})
    assert [one["loc"] for one in refused.value.errors()] == [("width",)]


def test_a_model_of_your_own_can_have_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ITEM_MODELS, "_components", dict(ITEM_MODELS._components))
    register_item_model("last_item")(LastItem)
    config = presets.load("gmc_tiny", {"rows.near.model.kind": "last_item", "rows.near.model.reach": 9.0})
    assert config.rows["near"].model.kind == "last_item" and config.rows["near"].model.reach == 9.0
    with pytest.raises(RegistryError, match="the item model 'sasrec' exists twice"):
        register_item_model("sasrec")(LastItem)


def test_strangers_stand_in_a_run_files_keys() -> None:
    """Neither needs a row or a kind of ours to begin with; all of their settings are in the dump."""
    config = presets.load(
        "gmc_tiny",
        {
            "rows.near.model.kind": LAST,
            "rows.near.model.reach": 2.0,
            "rows.near.model.weights": [1, 2],
            "rows.near.training.epochs": 3,
            "compare": ["near"],
            "recommender": {"kind": FIRST, "upwards": False},
            "adaptation.kind": "none",
            "recommenders": "separate",
            "one_pass": None,
        },
    )
    assert config.recommender.kind == FIRST and config.recommender.upwards is False
    row = config.rows["near"]
    assert (row.model.reach, row.model.weights, row.training.epochs) == (2.0, [1.0, 2.0], 3)
    assert row.training.batch_size == presets.load("gmc_tiny").rows["sasrec"].training.batch_size
    again = type(config).model_validate(config.model_dump())
    assert again == config and again.model_dump(mode="json") == config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"recommender.kind": "t6"}, r"recommender.kind is 't6': there is no recommender 't6'"),
        ({"recommender.kind": FIRST}, r"adaptation.kind is 'lora', and the recommender .*FirstCodes' has no"),
        ({"rows.x.model.kind": LAST, "rows.x.model.reach": "far"}, r"rows.x.model.reach = 'far'.*LastItem"),
        ({"rows.sasrec.model.width": 2}, r"rows.sasrec.model.width = 2"),
        ({"rows.sasrec.model.kind": "hgn", "rows.sasrec.model.heads": 2}, r"sasrec.model.heads' is unknown"),
    ],
)  # fmt: skip
def test_keys_of_recommenders_that_cannot_be_are_named(overrides: dict, message: str) -> None:
    with pytest.raises(PresetError, match=message):
        presets.load("gmc_tiny", overrides)


def test_a_row_takes_over_what_two_kinds_share() -> None:
    rows = presets.load("gmc_tiny", {"rows.sasrec.model.width": 24, "rows.sasrec.model.kind": "gru4rec"}).rows
    assert rows["sasrec"].model == ITEM_MODELS.find("gru4rec").Config(width=24, layers=2, dropout=0.5)


# --- what may be learnt


def test_training_data_hold_neither_test_items_nor_those_of_other_domains(dataset) -> None:
    data = TrainingData.of(dataset)
    split = leave_one_out(dataset)
    assert data.domains == ("Garden", "Kitchen")
    assert data.pairs().equals(split.train) and data.valid.equals(split.valid)
    last = dict(dataset.sequences.select("user", pl.col("items").list.get(-1)).iter_rows())
    for user, items in data.sequences.select("user", "items").iter_rows():
        whole = dataset.sequences["items"][user].to_list()
        assert items == (whole[:-2] if len(whole) > 2 else whole)
    assert not any(last[user] == target for user, target in split.valid.select("user", "target").iter_rows())
    kitchen = data.of_domains("Kitchen")
    assert kitchen.items["item"].to_list() == dataset.domain_items("Kitchen").tolist()
    for part in (kitchen.sequences, kitchen.valid, kitchen.pairs()):
        assert part["domain"].unique().to_list() == ["Kitchen"]
    assert kitchen.pairs().equals(split.train.filter(domain="Kitchen"))
    assert TrainingData.of(kitchen) is kitchen
    with pytest.raises(ValueError, match=r"domain is 'Shed'; expected one of \['Garden', 'Kitchen'\]"):
        data.of_domains(["Garden", "Shed"])


def test_training_data_of_shortened_sequences_are_those_of_the_split(dataset) -> None:
    split = leave_one_out(dataset, max_sequence=5)
    data = TrainingData.of(dataset, split)
    assert data.pairs().equals(split.train) and not data.pairs().equals(leave_one_out(dataset).train)
    whole = dataset.sequences["items"].to_list()
    assert data.sequences["items"].to_list() == [items[-5:-2] if len(items) > 2 else items for items in whole]


def test_functions_get_the_keywords_that_they_name() -> None:
    def plain(data, *, seed):
        return data, seed

    def all_of_them(data, **given):
        return data, given

    assert with_accepted(plain, 1, seed=2, epochs=3) == (1, 2)
    assert with_accepted(all_of_them, 1, seed=2) == (1, {"seed": 2})
    assert with_accepted(partial(plain, seed=5), 1, seed=2) == (1, 2)


def test_needs_are_those_that_a_class_names() -> None:
    assert needs_of(FirstCodes) == () and not pretrains(FirstCodes)
    assert needs_of(UniSRec) == ("text",) and pretrains(UniSRec)
    assert needs_of(ITEM_MODELS.find("missrec"), also_taken=True) == ("text", "pictures")


# --- what they give


def test_strangers_fit_and_recommend_like_ours(dataset) -> None:
    data = TrainingData.of(dataset)
    garden, users = data.of_domains("Garden"), data.valid.filter(domain="Garden")
    items = garden.items["item"].to_numpy()
    near = LastItem(LastItem.Config()).fit(garden)
    found = recommend_to(near, users, 5, items)
    assert found.items[:, 0].tolist() == [history[-1] for history in users["history"].to_list()]
    codes = unique_codes({"Garden": 150, "Kitchen": 150}, (8, 8, 8))
    first = FirstCodes(codes, FirstCodes.Config())
    with_accepted(first.fit, garden, training=TrainingConfig(epochs=7), seed=3, temperature=1.0)
    assert first.seen == {"domains": ("Garden",), "seed": 3, "epochs": 7}
    found = recommend_to(first, users, 5, codes.domain_items("Garden"), beams=10)
    assert found.scores[0].tolist() == [0, -1, -2, -3, -4]
    popular = Popularity().fit(garden)
    assert recommend_to(popular, users, 160, items).items[0, 150:].tolist() == [-1] * 10


@pytest.mark.parametrize(
    ("gave", "message"),
    [
        (ranked([[1, 2]]), r"recommend gave an array of shape \(1, 2\) and type int64; expected .* \(2, 2\)"),
        (ranked([[1.0, 2.0], [1.0, 2.0]]), "type float64; expected item indices"),
        (ranked([[1, 2], [2, 2]]), "gave user 1 the item 2, twice; give it once"),
        (ranked([[1, 2], [-1, 2]]), "gave user 1 the item -1, before an item; -1 may only fill the end"),
        (ranked([[1, 9], [1, 2]]), r"gave user 0 the item 9, which is not one of the 3 items"),
        (ranked([[1, 2], [1, 2]], [[1.0, 0.5], [np.nan, 0.0]]), "gave user 1 the item 1, with the score NaN"),
        (ranked([[1, 2], [1, 2]], [[1.0], [1.0]]), r"gave scores that are an array of shape \(2, 1\)"),
        (SimpleNamespace(items=[[1, 2], [1, 2]], scores=[["a", "b"]] * 2), "scores that are .* type <U1"),
    ],
)  # fmt: skip
def test_rankings_that_cannot_be_are_refused(gave: object, message: str) -> None:
    with pytest.raises(RecommenderError, match=message) as refused:
        checked_ranking(gave, LastItem, (2, 2), np.array([1, 2, 3]))
    assert "tests.unit.strangers:LastItem" in str(refused.value)


def test_rankings_that_can_be_stay_as_they_are() -> None:
    sound = Ranked(np.array([[2, 1], [3, -1]]), np.array([[0.5, 0.1], [0.2, -np.inf]], dtype=np.float32))
    assert checked_ranking(sound, LastItem, (2, 2), np.array([1, 2, 3])) is sound


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((2, 4)), r"score gave an array of shape \(2, 4\) .* expected \(2, 3\), a score for each"),
        (np.array([[0.0, 1, 2], [0, np.nan, 1]]), "score gave NaN for history 1"),
        ([["a"] * 3] * 2, "type <U1; expected"),
    ],
)
def test_scores_that_cannot_be_are_refused(scores: object, message: str) -> None:
    with pytest.raises(RecommenderError, match=message):
        checked_scores(scores, LastItem, (2, 3))


def test_a_strangers_wrong_scores_are_told_when_it_recommends() -> None:
    model = LastItem(LastItem.Config())
    model.items, model.score = np.arange(4), lambda histories: np.zeros((len(histories), 3))
    with pytest.raises(RecommenderError, match=r"LastItem.score gave an array of shape \(1, 3\)"):
        model.recommend([[2]], 2)


# --- the criterion of validation


@given(data=st.data())
def test_epochs_are_chosen_by_what_evaluation_measures_today(data: st.DataObject) -> None:
    users, width = data.draw(st.integers(1, 12)), data.draw(st.integers(10, 12))
    rows = [data.draw(st.permutations(range(15))) for _ in range(users)]
    short = [data.draw(st.integers(1, width)) for _ in range(users)]
    shown = zip(rows, short, strict=True)
    items = np.array([[*row[:known], *[-1] * (width - known)] for row, known in shown])
    targets = np.array([data.draw(st.integers(0, 14)) for _ in range(users)])
    found = validation_metrics(items, targets)
    assert found == {"recall@10": recall_at_k(items, targets, 10), "ndcg@10": ndcg_at_k(items, targets, 10)}


def test_registries_say_what_they_require() -> None:
    with pytest.raises(RegistryError, match="a thing has Config, fit"):
        Registry("thing", required=("Config", "fit")).register("x")(object())


def test_what_a_class_keeps_in_attributes_comes_back(dataset, tmp_path: Path) -> None:
    config = component_config(ITEM_MODELS, {"kind": LAST, "reach": 2.0})
    model = ITEM_MODELS.find(LAST)(config).fit(TrainingData.of(dataset).of_domains("Garden"))
    model.bounds, model.parts = (1, 2), [np.arange(2), np.arange(3.0)]
    model.save(tmp_path)
    again = ITEM_MODELS.find(LAST).load(tmp_path)
    assert again.config == config and again.bounds == (1, 2)
    np.testing.assert_array_equal(again.items, model.items)
    assert [part.tolist() for part in again.parts] == [[0, 1], [0.0, 1.0, 2.0]]
    np.testing.assert_array_equal(again.score([[3]]), model.score([[3]]))
    model.bounds = object()
    with pytest.raises(ValueError, match=r"LastItem cannot be saved: .* define its save and load"):
        model.save(tmp_path)
