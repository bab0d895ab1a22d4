"""FDSA's features and S3-Rec's four objectives, place by place and attribute by attribute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.fdsa import FDSA, FDSAConfig
from genrec_lab.models.sequential.s3rec import MaskedBatches, S3Rec, S3RecConfig
from tests.equations.content_twins import SIZES, shaken
from tests.unit.test_content_models import ITEMS, domain_of

# --- FDSA


def test_features_are_weighted_by_attention_over_what_an_item_has() -> None:
    torch.manual_seed(0)
    model = shaken(FDSA(FDSAConfig(**SIZES, least_items=1)).build(domain_of()))
    found = model.item_features().detach().numpy()
    assert model.has.any(0).all()
    assert not model.has.all(0).any()
    for item in range(len(ITEMS)):
        with torch.no_grad():
            fields = [model.adapter(model.text[item])]
            fields += [model.attributes.weight[a] for a in model.has[item].nonzero()[:, 0]]
            weights = [math.exp(model.attention(field).item()) for field in fields]
            total = sum(w * f.double().numpy() for w, f in zip(weights, fields, strict=True))
        np.testing.assert_allclose(found[item], total / sum(weights), rtol=1e-4, atol=1e-5)


def test_fdsa_joins_the_last_states_of_ids_and_of_features() -> None:
    torch.manual_seed(0)
    model = shaken(FDSA(FDSAConfig(**SIZES, least_items=1)).build(domain_of()))
    places = [2, 3, 7]
    with torch.no_grad():
        ids = model.item_encoder(model.embedding.weight[places][None])[0, -1]
        features = model.feature_encoder(model.item_features()[places][None])[0, -1]
        joined = model.norm(model.join(torch.cat([ids, features])))
        expected = (model.embedding.weight @ joined).log_softmax(-1).numpy()
    np.testing.assert_allclose(model.score([ITEMS[places].tolist()])[0], expected, atol=1e-4)


def test_fdsa_with_text_alone_needs_no_attribute() -> None:
    bare = DomainItems(ITEMS, text=domain_of().text, words=domain_of().words.select("item", "title"))
    model = FDSA(FDSAConfig(**SIZES, features="text")).build(bare)
    torch.testing.assert_close(model.item_features(), model.adapter(model.text))


# --- S3-Rec


def s3rec(**changes: Any) -> S3Rec:
    torch.manual_seed(0)
    return shaken(S3Rec(S3RecConfig(**SIZES, least_items=1, **changes)).build(domain_of()))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_four_objectives_place_by_place() -> None:
    model = s3rec()
    mask, has = model.mask, model.has.tolist()
    batch = {
        "sequences": [[0, 3, 5, 1], [4, 6, -1, -1]],
        "masked": [[0, mask, 5, mask], [4, 6, -1, -1]],
        "negatives": [[0, 7, 5, 2], [4, 6, -1, -1]],
        "around": [[0, mask, mask, 1], [mask, 6, -1, -1]],
        "segments": [[mask, 3, 5, mask], [4, mask, -1, -1]],
        "strangers": [[mask, 4, 6, mask], [1, mask, -1, -1]],
    }
    with torch.no_grad():
        found = model.objectives(**{name: torch.tensor(rows) for name, rows in batch.items()})

        def states(row: list[int]) -> Tensor:  # without padding, every place sees every other
            real = [place for place in row if place != -1]
            seen = torch.ones(1, len(real), dtype=torch.bool)
            return model.encoder(model.embedding.weight[real][None], seen)[0]

        aap = mip = map_ = sp = 0.0
        for row in range(2):
            read = states(batch["masked"][row])
            for place, state in enumerate(read):
                item, hidden = batch["sequences"][row][place], batch["masked"][row][place] == mask
                w = (model.of_masked if hidden else model.of_attribute)(state)
                for attribute, vector in enumerate(model.attributes.weight):
                    p = sigmoid(float(w @ vector))
                    loss = -math.log(p if has[item][attribute] else 1 - p)
                    map_ += loss * hidden
                    aap += loss * (not hidden)
                if hidden:
                    w = model.of_item(state)
                    right = sigmoid(float(w @ model.embedding.weight[item]))
                    wrong = sigmoid(float(w @ model.embedding.weight[batch["negatives"][row][place]]))
                    mip -= math.log(sigmoid(right - wrong))
            context = model.of_segment(states(batch["around"][row])[-1])
            right, wrong = (
                sigmoid(float(context @ states(batch[name][row])[-1])) for name in ("segments", "strangers")
            )
            sp -= math.log(sigmoid(right - wrong))
    assert [loss.item() for loss in found] == pytest.approx([x / 2 for x in (aap, mip, map_, sp)], rel=1e-4)


def test_pretraining_weighs_the_objectives() -> None:
    model = s3rec(aap_weight=0.3, mip_weight=0.7, map_weight=0.0, sp_weight=2.0)
    model.begin("pretraining")
    (batch,) = model.batches([[3, 4, 8, 10], [11, 17, 20]], [0, 1], 2)(0, 1)
    with torch.no_grad():
        found = model.objectives(**batch)
        expected = 0.3 * found.attributes + 0.7 * found.items + 2.0 * found.segments
        assert model(**batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_mask_in_a_batch_is_no_loss_and_no_nan() -> None:
    model = s3rec()
    plain = torch.tensor([[0, 3, 5]])
    found = model.objectives(plain, plain, plain, plain, plain, plain)
    assert found.items.item() == 0
    assert found.masked_attributes.item() == 0
    sum(found).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(lambda n: max(n) > 1),
    seed=st.integers(0, 30),
)
def test_what_is_masked_and_what_stands_in_for_it(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequences = [rng.choice(ITEMS[:-1], n).tolist() for n in lengths]
    batches = MaskedBatches(ITEMS, sequences, 3, max_history=5, mask_ratio=0.4)
    mask = len(ITEMS)
    rows = [
        {name: [place for place in tensor[i].tolist() if place != -1] for name, tensor in batch.items()}
        for batch in batches(0, seed)
        for i in range(len(batch["sequences"]))
    ]
    assert all(2 <= len(row["sequences"]) <= 5 for row in rows)
    # Pieces from the end: nothing is lost but single items.
    assert sum(len(row["sequences"]) for row in rows) == sum(n if n % 5 != 1 else n - 1 for n in lengths)
    for row in rows:
        own = row["sequences"]
        assert all(len(part) == len(own) for part in row.values())
        for place, item in enumerate(own):
            assert row["masked"][place] in (item, mask)
            if row["masked"][place] == mask:
                assert row["negatives"][place] not in own or set(own) == set(range(mask))
                assert 0 <= row["negatives"][place] < mask
            else:
                assert row["negatives"][place] == item
            inside = row["around"][place] == mask
            assert row["around"][place] == (mask if inside else item)
            assert row["segments"][place] == (item if inside else mask)
            assert (row["strangers"][place] < mask) == inside
        inside = [place for place, item in enumerate(row["around"]) if item == mask]
        assert inside == list(range(inside[0], inside[-1] + 1))
        assert 1 <= len(inside) <= len(own) // 2


def test_the_negatives_are_all_free_items_and_only_those() -> None:
    batches = MaskedBatches(ITEMS, [ITEMS[[1, 2, 5]].tolist()], 1, max_history=5, mask_ratio=0.9)
    drawn = [
        place
        for epoch in range(300)
        for batch in batches(epoch, 0)
        for place, hidden in zip(batch["negatives"][0].tolist(), batch["masked"][0].tolist(), strict=True)
        if hidden == len(ITEMS)
    ]
    counts = np.bincount(drawn, minlength=8)
    assert (counts[[1, 2, 5]] == 0).all()
    assert (counts[[0, 3, 4, 6, 7]] > 0.15 * len(drawn)).all()
