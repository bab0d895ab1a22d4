"""Downloads over https that can be resumed, are checked, and are moved into place atomically."""

from __future__ import annotations

import errno
import gzip
import http.client
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from genrec_lab.data.rules import DataError
from genrec_lab.data.whole_files import sha256_of

ATTEMPTS, PATIENCE, CHUNK = 5, 60.0, 1 << 20
MOST_BYTES = 64 * 2**30  # the largest file of the Amazon reviews has a third of this
# Responses after which the same address is tried again; others end the attempts.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class DownloadRecord:
    """The origin (without user, password or query), size and hash of a fetched file."""

    address: str
    bytes: int
    sha256: str
    attempts: int


class _Broken(Exception):
    """A failed attempt; `wait` seconds before the next, None if this address is not tried again."""

    def __init__(self, message: str, wait: float | None = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


def require_safe(address: str) -> str:
    """Return the address; raises DataError unless it is https, or http to this machine."""
    parts = urlsplit(address)
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and _is_local(parts.hostname))):
        return address
    raise DataError(
        f"{public_address(address)!r}: downloads go over https, or over http to this machine; give an "
        "https address"
    )


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def public_address(address: str) -> str:
    """Return the address without user, password, query and fragment, which may hold secrets, for logs."""
    parts = urlsplit(address)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path, "", ""))


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to addresses that `require_safe` allows."""

    max_redirections = 5

    def redirect_request(self, *request: Any, **named: Any) -> urllib.request.Request | None:
        *_, new_address = request
        require_safe(new_address)
        return super().redirect_request(*request, **named)


def opened(address: str, headers: dict[str, str] | None = None, timeout: float = 30.0) -> Any:
    """Return the response from a safe address, with checked redirects; raises like urllib, and DataError."""
    request = urllib.request.Request(  # noqa: S310 - require_safe checked the scheme
        require_safe(address), headers={"User-Agent": "genrec_lab", **(headers or {})}
    )
    return urllib.request.build_opener(_SafeRedirects).open(request, timeout=timeout)


def download(
    addresses: Sequence[str],
    target: Path,
    *,
    attempts: int = ATTEMPTS,
    timeout: float = 30.0,
    sleep: Callable[[float], None] | None = None,
    most_bytes: int = MOST_BYTES,
) -> DownloadRecord:
    """Fetch `target` from the first of these addresses that works, unless it exists already.

    The bytes go to `target.partial`, from which an interrupted download continues, even in a later process.
    The whole file is checked (announced length or gzip checksum; a file with neither is rejected), hashed,
    and renamed. Its record is stored as `target.download.json`. A response of more than `most_bytes` is
    aborted.
    Raises DataError, listing every address with its response.
    """
    if target.is_file():
        return _noted_record(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    answers: list[str] = []
    made = 0
    for address in addresses:
        require_safe(address)
        for attempt in range(attempts):
            made += 1
            try:
                partial = _fetch(address, target, timeout, most_bytes)
            except _Broken as error:
                answers.append(f"{public_address(address)}: {error}")
                if error.wait is None:
                    break
                if attempt + 1 < attempts:
                    (sleep or time.sleep)(max(error.wait, min(2.0**attempt, PATIENCE)))
                continue
            record = DownloadRecord(public_address(address), partial.stat().st_size, sha256_of(partial), made)
            noted = json.dumps(asdict(record), indent=2) + "\n"
            _beside(target, "download.json").write_text(noted, encoding="utf-8")
            os.replace(partial, target)
            _beside(target, "partial.json").unlink(missing_ok=True)
            return record
    seen = "\n  ".join(dict.fromkeys(answers))
    raise DataError(
        f"{target.name}: none of {len(addresses)} addresses worked:\n  {seen}\nTry again later (the partial "
        f"file is kept), name other mirrors, or put the file at {target} yourself"
    )


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}.{ending}")


def _noted_record(target: Path) -> DownloadRecord:
    try:
        record = DownloadRecord(**json.loads(_beside(target, "download.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        # Put there by hand, so there is no record.
        return DownloadRecord("", target.stat().st_size, "", 0)
    if record.bytes != target.stat().st_size:
        raise DataError(
            f"{target}: {target.stat().st_size:,} bytes, but {record.bytes:,} were fetched; delete it to "
            "fetch it again"
        )
    return record


def _fetch(address: str, target: Path, timeout: float, most_bytes: int) -> Path:
    """Make one attempt; return the complete partial file, or raise _Broken and keep the received bytes."""
    partial = _beside(target, "partial")
    have, validator = _resumable(target, address)
    headers = {"Range": f"bytes={have}-", "If-Range": validator} if have else {}
    try:
        with opened(address, headers, timeout) as answer:
            resumed = answer.status == 206
            if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                partial.unlink(missing_ok=True)
                raise _Broken("answered with a different range than requested")
            length = answer.headers.get("Content-Length", "")
            total = int(length) + (have if resumed else 0) if length.isdigit() else None
            if total is None and not target.name.endswith(".gz"):
                raise _Broken("announced no length, so a truncated file would go unnoticed", None)
            if total is not None and total > most_bytes:
                raise _Broken(f"announced {total:,} bytes, more than {most_bytes:,}", None)
            state = {"address": public_address(address), "validator": _validator(answer.headers)}
            _beside(target, "partial.json").write_text(json.dumps(state), encoding="utf-8")
            with partial.open("ab" if resumed else "wb") as file:
                while piece := answer.read(CHUNK):
                    if file.tell() + len(piece) > most_bytes:
                        partial.unlink()
                        raise _Broken(f"sent more than {most_bytes:,} bytes", None)
                    file.write(piece)
    except urllib.error.HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE:
            partial.unlink(missing_ok=True)
            raise _Broken("the part on disk does not belong to it; starting again") from error
        after = error.headers.get("Retry-After", "")
        wait = min(float(after), PATIENCE) if after.isdigit() else 0.0
        raise _Broken(
            f"answered {error.code} {error.reason}", wait if error.code in PASSING else None
        ) from error
    except http.client.IncompleteRead as error:
        raise _Broken(f"broke off, {len(error.partial):,} bytes short of a piece") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise _Broken(f"broke off ({getattr(error, 'reason', error) or type(error).__name__})") from error
    size = partial.stat().st_size
    if total is not None and size != total:
        if size > total:
            partial.unlink()
        raise _Broken(f"sent {size:,} bytes of the {total:,} announced")
    if target.name.endswith(".gz"):
        _check_gzip(partial)
    return partial


def _resumable(target: Path, address: str) -> tuple[int, str]:
    """Return how many bytes may be kept, and the validator that detects changes of the remote file."""
    try:
        noted = json.loads(_beside(target, "partial.json").read_text(encoding="utf-8"))
        have = _beside(target, "partial").stat().st_size
    except (OSError, ValueError):
        return 0, ""
    same = noted.get("address") == public_address(address) and noted.get("validator")
    return (have, str(noted["validator"])) if same else (0, "")


def _validator(headers: Message) -> str:
    etag = headers.get("ETag") or ""
    # A weak tag does not guarantee equal bytes, so it cannot be used for a range request.
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified") or ""


def _check_gzip(partial: Path) -> None:
    """Read a gzip file to its end to verify its checksum."""
    try:
        with gzip.open(partial) as file:
            while file.read(CHUNK):
                pass
    except (OSError, EOFError, zlib.error) as error:
        partial.unlink()
        raise _Broken(f"sent a damaged gzip file ({error})") from error
