"""VQ-Rec's codes, negatives and permutation against twins in float64 or by hand."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from genrec_lab.models.sequential.vqrec import VQRec, VQRecConfig, sinkhorn, text_codes
from tests.equations.content_twins import SEQUENCES, SIZES, by_hand, shaken
from tests.unit.test_content_models import ITEMS, domain_of

# --- VQ-Rec


def vqrec(**changes: Any) -> VQRec:
    torch.manual_seed(0)
    config = VQRecConfig.model_validate({**SIZES, "kind": "vqrec", "codes": 3, "bits": 2, **changes})
    return shaken(VQRec(config).build(domain_of()))


@pytest.mark.parametrize("items", [8, 40])  # fewer than the 12 numbers of a vector, and more
def test_codes_are_those_of_a_rotation_that_loses_little(items: int) -> None:
    rng = np.random.default_rng(0)
    # All that there is lies in few directions, which an even rotation shares among the codes.
    vectors = (rng.normal(size=(items, 3)) @ rng.normal(size=(3, 12))).astype(np.float32)
    vectors[7] = vectors[2]
    codes = text_codes(vectors, 3, 2).numpy()
    assert codes.shape == (items, 3)
    assert codes.min() >= 0
    assert codes.max() <= 3
    assert codes[7].tolist() == codes[2].tolist()
    # What the codes of an item cannot tell: how far it is from the mean of all that have the same.
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for code, vector in zip(codes.tolist(), vectors, strict=True):
        groups.setdefault(tuple(code), []).append(vector)
    lost = sum(((np.array(group) - np.mean(group, 0)) ** 2).sum() for group in groups.values())
    assert lost < ((vectors - vectors.mean(0)) ** 2).sum() / 4


def test_bad_sizes_are_named() -> None:
    vectors = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
    with pytest.raises(ValueError, match=r"vqrec\.codes is 5, which does not divide the 12"):
        text_codes(vectors, 5, 2)
    with pytest.raises(ValueError, match=r"vqrec\.bits is 4.*only 10 items; set it to 3"):
        text_codes(vectors, 3, 4)


def test_without_faiss_the_error_names_the_row_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"'vqrec'.*genrec-lab\[baselines\]"):
        text_codes(np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32), 3, 2)


def test_an_item_is_the_mean_of_its_code_vectors() -> None:
    model = vqrec()
    vectors = model.item_vectors().detach().numpy()
    table = model.code_vectors.detach().double().numpy()
    for item, codes in enumerate(model.codes.tolist()):
        assert all(0 <= code < 4 for code in codes)
        expected = sum(table[m, code] for m, code in enumerate(codes)) / 3
        np.testing.assert_allclose(vectors[item], expected, rtol=1e-4, atol=1e-6)


def test_vqrec_pretraining_contrasts_with_the_batch_and_a_fake_of_each_target() -> None:
    model = vqrec(fake_share=0.6)
    model.begin("pretraining")
    torch.manual_seed(3)
    loss = model(SEQUENCES).item()
    states, ids = [], []
    with torch.no_grad():
        vectors = model.item_vectors()
        for sequence in SEQUENCES.tolist():
            real = [item for item in sequence if item != -1]
            for place in range(1, len(real)):
                states.append(model.encoder(vectors[real[:place]][None])[0, -1])
                ids.append(real[place])
        torch.manual_seed(3)
        fakes = model.fake_codes(model.codes[ids])
        fake_vectors = torch.stack(
            [sum(model.code_vectors[m, c] for m, c in enumerate(row)) / 3 for row in fakes.tolist()]
        )
    expected = by_hand(torch.stack(states), vectors[ids], ids, 0.07, fake_vectors)
    assert loss == pytest.approx(expected, rel=1e-4)


def test_fakes_keep_the_share_of_codes_that_is_not_drawn_anew() -> None:
    model = vqrec(bits=2, fake_share=0.75)
    torch.manual_seed(0)
    codes = torch.randint(4, (5000, 3))
    same = (model.fake_codes(codes) == codes).float().mean().item()
    assert same == pytest.approx(0.25 + 0.75 / 4, abs=0.02)  # one in four draws is the code itself
    unchanged = vqrec(fake_share=0.0)
    assert torch.equal(unchanged.fake_codes(codes), codes)


def test_sinkhorn_comes_near_to_rows_and_columns_of_one() -> None:
    scores = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    many = sinkhorn(scores, 50)
    torch.testing.assert_close(many.sum(-1), torch.ones(2, 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(many.sum(-2), torch.ones(2, 5), atol=1e-4, rtol=0)
    once = sinkhorn(scores, 1)
    by_rows = scores.exp() / scores.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(once, by_rows / by_rows.sum(-2, keepdim=True))


def test_permuting_rearranges_code_vectors_and_changes_nothing_when_it_is_fixed() -> None:
    model = vqrec()
    model.pretrained = True
    before = model.code_vectors.detach().clone()
    model.begin("permutation")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["permutation"]
    orders = [[2, 0, 3, 1], [0, 1, 2, 3], [3, 2, 1, 0]]
    with torch.no_grad():
        model.permutation.copy_(torch.stack([5.0 * torch.eye(4)[order] for order in orders]))
    history = [ITEMS[[1, 2, 6]].tolist()]
    permuted = model.score(history)
    model.begin("fine-tuning")
    assert model.permutation is None
    for m, order in enumerate(orders):
        torch.testing.assert_close(model.code_vectors[m].detach(), before[m, order], atol=0, rtol=0)
    np.testing.assert_allclose(model.score(history), permuted, atol=1e-5)


def test_the_permutation_learns_although_its_choice_is_hard() -> None:
    model = vqrec()
    model.pretrained = True
    model.begin("permutation")
    model.train()
    matrices = model.permutation_matrices()
    assert set(matrices.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    assert (matrices.sum(-1) - 1).abs().max() < 1e-5
    model(SEQUENCES).backward()
    assert model.permutation.grad.abs().max() > 0
    assert model.code_vectors.grad is None
