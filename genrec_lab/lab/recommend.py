"""Stage 05: every row's recommenders, before any adaptation to a domain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import torch
from safetensors.numpy import load_file

from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset, Split
from genrec_lab.lab.files import read_json, safe_name
from genrec_lab.lab.prepare import Prepared
from genrec_lab.lab.results import read_records, write_records
from genrec_lab.lab.rows import ALL, Facts, facts_of, learns_from, pretrained_on, scopes
from genrec_lab.lab.store import Run, Task, Work
from genrec_lab.lab.tokenise import (
    codes_task,
    load_identified,
    picture_vectors,
    pretrained_run,
    text_task,
    tokenizer_tasks,
)
from genrec_lab.models.recommenders.base import (
    ITEM_MODELS,
    RECOMMENDERS,
    TrainingData,
    needs_of,
    pretrains,
    with_accepted,
)
from genrec_lab.models.tokenizers import Tokenizer, find_tokenizer
from genrec_lab.presets import ItemRow, MethodConfig
from genrec_lab.training import Callback, TrainingConfig, TrainingResult
from genrec_lab.viz.figures import recommender_curves

RECOMMENDING = "05_recommender_training"
PRETRAINED = "pretrained"  # of a row's folders: what all of its domains' models start from
_START = ""  # its key among a row's tasks: no domain's name
Records = Sequence[Mapping[str, Any]]
Histories = Mapping[str, Mapping[str, Records]]


def training_tasks(facts: Facts) -> list[Task]:
    """What stage 05 makes: every row's recommenders."""
    tasks = (task for of_row in _listed(facts).values() for task in of_row.values())
    return list({task.place: task for task in tasks}.values())


def item_model_tasks(facts: Facts, row: str, *, pretrained: bool = False) -> dict[str, Task]:
    """A row's models over items as tasks, by domain; `pretrained`: what they start from too, if they do."""
    found = _listed(facts)[row]
    return found if pretrained else {scope: task for scope, task in found.items() if scope != _START}


def recommender_tasks(facts: Facts, row: str) -> dict[str, Task]:
    """A generative row's recommenders as tasks, by scope: "all", or a domain; none where it has none yet."""
    return _listed(facts)[row]


def _listed(facts: Facts) -> dict[str, dict[str, Task]]:
    if RECOMMENDING not in facts.tasks:
        known: list[Task] = []
        items = facts.over_items.items()
        found = {row: _item_models(facts, row, item) for row, item in items}
        for row, config in facts.generative.items():
            tasks = _recommenders(facts, row, config)
            found[row] = {scope: task.first_equal(known) for scope, task in tasks.items()}
        facts.tasks[RECOMMENDING] = found
    return dict(facts.tasks[RECOMMENDING])


def _item_models(facts: Facts, row: str, item: ItemRow) -> dict[str, Task]:
    component = ITEM_MODELS.find(item.model.kind)
    budgets = {"training": item.training, "pretraining": item.pretraining}
    history = facts.config.pairs.max_history
    given = {"model": item.model, "budgets": budgets, "max_history": history, "seed": facts.run.seed}
    inputs: dict[str, Any] = {"data": facts.data}
    folder = safe_name(row)  # a run file may call a row anything
    if "text" in needs_of(component, also_taken=True) and facts.has_texts:
        inputs["text"] = text_task(facts)
    found: dict[str, Task] = {}
    if pretrains(component):
        shared = {**given, "domains": pretrained_on(facts.config, facts.domains), "shared": True}
        name, scope = f"{folder}/{PRETRAINED}", "pretraining"
        found[_START] = Task(RECOMMENDING, name, _learn, shared, inputs, (component,), row, scope)
        inputs = {**inputs, "start": found[_START]}
    for domain in facts.served:
        own, name = {**given, "domains": (domain,)}, f"{folder}/domains/{safe_name(domain)}"
        found[domain] = Task(RECOMMENDING, name, _learn, own, inputs, (component,), row, domain)
    return found


