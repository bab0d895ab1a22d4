"""The generative rows of a run's table: changes to the run's config, with everything else equal.

LETTER, IDGenRec and similar rows change the tokenizer and identifiers, and keep the run's sizes, pairs and
budget. If the run's method is pre-trained and fine-tuned as a whole, their budget is that of its fine-tuning,
which is all its training on the target. The variants of GMC (Table 4) and UTGRec (Table 3) each omit one
part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from genrec_lab.codes import IdentifierConfig
from genrec_lab.models.recommenders.base import ITEM_MODELS
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.sequential.sasrec import SASRecConfig
from genrec_lab.models.tokenizers import TokenizerConfig
from genrec_lab.models.tokenizers.co_occurrence import CoOccurrenceConfig
from genrec_lab.models.tokenizers.letter import LetterConfig
from genrec_lab.models.tokenizers.residual_kmeans import ResidualKMeansConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.models.tokenizers.textual_ids import TextualIdsConfig
from genrec_lab.models.tokenizers.tree_network import TreeTokenizerConfig
from genrec_lab.presets import PresetError
from genrec_lab.presets.config import ItemRow, MethodConfig, changed
from genrec_lab.registry import did_you_mean
from genrec_lab.training import TrainingConfig

# A row of a table: a change to the run's config.
Change = Callable[[MethodConfig], MethodConfig]

_LETTER_TEMPERATURE = 0.7  # the paper tunes it; .7 to 1.0 are best on its data
_MOST_COLLABORATIVE_EPOCHS = 50  # there is no validation to stop it


def quantises_vectors(config: MethodConfig) -> RQVAEConfig | ResidualKMeansConfig:
    """Return the tokenizer config of the run's rows that quantise vectors residually, like TIGER."""
    own = config.tokenizer
    return own if isinstance(own, RQVAEConfig | ResidualKMeansConfig) else config.rqvae


def tiger_row(config: MethodConfig) -> MethodConfig:
    """TIGER: one tokenizer and one recommender per domain, an extra code, no L_dcl, 3 levels or fewer."""
    kept = quantises_vectors(config)
    tokenizer: dict[str, Any] = {"levels": min(3, kept.levels)}
    if isinstance(kept, RQVAEConfig):
        tokenizer["contrastive_weight"] = 0.0
    return changed(
        config,
        name="tiger",
        provenance=(
            f"TIGER (Rajput et al. 2023) with the sizes and the budget of {config.name} (its fine-tuning "
            "budget if it fine-tunes all weights), so that only the method differs."
        ),
        tokenizer=kept.model_copy(update=tokenizer),
        identifiers=IdentifierConfig(policy="extra_level"),
        **_a_domain_each(config),
    )


def tiger_multimodal_row(config: MethodConfig) -> MethodConfig:
    """TIGER_M of UTGRec's Table 2: TIGER on concatenated text and picture vectors."""
    content = config.content
    model = getattr(content, "picture_model", "efficientnet-lite0")
    return changed(
        tiger_row(config),
        name="tiger_multimodal",
        provenance=(
            "TIGER_M of UTGRec's Table 2: unit vectors of text and picture concatenated, then TIGER, with "
            f"the sizes and the budget of {config.name}. The paper uses vectors of CLIP or Qwen2-VL-2B, "
            f"whichever is better; here picture vectors are pooled features of {model}, zeros for an item "
            "without a picture."
        ),
        pictures=model,
    )


