"""Pictures of a catalogue fetched from the web into one packed file: bounded, checked, resumed, counted."""

from __future__ import annotations

import http.client
import io
import struct
import time
import urllib.error
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from PIL import Image

from genrec_lab.data.downloads import PASSING, opened
from genrec_lab.data.picture_pack import opened_picture, writing_pack
from genrec_lab.data.rules import DataError

# Amazon's "large" pictures have at most 500 px a side and 100 kB; far beyond that is no product picture.
MOST_BYTES, MOST_PIXELS, LEAST_SIDE = 10 * 2**20, 30_000_000, 8
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
_BATCH = 64
_QUALITY = 90
# Pillow's plugins have no common class of error for damaged files.
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)


@dataclass(frozen=True)
class PictureCounts:
    """What came of a catalogue's pictures: newly fetched, there before, and missing by reason."""

    fetched: int
    there_before: int
    missing: dict[str, int] = field(default_factory=dict)


class _Missing(Exception):
    """No picture will come of this address; the message is the reason. `again`: it may another day."""

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def fetch_pictures(
    addresses: Mapping[str, str],
    pack: Path,
    *,
    side: int = 256,
    connections: int = 8,
    attempts: int = 3,
    timeout: float = 20.0,
    sleep: Callable[[float], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PictureCounts:
    """Fetch the pictures of items (key to address, "" for none) into a packed file, at most `side` px a side.

    At most `connections` are open at once. What is there is not fetched again; an address that has refused or
    gave no picture is remembered as missing, one that was only out of reach is asked again by the next call.
    Pictures are RGB JPEGs, transparent ones on white. Refused: more than 10 MB, more than 30 million pixels,
    below 8 px a side, and any file but a JPEG, PNG, GIF or WebP. `progress` is called with how many are done,
    and how many there are.
    Raises DataError for a key that cannot name a picture, and as `writing_pack` does.
    """
    if side < LEAST_SIDE or connections < 1 or attempts < 1:
        raise DataError(
            f"side = {side}, connections = {connections}, attempts = {attempts}; expected at least "
            f"{LEAST_SIDE}, 1 and 1"
        )
    for key in addresses:
        if not key or "/" in key or "\\" in key or "\x00" in key or key in (".", ".."):
            raise DataError(f"{key!r} cannot name a picture; give keys without slashes")
    with writing_pack(pack, f"side {side}") as writer:
        there, refused = writer.known()
        reasons = [refused[key] for key in addresses if key in refused and key not in there]
        unaddressed = [key for key in addresses if not addresses[key] and key not in there]
        reasons += ["no address"] * len(unaddressed)
        asked = [key for key in addresses if addresses[key] and key not in there and key not in refused]

        def one(key: str) -> bytes:
            return _picture(addresses[key], side, attempts, timeout, sleep or time.sleep)

        pictures: list[tuple[str, bytes]] = []
        missing: list[tuple[str, str]] = []
        for done, (key, future) in enumerate(_bounded(one, asked, connections), start=1):
            try:
                pictures.append((key, future.result()))
            except _Missing as error:
                reasons.append(str(error))
                if not error.again:
                    missing.append((key, str(error)))
            if len(pictures) + len(missing) >= _BATCH:
                writer.add(pictures, missing)
                pictures, missing = [], []
            if progress is not None:
                progress(done, len(asked))
        writer.add(pictures, missing)
        now, _ = writer.known()
    counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return PictureCounts(len(now) - len(there), sum(key in there for key in addresses), counts)


def _bounded(
    work: Callable[[str], bytes], keys: list[str], connections: int
) -> Iterator[tuple[str, Future[bytes]]]:
    """Each key with its finished work, never more than twice as many waiting as there are connections."""
    waiting = iter(keys)
    with ThreadPoolExecutor(connections) as pool:
        running = {pool.submit(work, key): key for key in islice(waiting, 2 * connections)}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future
                    running |= {pool.submit(work, key): key for key in islice(waiting, 1)}
        finally:
            for future in running:
                future.cancel()


def _picture(address: str, side: int, attempts: int, timeout: float, sleep: Callable[[float], None]) -> bytes:
    for attempt in range(attempts):
        try:
            return thumbnail(_bytes(_over_https(address), timeout), side)
        except _Missing as error:
            if not error.again or attempt + 1 == attempts:
                raise
            sleep(2.0**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _bytes(address: str, timeout: float) -> bytes:
    try:
        with opened(address, timeout=timeout) as answer:
            kind = answer.headers.get_content_type()
            if not kind.startswith("image/") and kind != "application/octet-stream":
                raise _Missing(f"answered {kind}, no picture")
            announced = answer.headers.get("Content-Length", "")
            if announced.isdigit() and int(announced) > MOST_BYTES:
                raise _Missing("more than 10 MB")
            content: bytes = answer.read(MOST_BYTES + 1)
    except DataError as error:
        raise _Missing("no https address") from error
    except urllib.error.HTTPError as error:
        raise _Missing(f"answered {error.code}", again=error.code in PASSING) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _Missing("out of reach", again=True) from error
    if len(content) > MOST_BYTES:
        raise _Missing("more than 10 MB")
    if announced.isdigit() and len(content) < int(announced):
        raise _Missing("broke off", again=True)
    return content


def thumbnail(content: bytes, side: int) -> bytes:
    """A picture's bytes as an RGB JPEG of at most `side` px a side; raises _Missing for what is refused."""
    try:
        with opened_picture(io.BytesIO(content), FORMATS, MOST_PIXELS) as image:
            if min(image.size) < LEAST_SIDE:
                raise _Missing("below 8 px a side")
            image.draft("RGB", (side, side))
            layered = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except Image.DecompressionBombError as error:
        raise _Missing("more than 30 million pixels") from error
    except _DAMAGED as error:
        raise _Missing("no picture that can be read") from error
    layered.thumbnail((side, side), Image.Resampling.LANCZOS)
    if layered.mode == "RGBA":
        white = Image.new("RGBA", layered.size, "white")
        layered = Image.alpha_composite(white, layered).convert("RGB")
    stored = io.BytesIO()
    layered.save(stored, "JPEG", quality=_QUALITY)
    return stored.getvalue()


def _over_https(address: str) -> str:
    """The address of 2014 metadata's pictures as it is served today: their old host had no https."""
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname and parts.hostname.endswith("images-amazon.com"):
        host = "images-na.ssl-images-amazon.com" if parts.hostname.startswith("ecx.") else parts.netloc
        return urlunsplit(("https", host, parts.path, parts.query, ""))
    return address
