"""One parquet file that embedding-atlas opens: an item a row, with codes, place on a map and picture.

embedding-atlas (apple.github.io/embedding-atlas) reads parquet, takes columns of precomputed coordinates by
`--x` and `--y`, the text that it searches by `--text`, and all other columns to colour and filter by.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_lab.data.whole_files import whole_file
from genrec_lab.viz.explorer.catalogue import CodedCatalogue, written
from genrec_lab.viz.explorer.exports import EXPORTS
from genrec_lab.viz.projection import Projection

ATLAS_FILE = EXPORTS / "embedding_atlas.parquet"
"""Where the explorer writes it, inside the run folder."""


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
    catalogue: CodedCatalogue,
    maps: Mapping[str, Projection] | None = None,
    level: int = 0,
    length: int = 1,
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
