"""Stage 06: the unified recommender adapted to each domain (GMC 3.5, Eq. 9)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from genrec_lab.codes import ItemCodes
from genrec_lab.lab.parts import outputs_of, part, settings_of
from genrec_lab.lab.stages.preparing import PREPARATION, Prepared, load_prepared
from genrec_lab.lab.stages.recommending import (
    RECOMMENDING,
    how_to_fit,
    load_recommender,
    recommender_owner,
    training_data,
)
from genrec_lab.lab.stages.rows import ALL, generative_rows, is_universal, served
from genrec_lab.lab.stages.tokenizing import (
    TOKENIZING,
    Identified,
    load_identified,
    tokenizer_folder,
    tokenizer_owner,
)
from genrec_lab.lab.stages.training import Watch, phase_curves, write_history
from genrec_lab.lab.stages.universal import item_codes, training_curves, universal_content
from genrec_lab.lab.store import Run, Stage
from genrec_lab.models.recommenders.adapters import (
    Parameters,
    count_parameters,
)
from genrec_lab.models.recommenders.base import RECOMMENDERS, read_recommender
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.presets import MethodConfig

ADAPTING = "06_domain_adaptation"
_USES = (
    "adaptation",
    "pairs",
    "recommender",
    "loss_temperature",
    "transfer",
    "content",
    "tokenizer",
    "compare",
    "seed",
)
_BASE = "base"  # of a folder: what a LoRA adapter is for, where its items were renamed


def adapt_to_domains(run: Run, watch: Watch | None = None) -> pl.DataFrame:
    """Adapt every method that is to be adapted to each domain; return what it gained on validation users.

    The frame has the columns method, domain, metric, before, after, best_epoch, trained and share. Before any
    training counts as an epoch: where no epoch beats it, the domain keeps the unified recommender.
    """
    with run.stage(
        ADAPTING,
        inputs=(PREPARATION, TOKENIZING, RECOMMENDING),
        uses=_USES,
    ) as stage:
        if not stage.is_finished:
            data, records = load_prepared(run), []
            for name, config in generative_rows(run).items():
                if config.adaptation.kind != "none":
                    records += _adapt_to_all(run, data, name, config, stage, watch)
            (stage.folder / "changes.json").write_text(json.dumps(records, indent=2))
        return pl.DataFrame(json.loads((stage.folder / "changes.json").read_text()))


def load_adapted(run: Run, method: str, domain: str) -> CodeRecommender:
    """Read the recommender that serves a domain, adapted where the method adapts."""
    config = generative_rows(run)[method]
    if config.adaptation.kind == "none":
        return load_recommender(run, method, domain)
    folder = run.read_stage(ADAPTING) / method / domain
    if config.adaptation.kind == "full":
        return read_recommender(folder)
    base = read_recommender(folder / _BASE) if is_universal(config) else load_recommender(run, method, domain)
    return base.with_adaptation(domain, folder)


def _adapt_to_all(
    run: Run, data: Prepared, name: str, config: MethodConfig, stage: Stage, watch: Watch | None
) -> list[dict[str, Any]]:
    """Adapt a method to each domain, unless that is done already; its changes are in its folder too."""
    file, records = stage.folder / name / "changes.json", []
    follows_from = {
        "settings": settings_of(run, config, _USES),
        "data": outputs_of(run, PREPARATION),
        "tokenizers": outputs_of(run, TOKENIZING, tokenizer_owner(run, name)),
        "recommenders": outputs_of(run, RECOMMENDING, recommender_owner(run, name)),
    }
    with part(stage, name, follows_from) as made:
        if made:
            return list(json.loads(file.read_text()))
        for domain in served(run.config, data.dataset.domains):
            records += _adapt(run, data, name, config, domain, stage, watch)
        file.write_text(json.dumps(records, indent=2))
    return records


def _adapt(
    run: Run, data: Prepared, name: str, config: MethodConfig, domain: str, stage: Stage, watch: Watch | None
) -> list[dict[str, Any]]:
    adaptation, folder = config.adaptation, stage.folder / name / domain
    base = (
        _transferred(run, data, name, config, domain, stage)
        if is_universal(config)
        else load_recommender(run, name, domain)
    )
    model = base.adapt(
        training_data(data),
        domain,
        lora=adaptation.lora if adaptation.kind == "lora" else None,
        training=adaptation.training,
        callbacks=phase_curves(watch, f"{name} {domain}", run.seed),
        checkpoints=stage.scratch / name / domain,
        **how_to_fit(config, run.seed),
    )
    parameters, result = count_parameters(model), model.results_["training"]
    print(f"{name} {domain}: {parameters}", flush=True)
    model.save_adaptation(folder)
    if adaptation.kind == "lora" and is_universal(config):
        base.save(folder / _BASE)  # with the target's own identifiers, which no other stage knows
    write_history(result, folder)
    return _changes(name, domain, result.history, result.best_epoch, parameters)


def _transferred(
    run: Run, data: Prepared, name: str, config: MethodConfig, domain: str, stage: Stage
) -> CodeRecommender:
    """UTGRec's recommender before it is fine-tuned on a target, which its fine-tuned tokenizer has named.

    2.4.2: the tokenizer learns from the target's items, with E^r and E^f fixed; then the target's items get
    their identifiers, and the pre-trained recommender (or an untrained one) reads and writes those.
    """
    identified = load_identified(run, name)
    codes = identified.codes
    if config.transfer.tokenizer != "none" and config.transfer.targets:
        codes = _renamed(run, data, name, config, domain, stage, identified)
    codes.require_unique()
    torch.manual_seed(run.seed)
    if config.transfer.pretrain_recommender:
        return load_recommender(run, name, domain).with_codes(codes)
    return RECOMMENDERS.find(config.recommender.kind)(codes, config.recommender)


def _renamed(
    run: Run,
    data: Prepared,
    name: str,
    config: MethodConfig,
    domain: str,
    stage: Stage,
    identified: Identified,
) -> ItemCodes:
    """Fine-tune the tokenizer on a target, and give its items new identifiers; the others keep theirs."""
    dataset = data.dataset
    items = dataset.domain_items(domain)
    found = config.load_tokenizer(tokenizer_folder(run, name, ALL))
    title = f"{name} {domain} tokenizer"
    content = universal_content(dataset, items, title)
    with training_curves(None, title, len(items), run.seed) as shown:
        found.transfer(
            content,
            config.transfer.training,
            full=config.transfer.tokenizer == "full",
            seed=run.seed,
            on_epoch=shown,
            checkpoint=stage.scratch / name / f"{domain}-tokenizer",
        )
    folder = stage.folder / name / domain / "tokenizer"
    found.save(folder)
    (folder / "epochs.json").write_text(json.dumps(list(found.epochs)))
    tokenized = found.tokenize(content)
    codes, residuals = identified.raw.codes.copy(), identified.residuals.copy()
    codes[items], residuals[items] = tokenized.codes, tokenized.residuals
    books: dict[str, list[np.ndarray]] = {
        other: list(found.codebooks) if other == domain else identified.codebooks[ALL]  # type: ignore[arg-type]
        for other in dataset.domains
    }
    raw = item_codes(found, codes, dataset)
    raw.write(folder / "raw_codes.parquet")
    resolution = raw.resolve_with_cost(config.identifiers, residuals, books, run.seed)
    print(f"{name} {domain}: {resolution}", flush=True)
    return resolution.codes


def _changes(
    name: str, domain: str, history: Any, best_epoch: int, parameters: Parameters
) -> list[dict[str, Any]]:
    before = history[0].metrics
    after = next(record.metrics for record in history if record.epoch == best_epoch)
    return [
        {
            "method": name,
            "domain": domain,
            "metric": metric,
            "before": before[metric],
            "after": after[metric],
            "best_epoch": best_epoch,
            "trained": parameters.trained,
            "share": parameters.share,
        }
        for metric in before
    ]


def adapter_bytes(folder: Path) -> int:
    """Return how many bytes the weights in a folder take."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
