"""An accelerator for tests: it computes on the CPU, refuses to mix devices, and counts what waits for it.

    with fake_device() as device:
        model = fit(...)
        assert device.waits == []

Within the block torch finds an accelerator of the type "fakegpu", so whatever asks for one is placed on it.
A real accelerator computes beside the program, and some operations make the program wait for it: all that
give a number to Python, and all whose result has a shape that only the values determine. WAITS names them.

What it cannot run: fused recurrent cells (nn.GRU, nn.LSTM), autocast to bfloat16 (`bf16_is_native` says no),
generators of its own (random numbers come from the CPU's, so they are those of a run on the CPU),
torch.compile, and several processes. Memory is the CPU's, and never runs out.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fakegpu"
_ROOT = Path(__file__).parents[1]


class MixedDevices(RuntimeError):
    """Tensors of both devices in one operation."""


class NotOnThisDevice(RuntimeError):
    """An operation that the fake device cannot run."""


class OnDevice(Tensor):
    """A tensor of the fake device; `raw` is the tensor of the CPU that holds its numbers."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
            requires_grad=raw.requires_grad,
        )
        made.raw = raw.detach()
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.raw})"

    def untyped_storage(self) -> torch.UntypedStorage:
        # safetensors tells by it which tensors share their memory, before it copies them to the CPU.
        return self.raw.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = OnDevice(self.raw.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _FakeMode(TorchDispatchMode):
    """Catches what makes tensors of the fake device out of none, such as torch.zeros(3, device=...)."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        asked = given.get("device")
        there = any(isinstance(leaf, OnDevice) for leaf in tree_leaves((args, given)))
        if there or (asked is not None and torch.device(asked).type == NAME):
            return _run(function, args, given)
        return function(*args, **given)


class _FakeFunctions(TorchFunctionMode):
    """Makes tensors of Python's numbers, which torch would ask the device itself for."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        asked = torch.device(given.get("device") or "cpu")
        if function in (torch.tensor, torch.as_tensor) and asked.type == NAME:
            return function(*args, **{**given, "device": "cpu"}).to(asked)
        return function(*args, **given)


class FakeDevice:
    """What a block saw: `waits` has a line for each operation that waited, with the place that asked."""

    def __init__(self) -> None:
        self.waits: list[str] = []

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """Yield the list of what waits within the block."""
        before, self.waits = self.waits, []
        try:
            yield self.waits
        finally:
            self.waits = before + self.waits


class _Module:
    """What torch asks of an accelerator's module."""

    available = False

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.available

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(self.available)

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Random numbers are the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_module = _Module()
_active: FakeDevice | None = None
# torch counts devices before its first backward pass, so this file must be imported before there is one; the
# device is not available outside of a block.
_setup_privateuseone_for_python_backend(NAME, backend_module=_module)


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """Let torch find the fake device within the block; yields what counts the waiting."""
    global _active
    seen = FakeDevice()
    before, _active, _module.available = _active, seen, True
    # A module's parameters stay the objects that they are when they are moved, as they do for real devices.
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _FakeMode(), _FakeFunctions():
            yield seen
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        _active, _module.available = before, before is not None


# --- what makes a program wait


def _boolean(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _copies_from_the_cpu(index: Any) -> bool:
    return isinstance(index, Tensor) and not isinstance(index, OnDevice) and index.ndim > 0


def _of_index(args: Any, kwargs: Any) -> str | None:
    indices = args[1] if len(args) > 1 else kwargs["indices"]
    if any(_boolean(index) for index in indices):
        value = args[2] if len(args) > 2 else None
        # One value at the places of a mask is filled in, which needs no count of the places.
        return None if isinstance(value, Tensor) and value.numel() == 1 else "a boolean mask as index"
    return "an index on the CPU" if any(_copies_from_the_cpu(index) for index in indices) else None


def _of_copy(args: Any, kwargs: Any) -> str | None:
    source, target = args[1], args[0]
    waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    if isinstance(source, OnDevice) and not isinstance(target, OnDevice):
        return "a copy to the CPU"
    from_cpu = isinstance(target, OnDevice) and not isinstance(source, OnDevice) and source.ndim > 0
    return "a copy from the CPU that waits" if from_cpu and waits else None


def _of_conversion(args: Any, kwargs: Any) -> str | None:
    source, device = args[0], kwargs.get("device")
    if device is None:
        return None
    to_cpu = torch.device(device).type == "cpu"
    if isinstance(source, OnDevice):
        return "a copy to the CPU" if to_cpu else None
    return None if to_cpu or kwargs.get("non_blocking") else "a copy from the CPU that waits"


def _always(what: str) -> Callable[[Any, Any], str | None]:
    return lambda args, kwargs: what


# Operations by name, without their overload, and what of their arguments decides whether they wait.
WAITS: dict[str, Callable[[Any, Any], str | None]] = {
    "_local_scalar_dense": _always("item"),  # also float(), int(), bool() and `if`
    "equal": _always("equal"),
    "nonzero": _always("nonzero"),
    "masked_select": _always("masked_select"),
    "_unique2": _always("unique"),
    "unique_dim": _always("unique"),
    "unique_consecutive": _always("unique"),
    "bincount": _always("bincount"),
    "repeat_interleave": lambda args, kwargs: (
        None if kwargs.get("output_size") is not None else "repeat_interleave without output_size"
    ),
    "index": _of_index,
    "index_put": _of_index,
    "index_put_": _of_index,
    "_index_put_impl_": _of_index,
    "copy_": _of_copy,
    "_to_copy": _of_conversion,
}
# Tensors of both devices may meet here.
_MAY_MIX = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}
# A number that is a tensor of the CPU is taken by all but these, which take tensors of one device only.
_NO_NUMBERS = {"cat", "stack", "where", "gather", "scatter", "scatter_add", "embedding", "index_select"}
# Views whose numbers torch negates only when they are read; a wrapped tensor shows nothing of that.
_AT_ONCE = {"_conj": torch.ops.aten._conj_physical.default, "_neg_view": torch.ops.aten.neg.default}
_CANNOT = {"_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "gru", "lstm"}


def _run(function: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on the raw tensors, and give back tensors of the device that it computes on."""
    if function._can_decompose():
        # As in inference mode, in which operations made of others arrive whole.
        with _FakeMode():
            return function.decompose(*args, **kwargs)
    name = function._overloadpacket.__name__.removesuffix("_out")
    if name in _CANNOT:
        raise NotOnThisDevice(f"{name}: the fake device cannot run it")
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    held = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    least = 0 if name in _NO_NUMBERS else 1
    others = [leaf for leaf in leaves if not isinstance(leaf, OnDevice) and leaf.ndim >= least]
    if held and others and name not in _MAY_MIX:
        shapes = f"{tuple(held[0].shape)} on {NAME}, {tuple(others[0].shape)} on the CPU"
        raise MixedDevices(f"{name}: expected all tensors on one device, got {shapes}")
    if name in ("index", "index_put", "index_put_", "_index_put_impl_") and not isinstance(args[0], OnDevice):
        raise MixedDevices(f"{name}: a tensor on the CPU cannot be indexed or filled by tensors on {NAME}")
    if (decides := WAITS.get(name)) is not None and (what := decides(args, kwargs)) is not None:
        _note(what)
    asked = kwargs.get("device")
    on_device = bool(held) if asked is None else torch.device(asked).type == NAME
    if name == "copy_":
        on_device = isinstance(args[0], OnDevice)
    if asked is not None and torch.device(asked).type == NAME:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    function = _AT_ONCE.get(name, function)
    wrappers = {id(leaf.raw): leaf for leaf in held}

    def back(part: Any) -> Any:
        if not isinstance(part, Tensor):
            return part
        # An operation that changes a tensor returns this very one.
        return wrappers.get(id(part), OnDevice(part) if on_device else part)

    # Wrapped tensors are ordinary ones in inference mode too.
    with torch.inference_mode(False), torch.no_grad():
        return tree_map(back, function(*tree_map(_raw, args), **tree_map(_raw, kwargs)))


def _raw(part: Any) -> Any:
    return part.raw if isinstance(part, OnDevice) else part


def _note(what: str) -> None:
    if _active is None:
        return
    ours = [
        frame
        for frame in traceback.extract_stack()
        if Path(frame.filename).is_relative_to(_ROOT)
        and "site-packages" not in frame.filename  # the environment may lie in the checkout
        and not frame.name.startswith("__torch")
        and frame.filename != __file__
    ]
    # A backward pass has a thread of its own, whose frames begin at a custom function's backward.
    place = f"{Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno}" if ours else "a backward pass"
    _active.waits.append(f"{what} at {place}")
