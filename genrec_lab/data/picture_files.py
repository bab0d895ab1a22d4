"""A packed file with all pictures of a domain, `<name>.pictures`, and the download into it.

The packed file is an SQLite database: one file replaces a hundred thousand small ones, writes are atomic, and
an interrupted download can continue. A picture in it has the path `<name>.pictures/<key>.jpg`, as if it were
in a folder, and is read without the rest. Downloads are bounded, checked, resumed and counted.
"""

from __future__ import annotations

import http.client
import io
import sqlite3
import struct
import time
import urllib.error
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from PIL import Image

from genrec_lab.data.downloads import PASSING, opened
from genrec_lab.data.rules import DataError

PACK_SUFFIX, PICTURE_ENDING = ".pictures", ".jpg"
_FORMAT = "genrec_lab pictures 1"
# The formats in catalogues. Others are rejected regardless of the file name: Pillow would pass some, such as
# PostScript, to another program.
PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
MOST_PIXELS = 64_000_000  # 256 MB when decoded; the largest product pictures have a tenth of that


def pack_of(path: Path) -> Path | None:
    """Return the packed file that a picture's path leads into, None for a separate file."""
    return path.parent if path.parent.suffix == PACK_SUFFIX and path.parent.is_file() else None


def picture_source(path: Path) -> Path | io.BytesIO:
    """Return what Pillow can open: the file itself, or the bytes from a packed file.

    Raises FileNotFoundError if there is no such picture, DataError for a damaged packed file.
    """
    pack = pack_of(path)
    if pack is None:
        return path
    with _reading(pack) as stored:
        row = stored.execute(
            "SELECT picture FROM pictures WHERE key = ?", (path.name.removesuffix(PICTURE_ENDING),)
        ).fetchone()
    if row is None:
        raise FileNotFoundError(f"{pack} has no picture {path.name}")
    return io.BytesIO(row[0])


@contextmanager
def opened_picture(
    source: Path | io.BytesIO, formats: tuple[str, ...] = PICTURE_FORMATS, most_pixels: int = MOST_PIXELS
) -> Iterator[Image.Image]:
    """Open a picture with Pillow, restricted in formats and pixels, without reading pixels yet.

    Raises the errors of Pillow and `picture_source`, and DecompressionBombError if it is too large.
    """
    found = picture_source(source) if isinstance(source, Path) else source
    with warnings.catch_warnings():
        # Pillow warns at a lower size than it rejects; this limit is between the two.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(found, formats=formats) as opened:
            width, height = opened.size
            if width * height > most_pixels:
                raise Image.DecompressionBombError(
                    f"it has {width:,} x {height:,} pixels, at most {most_pixels:,} are read"
                )
            yield opened


def has_picture(path: Path) -> bool:
    """Return whether there is a picture at this path, as a separate file or in a packed one."""
    pack = pack_of(path)
    if pack is None:
        return path.is_file()
    with _reading(pack) as stored:
        found = stored.execute(
            "SELECT 1 FROM pictures WHERE key = ?", (path.name.removesuffix(PICTURE_ENDING),)
        ).fetchone()
    return found is not None


def packed_names(pack: Path) -> set[str]:
    """Return the names `<key>.jpg` of all pictures in a packed file."""
    with _reading(pack) as stored:
        return {f"{key}{PICTURE_ENDING}" for key in _keys(stored)}


@contextmanager
def writing_pack(pack: Path, settings: str) -> Iterator[sqlite3.Connection]:
    """Open a packed file for adding, and create it if needed; added batches stay after an error.

    `settings` describes its pictures. Raises DataError for a file with other settings or another format.
    """
    pack.parent.mkdir(parents=True, exist_ok=True)
    with _damage(pack), closing(sqlite3.connect(pack)) as stored:
        stored.execute("CREATE TABLE IF NOT EXISTS about (format TEXT, settings TEXT)")
        for table, value in (("pictures", "picture BLOB"), ("missing", "reason TEXT")):
            stored.execute(f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, {value} NOT NULL)")
        about = stored.execute("SELECT format, settings FROM about").fetchone()
        if about is None:
            stored.execute("INSERT INTO about VALUES (?, ?)", (_FORMAT, settings))
            stored.commit()
        elif about != (_FORMAT, settings):
            raise DataError(
                f"{pack}: written as {about[0]} with {about[1]}, but requested is {_FORMAT} with "
                f"{settings}; choose another name, or delete it"
            )
        yield stored
        stored.commit()


def _add(
    stored: sqlite3.Connection, pictures: list[tuple[str, bytes]], missing: list[tuple[str, str]]
) -> None:
    """Write pictures by key, and missing keys with the reason, in one transaction."""
    with stored:
        stored.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?)", pictures)
        stored.executemany("DELETE FROM missing WHERE key = ?", [(key,) for key, _ in pictures])
        stored.executemany("INSERT OR REPLACE INTO missing VALUES (?, ?)", missing)


