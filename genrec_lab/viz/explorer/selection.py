"""The selection, the search by title or code, and named slices of items in the run's folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl

from genrec_lab.data.whole_files import whole_file
from genrec_lab.viz import IntArray
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.text import written

ALL = "All"
SLICES = "slices"
"""Where in a run's folder they are."""
_FORMAT = "genrec_lab.slice.1"
_LONGEST_NAME = 200
_LONGEST_FILE_NAME = 60
_MOST_SEARCHED = 1_000
# "12", "12 4", "12 › 4 › *", "12, 4", "12.4", "12-4": codes with separators, and stars at the end.
_BETWEEN = r"(?:\s*[›>/,.·\-]\s*|\s+)"
_ANYWHERE = re.compile(r"\s*((?:\*[\s›>/,.·\-]*)+)(\d{1,9})\s*")
_CODES = re.compile(rf"\s*(?:{ALL}{_BETWEEN})?\d{{1,9}}(?:{_BETWEEN}\d{{1,9}})*(?:{_BETWEEN}\*)*\s*")


@dataclass(frozen=True)
class Selection:
    """The selection of all views: a prefix, the current level, one domain or all, and optionally an item.

    prefix: codes from level 0 on; empty is the whole catalogue. level: the level (0-based) that the map and
    the code page show. everywhere: a level (0-based) and one of its codes, under any prefix. lasso: indices
    of collected items, ascending, or None; if given, only these items are selected.
    """

    prefix: tuple[int, ...] = ()
    level: int = 0
    domain: str | None = None
    item: int | None = None
    everywhere: tuple[int, int] | None = None
    lasso: tuple[int, ...] | None = None


def checked(selection: Selection, catalogue: CodedCatalogue) -> Selection:
    """Return the selection if it is valid for the catalogue; otherwise raise ValueError that names the field.

    A prefix without items is valid: it is an empty selection, which every view can show.
    """
    prefix, lasso, item = tuple(map(int, selection.prefix)), selection.lasso, selection.item
    sizes, levels, last = catalogue.codes.sizes, catalogue.levels, catalogue.n_items - 1
    if len(prefix) > levels:
        raise ValueError(f"prefix: {list(prefix)} has more codes than the {levels} levels")
    for level, code in enumerate(prefix):
        if not 0 <= code < sizes[level]:
            raise ValueError(f"prefix: code {code} at level {level + 1}, expected 0..{sizes[level] - 1}")
    if not 0 <= selection.level < levels:
        raise ValueError(f"level: {selection.level}, expected 0..{levels - 1}")
    catalogue.domain_number(selection.domain)
    if selection.everywhere is not None:
        level, code = selection.everywhere
        if prefix or not 0 <= level < levels or not 0 <= code < sizes[level]:
            raise ValueError(
                f"everywhere: level {level} and code {code} with prefix {list(prefix)}, expected a level of "
                f"0..{levels - 1}, one of its codes and no prefix"
            )
    if lasso and not (lasso[0] >= 0 and lasso[-1] <= last):
        raise ValueError(f"lasso: items {lasso[0]}..{lasso[-1]}, expected 0..{last}")
    if item is not None and not 0 <= item <= last:
        raise ValueError(f"item: {item}, expected 0..{last} or None")
    return replace(selection, prefix=prefix)


def moved(selection: Selection, catalogue: CodedCatalogue, **changes: Any) -> Selection:
    """Return the selection with some fields changed and the others updated accordingly.

    A new prefix sets the level to that of its children, and removes an item that is not below it. A new item
    without a prefix sets the prefix to its complete identifier and keeps the level. A code under any prefix
    and a prefix replace each other. Raises the errors of `checked`, and TypeError for unknown fields.
    """
    if changes.get("everywhere") is not None:
        changes = {"prefix": (), "level": changes["everywhere"][0], "item": None} | changes
    elif "prefix" in changes or changes.get("item") is not None:
        changes = {"everywhere": None} | changes
    new = replace(selection, **changes)
    if "item" in changes and "prefix" not in changes and new.item is not None:
        new = checked(replace(new, prefix=()), catalogue)
        own = tuple(catalogue.codes.codes[new.item].tolist())
        changes = {"level": new.level} | changes | {"prefix": own}
        new = replace(new, prefix=own)
    if new.item is not None and new.lasso is not None and new.item not in new.lasso:
        new = replace(new, lasso=None) if "item" in changes else new
    if "prefix" in changes and "level" not in changes:
        new = replace(new, level=min(len(new.prefix), catalogue.levels - 1))
    new = checked(new, catalogue)
    if new.item is not None and "item" not in changes:
        below = tuple(catalogue.codes.codes[new.item, : len(new.prefix)].tolist()) == new.prefix
        in_domain = new.domain in (None, catalogue.domains[int(catalogue.codes.domain_index[new.item])])
        new = new if below and in_domain else replace(new, item=None)
    return new


def parse_prefix(text: str, sizes: Sequence[int]) -> tuple[int, ...] | None:
    """Parse a prefix, such as "12 › 4 › *" or "12 4"; return None if the text is not a valid prefix."""
    codes = tuple(map(int, re.findall(r"\d+", text))) if _CODES.fullmatch(text) else ()
    fits = len(codes) <= len(sizes) and all(code < size for code, size in zip(codes, sizes, strict=False))
    return codes if codes and fits else None


