"""`genrec add-items`: new items named by the frozen tokenizer, recommended at once by the trained models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.codes.growing import with_new_items
from genrec_lab.data.assembly import TEXT_COLUMNS
from genrec_lab.data.frames import raw_items_of
from genrec_lab.data.item_text import filled_text
from genrec_lab.data.rules import checked_items
from genrec_lab.data.whole_files import whole_folder
from genrec_lab.encoders import TEXT_ENCODERS
from genrec_lab.encoders.text import checked_vectors, text_encoder
from genrec_lab.lab.evaluate import shown_row
from genrec_lab.lab.files import RunError, read_json, require_free, safe_name, write_json
from genrec_lab.lab.own_tables import read_table
from genrec_lab.lab.serving import EXPORTED, exported_row, read_model
from genrec_lab.lab.store import existing_run
from genrec_lab.models.hub import ITEM_COLUMNS, CardFacts
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.models.tokenizers import ItemContent, checked_codes, load_tokenizer
from genrec_lab.registry import component_config
from genrec_lab.viz.text import counted

NAMING = "naming"  # of an exported row: its tokenizers and what they read
_Named = tuple[np.ndarray, np.ndarray | None, Sequence[np.ndarray]]  # codes, residuals, codebooks


def add_items(source: str | Path, items: Path, out: Path, row: str | None = None, say: Any = print) -> Path:
    """Write a row's models with new items appended to their catalogue, into a folder that is made.

    source: a run, or what `genrec export` or this wrote. items: a table of `key` (or `item`) and `title`, or
    what else the texts are made of, and `domain` where there are several. Old items keep their index and
    identifier; weights stay as they are. Raises RunError for items that are there already, a row without a
    tokenizer that can name others, and files that cannot be used.
    """
    require_free(out)
    with TemporaryDirectory() as place:
        folder = Path(source).expanduser()
        if not (folder / EXPORTED).is_file():
            from genrec_lab.lab.export import export_run

            run = existing_run(str(source))
            folder = export_run(run, Path(place) / "run", row or shown_row(run), say)
        about = read_json(folder / EXPORTED)
        name, models = exported_row(folder, about, row)
        own = folder / safe_name(name)
        if not (own / NAMING).is_dir():
            raise RunError(
                f"row {name!r} of {source} cannot give codes to new items: it ranks learned items, or its "
                "tokenizer knows only its own catalogue. Choose a row whose tokenizer reads texts."
            )
        with whole_folder(out) as made:
            try:
                places = _write(items, own, models, made / safe_name(name), say)
            except ValueError as error:  # of data, codes, a tokenizer or a text model
                raise RunError(f"{items}: {error}.") from error
            served = {domain: f"{safe_name(name)}/{place}" for domain, place in places.items()}
            write_json(made / EXPORTED, {**about, "rows": {name: {"models": served}}})
    return out


def _write(items: Path, own: Path, models: Mapping[str, Path], target: Path, say: Any) -> dict[str, str]:
    naming = read_json(own / NAMING / "naming.json")
    loaded: dict[Path, Any] = {place: read_model(place) for place in dict.fromkeys(models.values())}
    known: pl.DataFrame = next(iter(loaded.values())).shared_items
    new = _new_items(items, known, naming["template"], tuple(models), say)
    raw = _named(new, own / NAMING, naming)
    places: dict[str, str] = {}
    for place, model in loaded.items():
        domains = [domain for domain, folder in models.items() if folder == place]
        codes = model.codes
        for domain, (found, residuals, books) in raw.items():
            grown = with_new_items(codes, found, [domain] * len(found), residuals, books)
            codes = grown.codes
            if domain in domains:  # of the other domains, this model has the items only to number them
                before = known.filter(domain=domain).height
                say(
                    f"{domain}: added {counted(len(found), 'item')} to {before:,}; "
                    f"{grown.moved:,} got another identifier because the tokenizer's was taken, "
                    f"{grown.displaced:,} of them under another prefix."
                )
        larger: CodeRecommender = model.with_codes(codes)
        about = CardFacts(
            dataset=f"a catalogue of {known.height:,} items, and {new.height:,} added later",
            max_history=model.max_history,
        )
        where = f"models/{safe_name(domains[0])}"
        all_items = pl.concat([known, new.select(ITEM_COLUMNS)])
        larger.save_pretrained(target / where, about, all_items)
        places |= dict.fromkeys(domains, where)
    shutil.copytree(own / NAMING, target / NAMING)
    return {domain: places[domain] for domain in models}


def _named(new: pl.DataFrame, naming: Path, about: Mapping[str, Any]) -> dict[str, _Named]:
    """By domain, what its tokenizer makes of the new items: codes, residuals, codebooks."""
    vectors = _vectors(new["text"].to_list(), naming, about["text"]) if about["text"] else None
    table = checked_items(new.with_columns(item=pl.int_range(new.height, dtype=pl.Int64)))
    numbers = np.arange(new.height)
    content = ItemContent(vectors, np.zeros_like(numbers), numbers, table)
    found: dict[str, _Named] = {}
    for domain in new["domain"].unique(maintain_order=True):
        tokenizer = load_tokenizer(naming / "tokenizers" / about["tokenizers"][domain])
        rows = np.flatnonzero((new["domain"] == domain).to_numpy())
        made = checked_codes(tokenizer, content.select(rows))
        books = tokenizer.codebooks
        levels = list(books) if isinstance(books, list | np.ndarray) else []
        found[domain] = made.codes, made.residuals, levels
    return found


def _vectors(texts: list[str], naming: Path, config: Mapping[str, Any]) -> np.ndarray:
    """Encode the new texts as those of the catalogue were, whose vectors stay as they are."""
    settings = component_config(TEXT_ENCODERS, config)
    encoder = text_encoder(settings)
    if not getattr(encoder, "needs_all_texts", False):
        return checked_vectors(encoder.encode(texts), texts, settings)
    if not hasattr(encoder, "encode_more"):
        raise RunError(
            f"text.kind {settings.kind!r} looks at all texts at once, and has no encode_more(texts, more) "
            "for texts that come later."
        )
    before = pl.read_parquet(naming / "texts.parquet")["text"].to_list()
    return checked_vectors(encoder.encode_more(before, texts), texts, settings)


def _new_items(
    file: Path, known: pl.DataFrame, template: str, domains: tuple[str, ...], say: Any
) -> pl.DataFrame:
    """Read the table of new items, those of a domain together: frame `domain, key, title, text`.

    Raises RunError for what cannot be added.
    """
    table = read_table(file)
    if "domain" not in table.columns:
        if len(domains) > 1:
            raise RunError(f"{file} has no column 'domain'; add one that holds one of {', '.join(domains)}.")
        table = table.with_columns(domain=pl.lit(domains[0]))
    key = "key" if "key" in table.columns else "item"
    if key not in table.columns:
        raise RunError(f"{file} has the columns {table.columns}; expected 'key' or 'item'.")
    if strange := [name for name in table["domain"].unique() if name not in domains]:
        raise RunError(f"{file} has items of {strange[0]!r}; the models serve {', '.join(domains)}.")
    raw = raw_items_of(table.drop("domain"), {"item": key}, str(file)).with_columns(table["domain"])
    twice = raw.filter(pl.struct("domain", "key").is_duplicated())
    there = raw.join(known, on=["domain", "key"], how="semi")
    for what, rows in (("twice", twice), ("which the catalogue already has", there)):
        if rows.height:
            first = f"{rows['key'][0]!r} of {rows['domain'][0]}"
            raise RunError(f"{file} has item {first} {what} ({rows.height} such items).")
    if not raw.height:
        raise RunError(f"{file} holds no items.")
    lacking = [name for name in TEXT_COLUMNS if name not in raw.columns]
    raw = raw.with_columns(pl.lit("").alias(name) for name in lacking)
    repairs: dict[str, int] = {}
    given = raw["source_text"] if "source_text" in raw.columns else None
    texts = filled_text(raw, template, repairs) if given is None else given
    for what, count in repairs.items():
        say(f"{file}: {count:,} {what.replace('_', ' ')}")
    new = raw.select("domain", "key", "title").with_columns(text=texts)
    return pl.concat(new.partition_by("domain", maintain_order=True))
