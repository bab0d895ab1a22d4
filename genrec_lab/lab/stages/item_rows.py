"""The rows with a model over items: trained in stage 05, a model a domain, ranked in stage 07."""

from __future__ import annotations

from typing import Any

import numpy as np

from genrec_lab.encoders.content import content_of
from genrec_lab.encoders.picture_vectors import PictureModel, encode_pictures
from genrec_lab.lab.parts import outputs_of
from genrec_lab.lab.stages.preparing import PREPARATION, Prepared
from genrec_lab.lab.stages.rows import pretrained_on, served
from genrec_lab.lab.stages.tokenizing import TOKENIZING, VECTORS_FILE, load_vectors
from genrec_lab.lab.stages.training import Watch, curves, phase_curves, write_histories, write_history
from genrec_lab.lab.store import Run, Stage, runs_root
from genrec_lab.models.recommenders.base import (
    ITEM_MODELS,
    TrainingData,
    needs_of,
    pretrains,
    with_accepted,
)
from genrec_lab.presets import ItemRow


def train_item_row(
    run: Run, data: Prepared, name: str, row: ItemRow, stage: Stage, watch: Watch | None
) -> None:
    """Train one row's models: its shared phases once, then for each domain the others, and write them."""
    model_class, learnt = ITEM_MODELS.find(row.model.kind), TrainingData.of(data.dataset, data.split)
    given: dict[str, Any] = {"training": row.training, "pretraining": row.pretraining, "seed": run.seed}
    given |= content_of_items(run, data, row)
    pretrained = None
    if pretrains(model_class):
        pretrained = with_accepted(
            model_class(row.model).pretrain,
            learnt.of_domains(pretrained_on(run.config, data.dataset.domains)),
            callbacks=lambda phase: (curves(watch, f"{name} {phase}", run.seed),),
            checkpoints=stage.scratch / name,
            **given,
        )
        for phase, result in pretrained.results_.items():
            write_history(result, stage.folder / name / phase)
    for domain in served(run.config, data.dataset.domains):
        model = model_class(row.model)
        with_accepted(
            model.fit,
            learnt.of_domains(domain),
            pretrained=pretrained,
            callbacks=phase_curves(watch, f"{name} {domain}", run.seed),
            checkpoints=stage.scratch / name / domain,
            **given,
        )
        model.save(stage.folder / name / domain)
        write_histories(model, stage.folder / name / domain)


def what_item_row_follows_from(run: Run, data: Prepared, row: ItemRow) -> dict[str, Any]:
    """All that a row's models follow from: its settings, the data, and the text vectors if it reads them."""
    domains = data.dataset.domains
    reads = "text" in needs_of(ITEM_MODELS.find(row.model.kind), also_taken=True)
    return {
        "row": row.model_dump(mode="json", exclude={"tuning"}),
        "seed": run.seed,
        "served": served(run.config, domains),
        "pretrained_on": pretrained_on(run.config, domains),
        "data": outputs_of(run, PREPARATION),
        "vectors": outputs_of(run, TOKENIZING).get(VECTORS_FILE) if reads else None,
    }


def content_of_items(run: Run, data: Prepared, row: ItemRow) -> dict[str, np.ndarray]:
    """Return the vectors of all items that a row's models read, by "text" and "pictures"."""
    needs, found = needs_of(ITEM_MODELS.find(row.model.kind), also_taken=True), {}
    if "text" in needs:
        found["text"] = load_vectors(run)
    if "pictures" in needs and data.dataset.items["image"].null_count() < data.dataset.n_items:
        model: PictureModel = getattr(row.model, "picture_model", "efficientnet-lite0")
        content, cache = content_of(data.dataset), runs_root() / "cache" / "pictures"
        found["pictures"] = encode_pictures(content, model, cache=cache)
    return found
