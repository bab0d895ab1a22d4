"""Atomic writes, hashes, locks and the log, which let a run folder survive a kill, and names of folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import time
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from genrec_lab.data.whole_files import sha256_of, whole_file
from genrec_lab.registry import did_you_mean

_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows knows no quota error
LONGEST = 100  # bytes; file systems allow 255, and files in the folder need room below a longest path
# What the lab itself calls so: what is trained over all domains, the average over them; the folder of caches.
_OF_DOMAINS = ("all", "average")
_BESIDE_RUNS = ("cache",)
# Windows keeps the names of its devices for itself, with any ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_PLAIN = re.compile(r"\w(?:[\w .-]*[\w-])?")
_RUN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")


class RunError(RuntimeError):
    """What is wrong with a run folder, a run file or a stage, and how to fix it."""


class NotebookFailed(RunError):
    """A notebook raised an error, or its kernel died."""


def write_text(file: Path, text: str) -> None:
    """Write UTF-8 text atomically: after a crash the file holds either the old content or the new.

    Two writers of one file need a lock, because the temporary name is fixed, to leave no litter after a kill.
    """
    with whole_file(file) as partial, partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    if sys.platform != "win32":  # a rename is only durable once its directory is on disk
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_json(file: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused with a ValueError, since JSON has none."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(file: Path) -> Any:
    """Read a JSON file; raises `RunError` with the file and the place if it is malformed."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        again = "`genrec doctor` says what depends on it and makes it again."
        raise RunError(f"{file} is not readable JSON ({error}). {again}") from error


def write_checked(file: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with a checksum of itself; `read_checked` refuses it once it was changed."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    write_json(file, {**plain, "checksum": hash_json(plain)})


def read_checked(file: Path) -> dict[str, Any]:
    """Read what `write_checked` wrote; raises `RunError` where it is malformed or was changed."""
    content = read_json(file)
    if not isinstance(content, dict) or content.pop("checksum", None) != hash_json(content):
        raise RunError(f"{file} was changed after it was written.")
    return content


def as_json(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping as it is read back from JSON; raises `RunError` if JSON cannot hold it."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{name}={content!r} cannot be kept in the manifest ({error}). Use only text, finite numbers, "
            "booleans, None, lists and mappings; write paths as text."
        ) from error
    return plain


def hash_json(content: Any) -> str:
    """SHA-256 in hex of a JSON value, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """`{relative path: {"sha256", "bytes"}}` of every file below `folder`, sorted by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        for file in files
    }


def damage(file: Path, sha256: object, what: str = "it") -> str:
    """Return what is wrong with a file whose hash was recorded, as a sentence; empty if nothing is."""
    if not file.is_file():
        return f"{what} is missing"
    return "" if sha256_of(file) == sha256 else f"{what} was changed after it was saved"


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or the one that caused it, comes from a full disk or an exhausted quota.

    Native writers (parquet, safetensors) wrap the system's error in their own type, so its text is read too.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full_message(run_folder: Path, place: str) -> str:
    """What to say when the disk fills up during a task: what is safe, and how to go on."""
    free = shutil.disk_usage(run_folder).free / 2**20
    return (
        f"The disk that holds {run_folder} is full ({free:,.0f} MB free) in {place}. Finished results and "
        "checkpoints are safe. Free some space (`genrec clean` says what a run can spare), then run this "
        "again: it continues from there. Or move the run's folder, and set GENREC_RUNS to the one above it."
    )


@contextlib.contextmanager
def held(file: Path, purpose: str, patience_seconds: float) -> Iterator[None]:
    """Hold a run folder's lock file during the block; the system releases it when the process dies.

    A second file says who holds the lock and why. Raises `RunError` naming that process after the patience.
    """
    require_folder(file.parent)  # the lock would make it
    described = file.with_suffix(".holder")
    lock = filelock.FileLock(file, poll_interval=0.05)
    try:
        lock.acquire(timeout=patience_seconds)
    except filelock.Timeout as error:
        raise RunError(
            f"The run folder {file.parent} is in use, so {purpose} cannot start: {_who(described)}"
        ) from error
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "purpose": purpose, "since": since}
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
            described.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            described.unlink(missing_ok=True)
        lock.release()


