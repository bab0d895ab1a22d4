"""`genrec export`: what a run made, in files that other tools read, with the source's own keys."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import polars as pl
import yaml

import genrec_lab
from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset, Split
from genrec_lab.data.item_text import DEFAULT_TEMPLATE
from genrec_lab.data.rules import ITEM_TYPES
from genrec_lab.data.whole_files import whole_folder
from genrec_lab.encoders import TEXT_ENCODERS
from genrec_lab.lab.adapt import renaming_tasks, serving_tasks
from genrec_lab.lab.evaluate import BEST_POSSIBLE, POPULARITY, load_serving, ranking_tasks, run_metrics
from genrec_lab.lab.files import RunError, require_free, require_known, safe_name, write_json
from genrec_lab.lab.growing import NAMING
from genrec_lab.lab.prepare import data_summary, load_prepared
from genrec_lab.lab.recommend import item_model_tasks
from genrec_lab.lab.rows import ALL, Facts, facts_of
from genrec_lab.lab.serving import EXPORTED, named_rankings
from genrec_lab.lab.store import Run, Task
from genrec_lab.lab.tokenise import tokenizer_tasks
from genrec_lab.models.hub import CardFacts, Shareable, SharingError
from genrec_lab.models.recommenders.adapters import save_lora
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.models.tokenizers import find_tokenizer

_FORMAT = 1
_PARTS = ("train", "valid", "test")


def export_run(run: Run, folder: Path, row: str | None = None, say: Any = print) -> Path:
    """Write a run's data, codes, rankings and models into a folder, which must be new or empty.

    row: one row alone, by default all. `say` takes sentences on what could not be written. Raises RunError
    where there is no such row, something is in the folder's place, or stage 07 has not run.
    """
    facts = facts_of(run)
    tasks = {name: task for name, task in ranking_tasks(facts).items() if name != BEST_POSSIBLE}
    if row is not None:
        require_known(row, tasks, f"Run {run.name!r} has no row", "it has")
    require_free(folder)
    chosen = {name: task for name, task in tasks.items() if row in (None, name)}
    rankings = {name: pl.read_parquet(run.read(task) / "rankings.parquet") for name, task in chosen.items()}
    data, metrics = load_prepared(run), run_metrics(run)
    rows: dict[str, Any] = {}
    with whole_folder(folder) as made:
        for domain in data.dataset.domains:
            name = safe_name(domain)
            write_atomic(data.dataset, domain, made / "data" / name)
            write_atomic_split(data.dataset, data.split, domain, made / "split" / name, say)
        for name, ranked in rankings.items():
            target = made / safe_name(name)
            target.mkdir(parents=True)
            named = named_rankings(
                data.dataset.sequences["key"].gather(ranked["user"]), ranked["domain"],
                ranked["items"].to_numpy(), ranked["scores"].to_numpy(), data.dataset.items["key"],
            )  # fmt: skip
            named.write_parquet(target / "rankings.parquet")
            models = _write_models(facts, name, data.dataset, metrics, target, say)
            if name in facts.generative:
                _write_naming(facts, name, data.dataset, target / NAMING)
            rows[name] = {"models": {d: f"{safe_name(name)}/{place}" for d, place in models.items()}}
        about = {
            "format": _FORMAT, "genrec_lab": genrec_lab.__version__, "run": run.name, "seed": run.seed,
            "dataset": run.dataset, "preset": run.parameters["preset"],
            "overrides": run.parameters["overrides"], "fingerprint": data_summary(run)["fingerprint"],
            "rows": rows,
        }  # fmt: skip
        write_json(made / EXPORTED, about)
        again: dict[str, Any] = {
            "name": "splits", "domains": {d: f"split/{safe_name(d)}" for d in data.dataset.domains},
            "keep_unseen_items": True, "text_template": "{source_text}",
        }  # fmt: skip
        dataset = textwrap.indent(yaml.safe_dump({"dataset": again}, sort_keys=False), " " * 4)
        readme = (Path(__file__).parent / "templates" / "export.md").read_text(encoding="utf-8")
        (made / "README.md").write_text(readme.format(run=run.name, dataset=dataset), encoding="utf-8")
    return folder


# -- models and codes --------------------------------------------------------------------------------------


def _write_models(
    facts: Facts, row: str, dataset: Dataset, metrics: pl.DataFrame, target: Path, say: Any
) -> dict[str, str]:
    """Write a row's models, and its codes; return the place of each domain's model below `target`."""
    places: dict[str, str] = {}
    codes: dict[str, ItemCodes] = {}
    tasks: Mapping[str, Task] = {}
    if row in facts.generative:
        tasks = serving_tasks(facts, row)[0]
    elif row != POPULARITY:
        tasks = item_model_tasks(facts, row)
    for domain in facts.served:
        model = load_serving(facts.run, domain, row)
        if isinstance(model, CodeRecommender):
            codes[domain] = model.codes
        # one model that serves several domains is written once
        twin = next((d for d in places if tasks and tasks[d].place == tasks[domain].place), None)
        place = places[twin] if twin else f"models/{safe_name(domain)}"
        if twin is None:
            if not _write_model(model, _facts(facts.run, row, domain, metrics), target / place):
                say(f"{row}: {type(model).__name__} is written by its own save method and is not verified.")
                continue
            if isinstance(model, CodeRecommender) and model.adapter is not None:
                _write_adapter(model, target, domain, _facts(facts.run, row, None, metrics))
        places[domain] = place
    if codes:
        write_codes(codes, dataset, target)
    return places


def _write_model(model: Any, about: CardFacts, folder: Path) -> bool:
    """Write a model as a shared folder, or by its own `save`; say whether the first."""
    if isinstance(model, Shareable):
        with suppress(SharingError):  # of more files than a shared folder holds, as RecFormer
            model.save_pretrained(folder, about)
            return True
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder)
    return False


def _write_adapter(model: CodeRecommender, target: Path, domain: str, about: CardFacts) -> None:
    """Write a LoRA by itself, as peft reads it on `to_transformers()`, and the base that it is on, once."""
    assert model.adapter is not None  # noqa: S101 - the caller's condition
    name, lora = model.adapter
    named = getattr(model, "transformers_name", None)
    save_lora(model, lora, name, target / "adapters" / safe_name(domain), named)
    if not (target / "base").is_dir():
        model.unadapted().save_pretrained(target / "base", about, model.shared_items)


def _facts(run: Run, row: str, domain: str | None, metrics: pl.DataFrame) -> CardFacts:
    of_row = metrics.filter(method=row, domain=domain or "")
    return CardFacts(
        dataset=str(run.dataset["name"]),
        fingerprint=str(data_summary(run).get("fingerprint", "")),
        metrics={f"{domain} {m}@{k}": v for m, k, v in of_row.select("metric", "k", "value").iter_rows()},
        notes=f"Run {run.name}, row {row}, seed {run.seed}.",
        max_history=run.config.pairs.max_history,
    )


def _write_naming(facts: Facts, row: str, dataset: Dataset, folder: Path) -> None:
    """Write what `genrec add-items` names new items by; nothing for a row that can name its own alone."""
    config = facts.generative[row]
    needs = find_tokenizer(config.tokenizer.kind).needs
    if config.pictures != "none" or not ("vectors" in needs or needs == ("text",)):
        return
    fitted, renamed, tokenizers = tokenizer_tasks(facts, row), renaming_tasks(facts, row), {}
    for domain in facts.served:
        task = renamed.get(domain) or fitted.get(domain) or fitted[ALL]
        tokenizers[domain] = safe_name(task.place)
        if not (folder / "tokenizers" / tokenizers[domain]).is_dir():
            shutil.copytree(facts.run.read(task) / "tokenizer", folder / "tokenizers" / tokenizers[domain])
    text = facts.config.text.model_dump(mode="json") if "vectors" in needs else None
    if text and getattr(TEXT_ENCODERS.find(facts.config.text.kind), "needs_all_texts", False):
        dataset.items.select("text").write_parquet(folder / "texts.parquet")
    template = facts.run.dataset.get("text_template", DEFAULT_TEMPLATE)
    write_json(folder / "naming.json", {"text": text, "template": template, "tokenizers": tokenizers})


def write_codes(codes: Mapping[str, ItemCodes], dataset: Dataset, folder: Path) -> None:
    """Write identifiers by the source's keys: `codes/<domain>.index.json`, and all in `codes.parquet`.

    The JSON holds `{key: ["<a_12>", "<b_3>", …]}`, one letter per level, as LC-Rec and later work write it;
    the table `domain, key, code_0, …`, and in its metadata the sizes of the levels.
    """
    tables = []
    (folder / "codes").mkdir(parents=True, exist_ok=True)
    for domain, found in codes.items():
        if found.levels > len(ascii_lowercase):
            raise RunError(f"identifiers have more than {len(ascii_lowercase)} levels, one for each letter.")
        items = dataset.domain_items(domain)
        table, keys = found.codes[items], dataset.items["key"].gather(items)
        index = {
            key: [f"<{ascii_lowercase[level]}_{code}>" for level, code in enumerate(row)]
            for key, row in zip(keys.to_list(), table.tolist(), strict=True)
        }
        text = json.dumps(index, ensure_ascii=False, indent=1)
        (folder / "codes" / f"{safe_name(domain)}.index.json").write_text(text + "\n", encoding="utf-8")
        named = {f"code_{level}": table[:, level] for level in range(found.levels)}
        tables.append(pl.DataFrame({"domain": [domain] * len(items), "key": keys, **named}))
    sizes = json.dumps({domain: found.sizes for domain, found in codes.items()})
    pl.concat(tables, how="diagonal").write_parquet(folder / "codes.parquet", metadata={"sizes": sizes})


# -- RecBole's atomic files --------------------------------------------------------------------------------


def write_atomic(dataset: Dataset, domain: str, folder: Path) -> None:
    """Write one domain as RecBole's atomic files, `<name>.inter` and `<name>.item`, called as the folder.

    An interaction's time is its place in the sequence, from 1. Raises RunError for a key with a tab or a line
    break, which such files cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    users = dataset.sequences.filter(pl.col("domain") == domain)
    _write_atomic_items(dataset, domain, folder)
    _require_plain("user", users["key"])
    places = users.select(
        pl.col("key").alias("user_id:token"),
        pl.col("items"),
        pl.int_ranges(1, pl.col("items").list.len() + 1).alias("timestamp:float"),
    ).explode("items", "timestamp:float")
    items = dataset.items["key"].gather(places["items"]).alias("item_id:token")
    _tabbed(places.drop("items").insert_column(1, items), folder / f"{folder.name}.inter")


