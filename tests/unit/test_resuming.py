"""A killed training goes on where it was and equals the unbroken one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genrec_lab.training import (
    Callback,
    EpochRecord,
    TrainingConfig,
    TrainingMemoryError,
    TrainingResult,
    checkpoints,
    fit,
)

PLAIN = TrainingConfig(epochs=5, learning_rate=0.01, schedule="constant", warmup=0.0, precision="fp32")


class Killed(Exception):
    """Stands for whatever ends a process."""


class KillAfter(Callback):
    """Kills at the end of the next epoch, before its checkpoint, so that the given one's is the last."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        if record.epoch > self.epoch:
            raise Killed

    def on_end(self, result: TrainingResult) -> None:
        raise Killed


ANNEALED = TrainingConfig(
    epochs=6,
    learning_rate=0.02,
    schedule="cosine",
    warmup=0.2,
    weight_decay=0.1,
    precision="fp32",
    validate_from=0,
)


def train(
    toy: SimpleNamespace,
    config: TrainingConfig,
    folder: Path | None,
    *callbacks: Callback,
    model_seed: int = 0,
    data: Any = None,
) -> tuple[nn.Module, TrainingResult]:
    model = toy.Regression(model_seed)
    data = data or toy.Line()
    validate = toy.error_of(model, toy.Line())
    return model, fit(model, data, config, validate=validate, callbacks=callbacks, checkpoints=folder, seed=5)


def go_on(toy: SimpleNamespace, config: TrainingConfig, folder: Path) -> tuple[nn.Module, TrainingResult]:
    """Call again as a new process would, with other weights and another state of the generators before it."""
    torch.manual_seed(999)
    return train(toy, config, folder, model_seed=77)


def assert_same(
    toy: SimpleNamespace, one: tuple[nn.Module, TrainingResult], other: tuple[nn.Module, TrainingResult]
) -> None:
    # The loss before training is no number, and no number equals itself.
    assert str(toy.numbers(one[1])) == str(toy.numbers(other[1]))
    assert toy.same_weights(one[0], other[0])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("epoch", [1, 3, 6])
def test_killed_after_an_epoch_and_called_again_it_equals_the_unbroken_one(
    toy: SimpleNamespace, tmp_path: Path, epoch: int, optimizer: str
) -> None:
    config = ANNEALED.model_copy(update={"optimizer": optimizer})
    unbroken = train(toy, config, None)
    with pytest.raises(Killed):
        train(toy, config, tmp_path, KillAfter(epoch))
    assert_same(toy, go_on(toy, config, tmp_path), unbroken)


def test_killed_within_an_epoch_it_goes_on_from_the_last_whole_one(
    toy: SimpleNamespace, tmp_path: Path
) -> None:
    class Breaking(toy.Line):
        def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
            for number, batch in enumerate(super().__call__(epoch, seed)):
                if (epoch, number) == (3, 2):
                    raise Killed
                yield batch

    with pytest.raises(Killed):
        train(toy, ANNEALED, tmp_path, data=Breaking())
    assert_same(toy, go_on(toy, ANNEALED, tmp_path), train(toy, ANNEALED, None))


def test_a_count_of_steps_survives_a_kill(toy: SimpleNamespace, tmp_path: Path) -> None:
    class Counting(toy.Regression):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.tensor(0))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            self.steps += self.training
            return super().forward(x, y)

    with pytest.raises(Killed):
        fit(Counting(), toy.Line(), ANNEALED, callbacks=[KillAfter(2)], checkpoints=tmp_path, seed=5)
    model = Counting()
    fit(model, toy.Line(), ANNEALED, checkpoints=tmp_path, seed=5)
    assert model.steps == len(toy.Line()) * ANNEALED.epochs


def test_callbacks_hear_of_every_epoch_though_one_of_them_was_cut_off(
    toy: SimpleNamespace, tmp_path: Path
) -> None:
    heard: list[int] = []

    class Note(Callback):
        def on_epoch(self, record: EpochRecord, _: int) -> None:
            heard.append(record.epoch)

    with pytest.raises(Killed):
        train(toy, ANNEALED, tmp_path, KillAfter(2), Note())
    assert heard == [1, 2]
    train(toy, ANNEALED, tmp_path, Note(), model_seed=77)
    assert heard == [1, 2, 3, 4, 5, 6]


def test_killed_twice(toy: SimpleNamespace, tmp_path: Path) -> None:
    for epoch in (2, 4):
        with pytest.raises(Killed):
            train(toy, ANNEALED, tmp_path, KillAfter(epoch))
    assert_same(toy, go_on(toy, ANNEALED, tmp_path), train(toy, ANNEALED, None))


def test_patience_and_best_weights_survive_a_kill(toy: SimpleNamespace, tmp_path: Path) -> None:
    values = [0.1, 0.5, 0.2, 0.3, 0.4, 0.9]
    config = PLAIN.model_copy(update={"epochs": 20, "patience": 3})
    unbroken = toy.Regression()
    expected = fit(unbroken, toy.Line(), config, validate=toy.scripted(values, [], unbroken))
    model = toy.Regression()
    with pytest.raises(Killed):
        fit(model, toy.Line(), config, validate=toy.scripted(values, [], model), callbacks=[KillAfter(3)],
            checkpoints=tmp_path)  # fmt: skip
    model = toy.Regression(77)
    result = fit(
        model, toy.Line(), config, validate=toy.scripted(values[3:], [], model), checkpoints=tmp_path
    )
    assert toy.numbers(result) == toy.numbers(expected)
    assert result.best_epoch == 2
    assert toy.same_weights(model, unbroken)