def require_known(name: str, known: Iterable[str], lacks: str, has: str) -> None:
    """Raise `RunError` if a name is not known: "Run 'demo' has no row 'gnc'; it has gmc, tiger"."""
    known = tuple(known)
    if name not in known:
        raise RunError(f"{lacks} {name!r}{did_you_mean(name, known)}; {has} {', '.join(known)}.")


def require_free(folder: Path) -> None:
    """Raise `RunError` if a folder exists and is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} already exists; name a folder that does not exist yet.")


def require_folder(folder: Path) -> None:
    """Raise `RunError` if a run's folder is gone."""
    if not folder.is_dir():
        raise RunError(
            f"The run folder {folder} was moved or deleted while it was in use. Move it back, or run this "
            "again to make what is missing."
        )


def _who(described: Path) -> str:
    holder: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # read in the middle of the holder's writing
        holder = dict(json.loads(described.read_text(encoding="utf-8")))
    if holder.get("pid") == os.getpid():
        return f"this same process is still inside {holder.get('purpose')}; wait for it."
    return (
        f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'this machine')} has been in "
        f"{holder.get('purpose', 'it')} since {holder.get('since', 'a moment ago')}. "
        "Wait for it, end it, or use another run name."
    )


def append_log(folder: Path, record: Mapping[str, Any]) -> None:
    """Append one event to log.jsonl in a single write, so that lines of two processes never mix.

    The last field is a checksum of the line, by which `genrec doctor` finds a changed one.
    """
    text = json.dumps(record, ensure_ascii=False, default=str)
    line = json.dumps({**record, "crc": zlib.crc32(text.encode())}, ensure_ascii=False, default=str) + "\n"
    with (folder / "log.jsonl").open("ab", buffering=0) as stream:
        stream.write(line.encode())


def read_log(folder: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The events of log.jsonl, and the numbers of lines that cannot be read or were changed.

    A last line without its end, which a kill cut off, is neither.
    """
    file = folder / "log.jsonl"
    if not file.is_file():
        return [], []
    lines = file.read_bytes().split(b"\n")
    events, broken = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = dict(json.loads(line))
        except (ValueError, TypeError):
            if number < len(lines):
                broken.append(number)
            continue
        crc = event.pop("crc", None)
        if crc != zlib.crc32(json.dumps(event, ensure_ascii=False).encode()):
            broken.append(number)
        events.append(event)
    return events, broken


def safe_name(name: str) -> str:
    """Return a plain folder name of at most 100 bytes for any text; different texts get different names.

    Letters, digits, "_", "-", and points and spaces inside the name stay as they are. Every other name is
    shortened to what it has of these and ends in "~" and 20 digits of its SHA-256.

    >>> safe_name("Musical Instruments")
    'Musical Instruments'
    >>> safe_name("../../x")
    'x~9cdf6a50100a862e1428'
    """
    if (
        _PLAIN.fullmatch(name)
        and len(name.encode()) <= LONGEST
        and unicodedata.normalize("NFC", name) == name  # file systems may hold two spellings for one
        and not _reserved(name, _OF_DOMAINS)
    ):
        return name
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    short = re.sub(r"[^A-Za-z0-9]+", "_", letters).strip("_")[:60]
    return f"{short or 'name'}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"


def run_name_problem(name: str) -> str | None:
    """Return why a text cannot name a run, whose folder has the very same name; None if it can."""
    if _reserved(name, _BESIDE_RUNS):
        return "that name is reserved; choose another"
    if len(name) > LONGEST:
        return f"a run's name has at most {LONGEST} characters, this one has {len(name):,}; shorten it"
    if not _RUN.fullmatch(name):
        return (
            "a run's name has only letters, digits, '.', '_' and '-', such as demo, and no '.' at either end"
        )
    return None


def _reserved(name: str, ours: tuple[str, ...]) -> bool:
    return name.casefold() in ours or _DEVICE.fullmatch(name) is not None
