"""Stage 05: every row's recommenders, before any adaptation to a domain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch

from genrec_lab.lab.parts import outputs_of, part, settings_of
from genrec_lab.lab.stages.item_rows import train_item_row, what_item_row_follows_from
from genrec_lab.lab.stages.preparing import PREPARATION, Prepared, load_prepared
from genrec_lab.lab.stages.pretrained import digests_of_start, pretrained_run
from genrec_lab.lab.stages.rows import (
    ALL,
    generative_rows,
    is_universal,
    learns_from,
    recommender_owners,
    scopes,
    trained_item_rows,
)
from genrec_lab.lab.stages.tokenizing import TOKENIZING, load_identified, tokenizer_folder, tokenizer_owner
from genrec_lab.lab.stages.training import (
    HISTORY_FILE,
    Watch,
    part_of,
    phase_curves,
    read_histories,
    write_histories,
)
from genrec_lab.lab.store import Run, Stage
from genrec_lab.models.popularity import Popularity
from genrec_lab.models.recommenders.base import (
    ITEM_MODELS,
    RECOMMENDERS,
    TrainingData,
    read_recommender,
    with_accepted,
)
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.models.sequential.base import ItemModel
from genrec_lab.presets import MethodConfig, item_rows

RECOMMENDING = "05_recommender_training"
_USES = (
    "recommender",
    "recommenders",
    "pairs",
    "one_pass",
    "training",
    "loss_temperature",
    "decoding.validation_beams",
    "transfer.targets",
    "transfer.start",
    "transfer.pretrain_on_targets",
    "transfer.pretrain_recommender",
    "compare",
    "seed",
)


def train_recommenders(run: Run, watch: Watch | None = None) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Train every row of the run; return the epoch records by row and scope.

    `watch(title)` gives the live curves of a training; by default those of `viz.live`.
    """
    uses = (*_USES, *(f"rows.{name}" for name in item_rows(run.config)))
    also = digests_of_start(run, RECOMMENDING)
    with run.stage(RECOMMENDING, inputs=(PREPARATION, TOKENIZING), uses=uses, also=also) as stage:
        if not stage.is_finished:
            data, rows = load_prepared(run), generative_rows(run)
            owners = recommender_owners(rows)
            for name, row in trained_item_rows(run.config, data.dataset).items():
                with part(stage, name, what_item_row_follows_from(run, data, row)) as made:
                    if not made:
                        train_item_row(run, data, name, row, stage, watch)
            for name in dict.fromkeys(owners.values()):
                if is_universal(rows[name]) and not rows[name].transfer.pretrain_recommender:
                    continue  # it learns from its target alone, in stage 06
                start = pretrained_run(run, rows[name])
                with part(stage, name, {**_follows_from(run, name, rows[name]), "also": also}) as made:
                    if made:
                        continue
                    if start is None:
                        _train_generative(run, data, name, rows[name], stage, watch)
                    else:
                        _take_over(run, name, rows[name], start, stage)
            (stage.folder / "owners.json").write_text(json.dumps(owners, indent=2))
        return read_histories(stage.folder)


def _follows_from(run: Run, name: str, config: MethodConfig) -> dict[str, Any]:
    """All that a generative row's recommenders follow from: settings, the data, and its own tokenizers."""
    return {
        "settings": settings_of(run, config, _USES),
        "data": outputs_of(run, PREPARATION),
        "tokenizers": outputs_of(run, TOKENIZING, tokenizer_owner(run, name)),
    }


def load_recommender(run: Run, method: str, domain: str) -> CodeRecommender:
    """Read the recommender that serves a domain, before adaptation."""
    owner = _owners_folder(run, method)
    scope = owner / domain
    return read_recommender(scope if scope.is_dir() else owner / "all")


def recommender_owner(run: Run, method: str) -> str:
    """Return where in stage 05 a method's recommenders are: the folder of the first row with the same."""
    return _owners_folder(run, method).name