def test_a_finished_training_is_not_trained_again(toy: SimpleNamespace, tmp_path: Path) -> None:
    finished = train(toy, ANNEALED, tmp_path)

    class Untouchable(toy.Line):
        def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
            raise AssertionError("trained again")

    assert_same(toy, train(toy, ANNEALED, tmp_path, model_seed=77, data=Untouchable()), finished)


def test_only_what_is_trained_is_resumed(toy: SimpleNamespace, tmp_path: Path) -> None:
    """A frozen base is not in the checkpoint; the caller brings it."""

    def half(callbacks: list[Callback], folder: Path | None) -> nn.Module:
        model = toy.Regression()
        model.up.requires_grad_(False)
        fit(model, toy.Line(), ANNEALED, callbacks=callbacks, checkpoints=folder)
        return model

    with pytest.raises(Killed):
        half([KillAfter(2)], tmp_path)
    assert toy.same_weights(half([], tmp_path), half([], None))


def test_a_half_written_checkpoint_is_ignored(toy: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(toy, ANNEALED, tmp_path, KillAfter(2))
    partial = tmp_path / "epoch-3.partial"
    shutil.copytree(tmp_path / "epoch-2", partial)
    (partial / "counters.json").write_text('{"epoch": 3, "ste')
    (tmp_path / "epoch-notes").mkdir()
    assert_same(toy, go_on(toy, ANNEALED, tmp_path), train(toy, ANNEALED, None))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["epoch-6", "epoch-notes"]


def test_of_two_whole_checkpoints_the_newer_is_taken(toy: SimpleNamespace, tmp_path: Path) -> None:
    """A kill between writing the new one and removing the old one leaves both; 10 comes after 9."""
    config = PLAIN.model_copy(update={"epochs": 12})
    with pytest.raises(Killed):
        train(toy, config, tmp_path, KillAfter(9))
    shutil.copytree(tmp_path / "epoch-9", tmp_path / "kept")
    with pytest.raises(Killed):
        train(toy, config, tmp_path, KillAfter(10))
    shutil.move(tmp_path / "kept", tmp_path / "epoch-9")
    epochs: list[int] = []

    class Note(Callback):
        def on_epoch(self, record: EpochRecord, _: int) -> None:
            epochs.append(record.epoch)

    resumed = train(toy, config, tmp_path, Note(), model_seed=77)
    assert epochs == [11, 12]
    assert_same(toy, resumed, train(toy, config, None))


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    toy: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints.save_file

    def full(tensors: dict[str, Tensor], file: Path) -> None:
        if "epoch-3" in str(file):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, file)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        train(toy, ANNEALED, tmp_path)
    monkeypatch.undo()
    assert_same(toy, go_on(toy, ANNEALED, tmp_path), train(toy, ANNEALED, None))


@pytest.mark.parametrize(
    "damage", ["flipped", "cut", "empty", "gone", "counters cut", "counters gone", "list"]
)
def test_of_a_damaged_checkpoint_one_hears_and_goes_on_from_the_one_before_it(
    toy: SimpleNamespace, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed):
        train(toy, ANNEALED, tmp_path, KillAfter(1))
    shutil.copytree(tmp_path / "epoch-1", tmp_path / "kept")
    with pytest.raises(Killed):
        train(toy, ANNEALED, tmp_path, KillAfter(2))
    shutil.move(tmp_path / "kept", tmp_path / "epoch-1")
    counters = damage.startswith("counters") or damage == "list"
    file = tmp_path / "epoch-2" / ("counters.json" if counters else "state.safetensors")
    content = file.read_bytes()
    if damage.endswith("gone"):
        file.unlink()
    elif damage == "flipped":
        # A last byte of a tensor: safetensors itself would not notice.
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.write_bytes({"cut": content[:-9], "counters cut": content[:-9], "list": b"[]"}.get(damage, b""))
    capsys.readouterr()
    for kept in (True, False):  # with one before it, and without
        folder = tmp_path if kept else tmp_path / "alone"
        if not kept:
            folder.mkdir()
            shutil.move(tmp_path / "damaged", folder / "epoch-2")
        else:
            shutil.copytree(tmp_path / "epoch-2", tmp_path / "damaged")
        again = go_on(toy, ANNEALED, folder) if kept else train(toy, ANNEALED, folder)
        assert_same(toy, again, train(toy, ANNEALED, None))
        assert "epoch-2 is damaged (" in capsys.readouterr().out


def test_memory_that_runs_out_says_what_to_lower(toy: SimpleNamespace) -> None:
    class Greedy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(1, 1)

        def forward(self, **batch: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("Tried to allocate 20 GiB")

    with pytest.raises(TrainingMemoryError, match=r"16 samples in epoch 1, .*lower .* to 8 .*20 GiB"):
        fit(Greedy(), toy.Line(), PLAIN)


def test_one_checkpoint_is_kept(toy: SimpleNamespace, tmp_path: Path) -> None:
    train(toy, ANNEALED, tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["epoch-6"]
    assert {file.suffix for file in (tmp_path / "epoch-6").iterdir()} == {".safetensors", ".json"}


def test_the_time_before_a_kill_counts(toy: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(toy, ANNEALED, tmp_path, KillAfter(5))
    _, result = go_on(toy, ANNEALED, tmp_path)  # one epoch of the six
    assert result.seconds >= sum(record.seconds for record in result.history) - 1e-6
