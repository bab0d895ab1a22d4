"""Guess what the columns of two tables mean, and write a run file for them: `genrec init FOLDER --data`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from genrec_lab.data import DataError, load_dataset, ties
from genrec_lab.lab.files import RunError, safe_name
from genrec_lab.lab.histories import read_table

# What columns are called, in small letters without anything between them; the first that is there counts.
_NAMES = {
    "user": "user userid uid customerid customer reviewerid "
    "memberid visitorid accountid buyerid sessionid session",
    "item": "item itemid iid productid articleid asin parentasin "
    "movieid bookid isbn sku trackid businessid product",
    "timestamp": "timestamp time unixtimestamp unixreviewtime date "
    "datetime tdat createdat eventtime ts reviewdate",
    "rating": "rating stars score overall",
    "title": "title name itemname productname prodname movietitle producttitle booktitle",
    "description": "description overview summary plot detaildesc abstract about",
    "brand": "brand store manufacturer author artist publisher",
    "categories": "categories category genres genre producttypename maincategory class tags",
}
_TEXTS = ("title", "description", "brand", "categories")


def run_file_for(folder: Path, interactions: Path, items: Path) -> tuple[str, str, list[str]]:
    """The name and text of a run file for two tables, and sentences that say what was understood of them.

    Where the tables cannot be read as they seem, the sentences say why, and the file is to be completed.
    Raises RunError if a file is no table, or no column looks like the user's or the item's id.
    """
    separator = _separator(interactions)
    tables = [read_table(file, separator) for file in (interactions, items)]
    columns, said = _columns(tables[0], tables[1], interactions, items)
    # Absolute where the tables are not in the folder, which may be moved without them.
    options: dict[str, Any] = {
        name: os.path.relpath(file.resolve(), folder.resolve())
        if folder.resolve() in file.resolve().parents
        else str(file.resolve())
        for name, file in (("interactions", interactions), ("items", items))
    }
    options |= {"separator": separator} if separator else {}
    options["columns"] = columns
    said += _what_is_read({**options, "interactions": interactions.absolute(), "items": items.absolute()})
    name = safe_name(interactions.name.split(".")[0])
    content = {"run": name, "dataset": {"name": "frames", **options}, "preset": "gmc_small", "seed": 0}
    comment = "".join(f"# {line}\n" for line in ["What genrec understood of the tables:", *said])
    return f"{name}.yaml", comment + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), said


def _separator(file: Path) -> str | None:
    """What separates the columns of a text file, by its header; None if its ending says so already."""
    name = file.name.lower()
    if not file.is_file() or not name.endswith((".csv", ".tsv")):
        return None
    with file.open("rb") as content:
        header = content.readline(1 << 20).decode("utf-8", "replace")
    most = max(",;\t|", key=header.count)
    return None if most == ("\t" if name.endswith(".tsv") else ",") else most


def _columns(
    interactions: pl.DataFrame, items: pl.DataFrame, first: Path, second: Path
) -> tuple[dict[str, str | None], list[str]]:
    columns: dict[str, str | None] = {}
    said: list[str] = []
    for role in ("user", "item", "timestamp", "rating"):
        found = _named(interactions.columns, role)
        if found is None and role in ("user", "item"):
            raise RunError(
                f"{first.name}: no column looks like the {role}'s id; it has "
                f"{', '.join(interactions.columns)}. Name it {role}, or write the run file by hand with "
                f"columns: {{{role}: ...}}."
            )
        if found is not None:
            said.append(f"{role}: column {found!r} of {first.name}")
            columns |= {role: found} if found != role else {}
        elif role == "timestamp":
            said.append(
                f"timestamp: no column of {first.name} looks like one, so rows are taken to be in time order"
            )
            columns["timestamp"] = None
    item = columns.get("item", "item")
    key = item if item in items.columns else _named(items.columns, "item")
    if key is None:
        raise RunError(
            f"{second.name}: no column looks like the item's id; it has {', '.join(items.columns)}. Call it "
            f"{item}, as {first.name} does."
        )
    said.append(f"key of the items: column {key!r} of {second.name}")
    columns |= {"key": key} if key != item else {}
    for role in _TEXTS:
        found = _named([name for name in items.columns if name != key], role)
        if found is not None:
            said.append(f"{role}: column {found!r} of {second.name}")
            columns |= {role: found} if found != role else {}
    return columns, said


def _named(columns: Sequence[str], role: str) -> str | None:
    plain = {"".join(sign for sign in name.lower() if sign.isalnum()): name for name in reversed(columns)}
    return next((plain[name] for name in _NAMES[role].split() if name in plain), None)


def _what_is_read(options: dict[str, Any]) -> list[str]:
    """Sentences about the dataset that these options give, or about why they give none."""
    try:
        dataset = load_dataset("frames", **options)
    except DataError as error:
        return [f"NOT READ YET: {str(error).removeprefix('dataset: ')}; complete dataset in the run file"]
    sizes = f"{dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_interactions:,} interactions"
    said = [f"read: {sizes}"]
    said += [f"repaired: {what.replace('_', ' ')}: {count:,}" for what, count in dataset.repairs.items()]
    said.append(f"text of the first item: {dataset.items['text'][0][:100]!r}")
    for known in dataset.sources.values():
        if unsaid := known.get("columns_not_in_text"):
            example = f"'{{title}} {{{unsaid[0]}}}'"
            said.append(f"not in the text: {', '.join(unsaid)}; add them with text_template: {example}")
    row = ties(dataset).row(0, named=True)
    tied = "unknown" if row["test_tied"] is None else f"{row['test_tied']:,}"
    said.append(f"users whose last two items have the same time: {tied}; ties sets their order")
    return said
