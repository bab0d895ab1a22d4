"""Execute one notebook with papermill, in a kernel of its own that never outlives the chain."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import click
import papermill
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from genrec_lab.lab.files import NotebookFailed, is_disk_full
from genrec_lab.lab.forked import KernelServer
from genrec_lab.lab.notebooks import KERNEL

_POLL_SECONDS = 0.2
_INTERRUPT_PATIENCE_SECONDS = 15.0  # what a training step may need to reach its next instruction
_START_SECONDS = 600  # on a busy machine a kernel is slow to answer for the first time
_TRACEBACK_LINES_SHOWN = 25
_LAUNCHER = "ipykernel_launcher"


def execute_notebook(
    notebook: Path,
    executed: Path,
    parameters: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    output: io.TextIOBase,
    server: KernelServer | None,
) -> None:
    """Run a notebook from start to end, saving it after every cell as `executed`.

    What it prints goes to `output`. The kernel works in the notebook's folder; `server` forks it where there
    is one. Raises `NotebookFailed` with the cell and its error. At Ctrl-C, or any other exception in the
    calling thread, the kernel is interrupted, so that its stage can record it, and then ended.
    """
    caught: list[BaseException] = []
    ended = threading.Event()  # an interrupted Thread.join takes a running thread for a stopped one

    def work() -> None:
        try:
            papermill.execute_notebook(
                _literal_path(notebook), _literal_path(executed), dict(parameters), kernel_name=KERNEL,
                progress_bar=False, stdout_file=output, stderr_file=output, km=kernel,
                start_timeout=_START_SECONDS,
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread, which raises it
            caught.append(error)
        finally:
            ended.set()

    # papermill blocks; in a thread of its own it leaves signals and the progress display to this one
    worker = threading.Thread(target=work, name=f"papermill {notebook.stem}", daemon=True)
    with tempfile.TemporaryDirectory(prefix="genrec-", ignore_cleanup_errors=True) as sockets:
        kernel = _Kernel(kernel_name=KERNEL)
        kernel.server = server
        if sys.platform != "win32":  # sockets in a private folder: no other user can reach the kernel
            kernel.transport, kernel.ip = "ipc", str(Path(sockets) / "kernel")
        # as nbclient starts its own kernels: no history file is shared, so none is locked
        run_sync(kernel.start_kernel)(
            cwd=str(notebook.parent),
            env={**os.environ, **environment},
            extra_arguments=["--HistoryManager.hist_file=:memory:"],
        )
        try:
            worker.start()
            while not ended.wait(_POLL_SECONDS):  # without a timeout no signal would come through
                pass
        except BaseException:
            if run_sync(kernel.is_alive)():
                run_sync(kernel.interrupt_kernel)()
            ended.wait(_INTERRUPT_PATIENCE_SECONDS)
            raise
        finally:
            code = kernel.exit_code()
            kernel.end(now=not ended.is_set() or bool(caught))
    if caught:
        raise _explained(notebook, executed, caught[0], code) from caught[0]


class ForkedKernel(KernelManager):
    """A kernel that `server` forks where there is one."""

    server: KernelServer | None = None

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        local, ours = self.provisioner, kernel_cmd[0] == sys.executable and _LAUNCHER in kernel_cmd
        if self.server is None or not ours or not isinstance(local, LocalProvisioner):
            await super()._async_launch_kernel(kernel_cmd, **options)
            return
        arguments = kernel_cmd[kernel_cmd.index(_LAUNCHER) + 1 :]
        process = self.server.fork(arguments, options["cwd"], options["env"])
        local.process = process  # type: ignore[assignment]  # it has what a Popen is asked for
        local.pid = local.pgid = process.pid
        self._reconcile_connection_info(local.connection_info)


class _Kernel(ForkedKernel, AsyncKernelManager):
    """A kernel that closes the connection which papermill opens and leaves open for the next notebook."""

    _opened: AsyncKernelClient | None = None

    def client(self, **options: Any) -> AsyncKernelClient:  # type: ignore[override]  # as its base says itself
        self._opened = super().client(**options)
        return self._opened

    def end(self, now: bool) -> None:
        """End the kernel's process, at once or after what it does at its exit, and the connection to it."""
        with contextlib.suppress(RuntimeError):  # it may have ended by itself
            run_sync(self.shutdown_kernel)(now=now)
        if self._opened is not None:
            self._opened.stop_channels()

    def exit_code(self) -> int | None:
        process = getattr(self.provisioner, "process", None)
        return None if process is None else process.poll()


def _explained(notebook: Path, executed: Path, error: BaseException, code: int | None) -> BaseException:
    if isinstance(error, PapermillExecutionError):
        trace = click.unstyle("\n".join(error.traceback)).splitlines()[-_TRACEBACK_LINES_SHOWN:]
        shown = indent("\n".join(trace), " " * 4)
        return NotebookFailed(
            f"{notebook.name} stopped in cell {error.cell_index} with {error.ename}: {error.evalue}\n\n"
            f"{shown}\n\nThe notebook up to there: {executed}"
        )
    if isinstance(error, DeadKernelError) or "Kernel died" in str(error):
        why = "; signal 9 usually means that memory ran out" if code == -9 else ""
        return NotebookFailed(f"The kernel of {notebook.name} died (exit code {code}{why}). See {executed}")
    if is_disk_full(error):
        return NotebookFailed(
            f"The disk that holds {executed.parent} is full, so {notebook.name} could not be saved. "
            "Finished stages are safe. Free some space, then run the same command again."
        )
    return error


def _literal_path(file: Path) -> str:
    # papermill fills {names} in paths; a folder with braces in its name is meant as it is
    return str(file).replace("{", "{{").replace("}", "}}")
