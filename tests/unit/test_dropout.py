"""Dropout from a pool of masks: it must be dropout, in rate, scale and independence of calls."""

from __future__ import annotations

import functools

import pytest
import torch
from scipy import stats

from genrec_lab.models import layers
from genrec_lab.models.layers import PooledDropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_so_many_are_zero_and_the_others_are_scaled(p: float) -> None:
    torch.manual_seed(0)
    n = 200_000
    dropped = PooledDropout(p)(torch.ones(n))
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)))
    # Two-sided binomial test: a rate that is off by half a percent would fail it.
    assert stats.binomtest(n - len(kept), n, p).pvalue > 1e-4


def test_the_mean_stays() -> None:
    torch.manual_seed(0)
    assert PooledDropout(0.3)(torch.full((500, 500), 2.0)).mean().item() == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_evaluation_is_the_identity(p: float) -> None:
    x = torch.randn(7, 5)
    assert PooledDropout(p).eval()(x) is x


def test_no_rate_is_the_identity_in_training() -> None:
    x = torch.randn(7, 5)
    assert PooledDropout(0.0)(x) is x


def test_a_seed_fixes_the_masks_and_each_call_has_another() -> None:
    layer, x = PooledDropout(0.5), torch.ones(40, 30)
    torch.manual_seed(7)
    first, second = layer(x), layer(x)
    torch.manual_seed(7)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), second)
    assert not torch.equal(first, second)


def test_an_existing_pool_does_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed training, whose process creates a new pool, must draw what the unbroken one draws."""
    layer, x = PooledDropout(0.25), torch.ones(1000)
    layer(x)
    torch.manual_seed(3)
    warm, following = layer(x), torch.rand(1)
    monkeypatch.setattr(layers, "_pool", functools.cache(layers._pool.__wrapped__))
    torch.manual_seed(3)
    assert torch.equal(layer(x), warm)
    assert torch.equal(torch.rand(1), following)


def test_gradients_flow_through_the_kept_ones_only() -> None:
    torch.manual_seed(0)
    x = torch.randn(300, requires_grad=True)
    dropped = PooledDropout(0.5)(x)
    dropped.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(dropped == 0, 0.0, 2.0))


def test_a_tensor_larger_than_a_slice_is_dropped_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_POOL_SIZE", 1 << 12)
    monkeypatch.setattr(layers, "_LARGEST_SLICE", 1 << 11)
    monkeypatch.setattr(layers, "_pool", functools.cache(layers._pool.__wrapped__))
    torch.manual_seed(0)
    x = torch.ones(5, 3, 1000)  # 15,000 elements: seven whole slices and a part
    dropped = PooledDropout(0.3)(x)
    assert dropped.shape == x.shape
    rates = (dropped == 0).float().flatten().split(1 << 11)
    assert len(rates) == 8
    assert all(0.2 < rate.mean() < 0.4 for rate in rates)
    assert not torch.equal(rates[0], rates[1])


def test_the_real_pool_serves_a_tensor_larger_than_its_half() -> None:
    torch.manual_seed(0)
    size = layers._LARGEST_SLICE + 1000
    assert (PooledDropout(0.1)(torch.ones(size)) == 0).float().mean().item() == pytest.approx(0.1, abs=0.002)


def test_a_pool_first_made_in_inference_mode_can_be_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_pool", functools.cache(layers._pool.__wrapped__))
    layer = PooledDropout(0.2)
    with torch.inference_mode():
        layer(torch.ones(10))
    x = torch.ones(10, requires_grad=True)
    (layer(x) ** 2).sum().backward()
    assert x.grad is not None


def test_half_precision_stays_half_precision() -> None:
    dropped = PooledDropout(0.5)(torch.ones(1000, dtype=torch.bfloat16))
    assert dropped.dtype == torch.bfloat16
    assert set(dropped.tolist()) == {0.0, 2.0}


def test_nothing_comes_of_nothing() -> None:
    assert PooledDropout(0.5)(torch.ones(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_an_impossible_rate_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"dropout is .*at least 0 and below 1"):
        PooledDropout(p)
