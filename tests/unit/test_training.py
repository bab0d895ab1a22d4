"""The training loop: it learns, repeats itself, stops in time, and goes on where it was killed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genrec_lab.training import (
    Callback,
    EpochRecord,
    PrintEpochs,
    TrainingConfig,
    TrainingResult,
    autocast,
    bf16_is_native,
    devices,
    fit,
)
from genrec_lab.training.config import make_optimizers, rate_factor
from genrec_lab.training.muon import Muon

PLAIN = TrainingConfig(epochs=5, learning_rate=0.01, schedule="constant", warmup=0.0, precision="fp32")


# --- learning


def test_it_learns_a_line(toy: SimpleNamespace) -> None:
    model, data = toy.Regression(), toy.Line(200)
    config = TrainingConfig(epochs=60, batch_size=16, learning_rate=0.02)
    result = fit(model, data, config, validate=toy.error_of(model, data))
    losses = [record.loss for record in result.history]
    assert losses[0] > 1.0
    assert -result.best_value < 0.01
    assert [record.epoch for record in result.history] == list(range(1, 61))
    assert not result.stopped_early
    assert not model.training


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(toy: SimpleNamespace) -> None:
    models = [toy.Regression(), toy.Regression(), toy.Regression()]
    results = [
        fit(model, toy.Line(), PLAIN, seed=seed) for model, seed in zip(models, (1, 1, 2), strict=True)
    ]
    assert toy.numbers(results[0]) == toy.numbers(results[1])
    assert toy.same_weights(models[0], models[1])
    assert toy.numbers(results[0]) != toy.numbers(results[2])


def test_grouped_tensors_are_the_same_batch(toy: SimpleNamespace) -> None:
    class Grouped(toy.Regression):
        def forward(self, sample: dict[str, Tensor]) -> Tensor:
            return super().forward(**sample)

    class GroupedLine(toy.Line):
        def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, dict[str, Tensor]]]:
            for batch in super().__call__(epoch, seed):
                yield {"sample": batch}

    grouped = fit(Grouped(), GroupedLine(37), PLAIN)
    assert toy.numbers(grouped) == toy.numbers(fit(toy.Regression(), toy.Line(37), PLAIN))


def test_the_loss_of_an_epoch_is_the_mean_over_samples(toy: SimpleNamespace) -> None:
    """Of 16, 16 and 5 samples, with a learning rate that moves nothing; a mean over batches would differ."""
    model, data = toy.Regression(), toy.Line(37)
    model.dropout.p = 0.0
    result = fit(model, data, PLAIN.model_copy(update={"epochs": 1, "learning_rate": 1e-12}))
    with torch.no_grad():
        assert result.history[0].loss == pytest.approx(model(data.x, data.y).item(), rel=1e-5)


def test_only_matrices_decay(toy: SimpleNamespace) -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return 0.0 * sum(p.sum() for p in self.parameters())

    model = Still()
    matrix, vector = model.layer.weight.detach().clone(), model.layer.bias.detach().clone()
    fit(
        model, toy.Line(16), PLAIN.model_copy(update={"epochs": 3, "learning_rate": 0.1, "weight_decay": 0.5})
    )
    torch.testing.assert_close(model.layer.weight.detach(), matrix * (1 - 0.1 * 0.5) ** 3)
    assert torch.equal(model.layer.bias.detach(), vector)


def test_gradients_are_clipped(toy: SimpleNamespace) -> None:
    """Clipped to nothing, Adam's epsilon dominates; unclipped, its first step is the whole rate."""
    moved = {}
    for norm in (1e-12, None):
        model = toy.Regression()
        before = model.up.weight.detach().clone()
        config = PLAIN.model_copy(update={"epochs": 1, "clip_norm": norm, "weight_decay": 0.0})
        fit(model, toy.Line(16), config)
        moved[norm] = (model.up.weight.detach() - before).abs().max().item()
    assert moved[None] == pytest.approx(0.01, rel=1e-3)
    assert moved[1e-12] < 1e-5


