"""Stage 06: the unified recommender adapted to each domain (GMC 3.5, Eq. 9; UTGRec 2.4.2)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from genrec_lab.codes import IdentifierConfig, ItemCodes
from genrec_lab.codes.identified import of_domains, read_identified
from genrec_lab.data import Dataset
from genrec_lab.lab.files import safe_name
from genrec_lab.lab.recommend import (
    best_epoch,
    histories_of,
    how_to_learn,
    learnt_data,
    recommender_tasks,
    starting_recommender,
    where,
    write_histories,
)
from genrec_lab.lab.results import read_records, write_records
from genrec_lab.lab.rows import ALL, Facts, facts_of, lead_row
from genrec_lab.lab.store import Run, Task, Work
from genrec_lab.lab.tokenise import codes_task, components_of, load_identified, tokenizer_tasks
from genrec_lab.models.recommenders.adapters import Parameters, add_lora, count_parameters
from genrec_lab.models.recommenders.base import RECOMMENDERS
from genrec_lab.models.tokenizers import ItemContent, checked_codes, find_tokenizer
from genrec_lab.presets import AdaptationConfig, MethodConfig
from genrec_lab.training import TrainingConfig
from genrec_lab.viz.text import counted

ADAPTING = "06_domain_adaptation"


def adaptation_tasks(facts: Facts) -> list[Task]:
    """What stage 06 makes: for each row and domain a recommender, for some rows a tokenizer too."""
    of_rows = ((renaming_tasks(facts, row), adapting_tasks(facts, row)) for row in adapted_rows(facts))
    return [task for pair in of_rows for tasks in pair for task in tasks.values()]


def adapted_rows(facts: Facts) -> list[str]:
    """Return the rows of a run that are adapted to domains."""
    return [name for name, config in facts.generative.items() if config.adaptation.kind != "none"]


def renaming_tasks(facts: Facts, row: str) -> dict[str, Task]:
    """By domain, a row's tokenizer fine-tuned on it and the codes that it gives; empty if none is."""
    config = facts.generative[row]
    component = config.tokenizer_class
    if not component.transfers or config.transfer.tokenizer == "none" or not config.transfer.targets:
        return {}
    tokenizer, codes = tokenizer_tasks(facts, row)[ALL], codes_task(facts, row)
    inputs = {"data": facts.data, "tokenizer": tokenizer, "codes": codes}
    given = {
        "kind": config.tokenizer.kind,
        "settings": {name: getattr(config, name) for name in component.settings},
        "training": config.transfer.training,
        "full": config.transfer.tokenizer == "full",
        "identifiers": config.identifiers,
        "seed": facts.run.seed,
    }
    found = {}
    for domain in facts.served:
        name, own = f"{row}/tokenizers/{safe_name(domain)}", {**given, "domain": domain}
        found[domain] = Task(ADAPTING, name, _rename, own, inputs, components_of(config), row, domain)
    return found


def adapting_tasks(facts: Facts, row: str) -> dict[str, Task]:
    """By domain, a row's recommender trained further on it."""
    config, before = facts.generative[row], recommender_tasks(facts, row)
    renamed, component = renaming_tasks(facts, row), RECOMMENDERS.find(config.recommender.kind)
    found = {}
    for domain in facts.served:
        given = {"adaptation": config.adaptation, "recommender": config.recommender, "domain": domain}
        inputs: dict[str, Any] = {"data": facts.data}
        inputs |= {"base": before.get(domain) or before[ALL]} if before else {}
        if config.tokenizer_class.transfers:
            inputs["codes"] = renamed.get(domain) or codes_task(facts, row)
        name = f"{row}/domains/{safe_name(domain)}"
        given |= how_to_learn(facts.run, config)
        found[domain] = Task(ADAPTING, name, _adapt, given, inputs, (component,), row, domain)
    return found


def serving_tasks(facts: Facts, row: str) -> tuple[dict[str, Task], dict[str, Task]]:
    """What serves each domain in a generative row, and for an adapter the recommender that it adapts."""
    before, kind = recommender_tasks(facts, row), facts.generative[row].adaptation.kind
    bases = {domain: before.get(domain) or before[ALL] for domain in facts.served} if before else {}
    if kind == "none":
        return bases, {}
    models = adapting_tasks(facts, row)
    adapted = {domain for domain, task in models.items() if kind == "lora" and "codes" not in task.inputs}
    return models, {domain: base for domain, base in bases.items() if domain in adapted}


