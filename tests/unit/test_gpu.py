"""The program for a GPU: its checks on the fake device everywhere, all of them where there is a real one."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from genrec_lab.training import operations
from tests.fake_device import NAME, fake_device


def test_without_a_gpu_it_says_so_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu.run([]) == 0
    assert "No CUDA device was found" in capsys.readouterr().out


@pytest.mark.slow
def test_its_checks_hold_on_a_device_that_computes_as_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "matrix_rate", lambda *_: 1e12)  # which takes minutes there
    with fake_device():
        found = list(gpu.checks(torch.device(NAME, 0)))
    assert len(found) == 10
    assert [check.what for check in found if not check.passed] == []


def test_a_result_that_differs_does_not_pass() -> None:
    model = gpu.recommender("T5", 300, **gpu.SMALL)
    ranked = model.recommend([[1, 2]], 10)
    (check,) = gpu.equal("search", gpu.Ranked(ranked.items, ranked.scores + 0.01), ranked)
    assert not check.passed
    (check,) = gpu.equal("search", gpu.Ranked(ranked.items + 1, ranked.scores), ranked)
    assert not check.passed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_results_on_a_gpu_are_those_of_the_cpu() -> None:
    where = torch.device("cuda", 0)
    found = [*gpu.checks(where), *gpu.without_waiting(where)]
    assert [check.what for check in found if not check.passed] == []
