"""Kernels forked from one process: each as if it had been started alone, and none outlives its chain."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from jupyter_core.utils import run_sync

from genrec_lab.lab import chain
from genrec_lab.lab.forked import KernelServer
from genrec_lab.lab.kernel import _Kernel
from genrec_lab.lab.notebooks import KERNEL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[KernelServer]:
    server = KernelServer()
    yield server
    server.close()


@contextmanager
def kernel(server: KernelServer, folder: Path, **environment: str) -> Iterator[_Kernel]:
    made = _Kernel(kernel_name=KERNEL)
    made.server = server
    made.transport, made.ip = "ipc", str(folder / "socket")
    arguments = ["--HistoryManager.hist_file=:memory:"]
    run_sync(made.start_kernel)(cwd=str(folder), env=os.environ | environment, extra_arguments=arguments)
    client = made.client()
    client.start_channels()
    run_sync(client.wait_for_ready)(timeout=120)
    try:
        yield made
    finally:
        made.end(now=False)


def run(made: _Kernel, code: str) -> None:
    """Run code in a kernel; an error of the code is raised here."""
    assert made._opened is not None
    made._opened.execute(code)
    content = run_sync(made._opened.get_shell_msg)(timeout=60)["content"]
    assert content["status"] == "ok", content


def test_each_has_its_own_folder_environment_and_names(server: KernelServer, tmp_path: Path) -> None:
    for place in ("first", "second"):
        folder = tmp_path / place
        folder.mkdir()
        with kernel(server, folder, **{f"ONLY_{place.upper()}": "1"}) as made:
            run(made, "import os, sys; 'left' in globals() and 1/0; left = 1")
            run(made, "found = sorted(name for name in os.environ if name.startswith('ONLY_'))")
            run(made, "found += [os.getcwd(), sys.path[0], os.getsid(0) == os.getpid()]")
            run(made, "open('said', 'w').write(repr(found))")
        assert (folder / "said").read_text() == repr([f"ONLY_{place.upper()}", str(folder), "", True])


def test_one_that_cannot_start_says_so_by_its_exit_code(server: KernelServer, tmp_path: Path) -> None:
    assert server.fork([], str(tmp_path / "gone"), os.environ).wait(60) == 1
    with kernel(server, tmp_path) as made:
        run(made, "1 + 1")


def test_torch_is_there_before_it_is_asked_for(server: KernelServer, tmp_path: Path) -> None:
    with kernel(server, tmp_path) as made:
        run(made, "import sys; assert 'torch' in sys.modules")
        run(made, "assert not any(name.startswith('genrec_lab') for name in sys.modules)")
        run(made, "import threading; assert not any(one.name == 'polars' for one in threading.enumerate())")
        run(made, "import torch; assert torch.ones(300, 300).matmul(torch.ones(300, 300))[0, 0] == 300")


def test_what_is_left_open_is_written_and_what_waits_for_the_end_is_called(
    server: KernelServer, tmp_path: Path
) -> None:
    with kernel(server, tmp_path) as made:
        run(made, "import atexit; left = open('left', 'w'); left.write('all')")
        run(made, "atexit.register(lambda: open('called', 'w').write('yes'))")
    assert (tmp_path / "left").read_text() == "all"
    assert (tmp_path / "called").read_text() == "yes"


def test_the_next_one_starts_after_one_that_died(server: KernelServer, tmp_path: Path) -> None:
    with kernel(server, tmp_path) as made:
        os.kill(made.provisioner.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(made.provisioner.pid)], timeout=30)
        assert made.provisioner.process.wait(30) == -signal.SIGKILL
    with kernel(server, tmp_path) as made:
        run(made, "1")
        assert made.exit_code() is None


def test_of_one_that_ends_at_once_its_number_and_its_end_are_read(
    server: KernelServer, tmp_path: Path
) -> None:
    died = server.fork([], str(tmp_path / "absent"), os.environ)
    time.sleep(1)  # both are there to be read
    assert died.wait(30) is not None and died.poll() == died.returncode


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_kernel_ends_with_its_server(tmp_path: Path, end: str) -> None:
    server = KernelServer()
    with kernel(server, tmp_path) as made:
        left = psutil.Process(made.provisioner.pid)
        if end == "close":
            server.close()
        else:
            left.parent().kill()
        assert psutil.wait_procs([left], timeout=30)[1] == []
    with kernel(server, tmp_path) as made:  # another server
        run(made, "1")
    server.close()


def test_where_a_fork_is_not_safe_each_kernel_starts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (chain._kernel_server() is None) == torch.accelerator.is_available()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert chain._kernel_server() is None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert chain._kernel_server() is None