def adapt_to_domains(run: Run) -> pl.DataFrame:
    """Adapt rows to each domain where they ask for it; return what it gained on validation users.

    The frame has the columns method, domain, metric, before, after, best_epoch, trained and share. Epoch 0 is
    before any training: if no epoch beats it, the domain keeps the unified recommender.
    """
    for task in adaptation_tasks(facts_of(run)):
        run.make(task)
    rows = []
    for row, domain, folder in _folders(run, adapting_tasks):
        history = list(histories_of(folder, domain).values())[-1]
        best = best_epoch(folder)
        before = next(record["metrics"] for record in history if record["epoch"] == 0)
        after = next(record["metrics"] for record in history if record["epoch"] == best)
        parameters = Parameters(**json.loads((folder / "parameters.json").read_text()))
        size = parameters.trained, parameters.share
        rows += [(row, domain, name, before[name], after[name], best, *size) for name in before]
    schema = {
        "method": pl.String, "domain": pl.String, "metric": pl.String, "before": pl.Float64,
        "after": pl.Float64, "best_epoch": pl.Int64, "trained": pl.Int64, "share": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def load_adapted(run: Run, row: str, domain: str) -> Any:
    """Read the recommender that serves a domain, adapted where the row adapts."""
    facts = facts_of(run)
    models, bases = serving_tasks(facts, row)
    base = run.read(bases[domain]) if domain in bases else None
    kind = facts.generative[row].recommender.kind
    return read_serving(kind, run.read(models[domain]), base, domain)


def read_serving(kind: str, folder: Path, base: Path | None, domain: str) -> Any:
    """Read the recommender of a result: a whole one, or an adapter on its base."""
    component = RECOMMENDERS.find(kind)
    if (folder / "recommender").is_dir():
        return component.load(folder / "recommender")
    if not (folder / "adaptation" / "lora.json").is_file():
        return component.load(folder / "adaptation")
    own = folder / "base" if (folder / "base").is_dir() else Path(base or folder) / "recommender"
    return component.load(own).with_adaptation(domain, folder / "adaptation")


def describe_adaptation(run: Run) -> str:
    """Say what is trained for each domain, or why nothing is: a line for each generative row of a run."""
    described = (f"{name}: {_described(config)}" for name, config in facts_of(run).generative.items())
    return "\n".join(described) or "No row of this run is generative, so nothing is adapted."


def load_adaptation_history(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read the epoch records of every adaptation by row and domain; epoch 0 is before any training."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {row: {} for row in adapted_rows(facts_of(run))}
    for row, domain, folder in _folders(run, adapting_tasks):
        found[row] |= histories_of(folder, domain)
    return found


def adaptation_sizes(run: Run) -> pl.DataFrame:
    """Return `method, domain, adapter_kb, whole_kb, share`: the weights of a domain's adaptation on disk.

    whole_kb: those of the whole recommender. Kilobytes have 1,000 bytes. Empty where nothing is adapted.
    """
    facts, rows = facts_of(run), []
    for row, domain, folder in _folders(run, adapting_tasks):
        before = recommender_tasks(facts, row)
        own = _weights_bytes(folder / "adaptation")
        # A row that is trained on its target alone has nothing but that.
        whole = _weights_bytes(run.read(before[ALL]) / "recommender") if ALL in before else own
        rows.append((row, domain, own / 1000, whole / 1000, own / whole))
    schema = {"method": pl.String, "domain": pl.String, "adapter_kb": pl.Float64, "whole_kb": pl.Float64}
    return pl.DataFrame(rows, schema=schema | {"share": pl.Float64}, orient="row")


def load_tokenizer_transfers(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Read the epoch records of the tokenizers that were fine-tuned on a target, by "row domain"."""
    folders = _folders(run, renaming_tasks)
    return {f"{row} {domain}": read_records(folder, "epochs") for row, domain, folder in folders}


def renamed_items(run: Run) -> pl.DataFrame:
    """What fine-tuning a tokenizer on a target changed of the codes of its items, before conflicts.

    Frame `method, domain, items, changed, first_changed, collisions_before, collisions_after`: changed: the
    share of items with any other code, first_changed: of those with another first one. Empty where no
    tokenizer was fine-tuned.
    """
    rows = []
    for row, domain, folder in _folders(run, renaming_tasks):
        before, after = load_identified(run, row).raw, ItemCodes.read(folder / "raw_codes.parquet")
        items = before.domain_items(domain)
        other = before.codes[items] != after.codes[items]
        rates = [ItemCodes(one.codes[items], one.sizes).collision_rate() for one in (before, after)]
        changed = float(other.any(1).mean()), float(other[:, 0].mean())
        rows.append((row, domain, len(items), *changed, *rates))
    shares = ("changed", "first_changed", "collisions_before", "collisions_after")
    schema = {"method": pl.String, "domain": pl.String, "items": pl.Int64}
    return pl.DataFrame(rows, schema=schema | dict.fromkeys(shares, pl.Float64), orient="row")


def codes_in_use(run: Run, row: str) -> ItemCodes:
    """The codes of the items that are recommended, as quantised; after fine-tuning where there was one."""
    facts, raw = facts_of(run), load_identified(run, row).raw
    for domain, task in renaming_tasks(facts, row).items():
        codes, items = raw.codes.copy(), raw.domain_items(domain)
        codes[items] = ItemCodes.read(run.read(task) / "raw_codes.parquet").codes[items]
        raw = replace(raw, codes=codes)
    return raw.select(np.concatenate([raw.domain_items(domain) for domain in facts.served]))


def lora_parameters(run: Run) -> Parameters:
    """How many parameters of the run's own recommender LoRA would train, even if the run does not use it."""
    domain = facts_of(run).served[0]
    base = starting_recommender(run, lead_row(run), domain)
    return count_parameters(add_lora(base, run.config.adaptation.lora, domain))


def _folders(run: Run, listing: Callable[[Facts, str], Mapping[str, Task]]) -> list[tuple[str, str, Path]]:
    """The folders of what stage 06 made, each with its row and its domain."""
    facts = facts_of(run)
    tasks = ((row, *one) for row in adapted_rows(facts) for one in listing(facts, row).items())
    return [(row, domain, run.read(task)) for row, domain, task in tasks]


def _weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _described(config: MethodConfig) -> str:
    transfer = config.transfer
    if not find_tokenizer(config.tokenizer.kind).transfers or not transfer.targets:
        return _adapted(config)
    trained = {
        "projections": "the tokenizer's projections W and all but its matrices E",
        "full": "the whole tokenizer",
        "none": "nothing of the tokenizer",
    }
    epochs = "" if transfer.tokenizer == "none" else f", {counted(transfer.training.epochs, 'epoch')}"
    return f"{trained[transfer.tokenizer]}{epochs}; then {_adapted(config)}"


def _adapted(config: MethodConfig) -> str:
    adaptation = config.adaptation
    epochs = counted(adaptation.training.epochs, "epoch")
    if adaptation.kind == "lora":
        targets = ", ".join(adaptation.lora.targets)
        return f"LoRA of rank {adaptation.lora.rank} on {targets} for each domain, at most {epochs}"
    if adaptation.kind == "full":
        return f"a copy of all weights for each domain, trained for at most {epochs}"
    if config.recommenders == "separate":
        return "nothing to adapt: each domain already has a recommender of its own"
    return "nothing is adapted (adaptation.kind is 'none'): the unified recommender serves every domain"


# -- the tasks -----------------------------------------------------------------------------------------------


def _rename(
    work: Work,
    domain: str,
    kind: str,
    settings: Mapping[str, Any],
    training: TrainingConfig,
    full: bool,
    identifiers: IdentifierConfig,
    seed: int,
    data: Path,
    tokenizer: Path,
    codes: Path,
) -> None:
    """Fine-tune the tokenizer on a target (UTGRec 2.4.2), and give its items new identifiers.

    The items of other domains keep theirs.
    """
    dataset = Dataset.read(data / "dataset")
    items = dataset.domain_items(domain)
    title = f"{work.title} tokenizer"
    content = ItemContent.from_dataset(dataset, None, items, cache=work.cache, title=title)
    model = find_tokenizer(kind).load(tokenizer / "tokenizer", **settings)
    with work.curves(title, len(items)) as curves:
        model.transfer(content, training, full=full, seed=seed, on_epoch=curves, checkpoint=work.scratch)
    model.save(work.folder / "tokenizer")
    write_records(work.folder, "epochs", [dict(record) for record in model.epochs])
    found, before = checked_codes(model, content), read_identified(codes, {})
    named, residuals = before.raw.codes.copy(), before.residuals.copy()
    named[items] = found.codes
    if found.residuals is not None:
        residuals[items] = found.residuals
    books = of_domains(before.codebooks, before.raw) | {domain: model.codebooks}
    raw = replace(before.raw, codes=named, domains=np.array(dataset.items["domain"].to_list()))
    resolution = raw.resolve_with_cost(identifiers, residuals, books, seed)
    print(f"{work.title}: {resolution}", flush=True)
    raw.write(work.folder / "raw_codes.parquet")
    resolution.codes.write(work.folder / "codes.parquet")


def _adapt(
    work: Work,
    adaptation: AdaptationConfig,
    recommender: Any,
    domain: str,
    pairs: Any,
    seed: int,
    data: Path,
    base: Path | None = None,
    codes: Path | None = None,
    **how: Any,
) -> None:
    """Train a recommender further on one domain; with codes of the target's own it reads and writes those."""
    component = RECOMMENDERS.find(recommender.kind)
    start: Any = None if base is None else component.load(base / "recommender")
    if codes is not None:
        own = ItemCodes.read(codes / "codes.parquet")
        torch.manual_seed(seed)
        start = component(own, recommender) if start is None else start.with_codes(own)
    lora = adaptation.lora if adaptation.kind == "lora" else None
    how |= {"lora": lora, "training": adaptation.training, "pairs": pairs, "seed": seed, **where(work)}
    adapted = start.adapt(learnt_data(data, (domain,), pairs.max_history), domain, **how)
    adapted.save_adaptation(work.folder / "adaptation")
    if lora is not None and codes is not None:
        start.save(work.folder / "base")  # with the target's own identifiers, which no other result knows
    (work.folder / "parameters.json").write_text(json.dumps(count_parameters(adapted)._asdict()))
    write_histories(work, adapted)
