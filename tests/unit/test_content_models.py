"""What holds for every model with item content: scores, learning, files; the rest is in test_item_models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from genrec_lab.models.recommenders.base import ITEM_MODELS
from genrec_lab.models.sequential.base import DomainItems, ItemModel
from genrec_lab.training import TrainingConfig, fit

ITEMS = np.array([3, 4, 8, 10, 11, 17, 20, 23])  # a domain's, scattered over the whole catalogue
NEVER_SEEN = 23  # in no training sequence
SEQUENCES = [[3, 4, 8, 10], [11, 17, 20, 3], [8, 10, 11], [20, 3, 4, 8, 10, 11, 17]]
_SIZES: dict[str, Any] = {"width": 16, "layers": 2, "feed_forward": 32, "dropout": 0.2, "max_history": 5}
# Without the loss of interests, so that what is trained is the cross-entropy alone.
_MISSREC = {**_SIZES, "heads": 2, "interest_weight": 0.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "fdsa": {**_SIZES, "least_items": 1},
    "missrec": {**_MISSREC},
    "missrec inductive with pictures": {**_MISSREC, "setting": "inductive"},
    "recformer": {**_SIZES, "layers": 1, "vocabulary": 320, "window": 16, "max_attributes": 1},
    "s3rec": {**_SIZES, "least_items": 1},
    "unisrec": {**_SIZES, "experts": 3},
    "unisrec inductive": {**_SIZES, "experts": 3, "setting": "inductive"},
    "vqrec": {**_SIZES, "codes": 4, "bits": 2},
}


def class_of(name: str) -> type[ItemModel]:
    return ITEM_MODELS.find(name.split()[0])


def items_frame(items: np.ndarray, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    colours, kinds = ["red", "green", "blue"], ["lamp", "chair", "vase", "bowl"]
    names = ["Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel"]
    drawn = [(colours[rng.integers(3)], kinds[rng.integers(4)]) for _ in items]
    return pl.DataFrame(
        {
            "item": items,
            "title": [f"{name} {kind}" for name, (_, kind) in zip(names, drawn, strict=False)],
            "text": [f"{colour} {kind}" for colour, kind in drawn],
            "brand": [colour.title() for colour, _ in drawn],
            "categories": [f"Home,{kind}" for _, kind in drawn],
        }
    )


def domain_of(items: np.ndarray = ITEMS, seed: int = 0) -> DomainItems:
    text = np.random.default_rng(seed).normal(size=(len(items), 12)).astype(np.float32)
    return DomainItems(items, text=text, words=items_frame(items, seed))


def make(name: str, domain: DomainItems | None = None, **changes: Any) -> ItemModel:
    kind = name.split()[0]
    config = ITEM_MODELS.find(kind).Config.model_validate({"kind": kind, **CONFIGS[name], **changes})
    torch.manual_seed(0)
    domain = domain or domain_of()
    if "pictures" in name:
        pictures = np.random.default_rng(9).normal(size=(len(domain.items), 7)).astype(np.float32)
        pictures[1] = 0  # an item without one
        domain = replace(domain, pictures=pictures)
    return ITEM_MODELS.find(kind)(config).build(domain)


@cache
def shaken(name: str) -> ItemModel:
    """A model away from its small start, at which hardly anything matters."""
    model = make(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


every_model = pytest.mark.parametrize("name", list(CONFIGS))


# --- scores


@every_model
def test_scores_are_log_probabilities_of_the_domains_items(name: str) -> None:
    scores = shaken(name).score([[3], [8, 10, 23]])
    assert scores.shape == (2, 8)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1.0, rtol=1e-5)


@every_model
def test_the_training_loss_knows_of_each_place_only_what_came_before_it(name: str) -> None:
    """The mean over all prefixes of what a score of that prefix alone says: no place sees its own future."""
    model = shaken(name)
    sequences = [[3, 10, 17, 4], [8, 23], [11, 3, 3, 20, 8, 17]]
    (batch,) = model.batches(sequences, [0, 1, 2], 99)(0, 0)
    if "wanted" in batch:
        rows = zip(batch["sequences"].tolist(), batch["wanted"].tolist(), strict=True)
        prefixes = [(ITEMS[[place for place in row if place >= 0]].tolist(), target) for row, target in rows]
    else:
        index = ITEMS.tolist().index
        prefixes = [(s[:place], index(s[place])) for s in sequences for place in range(1, len(s))]
    by_hand = [-model.score([prefix])[0, target] for prefix, target in prefixes]
    with torch.no_grad():
        assert model(**batch).item() == pytest.approx(np.mean(by_hand), abs=2e-5)


# --- training


def trained(name: str, epochs: int = 60, **changes: Any) -> ItemModel:
    """A model that went through all its phases as a row does."""
    training = TrainingConfig(
        epochs=epochs, batch_size=4, learning_rate=1e-2, schedule="constant", precision="fp32"
    )
    brief = training.model_copy(update={"epochs": 3})
    changes = {"dropout": 0.0, "width": 32, **changes}
    model = make(name, **changes)
    shared = [phase for phase in model.phases if phase.shared]
    if shared:
        pretrained = make(name, **changes)
        for phase in shared:
            pretrained.begin(phase.name)
            fit(pretrained, pretrained.batches(SEQUENCES, [0, 1, 2, 3], 4), brief)
        model.start_from(pretrained)
    for phase in model.phases:
        if not phase.shared:
            model.begin(phase.name)
            config = brief if phase.budget == "pretraining" or phase.epochs else training
            fit(model, model.batches(SEQUENCES, [0, 1, 2, 3], 4), config)
    return model.eval()


# RecFormer needs other steps: tests/unit/test_recformer.py.
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "recformer"])
def test_it_learns_what_follows_what(name: str) -> None:
    """In SEQUENCES each item is always followed by the same one."""
    freezes = "freeze_encoder" in type(shaken(name).config).model_fields
    model = trained(
        name, 20 if name.startswith("missrec") else 30, **({"freeze_encoder": False} if freezes else {})
    )
    after = {s[i]: s[i + 1] for s in SEQUENCES for i in range(len(s) - 1)}
    ranked = model.recommend([sequence[:-1] for sequence in SEQUENCES], 1).items[:, 0]
    assert ranked.tolist() == [after[sequence[-2]] for sequence in SEQUENCES]


# One of each way to draw: masks, permutations, clusters, masked tokens; the others draw as UniSRec does.
@pytest.mark.parametrize(
    "name", ["s3rec", "vqrec", "missrec inductive with pictures", "recformer", "unisrec"]
)
def test_training_is_the_same_again_from_the_same_seed(name: str) -> None:
    one, two = trained(name, 1), trained(name, 1)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


@every_model
def test_batches_hold_nothing_but_the_sequences_that_were_given(name: str) -> None:
    """What is read and what is wanted are items of the training part; a negative may be any item."""
    model = make(name)
    for phase in model.phases:
        model.begin(phase.name)
        for batch in model.batches(SEQUENCES, [0, 1, 2, 3], 2)(0, 0):
            read = {key: places for key, places in batch.items() if key != "negatives"}
            assert NEVER_SEEN not in ITEMS[list(_places(read.values()))]


def _places(tensors: Any) -> set[int]:
    return {place for tensor in tensors for place in tensor.flatten().tolist() if 0 <= place < len(ITEMS)}


@every_model
def test_an_item_never_seen_in_training_has_a_score_and_can_be_in_a_history(name: str) -> None:
    model = trained(name, 1)
    scores = model.score([[3, NEVER_SEEN], [NEVER_SEEN]])
    assert np.isfinite(scores).all()
    assert NEVER_SEEN in model.recommend([[3]], 8).items


@every_model
def test_gradients_reach_every_weight_that_a_phase_trains(name: str) -> None:
    model = make(name, dropout=0.0)
    for phase in model.phases:
        model.begin(phase.name)
        model.train().zero_grad()
        for batch in model.batches(SEQUENCES, [0, 1, 2, 3], 8)(0, 0):
            model(**batch).backward()
        still = [
            weight
            for weight, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        # What serves pre-training only: attribute vectors and maps, the prediction of masked tokens.
        for_pretraining = {"s3rec": ("attributes.", "of_"), "recformer": ("head",)}
        allowed = for_pretraining.get(name, ()) if phase.name != "pretraining" else ()
        assert [weight for weight in still if not weight.startswith(tuple(allowed))] == []


# --- files


@every_model
def test_a_written_model_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    model = trained(name, 1)
    again = type(model).load(model.save(tmp_path / "model"))
    assert again.config == model.config
    histories = [[3, 4], [23], [8, 10, 11, 17, 20, 3]]
    np.testing.assert_array_equal(again.score(histories), model.score(histories))


@every_model
def test_a_domain_without_what_a_model_reads_is_refused(name: str) -> None:
    whole = domain_of()
    for need in class_of(name).needs:
        with pytest.raises(ValueError, match=f"needs {need}"):
            make(name, replace(whole, **{need: None}))


# --- transfer


FREEZING = [name for name in CONFIGS if "freeze_encoder" in class_of(name).Config.model_fields]
TRANSFERABLE = [name for name in CONFIGS if any(phase.shared for phase in class_of(name).phases)]


@pytest.fixture
def other_domain() -> DomainItems:
    return domain_of(np.array([30, 31, 35, 40, 41, 50]), seed=3)


@pytest.mark.parametrize("name", TRANSFERABLE)
def test_what_was_learnt_on_some_items_serves_others(name: str, other_domain: DomainItems) -> None:
    """All weights move but those of single items, and the items' own vectors come from their own content."""
    source, target = shaken(name), make(name, other_domain)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    target.start_from(source)
    for key, value in target.state_dict().items():
        own = key.startswith(source.own_weights)
        expected: Tensor = before[key] if own else source.state_dict()[key]
        torch.testing.assert_close(value, expected, atol=0, rtol=0)
    assert target.score([[30, 41]]).shape == (1, 6)
    with pytest.raises(ValueError, match="item 3, which is not among the 6"):
        target.score([[3]])


@pytest.mark.parametrize("name", FREEZING)
def test_fine_tuning_leaves_the_pretrained_encoder_as_it_is(name: str) -> None:
    model = trained(name, 2)
    fresh = make(name, dropout=0.0, width=32)
    pretrained = make(name, dropout=0.0, width=32)
    brief = TrainingConfig(epochs=3, batch_size=4, learning_rate=1e-2, schedule="constant", precision="fp32")
    pretrained.begin("pretraining")
    fit(pretrained, pretrained.batches(SEQUENCES, [0, 1, 2, 3], 4), brief)
    blocks = [key for key in fresh.state_dict() if ".blocks." in key or ".places." in key]
    assert blocks
    for key in blocks:
        torch.testing.assert_close(model.state_dict()[key], pretrained.state_dict()[key], atol=0, rtol=0)
    moved = [key for key in blocks if not torch.equal(pretrained.state_dict()[key], fresh.state_dict()[key])]
    assert moved  # pre-training did train them
