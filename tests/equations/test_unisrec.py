"""UniSRec's equations, and the contrast that it shares with others, against twins in float64 or by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.models.sequential.objectives import in_batch_contrast, shortened
from genrec_lab.models.sequential.unisrec import MixtureAdaptor, UniSRec, UniSRecConfig
from tests.equations.content_twins import SEQUENCES, SIZES, by_hand, shaken, unit
from tests.unit.test_content_models import ITEMS, domain_of

# --- contrast within a batch


@given(rows=st.integers(1, 6), items=st.integers(1, 4), seed=st.integers(0, 10), fake=st.booleans())
def test_contrast_counts_every_other_target_but_the_same_item(
    rows: int, items: int, seed: int, fake: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    states, targets, fakes = torch.randn(3, rows, 5, generator=generator)
    ids = torch.randint(items, (rows,), generator=generator)
    loss = in_batch_contrast(states, targets, ids, 0.3, fakes if fake else None)
    expected = by_hand(states, targets, ids.tolist(), 0.3, fakes if fake else None)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 20),
    share=st.floats(0, 1),
)
def test_shortened_sequences_and_where_each_prefix_ends_in_them(
    lengths: list[int], seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    width = max(lengths)
    rows = [rng.integers(0, 9, n).tolist() for n in lengths]
    keep = rng.random((len(rows), width)) >= share
    sequences = torch.tensor([row + [-1] * (width - len(row)) for row in rows])
    short, last = shortened(sequences, torch.from_numpy(keep))
    for number, row in enumerate(rows):
        left = [item for place, item in enumerate(row) if keep[number, place] or place == 0]
        assert short[number].tolist() == left + [-1] * (width - len(left))
        for place in range(len(row)):
            kept = [item for i, item in enumerate(row[: place + 1]) if keep[number, i] or i == 0]
            assert last[number, place] == len(kept) - 1


# --- UniSRec


def test_the_adaptor_mixes_whitened_texts_by_its_gate() -> None:
    adaptor = shaken(MixtureAdaptor(inputs=4, width=3, experts=2, dropout=0.5))
    text = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    found = adaptor(text).detach().numpy()
    bias, weight, gate = (p.detach().double().numpy() for p in (adaptor.bias, adaptor.weight, adaptor.gate))
    for row, x in enumerate(text.double().numpy()):
        scores = np.exp(x @ gate)
        shares = scores / scores.sum()
        expected = np.zeros(3)
        for expert in range(2):
            expected += shares[expert] * (weight[expert] @ (x - bias[expert]))
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-6)


def test_the_gate_is_noisy_in_training_as_far_as_the_text_says() -> None:
    """With a very negative noise logit the deviation is the floor of .01, with a positive one it grows."""
    torch.manual_seed(0)
    adaptor = MixtureAdaptor(inputs=2, width=3, experts=4, dropout=0.0)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with torch.no_grad():
        adaptor.noise.copy_(torch.tensor([[-50.0] * 4, [3.0] * 4]))
        torch.manual_seed(0)
        spread = torch.stack([adaptor.train()(text) for _ in range(200)]).std(0).mean(-1)
        still = torch.stack([adaptor.eval()(text) for _ in range(3)]).std(0)
    assert 0 < spread[0] < 0.03 * spread[1]
    assert still.max() == 0


def unisrec(**changes: Any) -> UniSRec:
    torch.manual_seed(0)
    config = UniSRecConfig.model_validate({**SIZES, "kind": "unisrec", "experts": 2, **changes})
    return shaken(UniSRec(config).build(domain_of()))


@pytest.mark.parametrize("setting", ["inductive", "transductive"])
def test_unisrec_scores_by_cosine_with_text_and_in_the_transductive_setting_with_ids(setting: str) -> None:
    model = unisrec(setting=setting)
    with torch.no_grad():
        vectors = model.adaptor(model.text)
        if setting == "transductive":
            vectors = vectors + model.embedding.weight
        history = torch.tensor([[2, 3, 7]])
        state = model.encoder(vectors[history])[0, -1].double().numpy()
    cosines = np.array([unit(state) @ unit(v.double().numpy()) for v in vectors]) / 0.07
    expected = cosines - np.log(np.exp(cosines).sum())
    np.testing.assert_allclose(model.score([ITEMS[[2, 3, 7]].tolist()])[0], expected, atol=1e-4)


def test_unisrec_pretraining_is_two_contrasts_over_all_prefixes_without_ids() -> None:
    model = unisrec(sequence_weight=0.5, drop=0.4)
    model.begin("pretraining")
    torch.manual_seed(9)
    loss = model(SEQUENCES).item()
    torch.manual_seed(9)
    keep = (torch.rand(3, 5) >= 0.4).tolist()
    states, targets, augmented, ids = [], [], [], []
    with torch.no_grad():
        vectors = model.adaptor(model.text)
        for row, sequence in enumerate(SEQUENCES.tolist()):
            real = [item for item in sequence if item != -1]
            for place in range(1, len(real)):
                prefix = real[:place]
                short = [item for i, item in enumerate(prefix) if i == 0 or keep[row][i]]
                states.append(model.encoder(vectors[prefix][None])[0, -1])
                augmented.append(model.encoder(vectors[short][None])[0, -1])
                targets.append(vectors[real[place]])
                ids.append(real[place])
    first = by_hand(torch.stack(states), torch.stack(targets), ids, 0.07)
    second = by_hand(torch.stack(states), torch.stack(augmented), ids, 0.07)
    assert len(states) == 8
    assert loss == pytest.approx(first + 0.5 * second, rel=1e-4)
