"""The diffusion loss (UTGRec Eq. 9): float64 twins of noising and network, a toy problem, empty batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from genrec_lab.models.tokenizers.diffusion import AdaptiveMLP, DiffusionConfig, DiffusionLoss

TINY = DiffusionConfig(width=12, depth=2, steps=50, sampling_steps=10, repeats=3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def awake(model: torch.nn.Module, seed: int = 7) -> None:
    """Give random values to all weights, also to those that start at zero."""
    draw = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=draw)


def kept_share(steps: int) -> np.ndarray:
    """Of Nichol and Dhariwal's cosine schedule: the share of the signal's power left after each step."""

    def level(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    left, shares = 1.0, []
    for step in range(steps):
        left *= 1 - min(1 - level((step + 1) / steps) / level(step / steps), 0.999)
        shares.append(left)
    return np.array(shares)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def normalised(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)


def network_twin(
    weights: dict[str, np.ndarray], noisy: np.ndarray, steps: np.ndarray, condition: np.ndarray, depth: int
) -> np.ndarray:
    """MAR's per-token network from its description, in float64."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    frequencies = 10_000.0 ** (-np.arange(128) / 128)
    angles = steps[:, None] * frequencies
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    about = linear("step_outer", silu(linear("step_inner", waves))) + linear("condition", condition)
    x = linear("token", noisy)
    for number in range(depth):
        name = f"blocks.{number}"
        shift, scale, gate = np.split(linear(f"{name}.modulation", silu(about)), 3, axis=1)
        hidden = normalised(x) * weights[f"{name}.norm.weight"] + weights[f"{name}.norm.bias"]
        hidden = hidden * (1 + scale) + shift
        x = x + gate * linear(f"{name}.outer", silu(linear(f"{name}.inner", hidden)))
    shift, scale = np.split(linear("modulation", silu(about)), 2, axis=1)
    return linear("output", normalised(x) * (1 + scale) + shift)


def numpy_weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


def test_the_network_against_its_float64_twin() -> None:
    network = AdaptiveMLP(5, 4, TINY)
    awake(network)
    noisy, condition, steps = drawn(9, 5), drawn(9, 4, seed=1), torch.arange(0, 45, 5)
    twin = network_twin(
        numpy_weights(network), noisy.double().numpy(), steps.numpy(), condition.double().numpy(), 2
    )
    np.testing.assert_allclose(network(noisy, steps, condition).detach(), twin, rtol=2e-4, atol=2e-4)


def test_the_loss_against_its_float64_twin() -> None:
    """Eq. 9: every token `repeats` times, noised by the cosine schedule, squared error of the noise."""
    model = DiffusionLoss(5, 4, TINY)
    awake(model)
    condition, target = drawn(6, 4), drawn(6, 5, seed=1)
    loss = model(condition, target, generator(3))
    draw = generator(3)
    noise = torch.randn(18, 5, generator=draw).double().numpy()
    steps = torch.randint(50, (18,), generator=draw).numpy()
    x, c = (np.concatenate([tensor.double().numpy()] * 3) for tensor in (target, condition))
    kept = kept_share(50)[steps][:, None]
    noisy = np.sqrt(kept) * x + np.sqrt(1 - kept) * noise
    found = network_twin(numpy_weights(model.network), noisy, steps, c, 2)
    assert loss.item() == pytest.approx(((found - noise) ** 2).mean(), rel=1e-4)


def test_at_first_the_answer_is_zero_so_the_loss_is_the_power_of_the_noise() -> None:
    model = DiffusionLoss(5, 4, TINY, generator())
    assert torch.equal(model.network(drawn(3, 5), torch.arange(3), drawn(3, 4)), torch.zeros(3, 5))
    assert model(drawn(500, 4), drawn(500, 5), generator()).item() == pytest.approx(1.0, abs=0.05)


def test_no_token_at_all_is_a_zero_that_reaches_every_weight() -> None:
    model = DiffusionLoss(5, 4, TINY)
    condition = torch.zeros(0, 4, requires_grad=True)
    loss = model(condition, torch.zeros(0, 5))
    loss.backward()
    assert loss.item() == 0.0 and condition.grad is not None
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    assert model.largest.item() == 0.0


def test_draws_come_from_the_generator() -> None:
    model = DiffusionLoss(5, 4, TINY)
    awake(model)
    condition, target = drawn(6, 4), drawn(6, 5)
    first, again, other = (model(condition, target, generator(seed)) for seed in (1, 1, 2))
    assert first.item() == again.item() != other.item()
    first, again, other = (model.sample(condition, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(5)
    one = model(condition, target)
    torch.manual_seed(5)
    assert model(condition, target).item() == one.item()


def test_samples_stay_within_the_range_that_was_trained_on() -> None:
    model = DiffusionLoss(5, 4, TINY)
    awake(model)
    model.train()(drawn(6, 4), 0.3 * drawn(6, 5).clamp(-1, 1))
    largest = model.largest.item()
    assert 0 < largest < 0.3001
    model.eval()(drawn(6, 4), 100 * drawn(6, 5))  # evaluation teaches it nothing
    assert model.largest.item() == pytest.approx(largest)
    assert model.sample(drawn(20, 4), generator()).abs().max().item() <= largest + 1e-4


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_conditional_gaussian_is_learnt(sampler: str) -> None:
    """Two conditions, two means and one spread: loss falls, samples have the means and the spread."""
    config = DiffusionConfig(width=32, depth=2, steps=100, sampling_steps=25, sampler=sampler)
    model = DiffusionLoss(2, 1, config, generator())
    means, spread = torch.tensor([[0.6, -0.4], [-0.5, 0.2]]), 0.1
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    draw = generator(1)
    losses = []
    for _ in range(500):
        which = torch.randint(2, (64,), generator=draw)
        target = means[which] + spread * torch.randn(64, 2, generator=draw)
        loss = model(2.0 * which[:, None] - 1, target, draw)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-50:]) < 0.4 * np.mean(losses[:10])
    for which in (0, 1):
        samples = model.sample(torch.full((400, 1), 2.0 * which - 1), draw)
        torch.testing.assert_close(samples.mean(dim=0), means[which], atol=0.05, rtol=0)
        assert 0.05 < samples.std(dim=0).mean().item() < 0.2


def test_impossible_sampling_steps_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"sampling_steps is 60, more than diffusion\.steps = 50"):
        DiffusionConfig(steps=50, sampling_steps=60)


def test_under_autocast_noise_and_loss_stay_float32() -> None:
    model = DiffusionLoss(5, 4, TINY)
    awake(model)
    condition, target = drawn(6, 4), drawn(6, 5)
    plain = model(condition, target, generator(1))
    with torch.autocast("cpu", torch.bfloat16):
        under = model(condition, target, generator(1))
    assert under.dtype == torch.float32
    assert under.item() == pytest.approx(plain.item(), rel=0.05)