def parse_anywhere(text: str, sizes: Sequence[int]) -> tuple[int, int] | None:
    """Parse a level (0-based) and code, such as "* 240" or "* › * › 7"; return None for other texts."""
    found = _ANYWHERE.fullmatch(text)
    if found is None:
        return None
    level, code = found[1].count("*"), int(found[2])
    return (level, code) if level < len(sizes) and code < sizes[level] else None


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search: a prefix or a code anywhere with its number of items, if the text is one.

    items: the most popular of the `total` items whose texts contain it.
    """

    text: str
    prefix: tuple[int, ...] | None
    prefix_items: int
    items: IntArray
    total: int
    everywhere: tuple[int, int] | None = None

    def __str__(self) -> str:
        if not self.text:
            return "Type a part of a title, or codes as 12 › 4."
        titles = f"{self.total:,} {'title holds' if self.total == 1 else 'titles hold'} “{self.text}”"
        if self.everywhere is not None:
            level, code = self.everywhere
            return f"Code {code} of level {level + 1}, under any prefix: {self.prefix_items:,} items."
        if self.prefix is None:
            return f"{titles}." if self.total else f"No title holds “{self.text}”."
        return f"{written(self.prefix)}: {self.prefix_items:,} items below. {titles}."


def search(catalogue: CodedCatalogue, text: str, most: int = 20, domain: str | None = None) -> Found:
    """Find a prefix or code by its numbers, and items by a part of their title, key or attributes.

    The first 1,000 characters count, literally and in any case. Hits are sorted by traffic, ties by index.
    """
    wanted = text.strip()[:_MOST_SEARCHED]
    number = catalogue.domain_number(domain)
    if not wanted:
        return Found("", None, 0, np.zeros(0, dtype=np.int64), 0)
    prefix = parse_prefix(wanted, catalogue.codes.sizes)
    everywhere = parse_anywhere(wanted, catalogue.codes.sizes)
    # The titles were lowercased by polars, which differs from Python for a few letters.
    lowered = pl.Series([wanted]).str.to_lowercase()[0]
    hits = catalogue.searched.str.contains(lowered, literal=True).to_numpy()
    places = np.flatnonzero(hits if number is None else hits & (catalogue.codes.domain_index == number))
    best = largest(catalogue.traffic[places], most)
    below = 0 if prefix is None else catalogue.order.members(prefix, number).size
    below = below if everywhere is None else catalogue.order.with_code(*everywhere).size
    return Found(wanted, prefix, below, places[best], places.size, everywhere)


def largest(values: IntArray, most: int) -> IntArray:
    """Return the indices of the `most` largest values, largest first, ties in their original order."""
    candidates = np.arange(values.size)
    if values.size > most > 0:
        # All candidates, including ties at the border, so that the sort decides between ties.
        candidates = np.flatnonzero(values >= np.partition(values, -most)[-most])
    return candidates[np.argsort(-values[candidates], kind="stable")][:most]


class SliceError(ValueError):
    """Raised for an invalid named slice; the message states the problem and the fix."""


@dataclass(frozen=True)
class NamedSlice:
    """Unique items, ascending, of a selection (prefix, domain) in the catalogue of this name and size.

    Raises SliceError for an empty or too long name, or items outside the catalogue.
    """

    name: str
    catalogue: str
    n_items: int
    items: Sequence[int]
    prefix: tuple[int, ...] = ()
    domain: str | None = None

    def __post_init__(self) -> None:
        name, items = self.name.strip(), np.unique(np.asarray(self.items, dtype=np.int64))
        if not name or len(name) > _LONGEST_NAME:
            found = f"{self.name[:40]!r} of {len(name)} characters"
            raise SliceError(f"name: {found}, expected 1 to {_LONGEST_NAME}")
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SliceError(f"name: {self.name[:40]!r} holds half a character; type it again") from error
        if items.size and (items[0] < 0 or items[-1] >= self.n_items):
            raise SliceError(f"items: {items[0]}..{items[-1]}, the catalogue has 0..{self.n_items - 1}")
        checked = {"name": name, "items": tuple(items.tolist()), "prefix": tuple(map(int, self.prefix))}
        vars(self).update(checked)


def slice_file(run_folder: Path, name: str) -> Path:
    """Return the file of the slice with this name.

    Characters with a meaning in paths are escaped. A hash distinguishes names that are equal after
    truncation, or that differ only in case, which some file systems ignore.
    """
    safe = quote(name, safe="").replace(".", "%2E").replace("~", "%7E")[:_LONGEST_FILE_NAME]
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    return run_folder / SLICES / f"{safe}-{digest}.json"


def save_slice(run_folder: str | Path, chosen: NamedSlice) -> Path:
    """Write a slice to a run folder, replacing one of the same name, and return its file."""
    file = slice_file(Path(run_folder), chosen.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": _FORMAT, **asdict(chosen)}
    with whole_file(file) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return file


def load_slice(run_folder: str | Path, name: str) -> NamedSlice:
    """Read a slice by name; raises SliceError if it is unreadable or missing, listing those that exist."""
    file = slice_file(Path(run_folder), name.strip())
    if not file.is_file():
        known = slice_names(run_folder)
        raise SliceError(f"There is no slice {name!r} in {Path(run_folder)}; it has {known or 'none'}.")
    return _read(file)


def slice_names(run_folder: str | Path) -> list[str]:
    """Return the sorted names of all slices of a run; files that cannot be read are left out."""
    names = []
    for file in (Path(run_folder) / SLICES).glob("*.json"):
        with suppress(SliceError):
            names.append(_read(file).name)
    return sorted(names)


def _read(file: Path) -> NamedSlice:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise SliceError(f"{file}: not a slice of format {_FORMAT}; save it again")
        read = NamedSlice(**content)
        if list(read.items) != content["items"]:
            raise SliceError(f"{file}: its items are not ascending or come twice; save it again")
        return read
    except SliceError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SliceError(f"{file}: not a readable slice ({error}); delete it and save it again") from error
