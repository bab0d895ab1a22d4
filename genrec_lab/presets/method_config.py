"""One method, whole, from text to ranked items; and the changes that make one row of a table out of another.

The rows that GMC is compared with, its five variants (Table 4) among them, are changes to a config, so that
in a comparison everything else is equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    model_validator,
)

from genrec_lab.codes import IdentifierConfig
from genrec_lab.data.batches import PairsConfig
from genrec_lab.encoders.compact import CompactConfig
from genrec_lab.encoders.text import TextConfig
from genrec_lab.models.recommenders.adapters import LoRAConfig
from genrec_lab.models.recommenders.base import ITEM_MODELS, RECOMMENDERS
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.tokenizers import AnyTokenizerConfig, Tokenizer, find_tokenizer
from genrec_lab.models.tokenizers.letter import CollaborativeConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.models.tokenizers.textual_ids import NamingConfig
from genrec_lab.models.tokenizers.tree import EncoderConfig
from genrec_lab.models.tokenizers.tree_network import TreeTokenizerConfig
from genrec_lab.presets.errors import PresetError
from genrec_lab.presets.generative_rows import (
    gmc_fields,
    idgenrec_fields,
    letter_fields,
    p5_cid_fields,
    tiger_fields,
    tiger_multimodal_fields,
)
from genrec_lab.presets.tuning import TuningConfig
from genrec_lab.registry import ComponentConfig, component_config, did_you_mean
from genrec_lab.training import TrainingConfig

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
# YAML and JSON know lists only.
_Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


_Recommender = Annotated[
    SerializeAsAny[ComponentConfig], PlainValidator(partial(component_config, RECOMMENDERS))
]
_ItemModel = Annotated[
    SerializeAsAny[ComponentConfig], PlainValidator(partial(component_config, ITEM_MODELS))
]


class AdaptationConfig(BaseModel):
    """What is trained for each domain after the unified recommender (GMC 3.5)."""

    model_config = _STRICT

    kind: Literal["none", "lora", "full"] = "lora"  # full: all weights, GMC Table 4 row (5)
    lora: LoRAConfig = LoRAConfig()
    training: TrainingConfig = TrainingConfig()


class TransferConfig(BaseModel):
    """Pre-training on some domains and transfer to the others (UTGRec 2.4)."""

    model_config = _STRICT

    # The domains that items are recommended in. The others are for pre-training, in rows that pre-train.
    # None named: all domains are both.
    targets: _Names = ()
    # Another run, by name or folder, that pre-trained UTGRec's tokenizer and recommender (its stages 02 and
    # 05): both are taken from there, and the data need no domains to pre-train on.
    start: str | None = None
    # True: rows that pre-train do so on the targets as well, as in GMC's comparison (5.1.2).
    pretrain_on_targets: bool = False
    pretrain_tokenizer: bool = True  # False: UTGRec Table 3, variant 7
    pretrain_recommender: bool = True  # False: variants 6 and 7
    # What of the tokenizer is fine-tuned: all but E (2.4.2), all (variant 5), nothing (variant 4).
    tokenizer: Literal["projections", "full", "none"] = "projections"
    training: TrainingConfig = TrainingConfig()  # of the tokenizer's fine-tuning


class DecodingConfig(BaseModel):
    """How wide the beams are; wider finds more of the true best items and costs as much more."""

    model_config = _STRICT

    validation_beams: int = Field(10, ge=10)
    test_beams: int = Field(20, ge=10)  # GMC 5.1.4
    precision: Literal["auto", "fp32", "bf16"] = "fp32"  # scores are always normalised in fp32


class ItemRow(BaseModel):
    """A row with a model over items (`genrec_lab.models.sequential`), and how long it is trained."""

    model_config = _STRICT

    model: _ItemModel
    training: TrainingConfig = TrainingConfig()
    pretraining: TrainingConfig = TrainingConfig()  # of models that have such a phase
    tuning: TuningConfig = TuningConfig()


# What the validation of every row measures.
MONITORS = ("recall@10", "ndcg@10")


class MethodConfig(BaseModel):
    """One method from text to ranked items, whole."""

    model_config = _STRICT

    name: str
    provenance: str  # where the values come from
    tuning: TuningConfig = TuningConfig()  # what was searched before these values were settled on
    own_row: bool = True  # False: the preset is no row itself, a run has those of `compare` alone
    text: TextConfig = TextConfig()
    # What stands beside the text vectors of tokenizers that read vectors: pooled features of pictures.
    pictures: Literal["none", "efficientnet-lite0", "pixels"] = "none"
    tokenizer: AnyTokenizerConfig = RQVAEConfig()
    # Of tokenizers of kind "tree": what reads an item's text and picture, and how both are trained.
    content: EncoderConfig = CompactConfig()
    tokenizer_training: TrainingConfig = TrainingConfig()
    # Beside a tree: the tokenizer of the rows that quantise vectors, as TIGER's.
    rqvae: RQVAEConfig = RQVAEConfig()
    collaborative: CollaborativeConfig = CollaborativeConfig()  # of tokenizers of kind "letter"
    naming: NamingConfig = NamingConfig()  # of tokenizers of kind "idgen"
    transfer: TransferConfig = TransferConfig()
    identifiers: IdentifierConfig = IdentifierConfig()
    codebooks: Literal["shared", "separate"] = "shared"  # separate: one tokenizer a domain
    recommender: _Recommender = T5Config()
    recommenders: Literal["unified", "separate"] = "unified"  # separate: one recommender a domain
    pairs: PairsConfig = PairsConfig()
    # Before `training`: epochs that learn every place of a sequence in one pass, with an encoder whose items
    # do not read later ones. A batch has so many items to learn. None leaves them out, as the papers do.
    one_pass: TrainingConfig | None = None
    training: TrainingConfig = TrainingConfig()
    # Divides the logits of the recommender's loss; LETTER ranks better with less than 1.
    loss_temperature: float = Field(1.0, gt=0)
    adaptation: AdaptationConfig = AdaptationConfig()
    decoding: DecodingConfig = DecodingConfig()
    # Folder of identifiers that other tokenizers gave these items, `*.index.json`, to compare with in
    # notebook 04; ${VAR} allowed. It changes no result.
    reference_codes: str = ""
    compare: _Names = ()  # further rows of the table, from ROWS or `rows`, trained in the same run
    rows: dict[str, ItemRow] = {}  # the rows with a model over items, by name

    @model_validator(mode="after")
    def _fits_together(self) -> MethodConfig:
        if self.recommenders == "separate" and self.adaptation.kind != "none":
            raise ValueError(
                f"adaptation.kind is {self.adaptation.kind!r} with recommenders 'separate', which know one "
                "domain already; set adaptation.kind to 'none'"
            )
        if self.adaptation.kind != "none" and not hasattr(RECOMMENDERS.find(self.recommender.kind), "adapt"):
            raise ValueError(
                f"adaptation.kind is {self.adaptation.kind!r}, and the recommender "
                f"{self.recommender.kind!r} has no `adapt`; set adaptation.kind to 'none'"
            )
        if self.codebooks == "separate" and self.recommenders == "unified":
            raise ValueError(
                "codebooks are 'separate' with a 'unified' recommender: equal codes would mean different "
                "things; set recommenders to 'separate' and adaptation.kind to 'none'"
            )
        if self.one_pass is not None and getattr(self.recommender, "learns_in_one_pass", False):
            raise ValueError(
                "one_pass is given, and the recommender learns in one pass anyhow; leave one_pass out, or "
                "set recommender.reads to 'whole'"
            )
        if self.transfer.start is not None and not self.transfer.targets:
            raise ValueError(
                f"transfer.start is {self.transfer.start!r} without transfer.targets; name the domains that "
                "are to be served"
            )
        if self.tokenizer_class.transfers and self.codebooks == "separate":
            raise ValueError(
                f"codebooks are 'separate' with a tokenizer of kind {self.tokenizer.kind!r}, which is one "
                "for all domains; for one of the target alone set transfer.pretrain_tokenizer to false"
            )
        self.tokenizer_class.check_method(self.tokenizer, dict(self))
        for name, training in self._trainings().items():
            if training.monitor not in MONITORS:
                raise ValueError(f"{name}.monitor is {training.monitor!r}; expected one of {list(MONITORS)}")
        if self.own_row and self.name in self.compare:
            raise ValueError(f"compare names {self.name!r}, which is the run's own row; leave it out")
        for row in self.compare:
            known = sorted({*ROWS, *self.rows})
            if row not in known:
                raise ValueError(f"compare names {row!r}{did_you_mean(row, known)}; expected some of {known}")
        if not (self.own_row or self.compare):
            raise ValueError(
                "own_row is false and compare names no row, so nothing would be trained; set "
                f"overrides={{'compare': […]}} to some of {sorted({*ROWS, *self.rows})}"
            )
        if taken := [row for row in self.rows if row in ROWS or row == self.name]:
            raise ValueError(f"rows has {taken[0]!r}, the name of another row; choose another name")
        return self

    @property
    def tokenizer_class(self) -> type[Tokenizer]:
        """The class of the method's tokenizer."""
        return find_tokenizer(self.tokenizer.kind)

    def new_tokenizer(self) -> Tokenizer:
        """Return the method's tokenizer, not yet fitted, with the settings that its class takes."""
        return self.tokenizer_class(self.tokenizer, **self._tokenizer_settings())

    def load_tokenizer(self, folder: Path) -> Tokenizer:
        """Read a tokenizer of the method's that was saved in a folder."""
        return self.tokenizer_class.load(folder, **self._tokenizer_settings())

    def _tokenizer_settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.tokenizer_class.settings}

    def _trainings(self) -> dict[str, TrainingConfig]:
        trainings = {
            "training": self.training,
            "adaptation.training": self.adaptation.training,
            **{f"rows.{name}.training": row.training for name, row in self.rows.items()},
        }
        return trainings if self.one_pass is None else {"one_pass": self.one_pass, **trainings}