def _owners_folder(run: Run, method: str) -> Path:
    folder = run.read_stage(RECOMMENDING)
    return Path(folder / json.loads((folder / "owners.json").read_text())[method])


def starting_recommender(run: Run, method: str, domain: str) -> CodeRecommender:
    """The recommender that a domain's training in stage 06 starts from, before its items get other names.

    It is that of stage 05, or an untrained one for a row that learns from its target alone (UTGRec Table 3,
    variants 6 and 7).
    """
    config = generative_rows(run)[method]
    if not is_universal(config) or config.transfer.pretrain_recommender:
        return load_recommender(run, method, domain)
    torch.manual_seed(run.seed)
    return RECOMMENDERS.find(config.recommender.kind)(load_identified(run, method).codes, config.recommender)


def learnt_from(run: Run, frame: pl.DataFrame) -> pl.DataFrame:
    """The users of a part of the split from whose domains the run's lead row learns in stage 05.

    All of them in a run without a generative row.
    """
    domains = load_prepared(run).dataset.domains
    for config in generative_rows(run).values():
        return part_of(frame, learns_from(config, domains))
    return frame


def load_item_model(run: Run, row: str, domain: str) -> ItemModel:
    """Read the model over items that serves a domain in a row of the run."""
    kind = run.config.rows[row].model.kind
    return ITEM_MODELS.find(kind).load(run.read_stage(RECOMMENDING) / row / domain)


def load_history(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read the epoch records of every row, by row and scope."""
    return read_histories(run.read_stage(RECOMMENDING))


def popularity_of(data: Prepared, domain: str) -> Popularity:
    """Count the training part of a domain; nothing is stored, for counting is as fast as reading."""
    return Popularity().fit(training_data(data, (domain,)))


def training_data(data: Prepared, domains: Sequence[str] | None = None) -> TrainingData:
    """Return what recommenders may learn from in some domains, by default in all."""
    learnt = TrainingData.of(data.dataset, data.split)
    return learnt if domains is None else learnt.of_domains(domains)


def how_to_fit(config: MethodConfig, seed: int) -> dict[str, Any]:
    """Return what the `fit` and `adapt` of a generative recommender may take, beside budgets and places."""
    return {
        "pairs": config.pairs,
        "temperature": config.loss_temperature,
        "validation_beams": config.decoding.validation_beams,
        "precision": config.decoding.precision,
        "seed": seed,
    }


def _train_generative(
    run: Run, data: Prepared, name: str, config: MethodConfig, stage: Stage, watch: Watch | None
) -> None:
    codes = load_identified(run, name).codes
    learnt = learns_from(config, data.dataset.domains)
    for scope, domains in scopes(learnt, separate=config.recommenders == "separate").items():
        torch.manual_seed(run.seed)
        model = RECOMMENDERS.find(config.recommender.kind)(codes, config.recommender)
        written = config.tokenizer_class.read_recommender(tokenizer_folder(run, name, scope))
        if written is not None:
            model.body.load_state_dict(written)
        with_accepted(
            model.fit,
            training_data(data, domains),
            training=config.training,
            one_pass=config.one_pass,
            callbacks=phase_curves(watch, f"{name} {scope}", run.seed),
            checkpoints=stage.scratch / name / scope,
            **how_to_fit(config, run.seed),
        )
        model.save(stage.folder / name / scope)
        write_histories(model, stage.folder / name / scope)


def _take_over(run: Run, name: str, config: MethodConfig, start: Run, stage: Stage) -> None:
    """Give the recommender that another run pre-trained this run's identifiers; its history comes with it."""
    of_start = start.read_stage(RECOMMENDING) / start.config.name / ALL
    model = read_recommender(of_start).with_codes(load_identified(run, name).codes)
    model.save(stage.folder / name / ALL)
    shutil.copy(of_start / HISTORY_FILE, stage.folder / name / ALL / HISTORY_FILE)
