"""The equations of the models with item content against twins in float64 or by hand, term by term."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec_lab.models.sequential.contrast import in_batch_contrast, shortened
from genrec_lab.models.sequential.domain_items import DomainItems
from genrec_lab.models.sequential.fdsa import FDSA, FDSAConfig
from genrec_lab.models.sequential.s3rec import MaskedBatches, S3Rec, S3RecConfig
from genrec_lab.models.sequential.text_codes import TextCodebooks, fit_opq
from genrec_lab.models.sequential.unisrec import MixtureAdaptor, UniSRec, UniSRecConfig
from genrec_lab.models.sequential.vqrec import VQRec, VQRecConfig, sinkhorn
from tests.unit.test_content_models import ITEMS, domain_of

_SIZES: dict[str, Any] = {"width": 8, "feed_forward": 16, "layers": 1, "dropout": 0.0, "max_history": 5}
SEQUENCES = torch.tensor([[0, 3, 5, 1, 7, 2], [4, 4, 6, -1, -1, -1], [1, 2, -1, -1, -1, -1]])


def shaken(model: Any) -> Any:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def by_hand(states: Tensor, targets: Tensor, ids: list[int], temperature: float, fakes: Any = None) -> float:
    """InfoNCE, one row and one negative at a time."""
    total = 0.0
    s, t = states.detach().double().numpy(), targets.detach().double().numpy()
    for row in range(len(s)):
        own = math.exp(unit(s[row]) @ unit(t[row]) / temperature)
        everything = own
        for other in range(len(s)):
            if other != row and ids[other] != ids[row]:
                everything += math.exp(unit(s[row]) @ unit(t[other]) / temperature)
        if fakes is not None:
            everything += math.exp(unit(s[row]) @ unit(fakes[row].double().numpy()) / temperature)
        total -= math.log(own / everything)
    return total / len(s)


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
    adaptor = MixtureAdaptor(inputs=2, width=3, experts=4, dropout=0.0)
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    with torch.no_grad():
        adaptor.noise.copy_(torch.tensor([[-50.0] * 4, [3.0] * 4]))
        torch.manual_seed(0)
        spread = torch.stack([adaptor.train()(text) for _ in range(200)]).std(0).mean(-1)
        still = torch.stack([adaptor.eval()(text) for _ in range(3)]).std(0)
    assert 0 < spread[0] < 0.01 * spread[1]
    assert still.max() == 0


def unisrec(**changes: Any) -> UniSRec:
    torch.manual_seed(0)
    config = UniSRecConfig.model_validate({**_SIZES, "kind": "unisrec", "experts": 2, **changes})
    return shaken(UniSRec(domain_of(), config))


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


# --- VQ-Rec


def vqrec(**changes: Any) -> VQRec:
    torch.manual_seed(0)
    config = VQRecConfig.model_validate({**_SIZES, "kind": "vqrec", "codes": 3, "bits": 2, **changes})
    return shaken(VQRec(domain_of(), config))


def test_codes_are_the_nearest_centres_of_the_rotated_parts() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    books = TextCodebooks(rotation, rng.normal(size=6), rng.normal(size=(3, 4, 2)))
    vectors = rng.normal(size=(20, 6))
    found = books.codes(vectors)
    for row, vector in enumerate(vectors):
        turned = np.array([sum(rotation[i, j] * vector[j] for j in range(6)) for i in range(6)]) - books.mean
        for code in range(3):
            part = turned[2 * code : 2 * code + 2]
            far = [float(((part - centre) ** 2).sum()) for centre in books.centres[code]]
            assert found[row, code] == far.index(min(far))


@pytest.mark.parametrize("items", [8, 40])  # fewer than the 12 numbers of a vector, and more
def test_a_fitted_rotation_is_one_and_loses_no_more_than_none(items: int) -> None:
    rng = np.random.default_rng(0)
    # All that there is lies in few directions, which an even rotation shares among the codes.
    vectors = (rng.normal(size=(items, 3)) @ rng.normal(size=(3, 12))).astype(np.float32)
    books = fit_opq(vectors, 3, 2)
    np.testing.assert_allclose(books.rotation @ books.rotation.T, np.eye(12), atol=1e-4)
    parts = (vectors @ books.rotation.T - books.mean).reshape(items, 3, 4)
    codes = books.codes(vectors)
    lost = sum(((parts[:, m] - books.centres[m][codes[:, m]]) ** 2).sum() for m in range(3))
    assert lost < ((vectors - vectors.mean(0)) ** 2).sum() / 2
    # Each centre is the mean of the parts that it stands for: k-means has come to rest, or nearly.
    for m, k in itertools.product(range(3), range(4)):
        chosen = parts[codes[:, m] == k, m]
        if len(chosen):
            assert np.abs(chosen.mean(0) - books.centres[m, k]).max() < np.abs(parts[:, m]).max() / 2


def test_equal_texts_have_equal_codes_and_bad_sizes_are_named() -> None:
    vectors = np.random.default_rng(0).normal(size=(10, 12)).astype(np.float32)
    vectors[7] = vectors[2]
    codes = fit_opq(vectors, 3, 2).codes(vectors)
    assert codes[7].tolist() == codes[2].tolist()
    with pytest.raises(ValueError, match=r"vqrec\.codes is 5, which does not divide the 12"):
        fit_opq(vectors, 5, 2)
    with pytest.raises(ValueError, match=r"vqrec\.bits is 4.*only 10 items; set it to 3"):
        fit_opq(vectors, 3, 4)


def test_without_faiss_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"genrec-lab\[baselines\]"):
        fit_opq(np.zeros((10, 12), dtype=np.float32), 3, 2)


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


# --- FDSA


def test_features_are_weighted_by_attention_over_what_an_item_has() -> None:
    torch.manual_seed(0)
    model = shaken(FDSA(domain_of(), FDSAConfig(**_SIZES, least_items=1)))
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
    model = shaken(FDSA(domain_of(), FDSAConfig(**_SIZES, least_items=1)))
    places = [2, 3, 7]
    with torch.no_grad():
        ids = model.item_encoder(model.embedding.weight[places][None])[0, -1]
        features = model.feature_encoder(model.item_features()[places][None])[0, -1]
        joined = model.norm(model.join(torch.cat([ids, features])))
        expected = (model.embedding.weight @ joined).log_softmax(-1).numpy()
    np.testing.assert_allclose(model.score([ITEMS[places].tolist()])[0], expected, atol=1e-4)


def test_fdsa_with_text_alone_needs_no_attribute() -> None:
    bare = DomainItems(ITEMS, text=domain_of().text, words=domain_of().words.select("item", "title"))
    model = FDSA(bare, FDSAConfig(**_SIZES, features="text"))
    torch.testing.assert_close(model.item_features(), model.adapter(model.text))


# --- S3-Rec


def s3rec(**changes: Any) -> S3Rec:
    torch.manual_seed(0)
    return shaken(S3Rec(domain_of(), S3RecConfig(**_SIZES, least_items=1, **changes)))


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
