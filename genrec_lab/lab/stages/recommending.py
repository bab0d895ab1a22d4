"""Stage 05: every row's recommenders, before any adaptation to a domain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from genrec_lab.codes import ItemCodes
from genrec_lab.data.batches import PairBatches, StretchBatches
from genrec_lab.decoding import Ranked
from genrec_lab.evaluation import require_unique
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
    curves,
    part_of,
    read_histories,
    training_part,
    validator,
    write_history,
)
from genrec_lab.lab.store import Run, Stage
from genrec_lab.models.popularity import Popularity
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.models.recommenders.kinds import learns_in_one_pass, new_recommender, read_recommender
from genrec_lab.models.recommenders.recommender import Recommender
from genrec_lab.models.sequential.item_model import ItemModel
from genrec_lab.models.sequential.kinds import MODELS
from genrec_lab.models.tokenizers.textual_ids import learnt_recommender
from genrec_lab.presets import MethodConfig, item_rows
from genrec_lab.training import TrainingConfig, TrainingResult, autocast, fit

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
    return new_recommender(load_identified(run, method).codes, config.recommender)


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
    return MODELS[kind].load(run.read_stage(RECOMMENDING) / row / domain)


def load_history(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read the epoch records of every row, by row and scope."""
    return read_histories(run.read_stage(RECOMMENDING))


def popularity_of(data: Prepared, domain: str) -> Popularity:
    """Count the training part of a domain; nothing is stored, for counting is as fast as reading."""
    return Popularity(data.dataset.domain_items(domain), training_part(data, (domain,))[0])


def lessons(
    config: MethodConfig, data: Prepared, domains: Sequence[str], training: TrainingConfig
) -> PairBatches | StretchBatches:
    """Return what a method's recommender learns from in some domains: pairs, or places of sequences."""
    if learns_in_one_pass(config.recommender):
        return _stretches(config, training_part(data, domains)[0], training)
    pairs = part_of(data.split.train, domains)
    return PairBatches(pairs, training.batch_size, per_user=config.pairs.per_user)


def _stretches(config: MethodConfig, sequences: list[list[int]], training: TrainingConfig) -> StretchBatches:
    pairs = config.pairs
    return StretchBatches(
        sequences, training.batch_size, pairs.max_history, per_user=pairs.stretches_per_user
    )


def generative_validator(
    model: CodeRecommender, users: pl.DataFrame, config: MethodConfig, most: int | None, seed: int
) -> Callable[[], dict[str, float]]:
    """Return the validation of a recommender, with the beams and the precision that the config names."""

    def recommend(rows: pl.DataFrame) -> Ranked:
        histories, names = rows["history"].to_list(), rows["domain"].to_list()
        with autocast(torch.device(model.item_tokens.device.type), config.decoding.precision):
            return model.recommend(histories, 10, names, beams=config.decoding.validation_beams)

    return validator(recommend, users, most, seed)


def _train_generative(
    run: Run, data: Prepared, name: str, config: MethodConfig, stage: Stage, watch: Watch | None
) -> None:
    codes = load_identified(run, name).codes
    require_unique(codes)
    learnt = learns_from(config, data.dataset.domains)
    for scope, domains in scopes(learnt, separate=config.recommenders == "separate").items():
        torch.manual_seed(run.seed)
        model = new_recommender(codes, config.recommender)
        model.temperature = config.loss_temperature
        if (written := learnt_recommender(tokenizer_folder(run, name, scope))) is not None:
            model.body.load_state_dict(written)
        valid = part_of(data.split.valid, domains)
        before = _learn_in_one_pass(run, data, name, config, scope, domains, model, stage, watch)
        result = fit(
            model,
            lessons(config, data, domains, config.training),
            config.training,
            validate=generative_validator(model, valid, config, config.training.validation_users, run.seed),
            callbacks=[curves(watch, f"{name} {scope}", run.seed)],
            checkpoints=stage.scratch / name / scope,
            seed=run.seed,
        )
        model.save(stage.folder / name / scope)
        write_history(_followed(before, result), stage.folder / name / scope)


def with_weights_of(before: CodeRecommender, codes: ItemCodes, config: MethodConfig) -> CodeRecommender:
    """A recommender over other identifiers with a trained one's weights.

    Raises ValueError where the identifiers have not as many tokens.
    """
    model = new_recommender(codes, config.recommender)
    if before.codes.vocabulary_size != codes.vocabulary_size:
        raise ValueError(
            f"{config.name}: the pre-trained recommender knows {before.codes.vocabulary_size} tokens, the "
            f"target's identifiers have {codes.vocabulary_size}; a transfer needs a conflict policy that "
            f"adds no level, identifiers.policy is {config.identifiers.policy!r}"
        )
    model.body.load_state_dict(before.body.state_dict())
    return model


def _take_over(run: Run, name: str, config: MethodConfig, start: Run, stage: Stage) -> None:
    """Give the recommender that another run pre-trained this run's identifiers; its history comes with it."""
    of_start = start.read_stage(RECOMMENDING) / start.config.name / ALL
    model = with_weights_of(read_recommender(of_start), load_identified(run, name).codes, config)
    model.temperature = config.loss_temperature
    model.save(stage.folder / name / ALL)
    shutil.copy(of_start / HISTORY_FILE, stage.folder / name / ALL / HISTORY_FILE)


def _learn_in_one_pass(
    run: Run,
    data: Prepared,
    name: str,
    config: MethodConfig,
    scope: str,
    domains: tuple[str, ...],
    model: CodeRecommender,
    stage: Stage,
    watch: Watch | None,
) -> TrainingResult | None:
    """Train the epochs in which the encoder reads no later items; None where the config has none."""
    training = config.one_pass
    if training is None or not isinstance(model, Recommender):
        return None
    sequences, _ = training_part(data, domains)
    valid = part_of(data.split.valid, domains)
    model.reads_whole = False
    result = fit(
        model,
        _stretches(config, sequences, training),
        training,
        validate=generative_validator(model, valid, config, training.validation_users, run.seed),
        callbacks=[curves(watch, f"{name} {scope}, one pass", run.seed)],
        checkpoints=stage.scratch / name / f"{scope}, one pass",
        seed=run.seed,
    )
    model.reads_whole = True
    return result


def _followed(before: TrainingResult | None, result: TrainingResult) -> TrainingResult:
    """Join the histories of two phases; the second's epochs are counted on."""
    if before is None:
        return result
    done = len(before.history)
    return replace(
        result,
        history=before.history + tuple(replace(one, epoch=one.epoch + done) for one in result.history),
        best_epoch=result.best_epoch + done,
        seconds=before.seconds + result.seconds,
    )