# A row of a table: a change to a config, or a model of its own kind.
Change = Callable[[MethodConfig], MethodConfig]


def changed(config: MethodConfig, **fields: Any) -> MethodConfig:
    """Return the config with whole fields replaced, validated anew."""
    return MethodConfig.model_validate({**dict(config), **fields})


def _without_adaptation(config: MethodConfig) -> AdaptationConfig:
    return config.adaptation.model_copy(update={"kind": "none"})


def _row(fields: Callable[[MethodConfig], dict[str, Any]]) -> Change:
    return lambda config: changed(config, **fields(config))


def separate_codebooks(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (1), w/o sharable codebook: a tokenizer and a recommender a domain, no transfer."""
    return changed(
        config,
        name="gmc_separate_codebooks",
        codebooks="separate",
        recommenders="separate",
        adaptation=_without_adaptation(config),
        compare=(),
    )


def separate_recommenders(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (2), w/o unified recommender: shared identifiers, a recommender a domain."""
    return changed(
        config,
        name="gmc_separate_recommenders",
        recommenders="separate",
        adaptation=_without_adaptation(config),
        compare=(),
    )


def without_dcl(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (3), w/o L_dcl: the tokenizer does not know the domains."""
    if not isinstance(config.tokenizer, RQVAEConfig):
        raise PresetError(
            f"gmc_without_dcl needs tokenizer.kind 'rqvae'; {config.name} has {config.tokenizer.kind!r}"
        )
    tokenizer = config.tokenizer.model_copy(update={"contrastive_weight": 0.0})
    return changed(config, name="gmc_without_dcl", tokenizer=tokenizer, compare=())


def without_lora(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (4), w/o lora finetuning: the unified recommender as it is."""
    return changed(config, name="gmc_without_lora", adaptation=_without_adaptation(config), compare=())


def full_finetuning(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (5), finetune all parameters of the unified recommender for each domain."""
    adaptation = config.adaptation.model_copy(update={"kind": "full"})
    return changed(config, name="gmc_full_finetuning", adaptation=adaptation, compare=())


def _tree(config: MethodConfig, row: str) -> TreeTokenizerConfig:
    if not isinstance(config.tokenizer, TreeTokenizerConfig):
        raise PresetError(f"{row} needs tokenizer.kind 'tree'; {config.name} has {config.tokenizer.kind!r}")
    return config.tokenizer


def _with_transfer(config: MethodConfig, row: str, **fields: Any) -> MethodConfig:
    _tree(config, row)
    return changed(config, name=row, transfer=config.transfer.model_copy(update=fields), compare=())


def utgrec_without_tree(config: MethodConfig) -> MethodConfig:
    """UTGRec Table 3 (1), w/o TreeCode: plain codebooks of each level's own."""
    tree = _tree(config, "utgrec_without_tree")
    plain = tree.quantizer.model_copy(update={"structure": "levels"})
    tokenizer = tree.model_copy(update={"quantizer": plain})
    return changed(config, name="utgrec_without_tree", tokenizer=tokenizer, compare=())


def utgrec_without_alignment(config: MethodConfig) -> MethodConfig:
    """UTGRec Table 3 (2), w/o L_Ali."""
    tokenizer = _tree(config, "utgrec_without_alignment").model_copy(update={"mu": 0.0})
    return changed(config, name="utgrec_without_alignment", tokenizer=tokenizer, compare=())


def utgrec_without_cooccurrence_reconstruction(config: MethodConfig) -> MethodConfig:
    """UTGRec Table 3 (3), w/o L_Re."""
    row = "utgrec_without_cooccurrence_reconstruction"
    return changed(config, name=row, tokenizer=_tree(config, row).model_copy(update={"eta": 0.0}), compare=())


def utgrec_without_tokenizer_finetuning(config: MethodConfig) -> MethodConfig:
    """UTGRec Table 3 (4), w/o FT(T): the pre-trained tokenizer names the target's items as it is."""
    return _with_transfer(config, "utgrec_without_tokenizer_finetuning", tokenizer="none")


def utgrec_full_finetuning(config: MethodConfig) -> MethodConfig:
    """UTGRec Table 3 (5), Full FT: E^r and E^f are fine-tuned too."""
    return _with_transfer(config, "utgrec_full_finetuning", tokenizer="full")


def utgrec_without_recommender_pretraining(config: MethodConfig) -> MethodConfig:
    """UTGRec Table 3 (6), w/o PT(R): only the tokenizer is pre-trained."""
    return _with_transfer(config, "utgrec_without_recommender_pretraining", pretrain_recommender=False)


def utgrec_without_pretraining(config: MethodConfig) -> MethodConfig:
    """UTGRec Table 3 (7), w/o PT: tokenizer and recommender learn from the target alone."""
    return _with_transfer(
        config,
        "utgrec_without_pretraining",
        pretrain_tokenizer=False,
        pretrain_recommender=False,
        tokenizer="none",
    )


# Rows that are GMC (Table 4) or UTGRec (Table 3) without one of its parts, in the tables' order.
ABLATIONS: dict[str, Change] = {
    "gmc_separate_codebooks": separate_codebooks,
    "gmc_separate_recommenders": separate_recommenders,
    "gmc_without_dcl": without_dcl,
    "gmc_without_lora": without_lora,
    "gmc_full_finetuning": full_finetuning,
    "utgrec_without_tree": utgrec_without_tree,
    "utgrec_without_alignment": utgrec_without_alignment,
    "utgrec_without_cooccurrence_reconstruction": utgrec_without_cooccurrence_reconstruction,
    "utgrec_without_tokenizer_finetuning": utgrec_without_tokenizer_finetuning,
    "utgrec_full_finetuning": utgrec_full_finetuning,
    "utgrec_without_recommender_pretraining": utgrec_without_recommender_pretraining,
    "utgrec_without_pretraining": utgrec_without_pretraining,
}

# A row of None is neither generative nor trained. Rows with a model over items are in MethodConfig.rows.
ROWS: dict[str, Change | None] = {
    "popularity": None,
    "tiger": _row(tiger_fields),
    "tiger_multimodal": _row(tiger_multimodal_fields),
    "letter": _row(letter_fields),
    "p5_cid": _row(p5_cid_fields),
    "idgenrec": _row(idgenrec_fields),
    "gmc": _row(gmc_fields),
    **ABLATIONS,
}


def methods(config: MethodConfig) -> dict[str, MethodConfig]:
    """Return the generative methods of a run by name: its own, then those it compares with, at its sizes.

    A row that the data cannot feed is among them; `run.stages.rows.generative_rows` leaves it out.
    """
    rows = {config.name: config} if config.own_row else {}
    base = config.model_copy(update={"own_row": True})
    for row in config.compare:
        if (change := ROWS.get(row)) is not None:
            rows[row] = change(base)
    return rows


def variants(config: MethodConfig) -> dict[str, MethodConfig]:
    """Return the rows of a run that are its own method without one of its parts, in the papers' order.

    Empty for a preset that is no row itself.
    """
    rows = methods(config)
    return {name: rows[name] for name in ABLATIONS if name in rows} if config.own_row else {}


def item_rows(config: MethodConfig) -> dict[str, ItemRow]:
    """Return the rows with a model over items that a run compares with, by name."""
    return {name: config.rows[name] for name in config.compare if name in config.rows}
