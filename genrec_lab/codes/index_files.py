"""Identifiers as public repositories publish them: JSON files of tokens such as `<a_12>`, an item a key."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from genrec_lab.codes.grouping import CodesError
from genrec_lab.codes.item_codes import ItemCodes
from genrec_lab.data.paths import existing_folder, read_json_object

_TOKEN = re.compile(r"<([a-z])_([0-9]{1,9})>")
_INDEX = re.compile(r"\.index(?=\.|$)")


@dataclass(frozen=True, eq=False)
class IndexFile:
    """The identifiers of one file: keys (N,), the items' names there, and their codes."""

    name: str
    keys: tuple[str, ...]
    codes: ItemCodes

    def of_items(self, keys: Sequence[str]) -> ItemCodes:
        """The identifiers of the items with these keys, in this order; CodesError names a missing one."""
        places = {key: place for place, key in enumerate(self.keys)}
        missing = [key for key in keys if key not in places]
        if missing:
            raise CodesError(
                f"{self.name}: item {missing[0]!r} and {len(missing) - 1} more have no identifier in this "
                f"file of {len(self.keys)} items; give the file of the same items"
            )
        return self.codes.select(np.array([places[key] for key in keys], dtype=np.int64))


def read_index_file(file: str | os.PathLike[str], sizes: Sequence[int] | None = None) -> IndexFile:
    """Read `{item: ["<a_12>", "<b_3>", …]}`, as LC-Rec and those after it write it.

    The letter is the level, the number the code. sizes: the number of codes of each level; such files do not
    state them, so by default every level has as many as the largest code of any level requires. Raises
    DataError for anything but such JSON, CodesError naming file and item for tokens that are no identifier.
    """
    path = Path(file)
    content = read_json_object(path)
    rows = [_codes(path, key, tokens) for key, tokens in content.items()]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        odd = next(key for key, row in zip(content, rows, strict=True) if len(row) != len(rows[0]))
        raise CodesError(
            f"{path}: item {odd!r} has {len(content[odd])} codes, the first item has {len(rows[0])}; "
            "expected identifiers of one length"
        )
    codes = np.array(rows, dtype=np.int64)
    given = [int(codes.max()) + 1] * codes.shape[1] if sizes is None else sizes
    name = _INDEX.sub("", path.name.removesuffix(".json"), count=1)
    return IndexFile(name, tuple(content), ItemCodes(codes, given))


def read_index_files(folder: str | os.PathLike[str]) -> dict[str, IndexFile]:
    """Read every `*.index*.json` of a folder, by the file's name without these endings.

    `${VAR}` in the path is taken from the environment. Raises DataError where the folder is not there,
    CodesError where it has no such file.
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


def _codes(file: Path, key: str, tokens: Any) -> list[int]:
    if not isinstance(tokens, list) or not tokens:
        raise CodesError(f'{file}: item {key!r} has {tokens!r}; expected tokens as ["<a_12>", "<b_3>"]')
    codes = []
    for level, token in enumerate(tokens):
        found = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if found is None or level >= len(ascii_lowercase) or found[1] != ascii_lowercase[level]:
            letter = ascii_lowercase[level] if level < len(ascii_lowercase) else "?"
            raise CodesError(
                f"{file}: item {key!r} has {token!r} at level {level + 1}; expected a token as <{letter}_12>"
            )
        codes.append(int(found[2]))
    return codes