def how_to_learn(run: Run, config: MethodConfig) -> dict[str, Any]:
    """What every training of a generative row's recommender is given."""
    return {
        "pairs": config.pairs,
        "temperature": config.loss_temperature,
        "validation_beams": config.decoding.validation_beams,
        "precision": config.decoding.precision,
        "seed": run.seed,
    }


def _recommenders(facts: Facts, row: str, config: MethodConfig) -> dict[str, Task]:
    tokenizer = find_tokenizer(config.tokenizer.kind)
    if tokenizer.transfers and not config.transfer.pretrain_recommender:
        return {}  # it learns from its target alone, in stage 06
    start, component = pretrained_run(facts.run, config), RECOMMENDERS.find(config.recommender.kind)
    codes = codes_task(facts, row)
    if start is not None:
        of_start = recommender_tasks(facts_of(start), start.config.name)[ALL].belonging_to(start)
        given: dict[str, Any] = {"recommender": config.recommender}
        inputs: dict[str, Any] = {"codes": codes, "of_start": of_start}
        name = f"{row}/{ALL}"
        return {ALL: Task(RECOMMENDING, name, _take_over, given, inputs, (component,), row, ALL)}
    found = {}
    learnt = learns_from(config, facts.domains)
    for scope, domains in scopes(learnt, separate=config.recommenders == "separate").items():
        given = {"recommender": config.recommender, "domains": domains, **how_to_learn(facts.run, config)}
        given |= {"one_pass": config.one_pass, "training": config.training}
        inputs = {"data": facts.data, "codes": codes}
        if tokenizer.read_recommender.__func__ is not Tokenizer.read_recommender.__func__:  # type: ignore[attr-defined]
            fitted = tokenizer_tasks(facts, row)
            given["tokenizer_kind"] = config.tokenizer.kind
            inputs["tokenizer"] = fitted.get(scope) or fitted[ALL]
        name = f"{row}/{ALL if scope == ALL else f'domains/{safe_name(scope)}'}"
        found[scope] = Task(RECOMMENDING, name, _train, given, inputs, (component,), row, scope)
    return found


