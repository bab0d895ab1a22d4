"""What leaves the explorer: links with CSV, pictures, a file for embedding-atlas, and named slices of items.

embedding-atlas (apple.github.io/embedding-atlas) reads parquet, takes columns of precomputed coordinates by
`--x` and `--y`, the text that it searches by `--text`, and all other columns to colour and filter by.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from genrec_lab.data.whole_files import whole_file
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.projection import Projection
from genrec_lab.viz.text import written

EXPORTS = Path("exports")
"""Where in a run's folder the explorer writes files."""
ATLAS_FILE = EXPORTS / "embedding_atlas.parquet"
"""Where it writes the file for embedding-atlas."""
SLICES = "slices"
"""Where it keeps named slices."""

_PIXELS_A_POINT = 2  # sharp on today's screens and in print
_FORMAT = "genrec_lab.slice.1"
_LONGEST_NAME = 200
_LONGEST_FILE_NAME = 60


def write_png(figures: Sequence[go.Figure], folder: Path, name: str) -> list[Path]:
    """Draw figures as `<name>_1.png`, … in a folder, and return the files.

    Raises ValueError where no browser is there to draw them, or kaleido is not installed; it says what helps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}_{place}.png" for place in range(1, len(figures) + 1)]
    for figure, file in zip(figures, files, strict=True):
        try:
            # Drawn first and written then, so that a browser that fails leaves no half file.
            drawn = figure.to_image(format="png", scale=_PIXELS_A_POINT)
        except (ValueError, RuntimeError, OSError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"No picture: {first} It needs kaleido (pip install kaleido) and Chrome or Chromium, on the "
                "path or named by BROWSER_PATH. The camera above a figure saves what this browser drew."
            ) from error
        file.write_bytes(drawn)
    return files


@dataclass(frozen=True)
class AtlasFile:
    """What was written. items: rows; mapped: those of them with coordinates."""

    file: Path
    items: int
    mapped: int

    @property
    def command(self) -> str:
        """The shell line that opens the file; without coordinates embedding-atlas computes its own."""
        places = " --x x --y y" if self.mapped else ""
        return f"embedding-atlas {shlex.quote(str(self.file))} --text title{places}"


def atlas_frame(
    catalogue: CodedCatalogue, maps: Mapping[str, Projection] | None = None, level: int = 0, length: int = 1
) -> pl.DataFrame:
    """One row an item, in the order of the items.

    Columns `id` (item number), `key` (the source's own), `domain, title, codes` ("12 › 4 › 7"), `prefix` (its
    first `length` codes), `code_1` … `code_L`, `interactions`, `picture` (path or null). maps: projections of
    the residuals; the first gives `x, y` at `level` (0-based), float32, null for items that it left out;
    without maps there are no such columns. Raises ValueError for a level or length that there is not.
    """
    levels = catalogue.levels
    if not 0 <= level < levels or not 1 <= length <= levels:
        raise ValueError(f"level: {level} and length: {length}, expected 0..{levels - 1} and 1..{levels}")
    codes = catalogue.codes.codes
    cards = catalogue.cards(np.arange(catalogue.n_items))
    columns = {
        "id": cards["item"],
        "key": pl.Series([str(key) for key in catalogue.keys], dtype=pl.String),
        "domain": cards["domain"],
        "title": cards["title"],
        "codes": cards["codes"],
        "prefix": pl.Series([written(row) for row in codes[:, :length].tolist()], dtype=pl.String),
        **{f"code_{place + 1}": pl.Series(codes[:, place]) for place in range(levels)},
        "interactions": cards["interactions"],
        "picture": cards["image"],
    }
    frame = pl.DataFrame(columns)
    projection = next(iter(maps.values()), None) if maps else None
    if projection is None or level >= projection.coordinates.shape[1]:
        return frame
    points = projection.coordinates[:, level].astype(np.float32)
    placed = pl.DataFrame({"id": projection.items.astype(np.int64), "x": points[:, 0], "y": points[:, 1]})
    return frame.join(placed, on="id", how="left", maintain_order="left")


def write_atlas(
    catalogue: CodedCatalogue,
    file: str | os.PathLike[str],
    maps: Mapping[str, Projection] | None = None,
    level: int = 0,
    length: int = 1,
) -> AtlasFile:
    """Write `atlas_frame` as parquet, in place of what is there; a killed export leaves the old file."""
    path = Path(file)
    frame = atlas_frame(catalogue, maps, level, length)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        frame.write_parquet(partial)
    mapped = frame.height - frame["x"].null_count() if "x" in frame.columns else 0
    return AtlasFile(path, frame.height, mapped)


class SliceError(ValueError):
    """What is wrong with a named slice, and how to mend it."""


@dataclass(frozen=True)
class NamedSlice:
    """Items of a catalogue under a name. catalogue: what they were chosen in; n_items: how many it had.

    prefix, domain: what was selected. items: item indices, ascending, none twice.
    """

    name: str
    catalogue: str
    n_items: int
    prefix: tuple[int, ...]
    domain: str | None
    items: tuple[int, ...]


def named_slice(
    name: str,
    catalogue: str,
    n_items: int,
    items: npt.ArrayLike,
    prefix: Sequence[int] = (),
    domain: str | None = None,
) -> NamedSlice:
    """Make a slice; SliceError for an empty or endless name, or items that the catalogue does not have."""
    clean = name.strip()
    if not clean or len(clean) > _LONGEST_NAME:
        raise SliceError(f"name: {name[:40]!r} of {len(clean)} characters, expected 1 to {_LONGEST_NAME}")
    try:
        clean.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SliceError(f"name: {name[:40]!r} holds half a character; type it again") from error
    chosen = np.unique(np.asarray(items, dtype=np.int64))
    if chosen.size and (chosen[0] < 0 or chosen[-1] >= n_items):
        raise SliceError(f"items: {chosen[0]}..{chosen[-1]}, the catalogue has 0..{n_items - 1}")
    codes = tuple(int(code) for code in prefix)
    return NamedSlice(clean, catalogue, n_items, codes, domain, tuple(chosen.tolist()))


def slice_file(run_folder: Path, name: str) -> Path:
    """The file of a slice of this name.

    The name is escaped, so that no sign of it has a meaning in a path, and a hash keeps names apart that are
    cut alike, or that differ in upper and lower case only, which some file systems take for one.
    """
    safe = quote(name, safe="").replace(".", "%2E").replace("~", "%7E")[:_LONGEST_FILE_NAME]
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return run_folder / SLICES / f"{safe}-{digest}.json"


def save_slice(run_folder: str | Path, chosen: NamedSlice) -> Path:
    """Write a slice into a run folder, in place of one of the same name; returns its file."""
    file = slice_file(Path(run_folder), chosen.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": _FORMAT, **asdict(chosen)}
    with whole_file(file) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return file


def load_slice(run_folder: str | Path, name: str) -> NamedSlice:
    """Read a slice by its name; SliceError naming those that there are where it is missing or unreadable."""
    file = slice_file(Path(run_folder), name.strip())
    if not file.is_file():
        known = slice_names(run_folder)
        raise SliceError(f"There is no slice {name!r} in {Path(run_folder)}; it has {known or 'none'}.")
    return _read(file)


def slice_names(run_folder: str | Path) -> list[str]:
    """The names of all slices of a run, sorted; a file that cannot be read is left out."""
    names = []
    for file in (Path(run_folder) / SLICES).glob("*.json"):
        try:
            names.append(_read(file).name)
        except SliceError:
            continue
    return sorted(names)


def _read(file: Path) -> NamedSlice:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise SliceError(f"{file}: not a slice of format {_FORMAT}; save it again")
        read = NamedSlice(**content | {"prefix": tuple(content["prefix"]), "items": tuple(content["items"])})
        again = named_slice(read.name, read.catalogue, read.n_items, read.items, read.prefix, read.domain)
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, SliceError):
            raise
        raise SliceError(f"{file}: not a readable slice ({error}); delete it and save it again") from error
    if again != read:
        raise SliceError(f"{file}: its items are not ascending or come twice; save it again")
    return read
