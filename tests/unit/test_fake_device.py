"""The fake device: it computes what the CPU computes, refuses to mix, and counts each kind of waiting."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.training import computing_on, device, placed
from tests.fake_device import NAME, WAITS, FakeDevice, MixedDevices, NotOnThisDevice, fake_device


@pytest.fixture
def fake() -> Iterator[FakeDevice]:
    with fake_device() as seen:
        yield seen


def on(values: object, **settings: object) -> Tensor:
    """A tensor on the device, which nothing waited for."""
    return torch.as_tensor(values, **settings).to(NAME, non_blocking=True)


def test_it_is_found_within_the_block_alone() -> None:
    assert device().type == "cpu"
    with fake_device():
        assert device().type == NAME
        with computing_on("cpu"):
            assert device().type == "cpu"
        assert placed(nn.Linear(2, 2)).weight.device.type == NAME
    assert device().type == "cpu"


def test_the_environment_names_the_device(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_DEVICE", "cpu")
    assert device().type == "cpu"
    monkeypatch.setenv("GENREC_DEVICE", "auto")
    assert device().type == NAME
    monkeypatch.setenv("GENREC_DEVICE", "tpu9")
    with pytest.raises(ValueError, match='GENREC_DEVICE is \'tpu9\'; expected "auto", "cpu"'):
        device()


def test_it_computes_what_the_cpu_computes(fake: FakeDevice) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 6), nn.Dropout(0.2), nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU())
    there = placed(copy.deepcopy(model))
    items, places = torch.tensor([[1, 2], [6, 0]]), torch.tensor([3, 1])
    losses, gradients = [], []
    for one, where in ((model, "cpu"), (there, NAME)):
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.1, fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            loss = F.cross_entropy(one(items.to(where))[:, -1], places.to(where))
            loss.backward()
            nn.utils.clip_grad_norm_(one.parameters(), 0.5)
            optimizer.step()
        losses.append(loss.item())
        gradients.append([parameter.grad.cpu() for parameter in one.parameters()])
    assert {parameter.device.type for parameter in there.parameters()} == {NAME}
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_complex_numbers_have_their_gradients(fake: FakeDevice) -> None:
    x, found = torch.randn(2, 4, 3, 2), []
    for where in ("cpu", NAME):
        a, b = (part.to(where).requires_grad_() for part in x)
        product = torch.view_as_complex(a) * torch.view_as_complex(b)
        torch.fft.irfft(product, n=5, dim=0).square().sum().backward()
        found.append((a.grad.cpu(), b.grad.cpu()))
    torch.testing.assert_close(*found)


def test_a_moved_module_keeps_its_parameters(fake: FakeDevice) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.bias.detach().clone()
    placed(model)(torch.ones(1, 2, device=NAME)).sum().backward()
    optimizer.step()
    assert torch.equal(model.bias.detach().cpu(), before - 1)


def test_weights_are_written_and_read(fake: FakeDevice, tmp_path: Path) -> None:
    model = placed(nn.Linear(2, 2))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = placed(nn.Linear(2, 2))
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other.weight, model.weight)


def test_views_share_their_numbers(fake: FakeDevice) -> None:
    x = torch.zeros(2, 3, device=NAME)
    x[0].fill_(1.0)
    x.view(6)[5:] += 4
    x.mul_(2)
    assert x.cpu().tolist() == [[2, 2, 2], [0, 0, 8]]


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: x @ y.T,
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.stack([x[0, 0], torch.tensor(1.0)]),
        lambda x, y: F.embedding(torch.tensor([0]), x),
        lambda x, y: y[x.long()],
        lambda x, y: y.index_put_((x[:, 0].long(),), y[:1]),
        lambda x, y: y.add_(x),
        lambda x, y: torch.where(x > 0, y, x),
    ],
)
def test_mixed_devices_are_refused(fake: FakeDevice, mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(MixedDevices, match=NAME):
        mix(on([[0.0, 1.0]]), torch.ones(1, 2))


def test_a_number_of_the_cpu_may_be_added(fake: FakeDevice) -> None:
    assert (on([1.0]) + torch.tensor(2.0)).device.type == NAME
    assert fake.waits == []


def test_numpy_does_not_read_it(fake: FakeDevice) -> None:
    with pytest.raises((TypeError, RuntimeError)):
        np.asarray(on([1.0]))
    with pytest.raises((TypeError, RuntimeError)):
        on([1.0]).numpy()


# One line at least for each entry of the table: what it is called there, and how one comes to call it.
X = [3.0, 1.0, 3.0, 0.0]
WAITING: list[tuple[str, str, Callable[[Tensor], object]]] = [
    ("_local_scalar_dense", "item", lambda x: x[0].item()),
    ("_local_scalar_dense", "item", lambda x: float(x[0])),
    ("_local_scalar_dense", "item", lambda x: 1 if (x > 0).all() else 0),
    ("_local_scalar_dense", "item", lambda x: torch.is_nonzero(x[0])),
    ("equal", "equal", lambda x: torch.equal(x, x + 1)),
    ("nonzero", "nonzero", lambda x: x.nonzero()),
    ("nonzero", "nonzero", lambda x: torch.where(x > 0)),
    ("masked_select", "masked_select", lambda x: x.masked_select(x > 0)),
    ("_unique2", "unique", lambda x: x.unique()),
    ("_unique2", "unique", lambda x: x.unique(return_counts=True)),
    ("unique_dim", "unique", lambda x: torch.stack([x, x]).unique(dim=0)),
    ("unique_consecutive", "unique", lambda x: x.unique_consecutive()),
    ("bincount", "bincount", lambda x: x.long().bincount()),
    ("repeat_interleave", "repeat_interleave", lambda x: x.repeat_interleave(x.long())),
    ("index", "boolean mask", lambda x: x[x > 0]),
    ("index", "index on the CPU", lambda x: x[torch.tensor([0, 1])]),
    ("index_put_", "boolean mask", lambda x: x.index_put_((x > 0,), x[:3] + 1)),
    ("index_put", "boolean mask", lambda x: torch.ops.aten.index_put(x, [x > 0], x[:3])),
    ("_index_put_impl_", "boolean mask", lambda x: torch.ops.aten._index_put_impl_(x, [x > 0], x[:3] + 1)),
    ("copy_", "copy to the CPU", lambda x: torch.zeros(4).copy_(x)),
    ("copy_", "copy from the CPU", lambda x: x.copy_(torch.zeros(4))),
    ("_to_copy", "copy to the CPU", lambda x: x.cpu()),
    ("_to_copy", "copy to the CPU", lambda x: x.tolist()),
    ("_to_copy", "copy to the CPU", lambda x: x.to("cpu", non_blocking=True)),
    ("_to_copy", "copy from the CPU", lambda x: torch.zeros(3).to(NAME)),
    ("_to_copy", "copy from the CPU", lambda x: torch.tensor([1, 2], device=NAME)),
]


@pytest.mark.parametrize(
    ("entry", "what", "call"), WAITING, ids=[f"{e}-{n}" for n, (e, _, _) in enumerate(WAITING)]
)
def test_what_waits_is_counted(
    fake: FakeDevice, entry: str, what: str, call: Callable[[Tensor], object]
) -> None:
    x = on(X)
    with fake.counting() as waits:
        call(x)
    assert len(waits) == 1, waits
    assert what in waits[0]
    assert entry in WAITS


def test_each_entry_of_the_table_is_tested() -> None:
    assert {entry for entry, _, _ in WAITING} == set(WAITS)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.to(NAME),
        lambda x: x.double(),
        lambda x: torch.zeros(3).to(NAME, non_blocking=True),
        lambda x: torch.arange(4, device=NAME) + torch.ones(4, device=NAME),
        lambda x: x.copy_(torch.zeros(4), non_blocking=True),
        lambda x: x[torch.arange(2, device=NAME)],
        lambda x: x.masked_fill_(x > 0, 2.0),
        lambda x: x.__setitem__(x > 0, 2.0),
        lambda x: x.repeat_interleave(x.long(), output_size=7),
        lambda x: x.repeat_interleave(2),
        lambda x: torch.where(x > 0, x, 0.0).sum().backward,
        lambda x: F.cross_entropy(x[None], torch.arange(1, device=NAME)),
        lambda x: x.sort().values.topk(2),
    ],
)
def test_what_does_not_wait_is_not_counted(fake: FakeDevice, call: Callable[[Tensor], object]) -> None:
    x = on(X)
    call(x)
    assert fake.waits == []


def test_what_waited_is_named_with_its_place(fake: FakeDevice) -> None:
    x = on(X)
    x.cpu()
    assert fake.waits[0].startswith("a copy to the CPU at tests/unit/test_fake_device.py:")


def test_it_says_what_it_cannot_run(fake: FakeDevice) -> None:
    cell = placed(nn.GRU(2, 3, batch_first=True))
    with pytest.raises((NotOnThisDevice, NotImplementedError)):
        cell(torch.zeros(1, 2, 2, device=NAME))
    with pytest.raises(RuntimeError):
        torch.Generator(device=NAME)
