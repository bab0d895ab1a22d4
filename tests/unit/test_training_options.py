"""Options of the loop that change time and memory, and nothing else: recomputed layers, compiling."""

from __future__ import annotations

import copy
from functools import partial
from unittest import mock

import polars as pl
import pytest
import torch

from genrec_lab.data.batches import PairBatches, StretchBatches
from genrec_lab.models import Recommender
from genrec_lab.training import TrainingConfig, TrainingResult, fit
from genrec_lab.training.devices import recomputed_layers
from tests.unit.small_recommender import recommender, some_pairs


def losses(result: TrainingResult) -> list[float]:
    return [epoch.loss for epoch in result.history]


def kept_bytes(model: Recommender, batch: dict[str, torch.Tensor]) -> int:
    """What a forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch)
    # what belongs to the model is there in any case
    total = sum(kept.values())
    loss.backward()
    return total


@pytest.mark.parametrize("reads", ["whole", "past"])
def test_recomputed_layers_train_alike(reads: str) -> None:
    plain = recommender(reads=reads, dropout=0.2)
    recomputed = copy.deepcopy(plain)
    pairs = some_pairs()
    rows = pl.concat_list("history", "target")
    sequences = pairs.select(rows)["history"].to_list()
    batches = PairBatches(pairs, 16) if reads == "whole" else StretchBatches(sequences, 64, 20)
    config = TrainingConfig(epochs=3, batch_size=16, learning_rate=1e-2)
    expected = fit(plain, batches, config)
    result = fit(recomputed, batches, config.model_copy(update={"gradient_checkpointing": True}))
    assert losses(result) == pytest.approx(losses(expected), rel=1e-6)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(recomputed.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_recomputed_layers_keep_less() -> None:
    model = recommender(dropout=0.0, d_ff=512).train()
    (batch,) = PairBatches(some_pairs(), 64)(0, 0)
    whole = kept_bytes(model, batch)
    with recomputed_layers(model):
        assert kept_bytes(model, batch) < 0.5 * whole
    assert kept_bytes(model, batch) == whole


def test_layers_are_themselves_again_after_an_error() -> None:
    model = recommender()
    (batch,) = PairBatches(some_pairs(), 64)(0, 0)
    with mock.patch.object(model, "token_loss", side_effect=KeyError), pytest.raises(KeyError):
        with_recomputed_layers(model, batch)
    assert "forward" not in vars(model.t5.encoder[0])
    model(**batch).backward()


def with_recomputed_layers(model: Recommender, batch: dict[str, torch.Tensor]) -> None:
    with recomputed_layers(model):
        assert "forward" in vars(model.t5.encoder[0])
        model(**batch)


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_compiled_model_trains_alike(recomputed: bool) -> None:
    plain = recommender(dropout=0.0)
    compiled = copy.deepcopy(plain)
    config = TrainingConfig(epochs=2, batch_size=16, precision="fp32")
    expected = fit(plain, PairBatches(some_pairs(), 16), config)
    # Traced as for any backend, but run as it stands: generating C++ takes minutes.
    with mock.patch("torch.compile", wraps=partial(torch.compile, backend="eager")) as called:
        options = {"compile": True, "gradient_checkpointing": recomputed}
        result = fit(compiled, PairBatches(some_pairs(), 16), config.model_copy(update=options))
    layers = [*plain.t5.encoder, *plain.t5.decoder]
    assert called.call_count == config.epochs * len(layers)
    assert not any("forward" in vars(layer) for layer in [*compiled.t5.encoder, *compiled.t5.decoder])
    assert losses(result) == pytest.approx(losses(expected), rel=1e-5)
    assert all(epoch.mfu is None for epoch in result.history)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
