"""Named slices: items of a catalogue under a name, kept in the run's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from genrec_lab.data.whole_files import whole_file

SLICES = "slices"
"""Where in a run's folder they are."""
_FORMAT = "genrec_lab.slice.1"
_LONGEST_NAME = 200
_LONGEST_FILE_NAME = 60


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
