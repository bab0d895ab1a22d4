"""Finite scalar quantisation against the paper's formula, and codes that are vectors and back."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from genrec_lab.models.tokenizers.finite_scalar import FiniteScalar, FiniteScalarConfig, FiniteScalarNetwork

SMALL = {"hidden": (16,), "levels": 2, "steps": (4, 3), "epochs": 15, "batch_size": 32, "report_every": 5}


def quantised_twin(z: float, steps: int) -> tuple[int, float]:
    """The step and the number in -1..1 of one latent number, by the paper's appendix A.1, in float64."""
    half = (steps - 1) * (1 + 1e-3) / 2
    offset = 0.5 if steps % 2 == 0 else 0.0
    bounded = math.tanh(z + math.atanh(offset / half)) * half - offset
    return round(bounded) + steps // 2, round(bounded) / (steps // 2)


def catalogue(items: int = 96, dimensions: int = 10) -> np.ndarray:
    generator = np.random.default_rng(0)
    kinds = generator.normal(size=(6, dimensions))[np.arange(items) % 6]
    return (kinds + 0.2 * generator.normal(size=kinds.shape)).astype(np.float32)


def model_of(*steps: int, levels: int = 1) -> FiniteScalarNetwork:
    return FiniteScalarNetwork(4, FiniteScalarConfig(hidden=(8,), steps=steps, levels=levels))


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    levels=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_codes_and_numbers_are_those_of_the_paper(steps: list[int], levels: int, seed: int) -> None:
    model = model_of(*steps, levels=levels)
    latent = np.random.default_rng(seed).normal(scale=2, size=(5, levels * len(steps)))
    codes, _, rounded = model.quantize(torch.tensor(latent, dtype=torch.float32))
    for item, level in product(range(5), range(levels)):
        expected, place = 0, 1
        for number, count in enumerate(steps):
            step, value = quantised_twin(latent[item, level * len(steps) + number], count)
            assert 0 <= step < count
            assert float(rounded[item, level, number]) == pytest.approx(value, abs=1e-6)
            expected, place = expected + step * place, place * count
        assert int(codes[item, level]) == expected < model.config.codebook_size


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 8), min_size=1, max_size=4))
def test_every_code_is_a_vector_of_its_own_and_back(steps: list[int]) -> None:
    model = model_of(*steps)
    codes = torch.arange(math.prod(steps))
    vectors = model.from_codes(codes)
    assert torch.equal(model.to_codes(vectors), codes)
    assert len(torch.unique(vectors, dim=0)) == len(codes)
    assert vectors.abs().max() <= 1
    np.testing.assert_array_equal(model.codebooks[0], vectors.numpy())


def test_a_code_is_the_nearest_codeword_of_what_its_level_quantises() -> None:
    """Conflict policies and the atlas measure distances in this space."""
    model = model_of(8, 6, 5, levels=2)
    codes, bounded, _ = model.quantize(3 * torch.randn(60, 6, generator=torch.Generator().manual_seed(1)))
    for level, book in enumerate(torch.from_numpy(model.codebooks)):
        # A step of each number counts as that number is scaled, so that rounding is the nearest grid point.
        assert torch.equal(torch.cdist(bounded[:, level], book).argmin(dim=1), codes[:, level])


def test_the_rounding_passes_its_gradient_straight_through() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    model = model_of(5, 5)
    step = model(x, torch.zeros(6, dtype=torch.long))
    step.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.encoder.parameters())
    assert step.loss.item() == pytest.approx(
        torch.mean((x - model.decoder(step.quantized.vectors)) ** 2).item(), rel=1e-6
    )


def test_it_learns_to_restore_items_and_reports_its_epochs() -> None:
    x, reports = catalogue(), []
    config = FiniteScalarConfig(**SMALL | {"epochs": 150, "learning_rate": 3e-3})
    model = FiniteScalar(config).fit(x, on_epoch=reports.append)
    assert [report["epoch"] for report in reports[:3]] == [1, 5, 10]
    assert reports[-1]["loss"] < 0.5 * reports[0]["loss"]
    codes = model.tokenize(x).codes
    assert codes.shape == (96, 2) and len(np.unique(codes, axis=0)) >= 6
    assert reports[-1]["utilisation"] == [len(np.unique(column)) / 12 for column in codes.T]


def test_a_killed_training_goes_on_and_a_saved_one_is_read_back(tmp_path: Path) -> None:
    x = catalogue()
    unbroken = FiniteScalar(FiniteScalarConfig(**SMALL)).fit(x, seed=3)
    FiniteScalar(FiniteScalarConfig(**SMALL | {"epochs": 4})).fit(x, seed=3, checkpoint=tmp_path)
    resumed = FiniteScalar(FiniteScalarConfig(**SMALL)).fit(x, seed=3, checkpoint=tmp_path)
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    unbroken.save(tmp_path / "saved")
    again = FiniteScalar.load(tmp_path / "saved")
    for one, other in zip(again.tokenize(x), unbroken.tokenize(x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_catalogue_smaller_than_its_codes_is_named_all_the_same() -> None:
    x = catalogue(5)
    config = FiniteScalarConfig(**SMALL | {"steps": (8, 8, 8), "epochs": 2})
    assert FiniteScalar(config).fit(x).encode(x).max() < 512


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        FiniteScalarConfig(steps=(8, 1))
    with pytest.raises(ValidationError, match="at least 1 item"):
        FiniteScalarConfig(steps=())
    broken = catalogue()
    broken[2] = np.inf
    with pytest.raises(ValueError, match="first for item 2"):
        FiniteScalar(FiniteScalarConfig(**SMALL)).fit(broken)
