"""One file with all pictures of a domain, `<name>.pictures`, read by item without reading the rest.

It is an SQLite database: a hundred thousand small files become one, pictures are written as one step, and a
killed download goes on. A picture in it has the path `<name>.pictures/<key>.jpg`, as if it were a folder.
"""

from __future__ import annotations

import io
import sqlite3
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from genrec_lab.data.rules import DataError

PACK_SUFFIX, PICTURE_ENDING = ".pictures", ".jpg"
_FORMAT = "genrec_lab pictures 1"
# What catalogues hold. Whatever its name ends with, a file of another kind is refused: Pillow would hand
# some, such as PostScript, to another program.
PICTURE_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
MOST_PIXELS = 64_000_000  # 256 MB once decoded; the largest product pictures have a tenth of that


def pack_of(path: Path) -> Path | None:
    """The packed file that a picture's path leads into, None for a file of its own."""
    return path.parent if path.parent.suffix == PACK_SUFFIX and path.parent.is_file() else None


def picture_source(path: Path) -> Path | io.BytesIO:
    """What Pillow can open: the file itself, or the bytes from a packed file.

    Raises FileNotFoundError where there is no such picture, DataError for a packed file that is damaged.
    """
    pack = pack_of(path)
    if pack is None:
        return path
    with _reading(pack) as stored:
        row = stored.execute("SELECT picture FROM pictures WHERE key = ?", (_key(path.name),)).fetchone()
    if row is None:
        raise FileNotFoundError(f"{pack} has no picture {path.name}")
    return io.BytesIO(row[0])


@contextmanager
def opened_picture(
    source: Path | io.BytesIO, formats: tuple[str, ...] = PICTURE_FORMATS, most_pixels: int = MOST_PIXELS
) -> Iterator[Image.Image]:
    """A picture opened by Pillow, of some formats and so many pixels at most, none of which is read yet.

    Raises what Pillow and `picture_source` raise, DecompressionBombError for one that is too large.
    """
    found = picture_source(source) if isinstance(source, Path) else source
    with warnings.catch_warnings():
        # Pillow warns of less than it refuses; the limit here is between the two.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(found, formats=formats) as opened:
            width, height = opened.size
            if width * height > most_pixels:
                raise Image.DecompressionBombError(
                    f"it has {width:,} x {height:,} pixels, at most {most_pixels:,} are read"
                )
            yield opened


def has_picture(path: Path) -> bool:
    """Whether there is a picture at this path, in a file of its own or in a packed one."""
    pack = pack_of(path)
    if pack is None:
        return path.is_file()
    with _reading(pack) as stored:
        found = stored.execute("SELECT 1 FROM pictures WHERE key = ?", (_key(path.name),)).fetchone()
    return found is not None


def packed_names(pack: Path) -> set[str]:
    """The names `<key>.jpg` of all pictures in a packed file."""
    with _reading(pack) as stored:
        return {f"{key}{PICTURE_ENDING}" for (key,) in stored.execute("SELECT key FROM pictures")}


@contextmanager
def writing_pack(pack: Path, settings: str) -> Iterator[PictureWriter]:
    """A packed file to be added to, made where it is not there; batches that were added stay.

    `settings` says how its pictures were made. Raises DataError for a file made otherwise, or no such file.
    """
    pack.parent.mkdir(parents=True, exist_ok=True)
    stored = sqlite3.connect(pack)
    try:
        with _damage(pack):
            stored.execute("CREATE TABLE IF NOT EXISTS about (format TEXT, settings TEXT)")
            for table, value in (("pictures", "picture BLOB"), ("missing", "reason TEXT")):
                stored.execute(f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, {value} NOT NULL)")
            about = stored.execute("SELECT format, settings FROM about").fetchone()
            if about is None:
                stored.execute("INSERT INTO about VALUES (?, ?)", (_FORMAT, settings))
                stored.commit()
            elif about != (_FORMAT, settings):
                raise DataError(
                    f"{pack}: made as {about[0]} with {about[1]}, asked for is {_FORMAT} with {settings}; "
                    "give it another name, or delete it"
                )
            yield PictureWriter(stored)
            stored.commit()
    finally:
        stored.close()


class PictureWriter:
    """Adds to a packed file; made by `writing_pack`."""

    def __init__(self, stored: sqlite3.Connection) -> None:
        self._stored = stored

    def known(self) -> tuple[set[str], dict[str, str]]:
        """The keys whose picture is there, and those known to be missing with the reason."""
        pictures = {key for (key,) in self._stored.execute("SELECT key FROM pictures")}
        return pictures, dict(self._stored.execute("SELECT key, reason FROM missing"))

    def add(self, pictures: Iterable[tuple[str, bytes]], missing: Iterable[tuple[str, str]]) -> None:
        """Write pictures by key, and keys without one with the reason, as one step."""
        with self._stored:
            pairs = list(pictures)
            self._stored.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?)", pairs)
            self._stored.executemany("DELETE FROM missing WHERE key = ?", [(key,) for key, _ in pairs])
            self._stored.executemany("INSERT OR REPLACE INTO missing VALUES (?, ?)", list(missing))


@contextmanager
def _reading(pack: Path) -> Iterator[sqlite3.Connection]:
    with _damage(pack):
        stored = sqlite3.connect(f"file:{quote(str(pack.absolute()))}?mode=ro", uri=True)
        try:
            yield stored
        finally:
            stored.close()


@contextmanager
def _damage(pack: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise OSError(28, f"the disk is full; what was fetched into {pack} is kept") from error
        raise DataError(
            f"{pack}: cannot be read or written ({error}); check its rights, or delete it"
        ) from error
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{pack}: no file of pictures, or damaged ({error}); delete it to fetch it again"
        ) from error


def _key(name: str) -> str:
    return name.removesuffix(PICTURE_ENDING)
