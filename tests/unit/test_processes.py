"""Two processes on the CPU (gloo) train what one trains: the same losses and weights, one of them writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genrec_lab.data.batches import Batch, NeighbourBatches, StretchBatches
from genrec_lab.training import processes
from genrec_lab.training.processes import in_shares, own_parts
from tests.unit.two_processes import ITEM_MODELS, WORK, main

REPOSITORY = Path(__file__).parents[2]
LAUNCHED = """
import sys
from pathlib import Path
import torch
from accelerate import notebook_launcher
from genrec_lab.training import processes

def work():
    total = processes.total(torch.tensor([1.0 + processes.number()])).item()
    # A file each: what two processes print at once runs together in one line.
    said = f"{processes.number()} of {processes.count()}: {total}"
    Path(sys.argv[2], str(processes.number())).write_text(said)

notebook_launcher(work, num_processes=2, use_port=sys.argv[1])
"""


def start(folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    """One of two processes, as `accelerate launch --cpu --num_processes 2` would start it."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
    environment |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "tests/unit/two_processes.py"), str(folder)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of one process alone and of two together, all work done."""
    alone, together = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    port = free_port()
    running = [start(together, rank, port) for rank in (0, 1)]
    main(alone)
    for process in running:
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said[-3000:]
    return alone, together


@pytest.mark.parametrize("work", WORK)
def test_two_processes_give_the_losses_and_weights_of_one(both: tuple[Path, Path], work: str) -> None:
    alone, together = both
    losses = json.loads((alone / "losses-0.json").read_text())[work]
    assert losses[-1] != losses[0]
    weights = load_file(alone / f"{work}-0.safetensors")
    # Only the first process records a tokenizer's epochs, because only it writes files.
    for rank in (0,) if work in ("rqvae", "letter") else (0, 1):
        assert json.loads((together / f"losses-{rank}.json").read_text())[work] == pytest.approx(
            losses, rel=1e-4
        )
    for rank in (0, 1):
        theirs = load_file(together / f"{work}-{rank}.safetensors")
        assert theirs.keys() == weights.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4, msg=f"{work} {name}")


@pytest.mark.parametrize("work", ITEM_MODELS)
def test_each_of_two_processes_computes_a_part_of_a_batch_with_negatives(both, work: str) -> None:
    rows = [json.loads((folder / f"rows-{work}.json").read_text()) for folder in both]
    assert 0 < rows[1] < rows[0]


def test_what_a_notebook_launches_works_together(tmp_path: Path) -> None:
    file = tmp_path / "launched.py"
    file.write_text(LAUNCHED)
    done = subprocess.run(
        [sys.executable, str(file), str(free_port()), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["0 of 2: 3.0", "1 of 2: 3.0"]


def test_parts_that_add_up_give_the_whole_batch(both: tuple[Path, Path]) -> None:
    losses = json.loads((both[0] / "losses-0.json").read_text())
    for work in ("pairs", "items"):
        assert losses[f"{work} in parts"] == pytest.approx(losses[work], rel=1e-5)


def test_one_checkpoint_of_two_processes_is_left(both: tuple[Path, Path]) -> None:
    for name in ("pairs", "stretches", "contrast", "tree"):
        assert [file.name for file in (both[1] / name).iterdir()] == ["epoch-3"]


def test_one_of_two_processes_writes_a_result_once(both: tuple[Path, Path]) -> None:
    log = (both[1] / "shared" / "log.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in log]
    assert events == ["started", "finished"]


def _pairs(rows: int) -> Batch:
    def collate(own: np.ndarray) -> dict[str, Tensor]:
        return {"histories": torch.from_numpy(own)[:, None], "targets": torch.from_numpy(own)}

    return Batch(np.arange(rows), collate)


@pytest.mark.parametrize("at_once", [None, 1, 2, 100])
@pytest.mark.parametrize(("rows", "world"), [(7, 2), (4, 4), (9, 1), (12, 3)])
def test_parts_of_all_processes_are_the_batch(rows: int, world: int, at_once: int | None) -> None:
    parts = [own_parts(_pairs(rows), world, process, at_once) for process in range(world)]
    # As many steps in each process, or one would wait for another for ever.
    assert len({len(own) for own in parts}) == 1
    taken = [part for own in parts for part in own]
    # The mean over processes of the weighted means is the mean over the rows.
    told = sum(weight * float(own["targets"].float().mean()) for own, weight in taken) / world
    assert told == pytest.approx((rows - 1) / 2)
    assert sorted(row for own, _ in taken for row in own["targets"].tolist()) == list(range(rows))
    if at_once is not None:
        # One more where the batch cannot be cut evenly.
        assert max(len(own["targets"]) for own, _ in taken) <= at_once + 1


def test_places_of_stretches_stay_with_their_rows() -> None:
    sequences = [[row, 10 + row, 20 + row][: 2 + row % 2] for row in range(5)]
    (batch,) = StretchBatches(sequences, 100, 4)(0, 0)
    found = []
    for process in range(2):
        for own, weight in own_parts(batch, 2, process, 2):
            learnt = own["sequences"][own["rows"], own["places"]].tolist()
            assert weight == pytest.approx(len(learnt) * 2 / 7)
            assert own["sequences"].shape[1] == 3  # as the whole batch
            found += learnt
    assert sorted(found) == [10, 11, 12, 13, 14, 21, 23]


@pytest.mark.parametrize("batch", [{"x": torch.ones(4)}, _pairs(1)])
def test_what_cannot_be_shared_out_stays_whole(batch: Mapping[str, Tensor]) -> None:
    (only,) = own_parts(batch, 2, 1, 1)
    assert only.batch is batch
    assert only.weight == 1.0


def test_neighbours_are_shared_out_in_their_order_and_collated_once() -> None:
    collated = []

    def content(items: np.ndarray, among: np.ndarray) -> dict[str, Tensor]:
        collated.append((items.tolist(), len(among)))
        return {"x": torch.from_numpy(items)}

    beside = pl.DataFrame({"item": range(7), "neighbours": [[item] for item in range(7)]})
    (batch,) = NeighbourBatches(np.arange(7), beside, content, 7)(0, 0)
    parts = [own_parts(batch, 2, process, 2) for process in range(2)]
    assert not collated  # nobody has looked at a tensor, neither their own nor another's
    together = [
        torch.cat([own.batch["items"]["x"] for own in at_one_time])
        for at_one_time in zip(*parts, strict=True)
    ]
    assert torch.cat(together).tolist() == batch["items"]["x"].tolist()
    # Each share once, beside its neighbours, with the shapes of the whole batch; then the whole batch.
    assert [len(items) for items, _ in collated] == [2, 2, 2, 2, 2, 2, 1, 1, 7, 7]
    assert {among for _, among in collated} == {7}


def test_work_is_done_in_shares_alone_too() -> None:
    squares, names = in_shares(lambda own: (own**2, own[:, None] + 0.5), 3)
    assert squares.tolist() == [0, 1, 4] and names.tolist() == [[0.5], [1.5], [2.5]]


def test_a_single_process_is_by_itself() -> None:
    x = torch.randn(3, 2)
    assert processes.count() == 1
    assert processes.number() == 0
    assert processes.gather_rows(x) is x
    assert processes.total(x) is x
    assert processes.own_rows(3) == [0, 1, 2]
    assert processes.of_the_first("here") == "here"