@contextmanager
def _reading(pack: Path) -> Iterator[sqlite3.Connection]:
    address = f"file:{quote(str(pack.absolute()))}?mode=ro"
    with _damage(pack), closing(sqlite3.connect(address, uri=True)) as stored:
        yield stored


@contextmanager
def _damage(pack: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise OSError(28, f"the disk is full; what was fetched into {pack} is kept") from error
        raise DataError(
            f"{pack}: cannot be read or written ({error}); check its permissions, or delete it"
        ) from error
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{pack}: not a file of pictures, or damaged ({error}); delete it to fetch it again"
        ) from error


def _keys(stored: sqlite3.Connection) -> set[str]:
    return {key for (key,) in stored.execute("SELECT key FROM pictures")}


# Amazon's "large" pictures have at most 500 px per side and 100 kB; much larger files are not product
# pictures.
MOST_BYTES, MOST_FETCHED_PIXELS, LEAST_SIDE = 10 * 2**20, 30_000_000, 8
FETCHED_FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
_BATCH = 64
_QUALITY = 90
# Pillow's plugins have no common error class for damaged files.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error)


@dataclass(frozen=True)
class PictureCounts:
    """Counts of a catalogue's pictures: newly fetched, already there, and missing by reason."""

    fetched: int
    there_before: int
    missing: dict[str, int] = field(default_factory=dict)


class _Missing(Exception):
    """An address without a picture; the message is the reason. `again`: another attempt may succeed later."""

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

    At most `connections` are open at a time. Existing pictures are not fetched again. An address that was
    denied or is not a picture is stored as missing; an unreachable one is tried again by the next call.
    Pictures are stored as RGB JPEGs, transparent ones on white. Rejected: more than 10 MB, more than 30
    million pixels, below 8 px per side, and files other than JPEG, PNG, GIF or WebP. `progress` is called
    with the number done and the total.
    Raises DataError for a key that cannot name a picture, and like `writing_pack`.
    """
    if side < LEAST_SIDE or connections < 1 or attempts < 1:
        raise DataError(
            f"side = {side}, connections = {connections}, attempts = {attempts}; expected at least "
            f"{LEAST_SIDE}, 1 and 1"
        )
    for key in addresses:
        if not key or "/" in key or "\\" in key or "\x00" in key or key in (".", ".."):
            raise DataError(f"{key!r} cannot name a picture; give keys without slashes")
    with writing_pack(pack, f"side {side}") as stored:
        there, refused = _keys(stored), dict(stored.execute("SELECT key, reason FROM missing"))
        absent = [key for key in addresses if key not in there]
        asked = [key for key in absent if addresses[key] and key not in refused]
        reasons = [refused.get(key, "no address") for key in absent if key in refused or not addresses[key]]

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
                _add(stored, pictures, missing)
                pictures, missing = [], []
            if progress is not None:
                progress(done, len(asked))
        _add(stored, pictures, missing)
        now = _keys(stored)
    counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return PictureCounts(len(now) - len(there), sum(key in there for key in addresses), counts)


def _bounded(
    work: Callable[[str], bytes], keys: list[str], connections: int
) -> Iterator[tuple[str, Future[bytes]]]:
    """Yield each key with its finished work; at most twice as many wait as there are connections."""
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
    attempt = 0
    while True:
        try:
            return thumbnail(_bytes(_over_https(address), timeout), side)
        except _Missing as error:
            attempt += 1
            if not error.again or attempt >= attempts:
                raise
        sleep(2.0 ** (attempt - 1))


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
    """Return a picture as an RGB JPEG of at most `side` px per side; raises _Missing if it is rejected."""
    try:
        with opened_picture(io.BytesIO(content), FETCHED_FORMATS, MOST_FETCHED_PIXELS) as image:
            if min(image.size) < LEAST_SIDE:
                raise _Missing("below 8 px a side")
            image.draft("RGB", (side, side))
            layered = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except Image.DecompressionBombError as error:
        raise _Missing("more than 30 million pixels") from error
    except DAMAGED as error:
        raise _Missing("no picture that can be read") from error
    layered.thumbnail((side, side), Image.Resampling.LANCZOS)
    if layered.mode == "RGBA":
        white = Image.new("RGBA", layered.size, "white")
        layered = Image.alpha_composite(white, layered).convert("RGB")
    stored = io.BytesIO()
    layered.save(stored, "JPEG", quality=_QUALITY)
    return stored.getvalue()


def _over_https(address: str) -> str:
    """Return the current https address of pictures in the 2014 metadata, whose old host had no https."""
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname and parts.hostname.endswith("images-amazon.com"):
        host = "images-na.ssl-images-amazon.com" if parts.hostname.startswith("ecx.") else parts.netloc
        return urlunsplit(("https", host, parts.path, parts.query, ""))
    return address