def test_muon_turns_the_step_of_a_linear_layer_into_an_orthogonal_one(toy: SimpleNamespace) -> None:
    """Every direction moves alike, by 0.2 * sqrt(longer side) of the rate; biases step as with AdamW."""
    model = toy.Regression()
    weight, bias = model.up.weight.detach().clone(), model.up.bias.detach().clone()
    config = PLAIN.model_copy(update={"epochs": 1, "optimizer": "muon", "weight_decay": 0.0})
    fit(model, toy.Line(16), config)
    step = torch.linalg.svdvals(model.up.weight.detach() - weight) / (0.01 * 0.2 * math.sqrt(32))
    assert step.shape == (3,)
    assert (step > 0.6).all()  # Muon's five Newton-Schulz steps leave singular values between 0.7 and 1.2
    assert (step < 1.3).all()
    torch.testing.assert_close(
        (model.up.bias.detach() - bias).abs(), torch.full((32,), 0.01), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    "is_native, is_shared, tolerance",
    [
        (True, False, (0, 0)),
        (False, False, (1e-5, 1e-7)),
        (False, True, (1e-5, 1e-7)),
        (True, True, (0, 1e-4)),
    ],
)
def test_muon_is_torchs_in_one_product_a_shape_on_a_gpu_and_in_float32_where_bf16_is_emulated(
    is_native: bool, is_shared: bool, tolerance: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU with bf16 it is torch's to the bit; without, torch's with every product in float32.

    In bf16 a shared product rounds otherwise: three steps of about .004 differ by at most 2 % of one.
    """
    monkeypatch.setattr("genrec_lab.training.muon.bf16_is_native", lambda where: is_native)
    monkeypatch.setattr("genrec_lab.training.muon.shares_products", lambda where: is_shared)
    if not is_native:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((6, 3), (3, 6), (4, 4), (6, 3))]
    ours, theirs = ([nn.Parameter(matrix.clone()) for matrix in start] for _ in range(2))
    steps = (
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for step in steps:
            step.step()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        assert not torch.equal(mine, before)
        torch.testing.assert_close(mine, other, rtol=tolerance[0], atol=tolerance[1])


def test_embeddings_are_not_muons() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(5, 4), "layer": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    muon, adamw = make_optimizers(model, PLAIN.model_copy(update={"optimizer": "muon"}))
    assert [p.shape for group in muon.param_groups for p in group["params"]] == [(4, 4)]
    assert [len(group["params"]) for group in adamw.param_groups] == [1, 3]
    assert [group["weight_decay"] for group in adamw.param_groups] == [PLAIN.weight_decay, 0.0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_parameters_stay(toy: SimpleNamespace, optimizer: str) -> None:
    model = toy.Regression()
    model.up.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(model, toy.Line(), PLAIN.model_copy(update={"optimizer": optimizer}))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"down.weight", "down.bias"}


def test_a_model_with_nothing_to_train_is_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        fit(toy.Regression().requires_grad_(False), toy.Line(), PLAIN)


# --- learning rate


@pytest.mark.parametrize(
    "schedule, warmup, expected",
    [
        ("constant", 0.0, [1.0] * 8),
        # 0.5 * 8 = 4 steps of warm-up: 1/5, 2/5, 3/5, 4/5, then cosine from 1 over the last 4 steps.
        ("constant", 0.5, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]),
        ("cosine", 0.5, [0.2, 0.4, 0.6, 0.8, 1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]),
        ("cosine", 0.0, [0.5 + 0.5 * math.cos(math.pi * step / 8) for step in range(8)]),
        # TIGER 4: constant for the first steps, then falling as 1 / sqrt(step).
        ("inverse_sqrt", 0.5, [1, 1, 1, 1, 1, math.sqrt(4 / 5), math.sqrt(4 / 6), math.sqrt(4 / 7)]),
        ("inverse_sqrt", 0.0, [1, 1, *(step**-0.5 for step in range(2, 8))]),
    ],
)
def test_the_schedule_by_hand(schedule: str, warmup: float, expected: list[float]) -> None:
    config = TrainingConfig(schedule=schedule, warmup=warmup)
    assert [rate_factor(step, 8, config) for step in range(8)] == pytest.approx(expected)


def test_the_rate_at_the_end_of_each_epoch_follows_the_schedule(toy: SimpleNamespace) -> None:
    config = TrainingConfig(epochs=3, learning_rate=0.5, schedule="cosine", warmup=0.0)
    result = fit(toy.Regression(), toy.Line(), config)  # 4 steps an epoch
    expected = [0.25 * (1 + math.cos(math.pi * step / 12)) for step in (4, 8, 12)]
    assert [record.learning_rate for record in result.history] == pytest.approx(expected)


def test_small_data_go_through_more_epochs(toy: SimpleNamespace) -> None:
    config = PLAIN.model_copy(update={"epochs": 2, "least_steps": 10})
    assert len(fit(toy.Regression(), toy.Line(), config).history) == 3  # 4 steps an epoch
    assert len(fit(toy.Regression(), toy.Line(400), config).history) == 2


# --- validation


def test_the_weights_of_the_best_validation_are_kept(toy: SimpleNamespace) -> None:
    model, seen = toy.Regression(), []
    result = fit(model, toy.Line(), PLAIN, validate=toy.scripted([0.1, 0.3, 0.2, 0.3, 0.25], seen, model))
    assert (result.best_epoch, result.best_value) == (2, 0.3)  # at equal values the earlier one
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in model.state_dict().items())
    assert not all(torch.equal(tensor, seen[4][name]) for name, tensor in model.state_dict().items())
    assert result.history[3].metrics == {"ndcg@10": 0.3, "recall@10": 0.5}


def test_without_validation_the_last_weights_are_kept(toy: SimpleNamespace) -> None:
    result = fit(toy.Regression(), toy.Line(), PLAIN)
    assert (result.best_epoch, result.best_value) == (5, None)


def test_patience_counts_validations_without_a_better_one(toy: SimpleNamespace) -> None:
    model, seen = toy.Regression(), []
    config = PLAIN.model_copy(update={"epochs": 20, "patience": 2})
    result = fit(model, toy.Line(), config, validate=toy.scripted([0.1, 0.3, 0.2, 0.3, 0.9], seen, model))
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]
    assert result.stopped_early
    assert result.best_epoch == 2


@pytest.mark.parametrize(
    "settings, validated",
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"validate_every": 2}, [2, 4, 5]),  # the last one always
        ({"validate_every": 3, "validate_from": 4}, [5]),
        ({"validate_from": 0, "validate_every": 2}, [0, 2, 4, 5]),
        ({"validate_from": 4}, [4, 5]),
    ],
)
def test_when_it_looks(toy: SimpleNamespace, settings: dict[str, int], validated: list[int]) -> None:
    model = toy.Regression()
    config = PLAIN.model_copy(update=settings)
    result = fit(model, toy.Line(), config, validate=toy.scripted([0.1] * 9, [], model))
    assert [record.epoch for record in result.history if record.metrics] == validated


def test_looking_before_training_keeps_the_start_where_nothing_beats_it(toy: SimpleNamespace) -> None:
    model, seen = toy.Regression(), []
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = PLAIN.model_copy(update={"validate_from": 0, "patience": 3})
    result = fit(model, toy.Line(), config, validate=toy.scripted([0.5, 0.4, 0.3, 0.2], seen, model))
    assert (result.best_epoch, result.best_value, result.stopped_early) == (0, 0.5, True)
    assert math.isnan(result.history[0].loss)
    assert all(torch.equal(tensor, start[name]) for name, tensor in model.state_dict().items())


def test_no_epochs_leave_the_model_as_it_is(toy: SimpleNamespace) -> None:
    model, before = toy.Regression(), toy.Regression()
    result = fit(model, toy.Line(), PLAIN.model_copy(update={"epochs": 0}))
    assert result.history == ()
    assert toy.same_weights(model, before)


def test_an_unknown_monitor_is_refused(toy: SimpleNamespace) -> None:
    model = toy.Regression()
    config = PLAIN.model_copy(update={"monitor": "ndgc@10"})
    with pytest.raises(KeyError, match=r"monitor is 'ndgc@10'; expected one of \['ndcg@10', 'recall"):
        fit(model, toy.Line(), config, validate=toy.scripted([0.1], [], model))


# --- losses that are no numbers


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_advice(toy: SimpleNamespace, value: float) -> None:
    data = toy.Line()
    data.y[:] = value
    with pytest.raises(FloatingPointError, match=r"at step 0 of epoch 1: lower .*learning_rate \(now 0.01"):
        fit(toy.Regression(), data, PLAIN)


def test_a_diverged_epoch_leaves_the_checkpoint_before_it(toy: SimpleNamespace, tmp_path: Path) -> None:
    class Diverging(toy.Line):
        def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
            for batch in super().__call__(epoch, seed):
                yield {"x": batch["x"], "y": batch["y"] * (math.nan if epoch == 2 else 1.0)}

    with pytest.raises(FloatingPointError, match="of epoch 3"):
        fit(toy.Regression(), Diverging(), PLAIN, checkpoints=tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["epoch-2"]


# --- callbacks


def test_callbacks_hear_of_every_epoch_and_of_the_end(toy: SimpleNamespace) -> None:
    heard: list[object] = []

    class Listen(Callback):
        def on_epoch(self, record: EpochRecord, epochs: int) -> None:
            heard.append((record.epoch, epochs))

        def on_end(self, result: TrainingResult) -> None:
            heard.append(result)

    result = fit(toy.Regression(), toy.Line(), PLAIN, callbacks=[Listen(), Callback()])
    assert heard == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5), result]


def test_steps_are_told_at_most_twice_a_second(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0, 1e6, 0.3).tolist())  # every look at the clock is 0.3 s after the last
    monkeypatch.setattr("genrec_lab.training.loop.time.monotonic", lambda: next(clock))
    told: list[tuple[int, int]] = []

    class Listen(Callback):
        def on_step(self, step: int, steps: int, loss: float) -> None:
            assert loss > 0
            told.append((step, steps))

    fit(toy.Regression(), toy.Line(160), PLAIN.model_copy(update={"epochs": 2}), callbacks=[Listen()])
    assert 0 < len(told) < 20
    assert all(steps == 20 for _, steps in told)
    assert [step for step, _ in told] == sorted({step for step, _ in told})


def test_printed_epochs(toy: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    model = toy.Regression()
    config = PLAIN.model_copy(update={"validate_every": 3})
    fit(
        model,
        toy.Line(),
        config,
        validate=toy.scripted([0.25, 0.5], [], model),
        callbacks=[PrintEpochs("toy", every=2)],
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"toy epoch {n}/5" for n in (2, 3, 4, 5)]
    assert lines[1].endswith("ndcg@10 0.2500  recall@10 0.5000")


# --- precision


@pytest.mark.parametrize(
    "setting, native, expected",
    [
        ("fp32", True, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_the_precision_of_products(
    setting: str, native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "bf16_is_native", lambda device: native)
    with autocast(torch.device("cpu"), setting):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_no_other_device_claims_bf16() -> None:
    assert bf16_is_native(torch.device("meta")) is False


def test_weights_stay_fp32_in_bf16_training(toy: SimpleNamespace) -> None:
    model, data = toy.Regression(), toy.Line(200)
    config = TrainingConfig(epochs=40, learning_rate=0.02, precision="bf16")
    result = fit(model, data, config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert result.history[-1].loss < 0.1 * result.history[0].loss
