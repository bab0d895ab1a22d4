"""The benchmarks at a size of seconds: they end well, and a fast wrong answer makes them fail."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.measuring import Check, Comparison, Measured, Options, compare, main, table
from genrec_lab.decoding import Ranked
from genrec_lab.viz.explorer import EXPLORER_VIEWS

# Module -> what its peer is imported as; None where it comes with the package.
BENCHMARKS = {
    "decoding": None,
    "growth": None,
    "exact": None,
    "masked_step": None,
    "rqvae": "vector_quantize_pytorch",
    "kmeans": "faiss",
    "preparation": "pandas",
    "training": None,
    "item_models": None,
    "tiger_peers": "cornac",
}


def spoilt(result: Any) -> Any:
    """Another result of the same form."""
    if isinstance(result, Ranked):
        return Ranked(np.roll(result.items, 1, axis=0)[:, ::-1] + 1, result.scores - 1)
    if isinstance(result, np.ndarray):
        return result[::-1]
    if isinstance(result, torch.nn.Module):
        other = copy.deepcopy(result)
        for parameter in other.parameters():
            parameter.data.mul_(3)
        return other
    return result * 2


# Each of these takes fifteen seconds or more, even at its smallest size.
SLOWEST = {"tiger_peers", "rqvae", "exact"}
AT_NIGHT = [pytest.param(name, marks=pytest.mark.nightly if name in SLOWEST else ()) for name in BENCHMARKS]


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_NIGHT)
def test_a_benchmark_runs_and_detects_a_wrong_result(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (peer := BENCHMARKS[name]) is not None:
        pytest.importorskip(peer, reason=f"{peer} is not installed: pip install '.[bench]'")
    module = importlib.import_module(f"benchmarks.{name}")
    threads = torch.get_num_threads()
    detected: dict[str, bool] = {}

    def compare_then_spoil(work: str, runs: Any, agree: Any, options: Options, **given: Any) -> Comparison:
        results: dict[str, Any] = {}

        def noted(latest: dict[str, Any]) -> list[Check]:
            results.update(latest)
            return list(agree(latest))

        comparison = compare(work, runs, noted, options, **given)
        ours = next(iter(runs))
        if isinstance(results[ours], (Ranked, np.ndarray, float, torch.nn.Module)):
            results[ours] = spoilt(results[ours])
            detected[work] = not all(check.passed for check in agree(results))
        return comparison

    monkeypatch.setattr(module, "compare", compare_then_spoil)
    try:
        arguments = ["--small", "--repeats", "1", "--out", str(tmp_path), "--threads", "1"]
        assert main(module.measure, arguments) == 0
    finally:
        torch.set_num_threads(threads)
    written = json.loads((tmp_path / f"{name}_small.json").read_text())
    for row in written["rows"]:
        assert all(check["passed"] for check in row["checks"]) and row["checks"]
        assert all(len(timing["seconds"]) == 1 for timing in row["timings"].values())
    assert detected and all(detected.values()), detected


def test_different_results_exit_with_status_1(tmp_path: Path) -> None:
    def measure(options: Options) -> list[Comparison]:
        different = [Check("equal", False)]
        return [compare("work", {"ours": float}, lambda _: different, options, unit="runs", amount=1)]

    assert main(measure, ["--small", "--out", str(tmp_path), "--threads", str(torch.get_num_threads())]) == 1


def test_entrants_run_in_turns_after_a_warm_up_and_the_ratio_is_of_medians() -> None:
    calls: list[str] = []

    def run(name: str, seconds: list[float]) -> Callable[[], Measured]:
        def once() -> Measured:
            calls.append(name)
            return Measured(0.0, seconds[calls.count(name) - 1], 0.0, 1.0)

        return once

    compared = compare(
        "work",
        {"ours": run("ours", [9.0, 1.0, 2.0, 3.0]), "peer": run("peer", [9.0, 8.0, 4.0, 100.0])},
        lambda results: [Check("equal", results["ours"] == results["peer"])],
        Options(repeats=3),
        unit="users",
        amount=4,
        peer="peer",
        targets={"ours": 5.0},
    )
    assert calls == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert compared.timings["ours"].seconds == [1.0, 2.0, 3.0]
    assert compared.ratio("ours") == 4.0
    assert compared.checks == [Check("equal", True)]
    assert "4.00 x peer (target 5: MISSED)" in table(compared)


def test_the_share_of_the_limit_is_operations_over_the_measured_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec_lab.training.operations.product_rate", lambda *asked: 100.0)
    compared = compare(
        "work",
        {"ours": lambda: Measured(1.0, 2.0, 2.0, 0.0)},
        lambda _: [],
        Options(repeats=2),
        unit="steps",
        amount=1,
        operations={"ours": (50.0, torch.float32)},
    )
    assert compared.limits["ours"] == pytest.approx(0.25)


def test_operations_of_decoding_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.decoding import LEVELS, decoding_operations, random_histories, random_recommender
    from genrec_lab.decoding import CodeTrie, beam_search
    from genrec_lab.models import T5Config

    config = T5Config(d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=2, decoder_layers=2)
    model, histories = random_recommender(400, config), random_histories(3, 400, 5)
    trie = CodeTrie(model.codes)
    with FlopCounterMode(display=False) as counted:
        beam_search(model, histories, trie, 7, 7)
    expected = decoding_operations(config, 3, 7, 5 * LEVELS + 1, model.codes.vocabulary_size)
    # Attention over a beam's own codes is sums of products, which torch does not count: under 2 %.
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(SystemExit):
        main(lambda _: [], ["--repeats", "0"])


@pytest.mark.slow
def test_time_to_quality_tells_when_each_model_was_worth_what(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        arguments = ["--small", "--users", "50", "--threads", "1", "--out", str(tmp_path)]
        assert importlib.import_module("benchmarks.time_to_quality").main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    written = json.loads((tmp_path / "time_to_quality_small.json").read_text())
    assert set(written["curves"]) == {"T5", "T5, one pass", "causal"}
    (t5,) = (row for row in written["rows"] if row["model"] == "T5")
    assert t5["share of the T5's time"] == 1.0
    assert t5["best NDCG@10"] == max(value for _, value in written["curves"]["T5"])


@pytest.mark.nightly
@pytest.mark.slow
def test_the_explorers_benchmark_takes_every_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    explorer = importlib.import_module("benchmarks.explorer")
    monkeypatch.setattr("comm.create_comm", None)  # it is replaced, and put back here
    monkeypatch.setattr(explorer, "REPEATS", 1)
    explorer.measure(100_000)  # fewer generated items have no collisions
    printed = capsys.readouterr().out
    for step in (*(f"{tab}, of everything" for tab in EXPLORER_VIEWS), "a lasso of a tenth", "hover"):
        assert f"\n  {step} " in printed


def test_panning_is_not_measured_without_chromium(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("playwright", reason="playwright is not installed: pip install '.[browser]'")
    explorer_map = importlib.import_module("benchmarks.explorer_map")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert explorer_map.main([1_000]) == 0
    assert "Chromium is not installed: nothing was measured" in capsys.readouterr().out
