"""Attention under a band against transformers' own of a Longformer with the same weights."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LongformerConfig, LongformerModel

from genrec_lab.models.sequential import longformer
from genrec_lab.models.sequential.longformer import banded_attention, for_short_texts

WINDOW, TEXTS, TOKENS = 8, 5, 32


@pytest.fixture
def theirs() -> LongformerModel:
    torch.manual_seed(0)
    sizes = LongformerConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        attention_window=[WINDOW, 2 * WINDOW],
        max_position_embeddings=TOKENS + WINDOW + 1,
        initializer_range=0.3,  # so that scores differ
        pad_token_id=0,
    )
    return LongformerModel(sizes, add_pooling_layer=False).eval()


def batch() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 50, (TEXTS, TOKENS), generator=rng)
    lengths = torch.tensor([TOKENS, 20, 9, 1, 31])
    real = (torch.arange(TOKENS) < lengths[:, None]).long()
    first = torch.zeros_like(ids)
    first[:, 0] = 1
    return {"input_ids": ids * real, "attention_mask": real, "global_attention_mask": first}


def test_states_are_those_of_transformers(theirs: LongformerModel) -> None:
    ours, given = for_short_texts(copy.deepcopy(theirs)), batch()
    assert all(isinstance(layer.attention.self, banded_attention()) for layer in ours.encoder.layer)
    expected, read = theirs(**given).last_hidden_state, ours(**given).last_hidden_state
    real = given["attention_mask"].bool()
    torch.testing.assert_close(read[real], expected[real], atol=2e-5, rtol=1e-4)


def test_gradients_are_those_of_transformers(theirs: LongformerModel) -> None:
    ours, given = for_short_texts(copy.deepcopy(theirs)), batch()
    real = given["attention_mask"].bool()
    for model in (theirs, ours):
        model(**given).last_hidden_state[real].pow(3).sum().backward()
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if mine.grad is not None:
            assert torch.allclose(mine.grad, other.grad, atol=1e-3, rtol=1e-3), name


def test_longer_texts_go_the_old_way(theirs: LongformerModel, monkeypatch) -> None:
    ours, given = for_short_texts(copy.deepcopy(theirs)), batch()
    monkeypatch.setattr(longformer, "_LONGEST", TOKENS - 1)
    monkeypatch.setattr(banded_attention(), "_attend", None)  # it would fail here
    torch.testing.assert_close(ours(**given).last_hidden_state, theirs(**given).last_hidden_state)


def test_dropout_is_in_training_only(theirs: LongformerModel) -> None:
    ours, given = for_short_texts(copy.deepcopy(theirs)), batch()
    assert torch.equal(ours(**given).last_hidden_state, ours(**given).last_hidden_state)
    ours.train()
    assert not torch.equal(ours(**given).last_hidden_state, ours(**given).last_hidden_state)
