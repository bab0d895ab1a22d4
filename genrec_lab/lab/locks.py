"""Locks that keep two processes from working in one run folder, and that no dead process can leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrec_lab.lab.files import RunError

_LOCK_BYTE = 1 << 30  # far past the holder's description, so that Windows lets others read that
_POLL_SECONDS = 0.05
_WRITE_PATIENCE_SECONDS = 30.0


@contextlib.contextmanager
def held(file: Path, purpose: str, patience_seconds: float) -> Iterator[dict[str, Any] | None]:
    """Hold a run folder's lock file while the block lasts; gives the holder that died holding it, or None.

    Raises `RunError` naming the process that kept the lock for longer than the patience.
    """
    lock = FileLock(file, purpose)
    if not lock.acquire(patience_seconds):
        raise RunError(f"The run folder {file.parent} is in use, so {purpose} cannot start: {_who(lock)}")
    try:
        yield lock.left_behind
    finally:
        lock.release()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only one who writes a run folder's small JSON files while the block lasts; not reentrant."""
    with held(folder / ".write.lock", "writing the manifest", _WRITE_PATIENCE_SECONDS):
        yield


class FileLock:
    """An exclusive lock on a file that the system itself releases when its holder dies, however it dies.

    The file stays; while the lock is held it describes the holder in JSON (pid, host, what for, since when).
    """

    def __init__(self, file: Path, purpose: str) -> None:
        self.file = file
        self.purpose = purpose
        self.left_behind: dict[str, Any] | None = None
        self._descriptor: int | None = None

    def acquire(self, patience_seconds: float) -> bool:
        """Take the lock, waiting at most `patience_seconds`; False if another holder kept it.

        `left_behind` then tells of a previous holder that died without releasing it.
        """
        deadline = time.monotonic() + patience_seconds
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return False
            time.sleep(0.05)
        self._descriptor = descriptor
        self.left_behind = self.holder()
        self._describe({"pid": os.getpid(), "host": socket.gethostname(), "purpose": self.purpose,
                        "since": time.strftime("%Y-%m-%d %H:%M:%S")})  # fmt: skip
        return True

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._descriptor is None:
            return
        try:
            self._describe(None)
        finally:
            _unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> dict[str, Any] | None:
        """The description of the present holder, or of one that died; None when it was released."""
        try:
            text = self.file.read_text(encoding="utf-8")
            described = json.loads(text) if text.strip() else None
        except (OSError, ValueError):  # read in the middle of the holder's writing: held, by whom is unknown
            return {}
        return described if isinstance(described, dict) else None

    def _describe(self, holder: dict[str, Any] | None) -> None:
        if self._descriptor is None:
            return
        os.ftruncate(self._descriptor, 0)
        if holder is not None:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
                os.write(self._descriptor, json.dumps(holder).encode())


def _who(lock: FileLock) -> str:
    holder = lock.holder() or {}
    if holder.get("pid") == os.getpid():
        return f"this same process is still inside {holder['purpose']}; wait for it, stages cannot be nested."
    return (
        f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'this machine')} has been in "
        f"{holder.get('purpose', 'it')} since {holder.get('since', 'a moment ago')}. "
        "Wait for it, end it, or use another run name."
    )


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCK_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCK_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
