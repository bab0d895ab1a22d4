"""Kernels forked from one process, so that a chain imports torch and the like once, not in every notebook.

The process executes this file. It imports other libraries: none whose files may change meanwhile, as this
package's, and none that starts threads. Then it reads requests from its standard input, a line of JSON each,
and writes a kernel's process id, and later its exit code, to a pipe. When the chain dies, the input closes
and it ends; its kernel, whose parent is gone, ends within a second. For Linux without an accelerator, because
libraries of accelerators and of other systems may not be used on both sides of a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import IO, Any

_EACH_NEEDS = (
    "ipykernel.kernelapp", "ipywidgets", "plotly.graph_objects", "plotly.io._renderers", "pydantic", "torch",
    "accelerate", "safetensors.torch",
)  # fmt: skip
_MOST_NEED = ("torch._dynamo", "sklearn.decomposition", "sklearn.feature_extraction.text")


class KernelServer:
    """The process from which kernels are forked, one at a time; it starts with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: IO[str]
        self._replies: IO[bytes]  # not buffered, for `select` does not see what a buffer holds

    def fork(self, arguments: Sequence[str], cwd: str, environment: Mapping[str, str]) -> _ForkedKernel:
        """Start a kernel with these arguments of ipykernel; raises OSError if the process ends meanwhile."""
        if self._process is None or self.ended():
            self.close()
            theirs_in, ours_out = os.pipe()
            ours_in, theirs_out = os.pipe()
            self._requests, self._replies = os.fdopen(ours_out, "w"), os.fdopen(ours_in, "rb", 0)
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs_out)],
                stdin=theirs_in, env=dict(environment), pass_fds=[theirs_out], start_new_session=True,
            )  # fmt: skip
            os.close(theirs_in)
            os.close(theirs_out)
        asked = {"arguments": list(arguments), "cwd": cwd, "environment": dict(environment)}
        print(json.dumps(asked), file=self._requests, flush=True)
        pid = self.reply(None)
        if pid is None:
            raise ChildProcessError("the process that forks kernels has ended")
        return _ForkedKernel(self, pid)

    def reply(self, timeout: float | None) -> int | None:
        """Return the next number that the process writes; None if it takes longer, or if it has ended."""
        if self._replies.closed or not select.select([self._replies], [], [], timeout)[0]:
            return None
        line = self._replies.readline()
        return int(line) if line else None

    def ended(self) -> bool:
        """Return whether the process is gone."""
        return self._process is None or self._process.poll() is not None

    def close(self) -> None:
        """End the process; a kernel that still runs ends by itself."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._requests.close()
            self._process.wait()
            self._replies.close()


class _ForkedKernel:
    """A kernel's process, with those methods of `subprocess.Popen` that jupyter_client calls."""

    stdin = stdout = stderr = None

    def __init__(self, server: KernelServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.reply(timeout)
            if self.returncode is None and self._server.ended():
                self.returncode = -signal.SIGKILL
        return self.returncode

    def poll(self) -> int | None:
        return self.wait(0.0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _serve(replies: int) -> None:
    atexit.register(_end)  # first, so that it is called last
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # see genrec_lab.viz
    _import(_EACH_NEEDS)
    for before, line in enumerate(sys.stdin):
        if before:  # a chain of one notebook does not wait for what that may not need
            _import(_MOST_NEED)
        kernel = os.fork()
        if not kernel:
            try:
                _become_kernel(json.loads(line), replies)
            except Exception:  # noqa: BLE001 - whatever it is, the exit code says so
                traceback.print_exc()
                os._exit(1)
            return
        ended = os.pidfd_open(kernel)
        # While a kernel runs nobody asks for another: what comes then is the end of the input.
        if ended not in select.select([sys.stdin, ended], [], [])[0]:
            return
        os.close(ended)
        code = os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1])
        os.write(replies, f"{code}\n".encode())


def _import(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):
            import_module(name)


def _become_kernel(asked: Mapping[str, Any], replies: int) -> None:
    from ipykernel.kernelapp import launch_new_instance

    os.setsid()  # before anyone knows its number, for signals go to its group
    os.write(replies, f"{os.getpid()}\n".encode())
    os.close(replies)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.chdir(asked["cwd"])
    sys.path.insert(0, "")  # as in every kernel; what was imported before must not come from any folder
    os.environ.clear()
    os.environ.update(asked["environment"])
    # It ends when this parent does. ipykernel has read the environment's JPY_PARENT_PID at its import.
    sys.argv = ["ipykernel_launcher", *asked["arguments"], f"--IPKernelApp.parent_handle={os.getppid()}"]
    launch_new_instance()


def _end(modules: dict[str, ModuleType] = sys.modules, leave: Callable[[int], Any] = os._exit) -> None:
    """End, with what a notebook left open closed, without taking thousands of modules apart for seconds."""
    vars(modules["__main__"]).clear()
    leave(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
