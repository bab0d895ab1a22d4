"""MISSRec's interests, fusion and losses against twins in float64 or by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.missrec import MISSRec, MISSRecConfig
from tests.equations.content_twins import SIZES, by_hand, shaken, unit
from tests.unit.test_content_models import ITEMS, domain_of

# --- MISSRec


def missrec(pictures: bool = False, **changes: Any) -> MISSRec:
    domain = domain_of()
    if pictures:
        vectors = np.random.default_rng(4).normal(size=(len(ITEMS), 7)).astype(np.float32)
        vectors[2] = 0  # an item without a picture
        domain = DomainItems(ITEMS, text=domain.text, pictures=vectors)
    torch.manual_seed(0)
    config = {**SIZES, "kind": "missrec", "heads": 2, "interest_share": 0.4, **changes}
    model = shaken(MISSRec(MISSRecConfig.model_validate(config)).build(domain))
    model.refresh()
    return model


def test_an_interest_is_the_centre_nearest_to_a_text_or_a_picture() -> None:
    model = missrec(pictures=True)
    assert len(model.centres) == math.ceil(0.4 * (8 + 7))
    with torch.no_grad():
        text, pictures = model.of_text(model.text), model.of_pictures(model.pictures)
    for item in range(8):
        for column, vectors in enumerate((text, pictures)):
            if column == 1 and item == 2:
                assert model.interests[item, column] == -1
                continue
            far = [float((vectors[item] - centre).square().sum()) for centre in model.centres]
            assert model.interests[item, column] == far.index(min(far))


def test_the_interests_of_a_history_come_once_each() -> None:
    model = missrec(pictures=True)
    sequences = torch.tensor([[2, 2, 5, 0], [1, -1, -1, -1], [7, 3, -1, -1]])
    found, there = model.interests_of(sequences)
    for row, sequence in enumerate(sequences.tolist()):
        expected = {int(i) for item in sequence if item >= 0 for i in model.interests[item] if i >= 0}
        assert found[row][there[row]].tolist() == sorted(expected)


def test_a_state_is_that_of_the_decoder_on_the_items_beside_the_encoded_interests() -> None:
    model = missrec()
    places = [2, 3, 7]
    with torch.no_grad():
        adapted = model.of_text(model.text)
        items = adapted + model.embedding.weight
        memory = model.centres[sorted({int(model.interests[p, 0]) for p in places})][None]
        for layer in model.encoder:
            memory = layer(memory)
        x = model.norm(items[places] + model.places.weight[:3])[None]
        for layer in model.decoder:
            x = layer(x, memory)
        expected = [unit(x[0, -1].double().numpy()) @ unit(v.double().numpy()) / 0.07 for v in items]
        _, told = model.states(torch.tensor([places]), items)
    expected = np.array(expected) - np.log(np.exp(expected).sum())
    np.testing.assert_allclose(model.score([ITEMS[places].tolist()])[0], expected, atol=1e-3)
    assert told.item() == pytest.approx(memory[0].mean(0).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("with_ids", [False, True])
def test_text_and_picture_are_fused_by_which_is_nearer(with_ids: bool) -> None:
    model = missrec(pictures=True)
    states = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.fusion.fill_(2.5)
        adapted = model._adapted()
        found = model.similarity(states, adapted, model.embedding.weight if with_ids else None).numpy()
        for row, item in itertools.product(range(3), range(8)):
            parts = [adapted.text[item]] + ([adapted.pictures[item]] if item != 2 else [])
            cosines = [unit(states[row].double().numpy()) @ unit(p.double().numpy()) for p in parts]
            weights = [math.exp(2.5 * cosine) for cosine in cosines]
            fused = sum(w * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)
            if with_ids:
                own = model.embedding.weight[item].double().numpy()
                fused = (unit(states[row].double().numpy()) @ unit(own) + 2 * fused) / 3
            assert found[row, item] == pytest.approx(fused, abs=1e-5)


def test_missrec_pretraining_is_two_contrasts_and_the_loss_of_interests_without_ids() -> None:
    model = missrec(sequence_weight=0.5, interest_weight=0.2, drop=0.4)
    model.begin("pretraining")
    sequences, wanted = torch.tensor([[2, 3, 7], [4, 1, -1], [5, -1, -1]]), torch.tensor([1, 0, 1])
    torch.manual_seed(6)
    loss = model(sequences, wanted).item()
    torch.manual_seed(6)
    keep = (torch.rand(3, 3) >= 0.4).tolist()
    with torch.no_grad():
        text = model.of_text(model.text)
        rows = [[p for p in row if p >= 0] for row in sequences.tolist()]
        short = [[p for i, p in enumerate(row) if i == 0 or keep[n][i]] for n, row in enumerate(rows)]
        read = [[model.states(torch.tensor([row]), text) for row in part] for part in (rows, short)]
        states, augmented = (torch.cat([state for state, _ in part]) for part in read)
        told = sum(float(t) for part in read for _, t in part) / 3
    first = by_hand(states, text[wanted], wanted.tolist(), 0.07)
    second = by_hand(states, augmented, wanted.tolist(), 0.07)
    assert loss == pytest.approx(first + 0.5 * second + 0.2 * told, rel=1e-3)