def letter_row(config: MethodConfig) -> MethodConfig:
    """LETTER: an RQ-VAE aligned with a SASRec, diverse codebooks, a temperature in the recommender's loss."""
    kept, budget = config.rqvae, config.collaborative.training
    if isinstance(config.tokenizer, RQVAEConfig):
        kept = config.tokenizer
    if "sasrec" in config.rows:
        budget = config.rows["sasrec"].training
    shared = {name: value for name, value in dict(kept).items() if name in LetterConfig.model_fields}
    # Ten clusters of a few codes each need 40 codes.
    clusters = max(1, min(10, kept.codebook_size // 4))
    tokenizer = LetterConfig(**(shared | {"kind": "letter", "clusters": clusters}))
    epochs = min(budget.epochs, _MOST_COLLABORATIVE_EPOCHS)
    return changed(
        config,
        name="letter",
        provenance=(
            f"LETTER (Wang et al. 2024): collaborative weight .02, diversity weight 1e-4 over {clusters} "
            f"constrained clusters per level, temperature {_LETTER_TEMPERATURE}, conflicts by Sinkhorn as in "
            "its code; our own SASRec, trained on the training part only, for as many epochs as "
            f"{config.name} gives its SASRec row, at most {_MOST_COLLABORATIVE_EPOCHS}. Codewords are "
            f"clustered again every 10 epochs, in its code every epoch. Sizes and budget as in {config.name}."
        ),
        tokenizer=tokenizer,
        collaborative={
            "model": SASRecConfig(width=tokenizer.dimension, feed_forward=4 * tokenizer.dimension),
            "training": budget.model_copy(update={"epochs": epochs}),
        },
        loss_temperature=_LETTER_TEMPERATURE,
        identifiers=IdentifierConfig(policy="sinkhorn"),
        **_a_domain_each(config),
    )


def p5_cid_row(config: MethodConfig) -> MethodConfig:
    """P5-CID: identifiers from the co-occurrence of items alone."""
    size = quantises_vectors(config).codebook_size
    return changed(
        config,
        name="p5_cid",
        provenance=(
            "P5-CID (Hua et al. 2023): recursive spectral clustering of the co-occurrence graph of the "
            f"training part, {min(20, size)} clusters each, until none has more than {size} items, then a "
            "number within the cluster. Its tokens are new ones and each cluster numbers its items from 0, "
            "as in its second way of indexing; each level has its own vocabulary. Ours: the T5 of "
            f"{config.name} with random initial weights instead of t5-small and prompts."
        ),
        tokenizer=CoOccurrenceConfig(clusters=min(20, size), leaf_size=size),
        identifiers=IdentifierConfig(policy="none"),
        **_a_domain_each(config),
    )


def idgenrec_row(config: MethodConfig) -> MethodConfig:
    """IDGenRec: a T5 writes ids of word pieces; its training alternates with that of a T5 reader."""
    body = config.recommender if isinstance(config.recommender, T5Config) else T5Config()
    small = quantises_vectors(config).codebook_size < 128  # a run of minutes, on the embedded data
    levels, tokens, vocabulary = (4, 32, 600) if small else (6, 64, 4000)
    epochs = max(1, min(10, config.training.epochs))
    naming = {
        "rounds": 1 if small else 3,
        "labels": TrainingConfig(epochs=epochs, batch_size=64),
        "generator": TrainingConfig(epochs=1, batch_size=32, learning_rate=1e-6),
        "recommender": TrainingConfig(epochs=min(2, epochs), batch_size=256),
        "max_history": 5,
        "per_user": 1,
    }
    return changed(
        config,
        name="idgenrec",
        provenance=(
            f"IDGenRec (Tan et al. 2024), values from its code: at most {levels} pieces per id (10 there), "
            "the first free one of 10 from diverse beam search, first the generator and then the recommender "
            f"trained, in {1 if small else 3} rounds (3 there). Ours: both are the T5 of {config.name} with "
            f"random initial weights and {vocabulary:,} word pieces learned from the texts, where its code "
            "has a T5 trained on tags of articles and t5-small (the preset 'idgenrec'); so ours first learns "
            "to write the distinctive words of each text. Learning rate of the generator 1e-6 (1e-8 there), "
            "one pair per user with 5 items of history in these rounds. No prompt around the history and no "
            "user id; an id that no penalty makes unique gets another last piece. Then the recommender "
            f"continues with the budget of {config.name}."
        ),
        tokenizer=TextualIdsConfig(levels=levels, text_tokens=tokens, vocabulary=vocabulary, body=body),
        recommender=body,
        naming=naming,
        identifiers=IdentifierConfig(policy="none"),
        **_a_domain_each(config),
    )


def gmc_row(config: MethodConfig) -> MethodConfig:
    """GMC: one domain-aware tokenizer and one recommender for all domains, adapted to each by LoRA."""
    kept = quantises_vectors(config)
    if isinstance(kept, RQVAEConfig) and not kept.contrastive_weight:
        kept = kept.model_copy(update={"contrastive_weight": RQVAEConfig().contrastive_weight})
    return changed(
        config,
        name="gmc",
        provenance=(
            f"GMC with the sizes and the budget of {config.name}: one tokenizer with L_dcl and one "
            "recommender over all domains of pre-training, then LoRA for each domain that is served."
        ),
        tokenizer=kept,
        codebooks="shared",
        recommenders="unified",
        adaptation=config.adaptation.model_copy(update={"kind": "lora"}),
        compare=(),
    )


def _a_domain_each(config: MethodConfig) -> dict[str, Any]:
    fields = {
        "codebooks": "separate",
        "recommenders": "separate",
        "adaptation": config.adaptation.model_copy(update={"kind": "none"}),
        "compare": (),
    }
    if config.adaptation.kind == "full":
        # The method learns a target in its fine-tuning, so rows trained only on the target get that budget
        # too.
        fields["training"] = config.adaptation.training
    return fields


@dataclass(frozen=True)
class Variant:
    """A row that is GMC or UTGRec without one of its parts.

    name: of the row. what: a sentence with its name in the paper's table. changes: changed settings, by
    dotted names. tokenizer: the kind of tokenizer that it needs, None for any.
    """

    name: str
    what: str
    changes: Mapping[str, Any]
    tokenizer: type[TokenizerConfig] | None = None

    def __call__(self, config: MethodConfig) -> MethodConfig:
        """Return the method without the part; raises PresetError for a tokenizer of another kind."""
        if self.tokenizer is not None and not isinstance(config.tokenizer, self.tokenizer):
            raise PresetError(
                f"{self.name} needs tokenizer.kind {self.tokenizer.model_fields['kind'].default!r}; "
                f"{config.name} has {config.tokenizer.kind!r}"
            )
        changes = dict(self.changes)
        if not changes.get("transfer.pretrain_tokenizer", True):
            # The tokenizer is trained for at least as many epochs as others are fine-tuned on the target.
            epochs = max(config.tokenizer_training.epochs, config.transfer.training.epochs)
            changes["tokenizer_training.epochs"] = epochs
        return changed(_with(config, changes), name=self.name, compare=())


_of_tree = partial(Variant, tokenizer=TreeTokenizerConfig)
# In the order of the papers' tables.
_VARIANTS = (
    Variant("gmc_separate_codebooks",
            "GMC Table 4 (1), w/o sharable codebook: one tokenizer and one recommender per domain, no "
            "transfer.",
            {"codebooks": "separate", "recommenders": "separate", "adaptation.kind": "none"}),
    Variant("gmc_separate_recommenders",
            "GMC Table 4 (2), w/o unified recommender: shared identifiers, one recommender per domain.",
            {"recommenders": "separate", "adaptation.kind": "none"}),
    Variant("gmc_without_dcl",
            "GMC Table 4 (3), w/o L_dcl: the tokenizer does not know the domains.",
            {"tokenizer.contrastive_weight": 0.0}, RQVAEConfig),
    Variant("gmc_without_lora",
            "GMC Table 4 (4), w/o lora finetuning: the unified recommender without adaptation.",
            {"adaptation.kind": "none"}),
    Variant("gmc_full_finetuning",
            "GMC Table 4 (5), finetune all parameters of the unified recommender for each domain.",
            {"adaptation.kind": "full"}),
    _of_tree("utgrec_without_tree",
             "UTGRec Table 3 (1), w/o TreeCode: a plain codebook for each level.",
             {"tokenizer.quantizer.structure": "levels"}),
    _of_tree("utgrec_without_alignment", "UTGRec Table 3 (2), w/o L_Ali.", {"tokenizer.mu": 0.0}),
    _of_tree("utgrec_without_cooccurrence_reconstruction",
             "UTGRec Table 3 (3), w/o L_Re.", {"tokenizer.eta": 0.0}),
    _of_tree("utgrec_without_tokenizer_finetuning",
             "UTGRec Table 3 (4), w/o FT(T): the pre-trained tokenizer encodes the target's items without "
             "fine-tuning.", {"transfer.tokenizer": "none"}),
    _of_tree("utgrec_full_finetuning",
             "UTGRec Table 3 (5), Full FT: E^r and E^f are fine-tuned too.", {"transfer.tokenizer": "full"}),
    _of_tree("utgrec_without_recommender_pretraining",
             "UTGRec Table 3 (6), w/o PT(R): only the tokenizer is pre-trained.",
             {"transfer.pretrain_recommender": False}),
    _of_tree("utgrec_without_pretraining",
             "UTGRec Table 3 (7), w/o PT: tokenizer and recommender learn from the target alone.",
             {"transfer.pretrain_tokenizer": False, "transfer.pretrain_recommender": False,
              "transfer.tokenizer": "none"}),
)  # fmt: skip
ABLATIONS = {variant.name: variant for variant in _VARIANTS}


def _with(part: Any, changes: dict[str, Any]) -> Any:
    """Return a config with some values replaced, each by its dotted name."""
    for key, value in changes.items():
        name, _, below = key.partition(".")
        new = _with(getattr(part, name), {below: value}) if below else value
        part = part.model_copy(update={name: new})
    return part


# None: a row that is not trained. Rows with a model over items are in MethodConfig.rows.
ROWS: dict[str, Change | None] = {
    "popularity": None,
    "tiger": tiger_row,
    "tiger_multimodal": tiger_multimodal_row,
    "letter": letter_row,
    "p5_cid": p5_cid_row,
    "idgenrec": idgenrec_row,
    "gmc": gmc_row,
    **ABLATIONS,
}


def methods(config: MethodConfig) -> dict[str, MethodConfig]:
    """Return the generative methods of a run by name: its own, then its comparisons, at its sizes.

    Includes rows that the data do not support; `lab.rows.generative_rows` leaves them out.
    """
    rows = {config.name: config} if config.own_row else {}
    base = config.model_copy(update={"own_row": True})
    for row in config.compare:
        if (change := ROWS.get(row)) is not None:
            rows[row] = change(base)
    return rows


def variants(config: MethodConfig) -> dict[str, MethodConfig]:
    """Return the rows of a run that omit one part of its method, in the papers' order.

    Empty for a preset that is not a row.
    """
    rows = methods(config)
    return {name: rows[name] for name in ABLATIONS if name in rows} if config.own_row else {}


def item_rows(config: MethodConfig) -> dict[str, ItemRow]:
    """Return a run's rows with a model over items, by name."""
    return {name: config.rows[name] for name in config.compare if name in config.rows}


def in_words(config: MethodConfig, row: str) -> str:
    """Return what a row of a run's table is; empty for a class without a docstring or an unknown row."""
    if config.own_row and row == config.name:
        return config.provenance
    if row in ABLATIONS:
        return ABLATIONS[row].what
    if row in config.rows:
        described: object = ITEM_MODELS.find(config.rows[row].model.kind)
    else:
        described = ROWS.get(row) or (ITEM_MODELS.find(row) if row in ITEM_MODELS else None)
    return (inspect.getdoc(described) or "").partition("\n\n")[0].replace("\n", " ") if described else ""


def check_names(config: MethodConfig) -> None:
    """Raise PresetError if `compare` names an unknown row, or a row over items has another row's name."""
    known = sorted({*ROWS, *config.rows})
    for row in config.compare:
        if row not in known:
            raise PresetError(f"compare names {row!r}{did_you_mean(row, known)}; expected some of {known}")
    if not (config.own_row or config.compare):
        raise PresetError(
            "own_row is false and compare names no row, so nothing would be trained; set "
            f"overrides={{'compare': […]}} to some of {known}"
        )
    if taken := [row for row in config.rows if row in ROWS or row == config.name]:
        raise PresetError(f"rows has {taken[0]!r}, the name of another row; choose another name")
