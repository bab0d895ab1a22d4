"""The rows with a model over items: trained in stage 05, a model a domain, ranked in stage 07."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from genrec_lab.decoding import Ranked
from genrec_lab.encoders.content import content_of
from genrec_lab.encoders.picture_vectors import PictureModel, encode_pictures
from genrec_lab.lab.parts import outputs_of
from genrec_lab.lab.stages.preparing import PREPARATION, Prepared
from genrec_lab.lab.stages.rows import pretrained_on, served
from genrec_lab.lab.stages.tokenizing import TOKENIZING, VECTORS_FILE, load_vectors
from genrec_lab.lab.stages.training import Watch, curves, part_of, training_part, validator, write_history
from genrec_lab.lab.store import Run, Stage, runs_root
from genrec_lab.models.sequential.domain_items import DomainItems
from genrec_lab.models.sequential.item_model import ItemModel, Phase
from genrec_lab.models.sequential.kinds import MODELS
from genrec_lab.presets import ItemRow
from genrec_lab.training import TrainingConfig, fit


def train_item_row(
    run: Run, data: Prepared, name: str, row: ItemRow, stage: Stage, watch: Watch | None
) -> None:
    """Train one row's models: its shared phases once, then for each domain the others, and write them."""
    model_class = MODELS[row.model.kind]
    shared = [phase for phase in model_class.phases if phase.shared]
    pretrained = None
    if shared:
        domains = pretrained_on(run.config, data.dataset.domains)
        torch.manual_seed(run.seed)
        pretrained = model_class(domain_items_of(run, data, domains, row), row.model)
        for phase in shared:
            _train(run, data, pretrained, row, phase, domains, f"{name}/{phase.name}", stage, watch)
    for domain in served(run.config, data.dataset.domains):
        torch.manual_seed(run.seed)
        model = model_class(domain_items_of(run, data, (domain,), row), row.model)
        if pretrained is not None:
            model.start_from(pretrained)
        for phase in model_class.phases:
            if not phase.shared:
                last = phase is model_class.phases[-1]
                place = f"{name}/{domain}" if last else f"{name}/{domain} {phase.name}"
                _train(run, data, model, row, phase, (domain,), place, stage, watch)
        model.save(stage.folder / name / domain)


def what_item_row_follows_from(run: Run, data: Prepared, row: ItemRow) -> dict[str, Any]:
    """All that a row's models follow from: its settings, the data, and the text vectors if it reads them."""
    model_class, domains = MODELS[row.model.kind], data.dataset.domains
    reads = "text" in (*model_class.needs, *model_class.takes)
    return {
        "row": row.model_dump(mode="json", exclude={"tuning"}),
        "seed": run.seed,
        "served": served(run.config, domains),
        "pretrained_on": pretrained_on(run.config, domains),
        "data": outputs_of(run, PREPARATION),
        "vectors": outputs_of(run, TOKENIZING).get(VECTORS_FILE) if reads else None,
    }


def domain_items_of(run: Run, data: Prepared, domains: Sequence[str], row: ItemRow) -> DomainItems:
    """Return what a row's models may know of some domains: their items, users and what they read."""
    model_class = MODELS[row.model.kind]
    needs = (*model_class.needs, *model_class.takes)
    table = data.dataset.items.filter(pl.col("domain").is_in(list(domains)))
    users = data.dataset.sequences.filter(pl.col("domain").is_in(list(domains)))["user"].to_numpy()
    items = table["item"].to_numpy()
    return DomainItems(
        items,
        users,
        text=np.ascontiguousarray(load_vectors(run)[items]) if "text" in needs else None,
        pictures=_picture_vectors(data, row, items) if "pictures" in needs else None,
        words=table if "words" in needs else None,
    )


def _picture_vectors(data: Prepared, row: ItemRow, items: np.ndarray) -> np.ndarray | None:
    """Vectors of the pictures of some items, zeros for one without; None where no domain has any picture."""
    if data.dataset.items["image"].null_count() == data.dataset.n_items:
        return None
    model: PictureModel = getattr(row.model, "picture_model", "efficientnet-lite0")
    vectors = encode_pictures(content_of(data.dataset), model, cache=runs_root() / "cache" / "pictures")
    return np.ascontiguousarray(vectors[items])


def _train(
    run: Run,
    data: Prepared,
    model: ItemModel,
    row: ItemRow,
    phase: Phase,
    domains: Sequence[str],
    place: str,
    stage: Stage,
    watch: Watch | None,
) -> None:
    """Train one phase of a model, and write its history; `place` is the folder of both."""
    config: TrainingConfig = getattr(row, phase.budget)
    if phase.epochs is not None:
        config = config.model_copy(update={"epochs": min(config.epochs, phase.epochs), "least_steps": 0})
    sequences, users = training_part(data, domains)
    model.begin(phase.name)

    def recommend(rows: pl.DataFrame) -> Ranked:
        return model.recommend(rows["history"].to_list(), 10, rows["user"].to_list())

    valid = part_of(data.split.valid, domains)
    result = fit(
        model,
        model.batches(sequences, users, config.batch_size),
        config,
        validate=validator(recommend, valid, config.validation_users, run.seed) if phase.validated else None,
        callbacks=[curves(watch, place.replace("/", " "), run.seed)],
        checkpoints=stage.scratch / place,
        seed=run.seed,
    )
    write_history(result, stage.folder / place)