def write_atomic_split(dataset: Dataset, split: Split, domain: str, folder: Path, say: Any = print) -> None:
    """Write a domain's split as RecBole's `benchmark_filename` reads it: `<name>.train.inter` and so on.

    They hold `item_id_list:token_seq`, the history, and the next item; `<name>.item` is in the same folder.
    """
    keys = dataset.items["key"]
    if keys.str.contains(" ").any():
        say(f"{domain}: no split is written, because RecBole's lists cannot hold item keys with a space.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_atomic_items(dataset, domain, folder)
    for part in _PARTS:
        rows = getattr(split, part).filter(pl.col("domain") == domain).with_row_index("row")
        lists = rows.select("row", "history").explode("history", empty_as_null=True)
        named = lists.with_columns(key=keys.gather(lists["history"])).group_by("row", maintain_order=True)
        columns = [
            dataset.sequences["key"].gather(rows["user"]).alias("user_id:token"),
            named.agg(pl.col("key").drop_nulls().str.join(" "))["key"].alias("item_id_list:token_seq"),
            keys.gather(rows["target"]).alias("item_id:token"),
        ]
        _tabbed(pl.DataFrame(columns), folder / f"{folder.name}.{part}.inter")


def _write_atomic_items(dataset: Dataset, domain: str, folder: Path) -> None:
    items = dataset.items.filter(pl.col("domain") == domain)
    _require_plain("item", items["key"])
    columns: dict[str, pl.Series] = {"item_id:token": items["key"]}
    for name in ("title", "text", *items.columns[len(ITEM_TYPES) :]):
        values = items[name]
        if isinstance(values.dtype, pl.List):
            values = values.cast(pl.List(pl.String)).list.join(", ")
        numeric = values.dtype.is_numeric()
        # a tab or a line break in a text would be the end of it
        kept = values if numeric else values.cast(pl.String).str.replace_all(r"[\t\r\n]+", " ")
        columns[f"{name}:{'float' if numeric else 'token_seq'}"] = kept
    _tabbed(pl.DataFrame(columns), folder / f"{folder.name}.item")


def _require_plain(what: str, keys: pl.Series) -> None:
    if (bad := keys.filter(keys.str.contains(r"[\t\r\n]"))).len():
        raise RunError(f"{what} key {bad[0]!r} has a tab or a line break, which RecBole's files cannot hold.")


def _tabbed(frame: pl.DataFrame, file: Path) -> None:
    frame.write_csv(file, separator="\t", quote_style="never", null_value="")