def train_recommenders(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Train every row of the run; return the epoch records by row and scope."""
    for task in training_tasks(facts_of(run)):
        run.make(task)
    return load_history(run)


def load_history(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read the epoch records of every row, by row and training: a scope, or scope and phase."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task in training_tasks(facts_of(run)):
        found.setdefault(task.row, {}).update(histories_of(run.read(task), task.scope))
    return found


def starting_recommender(run: Run, row: str, domain: str) -> Any:
    """The recommender that a domain's training in stage 06 starts from, before its items get other names.

    It is that of stage 05, or an untrained one for a row that learns from its target alone (UTGRec Table 3,
    variants 6 and 7).
    """
    facts = facts_of(run)
    config = facts.generative[row].recommender
    component = RECOMMENDERS.find(config.kind)
    if tasks := recommender_tasks(facts, row):
        return component.load(run.read(tasks.get(domain) or tasks[ALL]) / "recommender")
    torch.manual_seed(run.seed)
    return component(load_identified(run, row).codes, config)


def load_item_model(run: Run, row: str, domain: str) -> Any:
    """Read the model over items that serves a domain in a row of the run."""
    facts = facts_of(run)
    kind = facts.over_items[row].model.kind
    return ITEM_MODELS.find(kind).load(run.read(item_model_tasks(facts, row)[domain]) / "model")


def learnt_from(run: Run, frame: pl.DataFrame) -> pl.DataFrame:
    """The users of a part of the split from whose domains the run's lead row learns in stage 05.

    All of them in a run without a generative row.
    """
    facts = facts_of(run)
    for config in facts.generative.values():
        return part_of(frame, learns_from(config, facts.domains))
    return frame


def part_of(frame: pl.DataFrame, domains: Sequence[str]) -> pl.DataFrame:
    """Return the users of some domains of one part of the split."""
    return frame.filter(pl.col("domain").is_in(list(domains)))


def training_data(data: Prepared, domains: Sequence[str] | None = None) -> TrainingData:
    """Return what of a run's data may be learnt from, by default in all domains."""
    learnt = TrainingData.of(data.dataset, data.split)
    return learnt if domains is None else learnt.of_domains(domains)


def trainings(histories: Histories, rows: Sequence[str] | None = None) -> dict[str, Records]:
    """The trainings of some rows (None: of all) by the name "row scope", for `recommender_curves`."""
    return {
        f"{row} {scope}": records
        for row, of_row in histories.items()
        for scope, records in of_row.items()
        if rows is None or row in rows
    }


def training_figures(run: Run, histories: Histories) -> list[go.Figure]:
    """Draw and save the curves of every row, its trainings in one figure."""
    return [
        run.figure(
            f"training_{row}",
            recommender_curves(trainings(histories, [row]), seed=run.seed),
            f"Training loss and validation NDCG@10 of {row} by epoch.",
        )
        for row, of_row in histories.items()
        if any(of_row.values())
    ]


def training_summary(histories: Histories, monitor: str = "ndcg@10") -> pl.DataFrame:
    """A row for each training: `training, epochs, best_epoch, <monitor>, minutes, samples_per_second, mfu`.

    best_epoch and the monitor are null where nothing was validated; epoch 0 is before any training. Speed and
    MFU (`genrec_lab.training.operations`) are means over the epochs; of records without it the MFU is null.
    """
    rows = []
    for name, records in trainings(histories).items():
        validated = [record for record in records if monitor in record["metrics"]]
        best = max(validated, key=lambda record: float(record["metrics"][monitor]), default=None)
        trained = [record for record in records if record["epoch"] > 0]
        seconds = sum(record["seconds"] for record in records)
        rate = sum(record["samples_per_second"] for record in trained) / max(len(trained), 1)
        shares = [record["mfu"] for record in trained if record.get("mfu") is not None]
        mfu = round(sum(shares) / len(shares), 3) if shares else None
        found = (None, None) if best is None else (best["epoch"], best["metrics"][monitor])
        rows.append((name, len(trained), *found, round(seconds / 60, 2), round(rate), mfu))
    schema = {
        "training": pl.String, "epochs": pl.Int64, "best_epoch": pl.Int64, monitor: pl.Float64,
        "minutes": pl.Float64, "samples_per_second": pl.Int64, "mfu": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def _phases(folder: Path) -> dict[str, int]:
    """The epoch that was kept of each phase of a result's training."""
    return dict(read_json(folder / "phases.json"))


def histories_of(folder: Path, scope: str) -> dict[str, list[dict[str, Any]]]:
    """The epoch records of a result's trainings: the last phase under the scope, others as "scope phase"."""
    names = [f"{scope} {phase}" for phase in _phases(folder)]
    return {
        name: read_records(folder, f"history-{number}")
        for number, name in enumerate([*names[:-1], scope][: len(names)])
    }


def best_epoch(folder: Path) -> int:
    """The epoch of the last phase whose weights were kept."""
    return list(_phases(folder).values())[-1]


# -- the tasks -----------------------------------------------------------------------------------------------


def write_histories(work: Work, model: Any) -> None:
    """Write the epoch records of a model's trainings, by phase, and note how many parameters it has."""
    results: Mapping[str, TrainingResult] = getattr(model, "results_", {})
    if isinstance(model, torch.nn.Module):
        work.summary["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    for number, result in enumerate(results.values()):
        write_records(work.folder, f"history-{number}", [asdict(record) for record in result.history])
    phases = {phase: result.best_epoch for phase, result in results.items()}
    (work.folder / "phases.json").write_text(json.dumps(phases))


def learnt_data(data: Path, domains: Sequence[str], max_history: int = 20) -> TrainingData:
    """Read what may be learnt from in some domains: nothing of the test part is read."""
    dataset, valid = Dataset.read(data / "dataset"), pl.read_parquet(data / "valid.parquet")
    split = Split(valid.clear(), valid, valid.clear(), max_history=max_history)
    return TrainingData.of(dataset, split).of_domains(domains)


def _train(
    work: Work,
    recommender: Any,
    domains: Sequence[str],
    pairs: Any,
    seed: int,
    data: Path,
    codes: Path,
    tokenizer_kind: str = "",
    tokenizer: Path | None = None,
    **how: Any,
) -> None:
    """Train a generative recommender on the users of some domains."""
    torch.manual_seed(seed)
    model = RECOMMENDERS.find(recommender.kind)(ItemCodes.read(codes / "codes.parquet"), recommender)
    if tokenizer is not None:
        weights = find_tokenizer(tokenizer_kind).read_recommender(tokenizer / "tokenizer")
        if weights is not None:
            model.body.load_state_dict(weights)
    learnt = learnt_data(data, domains, pairs.max_history)
    model = with_accepted(model.fit, learnt, pairs=pairs, seed=seed, **how, **where(work))
    model.save(work.folder / "recommender")
    write_histories(work, model)


def _take_over(work: Work, recommender: Any, codes: Path, of_start: Path) -> None:
    """Give the recommender that another run pre-trained this run's identifiers; its history comes with it."""
    before = RECOMMENDERS.find(recommender.kind).load(of_start / "recommender")
    before.with_codes(ItemCodes.read(codes / "codes.parquet")).save(work.folder / "recommender")
    for file in (*of_start.glob("history-*.json"), of_start / "phases.json"):
        shutil.copy(file, work.folder / file.name)
    for file in (of_start / "beside").glob("history-*.json"):
        shutil.copy(file, work.beside / file.name)


def _learn(
    work: Work,
    model: Any,
    budgets: Mapping[str, TrainingConfig],
    domains: Sequence[str],
    max_history: int,
    data: Path,
    text: Path | None = None,
    start: Path | None = None,
    shared: bool = False,
    **more: Any,
) -> None:
    """Train a model over the items of one domain, or (`shared`) in the phases that its domains share."""
    component = ITEM_MODELS.find(model.kind)
    if start is not None:
        more["pretrained"] = component.load(start / "model")
    phases = getattr(component, "phases", ())
    last = "pretraining" if shared else phases[-1].name if phases else "training"
    vectors = _vectors(work, component, model, data, text)
    learn = getattr(component(model), "pretrain" if shared else "fit")
    learnt = learnt_data(data, domains, max_history)
    made = with_accepted(learn, learnt, **budgets, **vectors, **more, **where(work, last))
    made.save(work.folder / "model")
    write_histories(work, made)


def where(work: Work, last: str = "training") -> dict[str, Any]:
    """Where a training keeps checkpoints and shows curves by phase; the last one goes by the title alone."""

    def curves(phase: str) -> Sequence[Callback]:
        return [work.curves(work.title if phase == last else f"{work.title}, {phase}")]

    return {"callbacks": curves, "checkpoints": work.scratch}


def _vectors(work: Work, component: Any, model: Any, data: Path, text: Path | None) -> dict[str, Any]:
    """The vectors of all items that a model over items reads, where there are any."""
    read, found = needs_of(component, also_taken=True), {}
    if "text" in read and text is not None:
        found["text"] = load_file(text / "vectors.safetensors")["vectors"]
    if "pictures" in read:
        dataset = Dataset.read(data / "dataset")
        if dataset.items["image"].null_count() < dataset.n_items:
            kind = getattr(model, "picture_model", "efficientnet-lite0")
            found["pictures"] = np.ascontiguousarray(picture_vectors(dataset, kind, work.cache))
    return found
