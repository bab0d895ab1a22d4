"""Counting operations: against hand-worked products and the T5's dimensions; a count changes no training."""

from __future__ import annotations

from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch import nn

from benchmarks.training import training_operations
from genrec_lab.data.batches import PairBatches
from genrec_lab.models.tokenizers.rqvae import RQVAE, RQVAEConfig
from genrec_lab.training import TrainingConfig, fit, operations
from genrec_lab.training.operations import StepMeter, product_rate
from tests.unit.small_recommender import recommender, some_pairs

CPU = torch.device("cpu")


def test_a_linear_layer_has_six_operations_a_weight_and_sample() -> None:
    layer, x = nn.Linear(5, 7), torch.randn(11, 5, requires_grad=True)
    meter = StepMeter(CPU, torch.float32)
    assert meter.operations_per_sample is None
    assert meter.mfu(100.0) is None
    with meter.step(11):
        layer(x).sum().backward()
    assert meter.operations_per_sample == 6 * 5 * 7


def test_only_the_first_steps_are_counted() -> None:
    layer, meter = nn.Linear(5, 7), StepMeter(CPU, torch.float32)
    for rows in (1, 1, 1, 1, 100):
        with meter.step(1):
            layer(torch.randn(rows, 5)).sum().backward()
    # the input needs no gradient
    assert meter.operations_per_sample == 4 * 5 * 7


def test_mfu_is_the_share_of_the_rate_of_a_product() -> None:
    meter = StepMeter(CPU, torch.float32)
    with meter.step(10):
        _ = torch.randn(10, 50) @ torch.randn(50, 100)
    with mock.patch.object(operations, "matrix_rate", return_value=1e6):
        assert meter.mfu(20.0) == pytest.approx(2 * 50 * 100 * 20 / 1e6)


def test_the_count_of_a_t5_is_that_of_its_dimensions() -> None:
    model, pairs = recommender(), some_pairs()
    meter = StepMeter(CPU, torch.float32)
    (batch,) = PairBatches(pairs, 64)(0, 0)
    with meter.step(len(pairs)):
        model.pair_loss(**batch).backward()
    assert meter.operations_per_sample is not None
    counted = meter.operations_per_sample * len(pairs)
    assert counted == pytest.approx(training_operations(model, pairs), rel=0.02)


def test_counting_changes_no_training() -> None:
    model, pairs = recommender(), some_pairs()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = TrainingConfig(epochs=2, batch_size=16, precision="bf16")
    counted = fit(model, PairBatches(pairs, 16), config)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(start)
    with mock.patch.object(StepMeter, "step", return_value=nullcontext()):
        plain = fit(model, PairBatches(pairs, 16), config)
    assert [epoch.loss for epoch in counted.history] == [epoch.loss for epoch in plain.history]
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert all(epoch.mfu is None for epoch in plain.history)
    assert all(epoch.mfu is not None and 0 < epoch.mfu < 1.5 for epoch in counted.history)


def test_a_tokenizer_tells_its_speed() -> None:
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)).numpy()
    records = []
    config = RQVAEConfig(hidden=(16,), dimension=4, levels=2, codebook_size=4, epochs=3, batch_size=32)
    RQVAE(config).fit(x, on_epoch=records.append)
    for record in records:
        assert record["items_per_second"] > 0
        assert 0 < record["mfu"] < 1.5


def test_speed_is_counted_in_multiplications_and_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 1.0, 3.0, 4.0, 5.0, 6.0, 8.0])  # the first, slow one warms up
    monkeypatch.setattr(operations.time, "perf_counter", lambda: next(clock))
    assert product_rate("cpu", torch.float32, 64) == pytest.approx(2 * 64**3 / 1.0)
