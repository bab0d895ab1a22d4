"""Identifiers as public repositories publish them: JSON files of tokens like `<a_12>`, one item per key."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genrec_lab.codes.grouping import CodesError
from genrec_lab.codes.item_codes import ItemCodes
from genrec_lab.data.paths import existing_folder, read_json_object

# The part before the number has no digit and does not end with a minus: "<a_12>", "<A_12>", "<|x|12|>", "12".
_TOKEN = re.compile(r"(|\D*[^\d-])([0-9]{1,9})(\D*)")
# A last level with this many times fewer codes than the others only counts items.
_FEW = 4
_INDEX = re.compile(r"\.index(?=[._-]|$)")


@dataclass(frozen=True, eq=False)
class IndexFile:
    """The identifiers of one file: keys (N,) of the items, and their codes."""

    name: str
    keys: tuple[str, ...] = field(repr=False)
    codes: ItemCodes

    def of_items(self, keys: Sequence[str]) -> ItemCodes:
        """Return the identifiers of the items with these keys; raises CodesError for a missing one."""
        places = {key: place for place, key in enumerate(self.keys)}
        missing = [key for key in keys if key not in places]
        if missing:
            raise CodesError(
                f"{self.name}: item {missing[0]!r} and {len(missing) - 1} more have no identifier in this "
                f"file of {len(self.keys)} items; give the file of the same items"
            )
        return self.codes.select(np.array([places[key] for key in keys], dtype=np.int64))


def read_index_file(file: str | os.PathLike[str], sizes: Sequence[int | None] | None = None) -> IndexFile:
    """Read `{item: ["<a_12>", "<b_3>", …]}`, as LC-Rec and its successors write it, or `{item: [12, …]}`.

    A token's position is the level, its number the code; the letters must be the same for all items. sizes:
    the number of codes of each level. Such files do not state them, so by default they are unknown
    (`ItemCodes.unknown_levels`), except for a last level that only distinguishes items with equal other
    codes.
    Raises DataError for other JSON, and CodesError, naming file and item, for invalid tokens.
    """
    path = Path(file)
    content = read_json_object(path)
    rows: list[list[tuple[str, int]]] = []
    for key, tokens in content.items():
        rows.append(_tokens(path, key, tokens))
        if len(rows[-1]) != len(rows[0]):
            raise CodesError(
                f"{path}: item {key!r} has {len(rows[-1])} codes, the first item has {len(rows[0])}; "
                "expected identifiers of one length"
            )
        for level, ((letter, _), (of_first, _)) in enumerate(zip(rows[-1], rows[0], strict=True)):
            if letter != of_first:
                raise CodesError(
                    f"{path}: item {key!r} has {tokens[level]!r} at level {level + 1}; the first item has "
                    f"{content[next(iter(content))][level]!r} there"
                )
    codes = np.array([[code for _, code in row] for row in rows], dtype=np.int64)
    name = _INDEX.sub("", path.name.removesuffix(".json"), count=1)
    return IndexFile(name, tuple(content), ItemCodes(codes, sizes_of(codes) if sizes is None else sizes))


def sizes_of(codes: np.ndarray) -> list[int | None]:
    """Return the sizes that codes (N, L) alone reveal: only that of a last level that merely counts.

    Such a level has few codes compared with the others, and distinguishes all items with equal other codes.
    """
    largest = codes.max(axis=0) + 1
    sizes: list[int | None] = [None] * codes.shape[1]
    if len(sizes) > 1 and largest[-1] <= largest[:-1].min() / _FEW:
        identifiers = np.unique(codes, axis=0)
        if len(identifiers) == len(codes) and len(np.unique(codes[:, -1])) == largest[-1]:
            sizes[-1] = int(largest[-1])
    return sizes


def read_index_files(folder: str | os.PathLike[str]) -> dict[str, IndexFile]:
    """Read every `*.index*.json` of a folder, by the file's name without these endings.

    `${VAR}` in the path is read from the environment. Raises DataError if the folder does not exist,
    CodesError if it has no such file.
    """
    source = existing_folder(folder, "reference_codes")
    files = sorted(file for file in source.glob("*.json") if _INDEX.search(file.stem))
    if not files:
        there = ", ".join(sorted(file.name for file in source.iterdir())[:8]) or "nothing"
        raise CodesError(
            f"reference_codes: {source} has no *.index.json; it has {there}. Give a "
            "folder of identifier files"
        )
    found = [read_index_file(file) for file in files]
    return {one.name: one for one in found}


def _tokens(file: Path, key: str, tokens: Any) -> list[tuple[str, int]]:
    """Return the letters around the number, and the number, of each token."""
    if not isinstance(tokens, list) or not tokens:
        raise CodesError(f'{file}: item {key!r} has {tokens!r}; expected tokens such as ["<a_12>", "<b_3>"]')
    found: list[tuple[str, int]] = []
    for level, token in enumerate(tokens):
        parts = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        # Letters before the number at all levels, or plain numbers at all levels.
        if parts is None or (not parts[1] and parts[3]) or (found and bool(parts[1]) != bool(found[0][0])):
            raise CodesError(
                f"{file}: item {key!r} has {token!r} at level {level + 1}; expected a token such as <a_12>, "
                "or whole numbers at all levels"
            )
        found.append((parts[1] + parts[3], int(parts[2])))
    return found
