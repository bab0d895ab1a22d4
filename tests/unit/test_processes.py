"""Two processes on the CPU (gloo) train what one trains: the same losses and weights, one of them writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from genrec_lab.training.processes import own_share
from tests.unit.two_processes import main

REPOSITORY = Path(__file__).parents[2]


def start(folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    """One of two processes, as `accelerate launch --cpu --num_processes 2` would start it."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
    environment |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "tests/unit/two_processes.py"), str(folder)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_two_processes_give_the_losses_and_weights_of_one(tmp_path: Path) -> None:
    alone, together = tmp_path / "one", tmp_path / "two"
    alone.mkdir()
    together.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [start(together, rank, port) for rank in (0, 1)]
    main(alone)
    for process in running:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said[-3000:]
    losses = json.loads((alone / "losses-0.json").read_text())
    assert losses[0][-1] < losses[0][0]
    weights = load_file(alone / "weights-0.safetensors")
    for rank in (0, 1):
        assert json.loads((together / f"losses-{rank}.json").read_text()) == [
            pytest.approx(one, rel=1e-5) for one in losses
        ]
        theirs = load_file(together / f"weights-{rank}.safetensors")
        for name, tensor in weights.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5)
    for name in ("recommender", "contrast"):
        assert [file.name for file in (together / name).iterdir()] == ["epoch-3"]


@pytest.mark.parametrize(("rows", "world"), [(7, 2), (4, 4), (2, 3), (1, 2)])
def test_shares_add_up_to_the_batch(rows: int, world: int) -> None:
    batch = {"histories": torch.arange(rows)[:, None], "targets": torch.arange(rows)}
    shares = []
    for rank in range(world):
        accelerator = SimpleNamespace(num_processes=world, process_index=rank)
        shares.append(own_share(batch, accelerator))  # type: ignore[arg-type]
    # The mean over processes of weighted means is the mean over the rows.
    told = sum(weight * float(own["targets"].float().mean()) for own, weight in shares) / world
    assert told == pytest.approx(float(batch["targets"].float().mean()))
    taken = [row for own, weight in shares if weight for row in own["targets"].tolist()]
    assert sorted(taken) == list(range(rows))


def test_batches_whose_samples_are_compared_stay_whole() -> None:
    accelerator = SimpleNamespace(num_processes=2, process_index=1)
    batch = {"items": {"x": torch.ones(4)}}
    assert own_share(batch, accelerator) == (batch, 1.0)  # type: ignore[arg-type]
    assert own_share({"histories": torch.ones(2, 1), "targets": torch.ones(2)}, Accelerator())[1] == 1.0
